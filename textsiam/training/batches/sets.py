"""Several sets of pairs in one run: each with a loss of its own, and a share of the batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from textsiam.data.clusters import cluster_ids
from textsiam.data.leakage import apart_from
from textsiam.data.pairs import Pairs
from textsiam.training.batches.collation import Batch, TrainingPairs
from textsiam.training.knobs import check_knobs, positive
from textsiam.training.losses.objective import Objective

_ORDER = 1  # keeps the order of the sets apart from that of the pairs


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Pairs, and what is minimised over them.

    Attributes:
        pairs: Labelled pairs; of graded ones no label is read, and none counts as a duplicate.
        objective: Its losses see batches of these pairs alone.
        weight: Share of the batches, beside the weights of the other sets: a set of weight 2 gives twice as many as one
            of weight 1.
        grades: How similar the two texts of each pair are, `(n,)`, larger = more similar; None where pairs are
            labelled.

    Raises:
        ValueError: The weight is not positive.
    """

    pairs: Pairs
    objective: Objective
    weight: float = positive(1.0)
    grades: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.grades is not None:
            object.__setattr__(self, "pairs", replace(self.pairs, labels=np.zeros(len(self.pairs))))

    def check(self) -> None:
        """Refuse losses that cannot learn from these pairs.

        Raises:
            ValueError: One takes no grades, or none can learn from pairs of one label alone.
        """
        terms, source, labels = self.objective.terms, self.pairs.source, np.unique(self.pairs.labels)
        deaf = [name for name, term in terms.items() if not term.reads_grades]
        if self.grades is not None and deaf:
            raise ValueError(f"{source}: holds scores, which {', '.join(deaf)} cannot learn from, as cosent does")
        if self.grades is None and len(labels) == 1 and all(term.contrasts for term in terms.values()):
            raise ValueError(
                f"{source}: every pair is labelled {labels[0]}, and {', '.join(terms)} learns from pairs of both "
                "labels: name a loss that finds what is apart by itself, such as info_nce"
            )

    def apart_from(self, held_out: Sequence[Pairs]) -> TrainingSet:
        """Return the pairs that share no question, cluster or near-identical text with what is held out."""
        kept = apart_from(self.pairs, held_out)
        grades = None if self.grades is None else self.grades[kept]
        return replace(self, pairs=self.pairs.select(kept), grades=grades)

    def identity(self) -> dict[str, Any]:
        """Return what must be the same when a run resumes."""
        grades = None if self.grades is None else hashlib.sha256(self.grades.astype("<f8").tobytes()).hexdigest()
        facts = {"data": self.pairs.fingerprint, "grades": grades, "weight": self.weight}
        return {**facts, **self.objective.identity()}


def acquainted(sets: Sequence[TrainingSet]) -> list[TrainingSet]:
    """Return the sets, each of which knows the duplicates of all: no loss takes them for negatives."""
    if len(sets) == 1:
        return list(sets)
    joint = Pairs.concat([each.pairs for each in sets])
    cluster = dict(zip(joint.texts, cluster_ids(joint).tolist(), strict=True))
    groups = [np.array([cluster[text] for text in each.pairs.texts]) for each in sets]
    return [replace(s, pairs=replace(s.pairs, groups=g)) for s, g in zip(sets, groups, strict=True)]


class MixedBatches:
    """Batches of several sets, each of one set alone, in an order that the seed fixes.

    An epoch passes over the first set once, and takes as many batches of each other set as its weight asks for; those
    are passed over as often as that needs, on from where the epoch before has stopped.

    Args:
        parts: The sets, made ready.
        weights: The weight of each.
        seed: Fixes the order of the sets.

    Attributes:
        steps: Batches of an epoch.
    """

    def __init__(self, parts: Sequence[TrainingPairs], weights: Sequence[float], *, seed: int) -> None:
        first = parts[0].sampler.steps
        self.parts, self._seed = list(parts), seed
        self._counts = [max(1, round(first * weight / weights[0])) for weight in weights]
        self.steps = sum(self._counts)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield this process's batches of an epoch, from batch `start` on; the same on every call."""
        owners = np.repeat(np.arange(len(self.parts)), self._counts)
        owners = np.random.default_rng([self._seed, epoch, _ORDER]).permutation(owners)
        taken = epoch * np.array(self._counts) + np.bincount(owners[:start], minlength=len(self.parts))
        streams = [part.batches(int(first)) for part, first in zip(self.parts, taken, strict=True)]
        for owner in owners[start:]:
            yield replace(next(streams[owner]), part=int(owner))
