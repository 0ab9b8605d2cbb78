from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from textsiam.evaluation.identification import evaluate_identification, identification_report


def probes(known: int = 300, unknown: int = 300, *, identities: int = 10, gap: float = 3.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    own = np.r_[rng.integers(0, identities, known), np.full(unknown, -1)]
    scores = rng.normal(size=(own.size, identities))
    scores[np.arange(known), own[:known]] += gap
    return scores, own


def naive(scores, own, threshold):
    """Rank 1, DIR and FPIR at a threshold, counted one probe at a time."""
    first, found, alarms, known, unknown = 0, 0, 0, 0, 0
    for row, c in zip(scores, own, strict=True):
        if c < 0:
            unknown += 1
            alarms += any(value >= threshold for value in row)
            continue
        known += 1
        top = all(row[c] > value for i, value in enumerate(row) if i != c)
        first += top
        found += top and row[c] >= threshold
    return first / known, found / known, alarms / unknown if unknown else math.nan


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(st.lists(st.integers(0, 6), min_size=3, max_size=3), st.integers(-1, 2)), max_size=30),
    threshold=st.integers(0, 7),
)
def test_naive_loops_agree_with_ties(rows, threshold) -> None:
    rows = [*rows, ([3, 5, 1], 1), ([2, 2, 4], -1)]
    scores, own = np.array([r for r, _ in rows]), np.array([c for _, c in rows])
    report = identification_report(scores, own, threshold=threshold, false_alarm_rate=0.2, bootstrap=0)
    first, found, alarms = naive(scores, own, threshold)
    assert report.rank_1.value == pytest.approx(first)
    assert report.fnir.value == pytest.approx(1 - found)
    assert report.fpir.value == pytest.approx(alarms)
    assert (report.known, report.unknown, report.identities) == (np.sum(own >= 0), np.sum(own < 0), 3)
    if report.unknown < 5:
        assert report.detection_rate is None
        assert f"at least 5 unknown probes, got {report.unknown}" in report.unmeasured
        return
    every = [naive(scores, own, t) for t in [*scores.ravel(), 99]]
    assert report.detection_rate is not None
    assert report.detection_rate.value == pytest.approx(max(d for _, d, a in every if a <= 0.2 + 1e-12))


def test_the_closed_form_of_gaussians() -> None:
    n, gap, t = 10, 3.0, 2.5
    scores, own = probes(40_000, 40_000, gap=gap)
    report = identification_report(scores, own, threshold=t, bootstrap=0)
    x = np.linspace(-6, 12, 20_001)
    density = norm.pdf(x - gap) * norm.cdf(x) ** (n - 1)  # the own one at x, and all others below it
    assert report.rank_1.value == pytest.approx(np.trapezoid(density, x), abs=0.01)
    assert report.fnir.value == pytest.approx(1 - np.trapezoid(density[x >= t], x[x >= t]), abs=0.01)
    # one false alarm among n: 1 - (1 - p)^n
    assert report.fpir.value == pytest.approx(1 - norm.cdf(t) ** n, abs=0.005)
    at = norm.ppf(0.99 ** (1 / n))
    assert report.detection_rate is not None
    assert report.detection_rate.value == pytest.approx(np.trapezoid(density[x >= at], x[x >= at]), abs=0.02)


def test_a_larger_gallery_raises_more_false_alarms() -> None:
    small = identification_report(*probes(identities=5), threshold=2.0, bootstrap=0)
    large = identification_report(*probes(identities=100), threshold=2.0, bootstrap=0)
    assert small.fpir.value + 0.2 < large.fpir.value
    assert large.rank_1.value < small.rank_1.value


def test_a_collapsed_twin_earns_nothing() -> None:
    report = identification_report(np.ones((200, 4)), np.repeat([2, -1], 100), threshold=0.5, bootstrap=10)
    assert report.rank_1.value == 0.0
    assert report.fnir.value == report.fpir.value == 1.0
    assert report.detection_rate is not None
    assert report.detection_rate.value == 0.0


