from __future__ import annotations

import json
import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from textsiam.decision.decision import fit_decision
from textsiam.decision.intervals import Units, interval
from textsiam.evaluation.binary import binary_report
from textsiam.evaluation.pairs import evaluate_pairs
from textsiam.evaluation.verification import allowed, evaluate_verification, verification_report

# Few distinct scores, so that ties are common.
PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), min_size=2, max_size=60).map(
    lambda rows: np.array([*rows, (4, 0), (5, 1)]).T
)


def gaussian(n: int = 15_000, *, gap: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 3 == 0).astype(np.int8)
    return rng.normal(size=n) + gap * labels, labels


def naive_rates(scores: np.ndarray, labels: np.ndarray, threshold: float) -> tuple[float, float]:
    """False accept rate and false reject rate, counted one pair at a time."""
    accepted = [0, 0]
    for score, label in zip(scores, labels, strict=True):
        accepted[label] += score >= threshold
    return accepted[0] / np.sum(labels == 0), 1 - accepted[1] / np.sum(labels == 1)


def naive_eer(scores: np.ndarray, labels: np.ndarray) -> float:
    points = [naive_rates(scores, labels, t) for t in [math.inf, *sorted(set(scores), reverse=True)]]
    for (far, frr), (next_far, next_frr) in pairwise(points):
        if next_far >= next_frr:
            share = (frr - far) / ((frr - far) + (next_far - next_frr))
            return far + share * (next_far - far)
    raise AssertionError("the last point accepts everything")


def naive_tar(scores: np.ndarray, labels: np.ndarray, far: float) -> float:
    rates = [naive_rates(scores, labels, t) for t in [math.inf, *scores]]
    return max(1 - frr for false, frr in rates if false <= far + 1e-12)


def test_figures_by_hand() -> None:
    # genuine 0.9 0.6 0.5, impostors 0.7 0.4 0.3 0.2: at 0.6 one of four and one of three
    scores, labels = [0.9, 0.6, 0.5, 0.7, 0.4, 0.3, 0.2], [1, 1, 1, 0, 0, 0, 0]
    report = verification_report(scores, labels, threshold=0.5, false_accept_rates=[0.25, 0.5, 0.2], bootstrap=0)
    assert (report.genuine, report.impostors) == (3, 4)
    # from (1/4, 1/3) to (1/4, 0): straight down, through (1/4, 1/4)
    assert report.eer.value == pytest.approx(0.25)
    assert report.eer_threshold == 0.6
    assert report.tar_at_far == {0.25: _exactly(1.0), 0.5: _exactly(1.0), 0.2: None}
    assert report.unmeasured == {0.2: "not measured: a rate of 20 % needs at least 5 impostor pairs, got 4"}
    assert (report.false_accept_rate, report.false_reject_rate, report.threshold) == (0.25, 0.0, 0.5)
    assert report.accuracy.value == pytest.approx(6 / 7)


def _exactly(value: float) -> object:
    class Same:
        def __eq__(self, other: object) -> bool:
            return getattr(other, "value", None) == value

    return Same()


@settings(max_examples=150, deadline=None)
@given(PAIRS, st.integers(0, 10))
def test_naive_loops_agree_with_ties(pairs: np.ndarray, threshold: int) -> None:
    scores, labels = pairs
    fars = (0.07, 0.1, 0.25, 0.5)
    report = verification_report(scores, labels, threshold=threshold, false_accept_rates=fars, bootstrap=0)
    assert report.eer.value == pytest.approx(naive_eer(scores, labels))
    for far, estimate in report.tar_at_far.items():
        assert (estimate is None) == (np.sum(labels == 0) < 1 / far) == (far in report.unmeasured)
        if estimate is not None:
            assert estimate.value == pytest.approx(naive_tar(scores, labels, far))
    rates = naive_rates(scores, labels, threshold)
    assert (report.false_accept_rate, report.false_reject_rate) == pytest.approx(rates)
    # no operating point has rates nearer to each other
    gaps = [abs(np.subtract(*naive_rates(scores, labels, t))) for t in [math.inf, *scores]]
    assert abs(np.subtract(*naive_rates(scores, labels, report.eer_threshold))) <= min(gaps[1:]) + 1e-12


@settings(max_examples=50, deadline=None)
@given(PAIRS)
def test_only_the_order_of_the_scores_matters(pairs: np.ndarray) -> None:
    scores, labels = pairs
    one = verification_report(scores, labels, threshold=5, false_accept_rates=[0.5], bootstrap=0)
    other = verification_report(np.exp(scores / 3), labels, threshold=5, false_accept_rates=[0.5], bootstrap=0)
    assert (one.eer, one.tar_at_far) == (other.eer, other.tar_at_far)
    # with the classes swapped and the scores turned over, both errors change places
    turned = verification_report(-scores, 1 - labels, threshold=0, bootstrap=0)
    assert turned.eer.value == pytest.approx(one.eer.value)


def test_two_gaussians() -> None:
    scores, labels = gaussian(300_000)
    report = verification_report(scores, labels, threshold=1.0, bootstrap=0)
    assert report.eer.value == pytest.approx(norm.cdf(-1), abs=0.003)  # at half the gap
    assert report.eer_threshold == pytest.approx(1.0, abs=0.02)
    assert report.roc_auc.value == pytest.approx(norm.cdf(2 / math.sqrt(2)), abs=0.003)
    for far, estimate in report.tar_at_far.items():
        assert estimate is not None
        assert estimate.value == pytest.approx(norm.sf(norm.isf(far) - 2), abs=0.02)


