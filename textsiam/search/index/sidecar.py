"""The vectors of a durable table as bytes, in a file beside it: read in a moment where the table would take seconds.

Nothing depends on the file: which one counts is for the table to say, which also holds every vector as it was written.
Where the file is missing, or cannot be read, the table is read instead.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from textsiam.saving import write_failure
from textsiam.search.index import in_memory_scan as resident
from textsiam.search.index.base import QuestionIndexError
from textsiam.search.index.in_memory_scan import Stored
from textsiam.search.index.journal import State, changes_since, deleted_since
from textsiam.whole_file import keep_on_disk, locked

if TYPE_CHECKING:
    from textsiam.search.join.int8_candidates import Frame, Quantized


def sidecar_path(folder: Path, version: int) -> Path:
    """Return the file of a version, as `State.version` names it."""
    return folder / f"vectors-{-version:016x}.safetensors"


def read_sidecar(folder: Path, state: State) -> Stored | None:
    """Map the file that counts; None where there is none, or it cannot be read."""
    path = sidecar_path(folder, state.version)
    if state.version >= 0 or not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    from textsiam.search.join.int8_candidates import Frame, Quantized

    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dictionary)
            told = (file.metadata() or {}).get("digest")
        vectors = Quantized(*(found[name].numpy() for name in Quantized._fields))
        rows, matrix = found["rows"].numpy(), found["matrix"]
    except (OSError, SafetensorError, KeyError):
        return None
    if told not in (None, _digest({name: tensor.numpy() for name, tensor in found.items()})):  # older files have none
        return None
    dim = state.model.dim
    if matrix.shape != (dim, dim) or any(len(column) != len(rows) for column in vectors):
        return None
    return Stored(state.merged, rows, Frame(matrix, vectors.leading.shape[1]), vectors)


def write_sidecar(folder: Path, table: sqlite3.Connection, state: State, *, anew: bool) -> int:
    """Write the vectors of a table, and bring them to the disk; returns the version, which the table does not name yet.

    Vectors that the present file holds are taken from there, unless most have changed. So few that they are read from
    the table in no time get no file.

    Args:
        folder: Of the index.
        table: A connection to the table as it is at one moment.
        state: What it says of itself.
        anew: Take nothing from the present file.

    Raises:
        QuestionIndexError: The disk is full.
    """
    version = -1 - secrets.randbits(62)
    total = table.execute("SELECT COUNT(*) FROM questions").fetchone()[0]
    if total < resident.BLOCK:
        return version
    old = None if anew else read_sidecar(folder, state)
    fresh = _updated(table, state, old, total) if old is not None else None
    frame, rows, vectors = fresh or _read(table, state)
    from safetensors.numpy import save_file

    path = sidecar_path(folder, version)
    try:
        arrays = {"rows": rows, "matrix": frame.matrix.numpy(), **vectors._asdict()}
        save_file(arrays, path, metadata={"digest": _digest(arrays)})
        shutil.copymode(folder, path)
        path.chmod(path.stat().st_mode & 0o666)
        for place in (path, folder):
            keep_on_disk(place)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return version


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """Return a digest of arrays: what a half-copied or damaged file holds is not searched in."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _read(table: sqlite3.Connection, state: State) -> tuple[Frame, np.ndarray, Quantized]:
    """Return a frame, and rows and vectors of the whole table in it."""
    from textsiam.search.join.int8_candidates import Frame, Quantized, quantized

    frame, parts = None, []
    for rows, vectors in changes_since(table, state, 0):
        frame = frame or Frame.fitted(vectors)
        parts.append((rows, quantized(vectors, frame)))
    assert frame is not None  # the table is not empty
    columns = zip(*(vectors for _, vectors in parts), strict=True)
    return frame, np.concatenate([rows for rows, _ in parts]), Quantized(*map(np.concatenate, columns))


def _updated(
    table: sqlite3.Connection, state: State, old: Stored, total: int
) -> tuple[Frame, np.ndarray, Quantized] | None:
    """Return the same with vectors of a file where these have not changed; None where that is not worth while."""
    from textsiam.search.join.int8_candidates import Quantized, quantized

    changed = list(changes_since(table, state, old.clock))
    fresh = [rows for rows, _ in changed]
    stale = np.concatenate([*fresh, deleted_since(table, old.clock)])
    if 2 * len(stale) > total:
        return None
    kept = np.flatnonzero(~np.isin(old.rows, stale))
    rows = np.concatenate([old.rows[kept], *fresh])
    parts = [old.vectors.taken(kept), *(quantized(vectors, old.frame) for _, vectors in changed)]
    joined = Quantized(*map(np.concatenate, zip(*parts, strict=True)))
    order = np.argsort(rows, kind="stable")
    return old.frame, rows[order], joined.taken(order)


@contextmanager
def merging(folder: Path) -> Iterator[None]:
    """Keep other processes from merging the index in a folder meanwhile; where it fails, say why in one line.

    Raises:
        QuestionIndexError: Another process is merging; or in place of what safetensors or the operating system raised.
    """
    from safetensors import SafetensorError

    try:
        with open(folder / "merge.lock", "a+", encoding="utf-8") as lock, ExitStack() as alone:
            try:
                alone.enter_context(locked(lock, wait=False))
            except BlockingIOError:
                lock.seek(0)
                owner = lock.read().strip() or "unknown"
                raise QuestionIndexError(f"{folder}: process {owner} is merging: wait for it") from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield
    except (OSError, SafetensorError) as error:
        reason = write_failure(error) or str(error).strip().split("\n")[0]
        raise QuestionIndexError(
            f"{folder}: cannot merge: {reason}; every question is intact, and searches go on as before"
        ) from error
