"""Which pair is asked about next, so that few answers prove that a flagged set is as right as was wished.

Three stages. *Look*: pairs are drawn over all scores, most where it is undecided how far down the set may reach.
*Prove*: pairs are drawn uniformly from the set that is worth most, and every answer counts for all sets that it was
drawn from (`textsiam.decision.confidence`). *Recall*: what answers are left go to the pairs below the set, so that it
is known what it misses. Every draw follows from the seed, its number and the answers before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from textsiam.decision.confidence import NestedSets
from textsiam.decision.curve import Probability, ScoreCurve, Strata

Stage = Literal["look", "prove", "recall"]
_DRAWS = 150
_OUTSIDE = 0.4  # of the draws that the confidence would leave outside: no curve fits exactly (simulated)
_LOOK = 0.15, 0.25  # of the answers, at least and at most
_ENOUGH = 0.75
_LATER = 0.75  # of them are reckoned with before the proof, however many were given
_EVERY = 5  # answers after which a choice is thought over
_STRATA = 60
_BEYOND = 0.1  # of the planned answers at least are about what the set misses
_MOST = 3  # times the planned answers: then what is not proven seems out of reach
_GOOD = 0.25
_BELOW = 2
_SHARP, _SWITCH = 4.0, 1.5
_BEST, _EVEN = 0.7, 0.05  # shares of the error for the set that seems best, and for all alike


MOST_PAIRS = 100_000_000
"""Candidates of ten million questions: no file or option counts further."""
LIMITS: dict[str, tuple[Callable[[float], bool], str]] = {
    "precision": (lambda value: 0 < value < 1, "between 0 and 1"),
    "confidence": (lambda value: 0 < value < 1, "between 0 and 1"),
    "labels": (lambda value: 1 <= value <= MOST_PAIRS, f"at least 1, at most {MOST_PAIRS}"),
    "noise": (lambda value: 0 <= value < 0.5, "in [0, 0.5)"),
    "seed": (lambda value: value >= 0, "0 or more"),
}
"""Of what may be wished: whether a value may be, and what may be, in words."""


@dataclass(frozen=True)
class Aim:
    """What is wished.

    Raises:
        ValueError: A value is outside its `LIMITS`.

    Attributes:
        precision: Share of the flagged pairs that are right.
        confidence: With which it is proven.
        labels: Answers that one means to give, about.
        noise: Share of the answers that may be wrong.
        seed: Of the draws.
    """

    precision: float = 0.95
    confidence: float = 0.95
    labels: int = 100
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        for name, (allowed, expected) in LIMITS.items():
            if not allowed(value := getattr(self, name)):
                raise ValueError(f"{name} must be {expected}, got {value}")


@dataclass(frozen=True)
class Draw:
    """A pair that is asked about.

    Attributes:
        number: Counted from 0.
        rank: Its place among the candidates, best first.
        stage: What it serves.
        among: How many candidates, from the best on, the set holds that it was drawn from; 0 for a draw by strata.
        probability: With which this pair was drawn.
    """

    number: int
    rank: int
    stage: Stage
    among: int
    probability: float


class Plan:
    """Chooses pairs and keeps the answers.

    Draws may be open while others are made, and be answered in any order: they count in the order of drawing. A pair
    that nobody could judge counts as wrong where precision is proven, and is left out where shares are estimated.

    Args:
        scores: Of all candidates, in descending order, `(n,)`.
        aim: What is wished; it may be replaced later.
        before: P(duplicate | score) of the decision that was there, if any.

    Attributes:
        draws: All draws, in order.
        answers: Of the draws that were answered, by their number: True right, False wrong, None skipped.
    """

    def __init__(self, scores: NDArray[np.floating], aim: Aim, *, before: Probability | None = None) -> None:
        self.scores, self.aim = np.asarray(scores, np.float64), aim
        self.strata = Strata(self.scores, count=_STRATA)
        self.curve = ScoreCurve(self.strata, self.scores, before=before, noise=aim.noise)
        self.draws: list[Draw] = []
        self.answers: dict[int, bool | None] = {}
        self._start: int | None = None
        self._sets: NestedSets | None = None
        self._bets = np.zeros(0), np.zeros(0)
        self._target = 0

    def draw(self) -> Draw | None:
        """Draw a pair to ask about; None once every candidate was drawn."""
        number = len(self.draws)
        if number == len(self.scores):
            return None
        rng = np.random.default_rng([self.aim.seed, number])
        value = self._value(rng, _BEST) if self._start is None else None
        if value is not None and self._seen_enough(value):
            self._begin()
        size = 0 if self._start is None else self._larger(rng) if self.done else self._aimed_at(rng)
        if size and (picked := self._picked(rng, 0, size)) is not None:
            return self.issue(Draw(number, picked[0], "prove", size, picked[1]))
        if value is not None and self._start is None:
            return self.issue(self._by_strata(rng, self._look_weights(value), "look"))
        return self.issue(self._by_strata(rng, self._recall_weights(rng), "recall"))

    def issue(self, draw: Draw) -> Draw:
        """Take a draw that was made, here or when its line was written."""
        if draw.stage != "look" and self._start is None:
            self._begin()
        if draw.among and not self.done:
            self._target = draw.among
        self.draws.append(draw)
        self._sets = None
        return draw

    def answer(self, number: int, right: bool | None) -> None:
        """Take the answer to a draw: whether the pair is right; None where nobody can say."""
        draw = self.draws[number]
        self.answers[number] = right
        if right is not None:
            self.curve.add(float(self.scores[draw.rank]), self.strata.of(draw.rank), right)
        self._sets = None

    @property
    def open(self) -> list[Draw]:
        """The draws that wait for an answer."""
        return [draw for draw in self.draws if draw.number not in self.answers]

    @property
    def complete(self) -> bool:
        """Whether every candidate was judged or skipped, so that nothing is left to ask."""
        return len(self.answers) == len(self.scores)

    @property
    def sets(self) -> NestedSets | None:
        """What the answers prove, in the order of drawing; None before the first draw for a proof, or all answers."""
        if self._sets is None and (self._start is not None or self.complete):
            start, sizes, bets = self._start, self.strata.ends, self._bets
            if self.complete and (start is None or not self.aim.noise):  # the last answer refutes what all together do
                start = len(self.draws) - 1
                sizes = sizes if self.aim.noise else np.flatnonzero(np.diff(self.scores, append=-np.inf)) + 1
                bets = np.full((2, len(sizes)), 1.0 / len(sizes))
            said = [bool(self.answers.get(draw.number)) for draw in self.draws]
            known = {d.rank: right for d, right in zip(self.draws[:start], said, strict=False)}
            self._sets = NestedSets(sizes, *bets, known=known, confidence=self.aim.confidence, noise=self.aim.noise)
            for draw, right in list(zip(self.draws, said, strict=True))[start:]:
                self._sets.add(draw.rank, among=draw.among, right=right)
        return self._sets

    @property
    def done(self) -> bool:
        """Whether the set aimed at is proven; half of it is enough each time the planned answers are given again."""
        proven, given = self.proven(), len(self.answers) // self.aim.labels
        return proven > 0 and proven >= self._target / 2**given

    @property
    def exhausted(self) -> bool:
        """Whether three times the planned answers are given, or every pair is judged."""
        return len(self.answers) >= min(_MOST * self.aim.labels, len(self.scores))

    @property
    def finished(self) -> bool:
        """Whether the promise is proven and the planned answers are given, some of them about pairs below the set.

        Without these nobody knows what the set misses, nor how probable pairs below it are.
        """
        below = sum(self.draws[number].stage == "recall" for number in self.answers)
        planned = len(self.answers) >= self.aim.labels and below >= round(_BEYOND * self.aim.labels)
        return self.exhausted or (self.done and planned)

    def proven(self, precision: float | None = None) -> int:
        """Return how many pairs the largest set holds that is proven to be so precise (as was wished); 0 for none."""
        if self.sets is None:
            return 0
        return int(self.sets.sizes[self.sets.proven(precision or self.aim.precision)].max(initial=0))

    def _by_strata(
        self, rng: np.random.Generator, weights: NDArray[np.float64], stage: Stage, *, among: int = 0
    ) -> Draw:
        """Draw a stratum by its weight, and from it a pair; a stratum without a pair left has no weight."""
        stratum = int(rng.choice(len(weights), p=weights))
        end = int(self.strata.ends[stratum])
        picked = self._picked(rng, end - int(self.strata.sizes[stratum]), end)
        assert picked is not None
        return Draw(len(self.draws), picked[0], stage, among, float(weights[stratum] * picked[1]))

    def _picked(self, rng: np.random.Generator, first: int, last: int) -> tuple[int, float] | None:
        """Return an undrawn rank from `first` to below `last`, and its probability; None where none is left."""
        drawn = {draw.rank for draw in self.draws if first <= draw.rank < last}
        left = last - first - len(drawn)
        if left == 0:
            return None
        if left > len(drawn):  # a few attempts, instead of a list of all that are left
            while (rank := int(rng.integers(first, last))) in drawn:
                pass
            return rank, 1.0 / left
        return int(rng.choice(sorted(set(range(first, last)) - drawn))), 1.0 / left

    @property
    def _drawn(self) -> NDArray[np.int64]:
        """How many pairs of each stratum were drawn, `(h,)`."""
        drawn = np.sort(np.array([draw.rank for draw in self.draws], np.int64))
        return np.diff(np.searchsorted(drawn, self.strata.ends, side="left"), prepend=0)

    # --- what a set is worth ------------------------------------------------------------------------------

    def _value(
        self, rng: np.random.Generator, shares: NDArray[np.float64] | float, *, least: float = _LATER
    ) -> NDArray[np.float64]:
        """Return what sets are worth under draws of the truth, `(draws, sets)`: the pairs they find if proven.

        At least the share `least` of the planned answers is reckoned with, however many were given.
        """
        sizes = self.strata.ends
        even = np.full(len(sizes), 1.0 / len(sizes))
        sets = self.sets or NestedSets(sizes, even, even, confidence=self.aim.confidence, noise=self.aim.noise)
        needed = sets.said_right(sets.needed(self.aim.precision) - 1) + 1
        goal = -np.log((1.0 - self.aim.confidence) * np.asarray(shares))
        if self.sets is not None:
            goal = goal - sets.log_capital(sets.needed(self.aim.precision) - 1)[0]
        right = self.curve.right_pairs(_DRAWS, rng).cumsum(1)
        judged, judged_right = self.curve.asked.cumsum(), self.curve.right.cumsum()
        answers = max(self.aim.labels - len(self.answers), round(least * self.aim.labels))
        return right * self._chance(right - judged_right, needed - judged_right, sizes - judged, goal, answers)

    def _chance(
        self, right: NDArray[Any], needed: NDArray[Any], size: NDArray[Any], goal: NDArray[Any], answers: int
    ) -> NDArray[np.float64]:
        """Return the chance that the answers that are left prove a set: its capital as a normal random walk.

        Args:
            right: How many unjudged pairs of the set are right.
            needed: How many of them must be called right.
            size: How many there are.
            goal: What the logarithm of the capital must gain.
            answers: How many are left.
        """
        from scipy.special import ndtr

        aim, size = self.aim, np.maximum(size, 1)
        n = np.minimum(answers, size)
        n = n / np.maximum(1.0 - 0.5 * n / size, 0.05)  # without replacement an answer is worth more
        p, m = np.clip(right / size, 1e-6, 1 - 1e-6), np.clip(needed / size, 1e-6, 1 - 1e-6)
        p = p + aim.noise * (1.0 - 2.0 * p)
        q = np.maximum(p, m)
        up, down = np.log(q / m), np.log((1 - q) / (1 - m))
        growth, spread = p * up + (1 - p) * down, np.sqrt(p * (1 - p)) * np.abs(up - down)
        chance = ndtr((n * growth - goal) / np.sqrt(np.maximum(n * spread**2, 1e-3)))
        return np.where((needed <= 0) | ((p > m) & (needed <= size)), np.where(goal <= 0, 1.0, chance), 0.0)

    def judged(self) -> list[tuple[Draw, bool]]:
        """Return the draws that somebody could judge, and whether the pair is right."""
        return [(self.draws[number], right) for number, right in self.answers.items() if right is not None]

    def answers_left(self) -> int | None:
        """Return how many more answers the proof takes, about; 0 with none left, None before a set is aimed at."""
        if self.done or self.complete:
            return 0
        if self.sets is None:
            return None
        sets, rng = self.sets, np.random.default_rng([self.aim.seed, len(self.draws)])
        index = int(np.searchsorted(sets.sizes, self._target))
        needed = sets.said_right(sets.needed(self.aim.precision) - 1)[index] + 1
        goal = sets.goals()[index] - sets.log_capital(sets.needed(self.aim.precision) - 1)[0][index]
        rest = max(int(sets.sizes[index] - sets.judged[index]), 1)
        right = self.curve.right_pairs(_DRAWS, rng).cumsum(1)[:, index] - self.curve.right.cumsum()[index]
        p, m = np.clip(right / rest, 1e-6, 1 - 1e-6), np.clip((needed - sets.right[index]) / rest, 1e-6, 1 - 1e-6)
        growth = p * np.log(p / m) + (1 - p) * np.log((1 - p) / (1 - m))
        return int(min(np.ceil(np.median(np.where(p > m, goal / np.maximum(growth, 1e-9), rest))), rest))

    # --- the stages ---------------------------------------------------------------------------------------

    def _look_weights(self, value: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the chance of each stratum: those of sets that may be the best one, and a tenth for all."""
        left, size = self.strata.sizes - self._drawn, np.sqrt(self.strata.sizes)
        best, hopeful = value.argmax(1) + _BELOW, value.max(1) > 0
        inside = np.where(hopeful[:, None], size * (np.arange(len(left)) <= best[:, None]), np.ones(len(left)))
        near = (inside / inside.sum(1, keepdims=True)).mean(0)
        weights = np.where(left > 0, 0.9 * near + 0.1 * size / size.sum(), 0.0)
        return weights / weights.sum()

    def _seen_enough(self, value: NDArray[np.float64]) -> bool:
        """Whether more looking would hardly change which set is chosen, by what knowing the truth would add."""
        # of few candidates, half are left to be bet on
        least, most = (min(len(self.scores) // 2, max(12, round(share * self.aim.labels))) for share in _LOOK)
        if not least <= len(self.answers) < most:
            return len(self.answers) >= most
        return bool(value.mean(0).max() > _ENOUGH * value.max(1).mean())

    def _begin(self) -> None:
        """Give the sets their shares of the error, most to the one that seems best, and say what to bet on each."""
        rng = np.random.default_rng([self.aim.seed, len(self.draws), 1])
        value = self._value(rng, _BEST)
        count = len(self.strata.ends)
        chosen = int(value.mean(0).argmax())
        likely = (value.mean(0) / max(float(value.mean(0).max()), 1e-12)) ** _SHARP + 1e-9
        likely /= likely.sum()
        shares = _EVEN / count + (1 - _BEST - _EVEN) * likely
        shares[chosen] += _BEST
        right = self.curve.right_pairs(_DRAWS, rng).cumsum(1)
        judged, judged_right = self.curve.asked.cumsum(), self.curve.right.cumsum()
        share = (right - judged_right) / np.maximum(self.strata.ends - judged, 1)
        # bets are for the case that a set is good enough: in the other they are lost anyway
        good = share >= self.aim.precision + _GOOD * (1 - self.aim.precision)
        expected = np.where(good, share, 0.0).sum(0) / np.maximum(good.sum(0), 1)
        expected = np.clip(np.where(good.any(0), expected, self.aim.precision), 0.01, 0.998)
        expected = expected + self.aim.noise * (1 - 2 * expected)
        self._target, self._start = int(self.strata.ends[chosen]), len(self.draws)
        self._bets = shares / shares.sum(), expected

    def _aimed_at(self, rng: np.random.Generator) -> int:
        """Return how many candidates the set holds that is worth most."""
        assert self._start is not None
        if (len(self.draws) - self._start) % _EVERY == 0:
            value = self._value(rng, self._bets[0]).mean(0)
            if value.max() > _SWITCH * value[np.searchsorted(self.strata.ends, self._target)]:
                self._target = int(self.strata.ends[value.argmax()])
        return self._target

    def _larger(self, rng: np.random.Generator) -> int:
        """Return how many candidates a set holds that is worth more than what is proven; 0 for none within the plan."""
        assert self._start is not None
        best = int(self.strata.ends[self._value(rng, self._bets[0], least=0.0).mean(0).argmax()])
        return best if best > self.proven() else 0

    def _recall_weights(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return the chance of each stratum: where missed pairs are most uncertain (Neyman 1934)."""
        left = self.strata.sizes - self._drawn
        uncertain = left * np.sqrt(self.curve.draws(_DRAWS, rng).var(0) / (1.0 + self.curve.asked) + 1e-9)
        weights = np.where(left > 0, uncertain, 0.0)
        return weights / weights.sum()

    def recall(self, size: int, *, confidence: float = 0.95, draws: int = 4000) -> tuple[float, float, float]:
        """Return the share of the candidates' duplicates that the best `size` hold: its expectation and an interval."""
        if self.complete and not self.aim.noise:
            right = np.array([draw.rank for draw, right in self.judged() if right], np.int64)
            share = float((right < size).sum() / max(len(right), 1))
            return share, share, share
        rng = np.random.default_rng([self.aim.seed, 2**31])
        right = self.curve.right_pairs(draws, rng)
        share = right[:, self.strata.ends <= size].sum(1) / np.maximum(right.sum(1), 1)
        return expected_and_interval(share, confidence)


def expected_and_interval(share: NDArray[np.float64], confidence: float) -> tuple[float, float, float]:
    """Return the mean of posterior draws of a share, and an interval that keeps somewhat more of them than it says."""
    outside = _OUTSIDE * (1 - confidence) / 2
    low, high = np.quantile(share, [outside, 1 - outside])
    return float(share.mean()), float(low), float(high)
