"""Rows that say the same pair again, and rows that contradict one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from textsiam.data.tables.errors import EXAMPLES


@dataclass(frozen=True, eq=False)
class Repeats:
    """Masks (n,) over rows: later copies of a pair, contradicted rows, and what remains.

    `first` (n,) is the first row of the same unordered pair; `other` (n,) for a contradicted row one with the
    other label (itself where two equal texts are labelled 0).
    """

    duplicate: np.ndarray
    contradictory: np.ndarray
    first: np.ndarray
    other: np.ndarray

    @property
    def keep(self) -> np.ndarray:
        """The rows that are neither copies nor contradicted (n,) bool."""
        return ~(self.duplicate | self.contradictory)

    def warnings(self, place: Callable[[int], str]) -> tuple[str, ...]:
        """Describe the first rows of each kind, `place(row)` naming file and line."""
        said = [f"{place(row)}: repeats {_line(place(self.first[row]), place(row))}" for row in _some(self.duplicate)]
        for row in _some(self.contradictory):
            cause = "two equal texts labelled 0"
            if self.other[row] != row:
                cause = f"the same pair has the other label at {_line(place(self.other[row]), place(row))}"
            said.append(f"{place(row)}: {cause}; left out")
        return tuple(said)


def _some(mask: np.ndarray) -> list[int]:
    return np.flatnonzero(mask)[:EXAMPLES].tolist()


def _line(place: str, beside: str) -> str:
    """Return a place without the name of its file where that is the file of another place."""
    file, _, where = place.rpartition(":")
    if file != beside.rpartition(":")[0]:
        return place
    return where if where.startswith("row") else f"line {where}"


def find_repeats(left: np.ndarray, right: np.ndarray, labels: np.ndarray) -> Repeats:
    """Find repeated and contradicted rows among pairs of text ids.

    A pair is unordered. Rows of a pair that occurs with both labels, and rows of two equal texts labelled 0
    (with every other row of that pair), are contradictory; of the others, all but the first are duplicates.

    Args:
        left: text ids (n,).
        right: text ids (n,).
        labels: (n,) 1, 0 or -1; -1 contradicts nothing.
    """
    low, high = np.minimum(left, right).astype(np.int64), np.maximum(left, right)
    _, first, group = np.unique(low << 32 | high, return_index=True, return_inverse=True)
    count = len(first)
    nowhere = len(labels)
    first_of = {}
    for label in (0, 1):
        rows = np.flatnonzero(labels == label)[::-1]
        found = np.full(count, nowhere)
        found[group[rows]] = rows  # written last to first: the first row of the label remains
        first_of[label] = found
    equal = np.zeros(count, dtype=bool)
    equal[group[left == right]] = True
    both = (first_of[0] < nowhere) & (first_of[1] < nowhere)
    contradicted = (both | (equal & (first_of[0] < nowhere)))[group] & (labels >= 0)
    keys = group * 3 + (labels + 1)
    _, first_alike, alike = np.unique(keys, return_index=True, return_inverse=True)
    first_row = first_alike[alike]
    duplicate = (first_row != np.arange(nowhere)) & ~contradicted
    rows = np.arange(nowhere)
    other = np.where(labels == 1, first_of[0][group], first_of[1][group])
    other = np.where(contradicted & (other < nowhere), other, rows)
    return Repeats(duplicate, contradicted, first_row, other)
