"""Identification: whose is this input, among the enrolled, or nobody's? The two errors of an open set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textsiam.decision.calibration import check_fraction, finite_scores
from textsiam.decision.intervals import Estimate, Units, interval
from textsiam.evaluation.binary import Report, lines
from textsiam.evaluation.verification import allowed, too_few


class Identifier(Protocol):
    """What is needed of a gallery here; `textsiam.search.gallery.Gallery` is one."""

    @property
    def names(self) -> Sequence[str]:
        """The enrolled identities."""
        ...

    def similarities(self, inputs: Sequence[str]) -> np.ndarray:
        """Return the similarity (inputs, identities) of each input to each identity."""
        ...

    def identification_threshold(self) -> float:
        """Return the similarity from which the best identity is named."""
        ...


@dataclass(frozen=True)
class IdentificationReport(Report):
    """How well a score names the enrolled and leaves the others unnamed.

    Attributes:
        identities: how many are enrolled; with more of them every figure gets worse.
        known: probes of enrolled identities.
        unknown: probes of nobody enrolled.
        rank_1: share of the known probes whose own identity scores above all others.
        detection_rate: DIR at `false_alarm_rate`: the share of the known probes that are at rank 1 and above the
            threshold that lets through at most this share of the unknown; None where it cannot be measured.
        unmeasured: why there is no detection rate, or nothing.
        false_alarm_rate: the rate that `detection_rate` holds at.
        fnir: false negative identification rate at `threshold`: known probes that are not named right; nan where
            no probe is known.
        fpir: false positive identification rate at `threshold`: unknown probes that are named; nan where no probe
            is unknown.
        threshold: given, never fitted here.
    """

    identities: int
    known: int
    unknown: int
    rank_1: Estimate
    detection_rate: Estimate | None
    unmeasured: str
    false_alarm_rate: float
    fnir: Estimate
    fpir: Estimate
    threshold: float

    def __str__(self) -> str:
        """Return one line a measure."""
        rows = {
            "probes": f"{self.known} known, {self.unknown} unknown, {self.identities} enrolled",
            "rank 1": self.rank_1,
            f"DIR@FAR {100 * self.false_alarm_rate:g} %": self.detection_rate or self.unmeasured,
            "FNIR": f"{self.fnir} at {self.threshold:.3f}",
            "FPIR": f"{self.fpir} at {self.threshold:.3f}",
        }
        return lines(rows)


def identification_report(
    similarities: ArrayLike,
    own: ArrayLike,
    *,
    threshold: float,
    false_alarm_rate: float = 0.01,
    strangers: ArrayLike | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> IdentificationReport:
    """Measure open-set identification: the best identity is named when its similarity is `>= threshold`.

    * rank 1 = known probes whose own identity scores above all others / known probes; who shares the first place
      is not at rank 1, so a twin that gives one vector to everything earns nothing.
    * DIR(t) = known probes at rank 1 with `own similarity >= t` / known probes, and FNIR(t) = 1 - DIR(t).
    * FPIR(t) = unknown probes with `best similarity >= t` / unknown probes: the false alarms of an open set.
    * DIR@FAR f is the largest DIR(t) over all t with FPIR(t) <= f, without interpolation: the threshold lies above
      the (⌊f · unknown⌋ + 1)-th highest unknown probe. Fewer than 1/f unknown probes cannot show such a rate.

    Grother and Ngan, "Face Recognition Vendor Test: Performance of Face Identification Algorithms", 2014; Phillips,
    Grother and Micheals, "Evaluation Methods in Face Recognition", 2011. The intervals are percentile intervals of
    a bootstrap that draws known and unknown probes apart, each as many as there are.

    Args:
        similarities: (probes, identities), larger is closer.
        own: (probes,) the column of the probe's own identity, -1 where it is not enrolled.
        threshold: fitted on other probes.
        false_alarm_rate: the rate f.
        strangers: (unknown probes,) who each unknown probe is, anything that sorts; None takes each for another one.
        bootstrap: number of resamples, 0 for none.
        seed: of the bootstrap.

    Raises:
        ValueError: if a similarity is not finite, the shapes do not fit, `own` points outside the identities, or
            no probe is known.

    Example:
        >>> report = identification_report([[0.9, 0.2], [0.4, 0.5], [0.6, 0.1]], [0, 0, -1], threshold=0.5, bootstrap=0)
        >>> report.rank_1.value, report.fnir.value, report.fpir.value
        (0.5, 0.5, 1.0)
    """
    scores = finite_scores(similarities)
    columns = _checked_columns(own, scores)
    rate = check_fraction(false_alarm_rate, name="false alarm rate")
    if not math.isfinite(threshold):
        raise ValueError(f"threshold must be a finite number, got {threshold}")
    hits, alarms = _reduced(scores, columns)
    unmeasured = "" if alarms.size >= 1.0 / rate - 1e-9 else too_few(rate, alarms.size, "unknown probes")

    def measure(hit: NDArray[np.float64], alarm: NDArray[np.float64]) -> NDArray[np.float64]:
        found = np.nan if unmeasured else _detection_rate(hit, alarm, rate)
        fpir = np.mean(alarm >= threshold) if alarm.size else np.nan
        return np.array([np.mean(hit > -np.inf), found, np.mean(~(hit >= threshold)), fpir])

    known = Units.grouped(columns[columns >= 0], noun="identities")
    others = Units.alone(alarms.size) if strangers is None else Units.grouped(strangers, noun="identities")
    # both are drawn one by one, in chunks that need not be of one size
    pairs = zip(_rows(known, bootstrap, seed), _rows(others, bootstrap, seed + 1), strict=False)
    replicates = np.array([measure(np.repeat(hits, h), np.repeat(alarms, a)) for h, a in pairs]).reshape(-1, 4)
    few = known.too_few(np.ones(hits.size, bool)) if bootstrap else ""
    strange = others.too_few(np.ones(alarms.size, bool)) if bootstrap and strangers is not None else ""
    notes = (few, few or strange, few, strange)
    rank_1, detection, fnir, fpir = (
        interval(value, sample, note=note)
        for value, sample, note in zip(measure(hits, alarms).tolist(), replicates.T, notes, strict=True)
    )
    return IdentificationReport(
        identities=scores.shape[1],
        known=hits.size,
        unknown=alarms.size,
        rank_1=rank_1,
        detection_rate=None if unmeasured else detection,
        unmeasured=unmeasured,
        false_alarm_rate=rate,
        fnir=fnir,
        fpir=fpir,
        threshold=float(threshold),
    )


def evaluate_identification(
    gallery: Identifier,
    inputs: Sequence[str],
    names: Sequence[str | None],
    *,
    false_alarm_rate: float = 0.01,
    bootstrap: int = 1000,
    seed: int = 0,
) -> IdentificationReport:
    """Look the inputs up in a gallery and measure what it says, at its calibrated threshold.

    Args:
        gallery: A calibrated `textsiam.search.gallery.Gallery`.
        inputs: Probes that took no part in enrolling or calibrating.
        names: The identity of each; a name that is not enrolled, or None, is unknown.
        false_alarm_rate: As for `identification_report`.
        bootstrap: As for `identification_report`.
        seed: As for `identification_report`.

    Raises:
        ValueError: As for `identification_report`, or not as many names as inputs.
    """
    if len(inputs) != len(names):
        raise ValueError(f"expected a name for each of {len(inputs)} inputs, got {len(names)}")
    column = {name: i for i, name in enumerate(gallery.names)}
    own = [-1 if name is None else column.get(name, -1) for name in names]
    threshold = gallery.identification_threshold()  # refuses a gallery without one before anything is encoded
    return identification_report(
        gallery.similarities(inputs),
        own,
        threshold=threshold,
        false_alarm_rate=false_alarm_rate,
        strangers=[f"?{i}" if n is None else n for i, (n, o) in enumerate(zip(names, own, strict=True)) if o < 0],
        bootstrap=bootstrap,
        seed=seed,
    )


def _rows(units: Units, replicates: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield how often each item (n,) is drawn, for each of the replicates; of nothing, nothing."""
    if not units.first.size:
        yield from (np.zeros(0, np.int64) for _ in range(replicates))
        return
    for chunk in units.weights(replicates, seed):
        yield from chunk


