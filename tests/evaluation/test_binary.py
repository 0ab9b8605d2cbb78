from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

from textsiam.evaluation.binary import Estimate, binary_report, calibration_error, equal_mass_bins


def sample(n: int, *, seed: int = 0, share: float = 0.4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < share).astype(np.int8)
    scores = (0.3 * rng.normal(size=n) + 0.5 * labels).astype(np.float32)
    return scores, labels, 1 / (1 + np.exp(-4 * (scores - 0.3)))


def test_figures_by_hand() -> None:
    # 0.9 yes, 0.8 no, 0.3 yes, 0.1 no
    report = binary_report([0.9, 0.8, 0.3, 0.1], [1, 0, 1, 0], threshold=0.5, bootstrap=0)
    assert report.average_precision.value == pytest.approx((1 + 2 / 3) / 2)
    assert report.roc_auc.value == pytest.approx(3 / 4)
    assert report.accuracy.value == report.f1.value == report.precision == report.recall == 0.5
    assert report.precision_at_recall == {0.5: 1.0, 0.8: 2 / 3, 0.9: 2 / 3, 0.95: 2 / 3}
    assert (report.n, report.positives, report.threshold) == (4, 2, 0.5)
    assert report.calibration_error is report.log_loss is report.brier is None
    assert np.isnan(report.average_precision.low)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), min_size=2, max_size=60),
    threshold=st.integers(-1, 11),
)
def test_scikit_learn_agrees_with_ties(rows: list[tuple[int, int]], threshold: int) -> None:
    rows = [*rows, (4, 0), (5, 1)]
    scores, labels = np.array(rows).T
    scores = scores / 10
    report = binary_report(scores, labels, threshold=threshold / 10, probabilities=scores / 2 + 0.2, bootstrap=0)
    flagged = scores >= threshold / 10
    assert report.average_precision.value == pytest.approx(average_precision_score(labels, scores))
    assert report.roc_auc.value == pytest.approx(roc_auc_score(labels, scores))
    assert report.accuracy.value == pytest.approx(accuracy_score(labels, flagged))
    assert report.f1.value == pytest.approx(f1_score(labels, flagged, zero_division=0))  # pyright: ignore[reportArgumentType]
    precision = precision_score(labels, flagged) if flagged.any() else np.nan
    assert report.precision == pytest.approx(precision, nan_ok=True)
    assert report.recall == pytest.approx(recall_score(labels, flagged))
    assert report.log_loss == pytest.approx(log_loss(labels, scores / 2 + 0.2))
    assert report.brier == pytest.approx(brier_score_loss(labels, scores / 2 + 0.2))


def test_the_order_of_the_pairs_does_not_matter() -> None:
    scores, labels, p = sample(300)
    scores = np.round(scores, 1)
    order = np.random.default_rng(1).permutation(300)
    one = binary_report(scores, labels, threshold=0.3, probabilities=p, bootstrap=0)
    other = binary_report(scores[order], labels[order], threshold=0.3, probabilities=p[order], bootstrap=0)
    for name in ("average_precision", "roc_auc", "accuracy", "f1", "calibration_error"):
        assert getattr(one, name).value == pytest.approx(getattr(other, name).value)


def test_precision_at_recall_takes_whole_groups_of_equal_scores() -> None:
    report = binary_report([0.9, 0.5, 0.5, 0.5, 0.1], [1, 1, 0, 0, 0], threshold=0.5, bootstrap=0)
    assert report.precision_at_recall == {0.5: 1.0, 0.8: 0.5, 0.9: 0.5, 0.95: 0.5}
    # 19 of 20 duplicates are a recall of 0.95, whatever 0.95 * 20 rounds to
    labels = [1] * 19 + [0] + [1]
    report = binary_report(np.arange(21, 0, -1), labels, threshold=1, bootstrap=0)
    assert report.precision_at_recall[0.95] == 1.0


