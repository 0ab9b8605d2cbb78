"""Reports in Chromium: tables are sorted and saved, nothing is asked for, and everybody can read them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright", reason="the package 'playwright' is not installed")

from textsiam.evaluation.binary import binary_report
from textsiam.evaluation.pairs import PairEvaluation
from textsiam.evaluation.report import write_report
from textsiam.evaluation.report.flagged import ClusterCard, FlaggedPage, score_counts, write_flagged_report
from textsiam.evaluation.slices import slice_reports

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A report of six models."""
    rng, n = np.random.default_rng(0), 300
    labels = (np.arange(n) % 2).astype(np.int8)
    left = [f"How do I cook {'no ' if i % 3 else ''}rice for {i} people?" for i in range(n)]
    right = [f"How do I cook rice for {i + i % 2} guests?" for i in range(n)]
    found = []
    for k in range(6):
        scores = 0.3 + 0.1 * k * labels + 0.1 * rng.normal(size=n)
        chances = 1 / (1 + np.exp(-8 * (scores - 0.5)))
        report = binary_report(scores, labels, threshold=0.5, probabilities=chances, bootstrap=20)
        slices = slice_reports(left, right, scores, labels, threshold=0.5, seen=set())
        found.append(PairEvaluation(f"model {k}", left, right, labels, scores, chances, 0.5, report, slices))
    return write_report(tmp_path_factory.mktemp("report") / "report.html", found, facts={"data": "pairs.tsv"})


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    """A contact sheet."""
    picture = io.BytesIO()
    Image.new("RGB", (160, 90), (200, 80, 20)).save(picture, "JPEG")
    names = [f"photos/a-rather-long-name-of-a-picture-{i}.jpg" for i in range(12)]
    cards = [ClusterCard(names[:size], names[:size], 0.9, 0.8) for size in (2, 3, 12)]
    scores = score_counts([np.linspace(0.8, 1, 500)], 0.8, 1.0)
    page = FlaggedPage(
        cards, 7, scores, 0.8, 1.0, ["About 93% of them are expected to be right."], "images", "near.tsv"
    )
    path = tmp_path_factory.mktemp("sheet") / "sheet.html"
    return write_flagged_report(path, page, facts={"model": "twin"}, thumbnail=lambda name: picture.getvalue())


@pytest.fixture
def opened(browser):
    """Return what opens a file, and fails where that asks for anything or complains."""
    said, contexts = [], []

    def open_file(path, **options):
        contexts.append(context := browser.new_context(**options))
        page = context.new_page()
        page.on("console", lambda line: said.append(line.text))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto(f"file://{path}")
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert said == []


def test_a_click_sorts_slices_and_another_one_turns_them(opened, compared):
    page = opened(compared)
    column = "[...document.querySelectorAll('#slices tbody tr')].map((row) => Number(row.children[10].textContent))"
    before = page.evaluate(column)
    head = page.locator("#slices th[data-column='10'] button")
    head.click()
    assert page.evaluate(column) == sorted(before, reverse=True)
    assert page.locator("#slices [aria-sort]").get_attribute("aria-sort") == "descending"
    head.click()
    assert page.evaluate(column) == sorted(before)
    names = "[...document.querySelectorAll('#slices tbody th')].map((head) => head.textContent)"
    page.locator("#slices th[data-column='0'] button").click()
    assert page.evaluate(names) == sorted(page.evaluate(names), reverse=True)
    assert page.locator("#slices [aria-sort]").count() == 1


def test_tables_are_saved(opened, sheet):
    page = opened(sheet)
    with page.expect_download() as saving:
        page.get_by_text("Download clusters.csv").click()
    rows = Path(saving.value.path()).read_text().splitlines()
    assert rows[:2] == ["cluster,id,text", "1,photos/a-rather-long-name-of-a-picture-0.jpg,"]
    assert len(rows) == 1 + 2 + 3 + 12


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_reports_fit_and_axe_finds_nothing(opened, compared, sheet, axe_violations, width, scheme):
    for path in (compared, sheet):
        page = opened(path, viewport={"width": width, "height": 844}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert axe_violations(page) == []
