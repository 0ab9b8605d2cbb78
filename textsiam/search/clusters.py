"""Clusters of found pairs by complete linkage: a chain of lookalikes is no cluster."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from textsiam.data.components import Components
from textsiam.search.join.exact import FoundPairs
from textsiam.search.join.sorted_pairs import COLUMNS, MEMORY, Blocks, Room, slices, sorted_blocks

_NONE: frozenset[int] = frozenset()


def complete_clusters(n: int, left: np.ndarray, right: np.ndarray, similarity: np.ndarray) -> list[np.ndarray]:
    """Merge nodes greedily, the most similar pair first, as long as every pair of the merged cluster was found.

    A merge needs every pair between two clusters, so what a cluster may merge with are the nodes that all of its
    members were found with: these sets only shrink. The work grows with the number of pairs, whether they form many
    small components or a giant one.

    Args:
        n: The number of nodes.
        left: One end of each pair, `(p,)`, in 0..n-1; no pair is given twice.
        right: The other end, `(p,)`.
        similarity: `(p,)`; among equal ones the pair of smaller nodes is merged first, by its left end, then its right.

    Returns:
        The clusters of two nodes and more: nodes in ascending order, in the order of their first nodes.

    Raises:
        ValueError: As for `Components.join`; a similarity is not a number.

    Example:
        >>> found = np.array([0, 1, 2]), np.array([1, 2, 3]), np.array([0.8, 0.9, 0.8])  # a chain
        >>> [c.tolist() for c in complete_clusters(4, *found)]
        [[1, 2]]
    """
    if np.isnan(similarity).any():
        raise ValueError(f"the similarity of pair {int(np.isnan(similarity).argmax())} is not a number")
    clusters = stream_clusters(n, [FoundPairs(left, right, similarity)], MEMORY)
    return sorted(clusters, key=lambda cluster: int(cluster[0]))


def stream_clusters(n: int, pairs: Iterable[FoundPairs], room: Room) -> Iterator[np.ndarray]:
    """Yield the clusters of `complete_clusters` in any order, whatever the number of pairs.

    Components in which every pair was found are clusters. The pairs of the others are sorted by buckets of whole
    components that fit into memory. A component that does not fit is a bucket of its own: its pairs and the neighbours
    of its nodes stay on the disk, 28 bytes a pair, and in memory are only its nodes, and the common neighbours of the
    clusters that have begun in it.

    Args:
        n: The number of nodes: some 36 bytes of memory each.
        pairs: The pairs, of which no similarity is NaN, in blocks; looked through three times.
        room: How many pairs may be in memory, about 200 bytes each, and where the others go.
    """
    together = Components(n)
    for left, right, _ in pairs:
        together.join(left, right)
    component, size = _numbered(together.smallest())
    del together
    count = np.zeros(len(size), np.int64)
    for left, *_ in pairs:
        np.add.at(count, component[left], 1)
    whole = count == size * (size - 1) // 2
    yield from _nodes(component, whole, component)
    count[whole] = 0
    bucket = _buckets(count, room)[component]
    rest = sorted_blocks(Blocks(lambda: _without(pairs, component, whole)), room, group=bucket)
    held: list[FoundPairs] = []
    place = np.empty(n, component.dtype)  # of each node among those of its bucket
    for nodes in _nodes(bucket, ~whole, component):
        place[nodes] = np.arange(len(nodes))
        total = int(count[np.unique(component[nodes])].sum())
        within = MEMORY if room.fits(total) else room
        left, right, _ = within.columns("component", _taken(rest, held, total), COLUMNS)
        yield from _linked(nodes, place, left, right, room)


def _numbered(root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each node's component, `(n,)`, and the sizes; the last number is of all that are alone."""
    size = np.bincount(root)
    roots = np.flatnonzero(size > 1)
    number = np.full(len(root), len(roots), root.dtype)
    number[roots] = np.arange(len(roots))
    return number[root], np.append(size[roots], 0)


