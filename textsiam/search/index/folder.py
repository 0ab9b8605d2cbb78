"""The index in a folder: a durable table of questions, searched by an exact scan in memory.

`questions.sqlite` is the truth about questions and vectors (`textsiam.search.index.journal`): a write is acknowledged
once it is there, and the disk has it. A process that searches holds all vectors as bytes and scans these, which leaves
nothing out; what may be among the hits is scored again from the table's vectors in double precision. Whenever it looks,
it takes in what was written meanwhile, by whatever process. So that a process need not read the whole table to begin
with, `compact` writes the bytes to a file beside it (`textsiam.search.index.sidecar`).
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from textsiam.saving import whole_folder
from textsiam.search.index import journal
from textsiam.search.index.base import IndexModel, IndexStats, Question, QuestionIndexError, Where
from textsiam.search.index.durable import DurableIndex, Passing
from textsiam.search.index.in_memory_scan import Stored, View
from textsiam.search.index.journal import Journal, State, changed_since, read_state, rows_where, vectors_of
from textsiam.search.index.sidecar import merging, read_sidecar, sidecar_path, write_sidecar
from textsiam.search.index.vector_cache import VectorCache
from textsiam.whole_file import keep_on_disk

_TABLE = "questions.sqlite"
_FILTERS = 8  # filters whose matches are remembered


class FolderIndex(DurableIndex):
    """An index in a folder, for any number of processes; see `QuestionIndex` and the module.

    Any process may write at any time: writes queue up in the durable table. Only merging is for one at a time.

    Args:
        path: The folder; `FolderIndex.create` makes it.
        merge_after: `upsert` merges by itself after so many changes through this object, and so does the first search
            that would have to read more from the table; None leaves it to `compact`.

    Raises:
        QuestionIndexError: The folder holds no index.
    """

    _sql = journal

    def __init__(self, path: str | Path, *, merge_after: int | None = 50_000) -> None:
        self.path, self.location = Path(path), str(Path(path))
        self.merge_after = merge_after
        self._tables = Journal(self.path / _TABLE)
        self._written = 0
        self._counted = (-1, 0)  # at which clock, how many
        self._filters: dict[tuple[Any, ...], np.ndarray] = {}
        self._cache = VectorCache(self._stored)

    @classmethod
    def create(cls, path: str | Path, model: IndexModel, **knobs: Any) -> FolderIndex:
        """Make an empty index in a new folder.

        Raises:
            QuestionIndexError: There is something at this path.
            SaveError: The folder cannot be written.
        """
        if Path(path).exists() and (not Path(path).is_dir() or any(Path(path).iterdir())):
            raise QuestionIndexError(f"{path}: is there already: choose another place, or delete it")
        with whole_folder(path) as fresh:
            Journal.create(fresh / _TABLE, model)
        for folder in (Path(path), Path(path).resolve().parent):  # a write is durable only if its folder is
            keep_on_disk(folder)
        return cls(path, **knobs)

    def _state(self, table: sqlite3.Connection, *, lock: bool = False) -> State:
        return read_state(table)  # a writer is alone from the beginning

    def upsert(
        self, questions: Sequence[Question], vectors: np.ndarray, *, model: IndexModel, delete: Iterable[str] = ()
    ) -> int:
        """Forget, add or replace questions; see `QuestionIndex.upsert`."""
        deleted = super().upsert(questions, vectors, model=model, delete=delete)
        self._written += len(questions)
        if self.merge_after is not None and self._written > self.merge_after:
            with suppress(QuestionIndexError):  # the write is acknowledged; whoever merges now does it for us
                self.compact()
        return deleted

    def _look(self, table: sqlite3.Connection) -> tuple[State, View]:
        return self._cache.look(table)  # both as they are at the same moment

    def _near(
        self, table: Any, seen: Any, asked: np.ndarray, k: int | None, threshold: float | None, passing: Passing | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        state, view = seen
        kept = None if passing is None else self._matching(table, state.clock, *passing)
        for near in view.near(asked, k, -np.inf if threshold is None else threshold, among=kept):
            yield vectors_of(table, state, near.rows.tolist())

    def _matching(self, table: sqlite3.Connection, clock: int, clause: str, values: list[Any]) -> np.ndarray:
        """Return the rows that pass a filter; those of the latest filters are remembered until the next write."""
        asked = (clock, clause, *values)
        rows = self._filters.get(asked)
        if rows is None:
            rows = rows_where(table, clause, values)
            while len(self._filters) >= _FILTERS:
                self._filters.pop(next(iter(self._filters), asked), None)
            self._filters[asked] = rows
        return rows

    def count(self, where: Where | None = None) -> int:
        """Count the questions (that match)."""
        if where:
            return super().count(where)
        with self._tables.reading() as table:
            clock, known = read_state(table).clock, self._counted
            if known[0] != clock:
                found = table.execute("SELECT COUNT(*) FROM questions").fetchone()[0]
                self._counted = known = (clock, found)
        return known[1]

    def compact(self) -> None:
        """Write the latest changes to the file that searches begin with, and give back the space of what was deleted.

        Raises:
            QuestionIndexError: Another process is merging, or the disk is full; the index is intact.
        """
        self._merge(anew=False)

    def rebuild(self) -> None:
        """Make that file again from the durable table; see `compact`."""
        self._merge(anew=True)

    def _merge(self, *, anew: bool) -> None:
        self._written = 0
        with merging(self.path):
            with self._tables.reading() as table:
                version = self._written_sidecar(table, read_state(table), anew=anew).version
            shutil.rmtree(self.path / "lance", ignore_errors=True)  # textsiam 0.1 kept a copy of the vectors there
            for file in self.path.glob("vectors-*.safetensors"):
                if file != sidecar_path(self.path, version):
                    file.unlink()
            self._tables.shrink()

    def _written_sidecar(self, table: sqlite3.Connection, state: State, *, anew: bool) -> State:
        """Write the file as the table is at one moment; returns its state with that file."""
        if not anew and changed_since(table, state.merged) == 0 and read_sidecar(self.path, state) is not None:
            return state
        version = write_sidecar(self.path, table, state, anew=anew)
        with self._tables.writing() as now:
            found = read_state(now)
            # Otherwise another process has merged, or finished a migration, since that moment.
            if (found.generation, found.version) == (state.generation, state.version):
                now.execute("UPDATE state SET merged = ?, version = ?", (state.clock, version))
                now.execute("DELETE FROM deleted WHERE clock <= ?", (state.clock,))
        return replace(state, merged=state.clock, version=version)

    def _stored(self, table: sqlite3.Connection, state: State) -> Stored | None:
        """Return the vectors of the file; where too much is not in it yet, it is written first."""
        stored = read_sidecar(self.path, state)
        missing = changed_since(table, 0 if stored is None else stored.clock)
        if self.merge_after is not None and missing > self.merge_after:
            with suppress(QuestionIndexError), merging(self.path):
                return read_sidecar(self.path, self._written_sidecar(table, state, anew=False))
        return stored

    def snapshot(self, target: str | Path) -> str:
        """Copy the index to a new folder; the file that its searches begin with is made there.

        Raises:
            QuestionIndexError: There is something at this path.
        """
        if Path(target).exists():
            raise QuestionIndexError(f"{target}: is there already: choose another place for the snapshot")
        with whole_folder(target) as fresh:
            self._tables.copy(fresh / _TABLE)
        with closing(FolderIndex(target)) as copy:
            copy.compact()
        return str(target)

    def stats(self) -> IndexStats:
        """Count what is there."""
        with self._tables.reading() as table:
            state = read_state(table)
            questions = table.execute("SELECT COUNT(*) FROM questions").fetchone()[0]
            unmerged = changed_since(table, state.merged)
        size = sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())
        return IndexStats(self.location, "folder", state.model, questions, unmerged, size, state.next_model)
