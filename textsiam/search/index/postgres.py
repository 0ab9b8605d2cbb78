"""The index on a server: PostgreSQL with pgvector.

A location is `postgresql://user@host/database#name`, or `postgresql://#name` with libpq's environment variables
(`PGHOST`, `PGPASSWORD` …); the name is a schema of its own, "textsiam" unless given. Writes are transactions, one after
the other: any number of processes may write.

A search with a threshold scans the table: it is complete. The best k come from an HNSW index once `compact` has made
one, with iterative scans, so that a filter does not cut them short: they may miss some, fewer as `ef_search` grows.
Before, and with `exact=True`, they come from a scan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textsiam.search.index.base import (
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
from textsiam.search.index.postgres_server import Server, checked_name
from textsiam.search.index.postgres_tables import (
    State,
    condition,
    copy_schema,
    create_tables,
    migrate_rows,
    questions_of,
    read_state,
    write_rows,
)
from textsiam.search.index.validation import (
    check_ids,
    check_model,
    check_questions,
    check_search,
    check_vectors,
    check_where,
)

SCHEMES = ("postgresql://", "postgres://")
# Matches of a filter up to this many are compared one by one.
_FEW = 4096


class PostgresIndex:
    """An index on a server; see `QuestionIndex` and the module.

    Args:
        location: The address, `postgresql://user:password@host/database#name`.
        ef_search: Candidates that HNSW looks at, 1 to 1000; at least k are.
        exact: Find the best k by a scan.
        build_memory: What the server may use to make the HNSW index; beyond that it takes many times as long.

    Raises:
        QuestionIndexError: There is no index, the server cannot be reached, or psycopg is not installed.
    """

    def __init__(self, location: str, *, ef_search: int = 200, exact: bool = False, build_memory: str = "2GB") -> None:
        if not 1 <= ef_search <= 1000:
            raise QuestionIndexError(f"ef_search must be between 1 and 1000, got {ef_search}")
        self.ef_search = ef_search
        self.exact = exact
        self.build_memory = build_memory
        self._server = Server(location)
        with self._server.transaction() as table:
            found = table.execute("SELECT to_regclass(%s)", (f"{self._server.name}.state",)).fetchone()
            if found[0] is None:
                raise QuestionIndexError(f"{self.location}: holds no index: make one with textsiam index create")
            read_state(table, self.location)

    @classmethod
    def create(cls, location: str, model: IndexModel, **knobs: Any) -> PostgresIndex:
        """Make an empty index: a schema of its own, and the extension pgvector where it is not there yet.

        Raises:
            QuestionIndexError: There is such an index already, or the server has no pgvector.
        """
        server = Server(location, typed=False)
        try:
            create_tables(server, model)
        finally:
            server.close()
        return cls(location, **knobs)

    @property
    def location(self) -> str:
        """The address, without the password."""
        return self._server.location

    @property
    def model(self) -> IndexModel:
        """Whose vectors it serves now."""
        with self._server.transaction() as table:
            return read_state(table, self.location).model

    def upsert(self, questions: Sequence[Question], vectors: np.ndarray, *, model: IndexModel) -> None:
        """Add or replace questions; see `QuestionIndex.upsert`."""
        with self._server.transaction() as table:
            state = read_state(table, self.location, lock=True)
            check_model(self.location, state.model, model)
            if len(questions) > 0:
                write_rows(table, state, questions, check_questions(questions, vectors, model.dim))

    def delete(self, ids: Iterable[str]) -> int:
        """Forget questions; returns how many were there."""
        unique = list(set(check_ids(ids)))
        with self._server.transaction() as table:
            read_state(table, self.location, lock=True)
            return table.execute("DELETE FROM questions WHERE id = ANY(%s)", (unique,)).rowcount

    def get(self, ids: Sequence[str]) -> list[Question | None]:
        """Return the question of each id, None where there is none."""
        ids = check_ids(ids)
        with self._server.transaction() as table:
            rows = dict(table.execute("SELECT id, row FROM questions WHERE id = ANY(%s)", (ids,)).fetchall())
            found = questions_of(table, list(rows.values()))
        return [found[rows[name]] if name in rows else None for name in ids]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """Return the vector of each id, `(n, dim)` float32."""
        ids = check_ids(ids)
        with self._server.transaction() as table:
            state = read_state(table, self.location)
            query = f"SELECT id, vector FROM questions JOIN {state.vectors} USING (row) WHERE id = ANY(%s)"
            found = dict(table.execute(query, (ids,), binary=True).fetchall())
        if missing := [name for name in ids if name not in found]:
            raise QuestionIndexError(f"{self.location}: there is no question {missing[0]!r}")
        return _stacked([found[name] for name in ids], state.model.dim)

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
        with self._server.transaction(snapshot=True) as table:
            state = read_state(table, self.location)
            check_model(self.location, state.model, model)
            asked = check_vectors(queries, model.dim)
            among = f"row IN (SELECT row FROM questions WHERE {clause})" if where else "TRUE"
            scan = self.exact
            if where:
                few = f"SELECT COUNT(*) FROM (SELECT FROM questions WHERE {clause} LIMIT {_FEW + 1}) AS found"
                scan |= table.execute(few, values).fetchone()[0] <= _FEW
            found = []
            for query in asked:
                if threshold is None:
                    assert k is not None
                    rows = self._best(table, state, query, k, among, values, scan=scan)
                else:
                    most = rounding_margin(state.model.dim) - threshold
                    above = f"SELECT row, vector FROM {state.vectors} WHERE vector <#> %s <= %s AND {among}"
                    rows = table.execute(above, [query, most, *values], binary=True).fetchall()
                found.append(_ranked(table, query, sorted(rows, key=lambda row: row[0]), k, threshold))
            return found

    def _best(
        self, table: Any, state: State, query: np.ndarray, k: int, among: str, values: list[Any], *, scan: bool
    ) -> list[Any]:
        """Return rows and vectors of the best k, and a few more: those in double precision may be in another order."""
        limit = k + 16
        nearest = f"SELECT row, vector FROM {state.vectors} WHERE {among} ORDER BY vector <#> %s LIMIT {limit}"
        if scan:
            table.execute("SET LOCAL enable_indexscan = off")
        else:
            table.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            table.execute(f"SET LOCAL hnsw.ef_search = {min(1000, max(self.ef_search, limit))}")
            table.execute(f"SET LOCAL hnsw.max_scan_tuples = {max(20_000, 4 * limit)}")
        found = table.execute(nearest, [*values, query], binary=True).fetchall()
        if scan and len(found) == limit:  # equal ones at the end: any of them may come first
            last = float(exact_similarity(_stacked([found[-1][1]], len(query)), query)[0]) - 2 * rounding_margin(
                len(query)
            )
            again = f"SELECT row, vector FROM {state.vectors} WHERE vector <#> %s <= %s AND {among}"
            found = table.execute(again, [query, -last, *values], binary=True).fetchall()
        return found

    def count(self, where: Where | None = None) -> int:
        """Count the questions (that match)."""
        clause, values = condition(check_where(where))
        with self._server.transaction() as table:
            return table.execute(f"SELECT COUNT(*) FROM questions WHERE {clause}", values).fetchone()[0]

    def compact(self) -> None:
        """Make the HNSW index where there is none, and give back the space of what was deleted."""
        self._maintain(anew=False)

    def rebuild(self) -> None:
        """Make the HNSW index again from the durable table."""
        self._maintain(anew=True)

    def _maintain(self, *, anew: bool) -> None:
        with self._server.connection() as table:
            alone = table.execute("SELECT pg_try_advisory_lock(hashtext(%s))", (self._server.name,)).fetchone()[0]
            if not alone:
                raise QuestionIndexError(f"{self.location}: another process is compacting: wait for it")
            try:
                vectors = read_state(table, self.location).vectors
                if anew or not _has_hnsw(table, vectors):
                    table.execute("SELECT set_config('maintenance_work_mem', %s, false)", (self.build_memory,))
                    table.execute("SET max_parallel_maintenance_workers = 0")  # containers lack the shared memory
                    # Searches and writes go on meanwhile. What a broken off one left behind is of no use.
                    table.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {vectors}_hnsw")
                    made = f"{vectors}_hnsw ON {vectors} USING hnsw (vector vector_ip_ops)"
                    table.execute(f"CREATE INDEX CONCURRENTLY {made}")
                table.execute(f"VACUUM (ANALYZE) questions, {vectors}")
            finally:
                table.execute("SELECT pg_advisory_unlock(hashtext(%s))", (self._server.name,))

    def migrate(self, model: IndexModel, encode: Encode, *, progress: Progress | None = None) -> None:
        """Encode every question with another model, then switch and index; see `QuestionIndex.migrate`."""
        migrate_rows(self._server, model, encode, progress)
        self.compact()

    def snapshot(self, target: str | Path) -> str:
        """Copy the index to a new schema of the same database, named `target`; returns its location."""
        name = checked_name(str(target))
        with self._server.transaction(snapshot=True) as table:
            copy_schema(table, read_state(table, self.location), self._server.name, name)
        return f"{self.location.rpartition('#')[0]}#{name}"

    def stats(self) -> IndexStats:
        """Count what is there."""
        with self._server.transaction() as table:
            state = read_state(table, self.location)
            questions = table.execute("SELECT COUNT(*) FROM questions").fetchone()[0]
            indexed = _has_hnsw(table, state.vectors)
            sizes = f"SELECT pg_total_relation_size('questions') + pg_total_relation_size('{state.vectors}')"
            size = table.execute(sizes).fetchone()[0]
        unmerged = 0 if indexed else questions
        return IndexStats(self.location, "postgres", state.model, questions, unmerged, size, state.next_model)

    def close(self) -> None:
        """Close the connections."""
        self._server.close()


def _ranked(table: Any, query: np.ndarray, rows: list[Any], k: int | None, threshold: float | None) -> list[Hit]:
    similarity = exact_similarity(_stacked([vector for _, vector in rows], len(query)), query)
    best = rank(similarity, k, threshold)
    questions = questions_of(table, [rows[i][0] for i in best])
    return [Hit(questions[rows[i][0]], float(similarity[i])) for i in best]


def _has_hnsw(table: Any, vectors: str) -> bool:
    valid = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(%s) AND indisvalid"
    return table.execute(valid, (f"{vectors}_hnsw",)).fetchone() is not None


def _stacked(vectors: list[Any], dim: int) -> np.ndarray:
    if not vectors:
        return np.zeros((0, dim), np.float32)
    return np.stack([vector.to_numpy() for vector in vectors]).astype(np.float32)
