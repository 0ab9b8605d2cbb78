"""Writing rows to a file, whole or not at all, in the format of its ending."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from textsiam.data.tables.errors import DataError
from textsiam.whole_file import said_by_system, whole_file

_DELIMITERS = {".tsv": "\t", ".csv": ","}
TABLE_ENDINGS = (*_DELIMITERS, ".jsonl", ".parquet")
_GROUP = 8_192  # rows of Parquet that are held in memory


def write_table(
    path: str | Path, columns: Sequence[str] | Mapping[str, type], rows: Iterable[Mapping[str, Any]]
) -> Path:
    """Write rows to a .tsv, .csv, .jsonl or .parquet file; a file of this name is replaced once the new one is whole.

    Args:
        path: Where to write.
        columns: The columns in order; where it is said what they hold (str, int, float or bool, or None in its place),
            Parquet is written in bounded memory too.
        rows: Values by column; looked at once, one after the other.

    Raises:
        DataError: The ending is none of these, or the file cannot be written; an old file is intact.
    """
    path = checked_ending(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as aside:
            if path.suffix.lower() == ".parquet":
                _write_parquet(aside, columns, rows)
            else:
                # A file name that is not UTF-8 holds halves of characters: written as \\udce9, which JSON reads back.
                with aside.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                    _write(file, path.suffix.lower(), list(columns), rows)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {said_by_system(error)}") from error
    return path


def checked_ending(path: str | Path, endings: Sequence[str] = TABLE_ENDINGS) -> Path:
    """Return the path of a file that is to be written: worth asking before hours of work are to end in it.

    Args:
        path: The file.
        endings: What its name may end in, in small or capital letters; a table by default.

    Raises:
        DataError: It ends in something else, or is a folder.
    """
    path = Path(path)
    if path.suffix.lower() not in endings:
        *others, last = endings
        expected = f"{', '.join(others)} or {last}" if others else last
        raise DataError(f"{path}: cannot write {path.suffix or 'a file without ending'!r}, expected {expected}")
    if path.is_dir():
        raise DataError(f"{path}: cannot be written: Is a directory")
    return path


def _write(file: TextIO, suffix: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    if suffix == ".jsonl":
        file.writelines(json.dumps({c: row[c] for c in columns}, ensure_ascii=False) + "\n" for row in rows)
        return
    # Before Python 3.13 a carriage return is quoted only where it ends lines, and unquoted it cannot be read again.
    plain = _LineFeeds(file)
    writer = csv.DictWriter(plain, columns, delimiter=_DELIMITERS[suffix], lineterminator="\r\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)


class _LineFeeds:
    """Ends the rows of a csv.writer, which writes each at once, in a line feed alone."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        return self._file.write(row.removesuffix("\r\n") + "\n")


def _write_parquet(path: Path, columns: Sequence[str] | Mapping[str, type], rows: Iterable[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if not isinstance(columns, Mapping):
        rows = list(rows)
        columns = {c: next((type(row[c]) for row in rows if row[c] is not None), str) for c in columns}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    rest = iter(rows)
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(rest, _GROUP)):
            held = {name: [_encodable(row[name]) for row in group] for name in columns}
            writer.write_table(pa.table(held, schema=schema))


def _encodable(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
