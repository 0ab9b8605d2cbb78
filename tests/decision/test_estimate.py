"""What a collection says of its own pairs, where the decision knows picked pairs only."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.isotonic import IsotonicRegression

from textsiam.decision.decision import Decision, fit_decision
from textsiam.decision.estimate import estimate_collection, rising, two_heaps

PAIRS = 200_000


@pytest.fixture(scope="module")
def decision() -> Decision:
    """Learned on pairs that were picked: strangers among them score 0.5."""
    rng = np.random.default_rng(0)
    labels = np.arange(4000) % 2
    return fit_decision(rng.normal(np.where(labels == 1, 0.8, 0.5), 0.1), labels)


def collection(duplicates: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a collection: its strangers score 0.2, and few of them reach what picked ones do."""
    rng = np.random.default_rng(seed)
    labels = np.arange(PAIRS) < duplicates
    return rng.normal(np.where(labels, 0.8, 0.2), np.where(labels, 0.1, 0.12)), labels


@pytest.mark.parametrize("duplicates", [60, 200, 2000])
@pytest.mark.parametrize("known", [True, False])
def test_the_share_of_right_pairs_is_found(decision, duplicates, known):
    scores, labels = collection(duplicates)
    found = scores >= 0.6
    prior = duplicates / PAIRS if known else None
    estimate = estimate_collection(decision, [scores[found]], pairs=PAIRS, prior=prior)
    assert estimate is not None
    assert estimate.probability(scores[found]).mean() == pytest.approx(labels[found].mean(), abs=0.15)
    assert estimate.prior == pytest.approx(duplicates / PAIRS, rel=0.35)
    order = np.argsort(scores[found])
    assert (np.diff(estimate.probability(scores[found])[order]) >= 0).all()


def test_the_prior_on_top_of_picked_pairs_promises_far_too_little(decision):
    scores, labels = collection(100)
    found = scores >= 0.7
    assert labels[found].mean() > 0.8
    assert decision.with_prior(0.0005).probability(scores[found]).mean() < 0.2
    estimate = estimate_collection(decision, [scores[found]], pairs=PAIRS, prior=0.0005)
    assert estimate is not None
    assert estimate.probability(scores[found]).mean() == pytest.approx(labels[found].mean(), abs=0.2)


def test_a_small_prior_finds_little_right(decision):
    scores, _ = collection(2000)
    estimate = estimate_collection(decision, np.array_split(scores[scores >= 0.6], 7), pairs=PAIRS, prior=1e-5)
    assert estimate is not None
    assert estimate.probability(scores[scores >= 0.6]).mean() < 0.01


def test_where_nothing_is_found_there_is_no_estimate(decision):
    assert estimate_collection(decision, [], pairs=10) is None
    assert estimate_collection(decision, [[5.0]], pairs=10) is None
    with pytest.raises(ValueError, match="prior must be between 0 and 1"):
        estimate_collection(decision, [[0.9]], pairs=10, prior=2.0)


def heaps(low: float, high: float, spread: float, *, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = rng.random(count) < 0.4
    return np.where(labels, rng.normal(high, spread, count), rng.normal(low, 0.05, count)), labels


def test_two_heaps_give_the_posterior_of_the_mixture_that_made_them():
    scores, labels = heaps(0.1, 0.7, 0.15)
    guess = two_heaps(scores)
    wanted = np.linspace(0.1, 0.7, 13)
    upper = 0.4 * norm.pdf(wanted, 0.7, 0.15)
    assert guess(wanted) == pytest.approx(upper / (upper + 0.6 * norm.pdf(wanted, 0.1, 0.05)), abs=0.05)
    assert guess(scores)[labels].mean() > 0.95 > 0.05 > guess(scores)[~labels].mean()
    beyond = guess(np.array([-1.0, 0.0, 0.9, 1.0]))  # constant beyond the means, where a wide heap would win again
    assert beyond[0] == beyond[1] < 0.01
    assert beyond[2] == beyond[3] > 0.99


@pytest.mark.parametrize("high", [0.2, 0.1])
def test_heaps_that_run_into_each_other_give_no_guess(high):
    assert two_heaps(heaps(0.1, high, 0.15)[0]) is None


@pytest.mark.parametrize("scores", [np.full(200, 0.5), np.linspace(0, 1, 10), np.array([])])
def test_without_a_shape_there_is_no_guess(scores):
    assert two_heaps(scores) is None


def test_what_never_falls_is_scikit_learns_isotonic_regression():
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 40):
        values, weights = rng.normal(size=size).round(1), rng.integers(1, 9, size).astype(float)
        theirs = IsotonicRegression().fit_transform(np.arange(size), values, sample_weight=weights)
        assert rising(values, weights) == pytest.approx(theirs, abs=1e-12)


def test_copies_tell_nothing_of_the_others(decision):
    scores, _ = collection(200)
    found = scores[scores >= 0.6]
    plain = estimate_collection(decision, [found], pairs=PAIRS)
    with_copies = estimate_collection(decision, [np.r_[found, np.ones(5000)]], pairs=PAIRS, copies=5000)
    assert plain is not None
    assert with_copies is not None
    assert with_copies.prior == plain.prior
    assert np.array_equal(with_copies.probability(found), plain.probability(found))
    assert with_copies.probability([1.0])[0] >= plain.probability(found).max()
    assert estimate_collection(decision, [np.ones(9)], pairs=0, copies=9) is None


def test_scores_above_those_found_are_right_as_often_at_least(decision):
    estimate = estimate_collection(decision, [np.full(40, 0.7)], pairs=400)
    assert estimate is not None
    assert (np.diff(estimate.probability(np.linspace(0.6, 1.2, 30))) >= 0).all()
