"""Files of many images, kept open between reads: the rows of an idx file and the members of a zip."""

from __future__ import annotations

import gzip
import os
import threading
import zipfile
import zlib
from functools import lru_cache
from math import prod
from pathlib import Path

import numpy as np

from textsiam.data.tables.errors import DataError
from textsiam.data.tables.lines import open_plain

_ZIP = b"PK\x03\x04"
_IDX = b"\x00\x00\x08"  # unsigned bytes; the fourth byte is the number of dimensions
_LARGEST = 1 << 30  # bytes of a packed idx file that are held in memory; four of them are
_lock = threading.Lock()  # two threads that miss the cache together would both unpack the file


def archive_kind(path: Path) -> str | None:
    """Say whether the content of a file is a "zip", an "idx" file (plain or .gz), or neither.

    It is remembered as long as the file's time and size stay: every row of an idx file asks for it.

    Raises:
        DataError: the file cannot be read.
    """
    return _archive_kind(*_key(path))


@lru_cache(maxsize=64)
def _archive_kind(path: str, _time: int, _size: int) -> str | None:
    try:
        with open_plain(Path(path)) as stream:
            start = stream.read(4)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if start.startswith(_ZIP):
        return "zip"
    return "idx" if start[:3] == _IDX else None


def idx_array(path: str | Path, dims: int = 3) -> np.ndarray:
    """Open the unsigned bytes of an idx file (MNIST's format), plain or .gz; do not change them.

    A plain file is mapped and takes no memory; a packed one is unpacked once. Both are kept for the next call,
    as long as the file's time and size stay.

    Args:
        path: The file.
        dims: How many dimensions it must have: 3 for images, 1 for labels.

    Raises:
        DataError: The file is none, is of other dimensions, is truncated, or unpacks to more than 1 GiB.
    """
    with _lock:
        return _idx_array(*_key(path), dims)


def zip_file(path: str | Path) -> zipfile.ZipFile:
    """Open a zip for reading; it stays open for the next call, as long as the file's time and size do.

    Raises:
        DataError: The file is no zip, or damaged.
    """
    with _lock:
        return _zip_file(*_key(path), os.getpid())  # a forked process must not share the file's position


def zip_member(path: str | Path, member: str, *, largest: int) -> bytes:
    """Read one member of a zip.

    Raises:
        DataError: No such member, more bytes than `largest` once unpacked, encrypted, or damaged.
    """
    archive = zip_file(path)
    try:
        info = archive.getinfo(member)
    except KeyError:
        raise DataError(f"{path}: no such member in the zip: {member!r}") from None
    if info.file_size > largest:
        raise DataError(f"{path}: {member!r} unpacks to {info.file_size:,} bytes, more than {largest:,}")
    try:
        return archive.read(info)  # never gives more than the size it claims
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: {member!r} cannot be unpacked ({error})") from None


def _key(path: str | Path) -> tuple[str, int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    return os.path.abspath(path), found.st_mtime_ns, found.st_size


@lru_cache(maxsize=4)
def _zip_file(path: str, _time: int, _size: int, _process: int) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: is no zip or is damaged ({error})") from None


@lru_cache(maxsize=4)
def _idx_array(path: str, _time: int, size: int, dims: int) -> np.ndarray:
    try:
        with open_plain(Path(path)) as stream:
            head = stream.read(4)
            if head[:3] != _IDX or len(head) < 4:
                raise DataError(f"{path}: is no idx file of unsigned bytes")
            if head[3] != dims:
                raise DataError(f"{path}: is an idx file of {head[3]} dimensions, expected {dims}")
            lengths = stream.read(4 * dims)
            if len(lengths) < 4 * dims:
                raise DataError(f"{path}: the idx file ends inside its header")
            shape = tuple(np.frombuffer(lengths, dtype=">u4").tolist())
            count, start = prod(shape), 4 + 4 * dims
            if not isinstance(stream, gzip.GzipFile):
                _check_length(path, size - start, count)
                if not count:
                    return np.zeros(shape, dtype=np.uint8)
                return np.memmap(path, dtype=np.uint8, mode="r", offset=start, shape=shape)
            if count > _LARGEST:
                raise DataError(f"{path}: unpacks to {count:,} bytes, more than {_LARGEST:,}; unpack the file on disk")
            data = stream.read(count + 1)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: the idx file cannot be read ({error})") from None
    _check_length(path, len(data), count)
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _check_length(path: str, found: int, count: int) -> None:
    if found != count:
        what = "is truncated" if found < count else "is longer than its header says"
        raise DataError(f"{path}: the idx file {what}: expected {count:,} bytes of values, found {found:,}")
