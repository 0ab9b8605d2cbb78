"""The files of the moderator's page as the server sends them: whole, typed, and under a strict policy."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from textsiam.decision.certificate import Certificate
from textsiam.decision.decision import fit_decision
from textsiam.models.twin import Twin

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from textsiam.serving.page.routes import curve_of

FOLDER = Path(__file__).parents[2] / "textsiam/serving/page_files"
FILES = sorted(path.name for path in FOLDER.iterdir())
KINDS = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_sent_as_what_it_is(client, name):
    answer = client.get(f"/ui/files/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == f"{KINDS[Path(name).suffix]}; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.content == (FOLDER / name).read_bytes()


def test_files_do_not_count_as_requests(serve):
    client = serve(requests_per_minute=2)
    assert {client.get(f"/ui/files/{name}").status_code for name in FILES} == {200}
    assert [client.get("/ui/api/queue").status_code for _ in range(3)] == [200, 200, 429]


def test_the_policy_allows_the_server_alone(client):
    policy = client.get("/ui").headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert {rules[kind] for kind in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert rules["frame-ancestors"] == "'none'"
    assert rules["trusted-types"] == "'none'"
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    "name", ["../page.py", "..%2fpage.py", "%2e%2e/page.py", "nothing.js", "page_files", ".", "js"]
)
def test_nothing_else_is_sent(client, name):
    assert client.get(f"/ui/files/{name}").status_code == 404


def test_the_page_and_its_scripts_name_files_that_are_there():
    named = {page.name for page in FOLDER.glob("*.html")}
    for page in FOLDER.glob("*.html"):
        named |= set(re.findall(r'(?:src|href)="(?:ui/)?files/([^"]+)"', page.read_text(encoding="utf-8")))
    for script in FOLDER.glob("*.js"):
        named |= set(re.findall(r'from "\./([^"]+)"', script.read_text(encoding="utf-8")))
    assert named == set(FILES)


@pytest.mark.parametrize("name", ["index.html", "label.html"])
def test_a_page_has_nothing_inline_and_names_no_other_server(name):
    page = (FOLDER / name).read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", page)
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), (
            path.name
        )


def test_the_curve_is_what_each_threshold_costs():
    rng = np.random.default_rng(3)
    labels = np.r_[np.ones(150), np.zeros(250)]
    scores = np.r_[rng.normal(0.7, 0.1, 150), rng.normal(0.4, 0.15, 250)].astype(np.float32)
    decision = fit_decision(scores, labels, prior=0.1)
    curve = curve_of(decision)
    assert len(curve.thresholds) > 100
    assert np.all(np.diff(curve.probabilities) <= 0)
    for threshold, precision, recall in zip(curve.thresholds, curve.precision, curve.recall, strict=True):
        flagged = decision.scores >= threshold
        hits, alarms = flagged[labels == 1].mean(), flagged[labels == 0].mean()
        assert recall == pytest.approx(hits)
        assert precision == pytest.approx(0.1 * hits / (0.1 * hits + 0.9 * alarms))
    assert (curve.threshold, curve.prior, curve.pairs) == (decision.threshold, 0.1, 400)


def test_a_certified_decision_has_no_curve(serve, decided, tower):
    known = {
        "precision": 0.95, "confidence": 0.9, "noise": 0.0, "pairs": 412, "right": 399, "threshold": 0.5, "answers": 94,
        "answers_left": 0, "recall": (0.8, 0.66, 0.92), "floor": 0.3, "disagreements": (1, 7), "model": "ab" * 8,
        "collection": "cd" * 8, "source": "forum",
    }  # fmt: skip
    twin = Twin(tower)
    twin.decision = replace(decided.decision, certificate=Certificate(**known))
    answer = serve(twin=twin).get("/ui/api/curve")
    assert answer.status_code == 409
    assert "94" in answer.json()["error"]