def test_the_calibration_error_by_hand() -> None:
    # fifteen bins of one pair each: the mean of |label - probability|
    p = np.arange(15) / 15
    labels = (np.arange(15) >= 8).astype(int)
    assert calibration_error(p, labels) == pytest.approx(np.abs(p - labels).mean())
    # one value is one bin, and its mean label is right
    assert calibration_error([0.25] * 400, [1, 0, 0, 0] * 100) == pytest.approx(0.0)
    assert calibration_error([0.5] * 400, [1, 0, 0, 0] * 100) == pytest.approx(0.25)
    # half says 0.2 and half 0.8, and each is true half of the time
    assert calibration_error([0.2, 0.8] * 100, [0, 0, 1, 1] * 50) == pytest.approx(0.3)


def test_bins_hold_equal_numbers() -> None:
    p = np.random.default_rng(0).random(1500) ** 4
    bins = equal_mass_bins(p)
    assert np.bincount(bins).tolist() == [100] * 15
    order = np.argsort(p)
    assert np.all(np.diff(bins[order]) >= 0)


def test_a_calibrated_probability_has_a_small_error() -> None:
    p = np.random.default_rng(0).random(50_000)
    labels = (np.random.default_rng(1).random(50_000) < p).astype(int)
    assert calibration_error(p, labels) < 0.01
    assert calibration_error(p**2, labels) == pytest.approx(np.mean(p - p**2), abs=0.01)


def naive_bootstrap(
    scores: np.ndarray, labels: np.ndarray, p: np.ndarray, threshold: float, *, replicates: int, seed: int
) -> dict[str, np.ndarray]:
    """Draw the same rows as the package does, and recompute every figure from the drawn rows."""
    order = np.argsort(-scores, kind="stable")
    scores, labels, p = scores[order], labels[order], p[order]
    bins = equal_mass_bins(p)
    rows = np.random.default_rng(seed).integers(0, len(scores), size=(replicates, len(scores)))
    samples: dict[str, list[float]] = {}
    for row in rows:
        s, y, gap = scores[row], labels[row], labels[row] - p[row]
        figures = {
            "average_precision": average_precision_score(y, s),
            "roc_auc": roc_auc_score(y, s),
            "accuracy": accuracy_score(y, s >= threshold),
            "f1": f1_score(y, s >= threshold),
            "calibration_error": sum(abs(gap[bins[row] == b].sum()) for b in range(15)) / len(row),
        }
        for name, value in figures.items():
            samples.setdefault(name, []).append(float(value))
    return {name: np.quantile(values, [0.025, 0.975]) for name, values in samples.items()}


@pytest.mark.parametrize("decimals", [6, 1])
def test_the_intervals_are_those_of_a_naive_bootstrap(decimals: int) -> None:
    scores, labels, p = sample(200)
    scores = np.round(scores.astype(np.float64), decimals)
    report = binary_report(scores, labels, threshold=0.3, probabilities=p, bootstrap=100, seed=5)
    expected = naive_bootstrap(scores, labels, p, 0.3, replicates=100, seed=5)
    for name, (low, high) in expected.items():
        estimate = getattr(report, name)
        assert (estimate.low, estimate.high) == pytest.approx((low, high)), name


def test_the_chunks_of_the_bootstrap_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels, p = sample(100)
    whole = binary_report(scores, labels, threshold=0.3, probabilities=p, bootstrap=50)
    monkeypatch.setattr("textsiam.decision.intervals._CHUNK_CELLS", 700)
    assert binary_report(scores, labels, threshold=0.3, probabilities=p, bootstrap=50) == whole
    assert binary_report(scores, labels, threshold=0.3, probabilities=p, bootstrap=50, seed=1) != whole


def test_the_intervals_cover_the_truth() -> None:
    """The share of 95 % accuracy intervals that hold the true accuracy."""
    from scipy.stats import norm

    truth = norm.cdf(1.0)  # unit normals two apart, cut in the middle
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = (rng.random(300) < 0.4).astype(int)
        report = binary_report(rng.normal(size=300) + 2 * labels, labels, threshold=1.0, bootstrap=200, seed=seed)
        covered += report.accuracy.low <= truth <= report.accuracy.high
    assert 0.90 <= covered / 200 <= 0.985


def test_a_tiny_set_has_an_interval_without_warnings() -> None:
    report = binary_report([0.1, 0.9], [0, 1], threshold=0.5, probabilities=[0.2, 0.7], bootstrap=50)
    assert report.average_precision == Estimate(1.0, 1.0, 1.0)
    assert report.accuracy.low == 1.0


