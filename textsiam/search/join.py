"""All pairs of texts at or above a threshold, found exactly, and the clusters that they form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from textsiam.data.clusters import cluster_ids, connected_components
from textsiam.data.pairs import Pairs
from textsiam.models.decision import CollectionDecision, Decision, fit_decision
from textsiam.models.distances import Distance
from textsiam.models.inference import Progress
from textsiam.models.scorer import Scorer
from textsiam.models.thresholds import Rule

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
        clusters: Groups in which every two texts reach the threshold (complete linkage: a chain of lookalikes is
            not a cluster), the most central text first; larger clusters first.
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
    twin: Scorer,
    texts: Sequence[str],
    *,
    threshold: float | None = None,
    decision: Decision | None = None,
    progress: Progress | None = None,
) -> Duplicates:
    """Find every pair of texts whose similarity reaches the threshold, and their clusters.

    Where the twin has a verifier, it is asked about every pair in its band, and what both say together must reach the
    threshold.

    Args:
        twin: A twin whose sides share one tower.
        texts: n texts; equal texts are duplicates of each other.
        threshold: Least similarity of a pair; None takes the decision's.
        decision: Gives threshold and probabilities; None takes the twin's, for a collection of this size where it
            has learned one.
        progress: Called as `progress(done, total)` while texts are encoded.

    Raises:
        ModelError: No threshold is given, and there is no decision.
        ValueError: The towers differ, so that two texts of one kind cannot be compared.
    """
    if twin.right is not None:
        raise ValueError("duplicates are pairs of one kind of text, but the towers of this twin differ: use match")
    if decision is None:
        decision = twin.decision if twin.collection is None else twin.collection.among(len(texts))
    if threshold is None:
        threshold = (decision or twin.require_decision()).threshold
    vectors = twin.encode(texts, progress=progress)
    left, right, similarity = _verified(twin, texts, vectors, threshold)
    order = np.argsort(-similarity, kind="stable")
    left, right, similarity = left[order], right[order], similarity[order]
    probability = np.full(len(left), np.nan) if decision is None else decision.probability(similarity)
    clusters = _clusters(vectors, left, right, similarity)
    return Duplicates(left, right, similarity, probability, clusters, float(threshold))


def _verified(
    twin: Scorer, texts: Sequence[str], vectors: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return left index, right index and similarity of every pair that reaches the threshold once it is verified."""
    verifier = twin.verifier
    if verifier is None or verifier.combination is None:
        return pairs_above(twin, vectors, threshold)
    left, right, similarity = pairs_above(twin, vectors, min(threshold, verifier.combination.low))
    similarity = verifier.rescore(texts, left, right, similarity)
    keep = similarity.astype(np.float64) >= threshold
    return left[keep], right[keep], similarity[keep]


def fit_collection_decision(
    twin: Scorer, pairs: Pairs, *, rule: Rule = "f1", precision: float | None = None, limit: int = 700, seed: int = 0
) -> CollectionDecision:
    """Learn, from labelled pairs, when a score means "duplicate" between any two texts of a collection.

    Every pair among the texts is used: members of one cluster are duplicates, all others are taken as not. Where the
    labels are incomplete, an unknown duplicate counts as a false alarm, so the threshold errs on the strict side.

    Args:
        twin: A twin whose sides share one tower.
        pairs: Labelled pairs kept out of training.
        rule: What the threshold maximises.
        precision: A precision to reach with 95 % confidence, instead of the rule.
        limit: Texts used at most, in whole clusters: the pairs grow with the square.
        seed: Which clusters are used when there are more texts.

    Raises:
        ValueError: Too few duplicates or others to learn from.
    """
    clusters = cluster_ids(pairs)
    order = np.random.default_rng(seed).permutation(clusters.max() + 1)[clusters]
    kept = np.argsort(order, kind="stable")[:limit]
    vectors = twin.encode([pairs.texts[i] for i in kept])
    left, right = np.triu_indices(len(kept), 1)
    slices = [slice(start, start + _SLICE) for start in range(0, len(left), _SLICE)]
    similarity = np.concatenate([twin.vector_similarity(vectors[left[s]], vectors[right[s]]) for s in slices])
    labels = (clusters[kept][left] == clusters[kept][right]).astype(np.int8)
    decision = fit_decision(similarity, labels, rule=rule, seed=seed)
    if precision is not None:
        decision = decision.at_precision(precision)
    return CollectionDecision(decision, len(kept))


