from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textsiam.search import operating_point as operating
from textsiam.search.operating_point import OperatingPoint, fit_operating_point


def scores(probes: int = 200, others: int = 20, *, gap: float = 3.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    genuine = (gap + rng.normal(size=probes)).astype(np.float32)
    return genuine, rng.normal(size=(probes, others)).astype(np.float32)


def point(**knobs) -> OperatingPoint:
    genuine, impostors = scores()
    return fit_operating_point(genuine, impostors, **{"far": 0.01, "prior": 0.5, "enrolled": 1} | knobs)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=20, max_size=80), st.sampled_from([0.05, 0.1, 0.3, 0.5]))
def test_the_lowest_threshold_that_keeps_the_rate(values: list[int], far: float) -> None:
    impostors = np.array(values, np.float32)[:, None]
    genuine = np.array([*range(3, 9), 8, 8], np.float32)
    found = fit_operating_point(genuine, impostors, far=far, prior=0.5, enrolled=1)
    threshold = found.decision.threshold
    assert np.mean(impostors >= threshold) <= far + 1e-9
    lower = [s for s in {*values, *genuine.tolist()} if s < threshold]
    assert all(np.mean(impostors >= s) > far for s in lower)
    assert found.false_accepts.value == pytest.approx(np.mean(impostors >= threshold))
    assert found.true_accepts.value == pytest.approx(np.mean(genuine >= threshold))


def test_the_rate_holds_on_other_probes() -> None:
    rates = []
    for seed in range(40):
        threshold = fit_operating_point(*scores(400, 10, seed=seed), far=0.05, prior=0.5, enrolled=1).decision.threshold
        rates.append(np.mean(scores(2000, 10, seed=1000 + seed)[1] >= threshold))
    assert np.mean(rates) == pytest.approx(0.05, abs=0.003)


def test_weights_are_shares_of_the_rate() -> None:
    """An identity of four probes at half of the weight of one of two: as if all had as many."""
    genuine = np.arange(10, 20, dtype=np.float32)
    impostors = np.array([9, 8, 1, 1, 2, 2], np.float32)
    alike = fit_operating_point(genuine, impostors, far=0.34, prior=0.5, enrolled=1)
    heavier = fit_operating_point(
        genuine, impostors, far=0.34, prior=0.5, enrolled=1, weights=np.array([1, 1, 1, 1, 2, 2.0]) / 4
    )
    assert alike.false_accepts.value == pytest.approx(2 / 6)
    assert heavier.false_accepts.value == pytest.approx(2 / 8)
    few = fit_operating_point(
        genuine, impostors, far=0.34, prior=0.5, enrolled=1, weights=np.array([2, 2, 1, 1, 1, 1.0])
    )
    assert few.false_accepts.value == pytest.approx(2 / 8)
    assert few.decision.threshold > alike.decision.threshold


def test_a_probe_whose_own_identity_is_not_the_best_is_not_found() -> None:
    genuine, impostors = scores()
    found = np.arange(genuine.size) % 2 == 0
    half = fit_operating_point(genuine, impostors, far=0.1, prior=0.5, enrolled=1, found=found)
    whole = fit_operating_point(genuine, impostors, far=0.1, prior=0.5, enrolled=1)
    assert half.true_accepts.value == pytest.approx(np.mean((genuine >= half.decision.threshold) & found))
    assert half.true_accepts.value < 0.6 < whole.true_accepts.value
    assert half.decision.threshold == whole.decision.threshold


def test_fewer_than_ten_identities_give_a_word_and_no_interval() -> None:
    genuine, impostors = scores()
    found = fit_operating_point(genuine, impostors, far=0.01, prior=0.5, enrolled=1, names=["a", "b"] * 100)
    assert found.true_accepts.note == "no interval: 2 identities are too few for one"
    facts = json.loads(json.dumps(found.metadata(), allow_nan=False))
    assert OperatingPoint.restore(facts, found.decision.tensors()).true_accepts == found.true_accepts


def test_too_few_impostors() -> None:
    genuine, impostors = scores(9, 11)
    with pytest.raises(ValueError, match=r"0\.01 needs at least 100 impostor comparisons, got 99: give more"):
        fit_operating_point(genuine, impostors, far=0.01, prior=0.5, enrolled=1)
    with pytest.raises(ValueError, match="none of the calibration inputs is of an enrolled identity"):
        fit_operating_point(genuine[:0], impostors, far=0.1, prior=0.5, enrolled=1)
    with pytest.raises(ValueError, match="prior must be between"):
        point(prior=1.0)


def test_the_probability_is_stated_for_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine, impostors = scores(2000, 2)

    def point(prior: float) -> OperatingPoint:
        return fit_operating_point(genuine, impostors, far=0.01, prior=prior, enrolled=1)

    even, rare = point(0.5).decision, point(0.01).decision
    odds = [d.probability(2.0) / (1 - d.probability(2.0)) for d in (even, rare)]
    assert odds[0] / odds[1] == pytest.approx(99)
    # densities N(3, 1) and N(0, 1): equal at 1.5
    assert even.probability(1.5) == pytest.approx(0.5, abs=0.2)
    # fewer impostors are fitted on, and the base rate is taken out again
    monkeypatch.setattr(operating, "_FITTED", 2500)
    fewer = point(0.5)
    assert fewer.decision.scores.size == 4500
    assert fewer.decision.probability(1.5) == pytest.approx(0.5, abs=0.2)
    assert (fewer.decision.threshold, fewer.false_accepts) == (even.threshold, point(0.01).false_accepts)


def test_more_identities_raise_more_false_alarms() -> None:
    found = fit_operating_point(*scores(5000, 1), far=0.01, prior=0.5, enrolled=50)
    rate = found.false_accepts.value
    assert found.false_accepts_among(50) == pytest.approx(rate)
    assert found.false_accepts_among(0) == 0.0
    assert found.false_accepts_among(200) == pytest.approx(1 - (1 - rate) ** 4)
    # the law holds where similarities are independent
    genuine, impostors = scores(20_000, 40)
    ten = fit_operating_point(genuine, impostors[:, :10].max(1, keepdims=True), far=0.02, prior=0.5, enrolled=10)
    seen = np.mean(impostors.max(1) >= ten.decision.threshold)
    assert ten.false_accepts_among(40) == pytest.approx(seen, abs=0.01)
    with pytest.raises(ValueError, match="must be >= 0, got -1"):
        found.false_accepts_among(-1)


def test_a_point_is_restored_as_it_was() -> None:
    found = point(far=0.05)
    again = OperatingPoint.restore(json.loads(json.dumps(found.metadata())), found.decision.tensors())
    assert (again.far, again.enrolled, again.probes) == (0.05, 1, 200)
    assert (again.false_accepts, again.true_accepts) == (found.false_accepts, found.true_accepts)
    assert again.decision.threshold == found.decision.threshold
    at = np.linspace(-1, 4, 9)
    np.testing.assert_array_equal(again.decision.probability(at), found.decision.probability(at))
    assert str(found.false_accepts).startswith("0.0")
