"""What the scores of a collection tell without labels.

How many of the pairs found are right, where the decision knows picked pairs only (`estimate_collection`).

Pairs that people label were picked because they look alike, so the pairs of strangers among them score higher than
strangers do: a prior of all pairs of a collection (one in a thousand, say) put on top of their odds makes every
probability far too small. But the collection shows itself how many of its pairs reach a score.

And which pairs are duplicates, by the shape of the scores, where these form two heaps that stand apart (`two_heaps`).
Nothing is known of the heaps but their scores, so this is a first guess for the one who asks people, and never a
verdict: on pairs picked because they look alike, the heaps run into each other, and the guess would be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textsiam.decision.calibration import check_fraction, finite_scores
from textsiam.decision.curve import Probability
from textsiam.decision.decision import Decision

_BINS = 10
_APART = 2.5
_FEW = 50
_ENOUGH = 0.2  # share of the duplicates that must score above a threshold for the prior to be read there


@dataclass(frozen=True, eq=False)
class CollectionEstimate:
    """An estimate without labels: `prior` is the share of duplicates among all pairs.

    It takes the duplicates of the collection to score as those do that the decision was learned on. It is no promise.
    Between two of `edges` (b,), scores have one probability of `fitted` (b + 1,).
    """

    prior: float
    edges: NDArray[np.float64] = field(repr=False)
    fitted: NDArray[np.float64] = field(repr=False)

    def probability(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return P(duplicate) of pairs that were found, (p,)."""
        return self.fitted[np.searchsorted(self.edges, finite_scores(scores), side="right")]


def estimate_collection(
    decision: Decision, found: Iterable[ArrayLike], *, pairs: int, prior: float | None = None, copies: int = 0
) -> CollectionEstimate | None:
    """Estimate which of the pairs that a search found are duplicates, from the scores alone.

    Between two scores, π · pairs · (share of the known duplicates there) duplicates are expected among the pairs found
    there, and not more than those: P(duplicate | s) = π f₁(s) / f(s), made non-decreasing in s. Without a prior, π is
    the largest that the collection has room for, the minimum over s of (pairs found above s) / (pairs · recall(s)), as
    if its purest stretch were pure (Blanchard, Lee and Scott, "Semi-Supervised Novelty Detection", 2010).

    Args:
        decision: Learned on picked pairs.
        found: Scores of all pairs of the collection above some threshold, in blocks; looked through twice.
        pairs: How many pairs the collection has.
        prior: Share of duplicates among all of them.
        copies: How many of the pairs found are of equal texts: they score highest, and tell nothing of the others.

    Returns:
        The estimate; None where nothing but copies was found, or no known duplicate scores as high.

    Raises:
        ValueError: The prior is not between 0 and 1.
    """
    given = None if prior is None else check_fraction(prior, name="prior")
    lowest = min((float(finite_scores(block).min()) for block in found if np.size(block)), default=np.inf)
    known = np.sort(decision.scores[decision.labels == 1].astype(np.float64))
    above = known[known >= lowest]
    if not above.size:
        return None
    edges = np.unique(np.quantile(above, np.arange(1, _BINS) / _BINS, method="higher"))
    count = np.zeros(edges.size + 1)
    for block in found:
        count += np.bincount(np.searchsorted(edges, finite_scores(block), side="right"), minlength=edges.size + 1)
    top = np.flatnonzero(count)[-1]
    count[top] -= min(copies, count[top])
    if not count.any():
        return None
    share = np.bincount(np.searchsorted(edges, above, side="right"), minlength=edges.size + 1) / known.size
    if given is None:
        reached, recall = count[::-1].cumsum()[::-1], share[::-1].cumsum()[::-1]
        room = reached / (pairs * recall)
        given = min(float(room[recall >= min(_ENOUGH, recall[0])].min()), 0.5)
    filled = count > 0
    right, fitted = given * pairs * share[filled] / count[filled], np.zeros(edges.size + 1)
    fitted[filled] = np.minimum(rising(right, count[filled]), 1.0)
    return CollectionEstimate(given, edges, np.maximum.accumulate(fitted))


def rising(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return what is nearest to values `(n,)` among what never falls: isotonic regression, weighted `(n,)`.

    Neighbours that fall are pooled into their mean. (Loading scikit-learn's takes as long as encoding 1,000 questions.)
    """
    pools: list[tuple[float, float, int]] = []
    for mean, weight in zip(values.tolist(), weights.tolist(), strict=True):
        size = 1
        while pools and pools[-1][0] >= mean:
            lower, heavy, before = pools.pop()
            mean, weight, size = (lower * heavy + mean * weight) / (heavy + weight), heavy + weight, size + before
        pools.append((mean, weight, size))
    return np.repeat([mean for mean, _, _ in pools], [size for *_, size in pools])


def two_heaps(scores: ArrayLike) -> Probability | None:
    """Return P(upper heap | score) under a mixture of two normal distributions; None where they are not apart.

    They are apart where Ashman's D = |μ₁ - μ₀| / √((σ₀² + σ₁²) / 2) is at least 2.5; from 2 on, two heaps can be told
    from one (Ashman, Bird and Zepf, "Detecting bimodality in astronomical datasets", 1994).

    Args:
        scores: Of pairs, in any order, (p,).

    Returns:
        A function of scores, non-decreasing between the means of the heaps and constant beyond them; None also for
        fewer than fifty scores.
    """
    from sklearn.mixture import GaussianMixture

    values = np.asarray(scores, np.float64)
    if len(values) < _FEW or np.ptp(values) == 0:
        return None
    fitted = GaussianMixture(2, n_init=3, random_state=0).fit(values[:, None])
    centres, spreads = np.asarray(fitted.means_)[:, 0], np.asarray(fitted.covariances_)[:, 0, 0]
    low, high = np.argsort(centres)
    means, variances = centres[[low, high]], spreads[[low, high]]
    if means[1] - means[0] < _APART * np.sqrt(variances.mean()):
        return None

    def probability(wanted: NDArray[np.float64]) -> NDArray[np.float64]:
        between = np.clip(wanted, means[0], means[1])
        return fitted.predict_proba(np.asarray(between, np.float64)[:, None])[:, high]

    return probability
