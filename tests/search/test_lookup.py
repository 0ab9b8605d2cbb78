"""A new question against an index says what find_duplicates says of it in a file."""

from __future__ import annotations

import numpy as np
import pytest

from textsiam.decision.collection import CollectionDecision
from textsiam.decision.decision import fit_decision
from textsiam.inference.encoders import ModelError
from textsiam.models.learned import build_head
from textsiam.models.twin import Twin
from textsiam.search.duplicates import find_duplicates
from textsiam.search.index.base import Question, QuestionIndexError
from textsiam.search.index.memory import MemoryIndex
from textsiam.search.ingest import Added, add_questions, index_model, migrate_index, search_texts
from textsiam.search.lookup import check, least_cosine


@pytest.fixture
def decision():
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.uniform(0.6, 1.0, 100), rng.uniform(0.0, 0.8, 100)]).astype(np.float32)
    return fit_decision(scores, np.repeat(np.array([1, 0], np.int8), 100))


def indexed(twin, texts):
    index = MemoryIndex(index_model(twin))
    add_questions(twin, index, [Question(str(i), text, {"even": i % 2 == 0}) for i, text in enumerate(texts)])
    return index


def pairs_with_last(found, last):
    """The partners of the last text in what find_duplicates found, with their similarity."""
    rows = zip(found.left.tolist(), found.right.tolist(), found.similarity.tolist(), strict=True)
    return {a if b == last else b: s for a, b, s in rows if last in (a, b)}


@pytest.mark.parametrize("distance", ["cosine", "euclidean", "squared_euclidean", "manhattan", "angular"])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_it_finds_what_find_duplicates_finds(fresh_tower, sentences, distance, share):
    twin = Twin(fresh_tower, distance=distance)
    new = "How much water does my cactus need?"
    vectors = twin.encode([*sentences, new])
    scores = twin.vector_similarity(vectors[:-1], np.repeat(vectors[-1:], len(sentences), axis=0))
    threshold = float(np.quantile(scores, 1 - share))
    expected = pairs_with_last(find_duplicates(twin, [*sentences, new], threshold=threshold), len(sentences))
    assert expected
    (checked,) = check(twin, indexed(twin, sentences), [new], threshold=threshold)
    found = {int(duplicate.question.id): duplicate.similarity for duplicate in checked.duplicates}
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-5)
    assert [d.similarity for d in checked.duplicates] == sorted(found.values(), reverse=True)
    assert checked.is_duplicate
    assert all(d.probability is None for d in checked.duplicates)


def test_a_head_scores_the_candidates(fresh_tower, sentences):
    head = build_head("mlp", dim=32, hidden=8)
    for parameter in head.parameters():
        parameter.data.normal_(0, 0.3)
    head.candidate_threshold.fill_(0.1)
    twin = Twin(fresh_tower, head=head)
    new = "Reason for the blue sky"
    expected = pairs_with_last(find_duplicates(twin, [*sentences, new], threshold=-5.0), len(sentences))
    (checked,) = check(twin, indexed(twin, sentences), [new], threshold=-5.0)
    found = {int(duplicate.question.id): duplicate.similarity for duplicate in checked.duplicates}
    assert found == pytest.approx(expected, abs=1e-4)
    assert found


class Contrary:
    """A reranker that says the opposite of the twin inside its band, and remembers what it was asked."""

    fitted = True

    class combination:
        low, high = -1.0, 2.0

    def __init__(self):
        self.asked = []

    def rescore(self, texts, left, right, similarity, *, precision="auto"):
        self.asked += [(texts[a], texts[b]) for a, b in zip(left, right, strict=True)]
        return -similarity


def test_a_reranker_is_asked_about_all_but_equal_texts(twin, sentences):
    twin.reranker = Contrary()
    (checked,) = check(twin, indexed(twin, sentences), [sentences[0]], threshold=-1.0)
    assert len(checked.duplicates) == len(sentences)
    assert checked.duplicates[0].question.text == sentences[0]
    assert checked.duplicates[0].similarity == pytest.approx(1, abs=1e-5)
    assert sorted(twin.reranker.asked) == sorted((sentences[0], other) for other in sentences[1:])
    assert all(duplicate.similarity <= 0.9999 for duplicate in checked.duplicates[1:])


