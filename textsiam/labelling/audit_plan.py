"""Which pair an audit asks about next: of the flagged ones, or of those that they may miss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from textsiam.labelling.aim import Aim, Draw
from textsiam.labelling.plan import Plan, expected_and_interval


class AuditPlan(Plan):
    """Draws uniformly from flagged pairs, and, every other time, from candidates that are not flagged.

    Those come first, best first: pair `missed + i` is flagged pair i. They are drawn from strata of their order, most
    where it is most uncertain how many are right.

    Args:
        asked: The flagged pairs that are drawn from, as places among all flagged, `(n,)`.
        aim: What is wished; only `labels`, `confidence`, `noise` and `seed` count.
        missed: Candidates that are not flagged.
    """

    def __init__(self, asked: NDArray[np.int64], aim: Aim, missed: int = 0) -> None:
        # scores of all kinds: of the order, the logarithm, so that a curve is a power of it at the far end
        super().__init__(-np.log1p(np.arange(max(missed, 1))), aim)
        self.missed, self._asked = missed, asked + missed

    @property
    def size(self) -> int:
        """How many flagged pairs are drawn from."""
        return len(self._asked)

    def draw(self) -> Draw | None:
        """Draw a pair to ask about; None once all were drawn."""
        number = len(self.draws)
        drawn = np.array([draw.rank for draw in self.draws], np.int64)
        left = np.setdiff1d(self._asked, drawn)
        rng, beyond = np.random.default_rng([self.aim.seed, number]), self.missed > (drawn < self.missed).sum()
        if beyond and (number % 2 == 0 or not len(left)):
            return self.issue(self._by_strata(rng, self._recall_weights(rng), "recall", among=self.missed))
        if not len(left):
            return None
        return self.issue(Draw(number, int(rng.choice(left)), "prove", self.size, 1.0 / len(left)))

    def issue(self, draw: Draw) -> Draw:
        """Take a draw that was made, here or when its line was written."""
        self.draws.append(draw)
        return draw

    def answer(self, number: int, right: bool | None) -> None:
        """Take the answer to a draw."""
        if self.draws[number].rank < self.missed:
            super().answer(number, right)
        else:
            self.answers[number] = right

    @property
    def said(self) -> list[bool | None]:
        """What was said of the flagged pairs that were drawn, in the order of drawing."""
        return [self.answers.get(draw.number) for draw in self.draws if draw.rank >= self.missed]

    @property
    def done(self) -> bool:
        """Whether so many answers are given as were wished, or all pairs are judged."""
        return len(self.answers) >= min(self.aim.labels, self.size + self.missed)

    @property
    def exhausted(self) -> bool:
        """Whether it is done: an audit has no promise to go on for."""
        return self.done

    def right_flagged(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return draws of the share of right ones among the flagged pairs that nobody judged, `(count,)`."""
        right, wrong = self.said.count(True), self.said.count(False)
        said, noise = rng.beta(0.5 + right, 0.5 + wrong, count), self.aim.noise
        return np.clip((said - noise) / (1.0 - 2.0 * noise), 1e-6, 1.0 - 1e-6)

    def recall_interval(self, *, confidence: float = 0.95, draws: int = 4000) -> tuple[float, float, float] | None:
        """Return the share of all duplicates that is flagged: its expectation and an interval; None while unknown."""
        if not self.curve.asked.sum():
            return None
        rng = np.random.default_rng([self.aim.seed, 2**31])
        right, judged = self.said.count(True), self.said.count(True) + self.said.count(False)
        found = right + rng.binomial(self.size - judged, self.right_flagged(draws, rng))
        share = found / np.maximum(found + self.curve.right_pairs(draws, rng).sum(1), 1)
        return expected_and_interval(share, confidence)
