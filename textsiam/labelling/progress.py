"""How far answers have come: what a terminal and the moderator's page show above a pair."""

from __future__ import annotations

from dataclasses import dataclass

from textsiam.decision.certificate import percent
from textsiam.labelling.session import Session


@dataclass(frozen=True)
class Progress:
    """What is proven so far and what is missing.

    Attributes:
        answers: Pairs that were judged, by everybody.
        left: How many more the proof takes, about; 0 once it is there, None while that cannot be told.
        pairs: Pairs of the set that is proven; 0 for none.
        precision: The share of right pairs that was wished.
        promised: Whether the set that was aimed at is proven.
        finished: Whether that is so and all planned answers are given, or it seems out of reach.
    """

    answers: int
    left: int | None
    pairs: int
    precision: float
    promised: bool
    finished: bool

    @classmethod
    def of(cls, session: Session) -> Progress:
        """Return it, in some 10 ms."""
        plan = session.plan
        facts = plan.answers_left(), plan.proven(), session.aim.precision, plan.done, session.finished
        return cls(len(plan.answers), *facts)

    def __str__(self) -> str:
        """Return one sentence, without its full stop."""
        if self.pairs:
            return f"{self.pairs:,} pairs proven to be at least {percent(self.precision)} right"
        if self.finished:
            return f"no set of pairs is proven to be at least {percent(self.precision)} right"
        if self.left is None:
            return "looking where duplicates end"
        return f"about {self.left} more answers prove {percent(self.precision)}"
