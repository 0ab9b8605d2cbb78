"""An index whose questions and vectors stand in the tables of a database: what SQLite and PostgreSQL have in common.

Each model has a table of vectors: `vectors_1` is served until a migration has filled `vectors_2`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import numpy as np

from textsiam.search.index.base import (
    Encode,
    Hit,
    IndexModel,
    Progress,
    Question,
    QuestionIndexError,
    Where,
    exact_similarity,
    rank,
)
from textsiam.search.index.validation import (
    check_ids,
    check_model,
    check_questions,
    check_search,
    check_vectors,
    check_where,
)

_ENCODED = 1024  # questions that a migration encodes at once
_MISSING = "NOT EXISTS (SELECT 1 FROM vectors_{} AS v WHERE v.row = questions.row)"

Passing = tuple[str, list[Any]]
"""A filter as SQL, and its values."""


@dataclass(frozen=True)
class State:
    """Which table of vectors is served, what made them, and what makes the next ones during a migration."""

    generation: int
    model: IndexModel
    next_model: IndexModel | None

    @property
    def vectors(self) -> str:
        """The table that is served."""
        return f"vectors_{self.generation}"

    @property
    def next_vectors(self) -> str:
        """The table that a migration fills."""
        return f"vectors_{self.generation + 1}"


class DurableIndex(ABC):
    """What an index in tables does, whatever the database; see `QuestionIndex`.

    Attributes:
        location: Where it is; without a password.
        _tables: Gives connections in a transaction, for `reading()` at one moment and for `writing()`.
        _sql: The module with what is said to this database: `textsiam.search.index.journal` or `postgres_tables`.
    """

    location: str
    _tables: Any
    _sql: ModuleType

    @abstractmethod
    def _state(self, table: Any, *, lock: bool = False) -> State:
        """Return what is served; with the lock, no other writer may change anything before the transaction ends."""

    def _look(self, table: Any) -> tuple[Any, Any]:
        """Return the state, and what the process holds of the vectors at that moment."""
        return self._state(table), None

    @abstractmethod
    def _near(
        self, table: Any, seen: Any, asked: np.ndarray, k: int | None, threshold: float | None, passing: Passing | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield, for each query, rows and vectors of all that may be among its hits, in order of rows.

        Args:
            table: A connection that sees the tables at one moment.
            seen: What `_look` returned then.
            asked: Queries, `(q, dim)` float32.
            k: As for `QuestionIndex.search`.
            threshold: As for `QuestionIndex.search`.
            passing: The filter; None where all questions pass.
        """

    @abstractmethod
    def compact(self) -> None:
        """See `QuestionIndex.compact`."""

    @property
    def model(self) -> IndexModel:
        """Whose vectors it serves now."""
        with self._tables.reading() as table:
            return self._state(table).model

    def upsert(
        self, questions: Sequence[Question], vectors: np.ndarray, *, model: IndexModel, delete: Iterable[str] = ()
    ) -> int:
        """Forget, add or replace questions; see `QuestionIndex.upsert`."""
        unique = set(check_ids(delete))
        with self._tables.writing() as table:
            state = self._state(table, lock=True)
            check_model(self.location, state.model, model)
            deleted = self._sql.delete_rows(table, state, unique) if unique else 0
            if len(questions) > 0:
                self._sql.write_rows(table, state, questions, check_questions(questions, vectors, model.dim))
        return deleted

    def delete(self, ids: Iterable[str]) -> int:
        """Forget questions; returns how many were there."""
        unique = set(check_ids(ids))
        with self._tables.writing() as table:
            return self._sql.delete_rows(table, self._state(table, lock=True), unique)

    def get(self, ids: Sequence[str]) -> list[Question | None]:
        """Return the question of each id, None where there is none."""
        ids = check_ids(ids)
        with self._tables.reading() as table:
            rows = self._sql.rows_of(table, ids)
            found = self._sql.questions_of(table, rows.values())
        return [found[rows[name]] if name in rows else None for name in ids]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """Return the vector of each id, `(n, dim)` float32."""
        ids = check_ids(ids)
        with self._tables.reading() as table:
            place = self._sql.rows_of(table, ids)
            if missing := [name for name in ids if name not in place]:
                raise QuestionIndexError(f"{self.location}: there is no question {missing[0]!r}")
            rows, vectors = self._sql.vectors_of(table, self._state(table), place.values())
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
        """Find the most similar questions; see `QuestionIndex.search`, and the backend's module for what is exact."""
        check_search(k, threshold)
        allowed = check_where(where)
        with self._tables.reading() as table:
            seen = self._look(table)
            check_model(self.location, seen[0].model, model)
            asked = check_vectors(queries, model.dim)
            near = self._near(table, seen, asked, k, threshold, self._sql.condition(allowed) if allowed else None)
            hits = []
            for query, (rows, vectors) in zip(asked, near, strict=True):
                similarity = exact_similarity(vectors, query)
                best = rank(similarity, k, threshold)
                questions = self._sql.questions_of(table, rows[best].tolist())
                hits.append([Hit(questions[int(rows[i])], float(similarity[i])) for i in best])
            return hits

    def count(self, where: Where | None = None) -> int:
        """Count the questions (that match)."""
        clause, values = self._sql.condition(check_where(where))
        with self._tables.reading() as table:
            return table.execute(f"SELECT COUNT(*) FROM questions WHERE {clause}", values).fetchone()[0]

    def migrate(self, model: IndexModel, encode: Encode, *, progress: Progress | None = None) -> None:
        """Encode every question with another model, then switch and compact; see `QuestionIndex.migrate`."""
        migrate_rows(self, model, encode, progress)
        self.compact()

    def close(self) -> None:
        """Let go of files and connections."""
        self._tables.close()


