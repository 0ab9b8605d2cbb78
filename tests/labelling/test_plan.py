"""Which pair is asked about next, and what the answers prove."""

from __future__ import annotations

from collections import Counter
from copy import copy
from dataclasses import replace

import numpy as np
import pytest

from textsiam.decision.confidence import NestedSets
from textsiam.labelling.aim import Aim, Draw
from textsiam.labelling.plan import Plan
from textsiam.labelling.rounds import Round, chance_of_proof, proofs

SCORES = np.sort(np.random.default_rng(0).random(400).round(3))[::-1]
TRUTH = np.random.default_rng(1).random(400) < np.where(SCORES > 0.7, 0.99, 0.02)
AIM = Aim(0.9, 0.9, 40)


def run(plan: Plan, draws: int) -> list[int]:
    for _ in range(draws):
        draw = plan.draw()
        if draw is None:
            break
        plan.answer(draw.number, bool(TRUTH[draw.rank]))
    return [draw.rank for draw in plan.draws]


def test_draws_follow_from_the_seed():
    assert run(Plan(SCORES, AIM), 60) == run(Plan(SCORES, AIM), 60)
    assert run(Plan(SCORES, AIM), 20) != run(Plan(SCORES, replace(AIM, seed=1)), 20)


def test_every_pair_is_drawn_at_most_once_and_all_in_the_end():
    plan = Plan(SCORES[:50], replace(AIM, precision=0.999))
    for _ in range(50):
        draw = plan.draw()
        plan.answer(draw.number, draw.number % 3 != 0)
    assert sorted(draw.rank for draw in plan.draws) == list(range(50))
    assert plan.draw() is None


def test_a_proof_is_reached_and_is_true():
    plan = Plan(SCORES, AIM)
    run(plan, 120)
    assert plan.done
    pairs = plan.proven()
    assert pairs > 50
    assert TRUTH[:pairs].mean() >= 0.9
    share, low, high = plan.recall(pairs)
    assert low <= TRUTH[:pairs].sum() / TRUTH.sum() <= high
    assert low <= share <= high
    assert plan.answers_left() == 0


def test_a_promise_out_of_reach_ends_after_three_times_the_planned_answers():
    plan = Plan(SCORES, replace(AIM, precision=0.999, labels=20))
    run(plan, 59)
    assert not plan.exhausted
    run(plan, 1)
    assert plan.exhausted
    small = Plan(SCORES[:10], replace(AIM, precision=0.999))
    run(small, 10)
    assert small.exhausted


def test_half_of_the_set_is_enough_each_time_the_planned_answers_are_given(monkeypatch):
    plan = Plan(SCORES, AIM)
    plan.rounds = [Round(0, 0.9, *np.zeros((3, 1)), target=100)]
    monkeypatch.setattr(plan, "proven", lambda precision=None: 30)
    for given, done in ((39, False), (40, False), (79, False), (80, True)):
        plan.answers = dict.fromkeys(range(given), True)
        assert plan.done is done


def test_the_order_of_answering_changes_nothing_that_is_proven():
    """Draws may be open while others are made: they count in the order of drawing."""
    plan = Plan(SCORES, AIM)
    run(plan, 50)
    bounds = [sets.lower_bounds().tolist() for sets in plan.sets]
    for seed in range(3):
        other = Plan(SCORES, AIM)
        for draw in plan.draws:
            other.issue(draw)
        other.rounds = plan.rounds
        for number in np.random.default_rng(seed).permutation(50).tolist():
            other.answer(number, bool(TRUTH[plan.draws[number].rank]))
        assert [sets.history for sets in other.sets] == [sets.history for sets in plan.sets]
        assert [sets.lower_bounds().tolist() for sets in other.sets] == bounds


