"""The pages of the docs: what they show runs, their links lead somewhere, and their pictures are fresh."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pictures as made
import pytest
import yaml

import textsiam
from textsiam.config.run import read_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
# Their blocks are run by tests of their own.
_OWN = ("extending", "images", "integrations", "question_index", "serving", "verification")
_RELEASE = os.environ.get("TEXTSIAM_RELEASE") == "all"


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.S | re.M)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in _OWN and blocks(page, "python")])
def test_the_python_of_a_page_runs(page, minilm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks(page, "python"):
        exec(compile(block, f"docs/{page}.md", "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in _OWN and blocks(page, "yaml")])
def test_the_yaml_of_a_page_is_a_config(page, tmp_path):
    for n, block in enumerate(blocks(page, "yaml")):
        path = tmp_path / f"{n}.yaml"
        path.write_text(block)
        assert isinstance(yaml.safe_load(block), dict)
        read_config([str(path)])


def tutorial(page):
    """Return the commands of a tutorial that are run in a test, as printed."""
    lines = [line.split("  #")[0].strip() for block in blocks(page, "bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("textsiam")]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["your_pairs", "start", "your_forum"])
def test_a_tutorial_succeeds_word_for_word(page, minilm, tmp_path):
    if page != "your_pairs" and not _RELEASE:
        pytest.skip("minutes long: make test-release runs it")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    assert len(tutorial(page)) >= 3
    for line in tutorial(page):
        command = [sys.executable, "-m", "textsiam.cli", *shlex.split(line)[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_every_public_name_is_in_the_reference():
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    named = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)", pages, re.M)}
    assert set(textsiam.__all__) <= named


def test_the_pictures_are_of_these_files():
    noted = json.loads((made.PICTURES / "sources.json").read_text())
    stale = [name for name, (_, patterns) in made.MADE.items() if noted.get(name) != made.digest(patterns)]
    assert not stale, "make pictures, and look at them"


def test_the_pictures_are_small_and_shown():
    files = [path for path in made.PICTURES.iterdir() if path.suffix != ".json"]
    assert {path.name for path in files} >= set(made.MADE)
    shown = "\n".join([*PAGES.values(), (ROOT / "README.md").read_text(encoding="utf-8")])
    for path in files:
        assert path.stat().st_size <= made.LARGEST, path.name
        assert f"pictures/{path.name})" in shown, path.name
        if path.suffix == ".svg":
            assert "http" not in path.read_text(encoding="utf-8").replace("http://www.w3.org/", ""), path.name


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site."""
    pytest.importorskip("mkdocstrings", reason="the extra 'docs' is not installed")
    folder = tmp_path_factory.mktemp("pages") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    """Where the site is served, as its search wants it."""
    files = partial(type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}), directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.skipif(not _RELEASE, reason="minutes long: make test-release runs it")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_on_the_site_and_it_fits(site, address, browser, axe_violations, width, scheme):
    """With TEXTSIAM_SCREENSHOTS, screenshots of all pages are left in that folder."""
    found, shots = {}, os.environ.get("TEXTSIAM_SCREENSHOTS")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    names = sorted(str(path.relative_to(site)) for path in site.rglob("*.html") if path.name != "404.html")
    for name in names:
        page.goto(f"{address}/{name}")
        page.wait_for_selector("nav.md-code__nav[aria-label]" if page.query_selector("pre > code") else "body")
        if shots:
            page.screenshot(path=Path(shots) / f"{width}-{name.replace('/', '-')}.png", full_page=True)
        wide = page.evaluate("document.documentElement.scrollWidth")
        if problems := [*axe_violations(page), *([f"{wide} pixels wide"] if wide > width else [])]:
            found[name] = problems
    context.close()
    assert len(names) > len(PAGES)
    assert found == {}


@pytest.mark.slow
def test_the_site_builds_and_asks_for_nothing_outside(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        html = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe|link)[^>]+(?:src|href)="?(https?://[^">]+)', html), page.name
        assert "doctest" not in html, page.name  # an example is shown as one
        for target in re.findall(r'<(?:script|img|a|link)[^>]+(?:src|href)="([^"#?]+)', html):
            if not re.match(r"[a-z]+:", target) and page.name != "404.html":
                assert (page.parent / target).exists(), f"{page.name}: {target}"