def _checked_columns(own: ArrayLike, scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the columns (probes,) as int64, and refuse what does not fit the similarities."""
    columns = np.asarray(own)
    if scores.ndim != 2 or not scores.shape[1] or columns.shape != scores.shape[:1]:
        raise ValueError(
            f"similarities must be (probes, identities) with one own identity for each probe, got shapes "
            f"{scores.shape} and {columns.shape}"
        )
    if outside := np.flatnonzero((columns < -1) | (columns >= scores.shape[1])).tolist():
        raise ValueError(f"own[{outside[0]}] is {columns[outside[0]]}, expected -1 or a column below {scores.shape[1]}")
    if not (columns >= 0).any():
        raise ValueError(f"none of the {columns.size} probes is of an enrolled identity, so nothing can be found")
    return columns.astype(np.int64)


def _reduced(
    scores: NDArray[np.float64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the own similarity of each known probe, -inf where not at rank 1, and the best of each unknown one."""
    known = np.flatnonzero(columns >= 0)
    own = scores[known, columns[known]]
    reached = (scores[known] >= own[:, None]).sum(axis=1)  # itself among them
    return np.where(reached == 1, own, -np.inf), scores[columns < 0].max(axis=1)


def _detection_rate(hits: NDArray[np.float64], alarms: NDArray[np.float64], rate: float) -> float:
    at = alarms.size - 1 - int(allowed(rate, alarms.size))
    return float(np.mean(hits > np.partition(alarms, at)[at]))
