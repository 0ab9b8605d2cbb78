from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, norm
from sklearn.metrics import f1_score

from textsiam.decision.thresholds import (
    RULES,
    best_threshold,
    operating_points,
    precision_threshold,
    strictest_threshold,
)


def int8(*labels: int) -> np.ndarray:
    return np.array(labels, dtype=np.int8)


def float32(*scores: float) -> np.ndarray:
    return np.array(scores, dtype=np.float32)


def test_operating_points_by_hand() -> None:
    points = operating_points(float32(0.25, 0.5, 0.5, 1.0), int8(0, 1, 0, 1))
    assert points.thresholds[1:].tolist() == [0.75, 0.375, 0.25]
    assert 1.0 < points.thresholds[0] < 1.000001
    assert points.recalls.tolist() == [0.0, 0.5, 1.0, 1.0]
    assert points.false_alarms.tolist() == [0.0, 0.0, 0.5, 1.0]


@pytest.mark.parametrize("steps", [0, 1])  # the midpoint rounds to even: down for one, up for the other
def test_a_threshold_separates_neighbouring_floats(steps: int) -> None:
    low = np.float32(0.7) + steps * np.spacing(np.float32(0.7))
    high = np.nextafter(low, np.float32(1))
    points = operating_points(np.array([low, high]), int8(0, 1))
    assert low < points.thresholds[1] <= high
    assert points.thresholds[1] == np.float32(points.thresholds[1])


def test_best_f1_and_accuracy_by_hand() -> None:
    # flagging three gives 2 hits of 2 and 1 false alarm: F1 0.8; flagging one gives 1 of 2: F1 2/3
    scores, labels = float32(0.125, 0.25, 0.5, 0.75, 1.0), int8(0, 0, 1, 0, 1)
    assert best_threshold(scores, labels, rule="f1", prior=0.4) == 0.375
    # accuracy: both err once; the stricter wins
    assert best_threshold(scores, labels, rule="accuracy", prior=0.4) == 0.875


def test_a_rare_duplicate_makes_the_threshold_stricter() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(5000) < 0.5).astype(np.int8)
    scores = (rng.normal(size=5000) + 2 * labels).astype(np.float32)
    # for two unit normals 2 apart the best accuracy is at 1 + log((1 - prior) / prior) / 2
    for prior in (0.1, 0.5, 0.9):
        expected = 1 + np.log((1 - prior) / prior) / 2
        assert best_threshold(scores, labels, rule="accuracy", prior=prior) == pytest.approx(expected, abs=0.25)


def test_accuracy_may_flag_nothing() -> None:
    scores, labels = float32(0.1, 0.2, 0.3, 0.4), int8(1, 0, 1, 0)
    assert best_threshold(scores, labels, rule="accuracy", prior=0.001) == pytest.approx(0.4, abs=1e-6)
    assert not np.any(scores.astype(np.float64) >= best_threshold(scores, labels, rule="accuracy", prior=0.001))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 1)), min_size=4, max_size=30),
    prior=st.floats(0.01, 0.99),
)
def test_best_f1_and_accuracy_against_every_threshold(rows: list[tuple[int, int]], prior: float) -> None:
    rows = [*rows, (3, 0), (5, 1)]
    scores = np.array([s for s, _ in rows], dtype=np.float32)
    labels = np.array([y for _, y in rows], dtype=np.int8)
    # pairs weighted so that the duplicates amount to the prior
    weights = np.where(labels == 1, prior / labels.sum(), (1 - prior) / (labels == 0).sum())

    def f1(cut: float) -> float:
        return f1_score(labels, scores >= cut, sample_weight=weights, zero_division=0)  # pyright: ignore

    def accuracy(cut: float) -> float:
        return float(np.sum(weights * ((scores >= cut) == labels)))

    cuts = [*np.unique(scores).tolist(), 100.0]
    value: Callable[[float], float]
    for rule, value in zip(RULES, (f1, accuracy), strict=True):
        found = best_threshold(scores, labels, rule=rule, prior=prior)
        assert value(found) == pytest.approx(max(value(cut) for cut in cuts))


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown rule 'F1', expected one of 'f1', 'accuracy'"):
        best_threshold(float32(0, 1), int8(0, 1), rule="F1", prior=0.5)  # pyright: ignore[reportArgumentType]


def promised(scores: np.ndarray, labels: np.ndarray, *, prior: float, target: float, confidence: float) -> float | None:
    try:
        return precision_threshold(scores, labels, prior=prior, target=target, confidence=confidence)
    except ValueError:
        return None


@pytest.mark.parametrize(
    ("n", "share", "prior", "target", "confidence", "decimals"),
    [
        (600, 0.75, 0.37, 0.85, 0.8, None),
        (600, 0.5, 0.5, 0.9, 0.8, None),
        (600, 0.5, 0.5, 0.9, 0.8, 1),  # coarse scores: many ties
        (200, 0.5, 0.3, 0.7, 0.6, None),
    ],
)
def test_the_promised_precision_holds(
    n: int, share: float, prior: float, target: float, confidence: float, decimals: int | None
) -> None:
    gap, trials, misses, found = 2.0, 400, 0, 0
    half = 0 if decimals is None else 0.5 * 10.0**-decimals
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        labels = (rng.random(n) < share).astype(np.int8)
        scores = rng.normal(size=n) + gap * labels
        scores = (scores if decimals is None else np.round(scores, decimals)).astype(np.float32)
        threshold = promised(scores, labels, prior=prior, target=target, confidence=confidence)
        if threshold is None:
            continue
        found += 1
        recall, alarms = norm.sf(threshold - half - gap), norm.sf(threshold - half)
        misses += prior * recall / (prior * recall + (1 - prior) * alarms) < target
    assert found > trials / 4
    # one-sided test at about three standard errors
    nominal = 1 - confidence
    assert misses <= trials * nominal + 3 * np.sqrt(trials * nominal * (1 - nominal))


