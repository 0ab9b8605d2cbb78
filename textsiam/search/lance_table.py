"""LanceDB's copy of the vectors: written up to one clock, every partition of it searched unless told otherwise."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from textsiam.models.saving import write_failure
from textsiam.search.checks import require
from textsiam.search.index import QuestionIndexError
from textsiam.search.journal import State, changes_since, deleted_since
from textsiam.search.resident import Near

_ROWS_A_PARTITION = 1500
_BATCH = 8192
_SEGMENTS = 4  # an index in more pieces than these is made again
_ALL = 1 << 20  # more probes than there are partitions
_KEPT = timedelta(minutes=10)  # how long a process that has not searched since may still read an old version


class LanceTable:
    """The table of one index; which version of it counts is for the durable table to say.

    Args:
        folder: Where LanceDB keeps its files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._synced: set[Path] = set()
        self._opened: tuple[State, Any] | None = None

    def _table(self, state: State) -> Any:
        """Return the table at the version that counts."""
        with self._lock:
            if self._opened is None or not same_copy(self._opened[0], state):
                try:
                    table = _connect(self.folder).open_table(_name(state))
                    table.checkout(state.version)
                except (OSError, RuntimeError, ValueError) as error:
                    reason = str(error).strip().split("\n")[0]
                    raise QuestionIndexError(
                        f"{self.folder}: cannot be read ({reason}): run textsiam index compact --rebuild"
                    ) from error
                self._opened = (state, table)
            return self._opened[1]

    def near(
        self,
        state: State,
        query: np.ndarray,
        k: int | None,
        floor: float,
        error: float,
        probes: int | None,
        current: Callable[[int], bool],
    ) -> Near:
        """Return rows and rough scores of all that may be among the hits: more are fetched until these are there.

        Args:
            state: Says which version to search.
            query: `(dim,)` float32.
            k: Only what may be among the best k that are current.
            floor: Least score.
            error: By how much a score may be wrong.
            probes: Partitions to look into; None takes all.
            current: Says whether a row counts.
        """
        table = self._table(state)
        limit = 256 if k is None else 2 * k + 32
        while True:
            search = table.search(query, vector_column_name="vector").distance_type("dot").nprobes(probes or _ALL)
            found = search.limit(limit).select(["row", "_distance"]).to_arrow()
            rows, scores = found["row"].to_numpy(), 1 - found["_distance"].to_numpy()
            kept = np.fromiter((current(row) for row in rows.tolist()), bool, len(rows)) & (scores + error >= floor)
            near = Near(rows[kept], scores[kept], np.full(kept.sum(), error, np.float32))
            if len(rows) < limit or scores[-1] + error < max(floor, near.certain(k)):
                return near.best(k)
            limit *= 4

    def merge(self, journal: Any, state: State) -> int:
        """Bring the table up to the state's clock and its files to the disk; returns the version to search.

        Args:
            journal: A connection to the durable table as it is at that clock.
            state: What it says of itself; version 0 makes the table anew.
        """
        import pyarrow as pa

        schema = pa.schema([("row", pa.int64()), ("vector", pa.list_(pa.float32(), state.model.dim))])
        total = journal.execute("SELECT COUNT(*) FROM questions").fetchone()[0]
        changed = journal.execute("SELECT COUNT(*) FROM questions WHERE clock > ?", (state.merged,)).fetchone()[0]
        gone = journal.execute("SELECT COUNT(*) FROM deleted WHERE clock > ?", (state.merged,)).fetchone()[0]
        if total == 0:
            return 0
        if state.version and changed + gone == 0:
            return state.version
        if not state.version or (changed + gone) * 2 > total:
            everything = (_batch(rows, vectors, schema) for rows, vectors in changes_since(journal, state, 0))
            table = _connect(self.folder).create_table(_name(state), everything, schema=schema, mode="overwrite")
            _index(table, total)
        else:
            table = self._changed(journal, state, schema)
        self._sync()
        return table.version

    def _changed(self, journal: Any, state: State, schema: Any) -> Any:
        import pyarrow as pa

        table = _connect(self.folder).open_table(_name(state))
        if table.version != state.version:  # left by a process that did not live to say that it had merged
            table.checkout(state.version)
            table.restore()
        changed = list(changes_since(journal, state, state.merged))
        stale = [row for rows, _ in changed for row in rows.tolist()] + deleted_since(journal, state.merged)
        for start in range(0, len(stale), _BATCH):
            table.delete(f"row IN ({', '.join(map(str, stale[start : start + _BATCH]))})")
        if changed:
            table.add(pa.Table.from_batches([_batch(rows, vectors, schema) for rows, vectors in changed]))
        table.optimize(cleanup_older_than=_KEPT)
        indices = table.list_indices()
        if not indices or (indices[0].num_segments or 0) > _SEGMENTS:
            _index(table, table.count_rows())
        return table

    def clean(self, state: State) -> None:
        """Drop the tables of other generations."""
        database = _connect(self.folder)
        for name in database.list_tables().tables:
            if name != _name(state):
                database.drop_table(name)

    def _sync(self) -> None:
        """Bring to the disk what LanceDB has written since the last time; it never changes a file once written."""
        for path in [self.folder, *self.folder.rglob("*")]:
            if path in self._synced:
                continue
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if path.is_file():
                self._synced.add(path)

    def close(self) -> None:
        """Let go of the table."""
        with self._lock:
            self._opened = None


@contextmanager
def merging_alone(folder: Path) -> Iterator[None]:
    """Keep other processes from merging the index in a folder meanwhile.

    Raises:
        QuestionIndexError: Another process is merging.
    """
    with open(folder / "merge.lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise QuestionIndexError(f"{folder}: process {owner} is merging: wait for it") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def merge_reported(folder: Path) -> Iterator[None]:
    """Say in one line why an index in a folder cannot be merged.

    Raises:
        QuestionIndexError: In place of what LanceDB or the operating system raised.
    """
    try:
        yield
    except QuestionIndexError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        reason = write_failure(error) or str(error).strip().split("\n")[0]
        raise QuestionIndexError(
            f"{folder}: cannot merge: {reason}; every question is intact, and searches go on as before"
        ) from error


def same_copy(one: State, other: State) -> bool:
    """Say whether two states have the same copy of the vectors."""
    return (one.generation, one.version, one.merged) == (other.generation, other.version, other.merged)


def lancedb() -> Any:
    """Import LanceDB, without its warnings of every table that it makes.

    Raises:
        QuestionIndexError: It is not installed.
    """
    os.environ.setdefault("LANCEDB_LOG", "error")
    return require("lancedb", "index")


def _connect(folder: Path) -> Any:
    return lancedb().connect(str(folder))


def _name(state: State) -> str:
    return f"vectors_{state.generation}"


def _index(table: Any, rows: int) -> None:
    from lancedb.index import IvfFlat

    partitions = max(1, rows // _ROWS_A_PARTITION)
    table.create_index("vector", config=IvfFlat(distance_type="dot", num_partitions=partitions), replace=True)


def _batch(rows: np.ndarray, vectors: np.ndarray, schema: Any) -> Any:
    import pyarrow as pa

    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return pa.RecordBatch.from_arrays([pa.array(rows), lists.cast(schema.field("vector").type)], schema=schema)
