from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from textsiam.decision.calibration import (
    Calibrator,
    Isotonic,
    Platt,
    binary_labels,
    finite_scores,
    fit_calibrator,
    fit_isotonic,
    fit_platt,
    from_log_odds,
    log_odds,
    prior_shift,
)


def sample(n: int, *, seed: int = 0, gap: float = 1.5, share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < share).astype(np.int8)
    return rng.normal(size=n) + gap * labels, labels


def test_prior_shift_by_hand() -> None:
    # 1:1 odds become 1:3 when the prior falls from a half to a quarter
    assert from_log_odds(log_odds(0.5) + prior_shift(0.5, 0.25)) == pytest.approx(0.25)
    # odds 3, times (0.2/0.8) / (0.6/0.4) = 1/6
    assert from_log_odds(log_odds(0.75) + prior_shift(0.6, 0.2)) == pytest.approx(1 / 3)


def test_platt_minimises_the_smoothed_loss() -> None:
    scores, labels = sample(300, share=0.3)
    fitted = fit_platt(scores, labels)
    positives = labels.sum()
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (300 - positives + 2))

    def loss(w: np.ndarray) -> float:
        z = w[0] * scores + w[1]
        return float(np.sum(np.logaddexp(0, z) - targets * z))

    best = minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-6})
    assert (fitted.slope, fitted.intercept) == pytest.approx(best.x, abs=1e-4)


def test_platt_approaches_plain_logistic_regression() -> None:
    scores, labels = sample(20_000)
    oracle = LogisticRegression(C=np.inf, tol=1e-8).fit(scores[:, None], labels)
    fitted = fit_platt(scores, labels)
    assert fitted.slope == pytest.approx(oracle.coef_[0, 0], rel=5e-3)
    assert fitted.intercept == pytest.approx(oracle.intercept_[0], rel=1e-2)


def test_platt_is_finite_on_separable_scores() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.8, 0.9])
    fitted = fit_platt(scores, np.array([0, 0, 0, 1, 1], dtype=np.int8))
    p = from_log_odds(fitted.log_odds(scores))
    assert 0 < fitted.slope < 100
    assert p[:3].max() < 0.3 < 0.6 < p[3:].min()


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("offset", [0.0, -1e3])
def test_platt_does_not_depend_on_the_scale_of_the_score(scale: float, offset: float) -> None:
    scores, labels = sample(400)
    plain = from_log_odds(fit_platt(scores, labels).log_odds(scores))
    moved = scores * scale + offset
    np.testing.assert_allclose(from_log_odds(fit_platt(moved, labels).log_odds(moved)), plain, atol=1e-6)


def test_platt_is_flat_where_scores_are_equal_or_upside_down() -> None:
    labels = np.array([0, 1] * 10, dtype=np.int8)
    assert fit_platt(np.full(20, 0.7), labels) == Platt(slope=0.0, intercept=0.0)
    assert fit_platt(-labels.astype(np.float64), labels).slope == 0.0


def test_isotonic_agrees_with_scikit_learn_within_the_bounds() -> None:
    scores, labels = sample(500, gap=2.5)
    fitted = fit_isotonic(scores, labels)
    grid = np.linspace(scores.min() - 1, scores.max() + 1, 5000)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    positives = int(labels.sum())
    bounds = 1 / (500 - positives + 2), (positives + 1) / (positives + 2)
    got = from_log_odds(fitted.log_odds(grid))
    at_knots = from_log_odds(fitted.log_odds(fitted.knots))
    np.testing.assert_allclose(at_knots, np.clip(oracle.predict(fitted.knots), *bounds), rtol=1e-12)
    # between two knots the bounded ends are joined, so only there may it differ from a bounded line
    assert np.abs(got - np.clip(oracle.predict(grid), *bounds)).max() < 2 * bounds[0]
    assert got.min() == pytest.approx(bounds[0])
    assert got.max() == pytest.approx(bounds[1])


def test_isotonic_by_hand() -> None:
    # 1, 0 at 0.4 and 0.6 violate the order and pool to a half
    fitted = fit_isotonic(np.array([0.2, 0.4, 0.6, 0.8]), np.array([0, 1, 0, 1], dtype=np.int8))
    probabilities = from_log_odds(fitted.log_odds(np.array([-5.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 9.0])))
    np.testing.assert_allclose(probabilities, [0.25, 0.25, 0.375, 0.5, 0.5, 0.5, 0.625, 0.75, 0.75])


