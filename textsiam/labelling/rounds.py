"""Rounds of draws, each to prove a set: once one is proven, its error serves larger sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsiam.decision.confidence import NestedSets
from textsiam.labelling.aim import Aim, Draw


@dataclass
class Round:
    """What was fixed before its first draw, and what it aims at.

    Attributes:
        start: Number of its first draw: what was judged before is known, and no draw.
        precision: That is wished; sets of the round before that are proven to have it hand over their error.
        sizes: Of the sets, ascending, `(h,)`.
        shares: The part of its error that each set may use, `(h,)`, together 1.
        expected: Share of right pairs that is expected of each, by which bets are placed, `(h,)`.
        target: Size of the set that pairs are drawn from; it may change.
    """

    start: int
    precision: float
    sizes: NDArray[np.int64]
    shares: NDArray[np.float64]
    expected: NDArray[np.float64]
    target: int = 0


def proofs(rounds: Sequence[Round], draws: Sequence[Draw], said: Sequence[bool], aim: Aim) -> list[NestedSets]:
    """Return what draws prove in each round.

    The first round has the whole error. A later one has what the sets that the round before it had proven by then hand
    over. Draws of later rounds count for earlier ones, too.

    Args:
        rounds: In order.
        draws: In order.
        said: Whether each pair was called right, `(draws,)`.
        aim: Confidence and noise.
    """
    answered = [(draw.rank, draw.among, right) for draw, right in zip(draws, said, strict=True)]
    found, error = [], 1.0
    for this, following in zip_longest(rounds, rounds[1:]):
        known = {rank: right for rank, _, right in answered[: this.start]}
        options: dict[str, Any] = {"known": known, "confidence": aim.confidence, "noise": aim.noise}
        sets = NestedSets(this.sizes, error * this.shares, this.expected, **options)
        end = following.start if following else len(answered)
        sets.history = answered[this.start : end]
        if following:
            error = sets.hand_over(following.precision)
        sets.history += answered[end:]
        found.append(sets)
    return found


def chance_of_proof(
    right: NDArray[Any],
    needed: NDArray[Any],
    size: NDArray[Any],
    goal: NDArray[np.float64],
    answers: int,
    *,
    noise: float = 0.0,
) -> NDArray[np.float64]:
    """Return the chance that so many answers prove a set: its capital as a normal random walk.

    Args:
        right: How many unjudged pairs of the set are right, `(..., h)`.
        needed: How many of them must be called right, `(h,)`.
        size: How many there are, `(h,)`.
        goal: What the logarithm of the capital must gain, `(h,)`.
        answers: How many are left.
        noise: Share of the answers that are wrong.
    """
    from scipy.special import ndtr

    size = np.maximum(size, 1)
    n = np.minimum(answers, size)
    n = n / np.maximum(1.0 - 0.5 * n / size, 0.05)  # without replacement an answer is worth more
    p, m = np.clip(right / size, 1e-6, 1 - 1e-6), np.clip(needed / size, 1e-6, 1 - 1e-6)
    p = p + noise * (1.0 - 2.0 * p)
    q = np.maximum(p, m)
    up, down = np.log(q / m), np.log((1 - q) / (1 - m))
    growth, spread = p * up + (1 - p) * down, np.sqrt(p * (1 - p)) * np.abs(up - down)
    chance = ndtr((n * growth - goal) / np.sqrt(np.maximum(n * spread**2, 1e-3)))
    return np.where((needed <= 0) | ((p > m) & (needed <= size)), np.where(goal <= 0, 1.0, chance), 0.0)
