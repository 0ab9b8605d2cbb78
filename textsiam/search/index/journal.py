"""The durable table of an index in a folder: questions and vectors in one SQLite file, the truth about both.

A write is one transaction in write-ahead mode with `synchronous = FULL`: once it has returned, it is on the disk. Every
write moves the clock; a row that was changed bears the clock of its last change, so that whoever has seen the table at
one clock reads only what came after. Several processes may write; SQLite lets one after the other.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textsiam.search.index import durable
from textsiam.search.index.base import IndexModel, Question, QuestionIndexError, Scalar, packed
from textsiam.search.index.validation import off_length
from textsiam.whole_file import file_identity

_FORMAT = 1
MARK = "?"
"""Stands for a value in a statement."""
_BATCH = 8192  # vectors read at once
_WAIT = 60.0  # seconds that a writer waits for another one
# KiB of pages that a connection keeps. Each thread that reads has a connection, and the system keeps the file in memory
# as well: more is for large changes only, which would be written twice.
_IDLE, _WRITING = 2_000, 65_536

_TABLES = """
CREATE TABLE state (format INTEGER, clock INTEGER, generation INTEGER, model TEXT, next_model TEXT, merged INTEGER,
                    version INTEGER);
CREATE TABLE questions (row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL,
                        metadata TEXT NOT NULL, clock INTEGER NOT NULL);
CREATE INDEX questions_by_clock ON questions (clock);
CREATE TABLE deleted (row INTEGER PRIMARY KEY, clock INTEGER NOT NULL);
"""


@dataclass(frozen=True)
class State(durable.State):
    """What the table says of itself.

    Attributes:
        clock: Of the last write.
        merged: Up to which clock the file of vectors holds everything, and deletions are forgotten.
        version: Names that file (`textsiam.search.index.sidecar`), below 0. Numbers above are those of textsiam 0.1,
            whose file this one does not read; nor is there one at 0.
    """

    clock: int
    merged: int
    version: int


class Journal:
    """The durable table; see the module.

    Args:
        path: The SQLite file.

    Raises:
        QuestionIndexError: It is no such file, or a newer version of textsiam wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        if not path.is_file():
            raise QuestionIndexError(f"{path.parent}: holds no index: make one with textsiam index create")
        self._file = file_identity(path)
        with self.reading() as table:
            try:
                found = table.execute("SELECT format FROM state").fetchone()[0]
            except sqlite3.Error as error:
                raise QuestionIndexError(f"{path}: is no index of questions: {error}") from error
        if found != _FORMAT:
            raise QuestionIndexError(f"{path}: format is {found}, this version reads {_FORMAT}: update textsiam")

    @staticmethod
    def create(path: Path, model: IndexModel) -> None:
        """Make an empty table at a path where there is none."""
        with closing(sqlite3.connect(path)) as table:
            table.execute("PRAGMA page_size = 8192")
            table.execute("PRAGMA journal_mode = WAL")
            table.executescript(_TABLES)
            create_vectors(table, "vectors_1", model.dim)
            fresh = (_FORMAT, 0, 1, json.dumps(asdict(model)), None, 0, 0)
            with table:
                table.execute("INSERT INTO state VALUES (?, ?, ?, ?, ?, ?, ?)", fresh)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection that sees the table as it is at one moment."""
        with self._transaction("BEGIN", "read") as table:
            yield table

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection whose changes are kept, all of them, when the block ends without an error."""
        with self._transaction("BEGIN IMMEDIATE", "written") as table:
            table.execute(f"PRAGMA cache_size = -{_WRITING}")
            yield table
            table.execute(f"PRAGMA cache_size = -{_IDLE}")

    @contextmanager
    def _transaction(self, begin: str, done: str) -> Iterator[sqlite3.Connection]:
        self._check_file()
        with _reported(self.path, done):
            table = self._connect()
            try:
                table.execute(begin)
                yield table
                table.execute("COMMIT")
                self._check_file()
            except BaseException:
                table.close()  # takes back what was not committed
                raise
            with self._lock:
                self._idle.append(table)

    def _check_file(self) -> None:
        """Refuse to work on a file that is no longer there: its connections would, and what is written would be lost.

        Raises:
            QuestionIndexError: It was deleted or replaced since it was opened.
        """
        if file_identity(self.path) != self._file:
            raise QuestionIndexError(f"{self.path}: was deleted or replaced while it was open: open the index again")

    def _connect(self) -> sqlite3.Connection:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        table = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
        table.execute("PRAGMA synchronous = FULL")
        table.execute(f"PRAGMA cache_size = -{_IDLE}")
        return table

    def shrink(self) -> None:
        """Give back the space of what was deleted, where it is a quarter of the file, and of the write-ahead log."""
        with _reported(self.path, "shrunk"), closing(self._connect()) as table:
            free, pages = (table.execute(f"PRAGMA {what}").fetchone()[0] for what in ("freelist_count", "page_count"))
            if free * 4 > pages:
                table.execute("VACUUM")
            table.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def copy(self, target: Path) -> None:
        """Copy the table, as it is at one moment, to a new file that knows of no file of vectors."""
        with _reported(target, "written"), closing(self._connect()) as table, closing(sqlite3.connect(target)) as copy:
            table.backup(copy)
            with copy:
                copy.execute("UPDATE state SET merged = 0, version = 0")
            copy.execute("PRAGMA journal_mode = WAL")

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()


