from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.models.distances import DISTANCES
from textsiam.models.encoders import ModelError
from textsiam.models.learned import Mahalanobis
from textsiam.models.twin import Twin
from textsiam.search import join
from textsiam.search.join import best_matches, find_duplicates, fit_collection_decision, nearest, pairs_above

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


# --- pairs above a threshold ----------------------------------------------------------------------


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
    twin.head.floor.fill_(floor)
    cosine = vectors @ vectors.T
    expected = [pair for pair in naive_pairs(twin, vectors, 1.0) if cosine[pair[0], pair[1]] >= floor]
    found = pairs_above(twin, vectors, 1.0, block=7)
    assert [pair[:2] for pair in rows(found)] == [pair[:2] for pair in expected]
    assert len(found[0]) == {-1.0: len(naive_pairs(twin, vectors, 1.0))}.get(floor, len(expected))
    assert len(expected) > 20


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


class Opinion:
    """A verifier that is in doubt from 0.2 to 0.7, and then goes by the sum of the rows."""

    combination = SimpleNamespace(low=0.2)

    def rescore(self, texts, left, right, similarity):
        asked = (similarity >= 0.2) & (similarity <= 0.7)
        return np.where(asked, np.where((left + right) % 2, 0.9, 0.1), similarity).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.1, 0.6, 0.95])
def test_a_verifier_has_the_last_word_in_its_band(tower: SentenceTransformer, threshold: float) -> None:
    twin, vectors = Twin(tower), unit(40)
    twin.encode = lambda texts, **_: vectors
    texts = [f"text {i}" for i in range(40)]
    plain = naive_pairs(twin, vectors, -2)
    twin.verifier = Opinion()  # pyright: ignore[reportAttributeAccessIssue]
    found = find_duplicates(twin, texts, threshold=threshold)
    expected = {}
    for a, b, similarity in plain:
        if similarity < min(threshold, 0.2):
            continue
        score = similarity if not 0.2 <= similarity <= 0.7 else 0.9 if (a + b) % 2 else 0.1
        if np.float32(score).astype(np.float64) >= threshold:
            expected[a, b] = score
    assert {(a, b) for a, b in zip(found.left.tolist(), found.right.tolist(), strict=True)} == set(expected)
    for a, b, similarity in zip(found.left.tolist(), found.right.tolist(), found.similarity.tolist(), strict=True):
        assert similarity == pytest.approx(expected[a, b], abs=1e-6)


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


# --- duplicates -----------------------------------------------------------------------------------


def test_find_duplicates_against_a_loop(twin: Twin, sentences: list[str]) -> None:
    texts = [*sentences, sentences[7]]
    vectors = twin.encode(texts)
    every = naive_pairs(twin, vectors, -1.0)
    threshold = sorted(similarity for *_, similarity in every)[-40]
    found = find_duplicates(twin, texts, threshold=threshold)
    expected = sorted((p for p in every if p[2] >= threshold), key=lambda p: (-p[2], p[0], p[1]))
    assert len(found) == len(expected) >= 40
    assert rows((found.left, found.right, found.similarity))[:1] == [(7, 48, pytest.approx(1))]
    assert {p[:2] for p in rows((found.left, found.right, found.similarity))} == {p[:2] for p in expected}
    np.testing.assert_allclose(found.similarity, [p[2] for p in expected], atol=1e-6)
    assert (np.diff(found.similarity) <= 0).all()
    assert (found.left < found.right).all()
    assert np.isnan(found.probability).all()
    assert found.threshold == threshold


def test_equal_similarities_keep_the_order_of_the_texts(twin: Twin, sentences: list[str]) -> None:
    texts = [sentences[0], sentences[1], sentences[0], sentences[1], sentences[0]]
    found = find_duplicates(twin, texts, threshold=0.9999995)
    pairs = list(zip(found.left.tolist(), found.right.tolist(), strict=True))
    assert set(pairs) == {(0, 2), (0, 4), (1, 3), (2, 4)}
    for value in set(found.similarity.tolist()):
        tied = [p for p, s in zip(pairs, found.similarity.tolist(), strict=True) if s == value]
        assert tied == sorted(tied)
    assert [sorted(c) for c in found.clusters] == [[0, 2, 4], [1, 3]]


def on_a_line(tower: SentenceTransformer, places: list[float], monkeypatch: pytest.MonkeyPatch) -> Twin:
    """A twin whose i-th text lies at `places[i]`."""
    twin = Twin(tower, distance="euclidean")
    vectors = np.array([[1, x] for x in places], np.float32)
    monkeypatch.setattr(twin, "encode", lambda texts, **_: vectors[: len(texts)])
    return twin


