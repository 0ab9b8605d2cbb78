"""More strings than memory should hold: in a file, read as they are asked for; and which of any strings are equal."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import overload
from weakref import finalize

import numpy as np

_BLOCK = 1024  # strings that are read together
_SPARSE = 8  # strings that are read past, at most, for each that is asked for
_BUCKETS = 256
_BUFFER = 1 << 20  # bytes that are written together
_DIGEST = np.dtype([("high", np.uint64), ("low", np.uint64)])
_RECORD = np.dtype([("digest", _DIGEST), ("row", np.int64)])


class StoredStrings(Sequence[str]):
    """Strings in a file. In memory is where each starts, 8 bytes, mapped from a second file.

    Args:
        path: Where `store_strings` put them.
        rows: Which of them, `(m,)`; None is all.
    """

    def __init__(self, path: Path, rows: np.ndarray | None = None) -> None:
        self._path, self._rows = path, rows
        self._starts = np.asarray(np.memmap(path.with_suffix(".starts"), np.int64, "r"))
        self._file = path.open("rb", buffering=0)
        finalize(self, self._file.close)

    def __len__(self) -> int:
        """Count the strings."""
        return len(self._starts) - 1 if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        """Read one, or some."""
        if isinstance(place, slice):
            chosen = np.arange(*place.indices(len(self)))
            return self._read(chosen if self._rows is None else self._rows[chosen])
        if not -len(self) <= place < len(self):
            raise IndexError(f"there are {len(self)} strings, and none is number {place}")
        place = place % len(self)
        return self._one(place if self._rows is None else int(self._rows[place]))

    def __iter__(self) -> Iterator[str]:
        """Read all, a block at a time."""
        for start in range(0, len(self), _BLOCK):
            yield from self[start : start + _BLOCK]

    def rows(self, rows: np.ndarray) -> StoredStrings:
        """Return some of all, by their places, `(m,)`; nothing is read or written."""
        return StoredStrings(self._path, rows if self._rows is None else self._rows[rows])

    def _one(self, row: int) -> str:
        start, stop = self._starts[row : row + 2].tolist()
        self._file.seek(start)
        return self._file.read(stop - start).decode("utf-8", "surrogatepass")

    def _read(self, rows: np.ndarray) -> list[str]:
        if not len(rows):
            return []
        first, last = int(rows.min()), int(rows.max())
        size = int(self._starts[last + 1] - self._starts[first])
        if len(rows) > 1 and (last - first >= _SPARSE * len(rows) or size > 16 * _BUFFER):
            return [self._one(row) for row in rows.tolist()]
        starts = self._starts[first : last + 2].tolist()
        self._file.seek(starts[0])
        data = self._file.read(size)
        spans = (slice(starts[i] - starts[0], starts[i + 1] - starts[0]) for i in (rows - first).tolist())
        return [data[span].decode("utf-8", "surrogatepass") for span in spans]


class StringsFile:
    """Strings on their way into a file; where each starts stands beside it, in a file that ends in `.starts`.

    Args:
        path: The file.

    Raises:
        OSError: The place cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._waiting, self._starts, self._size = path, bytearray(), array("q", [0]), 0
        self._files = path.open("wb"), path.with_suffix(".starts").open("wb")
        for file in self._files:
            finalize(self, file.close)

    def append(self, text: str) -> None:
        """Add a string."""
        data = text.encode("utf-8", "surrogatepass")
        self._waiting += data
        self._size += len(data)
        self._starts.append(self._size)
        if len(self._waiting) + len(self._starts) > _BUFFER:
            self._write()

    def close(self) -> StoredStrings:
        """Write what is waiting, and return all strings."""
        self._write()
        for file in self._files:
            file.close()
        return StoredStrings(self._path)

    def _write(self) -> None:
        for file, waiting in zip(self._files, (self._waiting, self._starts), strict=True):
            file.write(waiting)
        self._waiting, self._starts = bytearray(), array("q")


def store_strings(path: Path, strings: Iterable[str]) -> StoredStrings:
    """Write strings into a file, as they come; see `StringsFile`."""
    file = StringsFile(path)
    for text in strings:
        file.append(text)
    return file.close()


def first_of_equal(strings: Sequence[str], folder: Path | None = None) -> np.ndarray:
    """Return the place of the first string that is equal to each, `(n,)` int32, int64 from 2³¹ strings on.

    Strings are told apart by the 16 bytes of their BLAKE2b digest. That any two different ones of n share theirs has a
    chance of n² / 2¹²⁹: for a billion 1.5 · 10⁻²¹.

    Args:
        strings: n strings, looked through once.
        folder: Where digests are put into 256 buckets by their first bytes, 24 bytes a string, so that only a bucket is
            in memory; None has one bucket, in memory.
    """
    first = np.empty(len(strings), np.int32 if len(strings) < 2**31 else np.int64)
    if folder is None:
        _look_up(np.concatenate([np.zeros(0, _RECORD), *_digests(strings)]), first)
        return first
    paths = [folder / f"digests.{bucket:03d}" for bucket in range(_BUCKETS)]
    files = [path.open("wb") for path in paths]
    try:
        for records in _digests(strings):
            records = records[np.argsort(bucket := records["digest"]["high"] % _BUCKETS, kind="stable")]
            stops = np.cumsum(np.bincount(bucket.astype(np.int64), minlength=_BUCKETS))
            for file, part in zip(files, np.split(records, stops[:-1]), strict=True):
                file.write(part.data)
    finally:
        for file in files:
            file.close()
    for path in paths:
        _look_up(np.fromfile(path, _RECORD), first)
        path.unlink()
    return first


def _digests(strings: Iterable[str]) -> Iterator[np.ndarray]:
    """Yield digests and places, block by block."""
    rest, row = iter(strings), 0
    while block := list(islice(rest, 64 * _BLOCK)):
        digests = b"".join(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in block)
        records = np.empty(len(block), _RECORD)
        records["digest"], records["row"] = np.frombuffer(digests, _DIGEST), np.arange(row, row + len(block))
        row += len(block)
        yield records


def _look_up(records: np.ndarray, first: np.ndarray) -> None:
    """Write down for the rows of some digests, all that there are of each, which row is the first with the same."""
    high, low, rows = records["digest"]["high"], records["digest"]["low"], records["row"]
    order = np.lexsort((rows, low, high))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
    starts = np.flatnonzero(new)
    first[rows[order]] = np.repeat(rows[order[starts]], np.diff(np.append(starts, len(order))))
