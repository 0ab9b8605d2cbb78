"""A first guess from the shape of the scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from textsiam.decision.shape import two_heaps


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
