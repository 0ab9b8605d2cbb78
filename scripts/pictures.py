"""Make the pictures of README and docs from real runs: `make pictures`, after `make demo`.

    python scripts/pictures.py                      # all
    python scripts/pictures.py page-light report    # some

Screenshots come from headless Chromium, curves from the run in runs/quickstart, the terminal from rich.
docs/pictures/sources.json holds a digest of what each picture shows; a test asks for new pictures where that changed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
RUN = ROOT / "runs" / "quickstart"
LARGEST = 150_000  # bytes of a picture
_PAGE = ("textsiam/serving/page_files/*",)
_SVG = ("textsiam/evaluation/report/svg.py", "textsiam/data/samples/*.tsv", "configs/quickstart.yaml")
_LABELS = "benchmarks/results/labels.json"
_COLOURS = {
    "before": "#8a8d91",
    "after": "#0d9488",
    "duplicates": "#0d9488",
    "others": "#d1495b",
    "probability": "#d97706",
    "ours": "#d1495b",
    "uniform": "#2e86ab",
    "random": "#8a8d91",
    "uncertain": "#edae49",
}
_CHROMIUM = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def digest(patterns: tuple[str, ...]) -> str:
    """Return a digest of the files of the project that the patterns name."""
    found = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()):
        found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def precision_recall() -> str:
    """Return the curves of the packaged MiniLM and of the twin of the run, on the test pairs of the run."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    from textsiam import Twin, read_pairs
    from textsiam.evaluation.report.svg import Axis, Plot, thin

    pairs = read_pairs(RUN / "test.tsv")
    plot = Plot(Axis.unit("recall"), Axis.unit("precision"), ident="pr", title="Precision and recall",
                description="On the test pairs of the sample forum, before and after training on others.")  # fmt: skip
    names = {}
    for kind, model in (("before", "all-MiniLM-L6-v2"), ("after", str(RUN / "model"))):
        scores = Twin.from_pretrained(model).similarity(pairs.left_texts, pairs.right_texts)
        precision, recall, _ = precision_recall_curve(pairs.labels, scores)
        plot.line(*thin(recall[::-1], precision[::-1]), kind)
        names[kind] = f"{kind} training, AP {100 * average_precision_score(pairs.labels, scores):.1f}"
    return _finished(plot.svg(), names, at=(60, 170))


def decision() -> str:
    """Return the scores of duplicates and of others among the test pairs of the run, and the probability of a score."""
    from textsiam import Twin, read_pairs
    from textsiam.evaluation.report.svg import Axis, Plot

    pairs = read_pairs(RUN / "test.tsv")
    twin = Twin.from_pretrained(RUN / "model")
    assert twin.decision is not None
    scores = twin.similarity(pairs.left_texts, pairs.right_texts)
    edges = np.linspace(-0.2, 1, 41)
    plot = Plot(Axis.fitted("score (cosine)", -0.2, 1), Axis.unit("share of the pairs × 5; probability"), ident="de",
                title="From a score to a verdict",
                description="Duplicates and others overlap; the probability rises with the score.")  # fmt: skip
    for kind, label in (("others", 0), ("duplicates", 1)):
        mine = scores[pairs.labels == label]
        plot.steps(edges, np.minimum(1, 5 * np.histogram(mine, edges)[0] / len(mine)), kind)
    xs = np.linspace(-0.2, 1, 200)
    plot.line(xs, twin.decision.probability(xs.astype(np.float32)), "probability")
    plot.rule(twin.decision.threshold, "threshold")
    return _finished(plot.svg(), {kind: kind for kind in ("duplicates", "others", "probability")}, at=(60, 44))


def labels() -> str:
    """Return how large a share of the duplicates answers certify, by each way that benchmarks/labels.py measures."""
    from textsiam.evaluation.report.svg import Axis, Plot

    found = json.loads((ROOT / _LABELS).read_text())["ways"]["certified_recall"]
    names = {
        "ours": "textsiam label",
        "uniform": "oracle: uniform in the best set",
        "random": "random draws",
        "uncertain": "uncertainty sampling",
    }
    top = max(max(quantiles[1]) for quantiles in found.values())
    plot = Plot(Axis.fitted("answers", 0, 300), Axis.fitted("recall of the certified set", 0, top), ident="ways",
                title="What answers certify on the sample forum at P = 0.55",
                description="Median recall of the certified set after so many answers, by each way.")  # fmt: skip
    for kind in names:
        plot.line(10 * np.arange(31), found[kind][1], kind)
    return _finished(plot.svg(), names, at=(60, 44))


