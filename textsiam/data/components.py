"""Connected components: what hangs together through edges, and names of groups through what they share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def connected_components(n: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Number the connected components of an undirected graph, by first appearance.

    Args:
        n: the number of nodes.
        left: one end of each edge (e,), in 0..n-1.
        right: the other end (e,).

    Returns:
        The component of each node (n,) int32: node 0 is in component 0, the first node outside it in 1, ….

    Raises:
        ValueError: the ends differ in number or lie outside 0..n-1.
    """
    from scipy.sparse import coo_matrix, csgraph

    left, right = np.asarray(left), np.asarray(right)
    if left.shape != right.shape:
        raise ValueError(f"edges need two ends each, got {left.shape} left and {right.shape} right")
    if left.size and not 0 <= min(left.min(), right.min()) <= max(left.max(), right.max()) < n:
        raise ValueError(f"an edge leaves the {n} nodes")
    if n == 0:
        return np.zeros(0, dtype=np.int32)
    graph = coo_matrix((np.ones(left.size, dtype=np.int8), (left, right)), shape=(n, n))
    _, labels = csgraph.connected_components(graph, directed=False)
    return by_first_appearance(labels)


class Components:
    """The connected components of n nodes, whose edges come in any number of blocks: union-find.

    Args:
        n: the number of nodes; 4 bytes of memory each, 8 from 2³¹ nodes on.
    """

    def __init__(self, n: int) -> None:
        self._parent = np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        """Add edges, given by their ends (e,), (e,) in 0..n-1.

        Raises:
            ValueError: an end lies outside 0..n-1.
        """
        n = len(self._parent)
        if len(left) and not 0 <= min(left.min(), right.min()) <= max(left.max(), right.max()) < n:
            raise ValueError(f"an edge leaves the {n} nodes")
        a, b = self._roots(left), self._roots(right)
        apart = a != b
        nodes, ends = np.unique(np.concatenate([a[apart], b[apart]]), return_inverse=True)
        component = connected_components(len(nodes), *np.split(ends, 2))
        _, first = np.unique(component, return_index=True)
        self._parent[nodes] = nodes[first][component]

    def smallest(self) -> np.ndarray:
        """Return the smallest node of each one's component (n,); not a copy."""
        while (above := self._parent[self._parent] != self._parent).any():
            self._parent[above] = self._parent[self._parent[above]]
        return self._parent

    def _roots(self, nodes: np.ndarray) -> np.ndarray:
        roots = self._parent[nodes]
        while ((above := self._parent[roots]) != roots).any():
            roots = above
        self._parent[nodes] = roots
        return roots


def by_first_appearance(labels: np.ndarray) -> np.ndarray:
    """Renumber groups 0, 1, 2, … in the order in which they first appear (n,) int32."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[inverse]


def group_edges(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chain the members of each group: the edges (e,), (e,) under which a group is connected.

    Args:
        groups: the group of each node (m,); −1 is no group.
    """
    known = np.flatnonzero(groups >= 0)
    order = known[np.argsort(groups[known], kind="stable")]
    same = groups[order[1:]] == groups[order[:-1]]
    return order[:-1][same], order[1:][same]


def joined_groups(places: Sequence[np.ndarray], groups: Sequence[np.ndarray | None], count: int) -> np.ndarray | None:
    """Put together the groups of several lists of nodes: groups are apart unless they share a node.

    Args:
        places: for each list, the node of each of its members.
        groups: for each list, the group of each of its members (−1 = unknown), or None.
        count: the number of nodes.

    Returns:
        The group of each node (count,) int32, −1 where no list knows one; None where no list has groups.
    """
    if all(each is None for each in groups):
        return None
    nodes, names, offset = [], [], 0
    for place, group in zip(places, groups, strict=True):
        if group is not None and len(group):
            known = group >= 0
            nodes.append(place[known])
            names.append(group[known].astype(np.int64) + offset)
            offset += int(group.max()) + 1
    joined = np.full(count, -1, dtype=np.int32)
    if nodes:
        node = np.concatenate(nodes)
        _, name = np.unique(np.concatenate(names), return_inverse=True)
        together = connected_components(count + int(name.max(initial=-1)) + 1, node, count + name)
        joined[node] = by_first_appearance(together[node])
    return joined
