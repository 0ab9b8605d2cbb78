"""Equal inputs: one of them stands for all while pairs are looked for, and all come back in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textsiam.search.join.exact import FoundPairs


@dataclass(frozen=True, eq=False)
class ExactDuplicates:
    """Which of n inputs are equal: m distinct ones, numbered by first appearance.

    Attributes:
        first: The first input of each kind, `(m,)` int64.
        count: How many inputs of each kind there are, `(m,)` int64.
        inputs: The inputs kind by kind, in order, `(n,)` int64.
        start: Where each kind starts in `inputs`, `(m,)` int64.
    """

    first: np.ndarray
    count: np.ndarray
    inputs: np.ndarray
    start: np.ndarray

    @classmethod
    def among(cls, inputs: Sequence[str]) -> ExactDuplicates:
        """Find equal inputs."""
        index: dict[str, int] = {}
        kind = np.array([index.setdefault(text, len(index)) for text in inputs], np.int64)
        order = np.argsort(kind, kind="stable")
        count = np.bincount(kind, minlength=len(index)).astype(np.int64)
        start = np.cumsum(count) - count
        return cls(order[start], count, order, start)

    @property
    def repeated(self) -> np.ndarray:
        """The kinds that occur more than once."""
        return np.flatnonzero(self.count > 1)

    def of(self, kind: int) -> np.ndarray:
        """Return the inputs of a kind, in order."""
        return self.inputs[self.start[kind] : self.start[kind] + self.count[kind]]

    def linked(self, found: FoundPairs, equal: np.ndarray, similarity: np.ndarray) -> FoundPairs:
        """Return the pairs of the first inputs of their kinds, and of each copy with the first of its kind.

        So n equal inputs are n - 1 pairs; `expanded` gives all n (n - 1) / 2.

        Args:
            found: Pairs of kinds.
            equal: Kinds whose copies are pairs too.
            similarity: Of the copies of each of these.
        """
        left, right = self.first[found.left], self.first[found.right]
        across = FoundPairs(np.minimum(left, right), np.maximum(left, right), found.similarity)
        copies = [self.of(kind)[1:] for kind in equal.tolist()]
        times = [len(each) for each in copies]
        within = FoundPairs(
            np.repeat(self.first[equal], times),
            np.concatenate([np.zeros(0, np.int64), *copies]),
            np.repeat(similarity, times).astype(np.float32),
        )
        return FoundPairs.joined([across, within])

    def expanded(self, found: FoundPairs, equal: np.ndarray, similarity: np.ndarray) -> FoundPairs:
        """Return the pairs of inputs: every copy of one side with every copy of the other, and copies with each other.

        Args:
            found: Pairs of kinds.
            equal: Kinds whose copies are pairs too.
            similarity: Of the copies of each of these.
        """
        if not len(self.repeated):
            return found
        return FoundPairs.joined([
            self._across(found),
            *(self._within(kind, value) for kind, value in zip(equal.tolist(), similarity.tolist(), strict=True)),
        ])  # fmt: skip

    def _across(self, found: FoundPairs) -> FoundPairs:
        left, right, similarity = found
        times = self.count[left] * self.count[right]
        pair = np.repeat(np.arange(len(left)), times)
        nth = np.arange(len(pair)) - np.repeat(np.cumsum(times) - times, times)  # of the copies of the same pair
        rights = self.count[right][pair]
        a = self.inputs[self.start[left][pair] + nth // rights]
        b = self.inputs[self.start[right][pair] + nth % rights]
        return FoundPairs(np.minimum(a, b), np.maximum(a, b), similarity[pair])

    def _within(self, kind: int, similarity: float) -> FoundPairs:
        a, b = (self.of(kind)[ends] for ends in np.triu_indices(int(self.count[kind]), 1))
        return FoundPairs(a, b, np.full(len(a), similarity, np.float32))
