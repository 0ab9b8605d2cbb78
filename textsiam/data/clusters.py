"""Clusters of duplicates: if a asks what b asks, and b what c asks, then a, b and c are one question."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textsiam.data.components import connected_components, group_edges
from textsiam.data.pairs import Pairs
from textsiam.data.repeats import find_repeats

_ASCII = bytes(ord(chr(i).lower()) if chr(i).isalnum() and i < 128 else 32 for i in range(256))


def cluster_ids(pairs: Pairs) -> np.ndarray:
    """Give each text (m,) int32 its duplicate cluster: the component under the pairs labelled 1 and the groups.

    Example:
        >>> pairs = Pairs.from_texts(["a", "b", "d"], ["b", "c", "a"], [1, 1, 0])
        >>> dict(zip(pairs.texts, cluster_ids(pairs).tolist()))
        {'a': 0, 'b': 0, 'c': 0, 'd': 1}
    """
    return connected_components(len(pairs.texts), *same_thing(pairs))


def same_thing(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Give the edges (e,), (e,) between texts known to be the same thing: duplicates, and members of a group."""
    positive = pairs.labels == 1
    left, right = pairs.left[positive], pairs.right[positive]
    if pairs.groups is None:
        return left, right
    chained = group_edges(pairs.groups)
    return np.r_[left, chained[0]], np.r_[right, chained[1]]


def inseparable(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Give the edges (e,), (e,) between texts that no split may part: the same thing, or near-identical."""
    first: dict[str, int] = {}
    alike = [first.setdefault(form, text) for text, form in enumerate(text_forms(pairs))]
    same = same_thing(pairs)
    return np.r_[same[0], np.arange(len(alike))], np.r_[same[1], np.array(alike, dtype=np.int64)]


def canonical(pairs: Pairs, clusters: np.ndarray) -> np.ndarray:
    """Choose the text that stands for each cluster: most duplicate edges, then shortest, then first.

    The name of a file says nothing by its length: there, the first after most edges.

    Args:
        pairs: the pairs whose texts are clustered.
        clusters: the cluster of each text (m,), numbered from 0.

    Returns:
        The index of a text for each cluster (k,) int32.
    """
    edges = (pairs.labels == 1) & (pairs.left != pairs.right)
    ends = np.concatenate([pairs.left[edges], pairs.right[edges]])
    degree = np.bincount(ends, minlength=len(pairs.texts))
    lengths = np.array([len(text) if pairs.modality == "text" else 0 for text in pairs.texts], dtype=np.int64)
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


def text_forms(pairs: Pairs) -> list[str]:
    """Give each text the form by which it is near-identical to others: of a file, its very name.

    `A.png` and `a.png`, or `x-1.png` and `x_1.png`, are two inputs, whatever is said of two such texts.
    """
    return [normalised(text) for text in pairs.texts] if pairs.modality == "text" else pairs.texts


def near_identical(texts: Sequence[str]) -> np.ndarray:
    """Number the groups of near-identical texts (m,) int32, by first appearance."""
    index: dict[str, int] = {}
    groups = [index.setdefault(normalised(text), len(index)) for text in texts]
    return np.array(groups, dtype=np.int32)
