from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from textsiam.models.distances import DISTANCES
from textsiam.models.learned import Mahalanobis
from textsiam.models.twin import Twin
from textsiam.search.join import exact as join
from textsiam.search.join.exact import FoundPairs, pairs_above, stream_pairs

EVERY_DISTANCE = pytest.mark.parametrize("name", DISTANCES)
# Whole numbers and their halves: every similarity is exact, so that ties are ties.
GRID = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [1, 0], [3, 4], [0, 0], [1, 0.5]], np.float32)


def unit(n: int, *, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    vectors[n // 2 :] = vectors[: n - n // 2] + 0.2 * vectors[n // 2 :]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def naive_pairs(twin: Twin, vectors: np.ndarray, threshold: float) -> list[tuple[int, int, float]]:
    found = []
    for i in range(len(vectors)):
        for j in range(i + 1, len(vectors)):
            similarity = float(twin.vector_similarity(vectors[i : i + 1], vectors[j : j + 1])[0])
            if similarity >= threshold:
                found.append((i, j, similarity))
    return found


def rows(found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[tuple[int, int, float]]:
    return list(zip(*(column.tolist() for column in found), strict=True))


@EVERY_DISTANCE
@pytest.mark.parametrize("block", [1, 7, 50, 2048])
def test_pairs_above_against_a_loop(tower: SentenceTransformer, name: str, block: int) -> None:
    twin, vectors = Twin(tower, distance=name), unit(50)
    everything = [similarity for *_, similarity in naive_pairs(twin, vectors, -np.inf)]
    threshold = float(np.quantile(everything, 0.8))
    expected = naive_pairs(twin, vectors, threshold)
    assert 200 < len(expected) < 300
    found = pairs_above(twin, vectors, threshold, block=block)
    assert [x.dtype for x in found] == [np.int64, np.int64, np.float32]
    assert [pair[:2] for pair in rows(found)] == [pair[:2] for pair in expected]
    np.testing.assert_allclose(found[2], [pair[2] for pair in expected], atol=1e-6)


@pytest.mark.parametrize("floor", [-1.0, 0.3])
def test_a_head_scores_what_is_above_its_floor(tower: SentenceTransformer, floor: float) -> None:
    twin, vectors = Twin(tower, head=Mahalanobis(4, diagonal=True)), unit(50)
    assert isinstance(twin.head, Mahalanobis)
    with torch.no_grad():
        twin.head.factor.copy_(torch.tensor([3.0, 0.1, 2.0, 0.5]))
    twin.head.candidate_threshold.fill_(floor)
    cosine = vectors @ vectors.T
    expected = [pair for pair in naive_pairs(twin, vectors, 1.0) if cosine[pair[0], pair[1]] >= floor]
    found = pairs_above(twin, vectors, 1.0, block=7)
    assert [pair[:2] for pair in rows(found)] == [pair[:2] for pair in expected]
    assert len(found[0]) == {-1.0: len(naive_pairs(twin, vectors, 1.0))}.get(floor, len(expected))
    assert len(expected) > 20


@pytest.mark.parametrize("block", [1, 3, 100])
def test_ties_and_the_boundary(tower: SentenceTransformer, block: int) -> None:
    twin = Twin(tower, distance="manhattan")
    for threshold in (0.0, -0.5, -1.0, -2.0):
        expected = [
            (i, j)
            for i in range(len(GRID))
            for j in range(i + 1, len(GRID))
            if -np.abs(GRID[i] - GRID[j]).sum() >= threshold
        ]
        left, right, similarity = pairs_above(twin, GRID, threshold, block=block)
        assert list(zip(left.tolist(), right.tolist(), strict=True)) == expected
        assert (similarity == threshold).any()  # "at or above": the boundary belongs to it
    assert len(expected) > 10


def test_result_does_not_depend_on_block_or_slice(tower: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    twin, vectors = Twin(tower), unit(60, seed=1)
    expected = rows(pairs_above(twin, vectors, 0.3))
    assert len(expected) > 300
    for block, size in ((1, 10), (13, 65_536), (32, 7), (60, 1)):
        monkeypatch.setattr(join, "_SLICE", size)
        assert rows(pairs_above(twin, vectors, 0.3, block=block)) == expected


def test_boundary_equals_the_similarity_of_the_twin(twin: Twin, sentences: list[str]) -> None:
    # Whatever pair sets the threshold is found at it, and no longer just above it.
    vectors = twin.encode(sentences, precision="fp32")
    for i, j in ((0, 1), (5, 40), (12, 13), (3, 47)):
        at = twin.vector_similarity(vectors[[i]], vectors[[j]])[0]
        assert at == pytest.approx(
            float(twin.similarity([sentences[i]], [sentences[j]], precision="fp32")[0]), abs=1e-5
        )
        for threshold, there in ((at, True), (np.nextafter(at, np.float32(2)), False)):
            left, right, _ = pairs_above(twin, vectors, float(threshold), block=10)
            assert ((i, j) in zip(left.tolist(), right.tolist(), strict=True)) is there


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_for_a_pair(twin: Twin, count: int) -> None:
    left, right, similarity = pairs_above(twin, unit(2)[:count], -1.0)
    assert left.shape == right.shape == similarity.shape == (0,)
    assert left.dtype == np.int64


@pytest.mark.parametrize("name", ["cosine", "angular", "euclidean", "squared_euclidean"])
@pytest.mark.parametrize("precision", [torch.int8, torch.bfloat16, torch.float32])
def test_wide_vectors_whatever_the_format_of_the_products(
    tower: SentenceTransformer, monkeypatch: pytest.MonkeyPatch, name: str, precision: torch.dtype
) -> None:
    if precision == torch.int8:
        if not join.multiplies_bytes():
            pytest.skip("this processor has no fast products of bytes (avx512_vnni)")
        monkeypatch.setattr(join, "bf16_candidates", None)
    else:
        monkeypatch.setattr(join, "multiplies_bytes", lambda: False)
        monkeypatch.setattr(join, "fast_dtype", lambda device: precision)
    monkeypatch.setattr(join, "_by_distance", None)  # products it is
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(40, 384)).repeat(5, axis=0) + rng.normal(size=(200, 384)) * rng.uniform(0, 1, (200, 1))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    twin = Twin(tower, distance=name)
    every = naive_pairs(twin, vectors, -np.inf)
    for threshold in sorted(similarity for *_, similarity in every)[-250::40]:  # each on a pair that is just there
        # Of an arc tangent the last bit depends on its place in the array.
        threshold -= 1e-7 if name == "angular" else 0.0
        expected = [pair[:2] for pair in every if pair[2] >= threshold]
        assert [pair[:2] for pair in rows(pairs_above(twin, vectors, threshold, block=64))] == expected


def test_vectors_of_any_length(tower: SentenceTransformer) -> None:
    vectors = unit(60) * np.random.default_rng(0).uniform(1, 2, (60, 1)).astype(np.float32)
    for name in DISTANCES:
        twin = Twin(tower, distance=name)
        threshold = float(np.quantile([similarity for *_, similarity in naive_pairs(twin, vectors, -np.inf)], 0.9))
        expected = naive_pairs(twin, vectors, threshold)
        assert [pair[:2] for pair in rows(pairs_above(twin, vectors, threshold))] == [pair[:2] for pair in expected]


def test_a_vector_that_is_no_number_is_in_no_pair(tower: SentenceTransformer) -> None:
    twin, vectors = Twin(tower), unit(30)
    expected = [pair for pair in rows(pairs_above(twin, vectors, 0.5)) if 4 not in pair[:2]]
    vectors[4, 2] = np.nan
    assert rows(pairs_above(twin, vectors, 0.5)) == expected


def test_the_stream_holds_every_pair_once_and_counts_what_is_compared(tower: SentenceTransformer) -> None:
    twin, vectors = Twin(tower), unit(300)
    seen: list[tuple[int, int]] = []
    for block in (4, 64):
        parts = list(stream_pairs(twin, vectors, 0.8, block=block, progress=lambda *at: seen.append(at)))
        assert len(parts) > 2
        assert rows(FoundPairs.joined(parts).sorted()) == rows(pairs_above(twin, vectors, 0.8))
        assert seen[-1] == (300 * 299 // 2,) * 2
        done = [count for count, _ in seen]
        assert done == sorted(done)
        seen.clear()


def test_all_pairs_of_a_dense_matrix_come_in_bounded_pieces(tower: SentenceTransformer) -> None:
    twin, vectors = Twin(tower), np.ones((500, 4), np.float32) / 2
    sizes = [len(part.left) for part in stream_pairs(twin, vectors, 0.9, block=4)]
    assert sum(sizes) == 500 * 499 // 2
    assert max(sizes) <= 4 * 2 * 4 * 16


def test_leaving_the_stream_ends_its_threads_and_restores_the_cores(tower: SentenceTransformer) -> None:
    twin, vectors, before = Twin(tower), unit(2000), torch.get_num_threads()
    stream = stream_pairs(twin, vectors, 0.5, block=8)
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("join")]
    assert torch.get_num_threads() == before


def test_an_error_in_a_thread_is_raised(tower: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = Twin(tower)

    def broken(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(twin, "vector_similarity", broken)
    with pytest.raises(ZeroDivisionError, match="broken"):
        pairs_above(twin, unit(300), 0.5, block=8)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("join")]
