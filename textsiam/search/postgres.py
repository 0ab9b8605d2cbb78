"""The index on a server: PostgreSQL with pgvector.

A location is `postgresql://user@host/database#name`, or `postgresql://#name` with libpq's environment variables
(`PGHOST`, `PGPASSWORD` …); the name is a schema of its own, "textsiam" unless given. Writes are transactions, one after
the other: any number of processes may write.

A search with a threshold scans the table: it is complete. The best k come from an HNSW index once `compact` has made
one, with iterative scans, so that a filter does not cut them short: they may miss some, fewer as `ef_search` grows.
Before, and with `exact=True`, they come from a scan.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np

from textsiam.search.checks import (
    check_model,
    check_questions,
    check_search,
    check_vectors,
    check_where,
    require,
)
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
from textsiam.search.postgres_tables import (
    State,
    condition,
    copy_schema,
    create_tables,
    migrate_rows,
    questions_of,
    read_state,
    write_rows,
)

SCHEMES = ("postgresql://", "postgres://")
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
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
        with self._server.transaction() as table:
            read_state(table, self.location, lock=True)
            return table.execute("DELETE FROM questions WHERE id = ANY(%s)", (list(set(ids)),)).rowcount

    def get(self, ids: Sequence[str]) -> list[Question | None]:
        """Return the question of each id, None where there is none."""
        with self._server.transaction() as table:
            rows = dict(table.execute("SELECT id, row FROM questions WHERE id = ANY(%s)", (list(ids),)).fetchall())
            found = questions_of(table, list(rows.values()))
        return [found[rows[name]] if name in rows else None for name in ids]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """Return the vector of each id, `(n, dim)` float32."""
        with self._server.transaction() as table:
            state = read_state(table, self.location)
            query = f"SELECT id, vector FROM questions JOIN {state.vectors} USING (row) WHERE id = ANY(%s)"
            found = dict(table.execute(query, (list(ids),), binary=True).fetchall())
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
        name = _checked_name(str(target))
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


class Server:
    """Connections to one schema of a database, kept for the next use.

    Args:
        location: As for `PostgresIndex`.
        typed: The extension is there, so that vectors can be sent and received.

    Attributes:
        name: The schema.
        location: The address without its password.
    """

    def __init__(self, location: str, *, typed: bool = True) -> None:
        self._psycopg = require("psycopg", "postgres")
        self._register = require("pgvector.psycopg", "postgres").register_vector
        address, _, name = location.partition("#")
        self.name = _checked_name(name or "textsiam")
        self._typed = typed
        try:
            self._facts = self._psycopg.conninfo.conninfo_to_dict(address)
        except self._psycopg.Error:
            shown = "postgresql://user@host/database#name"
            raise QuestionIndexError(f"this is no address of a PostgreSQL database, expected {shown}") from None
        self.location = _shown(self._facts, self.name)
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """Yield a connection on which every statement is a transaction of its own; it is kept if nothing fails."""
        try:
            connection = self._usable()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            with self._lock:
                self._idle.append(connection)
        except self._psycopg.Error as error:
            raise QuestionIndexError(f"{self.location}: {self._reason(error)}") from error

    @contextmanager
    def transaction(self, *, snapshot: bool = False) -> Iterator[Any]:
        """Yield a connection inside a transaction that is committed when the block ends without an error.

        Args:
            snapshot: Every statement sees the tables as they are at one moment.
        """
        with self.connection() as connection, connection.transaction():
            if snapshot:
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield connection

    def _usable(self) -> Any:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._connect()
            try:
                connection.execute("SELECT 1")
                return connection
            except self._psycopg.OperationalError:
                connection.close()  # the server was restarted since

    def _connect(self) -> Any:
        facts = {"connect_timeout": 10, "application_name": "textsiam", **self._facts}
        connection = self._psycopg.connect(**facts, autocommit=True)
        connection.execute(f'SET search_path = "{self.name}", public')
        # A commit that does not wait for the disk acknowledges what a crash may lose.
        durable = "SELECT set_config('synchronous_commit', 'on', false)"
        connection.execute(f"{durable} WHERE current_setting('synchronous_commit') = 'off'")
        if self._typed:
            try:
                self._register(connection)
            except self._psycopg.ProgrammingError:
                connection.close()
                raise QuestionIndexError(
                    f"{self.location}: holds no index: make one with textsiam index create"
                ) from None
        return connection

    def _reason(self, error: Any) -> str:
        text = (str(error).strip() or type(error).__name__).split("\n")[0]
        if isinstance(error, self._psycopg.errors.DiskFull) or "No space left" in text:
            return f"the disk of the server is full ({text}); what was there before is intact"
        return text

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()


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


def _shown(facts: dict[str, Any], name: str) -> str:
    """Return an address that opens the same index, but for its secrets."""
    told = {key: str(value) for key, value in facts.items() if "password" not in key}
    socket = told.get("host", "").startswith("/")  # a folder has no place before the database
    user, host, port = told.pop("user", ""), "" if socket else told.pop("host", ""), told.pop("port", "")
    base = f"postgresql://{user and f'{user}@'}{host}{port and f':{port}'}/{told.pop('dbname', '')}"
    query = f"?{urlencode(told, safe='/', quote_via=quote)}" if told else ""
    return f"{base}{query}#{name}"


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise QuestionIndexError(f"index name {name!r} is not made of lower-case letters, digits and _")
    return name