def test_the_intervals_cover_the_truth() -> None:
    truth = identification_report(*probes(40_000, 40_000, identities=30, seed=999), threshold=2.5, bootstrap=0)
    found = [
        identification_report(*probes(300, 200, identities=30, seed=s), threshold=2.5, bootstrap=100) for s in range(60)
    ]
    for name in ("rank_1", "fnir", "fpir"):
        value = getattr(truth, name).value
        assert np.mean([getattr(r, name).low <= value <= getattr(r, name).high for r in found]) >= 0.85, name


def test_all_probes_of_an_identity_are_drawn_together() -> None:
    scores, own = probes(40, 40, identities=20)
    once = identification_report(scores, own, threshold=2.5, strangers=np.arange(40), bootstrap=400)
    rows = np.repeat(np.arange(80), 9)
    ninefold = identification_report(
        scores[rows], own[rows], threshold=2.5, strangers=np.repeat(np.arange(40), 9), bootstrap=400
    )
    for name in ("rank_1", "fnir", "fpir"):
        assert getattr(ninefold, name) == getattr(once, name)


def test_few_identities_have_a_word_in_place_of_an_interval() -> None:
    report = identification_report(*probes(300, 300, identities=9), threshold=2.5, bootstrap=20)
    assert report.rank_1.note == "no interval: 9 identities are too few for one"
    assert math.isnan(report.fnir.low)
    assert not math.isnan(report.fpir.low)


def test_without_unknown_probes() -> None:
    scores, own = probes(50, 0)
    report = identification_report(scores, own, threshold=2.0, bootstrap=5)
    assert report.detection_rate is None
    assert math.isnan(report.fpir.value)
    assert json.loads(json.dumps(report.to_dict()))["fpir"]["value"] is None
    assert "needs at least 100 unknown probes, got 0" in str(report)


def test_the_report_prints() -> None:
    lines = str(identification_report(*probes(), threshold=2.0, bootstrap=5)).splitlines()
    assert lines[0].endswith("300 known, 300 unknown, 10 enrolled")
    assert [line.split("  ")[0] for line in lines] == ["probes", "rank 1", "DIR@FAR 1 %", "FNIR", "FPIR"]


@pytest.mark.parametrize(
    ("scores", "own", "message"),
    [
        ([[1.0, math.nan]], [0], r"similarity\[1\] is nan"),
        ([[1.0, 0.0]], [2], r"own\[0\] is 2, expected -1 or a column below 2"),
        ([[1.0, 0.0]], [-1], "none of the 1 probes is of an enrolled identity"),
        ([[1.0, 0.0]], [0, 1], r"got shapes \(1, 2\) and \(2,\)"),
        ([1.0, 0.0], [0, 1], "similarities must be"),
    ],
)
def test_what_cannot_be_measured(scores, own, message) -> None:
    with pytest.raises(ValueError, match=message):
        identification_report(scores, own, threshold=0.5)


def test_a_gallery_is_asked_at_its_own_threshold() -> None:
    scores, own = probes(60, 20, identities=12)
    gallery = SimpleNamespace(
        names=list("abcdefghijkl"),
        similarities=lambda inputs: scores[[int(i) for i in inputs]],
        identification_threshold=lambda: 2.0,
    )
    names = ["abcdefghijkl"[c] if c >= 0 else ("stranger", None)[i % 2] for i, c in enumerate(own)]
    inputs = [str(i) for i in range(80)]
    found = evaluate_identification(gallery, inputs, names, bootstrap=7, seed=2)
    who = [name or f"?{i}" for i, (name, c) in enumerate(zip(names, own, strict=True)) if c < 0]
    expected = identification_report(scores, own, threshold=2.0, strangers=who, bootstrap=7, seed=2)
    assert (found.rank_1, found.fnir, found.fpir) == (expected.rank_1, expected.fnir, expected.fpir)
    with pytest.raises(ValueError, match="a name for each of 80 inputs, got 79"):
        evaluate_identification(gallery, inputs, names[1:])
