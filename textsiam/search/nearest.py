"""The nearest documents of each query, exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from textsiam.models.distances import Distance
from textsiam.models.scorer import Scorer


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
