"""What people decided about flagged pairs moves the decision that flagged them.

Flagged pairs are no sample of all pairs: they were chosen by their score. That leaves P(duplicate | score) as it is, so
the probability can be corrected by them; a threshold by F1 or accuracy cannot be found among them, since nobody looked
at the pairs below it. So the threshold moves to where the corrected probability is what the old one was at the old
threshold: what a false alarm may cost stays, and what a score means changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textsiam.decision.calibration import (
    MINIMUM_PER_CLASS,
    Calibrator,
    Isotonic,
    Platt,
    binary_labels,
    finite_scores,
    fit_logistic,
    from_log_odds,
    log_loss,
    log_odds,
    prior_shift,
    stratified_folds,
)
from textsiam.decision.decision import Decision
from textsiam.decision.feedback import Feedback

_UNCHANGED = np.array([1.0, 0.0])  # slope and intercept of a decision that holds
_WIDTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_FLATTEST = 0.05


@dataclass(frozen=True)
class Standing:
    """How a decision does on the feedback.

    Attributes:
        log_loss: Mean negative log-likelihood of the labels, in nats.
        probability: Mean probability; the share of duplicates, where it is right.
        accuracy: Share of right verdicts.
        precision: Share of duplicates among what it flags; NaN where it flags nothing.
        recall: Share of the feedback's duplicates that it flags.
    """

    log_loss: float
    probability: float
    accuracy: float
    precision: float
    recall: float


@dataclass(frozen=True, eq=False)
class Recalibration:
    """A decision corrected by feedback.

    Attributes:
        decision: The corrected one.
        slope: a of `logit p' = a · logit p + b`; below 1, the old probabilities were too sure of themselves.
        intercept: b; above 0, there are more duplicates than they said.
        width: τ, how far slope and intercept were expected to move.
        pairs: Pairs of feedback.
        duplicates: Those of them that are duplicates.
        before: The old decision, on the feedback.
        after: The corrected one, on feedback that its correction did not see (five folds).
    """

    decision: Decision
    slope: float
    intercept: float
    width: float
    pairs: int
    duplicates: int
    before: Standing
    after: Standing

    def to_dict(self) -> dict[str, Any]:
        """Return what fits in JSON."""
        rest = {name: getattr(self, name) for name in ("slope", "intercept", "width", "pairs", "duplicates")}
        standings = {name: _plain(vars(getattr(self, name))) for name in ("before", "after")}
        return {"threshold": self.decision.threshold, **rest, **standings}


def recalibrate(decision: Decision, scores: ArrayLike, labels: ArrayLike, *, seed: int = 0) -> Recalibration:
    """Correct a decision by pairs that it flagged and people decided about.

    Logistic recalibration (Cox, "Two further applications of a model for binary regression", 1958):
    logit p' = a · logit p + b, with a ~ N(1, τ²) and b ~ N(0, τ²) beforehand. τ, from 0.5 to 16, is the most probable
    one given the feedback (evidence: MacKay, "The Evidence Framework Applied to Classification Networks", 1992; prior
    1 / τ): small where the feedback agrees with the decision, so that little feedback moves little, and large where it
    says that the domain moved. The optimum is found by Newton steps with a line search.

    The feedback is kept in the corrected decision, and `Decision.at_precision` learns from it: see
    `textsiam.decision.feedback.Feedback.precision_threshold` for what holds then. A second recalibration replaces it.

    Args:
        decision: What flagged them, under the prior that it had then.
        scores: Similarity of each pair, `(n,)`.
        labels: 1 duplicate, 0 not, `(n,)`.
        seed: Of the folds.

    Returns:
        The corrected decision, whose rule is "probability" (a threshold set by hand stays as it is), and how both do.

    Raises:
        ValueError: There are fewer than five duplicates or others, or a score is not finite.
    """
    values = finite_scores(np.asarray(scores, np.float32), name="feedback score")
    checked = binary_labels(labels, count=values.size)
    positives = int(checked.sum())
    if min(positives, checked.size - positives) < MINIMUM_PER_CLASS:
        raise ValueError(
            f"recalibration needs at least {MINIMUM_PER_CLASS} accepted and as many rejected pairs, "
            f"got {positives} and {checked.size - positives}: decide about more"
        )
    fold = stratified_folds(checked, seed)
    told, flagged = np.empty(values.size), np.empty(values.size, bool)
    for k in range(int(fold.max()) + 1):
        seen, held = fold != k, fold == k
        corrected = _corrected(decision, *_cox(decision, values[seen], checked[seen])[:2])
        told[held], flagged[held] = corrected.probability(values[held]), corrected.is_duplicate(values[held])
    slope, intercept, width = _cox(decision, values, checked)
    feedback = Feedback(values.astype(np.float32), checked, decision.prior)
    return Recalibration(
        decision=replace(_corrected(decision, slope, intercept), feedback=feedback),
        slope=slope,
        intercept=intercept,
        width=width,
        pairs=values.size,
        duplicates=positives,
        before=_standing(decision.probability(values), decision.is_duplicate(values), checked),
        after=_standing(told, flagged, checked),
    )


def _cox(decision: Decision, scores: NDArray[np.float64], labels: NDArray[np.int8]) -> tuple[float, float, float]:
    """Return slope and intercept of the highest posterior density, and the most probable width of their prior."""
    x = np.stack([log_odds(decision.probability(scores)), np.ones(scores.size)], 1)
    targets = labels.astype(np.float64)
    fits = [fit_logistic(x, targets, centre=_UNCHANGED, width=width) for width in _WIDTHS]
    # the width has the prior 1 / τ (Jeffreys): it must be earned
    evidence = [_log_evidence(x, targets, w, t) - math.log(t) for w, t in zip(fits, _WIDTHS, strict=True)]
    best = int(np.argmax(evidence))
    slope, intercept = fits[best].tolist()
    if slope >= _FLATTEST:
        return slope, intercept, _WIDTHS[best]
    # A larger similarity never lowers a probability: feedback that says so is taken for noise.
    rest = fit_logistic(x[:, 1:], targets, centre=_UNCHANGED[1:], width=_WIDTHS[best], offset=_FLATTEST * x[:, 0])
    return _FLATTEST, float(rest[0]), _WIDTHS[best]


def _log_evidence(
    x: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64], width: float
) -> float:
    """Return log P(labels | width), up to a constant, by Laplace's approximation around the optimum."""
    z = x @ weights
    p = from_log_odds(z)
    hessian = (x * (p * (1 - p))[:, None]).T @ x + np.eye(2) / width**2
    fit = float(np.sum(targets * z - np.logaddexp(0.0, z)))
    prior = -float(np.sum((weights - _UNCHANGED) ** 2)) / (2 * width**2) - 2 * math.log(width)
    return fit + prior - 0.5 * float(np.linalg.slogdet(hessian)[1])


