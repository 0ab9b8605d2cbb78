"""Vectors in a .npy file that is written block after block, and mapped into memory instead of read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from textsiam.models.saving import SaveError


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
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    rows = 0
    try:
        with aside.open("wb") as file:
            _write_header(file, 0, dim)
            start = file.tell()
            for block in blocks:
                file.write(np.ascontiguousarray(block, np.float32).tobytes())
                rows += len(block)
            file.seek(0)
            _write_header(file, rows, dim)  # numpy leaves room for more digits
            if file.tell() != start:
                raise SaveError(f"cannot write {path}: its header grew")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise (
            error if isinstance(error, SaveError) else SaveError(f"cannot write {path}: {error.strerror or error}")
        ) from error
    finally:
        aside.unlink(missing_ok=True)
    return rows


def _write_header(file: object, rows: int, dim: int) -> None:
    header = {"descr": npy.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": (rows, dim)}
    npy.write_array_header_1_0(file, header)  # pyright: ignore[reportArgumentType]