def test_isotonic_does_not_step_over_a_knot_by_rounding() -> None:
    low, high = 0.407, 0.91
    assert low + (high - low) > high
    fitted = Isotonic(np.array([-1e9, 0.3, 0.4]), np.array([low, high, high]))
    below, at = fitted.log_odds(np.array([np.nextafter(0.3, 0.0), 0.3]))
    assert below <= at


def test_isotonic_with_one_knot_is_constant() -> None:
    fitted = Isotonic(np.array([0.3]), np.array([0.25]))
    np.testing.assert_allclose(from_log_odds(fitted.log_odds(np.array([-1.0, 0.3, 2.0]))), 0.25)


def test_the_better_calibrator_is_kept() -> None:
    scores, labels = sample(1500, seed=1)
    assert isinstance(fit_calibrator(scores, labels), Platt)
    # three steps, far from any logistic curve
    rng = np.random.default_rng(0)
    steps = rng.random(3000)
    chance = np.select([steps < 0.3, steps < 0.7], [0.02, 0.5], 0.98)
    assert isinstance(fit_calibrator(steps, (rng.random(3000) < chance).astype(np.int8)), Isotonic)


def test_ties_go_to_platt() -> None:
    labels = np.array([0, 1] * 20, dtype=np.int8)
    assert isinstance(fit_calibrator(np.full(40, 0.5), labels), Platt)


def test_the_choice_is_deterministic() -> None:
    scores, labels = sample(200)
    assert fit_calibrator(scores, labels, seed=3) == fit_calibrator(scores, labels, seed=3)


@pytest.mark.parametrize(("positives", "negatives"), [(0, 50), (50, 0), (4, 50), (50, 4), (0, 0)])
def test_too_few_pairs_are_refused_with_their_counts(positives: int, negatives: int) -> None:
    labels = np.repeat(np.array([1, 0], dtype=np.int8), [positives, negatives])
    with pytest.raises(ValueError, match=rf"got {positives} and {negatives}"):
        fit_calibrator(np.linspace(0, 1, labels.size), labels)


def test_scores_upside_down_are_refused() -> None:
    scores, labels = sample(200, gap=3)
    with pytest.raises(ValueError, match=r"ROC-AUC 0\.0\d+ on 200.*minus the distance"):
        fit_calibrator(-scores, labels)


def test_useless_scores_are_flat_with_a_word_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    scores, labels = sample(2000, gap=-0.4)
    with caplog.at_level(logging.WARNING):
        fitted = fit_calibrator(scores, labels)
    p = from_log_odds(fitted.log_odds(scores))
    assert p.mean() == pytest.approx(labels.mean(), abs=0.01)
    assert "the score decides nothing" in caplog.text


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused_by_place(bad: float) -> None:
    with pytest.raises(ValueError, match=rf"^similarity\[1\] is {bad}, expected a finite number; 1 of 3"):
        finite_scores([0.1, bad, 0.3])


def test_labels_are_checked() -> None:
    with pytest.raises(ValueError, match=r"labels\[2\] is -1, expected 0 .* 2 of 4"):
        binary_labels([0, 1, -1, -1], count=4)
    with pytest.raises(ValueError, match=r"each of 3 scores, got labels of shape \(2,\)"):
        binary_labels([0, 1], count=3)


finite = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=150, deadline=None)
@given(
    scores=arrays(np.float32, 30, elements=finite),
    queries=st.lists(finite, min_size=2, max_size=50),
    kind=st.sampled_from([fit_platt, fit_isotonic]),
)
def test_probability_never_falls_as_the_score_rises(
    scores: np.ndarray, queries: list[float], kind: Callable[[np.ndarray, np.ndarray], Calibrator]
) -> None:
    labels = np.array([0, 1, 0, 0, 1] * 6, dtype=np.int8)
    fitted = kind(scores.astype(np.float64), labels)
    ordered = np.sort(np.concatenate([np.array(queries), scores, np.nextafter(scores, np.float32(np.inf))]))
    p = from_log_odds(fitted.log_odds(ordered.astype(np.float64)) + prior_shift(0.4, 0.01))
    assert np.all(np.diff(p) >= 0)
    assert 0 < p.min() <= p.max() < 1