def test_the_bootstrap_is_quick() -> None:
    scores, labels, p = sample(15_000)
    start = time.process_time()
    report = binary_report(scores, labels, threshold=0.3, probabilities=p, bootstrap=1000)
    assert time.process_time() - start < 6  # about 0.7 s; room for a busy machine
    assert report.average_precision.low < report.average_precision.value < report.average_precision.high


def test_the_saturation_alarm() -> None:
    labels = [0, 1] * 100
    rng = np.random.default_rng(0)
    healthy, narrow = rng.uniform(0, 1, 200), rng.uniform(0.97, 0.99, 200)
    assert not binary_report(healthy, labels, threshold=0.5, bootstrap=0).saturated
    assert binary_report(narrow, labels, threshold=0.5, bootstrap=0).saturated
    unrelated = rng.uniform(0.9, 0.99, 500)
    report = binary_report(healthy, labels, threshold=0.5, bootstrap=0, random_scores=unrelated)
    assert report.saturated
    assert report.random_median == pytest.approx(np.median(unrelated))
    assert not binary_report(healthy, labels, threshold=0.5, bootstrap=0, random_scores=healthy / 2).saturated
    # scores that are no cosines have no such limit
    assert not binary_report(healthy * 10, labels, threshold=0.5, bootstrap=0, random_scores=unrelated).saturated
    low, middle, high = binary_report(np.arange(101), [0] + [1] * 100, threshold=0, bootstrap=0).score_spread
    assert (low, middle, high) == pytest.approx((1, 50, 99))


def test_to_dict_is_strict_json() -> None:
    scores, labels, p = sample(50)
    report = binary_report(scores, labels, threshold=99.0, probabilities=p, bootstrap=20)
    read = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert read["precision"] is None  # nothing is flagged
    assert read["recall"] == 0.0
    assert set(read["average_precision"]) == {"value", "low", "high"}
    assert set(read["precision_at_recall"]) == {"0.5", "0.8", "0.9", "0.95"}
    assert read["average_precision"]["value"] == report.average_precision.value
    bare = binary_report(scores, labels, threshold=0.3, bootstrap=0).to_dict()
    assert bare["calibration_error"] is None
    assert bare["f1"]["low"] is None
    json.dumps(bare, allow_nan=False)


def test_a_certain_and_wrong_probability_costs_infinitely_much() -> None:
    report = binary_report([0.9, 0.1], [0, 1], threshold=0.5, probabilities=[1.0, 0.0], bootstrap=0)
    assert report.log_loss == np.inf
    assert report.to_dict()["log_loss"] is None


def test_estimates_print_with_their_interval() -> None:
    assert str(Estimate(0.8934, 0.885, 0.9009)) == "0.893 [0.885, 0.901]"
    assert str(Estimate(0.5, float("nan"), float("nan"))) == "0.500"


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="needs both classes, got 2 duplicates and 0 non-duplicates"):
        binary_report([0.1, 0.2], [1, 1], threshold=0.5)
    with pytest.raises(ValueError, match="needs both classes, got 0 duplicates and 0 non-duplicates"):
        binary_report([], [], threshold=0.5)
    with pytest.raises(ValueError, match=r"score\[1\] is nan"):
        binary_report([0.1, np.nan], [0, 1], threshold=0.5)
    with pytest.raises(ValueError, match=r"labels\[0\] is -1"):
        binary_report([0.1, 0.2], [-1, 1], threshold=0.5)
    with pytest.raises(ValueError, match=r"probability\[1\] is 1\.5, expected a number in \[0, 1\]"):
        binary_report([0.1, 0.2], [0, 1], threshold=0.5, probabilities=[0.5, 1.5])
    with pytest.raises(ValueError, match=r"one probability for each of 2 scores, got shape \(3,\)"):
        binary_report([0.1, 0.2], [0, 1], threshold=0.5, probabilities=[0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match=r"threshold must be a finite number, got nan"):
        binary_report([0.1, 0.2], [0, 1], threshold=float("nan"))
    with pytest.raises(ValueError, match="bootstrap must be >= 0, got -1"):
        binary_report([0.1, 0.2], [0, 1], threshold=0.5, bootstrap=-1)