@contextmanager
def _reported(path: Path, done: str) -> Iterator[None]:
    """Say what cannot be done to a file, and why."""
    try:
        yield
    except sqlite3.Error as error:
        reason = str(error)
        if "disk is full" in reason:
            reason = "the disk is full; what was there before is intact"
        elif "disk I/O error" in reason:
            reason = "the disk is full, or a file cannot grow (disk I/O error); what was there before is intact"
        elif "locked" in reason:
            reason = f"another writer did not finish within {_WAIT:.0f} s"
        raise QuestionIndexError(f"{path}: cannot be {done}: {reason}") from error


def read_state(table: sqlite3.Connection) -> State:
    """Return what the table says of itself."""
    query = "SELECT generation, model, next_model, clock, merged, version FROM state"
    generation, *models, clock, merged, version = table.execute(query).fetchone()
    model, following = (None if text is None else IndexModel(**json.loads(text)) for text in models)
    assert model is not None
    return State(generation, model, following, clock, merged, version)


def create_vectors(table: sqlite3.Connection, name: str, dim: int) -> None:
    """Make an empty table of vectors."""
    table.execute(f"CREATE TABLE {name} (row INTEGER PRIMARY KEY, vector BLOB NOT NULL)")


def serve_next(table: sqlite3.Connection, generation: int) -> None:
    """Serve the vectors of the next model."""
    table.execute("DELETE FROM deleted")
    table.execute(
        f"UPDATE state SET model = next_model, next_model = NULL, generation = {generation}, merged = 0, version = 0,"
        " clock = clock + 1"
    )


def write_rows(table: sqlite3.Connection, state: State, questions: Sequence[Question], vectors: np.ndarray) -> None:
    """Add or replace questions; a migration under way encodes them again."""
    clock = state.clock + 1
    rows = []
    for question in questions:
        found = table.execute(
            "INSERT INTO questions (id, text, metadata, clock) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
            " text = excluded.text, metadata = excluded.metadata, clock = excluded.clock RETURNING row",
            (question.id, question.text, packed(question.metadata), clock),
        ).fetchone()
        rows.append(found[0])
    table.executemany(f"INSERT OR REPLACE INTO {state.vectors} VALUES (?, ?)", zip(rows, vectors, strict=True))
    if state.next_model is not None:
        table.executemany(f"DELETE FROM {state.next_vectors} WHERE row = ?", ((row,) for row in rows))
    table.execute("UPDATE state SET clock = ?", (clock,))


def delete_rows(table: sqlite3.Connection, state: State, ids: Iterable[str]) -> int:
    """Delete questions by id; returns how many were there."""
    rows = [r for name in set(ids) for r in table.execute("SELECT row FROM questions WHERE id = ?", (name,))]
    table.executemany("DELETE FROM questions WHERE row = ?", rows)
    table.executemany(f"DELETE FROM {state.vectors} WHERE row = ?", rows)
    if state.next_model is not None:
        table.executemany(f"DELETE FROM {state.next_vectors} WHERE row = ?", rows)
    table.executemany("INSERT INTO deleted VALUES (?, ?)", ((row, state.clock + 1) for (row,) in rows))
    table.execute("UPDATE state SET clock = ?", (state.clock + (1 if rows else 0),))
    return len(rows)


