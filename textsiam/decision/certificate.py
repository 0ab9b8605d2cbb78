"""What people's answers prove of the flagged pairs of one collection under one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_RECALL = ("share", "low", "high")


@dataclass(frozen=True)
class Certificate:
    """What is proven of the flagged pairs of one collection under one model.

    The population is fixed and finite: the flagged pairs of this collection under these scores, exact copies left out,
    drawn without replacement, so that judging all is proof. New questions are not covered.

    Attributes:
        precision: The share of right pairs that was wished.
        confidence: With which it is proven.
        noise: Share of wrong answers that it allows for.
        pairs: Pairs of the certified set; 0 where nothing is certified yet.
        right: At least so many of them are right.
        threshold: Least similarity of a pair of the set; None where nothing is certified yet.
        answers: Pairs that were judged, in all.
        answers_left: How many more the proof takes, about; 0 where all candidates are judged, None while that cannot be
            told.
        recall: Expected share of the duplicates among the candidates that are in the set, and an interval (95 %).
        floor: Least similarity of a candidate: nobody looked below it.
        disagreements: Pairs about which two people said different things, of so many that were asked twice.
        model: Digest of the model.
        collection: Digest of the collection.
        source: Name of the collection.
        within_reach: Where nothing is certified: the highest precision, in steps of 0.05, at which something is, and
            how many pairs; None where there is none either.
    """

    precision: float
    confidence: float
    noise: float
    pairs: int
    right: int
    threshold: float | None
    answers: int
    answers_left: int | None
    recall: tuple[float, float, float] | None
    floor: float
    disagreements: tuple[int, int]
    model: str
    collection: str
    source: str = ""
    within_reach: tuple[float, int] | None = None

    def holds_for(self, model: str, collection: str) -> bool:
        """Return whether it is about this model and this collection, given by their digests."""
        return (self.model, self.collection) == (model[:16], collection[:16])

    def sentences(self) -> list[str]:
        """Return what it says, in plain words."""
        if self.threshold is None:
            left = "" if self.answers_left is None else f"; about {self.answers_left} more answers are needed"
            found = [
                f"all candidates are judged, and no threshold is certified to be {percent(self.precision)} right"
                if self.answers_left == 0
                else f"nothing is certified yet at a precision of {self.precision:g} ({self.answers} answers{left})"
            ]
            if self.within_reach is not None:
                share, pairs = self.within_reach
                offer = f"textsiam flag --precision {share:g}"
                found.append(f"at {share:g} the same answers certify {pairs:,} pairs: {offer}")
            return found
        found = [
            f"{self.pairs:,} pairs at or above {self.threshold:.4f}: at least {percent(self.precision)} are right "
            f"(certified on {self.answers} answers, {terms(self.confidence, self.noise)}; proven {self.right:,})"
        ]
        if self.recall is not None:
            share, low, high = self.recall
            found.append(
                f"about {share:.0%} ({low:.0%}–{high:.0%}) of the duplicates that score above {self.floor:.2f} are "
                "among them; below it nobody looked"
            )
        return [*found, *disagreed(self.disagreements)]

    @property
    def learned_from(self) -> str:
        """What a decision that it belongs to was learned from, and what is proven there: one sentence."""
        held = terms(self.confidence, self.noise)
        return (
            f"learned from {self.answers:,} answers about pairs of {self.source or 'a collection'}: at least "
            f"{percent(self.precision)} of its {self.pairs:,} pairs at or above {self.threshold or 0.0:.4f} are right "
            f"({held}); that is certified for the model {self.model} and the questions {self.collection} alone"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**vars(self), "recall": self.recall and dict(zip(_RECALL, self.recall, strict=True))}

    @classmethod
    def restore(cls, facts: Mapping[str, Any]) -> Certificate:
        """Return the certificate that gave these facts, after a detour over JSON."""
        recall = None if facts["recall"] is None else tuple(facts["recall"][name] for name in _RECALL)
        return cls(**{**facts, "recall": recall, "disagreements": tuple(facts["disagreements"])})


def terms(confidence: float, noise: float) -> str:
    """Say on what terms a bound holds."""
    wrong = f", up to {percent(noise)} of the answers wrong" if noise else ""
    return f"{percent(confidence)} confidence{wrong}"


def disagreed(disagreements: tuple[int, int]) -> list[str]:
    """Say about how many pairs, of those that were asked twice, two people said different things."""
    again, asked = disagreements
    return [f"{again} of {asked} pairs that were asked twice were answered differently"] if asked else []


def percent(share: float) -> str:
    """Return a share that somebody chose, not rounded: 0.995 is no promise of 100 %."""
    return f"{100 * share:g}%"
