"""The vectors that a process holds of a durable table, brought up to date whenever somebody looks."""

from __future__ import annotations

import sqlite3
import threading

from textsiam.search.journal import State, all_rows, changes_since, deleted_since, read_state
from textsiam.search.lance_table import same_copy
from textsiam.search.resident import Resident, View


class Held:
    """Vectors in memory: those that the search structure lacks still, or all.

    Args:
        state: What the table says of itself.
        everything: Hold all vectors, whatever the search structure has.
    """

    def __init__(self, state: State, *, everything: bool) -> None:
        self._state, self._everything = state, everything
        self._lock = threading.Lock()
        self._vectors = Resident(state.model.dim, alone=everything)

    def look(self, table: sqlite3.Connection) -> tuple[State, View]:
        """Return what the table says of itself, and the vectors as they are at that same moment.

        Args:
            table: A connection that sees the table at one moment, which is that of its first read.
        """
        with self._lock:  # no other thread may move the vectors beyond this moment
            state = read_state(table)
            moved = not self._everything and not same_copy(state, self._state)
            if moved or self._vectors.wasteful or state.generation != self._state.generation:
                self._vectors = Resident(state.model.dim, alone=self._everything)
            if self._vectors.view.clock < state.clock:
                self._follow(table, state)
            self._state = state
            return state, self._vectors.view

    def _follow(self, table: sqlite3.Connection, state: State) -> None:
        held = self._vectors
        since = held.view.clock if self._everything else max(held.view.clock, state.merged)
        if since < state.merged and held.rows:  # a merge forgets what was deleted before it
            gone = sorted(set(held.rows) - all_rows(table))
        else:
            gone = deleted_since(table, since)
        held.apply(changes_since(table, state, since), gone, state.clock)
