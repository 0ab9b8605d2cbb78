"""Vectors in memory that a search scans exactly while a writer adds to them: what a search structure lacks still."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SCORES = 32 << 20  # scores held at once, 128 MB


@dataclass(frozen=True)
class View:
    """The vectors as they are at one clock: what is added or changed later does not show.

    Attributes:
        clock: Of the last change that shows.
        rows: Row of each vector, `(n,)` int64.
        vectors: `(n, dim)` float32.
        alive: False where a newer vector, or a deletion, took the place; `(n,)` bool.
        changed: Row → clock at which it was changed first; also rows that were deleted, and later changes.
    """

    clock: int
    rows: np.ndarray
    vectors: np.ndarray
    alive: np.ndarray
    changed: dict[int, int]

    def superseded(self, row: int) -> bool:
        """Say whether what a search structure holds of a row is out of date."""
        clock = self.changed.get(row)
        return clock is not None and clock <= self.clock

    def near(
        self, queries: np.ndarray, k: int | None, floor: float, margin: float
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return, for each query, places and rough scores of all that may be among its hits.

        Args:
            queries: `(q, dim)` float32.
            k: Only what may be among the best k.
            floor: Least score; `-inf` where there is none.
            margin: By how much a score may be wrong.
        """
        found = []
        step = max(1, _SCORES // max(1, len(self.vectors)))
        for start in range(0, len(queries), step):
            part = queries[start : start + step]
            # One query is a product with a vector, which is faster as such.
            scores = part @ self.vectors.T if len(part) > 1 else (self.vectors @ part[0])[None]
            scores[:, ~self.alive] = -np.inf
            for score in scores:
                least = floor - margin
                if k is not None and k < len(score):
                    least = max(least, float(np.partition(score, -k)[-k]) - 2 * margin)
                places = np.flatnonzero((score >= least) & self.alive)
                found.append((places, score[places]))
        return found


class Recent:
    """A growing table of vectors; one thread may change it while others search its views.

    A vector is never overwritten: a changed one is added at the end and its old place dies, so that a view, which knows
    how far it reaches, stays what it was.
    """

    def __init__(self, dim: int, clock: int = 0) -> None:
        self._rows = np.zeros(64, np.int64)
        self._vectors = np.zeros((64, dim), np.float32)
        self._alive = np.ones(64, bool)
        self._place: dict[int, int] = {}
        self._changed: dict[int, int] = {}
        self._count = 0
        self.view = self._seen(clock)

    def __len__(self) -> int:
        return len(self._place)

    def apply(self, rows: np.ndarray, vectors: np.ndarray, gone: list[int], clock: int) -> None:
        """Add, replace and remove vectors by row; the view moves to this clock."""
        replaced = [self._place.pop(row) for row in (*rows.tolist(), *gone) if row in self._place]
        if replaced:
            self._alive = self._alive.copy()
            self._alive[replaced] = False
        self._reserve(self._count + len(rows))
        end = self._count + len(rows)
        self._rows[self._count : end] = rows
        self._vectors[self._count : end] = vectors
        self._place |= {row: self._count + i for i, row in enumerate(rows.tolist())}
        for row in (*rows.tolist(), *gone):
            self._changed.setdefault(row, clock)
        self._count = end
        if self._count > 1024 and len(self._place) * 2 < self._count:
            self._squeeze()
        self.view = self._seen(clock)

    def _seen(self, clock: int) -> View:
        n = self._count
        return View(clock, self._rows[:n], self._vectors[:n], self._alive[:n], self._changed)

    def _reserve(self, count: int) -> None:
        if count <= len(self._rows):
            return
        size = max(count, 2 * len(self._rows))
        rows, vectors, alive = (
            np.zeros(size, np.int64),
            np.zeros((size, self._vectors.shape[1]), np.float32),
            np.ones(size, bool),
        )
        for fresh, old in ((rows, self._rows), (vectors, self._vectors), (alive, self._alive)):
            fresh[: self._count] = old[: self._count]
        self._rows, self._vectors, self._alive = rows, vectors, alive

    def _squeeze(self) -> None:
        kept = np.flatnonzero(self._alive[: self._count])
        self._rows, self._vectors = self._rows[kept], self._vectors[kept]
        self._alive = np.ones(len(kept), bool)
        self._place = {row: i for i, row in enumerate(self._rows.tolist())}
        self._count = len(kept)