def test_perfect_and_worthless_scores() -> None:
    labels = np.repeat([1, 0], [50, 1000])
    perfect = verification_report(labels * 1.0, labels, threshold=0.5, bootstrap=20)
    assert (perfect.eer.value, perfect.eer_threshold) == (0.0, 1.0)
    assert [e.value for e in perfect.tar_at_far.values() if e is not None] == [1.0, 1.0]
    equal = verification_report(np.zeros(1050), labels, threshold=0.5, bootstrap=20)
    assert equal.eer.value == pytest.approx(0.5)  # between accepting nothing and everything
    assert [e.value for e in equal.tar_at_far.values() if e is not None] == [0.0, 0.0]


def test_the_intervals_are_those_of_a_naive_bootstrap() -> None:
    scores, labels = gaussian(200)
    scores = np.round(scores, 1)
    report = verification_report(scores, labels, threshold=1.0, false_accept_rates=[0.1], bootstrap=60, seed=5)
    order = np.argsort(-scores, kind="stable")
    drawn = np.random.default_rng(5).integers(0, 200, size=(60, 200))
    eers = [naive_eer(scores[order][row], labels[order][row]) for row in drawn]
    tars = [naive_tar(scores[order][row], labels[order][row], 0.1) for row in drawn]
    tar = report.tar_at_far[0.1]
    assert tar is not None
    assert (report.eer.low, report.eer.high) == pytest.approx(np.quantile(eers, [0.025, 0.975]))
    assert (tar.low, tar.high) == pytest.approx(np.quantile(tars, [0.025, 0.975]))
    pairwise = binary_report(scores, labels, threshold=1.0, bootstrap=60, seed=5)
    assert (report.roc_auc, report.accuracy) == (pairwise.roc_auc, pairwise.accuracy)


def test_the_interval_covers_the_truth() -> None:
    reports = [verification_report(*gaussian(600, seed=s), threshold=1.0, bootstrap=100) for s in range(100)]
    covered = np.mean([r.eer.low <= norm.cdf(-1) <= r.eer.high for r in reports])
    assert 0.88 <= covered <= 1.0


def test_a_resample_with_one_class_counts_for_nothing() -> None:
    report = verification_report([0.9, 0.1, 0.2], [1, 0, 0], threshold=0.5, bootstrap=50)
    assert (report.eer.low, report.eer.high) == (0.0, 0.0)
    assert math.isnan(interval(0.5, np.array([np.nan])).low)


def test_rounding_takes_no_pair_away() -> None:
    assert [int(allowed(rate, n)) for rate, n in ((0.07, 100), (0.29, 100), (0.001, 3000), (0.01, 99))] == [7, 29, 3, 0]
    labels = np.repeat([0, 1], [1000, 1])
    assert verification_report(np.arange(1001), labels, threshold=0, bootstrap=0).unmeasured == {}
    assert list(verification_report(np.arange(1000), labels[1:], threshold=0, bootstrap=0).unmeasured) == [0.001]


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, math.nan])
def test_a_rate_is_a_share(rate: float) -> None:
    with pytest.raises(ValueError, match="false accept rate must be between 0 and 1"):
        verification_report([1, 0], [1, 0], threshold=0.5, false_accept_rates=[rate])


def test_both_classes_are_needed() -> None:
    with pytest.raises(ValueError, match="both classes"):
        verification_report([1.0, 0.5], [1, 1], threshold=0.5)


def test_the_report_prints_and_fits_in_json() -> None:
    report = verification_report(*gaussian(200), threshold=1.0, bootstrap=20)
    stored = json.loads(json.dumps(report.to_dict()))
    assert stored["tar_at_far"]["0.001"] is None
    assert "at least 1000 impostor pairs, got 133" in stored["unmeasured"]["0.001"]
    assert stored["eer"]["value"] == report.eer.value
    lines = str(report).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "pairs", "ROC-AUC", "EER", "TAR@FAR 1 %", "TAR@FAR 0.1 %", "accuracy",
    ]  # fmt: skip
    assert f"{report.eer}" in lines[2]


class Numbers:
    """Scores numbers written as text by their distance."""

    decision = None

    def pair_similarity(self, texts, left, right):
        values = np.array([float(text) for text in texts])
        return (-np.abs(values[left] - values[right])).astype(np.float32)


class Labelled(SimpleNamespace):
    modality = "text"
    groups = None

    def __len__(self) -> int:
        return len(self.labels)


def test_a_twin_is_verified_at_its_own_threshold() -> None:
    rng = np.random.default_rng(0)
    texts = [f"{identity + 0.2 * rng.normal():.4f}" for identity in range(60) for _ in range(2)]
    left, right = np.triu_indices(120, 1)
    kept = (left // 2 == right // 2) | (rng.random(left.size) < 0.2)
    left, right = left[kept], right[kept]
    pairs = Labelled(texts=texts, left=left, right=right, labels=(left // 2 == right // 2).astype(np.int8), source="x")
    twin = Numbers()
    with pytest.raises(ValueError, match="no decision"):
        evaluate_verification(twin, pairs)
    twin.decision = fit_decision(twin.pair_similarity(texts, left, right), pairs.labels)
    report = evaluate_verification(twin, pairs, bootstrap=10, seed=3)
    scored = evaluate_pairs(twin, pairs, bootstrap=10, seed=3)
    assert report == verification_report(
        scored.similarities,
        pairs.labels,
        threshold=twin.decision.threshold,
        units=Units.of_pairs(pairs),
        bootstrap=10,
        seed=3,
    )
    assert report.accuracy == scored.report.accuracy
    moved = evaluate_verification(twin, pairs, decision=twin.decision.at_threshold(-0.1), bootstrap=0)
    assert moved.threshold == -0.1
