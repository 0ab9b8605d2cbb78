"""A precision after recalibration is shown by the feedback, and kept as often as it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from textsiam.decision.calibration import from_log_odds
from textsiam.decision.collection import CollectionDecision
from textsiam.decision.decision import Decision, fit_decision
from textsiam.decision.feedback import Feedback
from textsiam.decision.recalibration import recalibrate


def world(n: int, seed: int, *, middle: float = 0.5, slope: float = 15.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, n).astype(np.float32)
    return scores, (rng.random(n) < from_log_odds(slope * (scores - middle))).astype(np.int8)


def precision(middle: float, threshold: float, slope: float = 15.0) -> float:
    grid = np.linspace(threshold, 1, 2000)
    return float(from_log_odds(slope * (grid - middle)).mean())


@pytest.mark.parametrize("chosen", ["all", "best first", "doubtful ones rather"])
def test_a_promise_is_kept_wherever_the_feedback_came_from(chosen):
    broken = issued = 0
    for seed in range(400):
        rng = np.random.default_rng(10_000 + seed)
        scores, labels = world(1500, seed)
        if chosen == "best first":
            kept = scores >= 0.55
        elif chosen == "doubtful ones rather":
            kept = rng.random(1500) < 1.2 - scores
        else:
            kept = np.ones(1500, bool)
        try:
            t = Feedback(scores[kept], labels[kept], 0.5).precision_threshold(0.95, confidence=0.95, prior=0.5)
        except ValueError:
            continue
        issued += 1
        broken += precision(0.5, t) < 0.95
    assert issued > 200
    assert broken <= 0.05 * 400 + 9  # two standard deviations


def test_the_feedback_decides_and_not_the_old_scores():
    old = fit_decision(*world(4000, 0, middle=0.5))
    moved = recalibrate(old, *world(1000, 1, middle=0.7, slope=40.0)).decision
    assert precision(0.7, old.at_precision(0.9).threshold, 40.0) < 0.9
    assert precision(0.7, moved.at_precision(0.9).threshold, 40.0) >= 0.9
    assert replace(moved, feedback=None).at_precision(0.9).threshold == old.at_precision(0.9).threshold


def test_another_prior_scales_the_odds():
    feedback = Feedback(*world(2000, 2), 0.5)
    found = feedback.precision_threshold(0.9, confidence=0.95, prior=0.2)
    assert found > feedback.precision_threshold(0.9, confidence=0.95, prior=0.5)
    assert found == feedback.precision_threshold(36 / 37, confidence=0.95, prior=0.5)


def test_too_little_feedback_says_how_much_it_takes():
    feedback = Feedback(np.linspace(0.5, 1, 40, dtype=np.float32), np.r_[np.zeros(5), np.ones(35)].astype(np.int8), 0.5)
    with pytest.raises(
        ValueError, match=r"on 40 decided pairs \(5 of them no .* takes at least 59 decided pairs"
    ) as error:
        feedback.precision_threshold(0.95, confidence=0.95, prior=0.5)
    reachable = float(str(error.value).split("passes is ")[1].split(";")[0])
    assert feedback.precision_threshold(reachable, confidence=0.95, prior=0.5)
    with pytest.raises(ValueError, match="no threshold shows"):
        feedback.precision_threshold(reachable + 0.002, confidence=0.95, prior=0.5)


def test_feedback_is_saved():
    decision = recalibrate(fit_decision(*world(500, 3)), *world(500, 4, middle=0.6)).decision
    restored = Decision.restore(decision.metadata(), decision.tensors())
    assert restored.at_precision(0.9).threshold == decision.at_precision(0.9).threshold


def test_a_collection_falls_back_on_the_strictest_threshold_of_the_feedback():
    own = recalibrate(fit_decision(*world(2000, 5)), *world(2000, 6)).decision.at_precision(0.9)
    told: list[str] = []
    strict = CollectionDecision(own, 50).among(100_000, tell=told.append)
    assert strict.target is not None
    assert strict.target < 0.9
    assert strict.threshold > own.threshold
    assert "cannot be promised among 100,000 texts" in told[0]
