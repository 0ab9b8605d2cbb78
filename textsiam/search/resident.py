"""Vectors in memory that a search scans exactly while a writer adds to them: all, or what a search structure lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from textsiam.search.index import rounding_margin

Product = Callable[[np.ndarray, np.ndarray], np.ndarray]

_SCORES = 32 << 20  # scores held at once, 128 MB
_BLOCK = 8192  # vectors that are packed together


class Near(NamedTuple):
    """What may be among the hits of a query: the row, the score, and by how much that may be wrong; `(n,)` each."""

    rows: np.ndarray
    scores: np.ndarray
    errors: np.ndarray

    def certain(self, k: int | None) -> float:
        """Return what k of these score at least, whatever the errors; -inf where there are fewer, or k is None."""
        if k is None or k > len(self.scores):
            return -np.inf
        return float(np.partition(self.scores - self.errors, -k)[-k])

    def best(self, k: int | None) -> Near:
        """Return what may be among the best k of these."""
        return self.kept(self.scores + self.errors >= self.certain(k))

    def kept(self, mask: np.ndarray) -> Near:
        """Return those where the mask is true."""
        return Near(self.rows[mask], self.scores[mask], self.errors[mask])

    def joined(self, other: Near) -> Near:
        """Return these and others."""
        return Near(*map(np.concatenate, zip(self, other, strict=True)))


class Block(Protocol):
    """Vectors that are scanned together."""

    def scores(self, queries: np.ndarray) -> np.ndarray:
        """Return the dot products `(q, n)` float32 with queries `(q, dim)` of length 1, about."""
        ...


class Floats:
    """Vectors as they are, `(n, dim)` float32.

    Args:
        vectors: The vectors.
        product: Multiplies two matrices, or a matrix and a vector.
    """

    def __init__(self, vectors: np.ndarray, product: Product = np.matmul) -> None:
        self._vectors, self._product = vectors, product

    def scores(self, queries: np.ndarray) -> np.ndarray:
        """Return the dot products; one query is a product with a vector, which is faster as such."""
        if len(queries) == 1:
            return self._product(self._vectors, queries[0])[None]
        return self._product(queries, self._vectors.T)


@dataclass(frozen=True)
class View:
    """The vectors as they are at one clock: what is added or changed later does not show.

    Attributes:
        clock: Of the last change that shows.
        rows: Row of each vector, `(n,)` int64.
        blocks: The vectors, in the order of their rows.
        errors: By how much each score may be wrong, `(n,)` float32.
        alive: False where a newer vector, or a deletion, took the place; `(n,)` bool.
        changed: Row → clock at which it was changed first; also rows that were deleted, and later changes.
    """

    clock: int
    rows: np.ndarray
    blocks: tuple[Block, ...]
    errors: np.ndarray
    alive: np.ndarray
    changed: dict[int, int]

    def superseded(self, row: int) -> bool:
        """Say whether what a search structure holds of a row is out of date."""
        clock = self.changed.get(row)
        return clock is not None and clock <= self.clock

    def near(self, queries: np.ndarray, k: int | None, floor: float) -> list[Near]:
        """Return, for each query, all that may be among its hits.

        Args:
            queries: `(q, dim)` float32.
            k: Only what may be among the best k.
            floor: Least score; `-inf` where there is none.
        """
        found = []
        step = max(1, _SCORES // max(1, len(self.rows)))
        for start in range(0, len(queries), step):
            part = queries[start : start + step]
            scores = np.concatenate([block.scores(part) for block in self.blocks], axis=1)
            for score in scores:
                kept = (score + self.errors >= floor) & self.alive
                found.append(Near(self.rows, score, self.errors).kept(kept).best(k))
        return found


class Resident:
    """A growing table of vectors; one thread may change it while others search its views.

    A vector is never overwritten: a changed one is added at the end and its old place dies, so that a view, which knows
    how far it reaches, stays what it was. Once there are enough of them, vectors are packed as bytes, where the
    processor multiplies these; see `textsiam.search.codes`.

    Args:
        dim: Length of a vector.
        alone: Whether there is no search structure that holds vectors too: then nobody asks what is superseded there.
    """

    def __init__(self, dim: int, *, alone: bool = False) -> None:
        self._alone = alone
        self._rows = np.zeros(64, np.int64)
        self._errors = np.zeros(64, np.float32)
        self._alive = np.zeros(64, bool)
        self._packed: list[Block] = []
        self._tail = np.zeros((64, dim), np.float32)  # what is not packed
        self._product: Product = np.matmul
        self._place: dict[int, int] = {}
        self._changed: dict[int, int] = {}
        self._count = 0
        self.view = self._seen(-1)

    @property
    def rows(self) -> list[int]:
        """The rows that are there."""
        return list(self._place)

    @property
    def wasteful(self) -> bool:
        """Whether more than half of the places are dead: it is better made again."""
        return self._count > 1024 and len(self._place) * 2 < self._count

    def apply(self, batches: Iterable[tuple[np.ndarray, np.ndarray]], gone: list[int], clock: int) -> None:
        """Add, replace and remove vectors by row; then the view moves to this clock.

        Args:
            batches: Rows `(n,)` int64 and vectors `(n, dim)` float32; no row twice.
            gone: Rows that were deleted.
            clock: When all this was so.
        """
        self._forget(gone)
        for rows, vectors in batches:
            self._forget(rows.tolist())
            self._append(rows, vectors)
            self._note(rows.tolist(), clock)
        self._note(gone, clock)
        self.view = self._seen(clock)

    def _forget(self, rows: list[int]) -> None:
        replaced = [self._place.pop(row) for row in rows if row in self._place]
        if replaced:
            self._alive = self._alive.copy()
            self._alive[replaced] = False

    def _note(self, rows: list[int], clock: int) -> None:
        if not self._alone:
            for row in rows:
                self._changed.setdefault(row, clock)

    def _append(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        packed = len(self._packed) * _BLOCK
        start, end = self._count, self._count + len(rows)
        self._rows = _room(self._rows, start, end)
        self._alive = _room(self._alive, start, end)
        self._errors = _room(self._errors, start, end)
        self._tail = _room(self._tail, start - packed, end - packed)
        self._rows[start:end], self._alive[start:end] = rows, True
        self._errors[start:end] = rounding_margin(vectors.shape[1])
        self._tail[start - packed : end - packed] = vectors
        self._place |= {row: start + i for i, row in enumerate(rows.tolist())}
        self._count = end
        if end - packed >= _BLOCK:
            self._pack()

    def _pack(self) -> None:
        """Make blocks of the vectors that fill some, where that makes a scan faster."""
        from textsiam.search.codes import Codes, multiplies_bytes, product  # torch, which a small index does without

        if not multiplies_bytes():
            return
        self._product = product
        start = len(self._packed) * _BLOCK
        filled = (self._count - start) // _BLOCK * _BLOCK
        for first in range(0, filled, _BLOCK):
            block = Codes(self._tail[first : first + _BLOCK])
            # What an older view reads here grows, which lets it keep more than it has to, and nothing less.
            self._errors[start + first : start + first + _BLOCK] = block.errors
            self._packed.append(block)
        self._tail = self._tail[filled : self._count - start].copy()

    def _seen(self, clock: int) -> View:
        n = self._count
        tail = Floats(self._tail[: n - len(self._packed) * _BLOCK], self._product)
        return View(clock, self._rows[:n], (*self._packed, tail), self._errors[:n], self._alive[:n], self._changed)


def _room(array: np.ndarray, used: int, needed: int) -> np.ndarray:
    """Return the array, or a longer copy of what is used, where more is needed; older views keep the short one."""
    if needed <= len(array):
        return array
    longer = np.zeros((max(needed, 2 * len(array)), *array.shape[1:]), array.dtype)
    longer[:used] = array[:used]
    return longer
