"""What a decision that answers gave keeps of them, where it certifies, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from textsiam.decision.calibration import Isotonic
from textsiam.decision.certificate import Certificate
from textsiam.decision.collection import CollectionDecision, restore_decisions, store_decisions
from textsiam.decision.decision import Decision, fit_decision

CERTIFICATE = Certificate(
    precision=0.95,
    confidence=0.9,
    noise=0.02,
    pairs=412,
    right=399,
    threshold=0.5,
    answers=94,
    answers_left=0,
    recall=(0.8, 0.66, 0.92),
    floor=0.3,
    disagreements=(1, 7),
    model="ab" * 8,
    collection="cd" * 8,
    source="forum",
)


@pytest.fixture
def decision() -> Decision:
    knots = np.linspace(0, 1, 11)
    return Decision(
        threshold=0.5,
        rule="precision",
        prior=0.5,
        calibrator=Isotonic(knots, 0.02 + 0.96 * knots),
        scores=np.linspace(0, 1, 10, dtype=np.float32),
        labels=np.array([0] * 5 + [1] * 5, np.int8),
        target=0.95,
        confidence=0.9,
        source="forum",
        certificate=CERTIFICATE,
    )


def test_it_travels_with_the_decision(decision):
    facts, arrays = store_decisions(decision, CollectionDecision(decision, 600))
    facts = json.loads(json.dumps(facts))
    for kept in (restore_decisions(facts, arrays)[0], restore_decisions(facts, arrays)[1].decision):
        assert kept.certificate == CERTIFICATE
        assert kept.source == "forum"
    assert Certificate.restore(replace(CERTIFICATE, recall=None).to_dict()).recall is None


def test_one_sentence_says_what_it_was_learned_from(decision):
    assert decision.learned_from == (
        "learned from 94 answers about pairs of forum: at least 95% of its 412 pairs at or above 0.5000 are right "
        "(90% confidence, up to 2% of the answers wrong); that is certified for the model abababababababab and the "
        "questions cdcdcdcdcdcdcdcd alone"
    )
    plain = fit_decision(np.linspace(0, 1, 40), [0] * 20 + [1] * 20)
    assert plain.learned_from == "learned from 40 labelled pairs"
    assert replace(plain, source="pairs.tsv").learned_from == "learned from 40 labelled pairs of pairs.tsv"
    assert Decision.restore(replace(plain, source="x").metadata(), plain.tensors()).source == "x"


def test_it_certifies_one_model_one_collection_and_one_threshold(decision):
    model, collection = "ab" * 32, "cd" * 32
    assert decision.certified(model, collection) == CERTIFICATE
    assert decision.certified("ef" * 32, collection) is None
    assert decision.certified(model, "ef" * 32) is None
    assert decision.at_threshold(0.4).certified(model, collection) is None
    assert decision.with_prior(0.3).certified(model, collection) is None
    assert decision.with_prior(0.5).certified(model, collection) == CERTIFICATE
    assert fit_decision(np.linspace(0, 1, 40), [0] * 20 + [1] * 20).certified(model, collection) is None


def test_a_larger_collection_moves_threshold_and_odds(decision):
    collection = CollectionDecision(decision, 600)
    assert collection.among(600) is decision
    larger = collection.among(1200)
    before, after = (one.probability([0.5])[0] for one in (decision, larger))
    assert after / (1 - after) == pytest.approx(before / (1 - before) / 2)
    assert larger.threshold > decision.threshold
    assert larger.probability([larger.threshold])[0] >= before


def test_what_was_drawn_unequally_teaches_no_other_rule(decision):
    for learn in (decision.at, lambda: decision.at_precision(0.9)):
        with pytest.raises(ValueError, match=r"were drawn unequally.* give the file of answers"):
            learn()
