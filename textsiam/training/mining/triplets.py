"""Triplets from labelled pairs: negatives from the whole corpus, never from the anchor's own cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from textsiam.data.pairs import Pairs
from textsiam.data.tables.writers import write_table


@dataclass(frozen=True, eq=False)
class Triplets:
    """Duplicates with negatives that were mined for them; row i of every array belongs to triplet i.

    Attributes:
        pairs: The labelled pairs that the duplicates are of.
        row: Which pair is anchor (its left text) and positive (its right text), `(t,)` int64, ascending.
        negative: Index of the negative in `pairs.texts`, `(t,)` int64.
        positive_distance: Distance of anchor and positive, `(t,)` float32.
        negative_distance: Distance of anchor and negative, `(t,)` float32.
        searched: For how many pairs negatives were looked for.
        dropped: Texts that had the right distance and were no negatives nevertheless, counted by reason.
    """

    pairs: Pairs
    row: np.ndarray
    negative: np.ndarray
    positive_distance: np.ndarray
    negative_distance: np.ndarray
    searched: int
    dropped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.row)

    @property
    def anchor(self) -> np.ndarray:
        """Index of the anchor in `pairs.texts`, `(t,)`."""
        return self.pairs.left[self.row]

    @property
    def positive(self) -> np.ndarray:
        """Index of the positive in `pairs.texts`, `(t,)`."""
        return self.pairs.right[self.row]

    @property
    def found(self) -> int:
        """For how many pairs there is a negative."""
        return len(np.unique(self.row))

    def summary(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        return {
            "texts": len(self.pairs.texts),
            "searched": self.searched,
            "found": self.found,
            "triplets": len(self),
            "dropped": dict(self.dropped),
        }

    def by_pair(self, count: int) -> np.ndarray:
        """Return up to `count` negatives of every pair, labelled duplicate or not, `(n, count)` int64; −1 = no more."""
        table = np.full((len(self.pairs), count), -1)
        place = np.arange(len(self)) - np.searchsorted(self.row, self.row)
        table[self.row[place < count], place[place < count]] = self.negative[place < count]
        return table

    def to_pairs(self) -> Pairs:
        """Return the pairs, and after them each mined (anchor, negative) that they do not hold yet, labelled 0."""
        return with_negatives(self.pairs, self.row, self.negative)

    def write(self, path: str | Path) -> Path:
        """Write columns anchor, positive, negative to a .tsv, .csv or .jsonl file; `read_pairs` reads it.

        Raises:
            DataError: The ending is none of these, or the file cannot be written.
        """
        columns = ("anchor", "positive", "negative")
        texts = self.pairs.texts
        ends = zip(self.anchor.tolist(), self.positive.tolist(), self.negative.tolist(), strict=True)
        return write_table(path, columns, [dict(zip(columns, (texts[i] for i in row), strict=True)) for row in ends])


def with_negatives(pairs: Pairs, row: np.ndarray, negative: np.ndarray) -> Pairs:
    """Return pairs, and after them left texts with negatives, labelled 0, but for what the pairs hold already.

    Args:
        pairs: Labelled pairs.
        row: Whose left texts, `(t,)` int64.
        negative: Index of the negative of each in `pairs.texts`, `(t,)` int64.
    """
    left = np.concatenate([pairs.left, pairs.left[row]]).astype(np.int64)
    right = np.concatenate([pairs.right, negative])
    key = np.minimum(left, right) * len(pairs.texts) + np.maximum(left, right)
    _, first = np.unique(key, return_index=True)
    added = np.sort(first[first >= len(pairs)])
    rows = np.concatenate([np.arange(len(pairs)), added])
    labels = np.concatenate([pairs.labels, np.zeros(len(added), np.int8)])
    return replace(pairs, left=left[rows], right=right[rows], labels=labels)


def draw_negatives(
    pairs: Pairs, clusters: np.ndarray, *, mined: np.ndarray | None = None, seed: int | Sequence[int] = 0
) -> np.ndarray:
    """Draw for each pair a text that is no duplicate of its left text.

    A mined negative of the pair is preferred, then a labelled non-duplicate of the left text (they were chosen to be
    hard); where there is neither, any text of another cluster is drawn.

    Args:
        pairs: n labelled pairs over m texts.
        clusters: Cluster of each text, `(m,)`.
        mined: Negatives of each pair, `(n, k)`, filled up with −1; see `Triplets.by_pair`.
        seed: Fixes the draw.

    Returns:
        Index of a text for each pair, `(n,)` int64; its cluster differs from that of the left text.

    Raises:
        ValueError: All texts are of one cluster, so that no negative exists.
    """
    check_apart(pairs, clusters)
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
    if mined is not None:
        has = np.flatnonzero(mined[:, 0] >= 0)
        column = (rng.random(len(has)) * (mined[has] >= 0).sum(1)).astype(np.int64)
        drawn[has] = mined[has, column]
    return drawn


def check_apart(pairs: Pairs, clusters: np.ndarray) -> None:
    """Raise a ValueError where all texts are of one cluster, so that no negative exists."""
    if clusters.min() == clusters.max():
        raise ValueError(f"{pairs.source}: all texts are duplicates of each other, no negative can be drawn")
