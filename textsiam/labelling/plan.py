"""Which pair is asked about next, so that few answers prove that a flagged set is as right as was wished.

Three stages. *Look*: pairs are drawn over all scores, most where it is undecided how far down the set may reach.
*Prove*: pairs are drawn uniformly from the set that is worth most if half of the planned answers are to prove it, and
every answer counts for all sets that it was drawn from (`textsiam.decision.confidence`). Once it is proven, a round for
a larger one begins where the answers that are left may prove it. *Recall*: the others, one of eight at least from then
on, are about pairs below the set, so that it is known what it misses. Every draw follows from the seed, its number and
the answers before it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from textsiam.decision.confidence import NestedSets
from textsiam.decision.curve import Probability, ScoreCurve, Strata
from textsiam.labelling.aim import Aim, Draw, Stage
from textsiam.labelling.rounds import Round, chance_of_proof, proofs

_DRAWS = 150
# Of the draws that the confidence would leave outside so many are: no curve fits exactly, and less so where the same
# answers have chosen the set (simulated).
_OUTSIDE, _CHOSEN = 0.4, 0.2
_LOOK = 0.15, 0.25  # of the answers that the first proof may take, at least and at most
_ENOUGH = 0.75
_FIRST = 0.5  # of the planned answers: for the first proof
_CLEAN = 0.9  # of the answers that a proof without a wrong one takes: pairs are drawn without replacement
_LATER = 0.75  # of those for the first proof are reckoned with, however many were given
_EVERY = 5  # answers after which a choice is thought over
_STRATA = 60
_BEYOND = 0.1  # of the planned answers at least are about what the set misses
_EIGHTH = 8  # every so many draws after the proof, one is about that
_WORTH = 0.03  # of the pairs proven: what a round for a larger set is expected to add at least
_MOST = 3  # times the planned answers: then what is not proven seems out of reach
_GOOD = 0.25
_BELOW = 2
_SHARP, _SWITCH = 4.0, 1.5
_BEST, _EVEN = 0.7, 0.05  # shares of the error for the set that seems best, and for all alike


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
        rounds: What sets were aimed at, in order.
    """

    def __init__(self, scores: NDArray[np.floating], aim: Aim, *, before: Probability | None = None) -> None:
        self.scores, self.aim = np.asarray(scores, np.float64), aim
        self.strata = Strata(self.scores, count=_STRATA)
        self.curve = ScoreCurve(self.strata, self.scores, before=before, noise=aim.noise)
        self.draws: list[Draw] = []
        self.answers: dict[int, bool | None] = {}
        self.rounds: list[Round] = []
        self._sets: list[NestedSets] | None = None  # of the answers so far, like the next
        self._proven: dict[float, int] = {}

    def draw(self) -> Draw | None:
        """Draw a pair to ask about; None once every candidate was drawn."""
        number = len(self.draws)
        if number == len(self.scores):
            return None
        rng = np.random.default_rng([self.aim.seed, number])
        if not self.rounds:
            value = self._value(rng, handed=1.0)
            if not self._seen_enough(value):
                return self.issue(self._by_strata(rng, self._look_weights(value), "look"))
            self._begin()
        size = self._aimed_at(rng)
        if size and (picked := self._picked(rng, 0, size)) is not None:
            return self.issue(Draw(number, picked[0], "prove", size, picked[1]))
        return self.issue(self._by_strata(rng, self._recall_weights(rng), "recall"))

    def issue(self, draw: Draw) -> Draw:
        """Take a draw that was made, here or when its line was written."""
        if draw.stage != "look" and not self.rounds:
            self._begin()
        if draw.among and self._begins(draw.among):
            self._begin(draw.among)
        if draw.among:
            self.rounds[-1].target = draw.among
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
    def sets(self) -> list[NestedSets]:
        """What the answers prove, in the order of drawing, of each round; none before the first draw for a proof."""
        if self._sets is None:
            self._proven.clear()
            rounds, said = self.rounds, [bool(self.answers.get(draw.number)) for draw in self.draws]
            if self.complete and not (rounds and self.aim.noise):  # the last answer refutes what all together do
                sizes = self.strata.ends
                sizes = sizes if self.aim.noise else np.flatnonzero(np.diff(self.scores, append=-np.inf)) + 1
                even = np.full(len(sizes), 1.0 / len(sizes))
                rounds = [Round(len(self.draws) - 1, self.aim.precision, sizes, even, even)]
            self._sets = proofs(rounds, self.draws, said, self.aim)
        return self._sets

    @property
    def done(self) -> bool:
        """Whether the set aimed at first is proven; half of it does each time the planned answers are given again."""
        proven, given = self.proven(), len(self.answers) // self.aim.labels
        wanted = self.rounds[0].target / 2**given if self.rounds else 0
        return proven >= max(wanted, 1)

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
        wished, rounds = precision or self.aim.precision, self.sets
        if wished not in self._proven:
            found = [int(sets.sizes[sets.proven(wished)].max(initial=0)) for sets in rounds]
            self._proven[wished] = max(found, default=0)
        return self._proven[wished]

    def right(self, size: int) -> int:
        """Return how many of the best `size` pairs, one of the sets, are proven to be right."""
        if not size:
            return 0
        return max((int(sets.lower_bounds()[sets.sizes == size].max(initial=0)) for sets in self.sets), default=0)

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

    def _value(self, rng: np.random.Generator, *, handed: float | None = None) -> NDArray[np.float64]:
        """Return what sets are worth under draws of the truth, `(draws, sets)`: the pairs that proving them adds.

        Before the first proof, a part of the answers for it is reckoned with at least, however many were given.

        Args:
            rng: For the draws of the truth.
            handed: Share of the error that a round which begins now would have; None for the one that has begun.
        """
        sizes, aim, proven = self.strata.ends, self.aim, self.proven()
        if handed is None:
            sets = self.sets[-1]
            claims = sets.needed(aim.precision) - 1
            goal = sets.goals(claims) - sets.log_capital(claims)[0]
        else:
            even = np.full(len(sizes), 1.0 / len(sizes))
            sets = NestedSets(sizes, handed * even, even, confidence=aim.confidence, noise=aim.noise)
            claims = sets.needed(aim.precision) - 1
            goal = np.full(len(sizes), -np.log(max((1.0 - aim.confidence) * handed * _BEST, 1e-300)))
        needed = sets.said_right(claims) + 1
        right = self.curve.right_pairs(_DRAWS, rng).cumsum(1)
        judged, judged_right = self.curve.asked.cumsum(), self.curve.right.cumsum()
        answers = max(aim.labels - len(self.answers), 0)
        if not proven:
            answers = max(self._first - len(self.answers), round(_LATER * self._first), self._least)
            answers = min(answers, aim.labels)
        numbers = right - judged_right, needed - judged_right, sizes - judged
        known = right[:, sizes <= proven].max(1, initial=0)[:, None]
        return np.maximum(right - known, 0) * chance_of_proof(*numbers, goal, answers, noise=aim.noise)

    @property
    def _least(self) -> int:
        """How many answers prove a set with hardly a wrong pair."""
        aim = self.aim
        said = aim.precision + aim.noise * (1.0 - 2.0 * aim.precision)
        return round(_CLEAN * np.log((1.0 - aim.confidence) * _BEST) / np.log(said))

    @property
    def _first(self) -> int:
        """How many answers the first proof may take: what is left of the planned ones makes the set larger."""
        return min(max(round(_FIRST * self.aim.labels), self._least), self.aim.labels)

    def judged(self) -> list[tuple[Draw, bool]]:
        """Return the draws that somebody could judge, and whether the pair is right."""
        return [(self.draws[number], right) for number, right in self.answers.items() if right is not None]

    def answers_left(self) -> int | None:
        """Return how many more answers the proof takes, about; 0 with none left, None before a set is aimed at."""
        if self.done or self.complete:
            return 0
        if not self.sets:
            return None
        sets, rng = self.sets[0], np.random.default_rng([self.aim.seed, len(self.draws)])
        index = int(np.searchsorted(sets.sizes, self.rounds[0].target))
        claims = sets.needed(self.aim.precision) - 1
        needed = sets.said_right(claims)[index] + 1
        goal = sets.goals(claims)[index] - sets.log_capital(claims)[0][index]
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
        least, most = (min(len(self.scores) // 2, max(12, round(share * self._first))) for share in _LOOK)
        if not least <= len(self.answers) < most:
            return len(self.answers) >= most
        return bool(value.mean(0).max() > _ENOUGH * value.max(1).mean())

    def _begin(self, target: int = 0) -> None:
        """Give the sets their shares of the error, most to the one that seems best, and say what to bet on each.

        The first round has the whole error, a later one, for sets larger than what is proven, what those proven have
        handed over.
        """
        rng = np.random.default_rng([self.aim.seed, len(self.draws), 1])
        value, ends = self._value(rng, handed=self._spare()).mean(0), self.strata.ends
        chosen = int(np.searchsorted(ends, target)) if target else int(value.argmax())
        part = ends > self.proven()
        likely = part * ((value / max(float(value.max()), 1e-12)) ** _SHARP + 1e-9)
        shares = part * _EVEN / part.sum() + (1 - _BEST - _EVEN) * likely / likely.sum()
        shares[chosen] += _BEST
        right = self.curve.right_pairs(_DRAWS, rng).cumsum(1)
        judged, judged_right = self.curve.asked.cumsum(), self.curve.right.cumsum()
        share = (right - judged_right) / np.maximum(ends - judged, 1)
        # bets are for the case that a set is good enough: in the other they are lost anyway
        good = share >= self.aim.precision + _GOOD * (1 - self.aim.precision)
        expected = np.where(good, share, 0.0).sum(0) / np.maximum(good.sum(0), 1)
        expected = np.clip(np.where(good.any(0), expected, self.aim.precision), 0.01, 0.998)
        expected = expected + self.aim.noise * (1 - 2 * expected)
        bets = shares / shares.sum(), expected
        self.rounds.append(Round(len(self.draws), self.aim.precision, ends, *bets, int(ends[chosen])))
        self._sets = None

    def _spare(self) -> float:
        """Return the share of the error that a round has which begins now."""
        return self.sets[-1].spare(self.aim.precision) if self.rounds else 1.0

    def _aimed_at(self, rng: np.random.Generator) -> int:
        """Return how many candidates the set holds that is worth most; 0 where a pair below it is worth more."""
        now, ends, number = self.rounds[-1], self.strata.ends, len(self.draws)
        if self.done and (number % _EIGHTH == 0 or self.proven() == len(self.scores)):
            return 0
        begins = self._begins(len(self.scores))
        if not begins and (number - now.start) % _EVERY:
            return now.target
        value = self._value(rng, handed=self._spare() if begins else None).mean(0)
        if begins and value.max() < _WORTH * self.proven():
            return 0
        if begins or value.max() > _SWITCH * value[np.searchsorted(ends, now.target)]:
            return int(ends[value.argmax()])
        return now.target

    def _begins(self, size: int) -> bool:
        """Whether a draw from the best `size` candidates begins a round: its set is larger than one just proven."""
        return self.done and size > self.proven() >= self.rounds[-1].target

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
        return expected_and_interval(share, confidence, left_out=_CHOSEN)


def expected_and_interval(
    share: NDArray[np.float64], confidence: float, *, left_out: float = _OUTSIDE
) -> tuple[float, float, float]:
    """Return the mean of posterior draws of a share, and an interval that keeps somewhat more of them than it says."""
    outside = left_out * (1 - confidence) / 2
    low, high = np.quantile(share, [outside, 1 - outside])
    return float(share.mean()), float(low), float(high)
