"""Intervals of bootstraps and shares: clusters and identities are independent, never the pairs that share one."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from scipy.stats import binomtest

from textsiam.data.pairs import Pairs
from textsiam.decision.intervals import Estimate, Units, clustered_rate, interval, ratio_rate
from textsiam.evaluation.binary import binary_report
from textsiam.evaluation.verification import verification_report


def copied(times: int) -> tuple[Pairs, np.ndarray]:
    """A hundred pairs of unrelated questions, each pair there `times` times in other words on one side."""
    rng = np.random.default_rng(0)
    rows = [(f"question {k}", f"other {k}, wording {w}", k % 2) for k in range(100) for w in range(times)]
    left, right, labels = zip(*rows, strict=True)
    scores = np.repeat(rng.normal(size=100) + np.arange(100) % 2, times)
    return Pairs.from_texts(left, right, labels), scores


def width(estimate: Estimate) -> float:
    return estimate.high - estimate.low


def test_copies_of_a_pair_make_no_interval_narrower():
    once, many = (
        binary_report(scores, pairs.labels, threshold=0.5, units=Units.of_pairs(pairs))
        for pairs, scores in (copied(1), copied(9))
    )
    pairs, scores = copied(9)
    alone = binary_report(scores, pairs.labels, threshold=0.5)
    for name in ("average_precision", "roc_auc", "accuracy", "f1"):
        assert getattr(many, name).to_dict() == pytest.approx(getattr(once, name).to_dict())
        assert width(getattr(alone, name)) < 0.5 * width(getattr(once, name))


def people(count: int, each: int, seed: int) -> tuple[Pairs, np.ndarray]:
    """All pairs among pictures of people; some people are harder to tell from others."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(count), each)
    left, right = np.triu_indices(count * each, 1)
    hard = rng.normal(size=count)
    labels = (who[left] == who[right]).astype(np.int8)
    scores = 1.5 * labels + 0.7 * (hard[who[left]] + hard[who[right]]) + rng.normal(size=left.size)
    names = [f"{w}-{k}" for k, w in enumerate(who.tolist())]
    return Pairs(names, left, right, labels, "people", None, groups=who, modality="image"), scores  # type: ignore[arg-type]


def test_identities_are_drawn_where_each_is_paired_with_all_others():
    truth = np.mean([np.mean((s >= 1) == p.labels) for p, s in (people(60, 3, 1000 + k) for k in range(60))])
    covered = {True: 0, False: 0}
    for seed in range(40):
        pairs, scores = people(20, 4, seed)
        for by_identity in covered:
            units = Units.of_pairs(pairs) if by_identity else None
            found = binary_report(scores, pairs.labels, threshold=1, units=units, bootstrap=200).accuracy
            covered[by_identity] += found.low <= truth <= found.high
    assert covered[True] >= 34
    assert covered[False] <= 20


def test_two_people_have_a_word_in_place_of_an_interval():
    pairs, scores = people(2, 10, 0)
    units = Units.of_pairs(pairs)
    report = binary_report(scores, pairs.labels, threshold=1, units=units)
    assert math.isnan(report.average_precision.low)
    assert str(report.average_precision).endswith("(no interval: 2 identities are too few for one)")
    assert report.to_dict()["accuracy"]["note"] == "no interval: 2 identities are too few for one"
    assert "no interval: 2 identities" in str(verification_report(scores, pairs.labels, threshold=1, units=units))
    assert report.average_precision.percent().endswith("(no interval: 2 identities are too few for one)")


def test_ten_people_have_an_interval():
    pairs, scores = people(10, 4, 0)
    assert width(binary_report(scores, pairs.labels, threshold=1, units=Units.of_pairs(pairs)).accuracy) > 0


def test_pairs_that_share_a_question_are_one_unit():
    pairs = Pairs.from_texts(["a", "b", "x", "y"] + [f"l{k}" for k in range(36)],
                             ["b", "c", "y2", "z"] + [f"r{k}" for k in range(36)], [1, 0, 1, 0] + [0] * 36)  # fmt: skip
    units = Units.of_pairs(pairs)
    assert units.first[0] == units.first[1]
    assert np.unique(units.first).size == 39
    assert units.first.tolist() == units.second.tolist()


@pytest.mark.parametrize("second", [[0, 0, 1, 2], [0, 1, 2, 2]])
def test_an_item_stands_as_often_as_both_its_units(second):
    units = Units(np.array([0, 0, 1, 2]), np.array(second))
    counts = np.concatenate(list(Units.grouped([0, 1, 2]).weights(50, 3)))
    expected = [counts[:, a] * (1 if a == b else counts[:, b]) for a, b in zip([0, 0, 1, 2], second, strict=True)]
    assert np.concatenate(list(units.weights(50, 3))).tolist() == np.stack(expected, 1).tolist()


def test_an_interval_of_nothing_known_is_none():
    assert math.isnan(interval(0.5, np.array([math.nan])).low)


def test_fifteen_thousand_pairs_take_seconds():
    rng = np.random.default_rng(0)
    pairs = Pairs.from_texts([f"l{k}" for k in rng.integers(0, 9000, 15_000)], [f"r{k}" for k in range(15_000)],
                             (np.arange(15_000) % 2).tolist())  # fmt: skip
    started = time.perf_counter()
    binary_report(rng.normal(size=15_000), pairs.labels, threshold=0, units=Units.of_pairs(pairs))
    assert time.perf_counter() - started < 20


def test_probes_of_one_identity_depend_on_each_other():
    events = np.repeat(np.random.default_rng(0).random(20) < 0.5, 10)[:, None]  # all ten of an identity, or none
    names = [f"n{i // 10}" for i in range(200)]
    alone, together = clustered_rate(events), clustered_rate(events, names=names)
    assert together.value == alone.value
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


def test_fewer_than_ten_identities_give_a_word_and_no_interval():
    events = np.random.default_rng(0).random((180, 1)) < 0.5
    rate = clustered_rate(events, names=[f"n{i % 9}" for i in range(180)])
    assert str(rate) == f"{events.mean():.3f} (no interval: 9 identities are too few for one)"
    facts = json.loads(json.dumps(rate.to_dict(), allow_nan=False))
    assert (facts["low"], facts["high"]) == (None, None)
    assert Estimate.restore(facts) == rate


def test_a_share_of_no_trials_may_be_anything():
    nothing = np.zeros(3, np.int64)
    assert ratio_rate(nothing, nothing) == Estimate(1.0, 0.0, 1.0)


def test_independent_events_have_the_exact_interval():
    for hits, n in ((0, 50), (3, 50), (50, 50)):
        events = (np.arange(n) < hits)[:, None]
        expected = binomtest(hits, n).proportion_ci(0.95, method="exact")
        found = clustered_rate(events)
        # s² divides by n - 1, so that n* is n - 1
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)
        assert found.value == hits / n


def test_there_are_no_more_trials_than_events():
    events = np.zeros((100, 10), bool)
    events[:, 0] = events[0, 1] = True  # shares that differ less than those of independent events
    found, expected = clustered_rate(events), binomtest(101, 1000).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_dependent_events_have_a_wider_interval():
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
