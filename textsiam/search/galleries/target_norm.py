"""What is asked of a claim depends on how alike the inputs of the claimed identity are among themselves.

Some people sign alike every time, others never twice. One threshold for all rejects the second, and lets those pass who
imitate the first. Target-centric score normalization takes from each score what the identity's own inputs, each left
out in turn, show to be usual for it (Fierrez-Aguilar, Ortega-Garcia and Gonzalez-Rodriguez, "Target Dependent Score
Normalization Techniques and Their Application to Signature Verification", 2005); here only a part of it, as large as
enrolled identities show that it helps: for wordings of one question, say, nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from textsiam.models.scorer import Scorer
from textsiam.search.galleries.scores import directions, scores_of

MOST = 5
"""From so many inputs of an identity on the norm is the same."""
_LEAST = 4  # identities that a weight is learned from
_IDENTITIES, _PROBES, _SPLITS = 200, 5, 10


class TargetNorm(NamedTuple):
    """What identities of so many inputs have taken from their scores: `weight · (own similarity − usual)`.

    Attributes:
        weight: In 0 to 1.
        usual: The own similarity of the mean identity, so that scores stay where they were.
    """

    weight: float
    usual: float


def own_similarities(twin: Scorer, references: Sequence[np.ndarray]) -> NDArray[np.float64]:
    """Return how alike the inputs of identities are, (identities,): of each to the mean of the others, on average.

    Args:
        twin: What scores.
        references: Unit vectors (m, dim) of the inputs of each. Where m is below 2 it is nan.
    """
    found = np.full(len(references), np.nan)
    several = [i for i, own in enumerate(references) if len(own) > 1]
    if not several:
        return found
    counts = np.array([len(references[i]) for i in several])
    every = np.concatenate([references[i] for i in several])
    starts = np.r_[0, counts.cumsum()[:-1]]
    sums = np.add.reduceat(every.astype(np.float64), starts, axis=0)
    scores = twin.vector_similarity(every, directions(np.repeat(sums, counts, axis=0) - every))
    found[several] = np.add.reduceat(scores.astype(np.float64), starts) / counts
    return found


def offsets(norms: Mapping[int, TargetNorm], counts: Sequence[int], own: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return what is taken from the scores of identities, (identities,); 0 for those of one input.

    Args:
        norms: By the number of inputs from which each holds; none has nothing taken.
        counts: How many inputs each identity has, (identities,).
        own: Their own similarities, (identities,).
    """
    if not norms:
        return np.zeros(len(counts), np.float32)
    least = sorted(norms)
    rows = np.array([(0.0, 0.0), *(norms[n] for n in least)])
    weights, usual = rows[np.searchsorted(least, counts, side="right")].T
    return np.where(weights > 0, weights * (own - usual), 0.0).astype(np.float32)


def fit_target_norms(twin: Scorer, inputs: Sequence[np.ndarray]) -> dict[int, TargetNorm]:
    """Learn from identities of several inputs how much of their own similarity is taken from scores.

    Some inputs of each identity stand for those enrolled, the others claim to be it and to be everybody else, ten times
    drawn. The weight is the slope of scores over own similarities, the mean of that of genuine scores and that of
    impostors': with scores that are normal given the own similarity, alike spread on both sides, it separates them best
    (Fisher's linear discriminant). A slope of impostors below zero counts as none: it is that of those far away, whom
    no threshold takes for the identity. Where the own similarity says nothing of genuine scores, nothing is taken.

    Args:
        twin: One tower for both sides; with two, inputs of one side say little of the other, and nothing is learned.
        inputs: Unit vectors (m, dim) of each identity: those enrolled, and others that are known to be of it.

    Returns:
        Norms of identities of 2, 3, 4, 5 and more inputs, as far as four identities have as many. Where no four have
        one more, the weight is that of fewer inputs.
    """
    rng, found = np.random.default_rng(0), dict[int, TargetNorm]()
    if twin.right is not None:
        return found
    order, weight = rng.permutation(len(inputs)), None
    for count in range(2, MOST + 1):
        known = [inputs[i] for i in order if len(inputs[i]) >= count][:_IDENTITIES]
        if len(known) < _LEAST:
            break
        usual = np.mean([own_similarities(twin, _drawn(rng, known, count)[0]).mean() for _ in range(_SPLITS)])
        claimed = [own for own in known if len(own) > count]
        if len(claimed) >= _LEAST:
            drawn = [_slopes(twin, *_drawn(rng, claimed, count)) for _ in range(_SPLITS)]
            genuine, impostor = np.mean(drawn, axis=0)
            weight = float(np.clip((genuine + max(impostor, 0.0)) / 2.0, 0.0, 1.0))
        if weight is not None:
            found[count] = TargetNorm(weight, float(usual))
    return found


def _drawn(
    rng: np.random.Generator, inputs: Sequence[np.ndarray], count: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return `count` drawn inputs of each identity, and up to five of its others."""
    orders = [rng.permutation(len(own)) for own in inputs]
    enrolled = [own[order[:count]] for own, order in zip(inputs, orders, strict=True)]
    return enrolled, [own[order[count : count + _PROBES]] for own, order in zip(inputs, orders, strict=True)]


def _slopes(twin: Scorer, enrolled: list[np.ndarray], others: list[np.ndarray]) -> tuple[float, float]:
    """Return the slopes of genuine and of impostor scores over own similarities, by least squares, identities alike."""
    own = own_similarities(twin, enrolled)
    means = directions([vectors.sum(axis=0, dtype=np.float64) for vectors in enrolled])
    counts = [len(vectors) for vectors in others]
    scores = scores_of(twin, np.concatenate(others), means).astype(np.float64)
    cells = np.add.reduceat(scores, np.r_[0, np.cumsum(counts)[:-1]], axis=0) / np.array(counts)[:, None]
    genuine = np.diag(cells)
    impostor = (cells.sum(axis=0) - genuine) / (len(cells) - 1)
    apart = own - own.mean()
    spread = float(apart @ apart)
    return (float(apart @ genuine) / spread, float(apart @ impostor) / spread) if spread > 0 else (0.0, 0.0)
