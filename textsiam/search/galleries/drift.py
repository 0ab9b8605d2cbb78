"""Whether the inputs that a gallery is asked about are like those that it was calibrated on; no label is needed."""

from __future__ import annotations

import math
import threading
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textsiam.decision.domain import ALLOWED_SCORES, FEWEST, NEIGHBOURS, SIGNIFICANT, kept, ks_distance
from textsiam.search.galleries.enrolled import Enrolled

COMPARED = 256  # identities, the first enrolled, that an input is compared with


class Levels(NamedTuple):
    """How similar the inputs of a calibration are to identities that they are not of.

    Attributes:
        values: Of each input the mean similarity to all identities but the most similar one, `(n,)` float32, sorted; at
            most 256 of them.
        inputs: How many there were.
        identities: Whose they were: inputs of one person are alike, and count once.
    """

    values: NDArray[np.float32]
    inputs: int
    identities: int

    def same(self, other: Levels) -> bool:
        """Whether these are of the same calibration."""
        return self[1:] == other[1:] and np.array_equal(self.values, other.values)


@dataclass(frozen=True)
class Drift:
    """How far levels are from those of the calibration: `distance` in 0 to 1, and what is `allowed`."""

    distance: float
    allowed: float

    def __str__(self) -> str:
        """Return one line: what differs, and what to do."""
        return (
            "these inputs are unlike those that the gallery was calibrated on: their similarities to other identities "
            f"({self.distance:.2f}, at most {self.allowed:.2f} is usual); thresholds and rates may not hold: calibrate "
            "with inputs like these"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what fits in JSON."""
        return {"message": str(self), **asdict(self)}


def levels_of(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the levels (n,) of inputs by their similarities to m identities, (n, m) with m of at least 2."""
    compared = scores[:, :COMPARED]
    rest = compared.sum(axis=1, dtype=np.float64) - compared.max(axis=1)
    return (rest / (compared.shape[1] - 1)).astype(np.float32)


def usual_levels(scores: NDArray[np.float32], identities: int) -> Levels | None:
    """Return what a calibration remembers of its inputs; None where there are fewer than 50, or one identity."""
    if len(scores) < FEWEST or scores.shape[1] < 2:
        return None
    return Levels(kept(levels_of(scores)), len(scores), identities)


def drift_between(usual: Levels | None, levels: NDArray[np.float32]) -> Drift | None:
    """Return how far levels (n,) are from the usual ones, None where that is no more than chance and a tenth.

    The distance is that of Kolmogorov and Smirnov; chance is its 1 % point for as many samples as there are identities.
    Whose the new inputs are is not known: as many are taken to be of one identity as there were at the calibration, so
    that a window full of one person may raise the alarm.
    """
    if usual is None or len(levels) < FEWEST:
        return None
    new = max(1.0, len(levels) * usual.identities / usual.inputs)
    chance = SIGNIFICANT * math.sqrt(1.0 / usual.identities + 1.0 / new)
    distance, allowed = ks_distance(levels, usual.values), ALLOWED_SCORES + chance
    return Drift(distance, allowed) if distance > allowed else None


class DriftWatch:
    """Looks whether the inputs that come in one after the other are like those of the calibration.

    Attributes:
        drift: How far the last 256 that were looked at differ, None if they do not.
    """

    def __init__(self) -> None:
        self.drift: Drift | None = None
        self._usual: Levels | None = None
        self._levels: list[float] = []
        self._lock = threading.Lock()

    def take(self, gallery: Enrolled, usual: Levels | None, probes: NDArray[np.float32]) -> bool:
        """Take inputs that a gallery was asked about; returns whether they differ and those before did not.

        Args:
            gallery: Who is enrolled.
            usual: The levels of its calibration; None has nothing compared.
            probes: The vectors (n, dim) of the inputs.
        """
        names = gallery.names[:COMPARED]
        if usual is None or len(names) < 2:
            return False
        scores = gallery.similarities_of(probes, names)
        with self._lock:
            if self._usual is None or not usual.same(self._usual):  # it was calibrated anew
                self._usual, self.drift, self._levels = usual, None, []
            self._levels += levels_of(scores).tolist()
            if len(self._levels) < NEIGHBOURS:
                return False
            before = self.drift
            self.drift, self._levels = drift_between(self._usual, np.array(self._levels, np.float32)), []
            return before is None and self.drift is not None
