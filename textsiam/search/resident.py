"""Vectors in memory that a search scans exactly while a writer adds to them: all, or what a search structure lacks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from textsiam.search.index import rounding_margin

if TYPE_CHECKING:
    from textsiam.search.codes import Asked, Codes, Frame

_SCORES = 32 << 20  # scores held at once, 128 MB
_BLOCK = 8192  # vectors that are packed together
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

    def joined(self, other: Near) -> Near:
        """Return these and others."""
        return Near(*map(np.concatenate, zip(self, other, strict=True)))


@dataclass(frozen=True)
class View:
    """The vectors as they are at one clock: what is added or changed later does not show.

    The score of place i, and what bounds it, come in two steps: that of the leading components, which is wrong by
    `slack[i]` at most, and of the others adds no more than their length times that of the query's; then the whole one,
    wrong by `errors[i]` at most. Vectors that are not packed are whole at once.

    Attributes:
        clock: Of the last change that shows.
        rows: Row of each vector, `(n,)` int64.
        packed: Blocks of `_BLOCK` vectors as bytes.
        frame: How these are turned; None where there are none.
        tail: The vectors after them, `(m, dim)` float32.
        bounds: slack, length and errors of each vector, `(n,)` float32 each.
        alive: False where a newer vector, or a deletion, took the place; `(n,)` bool.
        changed: Row → clock at which it was changed first; also rows that were deleted, and later changes.
    """

    clock: int
    rows: np.ndarray
    packed: tuple[Codes, ...]
    frame: Frame | None
    tail: np.ndarray
    bounds: tuple[np.ndarray, ...]
    alive: np.ndarray
    changed: dict[int, int]

    def superseded(self, row: int) -> bool:
        """Say whether what a search structure holds of a row is out of date."""
        clock = self.changed.get(row)
        return clock is not None and clock <= self.clock

    def near(self, queries: np.ndarray, k: int | None, floor: float, *, among: set[int] | None = None) -> list[Near]:
        """Return, for each query, all that may be among its hits.

        Args:
            queries: `(q, dim)` float32.
            k: Only what may be among the best k.
            floor: Least score; `-inf` where there is none.
            among: Only these rows; None takes all.
        """
        kept = self.alive
        if among is not None:
            kept = kept & np.isin(self.rows, np.fromiter(among, np.int64, len(among)))
        found = []
        step = max(1, _SCORES // max(1, len(self.rows)))
        for start in range(0, len(queries), step):
            part = queries[start : start + step]
            asked, leading = self._leading(part)
            found += [self._near(leading[query], asked, query, kept, k, floor) for query in range(len(part))]
        return found

    def _leading(self, queries: np.ndarray) -> tuple[Asked | None, np.ndarray]:
        """Return what the leading components give, `(q, n)` float32; of vectors that are not packed, the score."""
        if self.frame is None:
            return None, (self.tail @ queries[0])[None] if len(queries) == 1 else queries @ self.tail.T
        from textsiam.search.codes import compared

        return compared(queries, self.frame, self.packed, self.tail)

    def _near(
        self, leading: np.ndarray, asked: Asked | None, query: int, kept: np.ndarray, k: int | None, floor: float
    ) -> Near:
        slack, length, _ = self.bounds
        most = leading + slack
        if asked is not None:
            most += asked.length[query] * length
        if k is not None and _LIKELY * k < len(most):
            likely = np.argpartition(np.where(kept, most, -np.inf), -_LIKELY * k)[-_LIKELY * k :]
            likely = np.sort(likely[kept[likely]])
            floor = max(floor, self._scored(leading, asked, query, likely).certain(k))
        near = self._scored(leading, asked, query, np.flatnonzero((most >= floor) & kept))
        return near.kept(near.scores + near.errors >= floor).best(k)

    def _scored(self, leading: np.ndarray, asked: Asked | None, query: int, places: np.ndarray) -> Near:
        """Return the whole scores at some places, `(m,)`, rising."""
        scores = leading[places]
        starts = np.searchsorted(places, np.arange(len(self.packed) + 1) * _BLOCK)
        for number, block in enumerate(self.packed):
            part = slice(starts[number], starts[number + 1])
            if asked is not None and part.start < part.stop:
                scores[part] += block.others(asked, query, places[part] - number * _BLOCK)
        return Near(self.rows[places], scores, self.bounds[2][places])


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
        self._bounds = [np.zeros(64, np.float32) for _ in range(3)]
        self._alive = np.zeros(64, bool)
        self._packed: list[Codes] = []
        self._frame: Frame | None = None
        self._tail = np.zeros((64, dim), np.float32)  # what is not packed
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
        self._bounds = [_room(bound, start, end) for bound in self._bounds]
        self._tail = _room(self._tail, start - packed, end - packed)
        self._rows[start:end], self._alive[start:end] = rows, True
        margin = rounding_margin(vectors.shape[1])
        self._bound(start, (margin, 0, margin), len(rows))
        self._tail[start - packed : end - packed] = vectors
        self._place |= {row: start + i for i, row in enumerate(rows.tolist())}
        self._count = end
        if end - packed >= _BLOCK:
            self._pack()

    def _bound(self, start: int, values: Iterable[np.ndarray | float], count: int) -> None:
        for bound, value in zip(self._bounds, values, strict=True):
            bound[start : start + count] = value

    def _pack(self) -> None:
        """Make blocks of the vectors that fill some, where that makes a scan faster."""
        from textsiam.search.codes import Codes, Frame, multiplies_bytes  # torch, which a small index does without

        if not multiplies_bytes():
            return
        start = len(self._packed) * _BLOCK
        filled = (self._count - start) // _BLOCK * _BLOCK
        self._frame = self._frame or Frame(self._tail[:filled])
        for first in range(0, filled, _BLOCK):
            block = Codes(self._tail[first : first + _BLOCK], self._frame)
            # What an older view reads here grows, which lets it keep more than it has to, and nothing less.
            self._bound(start + first, (block.slack, block.length, block.errors), _BLOCK)
            self._packed.append(block)
        self._tail = self._tail[filled : self._count - start].copy()

    def _seen(self, clock: int) -> View:
        n, tail = self._count, self._tail[: self._count - len(self._packed) * _BLOCK]
        bounds, frame = tuple(bound[:n] for bound in self._bounds), self._frame
        return View(clock, self._rows[:n], (*self._packed,), frame, tail, bounds, self._alive[:n], self._changed)


def _room(array: np.ndarray, used: int, needed: int) -> np.ndarray:
    """Return the array, or a longer copy of what is used, where more is needed; older views keep the short one."""
    if needed <= len(array):
        return array
    longer = np.zeros((max(needed, 2 * len(array)), *array.shape[1:]), array.dtype)
    longer[:used] = array[:used]
    return longer
