"""Equal inputs: one of them stands for all while pairs are looked for, and all come back in the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from textsiam.data.stored_strings import first_of_equal
from textsiam.search.join.exact import FoundPairs
from textsiam.search.join.sorted_pairs import BLOCK


@dataclass(frozen=True, eq=False)
class ExactDuplicates:
    """Which of n inputs are equal: m distinct ones, numbered by first appearance.

    All are int32, int64 from 2³¹ inputs on: at most 16 bytes of memory an input, and some 44 while they are made.

    Attributes:
        first: The first input of each kind, `(m,)`.
        count: How many inputs of each kind there are, `(m,)`.
        inputs: The inputs kind by kind, in order, `(n,)`.
        start: Where each kind starts in `inputs`, `(m,)`.
    """

    first: np.ndarray
    count: np.ndarray
    inputs: np.ndarray
    start: np.ndarray

    @classmethod
    def among(cls, inputs: Sequence[str], folder: Path | None = None) -> ExactDuplicates:
        """Find equal inputs; see `textsiam.data.stored_strings.first_of_equal`."""
        first = first_of_equal(inputs, folder)
        firsts = np.flatnonzero(first == np.arange(len(first), dtype=first.dtype)).astype(first.dtype)
        count = np.bincount(first, minlength=len(first))[firsts].astype(first.dtype)
        order = np.argsort(first, kind="stable").astype(first.dtype)
        return cls(firsts, count, order, (np.cumsum(count, dtype=first.dtype) - count))

    @property
    def copies(self) -> int:
        """How many inputs are equal to one before them."""
        return len(self.inputs) - len(self.first)

    @property
    def repeated(self) -> np.ndarray:
        """The kinds that occur more than once."""
        return np.flatnonzero(self.count > 1)

    def of(self, kind: int) -> np.ndarray:
        """Return the inputs of a kind, in order."""
        return self.inputs[self.start[kind] : self.start[kind] + self.count[kind]]

    def pairs(
        self, found: Iterable[FoundPairs], equal: np.ndarray, similarity: np.ndarray, *, every: bool = False
    ) -> Iterator[FoundPairs]:
        """Yield pairs of inputs in bounded memory: of those of two kinds, and of the copies of one.

        The pairs of two kinds are those of their first inputs, and each copy is a pair with the first of its kind, so
        that n equal inputs are n - 1 pairs; or every copy of one side with every copy of the other, and all
        n (n - 1) / 2 of each other.

        Args:
            found: Pairs of kinds.
            equal: Kinds whose copies are pairs too.
            similarity: Of the copies of each of these.
            every: Whether every pair is given.
        """
        for left, right, scores in found:
            widths = self.count[right].astype(np.int64)
            times = self.count[left] * widths if every else np.ones(len(left), np.int64)
            for pair, nth in _repeated(times):
                a = self.inputs[self.start[left[pair]] + nth // widths[pair]]
                b = self.inputs[self.start[right[pair]] + nth % widths[pair]]
                yield _ordered(a, b, scores[pair])
        sizes = self.count[equal].astype(np.int64)
        for kind, nth in _repeated(sizes if every else np.ones(len(equal), np.int64)):  # copies, and those after each
            place = self.start[equal[kind]] + nth
            for copy, after in _repeated(sizes[kind] - 1 - nth):
                inputs = self.inputs[place[copy]], self.inputs[place[copy] + 1 + after]
                yield _ordered(*inputs, similarity[kind[copy]])


def _repeated(times: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, block by block, each index so many times, `(n,)`, and how often it was there before."""
    stops = np.cumsum(times)
    for start in range(0, int(stops[-1]) if len(stops) else 0, BLOCK):
        place = np.arange(start, min(start + BLOCK, int(stops[-1])))
        index = np.searchsorted(stops, place, side="right")
        yield index, place - (stops[index] - times[index])


def _ordered(a: np.ndarray, b: np.ndarray, similarity: np.ndarray) -> FoundPairs:
    left, right = np.minimum(a, b).astype(np.int64), np.maximum(a, b).astype(np.int64)
    return FoundPairs(left, right, similarity.astype(np.float32))
