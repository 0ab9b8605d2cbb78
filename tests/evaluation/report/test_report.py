from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest

from textsiam.evaluation.binary import binary_report, calibration_error
from textsiam.evaluation.pairs import PairEvaluation
from textsiam.evaluation.report import write_report
from textsiam.evaluation.report.examples import marked_differences
from textsiam.evaluation.report.plots import number, reliability_bins, threshold_curve, training_figures
from textsiam.evaluation.slices import slice_reports

VOID = {"meta"}
SECTIONS = ["measures", "scores", "curves", "training", "slices", "mistakes"]


class Page(HTMLParser):
    """Reads a page strictly: every tag is closed in order."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.ids, self.links, self.texts = Counter(), [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.note(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def note(self, tag, attrs):
        self.tags[tag] += 1
        attributes = dict(attrs)
        assert len(attributes) == len(attrs), f"an attribute of <{tag}> stands twice"
        assert not any(name.startswith("on") for name in attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes[name] for name in ("src", "href", "xlink:href", "srcset") if name in attributes]

    def text(self, tag=None):
        return " ".join(text for inside, text in self.texts if tag in (None, inside))


def make(name="trained", *, n=400, gap=0.4, left=None, right=None, saturated=False, seed=0):
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 5 < 2).astype(np.int8)
    scores = 0.3 + gap * labels + 0.2 * rng.normal(size=n)
    scores = 0.98 + 0.001 * scores if saturated else scores
    threshold = float(np.median(scores))
    probabilities = 1 / (1 + np.exp(-(scores - threshold) / scores.std()))
    left = left or [f"How do I cook rice for {i} people?" for i in range(n)]
    right = right or [f"How do I cook rice for {i + 1} guests?" for i in range(n)]
    return PairEvaluation(
        name=name,
        left=left,
        right=right,
        labels=labels,
        similarities=scores,
        probabilities=probabilities,
        threshold=threshold,
        report=binary_report(scores, labels, threshold=threshold, probabilities=probabilities, bootstrap=30),
        slices=slice_reports(left, right, scores, labels, threshold=threshold, seen={left[0]}),
    )


HISTORY = [{"step": step, "loss": 1 / step, "learning_rate": 1e-5 * step} for step in range(1, 60)]
HISTORY += [{"step": step, "validation_ap": 0.5 + step / 200, "pairs_per_second": 80.0} for step in (20, 40, 59)]


@pytest.fixture(scope="module")
def evaluations():
    return [make("zero-shot", gap=0.1), make("trained", gap=0.4)]


@pytest.fixture(scope="module")
def html(evaluations, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    facts = {"model": "my-twin", "data": "pairs.tsv"}
    assert write_report(path, evaluations, history=HISTORY, facts=facts) == path
    return path.read_text(encoding="utf-8")


def test_the_page_parses_and_holds_every_section(html):
    page = Page(html)
    assert [ident for ident in page.ids if ident in SECTIONS] == SECTIONS
    assert len(page.ids) == len(set(page.ids))
    assert [link for link in page.links if link.startswith("#")] == [f"#{section}" for section in SECTIONS]
    assert page.tags["svg"] - html.count('class="swatch"') == 2 + 3 + 4  # scores, curves, training
    assert page.tags["desc"] == 9
    for word in ("my-twin", "pairs.tsv", "zero-shot", "trained", "Average precision", "Calibration error"):
        assert word in page.text()
    assert html.startswith("<!DOCTYPE html>")


def test_the_page_asks_for_nothing(html):
    assert "default-src 'none'" in html
    assert not re.search(r"https?:|url\(|@import|<link|<img|<iframe|<script ", html)


def test_the_page_runs_its_own_script_alone(html):
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in html


def test_measures_and_slices_can_be_saved(html, evaluations):
    files = dict(re.findall(r'download="(.*?)" href="data:text/csv;base64,(.*?)"', html))
    measures, slices = (
        list(csv.DictReader(io.StringIO(base64.b64decode(files[name]).decode())))
        for name in ("measures.csv", "slices.csv")
    )
    found = {(row["measure"], row["model"]): row for row in measures}
    for evaluation in evaluations:
        precision = evaluation.report.average_precision
        row = found["Average precision", evaluation.name]
        assert [float(row[key]) for key in ("value", "low", "high")] == [precision.value, precision.low, precision.high]
    expected = [(part.name, each.name, str(part.n)) for each in evaluations for part in each.slices]
    assert [(row["slice"], row["model"], row["pairs"]) for row in slices] == expected


def test_the_measures_are_those_of_the_reports(html, evaluations):
    text = Page(html).text()
    for evaluation in evaluations:
        report = evaluation.report
        for estimate in (report.average_precision, report.accuracy, report.f1, report.calibration_error):
            assert f"{estimate.value:.3f}" in text
            assert f"[{estimate.low:.3f}\N{EN DASH}{estimate.high:.3f}]" in text
    before, after = (evaluation.report.average_precision.value for evaluation in evaluations)
    assert f"+{after - before:.3f}" in text
    assert "their intervals of average precision do not overlap" in text


def test_a_smaller_error_is_better(tmp_path, evaluations):
    first, last = evaluations
    swapped = [dataclasses.replace(last, name="a"), dataclasses.replace(first, name="b")]
    html = write_report(tmp_path / "r.html", swapped).read_text(encoding="utf-8")

    def verdict(measure):
        return re.search(rf'scope="row">{measure}.*?class="(better|worse|same)"', html)[1]

    assert last.report.log_loss < first.report.log_loss
    assert (verdict("Log loss"), verdict("Average precision")) == ("worse", "worse")


def test_equal_input_gives_equal_bytes(html, evaluations, tmp_path):
    facts = {"model": "my-twin", "data": "pairs.tsv"}
    again = write_report(tmp_path / "again.html", evaluations, history=HISTORY, facts=facts)
    assert again.read_bytes() == html.encode()


def test_every_text_is_escaped(tmp_path):
    evil = "</style></title></td><script>alert(\"x\" + 'y')</script> & {braces} $title \ud800 \x00"
    n = 60
    evaluation = make(evil, n=n, left=[evil] * n, right=[f"{evil} <b onclick='x'>more</b>"] * n)
    row = evaluation.slices[0]
    evaluation = dataclasses.replace(evaluation, slices=(dataclasses.replace(row, name=evil),))
    other = dataclasses.replace(evaluation, name=f"{evil} again")
    path = write_report(tmp_path / "r.html", [other, evaluation], facts={evil: evil}, title=evil)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert (page.tags["script"], page.tags["b onclick"]) == (1, 0)  # the page's own
    assert html.count("<script") == 1
    assert "\x00" not in html
    assert "&lt;script&gt;alert(&quot;x&quot; + &#x27;y&#x27;)" in html
    assert "$title" in page.text("h1")  # the template is filled once
    assert sum("</style>" in text for inside, text in page.texts if inside == "p") >= 2


def test_differences_are_marked(html):
    page = Page(html)
    assert "guests?" in page.text("mark")
    assert "rice" not in page.text("mark")


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("the same words", "The same, words!", ("the same words", "The same, words!")),
        ("is it 10 % off", "is it 20 % off", ("is it <mark>10</mark> % off", "is it <mark>20</mark> % off")),
        ("a b c d", "a b x y c d", ("a b c d", "a b <mark>x y</mark> c d")),
        ("can I go", "can I not go", ("can I go", "can I <mark>not</mark> go")),
        ("one two three", "four five six", ("one two three", "four five six")),
        ("a < b", "a > b", ("a <mark>&lt;</mark> b", "a <mark>&gt;</mark> b")),
        ("  spaced \n out ", "spaced out", ("spaced out", "spaced out")),
    ],
)
def test_marked_differences(left, right, expected):
    assert marked_differences(left, right) == expected


def test_the_page_stays_small(tmp_path):
    n = 20_000
    long = ["word <&> " * 2000 + str(i) for i in range(50)]
    base = make(n=n, left=[f"left {i}" for i in range(n)], right=[f"right {i}" for i in range(n)])
    large = dataclasses.replace(base, left=long * (n // 50), right=long[::-1] * (n // 50))
    history = [{"step": step, "loss": np.sin(step), "validation_ap": 0.5} for step in range(100_000)]
    names = ("a", "b", "c", "d")
    evaluations = [dataclasses.replace(large, name=name) for name in names]
    path = write_report(tmp_path / "r.html", evaluations, history=history)
    assert path.stat().st_size < 500_000


def test_an_evaluation_alone_is_not_compared(tmp_path):
    html = write_report(tmp_path / "r.html", [make()]).read_text(encoding="utf-8")
    page = Page(html)
    assert "change" not in page.text("th")
    assert "against" not in page.text("p")
    assert "training" not in page.ids
    assert 'class="bar"' not in html


def test_a_saturated_twin_raises_the_alarm(tmp_path, html):
    assert "saturated" not in html
    page = Page(write_report(tmp_path / "r.html", [make(saturated=True)]).read_text(encoding="utf-8"))
    assert "trained: the scores are saturated." in page.text("b")


def test_missing_figures_are_dashes(tmp_path):
    evaluation = make()
    report = dataclasses.replace(
        evaluation.report, calibration_error=None, log_loss=float("inf"), brier=None, precision=float("nan")
    )
    evaluation = dataclasses.replace(evaluation, report=report, slices=())
    html = write_report(tmp_path / "r.html", [evaluation]).read_text(encoding="utf-8")
    page = Page(html)
    assert "slices" not in page.ids
    assert "nan" not in re.sub(r"<style>.*</style>", "", html, flags=re.DOTALL)
    assert "∞" in page.text("b")


def test_a_faultless_twin_has_no_mistakes(tmp_path):
    evaluation = make()
    perfect = dataclasses.replace(evaluation, similarities=evaluation.labels.astype(float), threshold=0.5)
    page = Page(write_report(tmp_path / "r.html", [perfect]).read_text(encoding="utf-8"))
    assert page.text("p").count("None.") == 2


def test_worst_mistakes_come_first(html, evaluations):
    last = evaluations[-1]
    worst = last.worst_false_positives(1)[0]
    first = re.search(r'class="mistakes">.*?<td class="n">(.*?)</td>', html)[1]
    assert first == number(worst.similarity)


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(path, [make()])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="at least one evaluation"):
        write_report(tmp_path / "r.html", [])
    with pytest.raises(ValueError, match="distinct names"):
        write_report(tmp_path / "r.html", [make(), make()])
    with pytest.raises(ValueError, match="history row 1 has no 'step'"):
        write_report(tmp_path / "r.html", [make()], history=[{"step": 1, "loss": 2.0}, {"loss": 1.0}])
    assert list(tmp_path.iterdir()) == []


def test_threshold_curve_by_hand():
    curve = threshold_curve(np.array([0.9, 0.8, 0.8, 0.1]), np.array([1, 1, 0, 0]))
    assert curve.thresholds.tolist() == [0.9, 0.8, 0.1]
    assert curve.recall.tolist() == [0.5, 1, 1]
    assert curve.precision == pytest.approx([1, 2 / 3, 1 / 2])
    assert curve.false_positive_rate.tolist() == [0, 0.5, 1]


def test_reliability_shows_the_calibration_error():
    rng = np.random.default_rng(0)
    probabilities = np.round(rng.random(1000), 2)  # many ties
    labels = (rng.random(1000) < probabilities**2).astype(np.int8)
    predicted, observed, sizes = reliability_bins(probabilities, labels)
    assert sizes.sum() == 1000
    error = (sizes * np.abs(observed - predicted)).sum() / 1000
    assert error == pytest.approx(calibration_error(probabilities, labels))


def test_history_is_drawn_by_step_without_what_is_not_finite():
    rows = [{"step": 3, "loss": 0.1}, {"step": 1, "loss": 0.9}, {"step": 2, "loss": float("nan")}]
    (figure,) = training_figures([*rows, {"step": 4, "loss": None}, {"step": 5, "epoch": 1}])
    assert "from 0.9 at step 1 to 0.1 at step 3" in figure
    assert "Left out: 1 that were not finite" in figure
    assert training_figures([]) == []


def test_long_histories_are_averaged():
    rows = [{"step": step, "loss": float(step % 2)} for step in range(10_000)]
    (figure,) = training_figures(rows)
    assert len(figure) < 15_000
    assert "mean of 42 steps" in figure
