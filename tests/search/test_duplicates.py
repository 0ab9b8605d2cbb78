from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.inference.encoders import ModelError
from textsiam.models.domain import collection_shift
from textsiam.models.learned import Mahalanobis
from textsiam.models.twin import Twin
from textsiam.search.duplicates import find_duplicates, fit_collection_decision


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


class Opinion:
    """A reranker that is in doubt from 0.2 to 0.7, and then goes by the sum of the rows."""

    combination, fitted = SimpleNamespace(low=0.2), True

    def rescore(self, texts, left, right, similarity, *, precision="auto"):
        asked = (similarity >= 0.2) & (similarity <= 0.7)
        return np.where(asked, np.where((left + right) % 2, 0.9, 0.1), similarity).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.1, 0.6, 0.95])
def test_a_reranker_has_the_last_word_in_its_band(tower: SentenceTransformer, threshold: float) -> None:
    twin, vectors = Twin(tower), unit(40)
    twin.encode = lambda texts, **_: vectors
    texts = [f"text {i}" for i in range(40)]
    plain = naive_pairs(twin, vectors, -2)
    twin.reranker = Opinion()  # pyright: ignore[reportAttributeAccessIssue]
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


# --- duplicates -----------------------------------------------------------------------------------


def test_find_duplicates_against_a_loop(twin: Twin, sentences: list[str]) -> None:
    texts = [*sentences, sentences[7]]
    vectors = twin.encode(texts)
    every = naive_pairs(twin, vectors, -1.0)
    threshold = sorted(similarity for *_, similarity in every)[-40]
    found = find_duplicates(twin, texts, threshold=threshold, expand_exact=True)
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
    found = find_duplicates(twin, texts, threshold=0.9999995, expand_exact=True)
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
    found = find_duplicates(twin, [str(i) for i in range(60)], threshold=-0.8)
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


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 1.0, 1.01])
def test_copies_are_found_as_if_nothing_were_equal(
    tower: SentenceTransformer, monkeypatch: pytest.MonkeyPatch, threshold: float
) -> None:
    kinds, vectors = np.random.default_rng(1).integers(0, 25, 70), unit(25)
    twin, encoded = Twin(tower), []

    def encode(texts: list[str], **_: object) -> np.ndarray:
        encoded.append(len(texts))
        return vectors[[int(text) for text in texts]]

    monkeypatch.setattr(twin, "encode", encode)
    texts = [str(kind) for kind in kinds]
    found = find_duplicates(twin, texts, threshold=threshold, expand_exact=True)
    assert encoded == [len(set(kinds.tolist()))]
    expected = {}
    for i in range(70):
        for j in range(i + 1, 70):
            a, b = kinds[[i]], kinds[[j]]
            similarity = 1.0 if a == b else float(twin.vector_similarity(vectors[a], vectors[b])[0])
            if similarity >= threshold:
                expected[i, j] = pytest.approx(similarity, abs=1e-6)
    pairs = rows((found.left, found.right, found.similarity))
    assert {pair[:2]: pair[2] for pair in pairs} == expected
    assert pairs == sorted(pairs, key=lambda pair: (-pair[2], *pair[:2]))
    members = [x for c in found.clusters for x in c]
    assert len(members) == len(set(members))
    for cluster in found.clusters:
        assert all((min(x, y), max(x, y)) in expected for x in cluster for y in cluster if x != y)
        assert all(kinds[y] not in kinds[cluster] for y in range(70) if y not in cluster)
    linked = find_duplicates(twin, texts, threshold=threshold)
    first = [texts.index(text) for text in texts]
    stand = {(a, b): s for (a, b), s in expected.items() if first[a] == a and (first[b] == b or kinds[a] == kinds[b])}
    pairs = rows((linked.left, linked.right, linked.similarity))
    assert {pair[:2]: pair[2] for pair in pairs} == stand
    assert len(pairs) == len(stand)
    assert linked.clusters == found.clusters


def test_thousands_of_equal_texts_are_as_many_pairs(twin: Twin) -> None:
    texts = ["[deleted]", "[removed]"] * 20_000 + ["Why do cats purr?"]
    found = find_duplicates(twin, texts, threshold=-1.0)
    assert len(found) == 39_998 + 3
    assert [len(cluster) for cluster in found.clusters] == [40_001]


def test_copies_of_a_twin_with_another_distance_or_a_head(tower: SentenceTransformer, sentences: list[str]) -> None:
    texts = [*sentences[:3], sentences[1]]
    found = find_duplicates(Twin(tower, distance="manhattan"), texts, threshold=0.0)
    assert rows((found.left, found.right, found.similarity)) == [(1, 3, 0.0)]
    twin = Twin(tower, head=Mahalanobis(tower.get_embedding_dimension() or 0, diagonal=True))
    vectors = twin.encode(texts)
    own = float(twin.vector_similarity(vectors[[1]], vectors[[1]])[0])
    found = find_duplicates(twin, texts, threshold=own)
    assert (1, 3, own) in rows((found.left, found.right, found.similarity))


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


def test_a_collection_decision_of_a_few_huge_classes_sees_them_all(twin: Twin) -> None:
    texts = [f"{word} {number}" for word in ("apple", "banana", "cherry") for number in range(40)]
    left = np.concatenate([np.arange(40 * c, 40 * c + 39) for c in range(3)])
    pairs = Pairs(texts, left, left + 1, np.ones(len(left), np.int8), "huge", None)
    found = fit_collection_decision(twin, pairs, limit=36)
    assert found.texts == 36
    sizes = (10 + 6, 10, 10)  # ten of each, then what has room
    assert found.decision.labels.sum() == sum(n * (n - 1) // 2 for n in sizes)


def test_the_domain_of_the_texts_is_compared_without_encoding_them_again(monkeypatch):
    twin = Twin.from_pretrained("all-MiniLM-L6-v2")
    nouns = ("Katze", "Birne", "Strasse", "Uhr", "Brille")
    texts = [f"{verb} die {noun} {k}?" for k in range(6) for verb in ("Wo ist", "Wer hat") for noun in nouns]
    shift = collection_shift(twin, texts)
    assert shift is not None  # the decision was learned on English
    encoded: list[int] = []
    encode = Twin.encode
    monkeypatch.setattr(
        Twin, "encode", lambda self, inputs, **k: encoded.append(len(inputs)) or encode(self, inputs, **k)
    )
    found = find_duplicates(twin, [*texts, *texts[:9]], threshold=0.99)
    assert found.shift == shift
    assert encoded == [len(texts)]


def test_places_are_places_whatever_the_index_of_a_series_says(twin: Twin, sentences: list[str]) -> None:
    pandas = pytest.importorskip("pandas")
    texts = [*sentences[:4], *sentences[:4]]
    ids = [f"id {k}" for k in range(8)]
    frame = pandas.DataFrame({"id": ids, "text": texts}, index=[5, 1, 7, 3, 0, 2, 6, 4])
    found = find_duplicates(twin, frame.text, threshold=0.999)
    assert found.to_pandas(frame.text, frame.id).equals(found.to_pandas(texts, ids))
    assert (found.to_pandas(texts, ids).question1 == found.to_pandas(texts, ids).question2).all()
    with pytest.raises(ValueError, match="ids: 7 were given, the pairs are of 8 texts at least"):
        found.to_dataset(texts, ids[:7])


def test_a_threshold_is_a_number(twin: Twin, sentences: list[str]) -> None:
    with pytest.raises(ValueError, match="threshold must be a number, got nan"):
        find_duplicates(twin, sentences, threshold=float("nan"))
