"""What is known of P(duplicate | score) from few answers, about pairs that were drawn by their score.

Pairs may be drawn by their score as unequally as one likes: that leaves P(duplicate | score) as it is. A curve is
`f + (u - f) / (1 + exp(-(s - c) / w))`: centre c, width w, a ceiling u below 1 where even the best-scored pairs are
often wrong, and a floor f above 0 where some duplicates score as strangers do. Where it is asked for, the best scores
of a part of the curves are right less often than those below: opposites, and questions of one template, score so. The
posterior over a grid of such curves starts at curves of every kind, half of it close to the decision that was there
before, and each answer multiplies it by its likelihood. What a curve says of a stratum counts as `CONCENTRATION`
answers: with many answers, a stratum may differ from every curve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from textsiam.decision.calibration import from_log_odds

CONCENTRATION = 10.0
_CENTRES, _WIDTHS = 40, 9
_CEILINGS = {1.0: 0.5, 0.97: 0.14, 0.9: 0.12, 0.8: 0.08, 0.7: 0.06, 0.6: 0.04, 0.5: 0.03, 0.35: 0.02, 0.2: 0.01}
_FLOORS = {0.0: 0.6, 0.01: 0.2, 0.04: 0.15, 0.1: 0.05}
_DIPS = {0.25: 0.3, 0.5: 0.3, 0.75: 0.2, 0.95: 0.2}  # by such a share
_TOPS = 6  # numbers of best pairs that a dip may take in
_BEFORE = 25.0  # answers that the guess of before is worth

Probability = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class Strata:
    """Candidate pairs, best first, cut into strata of equal scores' neighbourhoods: narrow at the top, wide below.

    Args:
        scores: Of all candidates, in descending order, `(n,)`.
        count: Strata, about.

    Attributes:
        ends: Where each stratum ends, `(h,)` int64; equal scores are never parted.
        sizes: Pairs of each, `(h,)`.
        scores: A score that stands for each, its median, `(h,)`.
    """

    def __init__(self, scores: NDArray[np.floating], *, count: int = 32) -> None:
        n = len(scores)
        first = min(n, max(5, n // 400))
        wanted = np.unique(np.geomspace(first, n, count).astype(np.int64)) if n else np.zeros(0, np.int64)
        # a set is what reaches a threshold: it ends where the score changes
        negated = -np.asarray(scores, np.float64)
        self.ends = np.unique(np.searchsorted(negated, negated[wanted - 1], side="right")).astype(np.int64)
        self.sizes = np.diff(self.ends, prepend=0)
        self.scores = np.array([np.median(scores[e - s : e]) for e, s in zip(self.ends, self.sizes, strict=True)])

    def of(self, rank: int) -> int:
        """Return the stratum of a candidate, by its place among all."""
        return int(np.searchsorted(self.ends, rank, side="right"))


class ScoreCurve:
    """The posterior.

    Args:
        strata: Of the candidates.
        scores: Of all candidates, in descending order, `(n,)`.
        before: P(duplicate | score) of the decision that was there, if any.
        noise: Share of the answers that are wrong.
        dipped: Share of the curves, before any answer, whose best scores are right less often than the next.
    """

    def __init__(
        self,
        strata: Strata,
        scores: NDArray[np.floating],
        *,
        before: Probability | None = None,
        noise: float = 0.0,
        dipped: float = 0.0,
    ) -> None:
        self.strata, self._noise = strata, noise
        values = np.asarray(scores, np.float64)
        deviation = float(values.std()) or 1.0
        ranks = np.unique(np.geomspace(1, len(values), _CENTRES).astype(np.int64))
        centres = np.concatenate([[values[0] + deviation], values[ranks - 1], [values[-1] - 2 * deviation]])
        widths = deviation * np.geomspace(0.03, 2.0, _WIDTHS)
        even = _grid(_even(centres), _even(widths), _CEILINGS, _FLOORS, {0.0: 1.0}, {np.inf: 1.0})
        parts = [(even, 1.0 - dipped)]
        if dipped:
            ends = np.geomspace(max(5, len(values) // 400), max(5, len(values) / 4), _TOPS).astype(np.int64)
            tops = _even(values[np.minimum(np.unique(ends), len(values)) - 1])
            few = {u: _CEILINGS[u] for u in list(_CEILINGS)[::2]}, {f: _FLOORS[f] for f in list(_FLOORS)[::2]}
            parts.append((_grid(_even(centres[::2]), _even(widths[::2]), *few, _DIPS, tops), dipped))
        axes = np.concatenate([grid[:-1] for grid, _ in parts], axis=1)
        self._centre, self._width, self._ceiling, self._floor, self._dip, self._top = axes
        flat = np.concatenate([share * grid[-1] / grid[-1].sum() for grid, share in parts])
        self._log_weight = np.log(flat)
        self._per_stratum = self._curves(strata.scores)
        if before is not None:
            known = np.clip(before(strata.scores.astype(np.float64)), 1e-4, 1 - 1e-4)
            p = self._per_stratum
            share = (known * np.log(p) + (1 - known) * np.log1p(-p)) @ np.full(len(known), _BEFORE / len(known))
            near = np.exp(share - share.max()) * flat
            self._log_weight = np.log(0.5 * flat + 0.5 * near / near.sum())
        self.right, self.asked = np.zeros(len(strata.sizes)), np.zeros(len(strata.sizes))

    def _curves(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return what every curve says of scores, `(curves, scores)`."""
        z = (np.asarray(scores, np.float64)[None, :] - self._centre[:, None]) / self._width[:, None]
        low, high = self._floor[:, None], np.maximum(self._ceiling, self._floor)[:, None]
        p = low + (high - low) * from_log_odds(z)
        p = p * (1.0 - self._dip[:, None] * (np.asarray(scores)[None, :] >= self._top[:, None]))
        return np.clip(p, 1e-5, 1 - 1e-5)

    def add(self, score: float, stratum: int, right: bool) -> None:
        """Take an answer into account."""
        p = self._curves(np.array([score]))[:, 0]
        p = p + self._noise * (1 - 2 * p)
        self._log_weight = self._log_weight + np.log(p if right else 1 - p)
        self.right[stratum] += right
        self.asked[stratum] += 1

    @property
    def weights(self) -> NDArray[np.float64]:
        """Posterior probability of each curve."""
        weight = np.exp(self._log_weight - self._log_weight.max())
        return weight / weight.sum()

    def probability(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the expected P(duplicate) of scores: non-decreasing, as every curve is that has no dip."""
        return self.weights @ self._curves(scores)

    def draws(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return draws of the share of duplicates among the pairs of each stratum that nobody judged, `(count, h)`."""
        p = self._per_stratum[rng.choice(len(self._log_weight), size=count, p=self.weights)]
        right, wrong = self.right, self.asked - self.right
        if self._noise:  # of r right and w wrong ones so many were called right and wrong: what remains after that
            lost = np.minimum(self._noise * self.asked, right)
            right = right - lost
        return rng.beta(CONCENTRATION * p + right, CONCENTRATION * (1 - p) + wrong)

    def right_pairs(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return draws of how many pairs of each stratum are duplicates, those judged included, `(count, h)`."""
        left = np.round(self.strata.sizes - self.asked).astype(np.int64)
        return self.right + rng.binomial(left, self.draws(count, rng))


def _even(values: NDArray[np.floating]) -> dict[float, float]:
    return dict.fromkeys(values.tolist(), 1.0)


def _grid(*axes: Mapping[float, float]) -> NDArray[np.float64]:
    """Return every combination of values with the product of their weights as the last row, `(axes + 1, n)`."""
    values = np.meshgrid(*(np.array(list(axis)) for axis in axes), indexing="ij")
    weights = np.meshgrid(*(np.array(list(axis.values())) for axis in axes), indexing="ij")
    return np.stack([*(value.ravel() for value in values), np.prod(weights, axis=0).ravel()])
