"""How precise flagged pairs are, whoever flagged them: uniform draws, and an interval that holds at any moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsiam.data.tables.errors import DataError
from textsiam.data.texts import texts_digest
from textsiam.decision.confidence import NestedSets
from textsiam.labelling.flagged import Flagged
from textsiam.labelling.labels import LabelFile
from textsiam.labelling.plan import Aim, Draw, Plan
from textsiam.labelling.session import Session, percent


@dataclass(frozen=True)
class Audit:
    """What answers say of flagged pairs: a fixed, finite population, drawn without replacement.

    Attributes:
        pairs: Flagged pairs of different texts: what the rest is about.
        copies: Flagged pairs of equal texts, and pairs that are in the file again: nobody is asked about them.
        right: Pairs judged right.
        wrong: Pairs judged wrong.
        unknown: Pairs that were drawn and skipped, or wait for an answer.
        precision: Share of right pairs among those judged; None before the first.
        low: The share of right pairs is at least this, with `confidence` together with `high`.
        high: And at most this. Unknown pairs count as wrong for the one and as right for the other.
        confidence: With which both hold, at whatever moment one stops.
        noise: Share of wrong answers that they allow for.
        disagreements: Pairs about which two people said different things, of so many that were asked twice.
        flagged: Digest of the flagged pairs.
        collection: Digest of the questions.
    """

    pairs: int
    copies: int
    right: int
    wrong: int
    unknown: int
    precision: float | None
    low: float
    high: float
    confidence: float
    noise: float
    disagreements: tuple[int, int]
    flagged: str
    collection: str

    def sentences(self) -> list[str]:
        """Return what it says, in plain words."""
        judged = self.right + self.wrong
        noise = f", up to {percent(self.noise)} of the answers wrong" if self.noise else ""
        if self.low == self.high:
            found = [f"precision {self.low:.1%}: all {self.pairs:,} pairs are judged, {self.right:,} are right"]
        elif self.precision is None:
            found = [f"no pair is judged yet, of {self.pairs:,}"]
        else:
            found = [
                f"precision {self.precision:.1%} ({self.low:.1%}–{self.high:.1%}) of {self.pairs:,} pairs: "
                f"{self.right:,} of {judged:,} judged are right ({percent(self.confidence)} confidence{noise})"
            ]
        if self.unknown:
            found.append(f"{self.unknown:,} drawn pairs are skipped or open: they count as wrong below, as right above")
        if self.copies:
            found.append(f"{self.copies:,} rows are left out: their texts are equal, or the pair is there twice")
        again, asked = self.disagreements
        if asked:
            found.append(f"{again} of {asked} pairs that were asked twice were answered differently")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return vars(self).copy()


def precision_bounds(
    answers: Sequence[bool | None], size: int, *, confidence: float = 0.95, noise: float = 0.0
) -> tuple[int, int]:
    """Return how many of `size` pairs are right, at least and at most, at any moment of drawing them.

    Each bound uses half of the error: the upper one is the lower one of the wrong pairs.

    Args:
        answers: Of pairs drawn uniformly without replacement, in the order of drawing; None is not known.
        size: Pairs in all.
        confidence: With which both bounds hold.
        noise: Share of the answers that may be wrong.

    Example:
        >>> precision_bounds([True] * 40, 400), precision_bounds([True, False], 2)
        ((353, 400), (1, 1))
    """

    def at_least(said: bool) -> int:
        # nothing is known before: half a right answer and half a wrong one (Krichevsky & Trofimov 1981)
        sets = NestedSets([size], [1.0], [0.5], confidence=(1 + confidence) / 2, noise=noise, weight=1.0)
        for rank, answer in enumerate(answers):
            sets.add(rank, among=size, right=answer is said)
        return int(sets.lower_bounds()[0])

    return at_least(True), size - at_least(False)


class UniformPlan(Plan):
    """Draws uniformly from some pairs, so many as are wished.

    Args:
        count: Pairs of the file.
        asked: Places of those that are drawn from, `(n,)`.
        aim: What is wished; only `labels`, `confidence`, `noise` and `seed` count.
    """

    def __init__(self, count: int, asked: NDArray[np.int64], aim: Aim) -> None:
        super().__init__(np.zeros(count), aim)
        self._asked = asked

    @property
    def size(self) -> int:
        """How many pairs are drawn from."""
        return len(self._asked)

    def draw(self) -> Draw | None:
        """Draw a pair to ask about; None once all were drawn."""
        number, left = len(self.draws), np.setdiff1d(self._asked, [draw.rank for draw in self.draws])
        if not len(left):
            return None
        rank = int(np.random.default_rng([self.aim.seed, number]).choice(left))
        return self.issue(Draw(number, rank, "prove", self.size, 1.0 / len(left)))

    def issue(self, draw: Draw) -> Draw:
        """Take a draw that was made, here or when its line was written."""
        self.draws.append(draw)
        return draw

    @property
    def done(self) -> bool:
        """Whether so many answers are given as were wished, or all pairs are judged."""
        return len(self.answers) >= min(self.aim.labels, self.size)


def open_flagged(
    flagged: Flagged, ids: Sequence[str], texts: Sequence[str], path: str | Path, aim: Aim | None = None, *, source: str
) -> Session:
    """Open the file of answers about flagged pairs of these questions; pairs of equal texts are not asked about.

    Raises:
        DataError: A pair names a question that is not there, all pairs are of equal texts, or the file holds answers
            about other pairs or questions.
    """
    candidates = flagged.among(ids, texts_digest(texts), source)
    asked = np.flatnonzero([texts[a] != texts[b] for a, b in zip(candidates.left, candidates.right, strict=True)])
    if not len(asked):
        raise DataError(f"{flagged.source}: the texts of every pair are equal: there is nothing to ask")
    return Session(candidates, ids, texts, path, aim, plan=lambda aim: UniformPlan(len(flagged), asked, aim))


def answered_flagged(flagged: Flagged, path: str | Path) -> Session:
    """Open answers about flagged pairs where the questions are not at hand.

    Raises:
        DataError: There are no answers, or they are about another flagged file.
    """
    lines = LabelFile(path).read()
    if not lines:
        raise DataError(f"{path}: no such file, or no answers in it: textsiam label --flagged makes it")
    if lines[0].model != flagged.digest[:16] or not 0 < lines[0].among <= len(flagged):
        raise DataError(f"{path}: the answers are not about the pairs of {flagged.source} as they are now")
    candidates = flagged.among(flagged.ids, lines[0].collection, flagged.source)
    asked = np.arange(lines[0].among)
    return Session(candidates, flagged.ids, flagged.ids, path, plan=lambda aim: UniformPlan(len(flagged), asked, aim))


def audit(flagged: Flagged, session: Session, *, confidence: float | None = None) -> Audit:
    """Return what the answers say of the flagged pairs, with the confidence of the file unless told otherwise."""
    plan, level, noise = session.plan, confidence or session.aim.confidence, session.aim.noise
    assert isinstance(plan, UniformPlan)
    answers, size = [plan.answers.get(draw.number) for draw in plan.draws], plan.size
    low, high = precision_bounds(answers, size, confidence=level, noise=noise)
    right, wrong = answers.count(True), answers.count(False)
    return Audit(
        pairs=size,
        copies=len(flagged) - size + flagged.repeated,
        right=right,
        wrong=wrong,
        unknown=len(answers) - right - wrong,
        precision=right / (right + wrong) if right + wrong else None,
        low=low / size,
        high=high / size,
        confidence=level,
        noise=noise,
        disagreements=session.disagreements,
        flagged=session.candidates.model[:16],
        collection=session.candidates.collection[:16],
    )