def test_a_skipped_or_open_pair_counts_as_wrong():
    plans = [Plan(SCORES, AIM) for _ in range(3)]
    run(plans[0], 60)
    for plan, other in zip(plans[1:], (None, False), strict=True):
        for draw in plans[0].draws:
            plan.issue(draw)
            plan.answer(draw.number, other if draw.number % 5 == 0 else bool(TRUTH[draw.rank]))
        plan.rounds, plan._sets = plans[0].rounds, None
    assert [sets.history for sets in plans[1].sets] == [sets.history for sets in plans[2].sets]
    assert plans[1].curve.asked.sum() == 48  # left out of the estimates
    assert plans[2].curve.asked.sum() == 60
    waiting = Plan(SCORES, AIM)
    for draw in plans[0].draws:
        waiting.issue(draw)
        if draw.number % 5:
            waiting.answer(draw.number, bool(TRUTH[draw.rank]))
    assert [draw.number for draw in waiting.open] == list(range(0, 60, 5))
    waiting.rounds, waiting._sets = plans[0].rounds, None
    assert [sets.history for sets in waiting.sets] == [sets.history for sets in plans[1].sets]


@pytest.mark.parametrize("answered", [0, 12, 20])
def test_a_pair_is_drawn_as_often_as_its_probability_says(answered):
    """After the same answers, over many seeds: the sum of 1 / probability of a pair's draws is how often we drew."""
    before = Plan(SCORES[150:180], AIM)
    for _ in range(answered):
        draw = before.draw()
        before.answer(draw.number, bool(TRUTH[150 + draw.rank]))
    weight, often, seeds = Counter(), Counter(), 1000
    for seed in range(seeds):
        plan = copy(before)
        plan.draws, plan.aim = list(before.draws), replace(AIM, seed=seed)
        draw = plan.draw()
        often[draw.rank] += 1
        weight[draw.rank] += 1 / draw.probability
    assert len(often) <= 30 - answered
    assert not {draw.rank for draw in before.draws} & set(often)
    for rank, times in often.items():
        if times > 20:
            assert weight[rank] / seeds == pytest.approx(1.0, abs=4 * times**-0.5), rank


def test_nothing_is_worth_a_proof_where_all_answers_are_no():
    plan = Plan(SCORES[:50], replace(AIM, precision=0.999))
    for _ in range(50):
        plan.answer(plan.draw().number, False)
    assert plan.draw() is None
    assert plan.proven() == 0
    assert (plan.sets[-1].lower_bounds() == 0).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_few_candidates_are_all_asked_about(count):
    plan = Plan(np.linspace(0.9, 0.5, count), AIM)
    for _ in range(count):
        draw = plan.draw()
        plan.answer(draw.number, True)
    assert plan.draw() is None
    assert plan.proven() == count


def test_what_is_known_of_all_pairs_is_exact_however_they_were_drawn():
    """As in a file whose pairs were all drawn for a look: the best 6 of 8 hold five right ones."""
    said = [True, True, False, True, True, True, False, False]
    for noise, found in ((0.0, [(0.99, 2), (0.83, 6), (0.6, 8)]), (0.3, [(0.99, 0)])):
        plan = Plan(np.linspace(0.9, 0.5, 8), replace(AIM, noise=noise))
        for number, right in enumerate(said):
            assert plan.sets == []
            plan.issue(Draw(number, number, "look", 0, 1.0))
            plan.answer(number, right)
        assert [(precision, plan.proven(precision)) for precision, _ in found] == found
        assert plan.answers_left() == 0


def test_all_pairs_may_be_open_before_the_first_answer():
    plan = Plan(np.linspace(0.9, 0.5, 6), AIM)
    draws = [plan.draw() for _ in range(6)]
    for draw in draws:
        plan.answer(draw.number, True)
    assert plan.proven() == 6