def _nodes(key: np.ndarray, chosen: np.ndarray, component: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the nodes of chosen components that have one key, in ascending order, key by key."""
    nodes = np.flatnonzero(component < len(chosen) - 1)
    nodes = nodes[chosen[component[nodes]]]
    nodes = nodes[np.argsort(key[nodes], kind="stable")]
    stops = np.append(np.flatnonzero(np.diff(key[nodes])) + 1, len(nodes)).tolist()
    for start, stop in zip([0, *stops], stops, strict=False):
        if stop > start:
            yield nodes[start:stop]


def _buckets(count: np.ndarray, room: Room) -> np.ndarray:
    """Return the bucket of each component, given its pairs `(c,)`: they fit into memory, or are one component's."""
    if room.pairs is None:
        return np.zeros(len(count), np.int32)
    large = count > room.pairs // 2
    small = np.where(large, 0, count)
    bucket = (np.cumsum(small) - small) // max(1, room.pairs // 2)
    bucket[large] = bucket.max(initial=0) + 1 + np.arange(large.sum())
    return bucket.astype(np.int32)


def _without(pairs: Iterable[FoundPairs], component: np.ndarray, whole: np.ndarray) -> Iterator[FoundPairs]:
    """Yield the pairs of components that are not whole."""
    for block in pairs:
        kept = ~whole[component[block.left]]
        yield FoundPairs(*(column[kept] for column in block))


def _taken(blocks: Iterator[FoundPairs], held: list[FoundPairs], count: int) -> Iterator[FoundPairs]:
    """Yield the next pairs, so many of them; what is left of a block is held."""
    while count:
        block = held.pop() if held else next(blocks)
        if len(block.left) > count:
            held.append(FoundPairs(*(column[count:] for column in block)))
            block = FoundPairs(*(column[:count] for column in block))
        count -= len(block.left)
        yield block


def _linked(
    nodes: np.ndarray, place: np.ndarray, left: np.ndarray, right: np.ndarray, room: Room
) -> Iterator[np.ndarray]:
    """Yield the clusters that greedy merging of the nodes of some pairs, best first, ends with."""
    start, others = _neighbours(len(nodes), place, left, right, room)
    cluster = array("q", range(len(nodes)))  # of each node
    members: dict[int, list[int]] = {}  # of clusters of two and more,
    near: dict[int, set[int] | frozenset[int]] = {}  # and the nodes that all of these were found with

    def found_with(one: int) -> list[int] | set[int] | frozenset[int]:
        return near.pop(one) if one in near else others[start[one] : start[one + 1]].tolist()

    for block in slices(left, right):
        for x, y in zip(*(place[ends].tolist() for ends in block), strict=True):
            one, other = cluster[x], cluster[y]
            if one == other or (one in near and y not in near[one]) or (other in near and x not in near[other]):
                continue
            if len(members.get(one, ())) < len(members.get(other, ())):
                one, other = other, one  # the smaller one moves
            if other in near and not near[one].issuperset(members[other]):
                continue
            few, many = sorted((found_with(one), found_with(other)), key=len)
            near[one] = set(few).intersection(many) or _NONE
            added = members.pop(other, [other])
            members.setdefault(one, [one]).extend(added)
            for node in added:
                cluster[node] = one
    for group in members.values():
        yield nodes[sorted(group)]


def _neighbours(
    k: int, place: np.ndarray, left: np.ndarray, right: np.ndarray, room: Room
) -> tuple[array[int], np.ndarray]:
    """Return where the neighbours of each of k nodes start, k + 1 numbers, and the neighbours, as their places."""
    degree = np.zeros(k, np.int64)
    for block in slices(left, right):
        for ends in block:
            np.add.at(degree, place[ends], 1)
    start = np.concatenate([[0], np.cumsum(degree)])
    others = room.empty("neighbours", int(start[-1]), place.dtype)
    free = start[:-1].copy()
    for block in slices(left, right):
        a, b = (place[ends] for ends in block)
        ends, opposite = np.concatenate([a, b]), np.concatenate([b, a])
        order = np.argsort(ends, kind="stable")
        owners, first, times = np.unique(ends[order], return_index=True, return_counts=True)
        nth = np.arange(len(order)) - np.repeat(first, times)
        others[np.repeat(free[owners], times) + nth] = opposite[order]
        free[owners] += times
    return array("q", start.tobytes()), others
