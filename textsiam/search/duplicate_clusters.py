"""Clusters of texts: those of distinct texts, with all copies; the most central text first."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

from textsiam.data.tables.arrays import Vectors
from textsiam.search.clusters import stream_clusters
from textsiam.search.exact_duplicates import ExactDuplicates
from textsiam.search.join.exact import FoundPairs
from textsiam.search.join.sorted_pairs import Room

_ROWS = 4096  # vectors that are looked at together


class Clusters(Sequence[list[int]]):
    """Groups of texts, larger ones first, groups of one size in order of their first text.

    Args:
        members: The texts of all groups, group by group, `(m,)` int64.
        sizes: How many each group has, `(c,)`.
    """

    def __init__(self, members: np.ndarray, sizes: np.ndarray) -> None:
        self._members, self._sizes = members, sizes
        self._starts = np.cumsum(sizes) - sizes
        self._order = np.lexsort((members[self._starts], -sizes)) if len(sizes) else sizes

    def __len__(self) -> int:
        """Count the groups."""
        return len(self._order)

    @overload
    def __getitem__(self, place: int) -> list[int]: ...
    @overload
    def __getitem__(self, place: slice) -> list[list[int]]: ...
    def __getitem__(self, place: int | slice) -> list[int] | list[list[int]]:
        """Return the texts of a group, or of some."""
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        group = self._order[place]
        return self._members[self._starts[group] : self._starts[group] + self._sizes[group]].tolist()

    def __eq__(self, other: object) -> bool:
        """Say whether these are the same groups, in this order."""
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(list.__eq__, self, other))

    __hash__ = None  # pyright: ignore[reportAssignmentType]


def clusters_of_texts(
    vectors: Vectors, found: Iterable[FoundPairs], copies: ExactDuplicates, equal: np.ndarray, room: Room
) -> Clusters:
    """Return groups of texts whose every pair was found, those nearest to their group's mean first.

    Copies have the same pairs, and are each other's nearest: they are always together, and one stands for all.

    Args:
        vectors: Of m distinct texts.
        found: Their pairs, as for `stream_clusters`.
        copies: The texts that are equal to each.
        equal: Distinct texts whose copies are a group where there is no larger one.
        room: As for `stream_clusters`.
    """
    sizes = array("q")

    def groups() -> Iterator[tuple[np.ndarray]]:
        alone = np.zeros(len(vectors), bool)
        alone[equal] = True
        for group in stream_clusters(len(vectors), found, room):
            alone[group] = False
            nearest_first = group[np.argsort(-_centrality(vectors, group, copies.count[group]), kind="stable")]
            yield (np.concatenate([copies.of(kind) for kind in nearest_first.tolist()]),)
        for kind in np.flatnonzero(alone).tolist():
            yield (copies.of(kind),)

    def counted() -> Iterator[tuple[np.ndarray]]:
        for group in groups():
            sizes.append(len(group[0]))
            yield group

    (members,) = room.columns("members", counted(), [np.int64])
    return Clusters(members, np.array(sizes, np.int64))


def _centrality(vectors: Vectors, group: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return how near each vector of a group is to their mean, rounded so that the nearest of two is the first."""
    parts = [slice(start, start + _ROWS) for start in range(0, len(group), _ROWS)]
    weights = count.astype(np.float64)
    mean = sum(weights[part] @ vectors[group[part]] for part in parts) / weights.sum()
    return np.concatenate([np.round(vectors[group[part]] @ mean, 5) for part in parts])
