"""Clusters of duplicates: if a asks what b asks, and b what c asks, then a, b and c are one question."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textsiam.data.pairs import Pairs
from textsiam.data.repeats import find_repeats

_ASCII = bytes(ord(chr(i).lower()) if chr(i).isalnum() and i < 128 else 32 for i in range(256))


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


def by_first_appearance(labels: np.ndarray) -> np.ndarray:
    """Renumber groups 0, 1, 2, … in the order in which they first appear (n,) int32."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[inverse]


def cluster_ids(pairs: Pairs) -> np.ndarray:
    """Give each text (m,) int32 its duplicate cluster: the component under the pairs labelled 1.

    Example:
        >>> pairs = Pairs.from_texts(["a", "b", "d"], ["b", "c", "a"], [1, 1, 0])
        >>> dict(zip(pairs.texts, cluster_ids(pairs).tolist()))
        {'a': 0, 'b': 0, 'c': 0, 'd': 1}
    """
    edges = pairs.labels == 1
    return connected_components(len(pairs.texts), pairs.left[edges], pairs.right[edges])


def canonical(pairs: Pairs, clusters: np.ndarray) -> np.ndarray:
    """Choose the text that stands for each cluster: most duplicate edges, then shortest, then first.

    Args:
        pairs: the pairs whose texts are clustered.
        clusters: the cluster of each text (m,), numbered from 0.

    Returns:
        The index of a text for each cluster (k,) int32.
    """
    edges = (pairs.labels == 1) & (pairs.left != pairs.right)
    ends = np.concatenate([pairs.left[edges], pairs.right[edges]])
    degree = np.bincount(ends, minlength=len(pairs.texts))
    lengths = np.fromiter(map(len, pairs.texts), dtype=np.int64, count=len(pairs.texts))
    order = np.lexsort((lengths, -degree, clusters))  # stable: first text first among equals
    _, first = np.unique(clusters[order], return_index=True)
    return order[first].astype(np.int32)


@dataclass(frozen=True, eq=False)
class Contradictions:
    """Rows whose labels cannot all be true.

    `direct` rows are of an unordered pair that occurs with both labels, or of two equal texts labelled 0;
    `transitive` rows are labelled 0 although both texts are in one duplicate cluster (and are not direct).
    """

    direct: np.ndarray
    transitive: np.ndarray


def contradictions(pairs: Pairs, clusters: np.ndarray) -> Contradictions:
    """Find the rows whose label contradicts another row (direct) or a chain of duplicates (transitive).

    Args:
        pairs: the pairs.
        clusters: the duplicate cluster of each text (m,), from `cluster_ids`.
    """
    direct = find_repeats(pairs.left, pairs.right, pairs.labels).contradictory
    inside = (pairs.labels == 0) & (clusters[pairs.left] == clusters[pairs.right])
    return Contradictions(np.flatnonzero(direct), np.flatnonzero(inside & ~direct))


def normalised(text: str) -> str:
    """Fold case and squeeze punctuation and whitespace: texts equal after this are near-identical.

    A text of nothing but punctuation stays as it is. Combining marks count as letters.

    Example:
        >>> normalised("What's  YOUR age??")
        'what s your age'
    """
    if text.isascii():
        plain = text.encode().translate(_ASCII).decode()
    else:
        composed = unicodedata.normalize("NFKC", text.casefold()).casefold()
        plain = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in composed)
    return " ".join(plain.split()) or text


def near_identical(texts: Sequence[str]) -> np.ndarray:
    """Number the groups of near-identical texts (m,) int32, by first appearance."""
    index: dict[str, int] = {}
    groups = [index.setdefault(normalised(text), len(index)) for text in texts]
    return np.array(groups, dtype=np.int32)
