"""Arrays in .npy files that are written piece by piece, and mapped into memory instead of read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from textsiam.saving import SaveError
from textsiam.whole_file import whole_file


class Vectors(Protocol):
    """Vectors that are looked up, in memory or not."""

    def __len__(self) -> int:
        """Count them."""
        ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return some, `(rows, dim)` float32."""
        ...


class GrowingArray:
    """A .npy file that is written piece by piece; its header is rewritten once the length is known.

    Args:
        path: The file.
        dtype: Number format of the array.
        shape: Of an item along the first axis, which grows.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], *, shape: tuple[int, ...] = ()) -> None:
        self._file: IO[bytes] = path.open("wb")
        self._dtype, self._shape, self._length = dtype, shape, 0
        self._header()
        self._start = self._file.tell()

    def __len__(self) -> int:
        return self._length

    def append(self, piece: np.ndarray) -> bytes:
        """Write items, `(any, *shape)`; returns their bytes."""
        data = piece.astype(self._dtype, copy=False).tobytes()
        self._file.write(data)
        self._length += len(piece)
        return data

    def close(self) -> None:
        """Write the length, and see that all of it is on the disk."""
        with self._file:
            self._file.seek(0)
            self._header()
            if self._file.tell() != self._start:
                raise OSError(f"the header of {self._file.name} grew")
            self._file.flush()
            os.fsync(self._file.fileno())

    def _header(self) -> None:
        # numpy pads headers so that the length of the first axis may grow in place.
        facts = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._length, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, facts)


def save_vectors(path: str | Path, blocks: Iterable[np.ndarray], *, dim: int) -> int:
    """Write blocks of vectors one after the other into a .npy file, whole or not at all, in bounded memory.

    Read it with `numpy.load(path, mmap_mode="r")`: nothing is loaded until it is looked at.

    Args:
        path: The file; one that was there before stays as it is until the new one is whole.
        blocks: Vectors, each `(any, dim)` float32.
        dim: Width of the vectors.

    Returns:
        How many vectors were written.

    Raises:
        SaveError: The disk is full or the place cannot be written to.
    """
    path = Path(path)
    try:
        with whole_file(path) as aside:
            file = GrowingArray(aside, np.dtype(np.float32), shape=(dim,))
            try:
                for block in blocks:
                    file.append(block)
            finally:
                file.close()
    except OSError as error:
        raise SaveError(f"cannot write {path}: {error.strerror or error}") from error
    return len(file)
