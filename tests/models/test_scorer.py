"""One place decides which decision applies, how low to search, and what a second look says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import textsiam
from textsiam.decision.collection import CollectionDecision
from textsiam.decision.decision import fit_decision
from textsiam.models.distances import DISTANCES, Distance
from textsiam.models.learned import build_head
from textsiam.rerank.base import Combination
from textsiam.rerank.lexical_reranker import LexicalReranker
from textsiam.search.duplicates import find_duplicates
from textsiam.search.index.base import Question
from textsiam.search.index.memory import MemoryIndex
from textsiam.search.ingest import add_questions, index_model
from textsiam.search.lookup import check

BAND = Combination(slope=10.0, intercept=-5.0, low=0.2, high=0.8, twin=5.0, reranker=1.0, constant=-2.0)
# What only `Scorer` and what it is made of may ask: is a second look fitted, and which distance is it?
ASKED = {
    "a reranker": r"(?<!config)(?<!models)(?<!training)\.reranker\b(?! *(?:=[^=]|import))|\.combination\b",
    "whether it is fitted": r"\breranker\.fitted\b",
    "a distance's name": r"distance\.name *(?:[=!]=|(?:not )?in\b)|(?:[=!]=|\bin) *\(?\"(?:cosine|angular|euclidean)\"",
    "a collection's decision": r"\.collection\.among\b",
}


@pytest.mark.parametrize("what", ASKED)
def test_nothing_outside_the_models_asks(what):
    package = Path(textsiam.__file__).parent
    rooms = {path: path.relative_to(package).parts[0] for path in package.rglob("*.py")}
    assert len(rooms) > 100
    found = [
        f"{path.relative_to(package)}:{number}: {line.strip()}"
        for path, room in rooms.items()
        if room not in ("models", "rerank")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(ASKED[what], line)
    ]
    assert found == []


def test_pairs_that_were_picked_and_those_of_a_collection_have_decisions_of_their_own(twin):
    assert twin.decision_for() is twin.decision_for(1000) is None
    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.5).astype(np.int8)
    decision = fit_decision(rng.normal(size=400) + 2 * labels, labels)
    twin.decision = decision
    assert twin.decision_for() is twin.decision_for(1000) is twin.require_decision(1000) is decision
    twin.collection = CollectionDecision(decision, 100)
    assert twin.decision_for() is decision
    assert twin.decision_for(1000).prior == pytest.approx(decision.base_rate / 10)
    assert twin.require_decision(1000).threshold == twin.decision_for(1000).threshold > decision.threshold


def test_candidates_are_searched_as_low_as_a_score_may_come_from(twin):
    assert twin.candidate_threshold(0.7) == 0.7
    assert twin.scores_by_cosine
    assert not twin.scores_by_model
    twin.reranker = LexicalReranker()
    assert twin.candidate_threshold(0.7) == 0.7  # not fitted
    assert not twin.scores_by_model
    twin.reranker = LexicalReranker(combination=BAND)
    assert [twin.candidate_threshold(t) for t in (0.1, 0.7)] == [0.1, 0.2]
    assert twin.scores_by_model
    twin.head = build_head("mlp", dim=32)
    twin.head.candidate_threshold.fill_(0.5)
    assert twin.candidate_threshold(0.7) == 0.5
    assert twin.unrescored_threshold(0.7) == 0.2
    assert not twin.scores_by_cosine


def test_a_second_look_is_the_same_wherever_pairs_are_scored(twin, sentences):
    twin.reranker = LexicalReranker(combination=BAND)
    scored = twin.similarity(sentences[:1] * 47, sentences[1:])
    found = find_duplicates(twin, sentences, threshold=-1.0)
    by_pair = dict(zip(zip(found.left.tolist(), found.right.tolist(), strict=True), found.similarity, strict=True))
    np.testing.assert_allclose([by_pair[0, k] for k in range(1, 48)], scored, atol=1e-2)


def test_a_reranker_that_is_not_fitted_changes_nothing_and_says_so_everywhere(twin, sentences):
    index = MemoryIndex(index_model(twin))
    add_questions(twin, index, [Question(str(k), text) for k, text in enumerate(sentences)])

    def answers():
        yield twin.similarity(sentences[:4], sentences[4:8])
        yield find_duplicates(twin, sentences, threshold=0.5).similarity
        yield [found.similarity for found in check(twin, index, ["Why blue?"], threshold=-1.0)[0].duplicates]

    plain = list(answers())
    twin.reranker, again = LexicalReranker(), answers()
    for expected in plain:
        with pytest.warns(UserWarning, match=r"is not fitted, so scores are the twin's own: run reranker\.fit") as told:
            np.testing.assert_array_equal(next(again), expected)
        assert len(told) == 1


@pytest.mark.parametrize("name", DISTANCES)
def test_a_similarity_implies_a_product(name):
    distance = DISTANCES[name]
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2, 200, 8))
    if distance.products != "plain":
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    u, v = torch.from_numpy(vectors)
    similarity, product = distance.similarity(distance(u, v)), (u * v).sum(-1)
    squared = torch.minimum(u.square().sum(-1), v.square().sum(-1))
    least = [distance.least_product(s, q) for s, q in zip(similarity.tolist(), squared.tolist(), strict=True)]
    assert (product.numpy() >= np.array(least) - 1e-6).all()
    if distance.products == "unit":
        np.testing.assert_allclose(product, least, atol=1e-6)


def test_nothing_follows_from_a_distance_that_does_not_say():
    own = Distance("own", lambda u, v: (u - v).sum(-1), lambda u, v: u @ v.T, 1.0)
    assert own.least_product(0.9, 1.0) == -np.inf
    assert own.products is None
