"""Clusters of found pairs by complete linkage: a chain of lookalikes is no cluster."""

from __future__ import annotations

import numpy as np

from textsiam.data.components import connected_components


def complete_clusters(n: int, left: np.ndarray, right: np.ndarray, similarity: np.ndarray) -> list[np.ndarray]:
    """Merge nodes greedily, the most similar pair first, as long as every pair of the merged cluster was found.

    A merge needs every pair between two clusters, so what a cluster may merge with is the intersection of what its
    parts could: these sets only shrink, and each step takes at least one entry out of one. The work grows with the
    number of pairs, whether they form many small components or a giant one.

    Args:
        n: The number of nodes.
        left: One end of each pair, `(p,)`, in 0..n-1; no pair is given twice.
        right: The other end, `(p,)`.
        similarity: `(p,)`; among equal ones the earlier pair is merged first.

    Returns:
        The clusters of two nodes and more: nodes in ascending order, in the order of their first nodes.

    Raises:
        ValueError: As for `connected_components`; a similarity is not a number.

    Example:
        >>> found = np.array([0, 1, 2]), np.array([1, 2, 3]), np.array([0.8, 0.9, 0.8])  # a chain
        >>> [c.tolist() for c in complete_clusters(4, *found)]
        [[1, 2]]
    """
    if np.isnan(similarity).any():
        raise ValueError(f"the similarity of pair {int(np.isnan(similarity).argmax())} is not a number")
    component = connected_components(n, left, right)
    clusters = _whole_components(component, left)
    done = np.zeros(n, bool)
    done[np.concatenate([np.zeros(0, np.int64), *clusters])] = True
    rest = ~done[left]
    clusters += _merged(left[rest], right[rest], similarity[rest])
    return sorted(clusters, key=lambda cluster: int(cluster[0]))


def _whole_components(component: np.ndarray, left: np.ndarray) -> list[np.ndarray]:
    """Return the components in which every pair was found: merging ends with all of their nodes in any order."""
    size = np.bincount(component)
    pairs = np.bincount(component[left], minlength=len(size))
    whole = (size > 1) & (pairs == size * (size - 1) // 2)
    nodes = np.flatnonzero(whole[component])
    nodes = nodes[np.argsort(component[nodes], kind="stable")]
    return np.split(nodes, np.cumsum(size[whole])[:-1]) if len(nodes) else []


def _merged(left: np.ndarray, right: np.ndarray, similarity: np.ndarray) -> list[np.ndarray]:
    """Return the clusters that greedy merging ends with; see `complete_clusters`."""
    if not len(left):
        return []
    nodes, ends = np.unique(np.concatenate([left, right]), return_inverse=True)
    a, b = ends[: len(left)], ends[len(left) :]
    near = _neighbours(len(nodes), a, b)
    members: list[list[int]] = [[i] for i in range(len(nodes))]
    cluster = list(range(len(nodes)))  # of each node
    order = np.argsort(-similarity, kind="stable")
    for x, y in zip(a[order].tolist(), b[order].tolist(), strict=True):
        one, other = cluster[x], cluster[y]
        if one == other or other not in near[one]:
            continue
        if len(near[one]) + len(members[one]) < len(near[other]) + len(members[other]):
            one, other = other, one
        _merge(near, one, other)
        for node in members[other]:
            cluster[node] = one
        members[one] += members[other]
        members[other] = []
    return [nodes[sorted(group)] for group in members if len(group) > 1]


def _neighbours(n: int, left: np.ndarray, right: np.ndarray) -> list[set[int]]:
    """Return the nodes that each of n nodes was found with."""
    ends, others = np.concatenate([left, right]), np.concatenate([right, left])
    others = others[np.argsort(ends, kind="stable")]
    stops = np.cumsum(np.bincount(ends, minlength=n)).tolist()
    return [set(others[start:stop].tolist()) for start, stop in zip([0, *stops], stops, strict=False)]


def _merge(near: list[set[int]], one: int, other: int) -> None:
    """Put a cluster into another: what was near both is near the merged one, what was near either no more."""
    near[one].discard(other)
    near[other].discard(one)
    for third in near[other]:
        near[third].discard(other)
    lost = near[one] - near[other]
    for third in lost:
        near[third].discard(one)
    near[one] -= lost
    near[other] = set()
