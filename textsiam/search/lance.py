"""The index in a folder: a durable table of questions, and LanceDB to search what is merged.

`questions.sqlite` is the truth about questions and vectors (`textsiam.search.journal`): a write is acknowledged once it
is there, and the disk has it. LanceDB never syncs its files, so it holds nothing that could be lost: `lance/` is a copy
of the vectors up to one clock, made to be searched, that `compact` brings up to date and `rebuild` makes anew. Changes
after that clock are held in memory and scanned exactly, so that every search sees the newest acknowledged write.

LanceDB's index is IVF_FLAT over float32 vectors. With every partition probed, as is the default, it leaves nothing out:
searches are exact. With fewer `probes`, the best k may miss some; a search with a threshold still probes all of them.
A process that answers many searches can hold all vectors in memory, as bytes, and scan these; that is exact too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from textsiam.models.saving import whole_folder
from textsiam.search.checks import check_model, check_questions, check_search, check_vectors, check_where
from textsiam.search.held import Held
from textsiam.search.index import (
    Encode,
    Hit,
    IndexModel,
    IndexStats,
    Progress,
    Question,
    QuestionIndexError,
    Where,
    exact_similarity,
    rank,
    rounding_margin,
)
from textsiam.search.journal import (
    Journal,
    State,
    condition,
    delete_rows,
    questions_of,
    read_state,
    rows_of,
    vectors_of,
    write_rows,
)
from textsiam.search.lance_table import LanceTable, lancedb, merge_reported, merging_alone
from textsiam.search.migration import migrate_rows
from textsiam.search.resident import View

_TABLE = "questions.sqlite"
# So few questions that match a filter are compared one by one rather than looked for among all.
_FEW = 4096
_FILTERS = 8  # filters whose matches are remembered


class LanceIndex:
    """An index in a folder, for any number of processes; see `QuestionIndex` and the module.

    Any process may write at any time: writes queue up in the durable table. Only merging is for one at a time.

    Args:
        path: The folder; `LanceIndex.create` makes it.
        probes: Partitions that a search for the best k looks into; None takes all, which is exact.
        merge_after: `upsert` merges by itself after so many changes through this object; None leaves it to `compact`.
        resident: Hold all vectors in memory and scan these instead of LanceDB's files, which is exact as well: for a
            process that answers many searches. Takes a byte for each number of a vector, and reads them all once.

    Raises:
        QuestionIndexError: The folder holds no index, or lancedb is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        probes: int | None = None,
        merge_after: int | None = 100_000,
        resident: bool = False,
    ) -> None:
        self.path = Path(path)
        if probes is not None and probes < 1:
            raise QuestionIndexError(f"probes must be >= 1, got {probes}")
        self.probes = probes
        self.merge_after = merge_after
        self.resident = resident
        self._journal = Journal(self.path / _TABLE)
        self._lance = LanceTable(self.path / "lance")
        self._written = 0
        self._counted = (-1, 0)  # at which clock, how many
        self._filters: dict[tuple[Any, ...], tuple[int, set[int]]] = {}
        with self._journal.reading() as table:
            self._held = Held(read_state(table), everything=resident)
            if resident:
                self._held.look(table)

    @classmethod
    def create(cls, path: str | Path, model: IndexModel, **knobs: Any) -> LanceIndex:
        """Make an empty index in a new folder.

        Raises:
            QuestionIndexError: There is something at this path, or lancedb is not installed.
            SaveError: The folder cannot be written.
        """
        lancedb()
        if Path(path).exists() and (not Path(path).is_dir() or any(Path(path).iterdir())):
            raise QuestionIndexError(f"{path}: is there already: choose another place, or delete it")
        with whole_folder(path) as fresh:
            Journal.create(fresh / _TABLE, model)
        for folder in (Path(path), Path(path).resolve().parent):  # a write is durable only if its folder is
            descriptor = os.open(folder, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        return cls(path, **knobs)

    @property
    def location(self) -> str:
        """The folder."""
        return str(self.path)

    @property
    def model(self) -> IndexModel:
        """Whose vectors it serves now."""
        with self._journal.reading() as table:
            return read_state(table).model

    def upsert(self, questions: Sequence[Question], vectors: np.ndarray, *, model: IndexModel) -> None:
        """Add or replace questions; see `QuestionIndex.upsert`."""
        with self._journal.writing() as table:
            state = read_state(table)
            check_model(self.location, state.model, model)
            if len(questions) == 0:
                return
            write_rows(table, state, questions, check_questions(questions, vectors, model.dim))
        self._merge_when_due(len(questions))

    def _merge_when_due(self, written: int) -> None:
        if self.merge_after is None:
            return
        self._written += written
        if self._written > self.merge_after:
            self._written = 0
            with suppress(QuestionIndexError):  # the write is acknowledged; whoever merges now does it for us
                self.compact()

    def delete(self, ids: Iterable[str]) -> int:
        """Forget questions; returns how many were there."""
        with self._journal.writing() as table:
            return delete_rows(table, read_state(table), ids)

    def get(self, ids: Sequence[str]) -> list[Question | None]:
        """Return the question of each id, None where there is none."""
        with self._journal.reading() as table:
            rows = rows_of(table, ids)
            found = questions_of(table, rows.values())
        return [found[rows[name]] if name in rows else None for name in ids]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """Return the vector of each id, `(n, dim)` float32."""
        with self._journal.reading() as table:
            place = rows_of(table, ids)
            if missing := [name for name in ids if name not in place]:
                raise QuestionIndexError(f"{self.location}: there is no question {missing[0]!r}")
            rows, vectors = vectors_of(table, read_state(table), place.values())
        return vectors[np.searchsorted(rows, np.array([place[name] for name in ids], np.int64))]

    def search(
        self,
        queries: np.ndarray,
        *,
        model: IndexModel,
        k: int | None = None,
        threshold: float | None = None,
        where: Where | None = None,
    ) -> list[list[Hit]]:
        """Find the most similar questions; see `QuestionIndex.search`, and the module for what is exact."""
        check_search(k, threshold)
        clause, values = condition(check_where(where))
        with self._snapshot() as (table, state, view):
            check_model(self.location, state.model, model)
            asked = check_vectors(queries, model.dim)
            few: np.ndarray | None = None
            kept: set[int] | None = None
            if where:
                kept = self._matching(table, state.clock, clause, values)
                few = np.array(sorted(kept), np.int64) if len(kept) <= _FEW else None
            if few is not None:
                candidates = [few] * len(asked)
            else:
                candidates = self._candidates(state, view, asked, k, threshold, kept)
            return [
                self._ranked(table, state, query, rows, k, threshold)
                for query, rows in zip(asked, candidates, strict=True)
            ]

    def _matching(self, table: Any, clock: int, clause: str, values: list[Any]) -> set[int]:
        """Return the rows that pass a filter; those of the latest filters are remembered until the next write."""
        asked = (clause, *values)
        known = self._filters.get(asked)
        if known is None or known[0] != clock:
            rows = {row for (row,) in table.execute(f"SELECT row FROM questions WHERE {clause}", values)}
            while len(self._filters) >= _FILTERS:
                self._filters.pop(next(iter(self._filters), asked), None)
            self._filters[asked] = known = (clock, rows)
        return known[1]

    def _candidates(
        self, state: State, view: View, asked: np.ndarray, k: int | None, threshold: float | None, kept: set[int] | None
    ) -> list[np.ndarray]:
        """Return the rows that may be among the hits of each query, and few others."""
        error = rounding_margin(state.model.dim) + 1e-6  # LanceDB's distance 1 - s is rounded once more
        floor = -np.inf if threshold is None else threshold
        recent = view.near(asked, k, floor, among=kept)
        found = []
        for query, near in zip(asked, recent, strict=True):
            if state.version and not self.resident:

                def current(row: int) -> bool:
                    return not view.superseded(row) and (kept is None or row in kept)

                probes = self.probes if threshold is None else None
                near = near.joined(self._lance.near(state, query, k, floor, error, probes, current))
            found.append(near.best(k).rows)
        return found

    def _ranked(
        self, table: Any, state: State, query: np.ndarray, rows: np.ndarray, k: int | None, threshold: float | None
    ) -> list[Hit]:
        rows, vectors = vectors_of(table, state, rows.tolist())
        similarity = exact_similarity(vectors, query)
        best = rank(similarity, k, threshold)
        questions = questions_of(table, rows[best].tolist())
        return [Hit(questions[int(rows[i])], float(similarity[i])) for i in best]

    @contextmanager
    def _snapshot(self) -> Iterator[tuple[Any, State, View]]:
        """Yield the table at one moment, its state, and the vectors in memory as they are at that same moment."""
        with self._journal.reading() as table:
            state, view = self._held.look(table)
            yield table, state, view

    def count(self, where: Where | None = None) -> int:
        """Count the questions (that match)."""
        clause, values = condition(check_where(where))
        with self._journal.reading() as table:
            clock, known = read_state(table).clock, self._counted
            if not where and known[0] == clock:
                return known[1]
            found = table.execute(f"SELECT COUNT(*) FROM questions WHERE {clause}", values).fetchone()[0]
        if not where:
            self._counted = (clock, found)
        return found

    def compact(self) -> None:
        """Merge what waits in memory into LanceDB's files, and give back the space of what was deleted.

        Raises:
            QuestionIndexError: Another process is merging, or the disk is full; the index is intact.
        """
        self._merge(anew=False)

    def rebuild(self) -> None:
        """Make LanceDB's files again from the durable table; see `compact`."""
        self._merge(anew=True)

    def _merge(self, *, anew: bool) -> None:
        self._written = 0
        with merging_alone(self.path), merge_reported(self.path):
            if anew:
                with self._journal.writing() as table:  # so that no process takes the new copy for the old one
                    table.execute("UPDATE state SET clock = clock + 1")
            with self._journal.reading() as table:
                state = read_state(table)
                version = self._lance.merge(table, replace(state, version=0) if anew else state)
            with self._journal.writing() as table:
                now = read_state(table)
                if now.generation != state.generation:
                    return  # a migration was finished meanwhile: these vectors are nobody's
                table.execute("UPDATE state SET merged = ?, version = ?", (state.clock, version))
                table.execute("DELETE FROM deleted WHERE clock <= ?", (state.clock,))
            self._lance.close()
            self._lance.clean(state)
            self._journal.shrink()

    def migrate(self, model: IndexModel, encode: Encode, *, progress: Progress | None = None) -> None:
        """Encode every question with another model, then switch and merge; see `QuestionIndex.migrate`."""
        migrate_rows(self._journal, model, encode, progress)
        self.compact()

    def snapshot(self, target: str | Path) -> str:
        """Copy the index to a new folder; LanceDB's files are made there from the copy.

        Raises:
            QuestionIndexError: There is something at this path.
        """
        if Path(target).exists():
            raise QuestionIndexError(f"{target}: is there already: choose another place for the snapshot")
        with whole_folder(target) as fresh:
            self._journal.copy(fresh / _TABLE)
        copy = LanceIndex(target)
        try:
            copy.compact()
        finally:
            copy.close()
        return str(target)

    def stats(self) -> IndexStats:
        """Count what is there."""
        with self._journal.reading() as table:
            state = read_state(table)
            questions = table.execute("SELECT COUNT(*) FROM questions").fetchone()[0]
            changed = table.execute("SELECT COUNT(*) FROM questions WHERE clock > ?", (state.merged,)).fetchone()[0]
            gone = table.execute("SELECT COUNT(*) FROM deleted WHERE clock > ?", (state.merged,)).fetchone()[0]
        size = sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())
        return IndexStats(self.location, "lance", state.model, questions, changed + gone, size, state.next_model)

    def close(self) -> None:
        """Let go of files and connections."""
        self._journal.close()
        self._lance.close()