@pytest.mark.parametrize(
    ("wished", "message"),
    [
        ({"precision": float("nan")}, "precision must be between 0 and 1, got nan"),
        ({"confidence": 2.0}, "confidence must be between 0 and 1, got 2.0"),
        ({"labels": 0}, "labels must be at least 1, at most 100000000, got 0"),
        ({"noise": -1.0}, r"noise must be in \[0, 0.5\), got -1.0"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
    ],
)
def test_a_wish_outside_its_limits_is_refused(wished, message):
    with pytest.raises(ValueError, match=message):
        Aim(**wished)


def test_all_scores_equal_are_one_stratum():
    plan = Plan(np.full(30, 0.5), Aim(0.9, 0.95, 20))
    for _ in range(30):
        draw = plan.draw()
        plan.answer(draw.number, True)
    assert plan.proven() == 30
    assert plan.proven(0.999) == 30


def test_answers_that_are_left_make_the_proven_set_larger():
    """Right pairs thin out slowly: the first set proven is not the largest that three times its answers can prove."""
    scores = np.linspace(1.0, 0.0, 3000)
    gains = []
    for seed in range(4):
        truth = np.random.default_rng(seed).random(3000) < np.clip(1.3 - np.arange(3000) / 1000, 0.02, 0.98)
        plan, first = Plan(scores, Aim(0.8, 0.95, 200, seed=seed)), 0
        while not plan.finished:
            draw = plan.draw()
            plan.answer(draw.number, bool(truth[draw.rank]))
            first = first or plan.done * plan.proven()
        gains.append(plan.proven() / first)
        assert truth[: plan.proven()].mean() >= 0.8
        if len(plan.rounds) == 1:  # nothing larger was within reach
            continue
        assert all(later.start > earlier.start for earlier, later in zip(plan.rounds, plan.rounds[1:], strict=False))
        later = plan.draws[plan.rounds[1].start :]
        below = [draw for draw in later if draw.stage == "recall"]
        assert 0.1 * len(later) <= len(below)
        again = Plan(scores, plan.aim)  # as a file of answers is read
        for draw in plan.draws:
            again.issue(draw)
            again.answer(draw.number, plan.answers[draw.number])
        assert [r.start for r in again.rounds] == [r.start for r in plan.rounds]
        assert all((a.shares == b.shares).all() for a, b in zip(again.rounds, plan.rounds, strict=True))
        assert again.proven() == plan.proven()
    assert max(gains) > 1.2


def test_a_round_has_what_the_sets_before_it_had_proven_by_then():
    """An answer that is taken back later takes the error back, too."""
    sizes, half = np.array([60, 300]), np.array([0.5, 0.5])
    rounds = [Round(0, 0.8, sizes, half, np.full(2, 0.98)), Round(40, 0.8, sizes, half, np.full(2, 0.98))]
    draws = [Draw(n, n, "prove", 60, 0.1) for n in range(40)] + [
        Draw(n, n + 20, "prove", 300, 0.1) for n in range(40, 90)
    ]
    first, second = proofs(rounds, draws, [True] * 90, Aim(0.8, 0.95))
    assert len(first.history) == 90
    assert len(second.history) == 50
    assert set(second.known) == set(range(40))
    assert second.shares.sum() == pytest.approx(0.45)
    assert second.proven(0.8).tolist() == [False, True]
    _, nothing = proofs(rounds, draws, [False] * 15 + [True] * 75, Aim(0.8, 0.95))
    assert nothing.shares.sum() == 0.0
    assert not nothing.proven(0.8).any()


@pytest.mark.parametrize(("right", "chance"), [(0.97, (0.75, 1.0)), (0.9, (0.02, 0.25)), (0.7, (0.0, 0.0))])
def test_the_chance_of_a_proof_is_about_that_of_betting(right, chance):
    """A hundred answers, at the promise of 0.85: against bets on drawn pairs."""
    size, rng, proven = 2000, np.random.default_rng(3), 0
    for _ in range(60):
        truth = rng.permutation(size) < right * size
        sets = NestedSets([size], [1.0], [right])
        for rank in range(100):
            sets.add(rank, among=size, right=bool(truth[rank]))
        proven += bool(sets.proven(0.85)[0])
    numbers = (np.array([value * size]) for value in (right, 0.85, 1.0))
    expected = chance_of_proof(*numbers, np.array([-np.log(0.05)]), 100)[0]
    assert chance[0] <= expected <= chance[1]
    assert abs(proven / 60 - expected) < 0.2
