"""What people decided about pairs of another domain, kept so that a precision can be promised there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from textsiam.decision.calibration import from_log_odds, log_odds, prior_shift
from textsiam.decision.thresholds import reachable_below

_LEVELS = 40
_FEWEST = 20  # pairs that the strictest threshold flags


@dataclass(frozen=True, eq=False)
class Feedback:
    """Decided pairs: `scores` (n,) float32, `labels` (n,) int8, and the `prior` under which they were looked for.

    The pairs were chosen by their score, so they say nothing about pairs below the lowest of them, and no prior is
    needed to read them: above a threshold, their precision is observed directly.
    """

    scores: NDArray[np.float32] = field(repr=False)
    labels: NDArray[np.int8] = field(repr=False)
    prior: float

    def precision_threshold(self, target: float, *, confidence: float, prior: float) -> float:
        """Return the smallest tested threshold above which the precision is at least the target, with confidence.

        Candidates are the scores at 40 fixed ranks. At each, the hits among the decided pairs at or above it are
        binomial at worst (Hoeffding 1956), and are tested from strict to lenient, stopping at the first failure
        (Clopper and Pearson 1934; fixed-sequence testing), so that searching does not spoil the confidence.

        What holds: given its score, a pair was not decided for what it is (labels are independent given the scores),
        and above the threshold the chance of being decided does not rise with the score. Both are so where all of
        the flagged pairs were decided, a random part of them, or the best ones down to some score; where the surest
        pairs were favoured, the promise is too high. Another prior than that of the feedback scales the odds.

        Raises:
            ValueError: No candidate reaches the target; the message says what can be promised, and what would help.
        """
        last = self._last_passed(target, confidence, prior)
        if last is not None:
            return float(self._candidates()[0][last])
        reachable = reachable_below(target, lambda v: self._last_passed(v, confidence, prior) is not None)
        wrong = int((self.labels == 0).sum())
        needed = math.ceil(math.log(1.0 - confidence) / math.log(self._here(target, prior)))
        raise ValueError(
            f"no threshold shows a precision of {target:g} with {confidence:g} confidence at prior {prior:.3g} on "
            f"{self.labels.size} decided pairs ({wrong} of them no duplicates): "
            f"{'no target passes' if reachable is None else f'the best target that passes is {reachable:.3f}'}; "
            f"it takes at least {needed} decided pairs above a threshold, all of them right, and more where some are "
            "not: lower the target, or decide about more of the pairs that score highest"
        )

    def strictest_threshold(self, *, confidence: float, prior: float) -> tuple[float, float]:
        """Return the score that about twenty decided pairs reach, and the precision that it promises."""
        candidates, seen, hits = self._candidates()
        first = min(int(np.searchsorted(seen, _FEWEST)), seen.size - 1)
        bound = float(_lower_bound(hits[first], seen[first], confidence))
        bound = min(max(bound, 1e-12), 1.0 - 1e-12)
        promised = from_log_odds(log_odds(bound) + prior_shift(self.prior, prior))
        return float(candidates[first]), float(promised)

    def _last_passed(self, target: float, confidence: float, prior: float) -> int | None:
        candidates, seen, hits = self._candidates()
        wanted = self._here(target, prior)
        # where to begin follows from the scores alone, as the level would not hold otherwise
        for allowed in (1, 0):
            first = (
                int(np.argmax(able)) if (able := _lower_bound(seen - allowed, seen, confidence) >= wanted).any() else -1
            )
            if first >= 0:
                break
        if first < 0:
            return None
        failures = np.flatnonzero(_lower_bound(hits, seen, confidence)[first:] < wanted)
        last = first + int(failures[0]) - 1 if failures.size else candidates.size - 1
        return last if last >= first else None

    def _here(self, target: float, prior: float) -> float:
        """Return the target under the prior of the feedback: odds of a precision are proportional to prior odds."""
        return float(from_log_odds(log_odds(target) - prior_shift(self.prior, prior)))

    def _candidates(self) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Return the candidates (k,), strictest first, how many pairs reach each, and how many of these are right."""
        order = np.argsort(-self.scores, kind="stable")
        falling, right = self.scores[order], np.cumsum(self.labels[order], dtype=np.int64)
        ranks = np.unique(np.ceil(falling.size * np.arange(1, _LEVELS + 1) / _LEVELS).astype(np.int64))
        candidates = np.unique(falling[ranks - 1])[::-1]
        seen = np.searchsorted(-falling, -candidates, side="right")
        return candidates, seen, right[seen - 1]


def _lower_bound(hits: NDArray[np.int64], seen: NDArray[np.int64], confidence: float) -> NDArray[np.float64]:
    """Return the lower bound of Clopper and Pearson for the share of hits among those seen; 0 without hits."""
    from scipy.special import betaincinv

    some = np.maximum(hits, 1)
    return np.where(hits > 0, betaincinv(some, np.maximum(seen - some, 0) + 1, 1.0 - confidence), 0.0)
