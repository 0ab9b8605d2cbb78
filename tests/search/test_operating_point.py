from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from textsiam.search import operating_point as operating
from textsiam.search.operating_point import OperatingPoint, clustered_rate, fit_operating_point


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


def test_a_probe_whose_own_identity_is_not_the_best_is_not_found() -> None:
    genuine, impostors = scores()
    found = np.arange(genuine.size) % 2 == 0
    half = fit_operating_point(genuine, impostors, far=0.1, prior=0.5, enrolled=1, found=found)
    whole = fit_operating_point(genuine, impostors, far=0.1, prior=0.5, enrolled=1)
    assert half.true_accepts.value == pytest.approx(np.mean((genuine >= half.decision.threshold) & found))
    assert half.true_accepts.value < 0.6 < whole.true_accepts.value
    assert half.decision.threshold == whole.decision.threshold


def test_probes_of_one_identity_depend_on_each_other() -> None:
    events = np.repeat(np.random.default_rng(0).random(20) < 0.5, 10)[:, None]  # all ten of an identity, or none
    names = [f"n{i // 10}" for i in range(200)]
    alone, together = clustered_rate(events), clustered_rate(events, names=names)
    assert together.value == alone.value
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


def test_fewer_than_ten_identities_give_a_word_and_no_interval() -> None:
    events = np.random.default_rng(0).random((180, 1)) < 0.5
    rate = clustered_rate(events, names=[f"n{i % 9}" for i in range(180)])
    assert str(rate) == f"{events.mean():.3f} (no interval: 9 identities are too few for one)"
    assert (rate.low, rate.high) == (0.0, 1.0)
    genuine, impostors = scores()
    found = fit_operating_point(genuine, impostors, far=0.01, prior=0.5, enrolled=1, names=["a", "b"] * 100)
    assert found.true_accepts.note == "no interval: 2 identities are too few for one"
    facts = json.loads(json.dumps(found.metadata()))
    assert OperatingPoint.restore(facts, found.decision.tensors()).true_accepts == found.true_accepts


def test_too_few_impostors() -> None:
    genuine, impostors = scores(9, 11)
    with pytest.raises(ValueError, match=r"0\.01 needs at least 100 impostor comparisons, got 99: give more"):
        fit_operating_point(genuine, impostors, far=0.01, prior=0.5, enrolled=1)
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


def test_independent_events_have_the_exact_interval() -> None:
    for hits, n in ((0, 50), (3, 50), (50, 50)):
        events = (np.arange(n) < hits)[:, None]
        expected = binomtest(hits, n).proportion_ci(0.95, method="exact")
        found = clustered_rate(events)
        # s² divides by n - 1, so that n* is n - 1
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)
        assert found.value == hits / n


def test_there_are_no_more_trials_than_events() -> None:
    events = np.zeros((100, 10), bool)
    events[:, 0] = events[0, 1] = True  # shares that differ less than those of independent events
    found, expected = clustered_rate(events), binomtest(101, 1000).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_dependent_events_have_a_wider_interval() -> None:
    rng = np.random.default_rng(0)
    alone = rng.random((100, 30)) < 0.1
    together = np.repeat(rng.random((100, 1)) < 0.1, 30, axis=1)
    assert clustered_rate(alone).high - clustered_rate(alone).low < 0.03
    wide = clustered_rate(together)
    assert (wide.low, wide.high) == pytest.approx(
        tuple(binomtest(int(together[:, 0].sum()), 100).proportion_ci(0.95, method="exact")), abs=0.01
    )
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        share = rng.beta(1, 9, size=(80, 1))  # each probe has a rate of its own, 0.1 on average
        rate = clustered_rate(rng.random((80, 30)) < share)
        covered += rate.low <= 0.1 <= rate.high
    assert covered >= 185


def test_a_point_is_restored_as_it_was() -> None:
    found = point(far=0.05)
    again = OperatingPoint.restore(json.loads(json.dumps(found.metadata())), found.decision.tensors())
    assert (again.far, again.enrolled, again.probes) == (0.05, 1, 200)
    assert (again.false_accepts, again.true_accepts) == (found.false_accepts, found.true_accepts)
    assert again.decision.threshold == found.decision.threshold
    at = np.linspace(-1, 4, 9)
    np.testing.assert_array_equal(again.decision.probability(at), found.decision.probability(at))
    assert str(found.false_accepts).startswith("0.0")
