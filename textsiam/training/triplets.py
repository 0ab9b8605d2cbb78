"""Triplets from labelled pairs: negatives drawn over the whole corpus, never from the anchor's own cluster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textsiam.data.pairs import Pairs


def draw_negatives(pairs: Pairs, clusters: np.ndarray, *, seed: int | Sequence[int] = 0) -> np.ndarray:
    """Draw for each pair a text that is no duplicate of its left text.

    A labelled non-duplicate of the left text is preferred (they were chosen to be hard); where there is none,
    any text of another cluster is drawn.

    Args:
        pairs: n labelled pairs over m texts.
        clusters: Cluster of each text, `(m,)`.
        seed: Fixes the draw.

    Returns:
        Index of a text for each pair, `(n,)` int64; its cluster differs from that of the left text.

    Raises:
        ValueError: All texts are of one cluster, so that no negative exists.
    """
    if clusters.min() == clusters.max():
        raise ValueError(f"{pairs.source}: all texts are duplicates of each other, no negative can be drawn")
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(pairs.texts), size=len(pairs))
    clash = np.flatnonzero(clusters[drawn] == clusters[pairs.left])
    while len(clash):
        drawn[clash] = rng.integers(len(pairs.texts), size=len(clash))
        clash = clash[clusters[drawn[clash]] == clusters[pairs.left[clash]]]

    labelled = pairs.labels == 0
    anchor = np.concatenate([pairs.left[labelled], pairs.right[labelled]])
    other = np.concatenate([pairs.right[labelled], pairs.left[labelled]])
    apart = clusters[anchor] != clusters[other]  # a contradictory label must not make a duplicate a negative
    anchor, other = anchor[apart], other[apart]
    order = np.argsort(anchor, kind="stable")
    anchor, other = anchor[order], other[order]
    first = np.searchsorted(anchor, pairs.left, side="left")
    count = np.searchsorted(anchor, pairs.left, side="right") - first
    has = count > 0
    picked = first[has] + (rng.random(int(has.sum())) * count[has]).astype(np.int64)
    drawn[has] = other[picked]
    return drawn