def pairs_above(
    twin: Scorer, vectors: np.ndarray, threshold: float, *, block: int = 2048
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return left index, right index and similarity of every pair i < j at or above the threshold, in order of index.

    Candidates come from blocks of the similarity matrix (upper triangle only); each is scored again row by row, so
    that the result does not depend on the block and equals `Twin.similarity`. Where the twin has a head, candidates are
    the pairs above the head's floor.

    Args:
        twin: Its distance is used, and its head.
        vectors: `(n, dim)` float32.
        threshold: Least similarity.
        block: Rows and columns of a block; memory grows with its square.
    """
    points = torch.from_numpy(vectors)
    floor = threshold if twin.head is None else float(twin.head.floor)
    lefts, rights, scores = [], [], []
    for i in range(0, len(points), block):
        for j in range(i, len(points), block):
            similarity = twin.distance.similarity(twin.distance.all_pairs(points[i : i + block], points[j : j + block]))
            found = (similarity >= floor - _ROUNDING).nonzero().numpy() + np.array([i, j])
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
    twin: Scorer, queries: np.ndarray, documents: np.ndarray, k: int, *, block: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k most similar documents of each query, best first, exactly.

    Where the twin has a head, it chooses them among the `max(100, 4·k)` nearest by the distance.

    Args:
        twin: Its distance is used, and its head.
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
    near = k if twin.head is None else min(max(100, 4 * k), len(documents))
    points = torch.from_numpy(documents)
    for i in range(0, len(queries), block):
        query = queries[i : i + block]
        found, distance = nearest(twin.distance, torch.from_numpy(query), points, near, block=block)
        where, best = found.numpy(), twin.distance.similarity(distance).numpy()
        if twin.head is not None:
            where, best = _scored_again(twin, query, documents, where, k)
        rows.append(where)
        values.append(best)
    return np.concatenate(rows), np.concatenate(values)


def _scored_again(
    twin: Scorer, queries: np.ndarray, documents: np.ndarray, near: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of the documents near each query by the score of the head, and these scores."""
    score = np.stack([
        twin.vector_similarity(np.tile(query, (near.shape[1], 1)), documents[row])
        for query, row in zip(queries, near, strict=True)
    ])  # fmt: skip
    order = np.argsort(-score, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(near, order, 1), np.take_along_axis(score, order, 1)


def nearest(
    distance: Distance,
    queries: Tensor,
    documents: Tensor,
    k: int,
    *,
    block: int = 4096,
    hide: Callable[[Tensor, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the k nearest documents of each query, nearest first, of equally near ones the first.

    Args:
        distance: What is nearest.
        queries: `(q, dim)`; compared all at once, so that memory grows with `q · block`.
        documents: `(d, dim)`, on the same device.
        k: How many; at most d.
        block: Documents compared at once.
        hide: Called as `hide(distances, first)` with the distances `(q, ≤ block)` to the documents from `first` on;
            those that it sets to infinity are not found.

    Returns:
        Document indices `(q, k)` and distances `(q, k)`; where fewer than k are found, the distance is infinite.
    """
    best = queries.new_zeros(len(queries), 0)
    where = torch.zeros(len(queries), 0, dtype=torch.long, device=queries.device)
    for first in range(0, len(documents), block):
        values = distance.all_pairs(queries, documents[first : first + block])
        if hide is not None:
            hide(values, first)
        columns = _smallest(values, min(k, values.shape[1]))
        best = torch.cat([best, values.gather(1, columns)], 1)
        where = torch.cat([where, columns + first], 1)
        best, order = best.sort(dim=1, stable=True)
        best, where = best[:, :k], where.gather(1, order[:, :k])
    return where, best


def _smallest(values: Tensor, k: int) -> Tensor:
    """Return the columns of the k smallest values of each row, in order of column; of equal ones the first."""
    found, columns = values.topk(min(k + 1, values.shape[1]), dim=1, largest=False)
    # A full sort takes far longer, but only it says which of equal values at the end come first.
    tied = ((found[:, k - 1] == found[:, -1]) & found[:, -1].isfinite()).nonzero()[:, 0] if k < values.shape[1] else []
    columns = columns[:, :k]
    if len(tied):
        columns[tied] = values[tied].argsort(dim=1, stable=True)[:, :k]
    return columns.sort(dim=1).values


def _clusters(vectors: np.ndarray, left: np.ndarray, right: np.ndarray, similarity: np.ndarray) -> list[list[int]]:
    """Return groups whose every pair was found, those nearest to their group's mean first."""
    members = np.unique(np.concatenate([left, right]))
    at_left, at_right = np.searchsorted(members, left), np.searchsorted(members, right)
    component = connected_components(len(members), at_left, at_right)
    groups = []
    for c in np.flatnonzero(np.bincount(component) > 1):
        inside = np.flatnonzero(component == c)
        links = component[at_left] == c
        groups += _complete(members[inside], np.searchsorted(inside, at_left[links]),
                            np.searchsorted(inside, at_right[links]), similarity[links])  # fmt: skip
    ordered = []
    for group in groups:
        centrality = vectors[group] @ vectors[group].mean(0)
        ordered.append(group[np.argsort(-centrality, kind="stable")].tolist())
    return sorted(ordered, key=lambda g: (-len(g), g))


def _complete(members: np.ndarray, left: np.ndarray, right: np.ndarray, similarity: np.ndarray) -> list[np.ndarray]:
    """Merge greedily, the most similar pair first, as long as all pairs of the merged group were found."""
    found = {(a, b) for a, b in zip(left.tolist(), right.tolist(), strict=True)}
    found |= {(b, a) for a, b in found}
    group = {i: [i] for i in range(len(members))}
    for i in np.argsort(-similarity, kind="stable"):
        a, b = group[int(left[i])], group[int(right[i])]
        if a is not b and all((x, y) in found for x in a for y in b):
            a.extend(b)
            group.update(dict.fromkeys(b, a))
    distinct = {id(g): g for g in group.values() if len(g) > 1}
    return [members[g] for g in distinct.values()]
