"""Writing rows to a file, whole or not at all, in the format of its ending."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from textsiam.data.problems import DataError

_DELIMITERS = {".tsv": "\t", ".csv": ","}


def write_table(path: str | Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows to a .tsv, .csv or .jsonl file; a file of this name is replaced once the new one is whole.

    Args:
        path: Where to write.
        columns: Names of the columns, in order.
        rows: Values by column.

    Raises:
        DataError: The ending is none of these, or the file cannot be written; an old file is intact.
    """
    path = checked_ending(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            _write(file, path.suffix, columns, rows)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return path


def checked_ending(path: str | Path) -> Path:
    """Return the path of a table that is to be written: worth asking before hours of work are to end in it.

    Raises:
        DataError: No format has its ending.
    """
    path = Path(path)
    if path.suffix not in (*_DELIMITERS, ".jsonl"):
        raise DataError(
            f"{path}: cannot write {path.suffix or 'a file without ending'!r}, expected .tsv, .csv or .jsonl"
        )
    return path


def _write(file: TextIO, suffix: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    if suffix == ".jsonl":
        file.writelines(json.dumps({c: row[c] for c in columns}, ensure_ascii=False) + "\n" for row in rows)
        return
    writer = csv.DictWriter(file, columns, delimiter=_DELIMITERS[suffix], lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