def test_searching_without_the_bound_breaks_the_promise() -> None:
    """The simulation above can fail: the plain empirical choice misses the target about half of the time."""
    misses = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = (rng.random(600) < 0.5).astype(np.int8)
        scores = (rng.normal(size=600) + 2 * labels).astype(np.float32)
        points = operating_points(scores, labels)
        with np.errstate(invalid="ignore"):
            precision = points.recalls / (points.recalls + points.false_alarms)
        threshold = points.thresholds[np.flatnonzero(precision >= 0.9)[-1]]
        recall, alarms = norm.sf(threshold - 2), norm.sf(threshold)
        misses += recall / (recall + alarms) < 0.9
    assert misses > 40


def test_the_bound_by_hand() -> None:
    # 40 duplicates above 60 others: every candidate has 0 false alarms, the last is the smallest duplicate
    scores = np.arange(100, dtype=np.float32)
    labels = (scores >= 60).astype(np.int8)
    recall = beta.ppf(0.15 * 0.05 / 40, 40, 1)
    alarms = beta.ppf(1 - 0.85 * 0.05, 1, 60)
    bound = recall / (recall + alarms)
    start = float(recall / (recall + beta.ppf(1 - 0.85 * 0.05, 2, 59)))
    assert precision_threshold(scores, labels, prior=0.5, target=start - 1e-6, confidence=0.95) == 60
    # the last candidate itself would bear this target, but the sequence cannot begin there
    assert bound > start
    with pytest.raises(ValueError, match="no threshold shows"):
        precision_threshold(scores, labels, prior=0.5, target=start + 1e-6, confidence=0.95)


def test_others_with_the_score_of_a_candidate_are_false_alarms() -> None:
    labels = np.repeat(int8(1, 0), 500)
    with pytest.raises(ValueError, match=r"best target that passes is 0\.4"):
        precision_threshold(np.ones(1000, dtype=np.float32), labels, prior=0.5, target=0.6, confidence=0.95)


def test_a_lump_of_equal_scores_at_the_top_does_not_stop_the_search() -> None:
    # half of the duplicates are exact copies; 10 of 500 others are too
    labels = np.repeat(int8(1, 0), 500)
    scores = np.concatenate([np.ones(250), np.linspace(0.5, 0.9, 250), np.ones(10), np.linspace(0, 0.4, 490)])
    assert precision_threshold(scores.astype(np.float32), labels, prior=0.5, target=0.9, confidence=0.95) == 0.5


def test_a_precision_out_of_reach_names_one_that_passes() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(800) < 0.5).astype(np.int8)
    scores = (rng.normal(size=800) + labels).astype(np.float32)
    arguments = {"prior": 0.3, "confidence": 0.95}
    with pytest.raises(ValueError, match=r"precision of 0\.99 with 0\.95 .*best target that passes is 0\.\d+") as error:
        precision_threshold(scores, labels, target=0.99, **arguments)
    assert f"800 calibration pairs ({labels.sum()} duplicates" in str(error.value)
    reachable = float(str(error.value).split("passes is ")[1].split(",")[0])
    assert 0.3 < reachable < 0.99
    precision_threshold(scores, labels, target=reachable, **arguments)
    with pytest.raises(ValueError, match="no threshold shows"):
        precision_threshold(scores, labels, target=reachable + 0.001, **arguments)


def test_more_pairs_give_a_more_lenient_threshold() -> None:
    def mean_threshold(n: int) -> float:
        found = []
        for seed in range(10):
            rng = np.random.default_rng(seed)
            labels = (np.arange(n) % 2).astype(np.int8)
            scores = (rng.normal(size=n) + 2 * labels).astype(np.float32)
            found.append(precision_threshold(scores, labels, prior=0.5, target=0.8, confidence=0.9))
        return float(np.mean(found))

    grid = np.linspace(-2, 4, 6001)
    recall, alarms = norm.sf(grid - 2), norm.sf(grid)
    oracle = grid[np.flatnonzero(recall / (recall + alarms) >= 0.8)[0]]
    assert mean_threshold(1000) > mean_threshold(50_000) > oracle
    assert mean_threshold(50_000) == pytest.approx(oracle, abs=0.1)


@pytest.mark.parametrize(("gap", "prior"), [(2.0, 0.5), (2.0, 1e-3), (2.0, 1e-6), (4.0, 0.01), (1.0, 0.1), (0.3, 0.1)])
def test_no_target_has_a_stricter_threshold_than_the_strictest(gap: float, prior: float) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(2000) < 0.3).astype(np.int8)
    scores = (rng.normal(size=2000) + gap * labels).astype(np.float32)
    threshold, promised = strictest_threshold(scores, labels, prior=prior, confidence=0.95)
    reached = []
    for target in promised * np.linspace(0.1, 0.9999, 20):
        found = precision_threshold(scores, labels, prior=prior, target=float(target), confidence=0.95)
        assert found <= threshold
        reached.append(found)
    if gap >= 2:  # it is the end of the search, and not something stricter still
        assert reached[-1] == threshold
        better = 1 - (1 - promised) / 1.001 if promised > 0.5 else promised * 1.001
        with pytest.raises(ValueError, match="no threshold shows a precision"):
            precision_threshold(scores, labels, prior=prior, target=better, confidence=0.95)
