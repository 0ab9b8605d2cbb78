"""What is wished of a flagged set, and the draws of pairs that serve it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Stage = Literal["look", "prove", "recall"]
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
    labels: int = 150
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
