from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from textsiam.models.distances import DISTANCES
from textsiam.models.learned import Mahalanobis
from textsiam.models.twin import Twin
from textsiam.search.nearest import best_matches, nearest

EVERY_DISTANCE = pytest.mark.parametrize("name", DISTANCES)
# Whole numbers and their halves: every similarity is exact, so that ties are ties.
GRID = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [1, 0], [3, 4], [0, 0], [1, 0.5]], np.float32)


def unit(n: int, *, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    vectors[n // 2 :] = vectors[: n - n // 2] + 0.2 * vectors[n // 2 :]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_head_chooses_among_the_nearest(tower: SentenceTransformer) -> None:
    twin, vectors = Twin(tower, head=Mahalanobis(4, diagonal=True)), unit(50)
    assert isinstance(twin.head, Mahalanobis)
    with torch.no_grad():
        twin.head.factor.copy_(torch.tensor([3.0, 0.1, 2.0, 0.5]))
    where, score = best_matches(twin, vectors[:5], vectors, 3)  # fewer than 100 documents: all are candidates
    for query, row, values in zip(vectors, where, score, strict=False):
        scores = twin.vector_similarity(np.tile(query, (50, 1)), vectors)
        assert row.tolist() == np.argsort(-scores, kind="stable")[:3].tolist()
        np.testing.assert_array_equal(values, scores[row])


@EVERY_DISTANCE
@pytest.mark.parametrize("block", [1, 7, 4096])
def test_best_matches_against_a_loop(tower: SentenceTransformer, name: str, block: int) -> None:
    twin, queries, documents = Twin(tower, distance=name), unit(11), unit(40, seed=3)
    where, values = best_matches(twin, queries, documents, 5, block=block)
    assert where.shape == values.shape == (11, 5)
    assert (where.dtype, values.dtype) == (np.int64, np.float32)
    for i, query in enumerate(queries):
        scores = twin.vector_similarity(np.tile(query, (40, 1)), documents)
        expected = np.argsort(-scores, kind="stable")[:5]
        assert where[i].tolist() == expected.tolist()
        np.testing.assert_allclose(values[i], scores[expected], atol=2e-6)


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_of_equal_documents_the_first_comes_first(tower: SentenceTransformer, block: int) -> None:
    twin = Twin(tower, distance="manhattan")
    where, values = best_matches(twin, GRID[:4], GRID, 6, block=block)
    for i in range(4):
        scores = -np.abs(GRID - GRID[i]).sum(1)
        expected = np.argsort(-scores, kind="stable")[:6]
        assert where[i].tolist() == expected.tolist()
        assert values[i].tolist() == scores[expected].tolist()


def test_k_is_at_most_the_number_of_documents(twin: Twin) -> None:
    where, values = best_matches(twin, unit(3), unit(4, seed=2), 10)
    assert where.shape == values.shape == (3, 4)
    assert all(sorted(row) == [0, 1, 2, 3] for row in where.tolist())


def test_no_queries_or_no_documents(twin: Twin) -> None:
    for queries, documents, shape in ((unit(2)[:0], unit(4), (0, 3)), (unit(2), unit(4)[:0], (2, 0))):
        where, values = best_matches(twin, queries, documents, 3)
        assert where.shape == values.shape == shape
        assert (where.dtype, values.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_positive(twin: Twin, k: int) -> None:
    with pytest.raises(ValueError, match=f"top-k must be >= 1, got {k}"):
        best_matches(twin, unit(2), unit(2), k)


@pytest.mark.parametrize("block", [1, 7, 30, 200])
@pytest.mark.parametrize("k", [1, 4, 150])
def test_nearest_keeps_the_order_of_equal_documents_and_finds_nothing_hidden(block: int, k: int) -> None:
    rng = np.random.default_rng(k)
    queries, documents = (torch.from_numpy(rng.integers(0, 3, (n, 2)).astype(np.float32)) for n in (9, 150))
    table = DISTANCES["manhattan"].all_pairs(queries, documents)
    hidden = torch.from_numpy(rng.random(table.shape) < 0.5)
    hidden[0] = True
    hidden[1, 3:] = True

    def hide(values: torch.Tensor, first: int) -> None:
        values.masked_fill_(hidden[:, first : first + values.shape[1]], float("inf"))

    where, distance = nearest(DISTANCES["manhattan"], queries, documents, k, block=block, hide=hide)
    assert where.shape == distance.shape == (9, k)
    for i in range(9):
        seen = [n for n in table[i].argsort(stable=True).tolist() if not hidden[i, n]][:k]
        assert where[i, : len(seen)].tolist() == seen
        assert distance[i].tolist() == [*table[i, seen].tolist(), *[float("inf")] * (k - len(seen))]
