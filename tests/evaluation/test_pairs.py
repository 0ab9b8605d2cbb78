from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from textsiam.decision.decision import Decision, fit_decision
from textsiam.decision.intervals import Units
from textsiam.evaluation.binary import binary_report
from textsiam.evaluation.pairs import PairEvaluation, comparison_table, evaluate_pairs
from textsiam.evaluation.slices import slice_reports


class FakeTwin:
    """Texts are "cluster:noise"; similarity is 1 - |noise difference| within a cluster and lower across."""

    def __init__(self, decision: Decision | None) -> None:
        self.decision = decision
        self.calls: list[tuple[np.ndarray, np.ndarray]] = []

    def pair_similarity(self, texts: Sequence[str], left: np.ndarray, right: np.ndarray) -> np.ndarray:
        self.calls.append((left, right))
        cluster, noise = np.array([[float(x) for x in t.split(":")] for t in texts]).T
        gap = np.abs(noise[left] - noise[right])
        return (np.where(cluster[left] == cluster[right], 0.9, 0.4) - gap).astype(np.float32)


def fake_pairs(n: int = 400, *, labels: np.ndarray | None = None, seed: int = 0) -> Any:
    """A stand-in with the fields that an evaluation reads."""
    rng = np.random.default_rng(seed)
    texts = [f"{i // 4}:{noise:.6f}" for i, noise in enumerate(rng.random(n // 2))]
    left = rng.integers(0, len(texts), n)
    same = rng.random(n) < 0.4
    right = np.where(same, left ^ 1, rng.integers(0, len(texts), n))
    truth = (left // 4 == right // 4).astype(np.int8)
    fields = SimpleNamespace(
        texts=texts,
        left=left.astype(np.int32),
        right=right.astype(np.int32),
        labels=truth if labels is None else labels,
        source="forum.tsv",
    )

    class Fake(SimpleNamespace):
        modality = "text"
        groups = None

        def __len__(self) -> int:
            return len(self.left)

    return Fake(**vars(fields))


@pytest.fixture(scope="module")
def decision() -> Decision:
    pairs = fake_pairs(seed=9)
    return fit_decision(FakeTwin(None).pair_similarity(pairs.texts, pairs.left, pairs.right), pairs.labels)


@pytest.fixture
def evaluation(decision: Decision) -> PairEvaluation:
    return evaluate_pairs(FakeTwin(decision), fake_pairs(), name="fake", bootstrap=50)


def test_the_report_is_that_of_the_scores(decision: Decision, evaluation: PairEvaluation) -> None:
    pairs = fake_pairs()
    scores = FakeTwin(None).pair_similarity(pairs.texts, pairs.left, pairs.right)
    np.testing.assert_array_equal(evaluation.similarities, scores)
    np.testing.assert_array_equal(evaluation.probabilities, decision.probability(scores))
    assert evaluation.left == [pairs.texts[i] for i in pairs.left]
    assert evaluation.right == [pairs.texts[i] for i in pairs.right]
    expected = binary_report(
        scores,
        pairs.labels,
        threshold=decision.threshold,
        probabilities=decision.probability(scores),
        units=Units.of_pairs(pairs),
        bootstrap=50,
    )
    assert evaluation.report.average_precision == expected.average_precision
    assert evaluation.report.calibration_error == expected.calibration_error
    assert evaluation.threshold == decision.threshold
    assert evaluation.slices == slice_reports(
        evaluation.left, evaluation.right, scores, pairs.labels, threshold=decision.threshold
    )
    assert len(repr(evaluation)) < 5000


def test_all_is_scored_in_one_call_and_unrelated_pairs_are_low(decision: Decision) -> None:
    twin, pairs = FakeTwin(decision), fake_pairs()
    pairs.texts = pairs.texts[:40]  # few, so that random pairs would often meet a labelled one
    pairs.left, pairs.right = pairs.left % 40, pairs.right % 40
    report = evaluate_pairs(twin, pairs, bootstrap=0).report
    ((left, right),) = twin.calls
    np.testing.assert_array_equal(left[:400], pairs.left)
    left, right = left[400:], right[400:]
    assert 500 < left.size <= 1000
    assert not np.any(left == right)
    duplicates = {
        frozenset(p) for p in zip(*(s[pairs.labels == 1].tolist() for s in (pairs.left, pairs.right)), strict=True)
    }
    assert not duplicates & {frozenset(p) for p in zip(left.tolist(), right.tolist(), strict=True)}
    assert report.random_median == pytest.approx(np.median(twin.pair_similarity(pairs.texts, left, right)))
    assert not report.saturated


def test_a_collapsed_twin_raises_the_alarm() -> None:
    class Collapsed(FakeTwin):
        def pair_similarity(self, texts: Sequence[str], left: np.ndarray, right: np.ndarray) -> np.ndarray:
            return 0.985 + 0.01 * super().pair_similarity(texts, left, right)

    pairs = fake_pairs()
    twin = Collapsed(None)
    decision = fit_decision(twin.pair_similarity(pairs.texts, pairs.left, pairs.right), pairs.labels)
    assert evaluate_pairs(twin, pairs, decision=decision, bootstrap=0).report.saturated


def test_worst_pairs_by_hand(decision: Decision) -> None:
    texts = ["0:0.0", "0:0.1", "0:0.9", "1:0.0", "1:0.5", "2:0.9"]
    pairs = fake_pairs()
    pairs.texts = texts
    pairs.left = np.array([0, 0, 1, 3, 0, 2, 0], dtype=np.int32)
    pairs.right = np.array([1, 2, 2, 4, 3, 5, 1], dtype=np.int32)
    pairs.labels = np.array([1, 1, 1, 1, 0, 0, 0], dtype=np.int8)
    result = evaluate_pairs(FakeTwin(decision.at_threshold(0.39)), pairs, bootstrap=0)
    # similarities 0.8, 0.0, 0.1, 0.4, 0.4, 0.4, 0.8
    positives = result.worst_false_positives(2)
    assert [(p.left, p.right) for p in positives] == [("0:0.0", "0:0.1"), ("0:0.0", "1:0.0")]
    assert positives[0].similarity == pytest.approx(0.8)
    assert positives[0].probability == decision.probability(positives[0].similarity)
    assert len(result.worst_false_positives(99)) == 3
    negatives = result.worst_false_negatives()
    assert [(p.left, p.right) for p in negatives] == [("0:0.0", "0:0.9"), ("0:0.1", "0:0.9")]
    assert result.worst_false_positives(0) == []


def test_the_given_decision_wins(decision: Decision) -> None:
    other = decision.at_threshold(0.123)
    assert evaluate_pairs(FakeTwin(decision), fake_pairs(), decision=other, bootstrap=0).threshold == 0.123


def test_seen_questions_give_their_slices(decision: Decision) -> None:
    pairs = fake_pairs()
    found = evaluate_pairs(FakeTwin(decision), pairs, seen={pairs.texts[0]}, bootstrap=0).slices
    assert {"a question seen in training", "both questions unseen"} <= {s.name for s in found}


def test_to_dict_is_strict_json(evaluation: PairEvaluation) -> None:
    read = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert read["name"] == "fake"
    assert read["report"]["n"] == 400
    assert len(read["slices"]) == len(evaluation.slices)


def test_the_comparison_table(decision: Decision, evaluation: PairEvaluation) -> None:
    other = evaluate_pairs(FakeTwin(decision.at_threshold(0.99)), fake_pairs(), name="strict", bootstrap=0)
    rows = comparison_table([evaluation, other])
    assert [row.name for row in rows] == ["fake", "strict"]
    assert rows[0] == (
        "fake",
        evaluation.report.average_precision,
        evaluation.report.accuracy,
        evaluation.report.f1,
        evaluation.report.calibration_error,
    )
    assert str(rows[1].f1) == "0.000"
    assert comparison_table([]) == []


def test_what_is_missing_is_named(decision: Decision) -> None:
    empty = fake_pairs()
    empty.left = empty.right = empty.labels = np.array([], dtype=np.int32)
    with pytest.raises(ValueError, match=r"^forum\.tsv: no pairs to evaluate"):
        evaluate_pairs(FakeTwin(decision), empty)
    labels = np.array([0, 1, -1, -1] * 100, dtype=np.int8)
    with pytest.raises(ValueError, match=r"^forum\.tsv: 200 of 400 pairs have no label"):
        evaluate_pairs(FakeTwin(decision), fake_pairs(labels=labels))
    with pytest.raises(ValueError, match=r"^forum\.tsv: .*both classes, got 0 duplicates and 400"):
        evaluate_pairs(FakeTwin(decision), fake_pairs(labels=np.zeros(400, dtype=np.int8)))


def test_a_twin_without_a_decision_is_measured_as_far_as_that_goes(decision: Decision) -> None:
    known = evaluate_pairs(FakeTwin(decision), fake_pairs(), bootstrap=0).report
    ranked = evaluate_pairs(FakeTwin(None), fake_pairs(), bootstrap=0)
    assert ranked.report.average_precision.value == known.average_precision.value
    assert ranked.report.accuracy.to_dict() == {"value": None, "low": None, "high": None, "note": "no threshold"}
    assert ranked.to_dict()["threshold"] is ranked.report.to_dict()["recall"] is ranked.report.calibration_error is None
    assert str(ranked.report.f1) == "\N{EN DASH} (no threshold)"
    assert ranked.worst_false_positives() == list(ranked.slices) == []
    cut = evaluate_pairs(FakeTwin(None), fake_pairs(), threshold=decision.threshold, bootstrap=0).report
    assert (cut.accuracy.value, cut.f1.value) == (known.accuracy.value, known.f1.value)
    assert cut.calibration_error is None


def test_a_similarity_that_is_not_a_number_is_refused(decision: Decision) -> None:
    class Broken(FakeTwin):
        def pair_similarity(self, texts: Sequence[str], left: np.ndarray, right: np.ndarray) -> np.ndarray:
            scores = super().pair_similarity(texts, left, right)
            scores[3] = np.nan
            return scores

    with pytest.raises(ValueError, match=r"forum\.tsv: similarity\[3\] is nan"):
        evaluate_pairs(Broken(decision), fake_pairs())
