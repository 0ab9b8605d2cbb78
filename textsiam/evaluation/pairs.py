"""Evaluate a twin on labelled pairs: one report, its slices, and the pairs it gets most wrong."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from textsiam.decision.calibration import finite_scores
from textsiam.decision.decision import Decision
from textsiam.decision.intervals import Estimate, Units, plain
from textsiam.evaluation.binary import BinaryReport, binary_report
from textsiam.evaluation.slices import SliceReport, slice_reports

if TYPE_CHECKING:
    from textsiam.data.pairs import Pairs

_RANDOM_PAIRS = 1000
_SAME_FOR_ALL = 1e-6  # between the least and the greatest probability


class PairScorer(Protocol):
    """What is needed of a twin here."""

    @property
    def decision(self) -> Decision | None:
        """What a score means, or None before calibration."""
        ...

    def pair_similarity(self, texts: Sequence[str], left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the similarity (n,) of `texts[left[i]]` and `texts[right[i]]`."""
        ...


class WrongPair(NamedTuple):
    """A pair whose verdict is wrong."""

    left: str
    right: str
    similarity: float
    probability: float


@dataclass(frozen=True, eq=False)
class PairEvaluation:
    """The scores of one twin on n labelled pairs, and what they amount to.

    `labels`, `similarities` and `probabilities` are (n,), in the order of the pairs; `units` are what intervals draw.
    Without a decision, probabilities are nan, and so is the threshold unless one was given.
    """

    name: str
    left: list[str] = field(repr=False)
    right: list[str] = field(repr=False)
    labels: NDArray[np.int8] = field(repr=False)
    similarities: NDArray[np.float64] = field(repr=False)
    probabilities: NDArray[np.float64] = field(repr=False)
    threshold: float
    report: BinaryReport
    slices: tuple[SliceReport, ...]
    units: Units | None = field(default=None, repr=False)

    @property
    def tells_pairs_apart(self) -> bool:
        """Whether the probabilities differ at all; of one for all pairs there is no calibration error."""
        return bool(np.ptp(self.probabilities) > _SAME_FOR_ALL)

    def worst_false_positives(self, k: int = 10) -> list[WrongPair]:
        """Return up to k pairs flagged although they are no duplicates, the most similar first."""
        rows = np.flatnonzero((self.labels == 0) & (self.similarities >= self.threshold))
        return self._rows(rows[np.argsort(-self.similarities[rows], kind="stable")][:k])

    def worst_false_negatives(self, k: int = 10) -> list[WrongPair]:
        """Return up to k duplicates that were not flagged, the least similar first."""
        rows = np.flatnonzero((self.labels == 1) & (self.similarities < self.threshold))
        return self._rows(rows[np.argsort(self.similarities[rows], kind="stable")][:k])

    def _rows(self, rows: NDArray[np.int64]) -> list[WrongPair]:
        return [
            WrongPair(self.left[i], self.right[i], float(self.similarities[i]), float(self.probabilities[i]))
            for i in rows.tolist()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, without the pairs, as what fits in JSON."""
        return {
            "name": self.name,
            "threshold": plain(self.threshold),
            "report": self.report.to_dict(),
            "slices": [part.to_dict() for part in self.slices],
        }


def _random_rows(pairs: Pairs, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of unrelated pairs: texts drawn at random, no text beside itself, no labelled duplicate."""
    rng = np.random.default_rng(seed)
    m = len(pairs.texts)
    left, right = rng.integers(0, m, size=(2, _RANDOM_PAIRS)).astype(np.int64)
    low = np.minimum(pairs.left, pairs.right).astype(np.int64)
    high = np.maximum(pairs.left, pairs.right).astype(np.int64)
    duplicates = (low * m + high)[pairs.labels == 1]
    keep = (left != right) & ~np.isin(np.minimum(left, right) * m + np.maximum(left, right), duplicates)
    return left[keep].astype(np.int32), right[keep].astype(np.int32)


def _check(pairs: Pairs) -> None:
    """Say what pairs lack to be measured on."""
    if len(pairs) == 0:
        raise ValueError(f"{pairs.source}: no pairs to evaluate")
    unlabelled = int(np.sum(pairs.labels < 0))
    if unlabelled:
        raise ValueError(f"{pairs.source}: {unlabelled} of {len(pairs)} pairs have no label, evaluation needs them all")
    positives = int(np.sum(pairs.labels == 1))
    if positives in (0, len(pairs)):
        raise ValueError(
            f"{pairs.source}: an evaluation needs both classes, "
            f"got {positives} duplicates and {len(pairs) - positives} non-duplicates"
        )


def evaluate_pairs(
    twin: PairScorer,
    pairs: Pairs,
    *,
    decision: Decision | None = None,
    threshold: float | None = None,
    name: str = "twin",
    seen: AbstractSet[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> PairEvaluation:
    """Score the pairs with the twin and measure the scores.

    Each distinct text is encoded once. Some random pairs of the same texts are scored too, for the
    saturation alarm.

    Args:
        twin: anything with `pair_similarity(texts, left, right)` and `decision`.
        pairs: labelled pairs that took no part in training or calibration.
        decision: used in place of the twin's own.
        threshold: of a twin without a decision, which then gives verdicts but no probabilities; without both, the
            ranking alone is measured.
        name: what the tables call it.
        seen: training questions, for the seen and unseen slices.
        bootstrap: number of resamples for the intervals, 0 for none.
        seed: of the bootstrap and of the random pairs.

    Raises:
        ValueError: if there is no pair, a pair without label, one class only, or a similarity
            that is not finite.
    """
    _check(pairs)
    chosen = twin.decision if decision is None else decision
    threshold = threshold if chosen is None else chosen.threshold
    n = len(pairs)
    more_left, more_right = _random_rows(pairs, seed)
    scored = twin.pair_similarity(
        pairs.texts, np.concatenate([pairs.left, more_left]), np.concatenate([pairs.right, more_right])
    )
    scored = finite_scores(scored, name=f"{pairs.source}: similarity")
    similarities, random_scores = scored[:n], scored[n:]
    left = [pairs.texts[i] for i in pairs.left.tolist()]
    right = [pairs.texts[i] for i in pairs.right.tolist()]
    probabilities = None if chosen is None else chosen.probability(similarities)
    units = Units.of_pairs(pairs)
    report = binary_report(
        similarities,
        pairs.labels,
        threshold=threshold,
        probabilities=None if probabilities is None or np.ptp(probabilities) <= _SAME_FOR_ALL else probabilities,
        random_scores=random_scores,
        units=units,
        bootstrap=bootstrap,
        seed=seed,
    )
    slices: tuple[SliceReport, ...] = ()
    if pairs.modality == "text" and threshold is not None:  # slices are by words
        slices = slice_reports(left, right, similarities, pairs.labels, threshold=threshold, seen=seen)
    return PairEvaluation(
        name=name,
        left=left,
        right=right,
        labels=pairs.labels,
        similarities=similarities,
        probabilities=np.full(n, np.nan) if probabilities is None else probabilities,
        threshold=report.threshold,
        report=report,
        slices=slices,
        units=units,
    )


class ComparisonRow(NamedTuple):
    """One line of the table that puts twins side by side."""

    name: str
    average_precision: Estimate
    accuracy: Estimate
    f1: Estimate
    calibration_error: Estimate | None


def comparison_table(evaluations: Sequence[PairEvaluation]) -> list[ComparisonRow]:
    """Return a row for each evaluation, in the order given: name, AP, accuracy, F1, calibration error."""
    return [
        ComparisonRow(e.name, e.report.average_precision, e.report.accuracy, e.report.f1, e.report.calibration_error)
        for e in evaluations
    ]