def migrate_rows(index: DurableIndex, model: IndexModel, encode: Encode, progress: Progress | None) -> None:
    """Encode every question into the next table of vectors, then switch to it; see `QuestionIndex.migrate`."""
    tables, sql = index._tables, index._sql
    with tables.reading() as table:
        begun = index._state(table).next_model == model
        some = [text for (text,) in table.execute("SELECT text FROM questions LIMIT 1").fetchall()]
    if some and not begun:  # a model that cannot read the questions leaves nothing begun
        check_vectors(encode(some), model.dim, some)
    with tables.writing() as table:
        state = index._state(table, lock=True)
        following = state.generation + 1
        if state.next_model != model:
            table.execute(f"DROP TABLE IF EXISTS {state.next_vectors}")
            sql.create_vectors(table, state.next_vectors, model.dim)
            table.execute(f"UPDATE state SET next_model = {sql.MARK}", (json.dumps(asdict(model)),))
    # A question whose text was changed meanwhile, or that was deleted, is left out.
    add = (
        f"INSERT INTO vectors_{following} SELECT row, {sql.MARK} FROM questions WHERE row = {sql.MARK}"
        f" AND text = {sql.MARK} ON CONFLICT DO NOTHING"
    )
    while not _switched(index, following, model):
        last = 0
        while True:
            with tables.reading() as table:
                due = table.execute(
                    f"SELECT row, text FROM questions WHERE row > {last} AND {_MISSING.format(following)}"
                    f" ORDER BY row LIMIT {_ENCODED}"
                ).fetchall()
                done, total = (
                    table.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0]
                    for name in (f"vectors_{following}", "questions")
                )
            if not due:
                break
            last, texts = due[-1][0], [text for _, text in due]
            vectors = check_vectors(encode(texts), model.dim, texts)
            with tables.writing() as table:
                _same_migration(index, table, following, model)
                table.cursor().executemany(add, [(v, *row) for v, row in zip(vectors, due, strict=True)])
            if progress is not None:
                progress(min(done + len(due), total), total)


def _switched(index: DurableIndex, following: int, model: IndexModel) -> bool:
    """Serve the next table, if every question has its vector there."""
    with index._tables.writing() as table:
        _same_migration(index, table, following, model)
        if table.execute(f"SELECT 1 FROM questions WHERE {_MISSING.format(following)} LIMIT 1").fetchone():
            return False
        table.execute(f"DROP TABLE vectors_{following - 1}")
        index._sql.serve_next(table, following)
    return True


def _same_migration(index: DurableIndex, table: Any, following: int, model: IndexModel) -> None:
    state = index._state(table, lock=True)
    if state.generation + 1 != following or state.next_model != model:
        raise QuestionIndexError(f"{index.location}: another migration took over; its model is {state.next_model}")