def changes_since(table: sqlite3.Connection, state: State, clock: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows `(n,)` int64 and vectors `(n, dim)` float32 of what was written after a clock, in order of rows."""
    # From the first write on, everything is read in the order of the file rather than sorted.
    since = f"WHERE clock > {int(clock)} " if clock > 0 else ""
    cursor = table.execute(f"SELECT row, vector FROM questions JOIN {state.vectors} USING (row) {since}ORDER BY row")
    while found := cursor.fetchmany(_BATCH):
        yield _arrays(found, state.model.dim)


def changed_since(table: sqlite3.Connection, clock: int) -> int:
    """Count what was written or deleted after a clock."""
    count = "SELECT (SELECT COUNT(*) FROM questions WHERE clock > ?) + (SELECT COUNT(*) FROM deleted WHERE clock > ?)"
    return table.execute(count, (clock, clock)).fetchone()[0]


def deleted_since(table: sqlite3.Connection, clock: int) -> np.ndarray:
    """Return the rows deleted after a clock, `(n,)` int64."""
    return _column(table.execute("SELECT row FROM deleted WHERE clock > ?", (clock,)))


def rows_where(table: sqlite3.Connection, clause: str = "TRUE", values: Sequence[Any] = ()) -> np.ndarray:
    """Return the rows of the questions that meet a `condition`, `(n,)` int64."""
    return _column(table.execute(f"SELECT row FROM questions WHERE {clause}", values))


def _column(found: Iterable[tuple[int]]) -> np.ndarray:
    return np.fromiter((row for (row,) in found), np.int64)


def vectors_of(table: sqlite3.Connection, state: State, rows: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return those of the rows that are there, rising, and their vectors, `(n,)` int64 and `(n, dim)` float32."""
    query = f"SELECT row, vector FROM {state.vectors} WHERE row IN (SELECT value FROM json_each(?)) ORDER BY row"
    return _arrays(table.execute(query, (json.dumps(list(rows)),)).fetchall(), state.model.dim)


def _arrays(found: list[tuple[int, bytes]], dim: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.fromiter((row for row, _ in found), np.int64, len(found))
    if (odd := next((row for row, blob in found if len(blob) != 4 * dim), None)) is not None:
        raise sqlite3.DatabaseError(f"the vector of row {odd} is no {dim} numbers")
    vectors = np.frombuffer(bytearray().join(blob for _, blob in found), np.float32)  # a bytearray can be written to
    vectors = vectors.reshape(len(found), dim)
    if (wrong := off_length(vectors)) is not None:
        raise sqlite3.DatabaseError(f"the vector of row {rows[wrong[0]]} has length {wrong[1]:.4g}, not 1")
    return rows, vectors


def questions_of(table: sqlite3.Connection, rows: Iterable[int]) -> dict[int, Question]:
    """Return the questions of rows."""
    query = "SELECT row, id, text, metadata FROM questions WHERE row IN (SELECT value FROM json_each(?))"
    found = table.execute(query, (json.dumps(list(rows)),))
    return {row: Question(name, text, json.loads(metadata)) for row, name, text, metadata in found}


def rows_of(table: sqlite3.Connection, ids: Iterable[str]) -> dict[str, int]:
    """Return the row of each id that is there."""
    query = "SELECT id, row FROM questions WHERE id IN (SELECT value FROM json_each(?))"
    return dict(table.execute(query, (json.dumps(list(ids)),)).fetchall())


def condition(allowed: Mapping[str, Sequence[Scalar]]) -> tuple[str, list[Any]]:
    """Return a checked filter as SQL and its values."""
    clauses, values = [], []
    for key, wanted in allowed.items():
        path, either = f'$."{key}"', []
        for value in wanted:
            kinds = "'true', 'false'" if isinstance(value, bool) else "'integer', 'real', 'text'"
            either.append(f"(json_type(metadata, ?) IN ({kinds}) AND json_extract(metadata, ?) = ?)")
            values += [path, path, value]
        clauses.append(f"({' OR '.join(either) or 'FALSE'})")
    return " AND ".join(clauses) or "TRUE", values