def _corrected(decision: Decision, slope: float, intercept: float) -> Decision:
    shift = prior_shift(decision.base_rate, decision.prior)
    moved = replace(decision, calibrator=_moved(decision.calibrator, slope, intercept, shift))
    if decision.rule == "fixed":
        return moved
    return moved.at_probability(float(decision.probability([decision.threshold])[0]))


def _moved(calibrator: Calibrator, slope: float, intercept: float, shift: float) -> Calibrator:
    """Return the calibrator whose log odds, shifted, are slope · (the old ones, shifted) + intercept."""
    constant = slope * shift + intercept - shift
    if isinstance(calibrator, Platt):
        return Platt(slope=slope * calibrator.slope, intercept=slope * calibrator.intercept + constant)
    odds = slope * log_odds(calibrator.probabilities) + constant
    return Isotonic(calibrator.knots, from_log_odds(odds))


def _standing(p: NDArray[np.float64], flagged: NDArray[np.bool_], labels: NDArray[np.int8]) -> Standing:
    hits = float((flagged & (labels == 1)).sum())
    return Standing(
        log_loss=log_loss(labels, p),
        probability=float(p.mean()),
        accuracy=float((flagged == (labels == 1)).mean()),
        precision=hits / flagged.sum() if flagged.any() else float("nan"),
        recall=hits / float((labels == 1).sum()),
    )


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if value != value else value for name, value in values.items()}
