"""The index on a server: PostgreSQL with pgvector.

A location is `postgresql://user@host/database#name`, or `postgresql://#name` with libpq's environment variables
(`PGHOST`, `PGPASSWORD` …); the name is a schema of its own, "textsiam" unless given. Writes are transactions, one after
the other: any number of processes may write.

A search with a threshold scans the table: it is complete. The best k come from an HNSW index once `compact` has made
one, with iterative scans, so that a filter does not cut them short: they may miss some, fewer as `ef_search` grows.
Before, and with `exact=True`, they come from a scan.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from textsiam.search.index import postgres_tables
from textsiam.search.index.base import IndexModel, IndexStats, QuestionIndexError, exact_similarity, rounding_margin
from textsiam.search.index.durable import DurableIndex, Passing, State
from textsiam.search.index.postgres_server import Server, checked_name
from textsiam.search.index.postgres_tables import arrays, copy_schema, create_tables, read_state

SCHEMES = ("postgresql://", "postgres://")
# Matches of a filter up to this many are compared one by one.
_FEW = 4096


class PostgresIndex(DurableIndex):
    """An index on a server; see `QuestionIndex` and the module.

    Args:
        location: The address, `postgresql://user:password@host/database#name`.
        ef_search: Candidates that HNSW looks at, 1 to 1000; at least k are.
        exact: Find the best k by a scan.
        build_memory: What the server may use to make the HNSW index; beyond that it takes many times as long.

    Raises:
        QuestionIndexError: There is no index, the server cannot be reached, or psycopg is not installed.
    """

    _sql = postgres_tables

    def __init__(self, location: str, *, ef_search: int = 200, exact: bool = False, build_memory: str = "2GB") -> None:
        if not 1 <= ef_search <= 1000:
            raise QuestionIndexError(f"ef_search must be between 1 and 1000, got {ef_search}")
        self.ef_search = ef_search
        self.exact = exact
        self.build_memory = build_memory
        self._tables = Server(location)
        self.location = self._tables.location
        with self._tables.reading() as table:
            found = table.execute("SELECT to_regclass(%s)", (f"{self._tables.name}.state",)).fetchone()
            if found[0] is None:
                raise QuestionIndexError(f"{self.location}: holds no index: make one with textsiam index create")
            read_state(table, self.location)

    @classmethod
    def create(cls, location: str, model: IndexModel, **knobs: Any) -> PostgresIndex:
        """Make an empty index: a schema of its own, and the extension pgvector where it is not there yet.

        Raises:
            QuestionIndexError: There is such an index already, or the server has no pgvector.
        """
        with closing(Server(location, typed=False)) as server:
            create_tables(server, model)
        return cls(location, **knobs)

    def _state(self, table: Any, *, lock: bool = False) -> State:
        return read_state(table, self.location, lock=lock)

    def _near(
        self, table: Any, seen: Any, asked: np.ndarray, k: int | None, threshold: float | None, passing: Passing | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        state, scan, among, values = seen[0], self.exact, "TRUE", []
        if passing is not None:
            clause, values = passing
            among = f"row IN (SELECT row FROM questions WHERE {clause})"
            few = f"SELECT COUNT(*) FROM (SELECT FROM questions WHERE {clause} LIMIT {_FEW + 1}) AS found"
            scan |= table.execute(few, values).fetchone()[0] <= _FEW
        limit = (k or 0) + 16  # a few more than k: those in double precision may be in another order
        if threshold is None:
            self._plan(table, limit, scan=scan)
        chosen, margin = f"SELECT row, vector FROM {state.vectors} WHERE {among}", rounding_margin(state.model.dim)
        for query in asked:
            rows, least = [], threshold
            if threshold is None:
                best = f"{chosen} ORDER BY vector <#> %s LIMIT {limit}"
                rows = table.execute(best, [*values, query], binary=True).fetchall()
                if scan and len(rows) == limit:  # equal ones at the end: any of them may come first
                    least = float(exact_similarity(rows[-1][1].to_numpy()[None], query)[0]) - margin
            if least is not None:
                above = f"{chosen} AND vector <#> %s <= %s"
                rows = table.execute(above, [*values, query, margin - least], binary=True).fetchall()
            yield arrays(rows, state.model.dim)

    def _plan(self, table: Any, limit: int, *, scan: bool) -> None:
        """Say how the transaction finds the nearest so many vectors."""
        if scan:
            table.execute("SET LOCAL enable_indexscan = off")
        else:
            table.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            table.execute(f"SET LOCAL hnsw.ef_search = {min(1000, max(self.ef_search, limit))}")
            table.execute(f"SET LOCAL hnsw.max_scan_tuples = {max(20_000, 4 * limit)}")

    def compact(self) -> None:
        """Make the HNSW index where there is none, and give back the space of what was deleted."""
        self._maintain(anew=False)

    def rebuild(self) -> None:
        """Make the HNSW index again from the durable table."""
        self._maintain(anew=True)

    def _maintain(self, *, anew: bool) -> None:
        with self._tables.connection() as table:
            alone = table.execute("SELECT pg_try_advisory_lock(hashtext(%s))", (self._tables.name,)).fetchone()[0]
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
                table.execute("SELECT pg_advisory_unlock(hashtext(%s))", (self._tables.name,))

    def snapshot(self, target: str | Path) -> str:
        """Copy the index to a new schema of the same database, named `target`; returns its location."""
        name = checked_name(str(target))
        with self._tables.reading() as table:  # what is copied is of one moment
            copy_schema(table, read_state(table, self.location), self._tables.name, name)
        return f"{self.location.rpartition('#')[0]}#{name}"

    def stats(self) -> IndexStats:
        """Count what is there."""
        with self._tables.reading() as table:
            state = read_state(table, self.location)
            questions = table.execute("SELECT COUNT(*) FROM questions").fetchone()[0]
            indexed = _has_hnsw(table, state.vectors)
            sizes = f"SELECT pg_total_relation_size('questions') + pg_total_relation_size('{state.vectors}')"
            size = table.execute(sizes).fetchone()[0]
        unmerged = 0 if indexed else questions
        return IndexStats(self.location, "postgres", state.model, questions, unmerged, size, state.next_model)


def _has_hnsw(table: Any, vectors: str) -> bool:
    valid = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(%s) AND indisvalid"
    return table.execute(valid, (f"{vectors}_hnsw",)).fetchone() is not None
