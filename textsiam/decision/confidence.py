"""Lower bounds of the precision of flagged sets, for many sets at once, that may be looked at after every answer.

The candidate pairs of a collection are ordered by score. A threshold flags the best of them: one of a family of nested
sets, each a fixed, finite population. Pairs are drawn without replacement and judged one by one. After every answer a
bet is settled against the claim "at most so many pairs of this set are right". Were the claim true, nobody could expect
to win, and the capital would ever reach 1 / α with a probability of at most α (Ville 1939), so a claim is refuted once
it does, whenever one stops: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting" (2024),
section 5 on draws without replacement. The sets share the error, each with a share that was fixed before its first bet,
so that all bounds hold together and the best set may be chosen afterwards.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textsiam.decision.calibration import check_fraction

NOISE_SHARE = 0.1
"""Share of the error that goes to the chance that more wrong pairs were called right than the noise lets expect."""
KEPT = 0.1
"""Of the share of the error that a proven set hands over, what it keeps for claims that go beyond the proven one."""
_WEIGHT = 100.0
_NOWHERE = np.iinfo(np.int64).max


class NestedSets:
    """What answers prove of nested sets of candidates.

    Args:
        sizes: Of the sets, ascending, `(h,)`: each holds the candidates of the first so many ranks.
        shares: The part of the error that each may use, `(h,)`, together at most 1.
        expected: Share of right pairs that is expected of each, `(h,)`, by which bets are placed. A good guess saves
            answers, a bad one breaks nothing.
        known: Ranks judged before, and whether each was right; they are no draws.
        confidence: With which all bounds hold together.
        noise: Share of the answers that may be wrong, each for itself.
        weight: Answers that the guess `expected` is worth.

    Example:
        >>> sets = NestedSets([4, 200], [0.5, 0.5], [0.99, 0.99])
        >>> for rank in range(0, 200, 2):
        ...     sets.add(rank, among=200, right=True)
        >>> sets.lower_bounds().tolist()
        [2, 194]
    """

    def __init__(
        self,
        sizes: ArrayLike,
        shares: ArrayLike,
        expected: ArrayLike,
        *,
        known: dict[int, bool] | None = None,
        confidence: float = 0.95,
        noise: float = 0.0,
        weight: float = _WEIGHT,
    ) -> None:
        self.sizes, self.shares = np.asarray(sizes, np.int64), np.asarray(shares, np.float64)
        self.expected = np.clip(np.asarray(expected, np.float64), 0.01, 0.999)
        if (np.diff(self.sizes, prepend=0) < 1).any() or self.shares.sum() > 1 + 1e-9 or (self.shares < 0).any():
            raise ValueError("sizes must rise from 1, and shares of the error add up to 1 at most")
        self.error = 1.0 - check_fraction(confidence, name="confidence")
        self.noise, self.known, self._weight = noise, dict(known or {}), weight
        self.history: list[tuple[int, int, bool]] = []
        self._beyond = np.full(len(self.sizes), _NOWHERE)  # claims from so many right pairs on use what is kept

    def add(self, rank: int, *, among: int, right: bool) -> None:
        """Take an answer.

        Args:
            rank: Of the pair, 0 for the best-scored.
            among: The pair was drawn uniformly from the undrawn pairs of the first so many ranks; 0 for one that was
                picked in another way.
            right: The answer; a pair that was skipped counts as wrong.
        """
        self.history.append((rank, among, right))

    @property
    def judged(self) -> NDArray[np.int64]:
        """How many pairs of each set are judged, `(h,)`."""
        return self._below(np.array([*self.known, *(rank for rank, _, _ in self.history)], np.int64))

    @property
    def right(self) -> NDArray[np.int64]:
        """How many of these are right, `(h,)`."""
        ranks = [rank for rank, right in self.known.items() if right]
        return self._below(np.array(ranks + [rank for rank, _, right in self.history if right], np.int64))

    def _below(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(np.sort(ranks), self.sizes, side="left")

    def spare(self, precision: float) -> float:
        """Return the share of the error that `hand_over` would give away."""
        return self._given(self._to_hand_over(precision))

    def hand_over(self, precision: float) -> float:
        """Give away the error of the sets that are proven to have this precision; returns how much, as a share.

        What they are proven to have stays proven, and `KEPT` of their shares stays with them for claims that go beyond
        it. Tests that begin now may share the rest: were the proof of a set false, that was counted before; if it is
        true, its share was never used up (Bretz, Maurer, Brannath & Posch 2009; here the capital of all true claims,
        each times its share, and the shares of the others together are a supermartingale that begins at 1).
        """
        giving = self._to_hand_over(precision)
        self._beyond = np.where(giving, self.needed(precision), self._beyond)
        return self._given(giving)

    def _to_hand_over(self, precision: float) -> NDArray[np.bool_]:
        return self.proven(precision) & (self._beyond == _NOWHERE)

    def _given(self, giving: NDArray[np.bool_]) -> float:
        return float((1.0 - KEPT) * self.shares[giving].sum())

    def _level(self, most_right: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the error that refuting each claim may use, `(h,)`."""
        return self.error * self.shares * np.where(most_right >= self._beyond, KEPT, 1.0)

    def said_right(self, right: ArrayLike) -> NDArray[np.int64]:
        """Return how many pairs of each set are called right, at most, where so many are.

        Each answer is wrong with the probability `noise`, for itself. Of the wrong pairs, more than the returned
        surplus are called right with a probability of at most the share of the error that is set aside for that.
        """
        numbers = np.asarray(right, np.int64)
        if not self.noise:
            return numbers
        from scipy.stats import binom

        wrong = np.maximum(self.sizes - numbers, 0)
        return numbers + binom.ppf(1.0 - NOISE_SHARE * self._level(numbers), wrong, self.noise).astype(np.int64)

    def log_capital(self, most_right: ArrayLike) -> NDArray[np.float64]:
        """Return the logarithms of the capital that each set has now and had at most, for a claim each, `(2, h)`.

        The bet against m, the expectation of the next answer if the claim just holds, is the likelihood ratio of a
        running guess q to it: a right pair multiplies the capital by q / m, a wrong one by (1 - q) / (1 - m). Where q
        is not above m, nothing is bet. A pair that was not drawn uniformly from a set is no bet there, but what is left
        is known better.
        """
        claims = self.said_right(most_right)[None, :]
        ranks, among, said = (np.array(column) for column in zip(*self.history, strict=True)) if self.history else _NONE
        known = np.array([rank for rank, right in self.known.items() if right], np.int64)
        inside = ranks[:, None] < self.sizes  # (draws, sets), as all that follow
        betting, hit = inside & (self.sizes <= among[:, None]), inside & said[:, None]
        right = self._below(known) + _before(hit)
        left = self.sizes - self._below(np.array(list(self.known), np.int64)) - _before(inside)
        q = (self._weight * self.expected + _before(betting & hit)) / (self._weight + _before(betting))
        with np.errstate(divide="ignore", invalid="ignore"):
            m = (claims - right) / np.maximum(left, 1)
            won = np.log(np.where(said[:, None], q / np.maximum(m, 0.0), (1 - q) / (1 - np.minimum(m, 1.0))))
        growth = np.where(betting & (q > m), won, 0.0)
        growth = np.where(right + hit > claims, np.inf, growth)  # refuted outright
        capital = np.concatenate([np.zeros((1, len(self.sizes))), growth.cumsum(0)])
        return np.stack([capital[-1], capital.max(0)])

    def goals(self, most_right: ArrayLike) -> NDArray[np.float64]:
        """Return the logarithm of the capital that refutes a claim about each set, `(h,)`."""
        level = self._level(np.asarray(most_right, np.int64)) * (1.0 - NOISE_SHARE if self.noise else 1.0)
        return -np.log(np.maximum(level, np.finfo(np.float64).tiny))

    def needed(self, precision: float) -> NDArray[np.int64]:
        """Return how many pairs of each set must be right for such a precision, `(h,)`."""
        return np.ceil(check_fraction(precision, name="precision") * self.sizes - 1e-9).astype(np.int64)

    def proven(self, precision: float) -> NDArray[np.bool_]:
        """Return which sets are proven to have such a precision at least, `(h,)`."""
        needed = self.needed(precision)
        return (self.log_capital(needed - 1)[1] >= self.goals(needed - 1)) & (needed <= self._possible)

    def lower_bounds(self) -> NDArray[np.int64]:
        """Return how many pairs of each set are proven to be right, `(h,)`: for every precision at once.

        Once all pairs of a set are judged, it is the number of right ones, less what noise may have added.
        """
        low, high = np.full(len(self.sizes), -1), self.sizes.copy()  # low is refuted: no set has fewer than none
        while (high - low > 1).any():
            middle = (low + high) // 2
            refuted = self.log_capital(middle)[1] >= self.goals(middle)
            low, high = np.where(refuted, middle, low), np.where(refuted, high, np.maximum(middle, low + 1))
        return np.minimum(low + 1, self._possible)

    @property
    def _possible(self) -> NDArray[np.int64]:
        """How many pairs of each set can still be right: a bet that was won by chance proves no more than that."""
        return self.sizes if self.noise else self.sizes - (self.judged - self.right)


_NONE = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, bool)


def _before(counted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how often each column was true before each row, `(draws, sets)`."""
    return np.cumsum(counted, axis=0) - counted
