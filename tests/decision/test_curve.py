"""Strata and the curve of P(duplicate | score)."""

from __future__ import annotations

import numpy as np
import pytest

from textsiam.decision.curve import ScoreCurve, Strata


def scores_of(count: int, seed: int = 0, digits: int = 2) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).random(count).round(digits))[::-1].astype(np.float64)


@pytest.mark.parametrize("count", [1, 2, 7, 60, 5000])
@pytest.mark.parametrize("digits", [1, 2, 6])
def test_strata_never_part_equal_scores_and_hold_every_pair_once(count, digits):
    scores = scores_of(count, digits=digits)
    strata = Strata(scores, count=20)
    assert strata.sizes.sum() == count == strata.ends[-1]
    assert (strata.sizes > 0).all()
    for end in strata.ends[:-1]:
        assert scores[end - 1] > scores[end]
    assert all(strata.ends[strata.of(rank)] - strata.sizes[strata.of(rank)] <= rank < strata.ends[strata.of(rank)]
               for rank in range(count))  # fmt: skip
    assert (np.diff(strata.scores) < 0).all()


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_probability_never_falls_as_the_score_rises(noise):
    rng = np.random.default_rng(3)
    scores = scores_of(800, digits=4)
    strata = Strata(scores)
    curve = ScoreCurve(strata, scores, before=lambda s: np.clip(s - 0.2, 0.01, 0.99), noise=noise)
    for _ in range(60):  # answers that no curve explains
        rank = int(rng.integers(800))
        curve.add(float(scores[rank]), strata.of(rank), bool(rng.random() < 0.5))
        p = curve.probability(np.linspace(-0.5, 1.5, 200))
        assert (np.diff(p) >= -1e-12).all()
        assert ((p >= 0) & (p <= 1)).all()


def test_the_curve_learns_where_duplicates_begin():
    scores = scores_of(2000, digits=6)
    strata = Strata(scores)
    curve = ScoreCurve(strata, scores)
    for rank in range(0, 2000, 10):
        curve.add(float(scores[rank]), strata.of(rank), bool(scores[rank] > 0.6))
    low, high = curve.probability(np.array([0.4, 0.8]))
    assert low < 0.05
    assert high > 0.95
    right = curve.right_pairs(500, np.random.default_rng(0)).sum(1)
    assert abs(right.mean() - (scores > 0.6).sum()) < 60
    assert (right >= curve.right.sum()).all()


def test_the_posterior_is_the_likelihood_times_what_was_before():
    scores = scores_of(300, digits=6)
    strata = Strata(scores)
    curve = ScoreCurve(strata, scores)
    start, p = curve.weights, curve._curves(scores[[10, 200]])
    curve.add(float(scores[10]), strata.of(10), True)
    curve.add(float(scores[200]), strata.of(200), False)
    expected = start * p[:, 0] * (1 - p[:, 1])
    np.testing.assert_allclose(curve.weights, expected / expected.sum(), rtol=1e-9)
    assert curve.asked.sum() == 2
    assert curve.right.sum() == 1


def test_curves_that_may_dip_see_that_the_best_scored_are_wrong():
    """As opposites are: the best twentieth is right in 20 %, the rest of the upper half in 90 %."""
    scores, rng = scores_of(2000, digits=6), np.random.default_rng(1)
    strata = Strata(scores)
    share = np.where(np.arange(2000) < 100, 0.2, np.where(scores > 0.5, 0.9, 0.02))
    truth = rng.random(2000) < share
    told = {}
    for dipped in (0.0, 0.3):
        curve = ScoreCurve(strata, scores, dipped=dipped)
        for rank in range(0, 100, 2):  # much is asked of the best, and little below
            curve.add(float(scores[rank]), strata.of(rank), bool(truth[rank]))
        for rank in range(110, 2000, 90):
            curve.add(float(scores[rank]), strata.of(rank), bool(truth[rank]))
        told[dipped] = curve.probability(scores[[30, 300]])
    assert told[0.3][0] == pytest.approx(0.2, abs=0.1)
    assert told[0.3][1] > 0.6
    assert told[0.0][1] < 0.6  # curves that only rise say of all what the best-scored are


def test_without_dips_all_curves_rise_and_with_them_their_share_is_as_given():
    scores = scores_of(500, digits=6)
    curve = ScoreCurve(Strata(scores), scores, dipped=0.3)
    falls = (np.diff(curve._curves(scores[::-1])) < -1e-12).any(1)
    assert 0.25 < curve.weights[falls].sum() <= 0.3 + 1e-12  # beyond the floor nothing can fall
