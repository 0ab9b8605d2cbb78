"""P(duplicate | score) from the shape of the scores alone: two heaps, where they stand apart.

Nothing is known of the heaps but their scores, so this is a first guess for the one who asks people, and never a
verdict: on pairs picked because they look alike, the heaps run into each other, and the guess would be wrong.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textsiam.decision.curve import Probability

_APART = 2.5
_FEW = 50


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
