"""`flag --report` and `report`: the files that people look at, and what stands in them."""

from __future__ import annotations

import base64
import csv
import io
import re

import numpy as np
import pytest
from PIL import Image

from textsiam import Twin
from textsiam.decision.decision import fit_decision
from textsiam.evaluation.report import flagged
from textsiam.inference.scratch import scratch_image_encoder
from textsiam.models.ensemble import open_scorer

QUESTIONS = """id\ttext
a\tHow do I boil an egg?
b\tHow do I boil <one> egg?
c\tWhy is the sky blue?
d\tHow do I boil an egg?
"""


@pytest.fixture
def model(twin, tmp_path):
    rng = np.random.default_rng(0)
    scores = np.r_[rng.normal(0.97, 0.02, 200), rng.normal(0.5, 0.1, 200)].astype(np.float32)
    twin.decision = fit_decision(scores, [1] * 200 + [0] * 200)
    return twin.save_pretrained(tmp_path / "model")


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.tsv"
    path.write_text(QUESTIONS)
    return path


def saved(html, name):
    (data,) = re.findall(f'download="{name}" href="data:text/csv;base64,(.*?)"', html)
    return list(csv.DictReader(io.StringIO(base64.b64decode(data).decode())))


def test_clusters_of_texts_are_cards(textsiam, model, questions, tmp_path):
    report = tmp_path / "new" / "sheet.html"
    found = textsiam("flag", model, questions, "--report", report, "--json")
    html = report.read_text()
    (cluster,) = found.json["clusters"]
    assert [row["id"] for row in saved(html, "clusters.csv")] == cluster
    assert html.count('<li id="cluster-') == 1
    assert "How do I boil <mark>&lt;one&gt;</mark> egg?" in html
    assert f"<h3>{len(cluster)} questions</h3>" in html
    assert f"threshold {found.json['threshold']:.3f}" in html
    assert re.search(r"<p>About \d+% of them are", html)
    assert "<p>The decision was " in html
    assert "1 questions are copies" in html
    assert not re.search(r"https?:|<link|<iframe|<script ", html)


def test_pairs_are_counted_by_score_and_none_is_left_out(textsiam, model, questions, tmp_path):
    scores = [0.9, 0.95, 0.99, 1.0, 1.0000001]
    counts = flagged.score_counts([np.array(scores[:2]), np.array(scores[2:])], 0.9, 1.0)
    assert counts.sum() == len(scores)
    assert (counts[0], counts[20], counts[-1]) == (1, 1, 2)
    assert flagged.score_counts([np.array([0.5])], 0.5, 0.5).sum() == 1
    report = tmp_path / "none.html"
    assert textsiam("flag", model, questions, "--threshold", 1.5, "--report", report).status == 0
    assert "No pair reaches the threshold" in report.read_text()


def test_more_clusters_than_are_shown_are_counted(textsiam, model, tmp_path, monkeypatch):
    monkeypatch.setattr(flagged, "CLUSTERS", 2)
    path = tmp_path / "questions.txt"
    path.write_text("\n".join(f"{word} {word} {word}?" for word in ("bread", "cactus", "guitar", "eggs") for _ in "ab"))
    report, output = tmp_path / "sheet.html", tmp_path / "near.tsv"
    textsiam("flag", model, path, "--threshold", 0.9999, "--output", output, "--report", report)
    html = report.read_text()
    assert "The surest 2 of 4; 2 are left out here. All pairs are in near.tsv." in html
    assert html.count('<li id="cluster-') == 2


def test_images_are_a_contact_sheet_of_bounded_size(textsiam, tmp_path):
    twin = Twin(scratch_image_encoder(size=16, widths=(8,), depths=(1,)))
    model, photos = twin.save_pretrained(tmp_path / "images"), tmp_path / "photos"
    photos.mkdir()
    for i in range(12):
        Image.new("RGB", (900, 300), (200, 40, 40)).save(photos / f"{i:02d}.png")
    (photos / "broken.png").write_bytes(b"no image")
    report = tmp_path / "sheet.html"
    said = textsiam("flag", model, photos, "--threshold", 0.999, "--output", tmp_path / "near.tsv", "--report", report,
                    "--on-bad-row", "skip")  # fmt: skip
    assert f"report written to {report}" in said.err
    html = report.read_text()
    shown = re.findall(r'<img src="data:image/jpeg;base64,(.*?)"', html)
    assert len(shown) == flagged._MEMBERS
    assert Image.open(io.BytesIO(base64.b64decode(shown[0]))).size == (160, 53)
    assert "and 4 more" in html
    assert "1 images could not be opened, and are in no pair: broken.png" in html
    assert len(saved(html, "clusters.csv")) == 12


PAIRS = """question1\tquestion2\tis_duplicate
Is it red?\tIs it not red?\t0
Is it red?\tIs that red?\t1
Why 3 eggs?\tWhy 4 eggs?\t0
Why 3 eggs?\tWhy three eggs?\t1
"""


def test_several_models_stand_side_by_side(textsiam, model, tmp_path):
    (tmp_path / "pairs.tsv").write_text(PAIRS)
    strict = open_scorer(str(model), sides=True)
    strict.decision = strict.decision.at_threshold(0.999)
    other = strict.save_pretrained(tmp_path / "strict")
    report = tmp_path / "report.html"
    found = textsiam("report", model, other, tmp_path / "pairs.tsv", "--output", report, "--name", "usual", "--name",
                     "strict", "--json")  # fmt: skip
    html = report.read_text()
    for evaluation in found.json["evaluations"]:
        rows = [row for row in saved(html, "measures.csv") if row["model"] == evaluation["name"]]
        accuracy = next(row for row in rows if row["measure"] == "Accuracy")
        alone = textsiam(
            "evaluate", {"usual": model, "strict": other}[evaluation["name"]], tmp_path / "pairs.tsv", "--json"
        )
        assert float(accuracy["value"]) == pytest.approx(alone.json["report"]["accuracy"]["value"], abs=1e-6)
    assert [each["name"] for each in found.json["evaluations"]] == ["usual", "strict"]
    assert 'class="slices sortable"' in html


def test_what_cannot_be_compared_is_refused(textsiam, model, twin, tmp_path):
    (tmp_path / "pairs.tsv").write_text(PAIRS)
    report, pairs = tmp_path / "report.html", tmp_path / "pairs.tsv"
    many = textsiam("report", *[model] * 7, pairs, "--output", report)
    assert (many.status, "up to 6 models, got 7" in many.err) == (2, True)
    same = textsiam("report", model, model, pairs, "--output", report)
    assert (same.status, "a name of its own for each of 2 models" in same.err) == (2, True)
    twin.decision = None
    bare = twin.save_pretrained(tmp_path / "bare")
    none = textsiam("report", model, bare, pairs, "--output", report)
    assert (none.status, "no decision" in none.err) == (1, True)
    assert textsiam("flag", model, pairs, "--report", tmp_path / "sheet.pdf").status == 1
    assert not report.exists()
