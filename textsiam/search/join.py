"""All pairs of texts at or above a threshold, found exactly, and the clusters that they form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from textsiam.data.clusters import connected_components
from textsiam.models.decision import Decision
from textsiam.models.inference import Progress
from textsiam.models.twin import Twin

# Blocked and rowwise similarities differ by rounding only; this is far above it.
_ROUNDING = 1e-4
# Pairs scored at once: bounds the memory where almost everything is above the threshold.
_SLICE = 65_536


@dataclass(frozen=True)
class Duplicates:
    """Suspected duplicates among n texts.

    Attributes:
        left: Index of the first text of each pair, `(p,)` int64; smaller than `right`.
        right: Index of the second text, `(p,)` int64.
        similarity: `(p,)` float32, best first.
        probability: P(duplicate) of each pair, `(p,)` float64; NaN where the twin has no decision.
        clusters: Texts that are connected by such pairs, the most central one first; larger clusters first.
        threshold: Similarity from which a pair counts.
    """

    left: np.ndarray
    right: np.ndarray
    similarity: np.ndarray
    probability: np.ndarray
    clusters: list[list[int]]
    threshold: float

    def __len__(self) -> int:
        return len(self.left)


def find_duplicates(
    twin: Twin,
    texts: Sequence[str],
    *,
    threshold: float | None = None,
    decision: Decision | None = None,
    progress: Progress | None = None,
) -> Duplicates:
    """Find every pair of texts whose similarity reaches the threshold, and their clusters.

    Args:
        twin: A twin whose sides share one tower.
        texts: n texts; equal texts are duplicates of each other.
        threshold: Least similarity of a pair; None takes the decision's.
        decision: Gives threshold and probabilities; None takes the twin's.
        progress: Called as `progress(done, total)` while texts are encoded.

    Raises:
        ModelError: No threshold is given, and there is no decision.
        ValueError: The towers differ, so that two texts of one kind cannot be compared.
    """
    if twin.right is not None:
        raise ValueError("duplicates are pairs of one kind of text, but the towers of this twin differ: use match")
    decision = decision or twin.decision
    if threshold is None:
        threshold = (decision or twin.require_decision()).threshold
    vectors = twin.encode(texts, progress=progress)
    left, right, similarity = pairs_above(twin, vectors, threshold)
    order = np.argsort(-similarity, kind="stable")
    left, right, similarity = left[order], right[order], similarity[order]
    probability = np.full(len(left), np.nan) if decision is None else decision.probability(similarity)
    clusters = _clusters(vectors, left, right)
    return Duplicates(left, right, similarity, probability, clusters, float(threshold))


def pairs_above(
    twin: Twin, vectors: np.ndarray, threshold: float, *, block: int = 2048
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return left index, right index and similarity of every pair i < j at or above the threshold, in order of index.

    Candidates come from blocks of the similarity matrix (upper triangle only); each is scored again row by row, so
    that the result does not depend on the block and equals `Twin.similarity`.

    Args:
        twin: Its distance is used.
        vectors: `(n, dim)` float32.
        threshold: Least similarity.
        block: Rows and columns of a block; memory grows with its square.
    """
    points = torch.from_numpy(vectors)
    lefts, rights, scores = [], [], []
    for i in range(0, len(points), block):
        for j in range(i, len(points), block):
            similarity = twin.distance.similarity(twin.distance.all_pairs(points[i : i + block], points[j : j + block]))
            found = (similarity >= threshold - _ROUNDING).nonzero().numpy() + (i, j)
            left, right = found[found[:, 0] < found[:, 1]].T
            for start in range(0, len(left), _SLICE):
                a, b = left[start : start + _SLICE], right[start : start + _SLICE]
                exact = twin.vector_similarity(vectors[a], vectors[b])
                keep = exact.astype(np.float64) >= threshold
                lefts.append(a[keep])
                rights.append(b[keep])
                scores.append(exact[keep])
    if not lefts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    left, right, similarity = np.concatenate(lefts), np.concatenate(rights), np.concatenate(scores)
    order = np.lexsort((right, left))
    return left[order], right[order], similarity[order]


def best_matches(
    twin: Twin, queries: np.ndarray, documents: np.ndarray, k: int, *, block: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k most similar documents of each query, best first, exactly.

    Args:
        twin: Its distance is used.
        queries: `(q, dim)` float32.
        documents: `(d, dim)` float32.
        k: How many; at most d.
        block: Queries and documents compared at once.

    Returns:
        Document indices `(q, k)` int64 and similarities `(q, k)` float32.

    Raises:
        ValueError: k is not positive.
    """
    if k < 1:
        raise ValueError(f"top-k must be >= 1, got {k}")
    k = min(k, len(documents))
    rows, values = [np.zeros((0, k), np.int64)], [np.zeros((0, k), np.float32)]
    points = torch.from_numpy(documents)
    for i in range(0, len(queries), block):
        query = torch.from_numpy(queries[i : i + block])
        best = torch.zeros(len(query), 0)
        where = torch.zeros(len(query), 0, dtype=torch.long)
        for j in range(0, len(points), block):
            similarity = twin.distance.similarity(twin.distance.all_pairs(query, points[j : j + block]))
            best = torch.cat([best, similarity], 1)
            where = torch.cat([where, torch.arange(j, j + similarity.shape[1]).expand(len(query), -1)], 1)
            best, order = best.sort(dim=1, descending=True, stable=True)
            best, where = best[:, :k], where.gather(1, order[:, :k])
        rows.append(where.numpy())
        values.append(best.numpy())
    return np.concatenate(rows), np.concatenate(values)


def _clusters(vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> list[list[int]]:
    """Return connected texts, those nearest to their cluster's mean first."""
    members = np.unique(np.concatenate([left, right]))
    component = connected_components(len(members), np.searchsorted(members, left), np.searchsorted(members, right))
    groups: dict[int, list[int]] = {}
    for member, c in zip(members.tolist(), component.tolist(), strict=True):
        groups.setdefault(c, []).append(member)
    ordered = []
    for group in groups.values():
        centrality = vectors[group] @ vectors[group].mean(0)
        ordered.append([group[i] for i in np.argsort(-centrality, kind="stable")])
    return sorted(ordered, key=lambda g: (-len(g), g))
