"""A file that appears whole or not at all, that is on the disk, that one process works on at a time."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

_FAR = 1 << 40  # where Windows, which keeps others from reading what is locked, locks a byte
_WAIT = 0.05  # seconds between two tries there


def said_by_system(error: OSError) -> str:
    """Return what the system says of an error; some libraries put a sentence of their own in its place."""
    return os.strerror(error.errno) if error.errno else str(error)


@contextmanager
def whole_file(target: str | Path) -> Iterator[Path]:
    """Yield the path of a file beside `target` that takes its name when the block ends without an error.

    A file already at `target` stays as it is until then, and keeps its permissions; a new one has those that the umask
    gives. A link stays one, and what it leads to is replaced. What is no file, as a pipe or `/dev/null`, is written to
    in the end. A crash leaves at most a hidden `.tmp` file behind.

    Raises:
        OSError: The place cannot be written to.
    """
    target = Path(target)
    stream = target.exists() and not (target.is_file() or target.is_dir())
    if not stream:
        target = Path(os.path.realpath(target))
    folder = Path(tempfile.gettempdir()) if stream else target.parent
    aside = folder / f".{target.name}.{uuid4().hex[:8]}.tmp"  # many may write at once
    try:
        if target.is_file():  # what was private is so while it is written, too
            aside.touch(0o600)
        yield aside
        if stream:
            with aside.open("rb") as whole, target.open("wb") as end:
                shutil.copyfileobj(whole, end)
            return
        if target.is_file():
            shutil.copymode(target, aside)
        aside.replace(target)
    finally:
        with suppress(OSError):  # a missing file, or a place that is no folder
            aside.unlink()


def file_identity(path: str | Path) -> tuple[int, int] | None:
    """Return what tells a file from another one that takes its name later; None where there is none.

    It holds as long as somebody has the file open.
    """
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def locked(place: IO[Any] | Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Keep other processes from locking an open file, or a folder, meanwhile.

    Args:
        place: The file, opened to be written to; or a folder.
        shared: Whether others may have it with `shared` at the same time, where the system knows such locks.
        wait: Wait until the others are done.

    Raises:
        BlockingIOError: Somebody else has locked it, and `wait` is False.
        OSError: The folder cannot be opened.
    """
    if not isinstance(place, Path):
        with _held(place.fileno(), shared, wait):
            yield
        return
    descriptor = os.open(place, os.O_RDONLY) if _opens_folders() else os.open(place / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        with _held(descriptor, shared, wait):
            yield
    finally:
        os.close(descriptor)


def _opens_folders() -> bool:
    return os.name != "nt"


@contextmanager
def _held(descriptor: int, shared: bool, wait: bool) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows
        with _held_on_windows(descriptor, wait):
            yield
        return
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    fcntl.flock(descriptor, how if wait else how | fcntl.LOCK_NB)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def _held_on_windows(descriptor: int, wait: bool) -> Iterator[None]:
    import msvcrt

    lock: Any = msvcrt.locking  # pyright: ignore[reportAttributeAccessIssue]

    def at_far(mode: int) -> None:
        here = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            lock(descriptor, mode, 1)
        finally:
            os.lseek(descriptor, here, os.SEEK_SET)

    while True:
        try:
            at_far(msvcrt.LK_NBLCK)  # pyright: ignore[reportAttributeAccessIssue]
            break
        except OSError as error:
            if not wait:
                raise BlockingIOError(*error.args) from None
            time.sleep(_WAIT)
    try:
        yield
    finally:
        at_far(msvcrt.LK_UNLCK)  # pyright: ignore[reportAttributeAccessIssue]


def keep_on_disk(place: Path) -> None:
    """Return when a file, or the names in a folder, are on the disk; of a folder, where the system can tell."""
    if place.is_dir() and not _opens_folders():
        return
    descriptor = os.open(place, os.O_RDONLY if _opens_folders() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
