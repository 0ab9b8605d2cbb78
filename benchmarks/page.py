"""The moderator's page beside the same flow in Gradio, both in Chromium: what is loaded, and how long a key takes.

    python benchmarks/page.py run --gradio-python PYTHON     # of an environment with gradio, uvicorn and sqlalchemy
    python benchmarks/page.py table                          # Markdown from results/page.json

Both work on a store of 5,000 pairs of their own, on the loopback. A fresh browser profile opens the page five times;
then a key accepts, rejects and takes back. The time of a key is from its press until the next pair stands in the page,
measured in the page. Requests to other servers are counted until two seconds after the first pair.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

from quality import facts

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "page.json"
OPENED, PRESSED = 5, 30
SETTLED = 2000  # milliseconds after which all that a page asks for has been asked for
# For each page: what shows the verdict, and the text of the first question.
PAGES = {"textsiam": ("#verdict", "#text1"), "gradio": ("#verdict h2", "#first")}
NEXT = """async ([key, selector]) => {
  const text = () => document.querySelector(selector)?.innerText ?? "";
  const before = text(), start = performance.now();
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  while (text() === before) {
    if (performance.now() - start > 5000) return null;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  return performance.now() - start;
}"""


def suspects():
    """Return 5,000 made-up pairs, which differ in a word or two."""
    from textsiam.serving.page.reviews import Suspect

    things = ["bread", "a cactus", "a bicycle", "my dog", "the carpet", "a guitar", "the sky", "a knife", "my router"]
    for k in range(5000):
        one = f"How do I look after {things[k % 9]} number {k} in winter?"
        two = f"How should I look after {things[k % 9]} number {k} in the winter?"
        share = (k * 7919 % 5000) / 5000
        yield Suspect(text1=one, text2=two, id1=f"a{k}", id2=f"b{k}", similarity=share, probability=share)


def serve(location, curve, port):
    """Serve the page of textsiam over a random twin: no route that it asks runs the model."""
    import numpy as np
    import uvicorn

    from textsiam.decision.decision import fit_decision
    from textsiam.inference.scratch import scratch_text_encoder
    from textsiam.models.twin import Twin
    from textsiam.serving.app import create_app
    from textsiam.serving.page.reviews import Reviews
    from textsiam.serving.page.routes import curve_of

    rng = np.random.default_rng(0)
    twin = Twin(scratch_text_encoder(["one", "two", "three"], vocabulary=300, hidden=32, max_tokens=32, device="cpu"))
    scores = np.r_[rng.normal(0.66, 0.12, 3000), rng.normal(0.4, 0.13, 3000)]
    twin.decision = fit_decision(scores.astype(np.float32), [1] * 3000 + [0] * 3000, prior=0.3)
    Path(curve).write_text(curve_of(twin.decision).model_dump_json(), encoding="utf-8")
    uvicorn.run(create_app(twin, reviews=Reviews(location)), port=port, log_level="warning")


def started(command, port, environment):
    """Start a server and wait until it answers."""
    process = subprocess.Popen(command, env=environment)
    for _ in range(600):
        try:
            urlopen(f"http://127.0.0.1:{port}/ui", timeout=5).read()
            return process
        except OSError:
            if process.poll() is not None:
                raise SystemExit(f"{command[1]} ended with {process.returncode}") from None
            time.sleep(0.2)
    raise SystemExit(f"{command[1]} does not answer")


def opened(browser, url, selectors, width=1280):
    """Open a page in a fresh profile: the tab, seconds to the first pair, bytes, requests and foreign addresses."""
    verdict, text = selectors
    context = browser.new_context(viewport={"width": width, "height": 860})
    page = context.new_page()
    asked, received = [], []
    page.on("request", lambda request: asked.append(request.url))
    tools = context.new_cdp_session(page)
    tools.send("Network.enable")
    tools.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))
    start = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_selector(verdict)
    page.wait_for_function(
        "selector => document.querySelector(selector)?.innerText.includes('How')", arg=text, polling=20
    )
    seconds = time.perf_counter() - start
    first = {"seconds": seconds, "bytes": sum(received), "requests": len([u for u in asked if u.startswith("http")])}
    page.wait_for_timeout(SETTLED)  # Gradio keeps a stream open, so that its network is never idle
    real = [urlsplit(u).hostname for u in asked if u.startswith("http")]
    first |= {"bytes_idle": sum(received), "requests_idle": len(real),
              "foreign": sorted({host for host in real if host != "127.0.0.1"})}  # fmt: skip
    return context, page, first


def measured(browser, url, selectors):
    """Measure one page."""
    firsts = []
    for _ in range(OPENED):
        context, page, first = opened(browser, url, selectors)
        firsts.append(first)
        if len(firsts) < OPENED:
            context.close()
    found = {"opened": firsts}
    for name, key in (("accept", "a"), ("reject", "r"), ("undo", "u")):
        found[name] = [page.evaluate(NEXT, [key, selectors[1]]) for _ in range(PRESSED)]
    context.close()
    context, page, _ = opened(browser, url, selectors, width=390)
    found["overflow_390"] = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    context.close()
    return found


def run(gradio_python):
    """Measure both pages and keep what was found."""
    from playwright.sync_api import sync_playwright

    from textsiam.serving.page.reviews import Reviews

    folder = Path(tempfile.mkdtemp())
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "GRADIO_ANALYTICS_ENABLED": "False"}
    curve, servers, ports = folder / "curve.json", [], {}
    try:
        for name in PAGES:
            reviews = Reviews(folder / f"{name}.sqlite")
            reviews.add(suspects())
            reviews.close()
            with socket.create_server(("127.0.0.1", 0)) as free:
                ports[name] = free.getsockname()[1]
            here = [str(folder / f"{name}.sqlite"), str(curve), str(ports[name])]
            own = [sys.executable, __file__, "serve", *here]
            peer = [gradio_python, str(HERE / "gradio_page.py"), *here]
            servers.append(started(own if name == "textsiam" else peer, ports[name], environment))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            rows = {name: measured(browser, f"http://127.0.0.1:{ports[name]}/ui", PAGES[name]) for name in PAGES}
            version = browser.version
            browser.close()
    finally:
        for server in servers:
            server.terminate()
            server.wait()
        shutil.rmtree(folder)
    gradio = subprocess.run([gradio_python, "-c", "import gradio; print(gradio.__version__)"],
                            capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
    result = {"machine": facts(), "chromium": version, "gradio": gradio, "pages": rows}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def table():
    """Print the results as Markdown."""
    pages = json.loads(RESULTS.read_text(encoding="utf-8"))["pages"]
    lines = {"": list(pages)}
    middle = {name: {key: statistics.median(one[key] for one in page["opened"])
                     for key in ("seconds", "bytes", "requests", "bytes_idle")}
              for name, page in pages.items()}  # fmt: skip
    lines["time to the first pair"] = [f"{1000 * middle[name]['seconds']:.0f} ms" for name in pages]
    lines["loaded until then"] = [f"{middle[name]['bytes'] / 1000:,.0f} kB" for name in pages]
    lines["requests until then"] = [f"{middle[name]['requests']:.0f}" for name in pages]
    lines["other servers asked"] = [", ".join(page["opened"][0]["foreign"]) or "none" for page in pages.values()]
    for name in ("accept", "reject", "undo"):
        row = []
        for page in pages.values():
            times = sorted(one for one in page[name] if one is not None)
            lost = len(page[name]) - len(times)
            if not times:
                row.append("never")
                continue
            row.append(f"{statistics.median(times):.0f} ms, at most {times[-1]:.0f}" + f"; {lost} lost" * bool(lost))
        lines[f"key to the next pair: {name}"] = row
    lines["wider than a screen of 390 pixels by"] = [f"{page['overflow_390']} px" for page in pages.values()]
    for k, (name, row) in enumerate(lines.items()):
        print(f"| {name} | {' | '.join(row)} |")
        if k == 0:
            print("|---|---|---|")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("run").add_argument("--gradio-python", required=True)
    commands.add_parser("table")
    server = commands.add_parser("serve")
    for argument in ("location", "curve", "port"):
        server.add_argument(argument)
    asked = parser.parse_args()
    if asked.command == "run":
        run(asked.gradio_python)
    elif asked.command == "serve":
        serve(asked.location, asked.curve, int(asked.port))
    else:
        table()
