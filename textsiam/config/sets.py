"""Further sets of pairs to learn from: each item of `data.more`, and what a run makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from textsiam.config.loss import build_objective
from textsiam.data.graded import GradedPairs
from textsiam.data.leakage import apart_from
from textsiam.data.pairs import Pairs
from textsiam.data.tables.errors import DataError
from textsiam.sources import read_judged
from textsiam.training.knobs import check_knobs, positive

if TYPE_CHECKING:
    from textsiam.models.learned import Head
    from textsiam.training.batches.sets import TrainingSet
    from textsiam.training.losses.objective import Objective


@dataclass(frozen=True)
class SetConfig:
    """A further set of pairs to learn from; splits are cut from `data.train` alone.

    Attributes:
        source: As `data.train`; pairs with scores (a column `score`) are learned from as grades.
        weight: Share of the batches, beside the weights of the other sets; `data.train` has 1.
        loss: What is minimised over its pairs, as the section `loss` says it; None takes that section.
        columns: Names of its columns, where they are not recognised; None takes `data.columns`.
    """

    source: str | list[str]
    weight: float = positive(1.0)
    loss: dict[str, Any] | None = None
    columns: dict[str, str] | None = None

    def __post_init__(self) -> None:
        check_knobs(self)


@dataclass(frozen=True, eq=False)
class ReadSet:
    """A set that was read, but for what shares a question with a held-out split.

    Attributes:
        config: What asked for it.
        pairs: What is learned from.
        grades: How similar the texts of each pair are, `(n,)`; None where the pairs are labelled.
        left_out: Pairs that share a question with a held-out split.
    """

    config: SetConfig
    pairs: Pairs
    grades: np.ndarray | None
    left_out: int

    def facts(self, losses: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a run says of it; `losses` are those of the run."""
        names = [name for name, value in (self.config.loss or losses).items() if value is not None]
        facts = {"source": self.pairs.source, "pairs": len(self.pairs), "weight": self.config.weight, "losses": names}
        return {**facts, "graded": self.grades is not None, "left_out": self.left_out}

    def told(self, losses: Mapping[str, Any]) -> str:
        """Return the same as a line."""
        graded, names = "graded " * (self.grades is not None), ", ".join(self.facts(losses)["losses"])
        left_out = f"; {self.left_out:,} left out, whose questions are held out" if self.left_out else ""
        what = f"{len(self.pairs):,} {graded}pairs of {self.pairs.source}"
        return f"more: {what}, weight {self.config.weight:g}, losses: {names}{left_out}"


def read_set(
    config: SetConfig, held_out: Sequence[Pairs], *, columns: dict[str, str] | None = None, **options: Any
) -> ReadSet:
    """Read a set, and leave out what shares a question, cluster or near-identical text with what is held out.

    Args:
        config: What to read.
        held_out: The validation, calibration and test pairs.
        columns: As for `textsiam.sources.read_judged`, unless the set says its own.
        options: Its others.

    Raises:
        DataError: The source cannot be read, or nothing of it is left.
    """
    found = read_judged(config.source, columns=config.columns or columns, **options)
    pairs, grades = (found.ungraded(), found.scores) if isinstance(found, GradedPairs) else (found, None)
    kept = apart_from(pairs, held_out)
    if not kept.any():
        raise DataError(f"{pairs.source}: every pair shares a question with validation, calibration or test")
    grades = None if grades is None else grades[kept]
    return ReadSet(config, pairs.select(kept), grades, int((~kept).sum()))


def build_set(given: ReadSet, losses: Mapping[str, Any], head: Head | None = None) -> TrainingSet:
    """Build what a run learns from of a set.

    Args:
        given: The set.
        losses: The section `loss` of the run, for a set that has none of its own.
        head: That of the twin, for a loss that trains it.

    Raises:
        ConfigError: A loss trains a head, and there is none.
        ValueError: A loss cannot learn from such pairs.
    """
    from textsiam.training.batches.sets import TrainingSet

    objective = build_set_objective(given.config, losses, head)
    built = TrainingSet(given.pairs, objective, given.config.weight, given.grades)
    built.check()
    return built


def build_set_objective(config: SetConfig, losses: Mapping[str, Any], head: Head | None = None) -> Objective:
    """Build what is minimised over the pairs of a set; a head may rest meanwhile, others than the first train it."""
    own = losses if config.loss is None else config.loss
    return build_objective(own, head if any(getattr(term, "trains_head", False) for term in own.values()) else None)
