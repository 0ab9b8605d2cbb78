"""Where to cut a score: the best F1, the best accuracy, or a precision that holds with confidence.

Every rule here looks at the two classes separately and puts them together under a stated prior, so the
share of duplicates in the calibration pairs plays no part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Rule = Literal["f1", "accuracy"]
RULES: tuple[Rule, ...] = ("f1", "accuracy")

_LEVELS = 40  # candidates at recalls of about 1/40, 2/40, … 1: coarse, so that bounding them all costs little
_MORE = (2, 4, 8, 16, 32)  # times as many calibration pairs, in messages
_WORTHWHILE = 0.1  # a threshold that finds less of the duplicates is of no use, in messages
_RECALL_SHARE = 0.15  # part of the allowed error spent on recall; false alarms are rarer and need more


@dataclass(frozen=True)
class OperatingPoints:
    """Every distinct way to cut the scores, the strictest first; the first flags nothing.

    `thresholds`, `recalls` and `false_alarms` are (k,): cutting at `thresholds[i]` flags the share
    `recalls[i]` of the duplicates and the share `false_alarms[i]` of the non-duplicates.
    """

    thresholds: NDArray[np.float64]
    recalls: NDArray[np.float64]
    false_alarms: NDArray[np.float64]


def operating_points(scores: NDArray[np.float32], labels: NDArray[np.int8]) -> OperatingPoints:
    """Return the operating points of scores (n,) and labels (n,), with a threshold between distinct scores.

    A threshold is the midpoint rounded to float32, or the larger score where no float32 lies between, so
    that comparing float32 scores with it gives the same answer in single and in double precision.
    """
    values, inverse = np.unique(np.asarray(scores, dtype=np.float32), return_inverse=True)
    duplicates = np.bincount(inverse[labels == 1], minlength=values.size)[::-1].cumsum()
    others = np.bincount(inverse[labels == 0], minlength=values.size)[::-1].cumsum()
    upper, lower = values[:0:-1], values[-2::-1]
    middle = ((upper.astype(np.float64) + lower.astype(np.float64)) / 2.0).astype(np.float32)
    middle = np.where(middle > lower, middle, upper)
    above = np.nextafter(values[-1], np.float32(np.inf), dtype=np.float32)
    return OperatingPoints(
        thresholds=np.concatenate([[above], middle, values[:1]]).astype(np.float64),
        recalls=np.concatenate([[0.0], duplicates / duplicates[-1]]),
        false_alarms=np.concatenate([[0.0], others / others[-1]]),
    )


def best_threshold(scores: NDArray[np.float32], labels: NDArray[np.int8], *, rule: Rule, prior: float) -> float:
    """Return the threshold with the best F1 or accuracy under the prior; the strictest among equals.

    With recall r, false alarm rate a and prior π: F1 = 2πr / (πr + (1 - π)a + π) and
    accuracy = πr + (1 - π)(1 - a).

    Raises:
        ValueError: if the rule is unknown.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}, expected one of {', '.join(map(repr, RULES))}")
    points = operating_points(scores, labels)
    hits, alarms = prior * points.recalls, (1.0 - prior) * points.false_alarms
    value = 2.0 * hits / (hits + alarms + prior) if rule == "f1" else hits + (1.0 - prior) - alarms
    return float(points.thresholds[int(np.argmax(value))])


def precision_threshold(
    scores: NDArray[np.float32], labels: NDArray[np.int8], *, prior: float, target: float, confidence: float
) -> float:
    """Return the smallest tested threshold whose precision is at least the target, with confidence.

    precision = πr / (πr + (1 - π)a), with r and a replaced by a lower bound of the recall and an upper
    bound of the false alarm rate (Clopper and Pearson 1934). Over repeated calibrations, the chance that
    the returned threshold misses the target is at most 1 - confidence, although a threshold is searched:

    * the candidates are the scores of the duplicates at 40 fixed ranks; the recall at the k-th of n
      duplicates is at least Beta(k, n - k + 1) distributed, and bounded at all ranks at once;
    * given these, the false alarms at a candidate are binomial. They are tested from strict to lenient,
      stopping at the first failure, from the first candidate that can pass with one false alarm
      (Learn-then-Test: Angelopoulos et al., "Calibrating Predictive Algorithms to Achieve Risk
      Control", 2021).

    It holds for pairs drawn independently, where only the prior differs from the calibration pairs, and
    for a target that was chosen before looking.

    Raises:
        ValueError: if no candidate reaches the target; the message tells a target that would pass.
    """
    tests = _precision_tests(scores, labels, prior=prior, confidence=confidence)
    last = tests.last_passed(target)
    if last < 0:
        positives = int(labels.sum())
        raise ValueError(
            f"no threshold shows a precision of {target:g} with {confidence:g} confidence at prior {prior:.3g} on "
            f"{labels.size} calibration pairs ({positives} duplicates, {labels.size - positives} not): "
            f"{_promise(tests, target)}; {_remedy(scores, labels, prior=prior, target=target, confidence=confidence)}"
        )
    return float(tests.candidates[last])


