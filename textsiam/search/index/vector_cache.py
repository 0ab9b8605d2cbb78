"""The vectors that a process holds of a durable table, brought up to date whenever somebody looks."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable

import numpy as np

from textsiam.search.index.in_memory_scan import InMemoryScan, Stored, View
from textsiam.search.index.journal import State, changes_since, deleted_since, read_state, rows_where


class VectorCache:
    """All vectors of a table, in memory.

    Args:
        begin: Returns what there is to begin with, of the table at one moment, whose state it is given.
    """

    def __init__(self, begin: Callable[[sqlite3.Connection, State], Stored | None]) -> None:
        self._begin = begin
        self._lock = threading.Lock()
        self._generation = -1
        self._vectors = InMemoryScan(0)

    def look(self, table: sqlite3.Connection) -> tuple[State, View]:
        """Return what the table says of itself, and the vectors as they are at that same moment.

        Args:
            table: A connection that sees the table at one moment, which is that of its first read.
        """
        with self._lock:  # no other thread may move the vectors beyond this moment
            state = read_state(table)
            if self._vectors.wasteful or state.generation != self._generation:
                self._vectors = InMemoryScan(state.model.dim, self._begin(table, state))
                self._generation = state.generation
                if self._vectors.view.clock < state.clock:
                    self._follow(table, state)
                if self._vectors.wasteful:  # most of what is stored was deleted or changed
                    self._vectors = InMemoryScan(state.model.dim)
            if self._vectors.view.clock < state.clock:
                self._follow(table, state)
            return state, self._vectors.view

    def _follow(self, table: sqlite3.Connection, state: State) -> None:
        held = self._vectors
        since = held.view.clock
        if since < state.merged and len(held.rows):  # a merge forgets what was deleted before it
            gone = np.setdiff1d(held.rows, rows_where(table))
        else:
            gone = deleted_since(table, since)
        held.apply(changes_since(table, state, since), gone, state.clock)
