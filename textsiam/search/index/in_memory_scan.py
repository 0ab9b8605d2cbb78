"""Vectors in memory that a search scans exactly while a writer adds to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from textsiam.search.index.base import rounding_margin

if TYPE_CHECKING:
    from textsiam.search.join.int8_candidates import Asked, Frame, Int8Block, Quantized

_SCORES = 32 << 20  # scores held at once, 128 MB
BLOCK = 8192  # vectors that are packed together
_LIKELY = 8  # times k that are scored first, to find what the best k reach at least


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


@dataclass(frozen=True)
class View:
    """The vectors as they are at one clock: what is added or changed later does not show.

    The score of place i, and what bounds it, come in two steps: that of the leading components, which is wrong by
    `slack[i]` at most, and of the others adds no more than their length times that of the query's; then the whole one,
    wrong by `errors[i]` at most. Vectors that are not packed are whole at once.

    Attributes:
        clock: Of the last change that shows.
        rows: Row of each vector, `(n,)` int64.
        packed: Blocks of vectors as bytes.
        starts: Place at which each of these starts, and at which the last one ends, `(len(packed) + 1,)`.
        frame: How these are turned; None where there are none.
        tail: The vectors after them, `(m, dim)` float32.
        bounds: slack, length and errors of each vector, `(n,)` float32 each.
        alive: False where a newer vector, or a deletion, took the place; `(n,)` bool.
    """

    clock: int
    rows: np.ndarray
    packed: tuple[Int8Block, ...]
    starts: np.ndarray
    frame: Frame | None
    tail: np.ndarray
    bounds: tuple[np.ndarray, ...]
    alive: np.ndarray

    def near(
        self, queries: np.ndarray, k: int | None, threshold: float, *, among: np.ndarray | None = None
    ) -> list[Near]:
        """Return, for each query, all that may be among its hits.

        Args:
            queries: `(q, dim)` float32.
            k: Only what may be among the best k.
            threshold: Least score; `-inf` where there is none.
            among: Only these rows, `(m,)` int64; None takes all.
        """
        kept = self.alive
        if among is not None:
            kept = kept & np.isin(self.rows, among)
        found = []
        step = max(1, _SCORES // max(1, len(self.rows)))
        for start in range(0, len(queries), step):
            part = queries[start : start + step]
            asked, leading = self._leading(part)
            found += [self._near(leading[query], asked, query, kept, k, threshold) for query in range(len(part))]
        return found

    def _leading(self, queries: np.ndarray) -> tuple[Asked | None, np.ndarray]:
        """Return what the leading components give, `(q, n)` float32; of vectors that are not packed, the score."""
        if self.frame is None:
            return None, (self.tail @ queries[0])[None] if len(queries) == 1 else queries @ self.tail.T
        from textsiam.search.join.int8_candidates import compared

        return compared(queries, self.frame, self.packed, self.tail)

    def _near(
        self, leading: np.ndarray, asked: Asked | None, query: int, kept: np.ndarray, k: int | None, threshold: float
    ) -> Near:
        slack, length, _ = self.bounds
        most = leading + slack
        if asked is not None:
            most += asked.length[query] * length
        if k is not None and _LIKELY * k < len(most):
            likely = np.argpartition(np.where(kept, most, -np.inf), -_LIKELY * k)[-_LIKELY * k :]
            likely = np.sort(likely[kept[likely]])
            threshold = max(threshold, self._scored(leading, asked, query, likely).certain(k))
        near = self._scored(leading, asked, query, np.flatnonzero((most >= threshold) & kept))
        return near.kept(near.scores + near.errors >= threshold).best(k)

    def _scored(self, leading: np.ndarray, asked: Asked | None, query: int, places: np.ndarray) -> Near:
        """Return the whole scores at some places, `(m,)`, rising."""
        scores = leading[places]
        ends = np.searchsorted(places, self.starts)
        for number, block in enumerate(self.packed):
            part = slice(ends[number], ends[number + 1])
            if asked is not None and part.start < part.stop:
                scores[part] += block.others(asked, query, places[part] - self.starts[number])
        return Near(self.rows[places], scores, self.bounds[2][places])


@dataclass(frozen=True)
class Stored:
    """Vectors as a file holds them.

    Attributes:
        clock: Up to which clock of the table.
        rows: Row of each vector, `(n,)` int64, rising.
        frame: How the vectors are turned.
        vectors: Those of the rows; they may stay in the file until they are looked at.
    """

    clock: int
    rows: np.ndarray
    frame: Frame
    vectors: Quantized


class InMemoryScan:
    """A growing table of vectors; one thread may change it while others search its views.

    A vector is never overwritten: a changed one is added at the end and its old place dies, so that a view, which knows
    how far it reaches, stays what it was. Once there are enough of them, vectors are packed as bytes, which takes a
    quarter of the memory and of the time to read it; see `textsiam.search.join.int8_candidates`.

    Args:
        dim: Length of a vector.
        stored: Vectors to begin with.
    """

    def __init__(self, dim: int, stored: Stored | None = None) -> None:
        self._rows = np.zeros(0, np.int64) if stored is None else stored.rows
        self._sorted = self._rows  # rows of the places that were stored, rising
        self._place: dict[int, int] = {}  # of the others
        self._count, self._dead = len(self._rows), 0
        self._bounds = [np.zeros(self._count, np.float32) for _ in range(3)]
        self._alive = np.ones(self._count, bool)
        self._packed: list[Int8Block] = []
        self._starts = [0]
        self._frame: Frame | None = None
        self._tail = np.zeros((0, dim), np.float32)  # what is not packed
        if stored is not None:
            self._frame = stored.frame
            for start in range(0, self._count, BLOCK):
                self._add_packed(stored.vectors.taken(slice(start, start + BLOCK)))
        self.view = self._seen(-1 if stored is None else stored.clock)

    @property
    def rows(self) -> np.ndarray:
        """The rows that are there, `(n,)` int64, in no order."""
        return self._rows[: self._count][self._alive[: self._count]]

    @property
    def wasteful(self) -> bool:
        """Whether more than half of the places are dead: it is better made again."""
        return self._count > 1024 and self._dead * 2 > self._count

    def apply(self, batches: Iterable[tuple[np.ndarray, np.ndarray]], gone: np.ndarray, clock: int) -> None:
        """Add, replace and remove vectors by row; then the view moves to this clock.

        Args:
            batches: Rows `(n,)` int64 and vectors `(n, dim)` float32; no row twice.
            gone: Rows that were deleted, `(n,)` int64.
            clock: When all this was so.
        """
        self._forget(gone)
        for rows, vectors in batches:
            self._forget(rows)
            self._append(rows, vectors)
        self.view = self._seen(clock)

    def _forget(self, rows: np.ndarray) -> None:
        dead = [self._place.pop(row) for row in rows.tolist() if row in self._place]
        if len(self._sorted):
            places = np.minimum(np.searchsorted(self._sorted, rows), len(self._sorted) - 1)
            dead += places[(self._sorted[places] == rows) & self._alive[places]].tolist()
        if dead:
            self._alive = self._alive.copy()
            self._alive[dead] = False
            self._dead += len(dead)

    def _append(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        packed = self._starts[-1]
        start, end = self._count, self._count + len(rows)
        self._rows = _room(self._rows, start, end)
        self._alive = _room(self._alive, start, end)
        self._bounds = [_room(bound, start, end) for bound in self._bounds]
        self._tail = _room(self._tail, start - packed, end - packed)
        self._rows[start:end], self._alive[start:end] = rows, True
        margin = rounding_margin(vectors.shape[1])
        self._bound(start, end, (margin, 0, margin))
        self._tail[start - packed : end - packed] = vectors
        self._place |= {row: start + i for i, row in enumerate(rows.tolist())}
        self._count = end
        if end - packed >= BLOCK:
            self._pack()

    def _bound(self, start: int, end: int, values: Iterable[np.ndarray | float]) -> None:
        for bound, value in zip(self._bounds, values, strict=True):
            bound[start:end] = value

    def _pack(self) -> None:
        """Make blocks of the vectors that fill some."""
        from textsiam.search.join.int8_candidates import Frame, quantized  # torch, which a small index does without

        filled = len(self._tail[: self._count - self._starts[-1]]) // BLOCK * BLOCK
        tail, left = self._tail, self._count - self._starts[-1] - filled
        self._frame = self._frame or Frame.fitted(tail[:filled])
        for first in range(0, filled, BLOCK):
            self._add_packed(quantized(tail[first : first + BLOCK], self._frame))
        self._tail = tail[filled : filled + left].copy()

    def _add_packed(self, vectors: Quantized) -> None:
        from textsiam.search.join.int8_candidates import Int8Block

        start, end = self._starts[-1], self._starts[-1] + len(vectors.scales)
        # What an older view reads here grows, which lets it keep more than it has to, and nothing less.
        self._bound(start, end, (vectors.slack, vectors.length, vectors.errors))
        self._packed.append(Int8Block(vectors))
        self._starts.append(end)

    def _seen(self, clock: int) -> View:
        n, starts = self._count, np.array(self._starts)
        tail, bounds = self._tail[: n - starts[-1]], tuple(bound[:n] for bound in self._bounds)
        return View(clock, self._rows[:n], (*self._packed,), starts, self._frame, tail, bounds, self._alive[:n])


def _room(array: np.ndarray, used: int, needed: int) -> np.ndarray:
    """Return the array, or a longer copy of what is used, where more is needed; older views keep the short one."""
    if needed <= len(array):
        return array
    longer = np.zeros((max(needed, 2 * len(array)), *array.shape[1:]), array.dtype)
    longer[:used] = array[:used]
    return longer