def reachable_below(target: float, passes: Callable[[float], bool]) -> float | None:
    """Return the largest precision below a target, in steps of 0.001, that passes; None if none does."""
    return next((n / 1000 for n in range(int(target * 1000), 0, -1) if n / 1000 < target and passes(n / 1000)), None)


def _promise(tests: _PrecisionTests, target: float) -> str:
    """Say which precision below the target passes, and at which recall."""
    reachable = reachable_below(target, lambda value: tests.last_passed(value) >= 0)
    if reachable is None:
        return "no target passes"
    recall = tests.recalls[tests.last_passed(reachable)]
    return f"the best target that passes is {reachable:.3f}, which finds at least {recall:.0%} of the duplicates"


def _remedy(
    scores: NDArray[np.float32], labels: NDArray[np.int8], *, prior: float, target: float, confidence: float
) -> str:
    """Say what would raise the precision that can be promised: more pairs like these, or better scores."""
    for factor in _MORE:
        more = _precision_tests(scores, labels, prior=prior, confidence=confidence, copies=factor)
        if more.last_passed(target) >= 0:
            return f"about {factor * labels.size:,} such pairs would show it; or lower the target or the confidence"
    points = operating_points(scores, labels)
    kept = points.recalls >= _WORTHWHILE
    hits, alarms = prior * points.recalls[kept], (1.0 - prior) * points.false_alarms[kept]
    best = float((hits / (hits + alarms)).max())
    return (
        f"more pairs would hardly help: on these themselves, where at least {_WORTHWHILE:.0%} of the duplicates are "
        f"found, the precision is {best:.3f} at most; a twin trained on such pairs, or a reranker, would raise it"
    )


def strictest_threshold(
    scores: NDArray[np.float32], labels: NDArray[np.int8], *, prior: float, confidence: float
) -> tuple[float, float]:
    """Return a threshold that `precision_threshold` has no stricter one than, and the precision that it promises.

    It is the most lenient candidate with at most one false alarm; where there is none, the strictest candidate. The
    promise holds with confidence although the candidate is searched: of those whose false alarm rate is above the bound
    of a single one, the strictest has the fewest false alarms, so that all of them pass only if that one does.
    """
    tests = _precision_tests(scores, labels, prior=prior, confidence=confidence)
    best = max(int((tests.false_alarms <= tests.one_false_alarm).sum()) - 1, 0)
    hits = prior * tests.recalls[best]
    alarms = (1.0 - prior) * max(float(tests.false_alarms[best]), tests.one_false_alarm)
    return float(tests.candidates[best]), float(hits / (hits + alarms))


@dataclass(frozen=True)
class _PrecisionTests:
    """The candidates, strictest first, with bounds of the recall and of the false alarm rate, all (k,)."""

    candidates: NDArray[np.float32]
    recalls: NDArray[np.float64]
    false_alarms: NDArray[np.float64]
    one_false_alarm: float  # the bound of the false alarm rate where a single one is seen
    prior: float

    def last_passed(self, target: float) -> int:
        """Return the index of the most lenient candidate that passes, -1 if none does."""
        allowed = self.prior * self.recalls * (1.0 - target) / (target * (1.0 - self.prior))
        # where to begin follows from the duplicates alone: with the false alarms the level would not hold
        first = int(np.argmax(allowed >= self.one_false_alarm))
        if allowed[first] < self.one_false_alarm:
            return -1
        failures = np.flatnonzero(self.false_alarms[first:] > allowed[first:])
        last = first + int(failures[0]) - 1 if failures.size else allowed.size - 1
        return last if last >= first else -1


def _precision_tests(
    scores: NDArray[np.float32], labels: NDArray[np.int8], *, prior: float, confidence: float, copies: int = 1
) -> _PrecisionTests:
    """Prepare the tests; the error 1 - confidence is shared by the bounds of recall and false alarms.

    `copies` pretends that each pair was seen so often: what could be shown with so many more of them.
    """
    from scipy.special import betaincinv

    error = 1.0 - confidence
    duplicates = np.repeat(np.sort(scores[labels == 1])[::-1], copies)
    others = np.repeat(np.sort(scores[labels == 0]), copies)
    ranks = np.unique(np.ceil(duplicates.size * np.arange(1, _LEVELS + 1) / _LEVELS).astype(np.int64))
    candidates = duplicates[ranks - 1]
    alarms = others.size - np.searchsorted(others, candidates, side="left")
    # by rank, not by the count of duplicates at the score: with ties the count is larger, and random
    recalls = betaincinv(ranks, duplicates.size - ranks + 1, _RECALL_SHARE * error / ranks.size)
    # the bounds hold at all ranks at once, so equal candidates share that of the largest rank
    last_equal = np.searchsorted(-candidates, -candidates, side="right") - 1

    def upper_bound(count: NDArray[np.int64]) -> NDArray[np.float64]:
        level = (1.0 - _RECALL_SHARE) * error
        bound = betaincinv(count + 1, np.maximum(others.size - count, 1), 1.0 - level)
        return np.where(count < others.size, bound, 1.0)

    return _PrecisionTests(
        candidates=candidates,
        recalls=recalls[last_equal],
        false_alarms=upper_bound(alarms),
        one_false_alarm=float(upper_bound(np.array(1))),
        prior=prior,
    )