def test_a_chain_is_not_a_cluster(tower: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    # 0, 0.4, 0.7 and 1.2 are chained by steps below 0.6; the closest two join first, then no third fits both.
    twin = on_a_line(tower, [0.0, 0.7, 0.4, 1.2, 10.0, 10.5, 20.0], monkeypatch)
    found = find_duplicates(twin, list("abcdefg"), threshold=-0.6)
    assert sorted(zip(found.left.tolist(), found.right.tolist(), strict=True)) == [(0, 2), (1, 2), (1, 3), (4, 5)]
    assert [sorted(c) for c in found.clusters] == [[1, 2], [4, 5]]


def test_clusters_merge_where_every_pair_was_found(tower: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = on_a_line(tower, [5.0, 0.0, 0.1, 0.5, 0.61, 5.3], monkeypatch)
    found = find_duplicates(twin, list("abcdef"), threshold=-0.7)
    assert [sorted(c) for c in found.clusters] == [[1, 2, 3, 4], [0, 5]]


@pytest.mark.parametrize("seed", range(5))
def test_clusters_are_complete_disjoint_and_cannot_grow(
    tower: SentenceTransformer, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    places = np.random.default_rng(seed).uniform(0, 20, 60).tolist()
    twin = on_a_line(tower, places, monkeypatch)
    found = find_duplicates(twin, [""] * 60, threshold=-0.8)
    pairs = {frozenset(p) for p in zip(found.left.tolist(), found.right.tolist(), strict=True)}
    complete = [all(frozenset((x, y)) in pairs for x in c for y in c if x != y) for c in found.clusters]
    assert all(complete)
    assert len(complete) > 5
    members = [x for c in found.clusters for x in c]
    assert len(set(members)) == len(members)
    alone = [[x] for x in range(60) if x not in members]
    groups = [*found.clusters, *alone]
    for i, a in enumerate(groups):
        for b in groups[i + 1 :]:
            assert not all(frozenset((x, y)) in pairs for x in a for y in b)
    assert found.clusters == sorted(found.clusters, key=lambda c: (-len(c), c))


def test_the_most_central_text_comes_first(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    angles = np.deg2rad([0, 30, 14, 90, 91])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    monkeypatch.setattr(twin, "encode", lambda texts, **_: vectors)
    found = find_duplicates(twin, list("abcde"), threshold=np.cos(np.deg2rad(31)))
    assert found.clusters[0] == [2, 0, 1]
    assert sorted(found.clusters[1]) == [3, 4]


def test_nothing_found(twin: Twin, sentences: list[str]) -> None:
    for texts in (sentences, sentences[:1], []):
        found = find_duplicates(twin, texts, threshold=1.5)
        assert len(found) == 0
        assert found.clusters == []
        assert found.probability.shape == (0,)


def test_decision_gives_threshold_and_probabilities(twin: Twin, pairs: Pairs, sentences: list[str]) -> None:
    decision = twin.calibrate(pairs).require_decision()
    found = find_duplicates(twin, sentences)
    assert found.threshold == decision.threshold
    assert (found.similarity >= decision.threshold).all()
    np.testing.assert_array_equal(found.probability, decision.probability(found.similarity))
    strict = decision.at_threshold(float(found.similarity[3]))
    given = find_duplicates(twin, sentences, decision=strict)
    assert 4 <= len(given) < len(found)
    both = find_duplicates(twin, sentences, threshold=float(found.similarity[3]))
    assert len(both) == len(given)
    assert np.isfinite(both.probability).all()


def test_decision_for_the_size_of_the_collection_comes_first(twin: Twin, pairs: Pairs, sentences: list[str]) -> None:
    twin.calibrate(pairs)
    twin.collection = fit_collection_decision(twin, pairs)
    found = find_duplicates(twin, sentences)
    decision = twin.collection.among(len(sentences))
    assert found.threshold == decision.threshold
    np.testing.assert_array_equal(found.probability, decision.probability(found.similarity))
    assert find_duplicates(twin, sentences, decision=twin.decision).threshold == twin.require_decision().threshold


# --- the decision for a collection ----------------------------------------------------------------


def test_collection_decision_is_fitted_on_all_pairs(twin: Twin, pairs: Pairs) -> None:
    found = fit_collection_decision(twin, pairs, rule="accuracy")
    assert found.texts == 48
    assert found.decision.rule == "accuracy"
    assert len(found.decision.labels) == 48 * 47 // 2
    assert found.decision.labels.sum() == 16 * 3
    assert found.decision.base_rate == pytest.approx(48 / 1128)
    clusters, vectors = cluster_ids(pairs), twin.encode(pairs.texts)
    similarities = {False: [], True: []}
    for i in range(48):
        for j in range(i + 1, 48):
            similarities[bool(clusters[i] == clusters[j])].append(float(vectors[i] @ vectors[j]))
    for same, expected in similarities.items():
        scores = found.decision.scores[found.decision.labels == same]
        np.testing.assert_allclose(np.sort(scores), np.sort(expected), atol=1e-5)


def test_collection_decision_of_some_of_the_texts(twin: Twin, pairs: Pairs) -> None:
    first, again, other = (fit_collection_decision(twin, pairs, limit=24, seed=seed) for seed in (0, 0, 1))
    assert first.texts == 24
    assert first.decision.labels.sum() == 8 * 3  # whole clusters
    np.testing.assert_array_equal(first.decision.scores, again.decision.scores)
    assert (first.decision.scores != other.decision.scores).any()


def test_collection_decision_with_a_precision(
    twin: Twin, pairs: Pairs, question_clusters: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    axis = {text: i for i, cluster in enumerate(question_clusters) for text in cluster}
    monkeypatch.setattr(twin, "encode", lambda texts, **_: np.eye(16, dtype=np.float32)[[axis[t] for t in texts]])
    found = fit_collection_decision(twin, pairs, precision=0.6).decision
    assert found.metadata()["target"] == 0.6
    assert 0 < found.threshold <= 1


def test_find_duplicates_errors(twin: Twin, fresh_tower: SentenceTransformer) -> None:
    with pytest.raises(ModelError, match="this twin has no decision yet"):
        find_duplicates(twin, ["a", "b"])
    with pytest.raises(ValueError, match="the towers of this twin differ: use match"):
        find_duplicates(Twin(fresh_tower, copy.deepcopy(fresh_tower)), ["a", "b"], threshold=0.5)
    with pytest.raises(TypeError, match="expected a list of inputs"):
        find_duplicates(twin, "a", threshold=0.5)


# --- best matches ---------------------------------------------------------------------------------


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
