"""Bounds of nested sets: against enumeration, brute force, and many runs at the boundary of the claim."""

from __future__ import annotations

from itertools import permutations
from math import comb, exp, log

import numpy as np
import pytest
from scipy.stats import beta, binom, hypergeom

from textsiam.decision.confidence import KEPT, NestedSets


def single(size: int, expected: float = 0.9, **options) -> NestedSets:
    return NestedSets([size], [1.0], [expected], **options)


@pytest.mark.parametrize("expected", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("right", [1, 3, 5])
def test_on_the_boundary_nobody_can_expect_to_win(expected, right):
    """All orders of six pairs: the mean capital stays at or below 1, for any number of draws and any guess."""
    truth = np.array([True] * right + [False] * (6 - right))
    for most in range(right, 7):  # the claim "at most so many" is true
        for draws in range(1, 7):
            mean = 0.0
            orders = set(permutations(range(6), draws))
            for order in orders:
                sets = single(6, expected)
                for rank in order:
                    sets.add(rank, among=6, right=bool(truth[rank]))
                mean += exp(sets.log_capital([most])[0, 0]) / len(orders)
            assert mean <= 1 + 1e-9


def test_a_false_claim_loses():
    """The check above can fail: against a claim that is false the mean capital grows beyond 1."""
    truth, mean, orders = np.array([True] * 5 + [False]), 0.0, list(permutations(range(6), 3))
    for order in orders:
        sets = single(6, 0.9)
        for rank in order:
            sets.add(rank, among=6, right=bool(truth[rank]))
        mean += exp(sets.log_capital([3])[0, 0]) / len(orders)
    assert mean > 1


def test_the_capital_is_the_likelihood_ratio_to_the_hypergeometric_distribution():
    """While the guess is above the claim, the bets multiply to P(these answers | guess) / P(these answers | claim)."""
    size, most, answers = 40, 20, [True] * 6 + [False] + [True] * 5
    sets = single(size, 0.95)
    for rank, right in enumerate(answers):
        sets.add(rank, among=size, right=right)
    guess, seen = 1.0, 0
    for n, right in enumerate(answers):
        q = (100 * 0.95 + seen) / (100 + n)
        guess, seen = guess * (q if right else 1 - q), seen + right
    n, r = len(answers), sum(answers)
    claim = hypergeom.pmf(r, size, most, n) / comb(n, r)  # one order of them
    assert sets.log_capital([most])[0, 0] == pytest.approx(log(guess / claim))


def drawn_once(rng: np.random.Generator, sizes: list[int], right: list[int], draws: int, noise: float) -> bool:
    """Draw in the middle of several sets, by strata now and then; say whether any true claim was ever refuted."""
    truth = np.zeros(sizes[-1], bool)
    begin = 0
    for size, much in zip(sizes, np.diff(right, prepend=0), strict=True):
        truth[rng.choice(np.arange(begin, size), much, replace=False)] = True
        begin = size
    said = truth ^ (rng.random(len(truth)) < noise)
    sets = NestedSets(sizes, [0.5, 0.3, 0.2], [0.95, 0.93, 0.9], confidence=0.8, noise=noise)
    left = np.ones(len(truth), bool)
    for number in range(draws):
        among = 0 if number % 7 == 3 else sizes[int(rng.integers(3))]
        # a draw by strata looks where it likes: here at the best-scored pairs
        pool = np.flatnonzero(left[: among or sizes[0]])
        if not len(pool):
            continue
        rank = int(rng.choice(pool))
        left[rank] = False
        sets.add(rank, among=among, right=bool(said[rank]))
    return bool((sets.log_capital(right)[1] >= sets.goals(right)).any())


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_true_claims_are_hardly_ever_refuted_however_often_one_looks(noise):
    """At the boundary, with draws from three sets and from strata: at most the error of 0.2, at any moment."""
    rng = np.random.default_rng(5)
    runs = 600
    broken = sum(drawn_once(rng, [40, 100, 300], [36, 88, 255], 150, noise) for _ in range(runs))
    assert broken <= runs * 0.2 + 2 * (runs * 0.2 * 0.8) ** 0.5
    if not noise:
        assert broken > 0  # the bound is not empty


def test_peeking_with_uncorrected_bounds_breaks_and_betting_does_not():
    """Precision 0.949 at all of forty thresholds: Clopper-Pearson after every answer promises 0.95 far too often."""
    rng = np.random.default_rng(2)
    sizes = np.arange(1, 41) * 100
    broken = {"peeking": 0, "betting": 0}
    runs = 100
    for _ in range(runs):
        truth = np.concatenate([rng.permutation(np.arange(100) < 94) for _ in sizes])
        truth = np.where(rng.random(len(truth)) < 0.1, True, truth)
        for size in sizes:  # every set just under the promise
            if truth[:size].mean() >= 0.95:
                spare = np.flatnonzero(truth[:size])
                truth[rng.choice(spare, int(truth[:size].sum() - np.ceil(0.95 * size) + 1), replace=False)] = False
        sets = NestedSets(sizes, np.full(40, 1 / 40), np.full(40, 0.99))
        order = rng.permutation(4000)[:400]
        peeked = False
        for rank in order:
            sets.add(int(rank), among=4000, right=bool(truth[rank]))
        inside = order[:, None] < sizes
        n, wrong = inside.cumsum(0), (inside & ~truth[order][:, None]).cumsum(0)
        upper = beta.ppf(0.95, wrong + 1, np.maximum(n - wrong, 1e-9))
        peeked = bool((1 - upper >= 0.95).any())
        broken["peeking"] += peeked
        broken["betting"] += bool(sets.proven(0.95).any())
    assert broken["peeking"] > 0.2 * runs
    assert broken["betting"] <= 0.05 * runs + 2 * (runs * 0.05 * 0.95) ** 0.5


def test_judging_everything_gives_the_exact_number():
    rng = np.random.default_rng(0)
    truth = rng.random(60) < 0.7
    sets = NestedSets([20, 60], [0.6, 0.4], [0.9, 0.8], known={3: bool(truth[3])})
    for rank in rng.permutation(60):
        if rank != 3:
            sets.add(int(rank), among=60, right=bool(truth[rank]))
    assert sets.lower_bounds().tolist() == [truth[:20].sum(), truth.sum()]
    assert sets.judged.tolist() == [20, 60]
    assert sets.right.tolist() == [truth[:20].sum(), truth.sum()]


def test_what_chance_has_won_is_no_proof_against_what_was_seen():
    """All right pairs came first: such luck breaks a promise, but not once the wrong ones are seen."""
    sets = single(40, 0.99)
    for rank in range(40):
        sets.add(rank, among=40, right=rank < 30)
        if rank == 29:
            assert sets.lower_bounds()[0] > 30
            assert sets.proven(0.9)[0]
    assert sets.lower_bounds()[0] == 30
    assert not sets.proven(0.9)[0]


def test_judging_everything_with_noise_subtracts_what_noise_may_have_added():
    sets = single(1000, noise=0.05)
    for rank in range(1000):
        sets.add(rank, among=1000, right=rank % 10 != 0)
    (least,) = sets.lower_bounds()
    # of 1000 - r wrong pairs, more than the surplus are called right with 0.1 · 0.05 at most
    surplus = 900 - least
    assert binom.sf(surplus, 1000 - least, 0.05) <= 0.005
    assert binom.sf(surplus, 1000 - (least - 1), 0.05) <= 0.005 < binom.sf(surplus - 1, 1000 - least, 0.05)
    assert 880 < least < 895


@pytest.mark.parametrize("seed", range(8))
def test_bounds_are_those_of_a_scan_over_all_claims(seed):
    rng = np.random.default_rng(seed)
    sizes = np.array([8, 20, 45])
    sets = NestedSets(sizes, [0.5, 0.3, 0.2], rng.choice([0.5, 0.9, 0.99], 3), confidence=0.8, noise=0.1 * (seed % 2))
    truth = rng.random(45) < rng.choice([0.3, 0.8, 0.95])
    for rank in rng.permutation(45)[: int(rng.integers(5, 45))]:
        among = int(rng.choice([0, *sizes[sizes > rank]]))
        sets.add(int(rank), among=among, right=bool(truth[rank]))
    if seed > 3:
        sets.hand_over(0.6)
    bounds, possible = sets.lower_bounds(), sizes - (0 if sets.noise else sets.judged - sets.right)
    for h, size in enumerate(sizes):
        refuted = [
            bool((sets.log_capital(claims)[1] >= sets.goals(claims))[h])
            for claims in (np.where(np.arange(3) == h, claim, sizes) for claim in range(size + 1))
        ]
        first = refuted.index(False)
        assert refuted == [claim < first for claim in range(size + 1)]  # one refuted refutes all below
        assert bounds[h] == min(first, possible[h])


def test_every_precision_is_read_from_the_same_bounds():
    sets = single(200)
    for rank in range(100):
        sets.add(rank, among=200, right=rank % 25 != 0)
    (least,) = sets.lower_bounds()
    for precision in (0.5, 0.8, least / 200, (least + 1) / 200, 0.99):
        assert sets.proven(precision)[0] == (precision * 200 <= least + 1e-9)


def test_a_draw_from_a_smaller_set_is_no_bet_on_a_larger_one():
    sets = NestedSets([10, 100], [0.5, 0.5], [0.9, 0.9])
    for rank in range(10):
        sets.add(rank, among=10, right=True)
    assert sets.lower_bounds().tolist() == [10, 10]  # the larger one: only what was seen
    strata = single(100)
    for rank in range(10):
        strata.add(rank, among=0, right=True)
    assert strata.lower_bounds().tolist() == [10]


def test_an_open_pair_counts_as_wrong_and_never_proves_more_than_its_answer():
    rng = np.random.default_rng(1)
    for _ in range(60):
        truth, order = rng.random(50) < 0.9, rng.permutation(50)[:30]
        is_open = rng.random(30) < 0.2
        whole, part = single(50, confidence=0.8), single(50, confidence=0.8)
        for rank, waits in zip(order.tolist(), is_open.tolist(), strict=True):
            whole.add(rank, among=50, right=bool(truth[rank]))
            part.add(rank, among=50, right=bool(truth[rank]) and not waits)
        assert part.lower_bounds()[0] <= whole.lower_bounds()[0]


@pytest.mark.parametrize(
    ("sizes", "shares"), [([4, 4], [0.5, 0.5]), ([0], [1.0]), ([4, 9], [0.7, 0.7]), ([4, 9], [-0.1, 0.5])]
)
def test_sizes_and_shares_are_checked(sizes, shares):
    with pytest.raises(ValueError, match="sizes must rise from 1, and shares of the error add up to 1 at most"):
        NestedSets(sizes, shares, np.full(len(sizes), 0.9))
    with pytest.raises(ValueError, match="confidence"):
        single(4, confidence=1.5)


def test_a_proven_set_hands_its_error_over_and_keeps_what_is_proven():
    sets = NestedSets([50, 100, 400], [0.6, 0.3, 0.1], [0.99, 0.99, 0.99])
    for rank in range(0, 100, 2):
        sets.add(rank, among=100, right=True)
    bounds = sets.lower_bounds()
    assert sets.proven(0.8).tolist() == [True, True, False]
    assert sets.spare(0.8) == pytest.approx(0.9 * (1 - KEPT))
    assert sets.lower_bounds().tolist() == bounds.tolist()  # asking gives nothing away
    assert sets.hand_over(0.8) == pytest.approx(0.9 * (1 - KEPT))
    assert sets.proven(0.8).tolist() == [True, True, False]
    assert sets.hand_over(0.8) == 0.0  # nothing is given twice
    # what goes beyond 0.8 must be proven with a tenth of the error
    tenth = NestedSets([50, 100, 400], np.array([0.6, 0.3, 0.1]) * KEPT, [0.99, 0.99, 0.99])
    tenth.history = sets.history
    expected = np.where([True, True, False], np.maximum(sets.needed(0.8), tenth.lower_bounds()), bounds)
    assert sets.lower_bounds().tolist() == expected.tolist()
    assert (sets.lower_bounds() < bounds).any()


def handed_on(rng: np.random.Generator) -> bool:
    """Prove the best 100 of 400 pairs, hand their error to a larger set whose claim is true, and go on with all three.

    Returns whether any true claim was refuted: that about the middle set, that about the large one, or one about the
    small set that goes beyond what was proven of it.
    """
    sizes, right = np.array([100, 250, 400]), np.array([80, 149, 239])  # 0.8, and just below 0.6
    truth = np.concatenate([
        rng.permutation(end - begin) < many
        for begin, end, many in zip([0, *sizes[:-1]], sizes, np.diff(right, prepend=0), strict=True)
    ])  # fmt: skip
    first = NestedSets(sizes, [0.5, 0.5, 0.0], [0.9, 0.7, 0.7], confidence=0.8)
    later = None
    for size in (100, 250, 400):  # the unjudged pairs of each set in turn
        for rank in rng.permutation(np.setdiff1d(np.arange(size), [rank for rank, _, _ in first.history])).tolist():
            for sets in filter(None, (first, later)):
                sets.add(rank, among=size, right=bool(truth[rank]))
            if later is None and first.proven(0.6)[0]:
                known = {rank: right for rank, _, right in first.history}
                shares = np.array([0.0, 0.0, first.hand_over(0.6)])
                later = NestedSets(sizes, shares, [0.7] * 3, confidence=0.8, known=known)
    refuted = [sets.log_capital(right)[1] >= sets.goals(right) for sets in filter(None, (first, later))]
    return bool(np.any(refuted))


def test_error_that_was_handed_over_breaks_no_more_than_was_allowed():
    rng, runs = np.random.default_rng(8), 400
    broken = sum(handed_on(rng) for _ in range(runs))
    assert 0 < broken <= runs * 0.2 + 2 * (runs * 0.2 * 0.8) ** 0.5
