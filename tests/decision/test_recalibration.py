"""Feedback moves probabilities and threshold, and only as far as there is feedback."""

from __future__ import annotations

import numpy as np
import pytest

from textsiam.decision.calibration import from_log_odds, log_odds
from textsiam.decision.collection import CollectionDecision
from textsiam.decision.decision import Decision, fit_decision
from textsiam.decision.recalibration import recalibrate
from textsiam.evaluation.binary import calibration_error


def drawn(n: int, *, seed: int, slope: float = 12.0, middle: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Scores in 0..1, and labels with P(duplicate) = sigmoid(slope · (score - middle))."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, n).astype(np.float32)
    return scores, (rng.uniform(size=n) < from_log_odds(slope * (scores - middle))).astype(np.int8)


@pytest.fixture(params=["platt", "isotonic"])
def decision(request) -> Decision:
    scores, labels = drawn(4000, seed=0)
    made = fit_decision(scores, labels, rule="accuracy")
    if request.param == "isotonic":
        from dataclasses import replace

        from textsiam.decision.calibration import fit_isotonic

        made = replace(made, calibrator=fit_isotonic(scores.astype(np.float64), labels))
    return made


def flagged(decision: Decision, n: int, *, seed: int, **world: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of another world that the decision would put before a moderator."""
    scores, labels = drawn(n, seed=seed, **world)
    kept = decision.probability(scores) >= 0.25
    return scores[kept], labels[kept]


def test_a_stricter_world_moves_the_threshold_to_where_it_belongs(decision):
    scores, labels = flagged(decision, 6000, seed=1, middle=0.75)
    found = recalibrate(decision, scores, labels)
    assert decision.threshold == pytest.approx(0.6, abs=0.03)
    assert found.decision.threshold == pytest.approx(0.75, abs=0.03)
    assert found.intercept < 0
    fresh, truth = flagged(decision, 20_000, seed=2, middle=0.75)
    told = found.decision.probability(fresh)
    assert told.mean() == pytest.approx(truth.mean(), abs=0.02)
    assert found.after.log_loss < found.before.log_loss
    assert found.after.precision > found.before.precision


def test_the_same_world_changes_next_to_nothing(decision):
    found = recalibrate(decision, *flagged(decision, 6000, seed=3))
    assert found.slope == pytest.approx(1, abs=0.15)
    assert found.intercept == pytest.approx(0, abs=0.15)
    assert found.decision.threshold == pytest.approx(decision.threshold, abs=0.02)


def test_little_feedback_moves_little(decision):
    scores, labels = flagged(decision, 6000, seed=4, middle=0.8)
    few = recalibrate(decision, *_balanced(scores, labels, 5))
    many = recalibrate(decision, scores, labels)
    assert abs(few.decision.threshold - decision.threshold) < 0.5 * abs(many.decision.threshold - decision.threshold)


def _balanced(scores, labels, each):
    rows = np.concatenate([np.flatnonzero(labels == value)[:each] for value in (0, 1)])
    return scores[rows], labels[rows]


def gradient(decision, found, scores, labels):
    """The gradient of the log posterior, as the docstring of `recalibrate` states it."""
    x = np.stack([log_odds(decision.probability(scores)), np.ones(len(scores))], 1)
    weights = np.array([found.slope, found.intercept])
    return x.T @ (from_log_odds(x @ weights) - labels) + (weights - [1, 0]) / found.width**2


@pytest.mark.parametrize("middle", [0.25, 0.6, 0.7, 0.85])
@pytest.mark.parametrize("n", [20, 60, 100, 500])
def test_the_gradient_vanishes_at_slope_and_intercept(decision, n, middle):
    for seed in range(10):
        scores, labels = drawn(n, seed=100 + seed, slope=30.0, middle=middle)
        if 5 <= labels.sum() <= n - 5:
            found = recalibrate(decision, scores, labels)
            assert np.abs(gradient(decision, found, scores, labels)).max() < 1e-6 * n


def test_far_away_few_labels_outweigh_the_decision(decision):
    world = {"slope": 30.0, "middle": 0.25}
    fresh, truth = drawn(20_000, seed=20, **world)
    found = recalibrate(decision, *drawn(40, seed=21, **world))
    assert np.abs(decision.probability(fresh) - truth).mean() > 0.3
    assert found.width > 2
    assert calibration_error(found.decision.probability(fresh), truth) < 0.08


def test_where_the_domain_is_the_same_the_prior_is_narrow(decision):
    assert recalibrate(decision, *drawn(200, seed=22)).width <= 1


def test_feedback_upside_down_leaves_a_curve_that_rises(decision):
    scores, labels = drawn(200, seed=23)
    found = recalibrate(decision, scores, 1 - labels)
    told = found.decision.probability(np.linspace(0, 1, 50))
    assert found.slope == 0.05
    assert (np.diff(told) >= 0).all()
    assert found.decision.probability(scores).mean() == pytest.approx(1 - labels.mean(), abs=0.05)


def test_the_corrected_log_odds_are_linear_in_the_old_ones_whatever_the_prior(decision):
    moved = decision.with_prior(0.1)
    found = recalibrate(moved, *flagged(moved, 6000, seed=6, middle=0.7))
    grid = np.linspace(0.2, 0.95, 50).astype(np.float32)
    if type(decision.calibrator).__name__ == "Isotonic":
        grid = decision.calibrator.knots.astype(np.float32)[1:-1:7]  # between knots, probabilities are linear
        tolerance = 1e-3
    else:
        tolerance = 1e-9
    old, new = log_odds(moved.probability(grid)), log_odds(found.decision.probability(grid))
    assert new == pytest.approx(found.slope * old + found.intercept, abs=tolerance)


def test_the_threshold_stands_where_the_old_probability_is_reached(decision):
    found = recalibrate(decision, *flagged(decision, 3000, seed=7, middle=0.7))
    level = decision.probability([decision.threshold])[0]
    at = np.float32(found.decision.threshold)
    assert found.decision.rule == "probability"
    assert (
        found.decision.probability([at])[0] >= level > found.decision.probability([np.nextafter(at, np.float32(0))])[0]
    )


def test_a_threshold_set_by_hand_stays():
    fixed = fit_decision(*drawn(500, seed=8)).at_threshold(0.9)
    found = recalibrate(fixed, *flagged(fixed, 3000, seed=9, middle=0.7))
    assert (found.decision.threshold, found.decision.rule) == (0.9, "fixed")


def test_a_collection_decision_keeps_its_correction_at_other_sizes():
    collection = CollectionDecision(fit_decision(*drawn(4000, seed=10), rule="accuracy"), 100)
    used = collection.among(1000)
    corrected = recalibrate(used, *flagged(used, 20_000, seed=11, middle=0.85)).decision
    again = CollectionDecision(corrected, 100).among(1000)
    assert again.threshold == pytest.approx(corrected.threshold, abs=1e-6)
    assert CollectionDecision(corrected, 100).among(10_000).threshold > corrected.threshold


def test_a_corrected_decision_is_saved_and_restored(decision):
    found = recalibrate(decision, *flagged(decision, 3000, seed=12, middle=0.7)).decision
    restored = Decision.restore(found.metadata(), found.tensors())
    grid = np.linspace(0, 1, 101)
    assert restored.probability(grid).tolist() == found.probability(grid).tolist()
    assert (restored.threshold, restored.rule, restored.target) == (found.threshold, "probability", found.target)


def test_too_little_feedback_is_refused(decision):
    with pytest.raises(ValueError, match="at least 5 accepted and as many rejected pairs, got 4 and 6"):
        recalibrate(decision, [0.9] * 10, [1] * 4 + [0] * 6)


def test_a_probability_that_no_score_reaches_flags_only_what_is_above_all():
    decision = fit_decision(*drawn(200, seed=13, slope=1.0))
    strict = decision.with_prior(1e-6).at_probability(0.999)
    assert strict.threshold > float(decision.scores.max())