def test_the_decision_gives_threshold_and_probability(twin, sentences, decision):
    index = indexed(twin, sentences)
    with pytest.raises(ModelError, match="no decision yet"):
        check(twin, index, sentences[:1])
    twin.decision = decision
    (checked,) = check(twin, index, sentences[:1])
    assert checked.threshold == decision.threshold
    for duplicate in checked.duplicates:
        assert duplicate.probability == pytest.approx(float(decision.probability(duplicate.similarity)))
    twin.collection = CollectionDecision(decision, 10)
    (checked,) = check(twin, index, sentences[:1])
    assert checked.threshold == twin.collection.among(len(sentences) + 1).threshold
    (checked,) = check(twin, index, sentences[:1], decision=decision.at_threshold(0.9))
    assert checked.threshold == 0.9


def test_the_canonical_question_is_the_most_central(twin, sentences):
    index = indexed(twin, sentences)
    (checked,) = check(twin, index, ["Why is the sky so blue?"], threshold=0.3)
    assert len(checked.duplicates) > 2
    vectors = index.vectors([duplicate.question.id for duplicate in checked.duplicates])
    to_all = (vectors @ vectors.T).sum(1)
    assert checked.canonical == checked.duplicates[int(np.argmax(to_all))]
    (checked,) = check(twin, index, ["Why is the sky so blue?"], threshold=1.5)
    assert (checked.duplicates, checked.canonical, checked.is_duplicate) == ([], None, False)


def test_filters_and_refusals(twin, fresh_tower, sentences):
    index = indexed(twin, sentences)
    (checked,) = check(twin, index, sentences[:1], threshold=-1.0, where={"even": False})
    assert len(checked.duplicates) == len(sentences) // 2
    assert check(twin, index, [], threshold=0.5) == []
    with pytest.raises(TypeError, match=r"check\(twin, index, \[text\]\)"):
        check(twin, index, "text", threshold=0.5)
    with pytest.raises(ValueError, match="towers of this twin differ"):
        check(Twin(fresh_tower, fresh_tower), index, ["text"], threshold=0.5)
    fresh_tower[0].auto_model.embeddings.word_embeddings.weight.data[0] += 1
    with pytest.raises(QuestionIndexError, match="use that model, or run textsiam index migrate"):
        check(Twin(fresh_tower), index, ["text"], threshold=0.5)


def test_adding_again_encodes_what_changed(twin, sentences):
    index = MemoryIndex(index_model(twin))
    questions = [Question(str(i), text) for i, text in enumerate(sentences)]
    told = []
    assert add_questions(twin, index, questions, progress=lambda *step: told.append(step)) == Added(48, 0, 0)
    assert told == [(48, 48)]
    questions[3] = Question("3", "Something else?")
    assert add_questions(twin, index, [*questions, Question("new", "And more?")]) == Added(1, 1, 47)
    np.testing.assert_array_equal(index.vectors(["3"]), twin.encode(["Something else?"]))
    (hits,) = search_texts(twin, index, ["And more?"], k=1)
    assert hits[0].question.id == "new"


def test_migrating_to_another_twin(twin, fresh_tower, sentences):
    index = indexed(twin, sentences)
    other = Twin(fresh_tower)
    fresh_tower[0].auto_model.embeddings.word_embeddings.weight.data.mul_(-1.5)
    assert index_model(other).fingerprint != index.model.fingerprint
    migrate_index(other, index, name="other")
    assert index.model == index_model(other, name="other")
    np.testing.assert_array_equal(index.vectors(["5"]), other.encode(sentences[5:6]))


def test_the_fingerprint_is_that_of_the_vectors(twin, decision):
    before = index_model(twin)
    twin.decision = decision
    twin.head = build_head("mlp", dim=32)
    assert index_model(twin) == before
    assert index_model(twin, name="x").name == "x"


@pytest.mark.parametrize("distance", ["cosine", "euclidean", "squared_euclidean", "manhattan", "angular"])
def test_no_pair_that_reaches_the_threshold_lies_below_the_floor(fresh_tower, distance):
    twin = Twin(fresh_tower, distance=distance)
    rng = np.random.default_rng(0)
    u = rng.standard_normal((4000, 32))
    v = u * rng.uniform(-1, 1, (4000, 1)) + rng.standard_normal((4000, 32)) * rng.uniform(0, 1, (4000, 1))
    u, v = ((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (u, v))
    cosine, scores = (u * v).sum(1), twin.vector_similarity(u, v)
    for threshold in np.quantile(scores, [0.05, 0.5, 0.95, 0.999]):
        assert (cosine[scores >= threshold] >= least_cosine(twin, float(threshold))).all()