def _finished(svg: str, names: dict[str, str], at: tuple[int, int]) -> str:
    """Return a chart of the report as a file of its own, with a legend, for light and dark pages."""
    style = ".line{fill:none;stroke-width:2}text{font:11px sans-serif;fill:#6b7280}"
    style += ".rule{stroke:#6b7280;stroke-dasharray:4 3}.gridline,.axis{fill:none;stroke:#9ca3af55}"
    for kind in names:
        colour = _COLOURS[kind]
        style += f".{kind}{{stroke:{colour}}}.area.{kind}{{fill:{colour}22;stroke:none}}"
    legend = "".join(f'<text x="{at[0]}" y="{at[1] + 15 * n}" style="fill:{_COLOURS[kind]}">{name}</text>'
                     for n, (kind, name) in enumerate(names.items()))  # fmt: skip
    opened = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return opened.replace("</svg>", f"<style>{style}</style>{legend}</svg>") + "\n"


def terminal() -> str:
    """Return the last command of `make demo` and what it says, as a terminal shows it."""
    from rich.console import Console
    from rich.text import Text

    short = ["textsiam", "flag", "runs/quickstart/model", "runs/quickstart/test.tsv", "--labels",
             "runs/quickstart/labels.tsv", "--limit", "4"]  # fmt: skip
    command = [sys.executable, "-m", "textsiam.cli", *short[1:]]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    console = Console(record=True, width=112, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), (" ".join(short), "bold")))
    console.print(Text.from_ansi((run.stdout + run.stderr).strip()))
    # Rich's own frame loads a font from elsewhere.
    return _without_fonts(console.export_svg(title="textsiam flag"))


def _without_fonts(svg: str) -> str:
    svg = re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->", "", svg, flags=re.S)
    return re.sub(r"font-family: [^;]*;", "font-family: ui-monospace, Menlo, Consolas, monospace;", svg)


@contextmanager
def _chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=_CHROMIUM)
        yield browser
        browser.close()


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serve the pairs that the twin of the run suspects among its test questions; yields the address of their page."""
    import uvicorn

    from textsiam import Twin
    from textsiam.search.index.memory import MemoryIndex
    from textsiam.search.ingest import index_model
    from textsiam.serving.app import create_app
    from textsiam.serving.limits import ServerSettings
    from textsiam.serving.page.reviews import Reviews
    from textsiam.serving.page.suspects import read_suspects

    twin = Twin.from_pretrained(RUN / "model")
    flag = [sys.executable, "-m", "textsiam.cli", "flag", str(RUN / "model"), str(RUN / "test.tsv")]
    flag += ["--threshold", "0.6", "--output", str(folder / "flagged.tsv")]
    subprocess.run(flag, check=True, capture_output=True)
    index = MemoryIndex(index_model(twin))
    reviews = Reviews(folder / "reviews.sqlite")
    reviews.add(list(read_suspects(folder / "flagged.tsv"))[::25])  # some of each probability
    app = create_app(twin, index, reviews=reviews, settings=ServerSettings())
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/ui"
    finally:
        server.should_exit = True
        thread.join(20)


def page(scheme: str, width: int, height: int) -> bytes:
    """Return a screenshot of the moderators' page."""
    with tempfile.TemporaryDirectory() as folder, _served(Path(folder)) as address, _chromium() as browser:
        shown = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        shown.goto(address)
        shown.get_by_text("likely the same").first.wait_for()
        return shown.screenshot()


def report() -> bytes:
    """Return a screenshot of the report of the run."""
    with _chromium() as browser:
        shown = browser.new_page(viewport={"width": 1280, "height": 1100}, color_scheme="light")
        shown.goto((RUN / "report.html").as_uri())
        return shown.screenshot()


# What makes a picture, and the files that it shows.
MADE: dict[str, tuple[Callable[[], str | bytes], tuple[str, ...]]] = {
    "precision-recall.svg": (precision_recall, _SVG),
    "decision.svg": (decision, _SVG),
    "labels.svg": (labels, (_LABELS,)),
    "terminal.svg": (terminal, ("textsiam/commands/flagged.py",)),
    "report.png": (report, ("textsiam/evaluation/report/*",)),
    "page-light.png": (lambda: page("light", 1280, 800), _PAGE),
    "page-dark.png": (lambda: page("dark", 1280, 800), _PAGE),
    "page-phone.png": (lambda: page("light", 390, 780), _PAGE),
}


def _compressed(png: bytes) -> bytes:
    """Return a screenshot in at most 256 colours."""
    from PIL import Image

    small = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def main(names: list[str]) -> None:
    """Make pictures, and note what they were made of."""
    sources = PICTURES / "sources.json"
    noted = json.loads(sources.read_text()) if sources.exists() else {}
    for name, (make, patterns) in MADE.items():
        if names and name not in names and Path(name).stem not in names:
            continue
        made = make()
        data = made.encode() if isinstance(made, str) else _compressed(made)
        if len(data) > LARGEST:
            raise SystemExit(f"{name} has {len(data):,} bytes, more than {LARGEST:,}")
        (PICTURES / name).write_bytes(data)
        noted[name] = digest(patterns)
        sources.write_text(json.dumps(noted, indent=1, sort_keys=True) + "\n")
        print(f"docs/pictures/{name}  {len(data):,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
