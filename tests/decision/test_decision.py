from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textsiam.decision.calibration import Isotonic, Platt
from textsiam.decision.collection import CollectionDecision
from textsiam.decision.decision import Decision, fit_decision
from textsiam.decision.thresholds import RULES, Rule, best_threshold
from textsiam.evaluation.binary import calibration_error


def sample(n: int, *, seed: int = 0, share: float = 0.5, gap: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < share).astype(np.int8)
    return (rng.normal(size=n) + gap * labels).astype(np.float32), labels


def steps(n: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Scores for which isotonic regression wins."""
    rng = np.random.default_rng(0)
    scores = rng.random(n).astype(np.float32)
    chance = np.select([scores < 0.3, scores < 0.7], [0.02, 0.5], 0.98)
    return scores, (rng.random(n) < chance).astype(np.int8)


def test_fit_keeps_the_calibration_pairs_and_their_share() -> None:
    scores, labels = sample(500, share=0.3)
    decision = fit_decision(scores, labels)
    assert decision.prior == decision.base_rate == pytest.approx(labels.mean())
    assert decision.rule == "f1"
    np.testing.assert_array_equal(decision.scores, scores)
    np.testing.assert_array_equal(decision.labels, labels)
    assert decision.threshold == best_threshold(scores, labels, rule="f1", prior=decision.prior)


def test_probability_at_another_prior_by_hand() -> None:
    labels = np.array([1, 0], dtype=np.int8)
    decision = Decision(0.0, "fixed", 0.5, Platt(1.0, 0.0), np.array([0.0, 1.0], dtype=np.float32), labels)
    assert decision.probability([0.0, np.log(3)]).tolist() == pytest.approx([0.5, 0.75])
    assert decision.with_prior(0.25).probability([0.0, np.log(3)]).tolist() == pytest.approx([0.25, 0.5])
    assert decision.with_prior(0.25).with_prior(0.5).probability(0.3) == decision.probability(0.3)


def test_a_stated_prior_repairs_a_calibration_on_another_share() -> None:
    """Calibrated where 75 % are duplicates, used where 37 % are."""
    scores, labels = sample(6000, seed=1, share=0.75, gap=1.5)
    fresh, truth = sample(20_000, seed=2, share=0.37, gap=1.5)
    decision = fit_decision(scores, labels, rule="accuracy")
    moved = decision.with_prior(0.37)
    assert calibration_error(decision.probability(fresh), truth) > 0.15
    assert calibration_error(moved.probability(fresh), truth) < 0.025
    before, after = (np.mean(d.is_duplicate(fresh) == truth) for d in (decision, moved))
    assert after > before + 0.04
    assert fit_decision(scores, labels, rule="accuracy", prior=0.37).threshold == moved.threshold


def test_with_prior_learns_the_threshold_again_by_its_rule() -> None:
    scores, labels = sample(4000)
    decision = fit_decision(scores, labels)
    for rule in ("f1", "accuracy"):
        moved = decision.at(rule).with_prior(0.1)
        assert moved.rule == rule
        assert moved.threshold == best_threshold(scores, labels, rule=rule, prior=0.1) > decision.at(rule).threshold
    fixed = decision.at_threshold(1.25).with_prior(0.1)
    assert (fixed.threshold, fixed.rule) == (1.25, "fixed")
    precise = decision.at_precision(0.8, confidence=0.9)
    stricter = precise.with_prior(0.3)
    assert (stricter.rule, stricter.target, stricter.confidence) == ("precision", 0.8, 0.9)
    assert stricter.threshold > precise.threshold
    with pytest.raises(ValueError, match=r"precision of 0\.8 .* prior 0\.0001"):
        precise.with_prior(0.0001)
    back = precise.at("f1")
    assert (back.threshold, back.target, back.confidence) == (decision.threshold, None, None)


def test_nothing_changes_in_place() -> None:
    decision = fit_decision(*sample(200))
    before = decision.metadata()
    changed = [
        decision.at("accuracy").with_prior(0.01),
        decision.at_threshold(9.0),
        decision.with_prior(0.01),
    ]
    assert decision.metadata() == before
    assert all(other.metadata() != before for other in changed)
    with pytest.raises(dataclasses.FrozenInstanceError):
        decision.threshold = 0.0  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="read-only"):
        decision.scores[0] = 1.0
    decision.tensors()["scores"][0] = 1.0  # copies: the caller may do as it likes


@pytest.mark.parametrize("data", [sample(300), steps()], ids=["platt", "isotonic"])
def test_verdicts_keep_their_promises(data: tuple[np.ndarray, np.ndarray]) -> None:
    decision = fit_decision(*data).with_prior(0.2)
    threshold = decision.threshold
    queries = np.sort(np.append(np.linspace(-3, 5, 501), [threshold, np.nextafter(threshold, -9)]))
    verdicts = decision.verdicts(queries)
    assert [v.similarity for v in verdicts] == queries.tolist()
    assert all(v.duplicate == (v.similarity >= v.threshold) and v.threshold == threshold for v in verdicts)
    assert np.all(np.diff([v.probability for v in verdicts]) >= 0)
    assert [v.probability for v in verdicts] == decision.probability(queries).tolist()
    assert decision.verdicts(0.5)[0].probability == decision.probability(0.5)
    assert decision.probability(np.zeros((2, 3))).shape == (2, 3)
    assert decision.is_duplicate(np.float32(9)).item() is True


def test_equal_scores_near_the_threshold_are_treated_alike_in_both_precisions() -> None:
    rng = np.random.default_rng(0)
    base = np.float32(0.7)
    scores = base + np.spacing(base) * rng.integers(0, 6, size=400).astype(np.float32)
    labels = (scores - base > 2.5 * np.spacing(base)).astype(np.int8)
    decision = fit_decision(scores, labels)
    double = scores.astype(np.float64) >= decision.threshold
    assert np.array_equal(double, labels)
    assert np.array_equal(scores >= decision.threshold, double)


@pytest.mark.parametrize("data", [sample(300), steps()], ids=["platt", "isotonic"])
@pytest.mark.parametrize("precise", [False, True])
def test_save_and_restore_is_exact(data: tuple[np.ndarray, np.ndarray], precise: bool) -> None:
    decision = fit_decision(*data, prior=0.31)
    decision = decision.with_prior(0.6).at_precision(0.7, confidence=0.9) if precise else decision
    restored = Decision.restore(json.loads(json.dumps(decision.metadata(), allow_nan=False)), decision.tensors())
    assert type(restored.calibrator) is type(decision.calibrator)
    assert restored.metadata() == decision.metadata()
    for name, array in decision.tensors().items():
        assert array.dtype == restored.tensors()[name].dtype
        np.testing.assert_array_equal(array, restored.tensors()[name])
    queries = np.linspace(-4, 6, 1001)
    np.testing.assert_array_equal(restored.probability(queries), decision.probability(queries))
    np.testing.assert_array_equal(restored.is_duplicate(queries), decision.is_duplicate(queries))
    assert restored.with_prior(0.5).at("accuracy").threshold == decision.with_prior(0.5).at("accuracy").threshold


def test_the_two_samples_cover_both_calibrators() -> None:
    assert isinstance(fit_decision(*sample(300)).calibrator, Platt)
    assert isinstance(fit_decision(*steps()).calibrator, Isotonic)


def test_an_incomplete_or_newer_file_is_refused() -> None:
    decision = fit_decision(*steps())
    tensors = decision.tensors()
    del tensors["knots"]
    with pytest.raises(ValueError, match="the stored decision has no 'knots'"):
        Decision.restore(decision.metadata(), tensors)
    with pytest.raises(ValueError, match="format 2, this version reads 1"):
        Decision.restore({**decision.metadata(), "format": 2}, decision.tensors())
    with pytest.raises(ValueError, match="calibrator is 'spline', expected 'platt' or 'isotonic'"):
        Decision.restore({**decision.metadata(), "calibrator": "spline"}, decision.tensors())


def test_bad_input_is_refused() -> None:
    scores, labels = sample(100)
    with pytest.raises(ValueError, match=r"calibration score\[0\] is nan"):
        fit_decision(np.full(100, np.nan), labels)
    with pytest.raises(ValueError, match=r"labels\[0\] is -1"):
        fit_decision(scores, np.full(100, -1))
    with pytest.raises(ValueError, match="at least 5 duplicates and as many non-duplicates, got 100 and 0"):
        fit_decision(scores, np.ones(100))
    with pytest.raises(ValueError, match=r"one-dimensional, got shape \(10, 10\)"):
        fit_decision(scores.reshape(10, 10), labels)
    with pytest.raises(ValueError, match=r"prior must be between 0 and 1, both excluded, got 1\.0"):
        fit_decision(scores, labels, prior=1.0)
    decision = fit_decision(scores, labels)
    with pytest.raises(ValueError, match=r"similarity\[1\] is nan"):
        decision.verdicts([0.1, np.nan])
    with pytest.raises(ValueError, match=r"target precision must be between 0 and 1.*got 95"):
        decision.at_precision(95)
    with pytest.raises(ValueError, match="threshold must be a finite number, got nan"):
        decision.at_threshold(float("nan"))
    with pytest.raises(ValueError, match="unknown rule 'best'"):
        decision.at("best")  # pyright: ignore[reportArgumentType]


finite = st.floats(-1e3, 1e3, width=32)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(finite, st.booleans()), min_size=12, max_size=40),
    queries=st.lists(finite, min_size=1, max_size=20),
    prior=st.floats(0.001, 0.999),
    rule=st.sampled_from(RULES),
)
def test_invariants_hold_for_any_scores(
    rows: list[tuple[float, bool]], queries: list[float], prior: float, rule: Rule
) -> None:
    # five of each class, so ordered that the scores are not upside down
    rows = [*rows, *((-1e3, False),) * 5, *((1e3, True),) * 5]
    scores, labels = np.array([s for s, _ in rows]), np.array([y for _, y in rows])
    positive = np.mean(scores[labels]) >= np.mean(scores[~labels])
    decision = fit_decision(scores if positive else -scores, labels, rule=rule, prior=prior)
    verdicts = decision.verdicts(sorted([*queries, *scores.tolist()]))
    assert all(v.duplicate == (v.similarity >= v.threshold) for v in verdicts)
    assert np.all(np.diff([v.probability for v in verdicts]) >= 0)


def test_a_collection_that_outgrows_a_promised_precision_gets_the_strictest_threshold_and_a_warning() -> None:
    precise = fit_decision(*sample(4000)).at_precision(0.8)
    collection, told = CollectionDecision(precise, 100), []
    small = collection.among(150, tell=told.append)
    assert (small.target, told) == (0.8, [])
    grown = [collection.among(n, tell=told.append) for n in (10**4, 10**6, 10**9)]
    assert len(told) == 3
    assert {d.threshold for d in grown} == {grown[0].threshold}
    assert grown[0].threshold > small.threshold
    assert 0.8 > grown[0].target > grown[1].target > grown[2].target > 0
    assert [d.rule for d in grown] == ["precision"] * 3
    with pytest.warns(
        UserWarning, match=r"precision of 0\.8 cannot be promised among 1,000,000 texts: .* promises 0\."
    ):
        again = collection.among(10**6)
    assert (again.threshold, again.target) == (grown[1].threshold, grown[1].target)
    assert again.prior == pytest.approx(precise.base_rate / 10**4)
    assert Decision.restore(again.metadata(), again.tensors()).target == again.target


@pytest.mark.parametrize("rule", ["f1", "accuracy", "precision", "probability", "fixed"])
@pytest.mark.parametrize("texts", [0, 1, 2, 10**12])
def test_a_collection_decision_never_raises_for_its_size(rule: str, texts: int) -> None:
    decision = fit_decision(*sample(1000))
    changed = {
        "precision": lambda: decision.at_precision(0.7),
        "probability": lambda: decision.at_probability(0.9),
        "fixed": lambda: decision.at_threshold(0.5),
    }.get(rule, lambda: decision.at(rule))()
    assert CollectionDecision(changed, 100).among(texts, tell=lambda message: None).rule == rule
