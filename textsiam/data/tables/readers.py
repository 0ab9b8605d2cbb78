"""Rows of a table, whatever the file: TSV, CSV, JSONL, Parquet (plain or .gz) or a Hub dataset.

A reader yields `(line, values)` and never guesses: a row that cannot be read is handed to `BadRows`, which
stops with one `file:line: …` message or counts the row by reason and lets the reading go on.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from textsiam.data.tables.errors import EXAMPLES, BadRows, DataError
from textsiam.data.tables.hub import HubRows, Loader, load_hub
from textsiam.data.tables.lines import Lines, open_plain

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["FORMATS", "LONGEST_RECORD", "SAMPLES", "Loader", "Table", "dataset_table", "file_format", "open_table"]

FORMATS = {
    ".tsv": "\t",
    ".csv": ",",
    ".jsonl": "json",
    ".json": "json",
    ".parquet": "parquet",
    ".txt": "text",
}
SAMPLES = Path(__file__).parents[1] / "samples"
LONGEST_RECORD = csv.field_size_limit()
_LABEL_LIKE = re.compile(r"\s*\"?(-?\d+(\.\d+)?|true|false|duplicate|not_duplicate)\"?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """Named columns and the rows under them, read once and in order.

    `rows` yields `(line, values)`, values in the order of `columns`; `unit` says what a "line" is ("" for a
    line of a text file, "row " for Parquet and Hub rows); `class_names` has the names of integer classes;
    `image_columns` are known to hold images, and paths in a column of images are relative to `folder`.
    """

    name: str
    columns: tuple[str, ...]
    rows: Iterator[tuple[int, Sequence[Any]]]
    unit: str = ""
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    image_columns: tuple[str, ...] = ()
    folder: Path | None = None


@contextmanager
def open_table(
    source: str | Path,
    bad: BadRows,
    *,
    split: str = "train",
    quoted: bool | None = None,
    load: Loader | None = None,
) -> Iterator[Table]:
    """Open a local file by its extension, or a Hub dataset by its id.

    Args:
        source: a path ending in .tsv, .csv, .jsonl or .parquet, plain or .gz; else `owner/name[:config]`.
        bad: what to do with rows that cannot be read.
        split: the split of a Hub dataset.
        quoted: whether `"` quotes a field of TSV and CSV files; None means yes, except under an
            angle-bracket header (`<question1>`), whose layout has no quoting.
        load: replaces `datasets.load_dataset`.

    Raises:
        DataError: no such file, a directory, an unknown extension, an empty, truncated or non-UTF-8 file.
    """
    path = Path(source)
    if not path.exists():
        yield dataset_table(str(source), load_hub(str(source), FORMATS, split=split, load=load))
        return
    kind = file_format(path)
    if kind == "text":
        raise DataError(f"{bad.name}: a .txt file has no columns, expected .tsv, .csv, .jsonl or .parquet")
    if kind == "parquet":
        yield _parquet_table(path, bad)
        return
    with closing(Lines(path, bad)) as lines:
        table = _json_table(lines, bad) if kind == "json" else _delimited_table(lines, bad, kind, quoted)
        yield replace(table, folder=path.parent)


def dataset_table(name: str, dataset: Dataset) -> Table:
    """Give the rows of a `datasets.Dataset`; images stay undecoded."""
    rows = HubRows(dataset)
    return Table(name, rows.columns, iter(rows), "row ", rows.class_names, rows.image_columns)


def file_format(path: Path) -> str:
    """Say what the extension stands for: a delimiter, "json", "parquet" or "text"."""
    if path.is_dir():
        inside = sorted(child.name for child in path.iterdir() if not child.name.startswith("."))
        held = ", ".join(inside[:EXAMPLES]) + (", …" if len(inside) > EXAMPLES else "") or "nothing"
        raise DataError(f"{path}: is a directory, expected a file; it holds {held}")
    suffix = path.with_suffix("").suffix if path.suffix.lower() == ".gz" else path.suffix
    try:
        return FORMATS[suffix.lower()]
    except KeyError:
        known = ", ".join(FORMATS)
        raise DataError(f"{path}: unknown extension {suffix!r}, expected {known}, each also with .gz") from None


def _delimited_table(lines: Lines, bad: BadRows, delimiter: str, quoted: bool | None) -> Table:
    header = next(lines)
    if lines.undecodable:
        raise DataError(f"{lines.name}:1: {lines.undecodable[1]}")
    if not header.strip():
        raise DataError(f"{lines.name}:1: is blank, expected a header")
    if "\r" in header.rstrip("\r\n"):
        raise DataError(f"{lines.name}: lines end in a bare carriage return, expected a line feed")
    if delimiter not in header:  # the content wins over the name: .csv files full of tabs are common
        delimiter = next((other for other in "\t,;" if other in header), delimiter)
    if quoted is None:
        quoted = not header.startswith("<")
    try:
        names = next(csv.reader([header], delimiter=delimiter, quoting=_quoting(quoted), strict=True), [])
    except csv.Error as error:
        raise DataError(f"{lines.name}:1: the header cannot be read ({error})") from None
    columns = tuple(name.strip().strip("<>") for name in names)
    repeated = [name for name, times in Counter(columns).items() if times > 1]
    if repeated:
        raise DataError(f"{lines.name}:1: column {repeated[0]!r} appears {columns.count(repeated[0])} times")
    return Table(lines.name, columns, _delimited_rows(lines, bad, delimiter, quoted, len(columns)))


def _quoting(quoted: bool) -> Literal[0, 3]:
    return csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE


def _delimited_rows(
    lines: Lines, bad: BadRows, delimiter: str, quoted: bool, width: int
) -> Iterator[tuple[int, list[str]]]:
    while True:
        # A csv.reader is of no use after an error; a new one starts at the line after the bad one.
        reader = csv.reader(lines, delimiter=delimiter, quoting=_quoting(quoted), strict=True)
        while True:
            lines.begin()
            start = lines.number + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                _reject_record(lines, bad, start, str(error))
                lines.rewind()
                break
            if lines.undecodable:
                lines.reject_undecodable()
            elif len(lines.taken) > 1 and (len(row) != width or _holds_whole_rows(lines.taken, delimiter, width)):
                bad(start, "unbalanced quoting", _swallowed(lines.number, len(row), width))
                lines.rewind()
                break
            elif len(row) == width:
                yield start, row
            elif row:  # a blank line is no row
                bad(start, "wrong field count", f"has {len(row)} fields, the header has {width}")


def _reject_record(lines: Lines, bad: BadRows, start: int, error: str) -> None:
    if error.startswith("new-line character"):
        bad(start, "carriage return", "a carriage return inside an unquoted field")
    elif error.startswith("line contains NUL"):
        bad(start, "NUL byte", "holds a NUL byte")
    elif error.startswith("field larger") and len(lines.taken) == 1:
        bad(start, "field too long", f"a field is longer than {LONGEST_RECORD:,} characters")
    else:
        what = "text follows a closing quote"
        if error.startswith("field larger"):
            what = f"a quote opens and {LONGEST_RECORD:,} characters do not close it"
        elif error.startswith("unexpected end"):
            what = "a quote opens and the file ends before it closes"
        bad(start, "unbalanced quoting", _unbalanced(what))


def _unbalanced(what: str) -> str:
    return f"unbalanced quoting: {what}; if '\"' is an ordinary character here, pass quoted=False"


def _swallowed(last: int, found: int, width: int) -> str:
    if found != width:
        return _unbalanced(f"the row has {found} fields down to line {last}, the header has {width}")
    return _unbalanced(f"the quote that opens here is closed by a stray one on line {last}")


def _holds_whole_rows(taken: Sequence[str], delimiter: str, width: int) -> bool:
    """Tell a quote that swallowed rows from a text of several lines.

    A quote that opens in one row and is closed by a stray quote of another leaves a first and a last line
    that would each be a row on their own. A tab inside a text is rare enough to count tabs; a comma is not,
    so there the last field must be a number or a label too.
    """

    def whole(line: str) -> bool:
        if delimiter == "\t":
            return line.count(delimiter) == width - 1
        return line.count(delimiter) >= width - 1 and bool(_LABEL_LIKE.fullmatch(line.rsplit(delimiter, 1)[-1]))

    return width > 1 and whole(taken[0]) and whole(taken[-1])


def _json_table(lines: Lines, bad: BadRows) -> Table:
    rows = _json_rows(lines, bad)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{lines.name}: holds no JSON object")
    columns = tuple(first[1])
    values = ((line, [record.get(name) for name in columns]) for line, record in itertools.chain([first], rows))
    return Table(lines.name, columns, values)


def _json_rows(lines: Lines, bad: BadRows) -> Iterator[tuple[int, dict[str, Any]]]:
    for line in lines:
        number = lines.number
        if lines.undecodable:
            lines.reject_undecodable()
        elif number == 1 and line.lstrip().startswith("["):
            raise DataError(f"{lines.name}: is a JSON array, expected one object a line (JSONL)")
        elif line.strip():
            record = _json_object(line, number, bad)
            if record is not None:
                yield number, record
        lines.begin()


def _json_object(line: str, number: int, bad: BadRows) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        if "\\ud" in line.lower():  # json lets through half a character, which no tokeniser takes
            json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.start + 1]
        bad(number, "wrong encoding", f"holds half of a surrogate pair ({half!a})")
    except ValueError as error:
        bad(number, "invalid JSON", f"is not JSON ({error})")
    else:
        if isinstance(record, dict):
            return record
        bad(number, "not an object", f"is a JSON {type(record).__name__}, expected an object")
    return None


def _parquet_table(path: Path, bad: BadRows) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_plain(path) as stream:
            packed = isinstance(stream, gzip.GzipFile)
            file = pq.ParquetFile(pa.BufferReader(stream.read()) if packed else path)
    except (OSError, EOFError, zlib.error, pa.ArrowInvalid) as error:
        raise DataError(f"{bad.name}: is not a Parquet file or is damaged ({error})") from None

    def rows() -> Iterator[tuple[int, Sequence[Any]]]:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=8192):
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield number, values
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{bad.name}: is damaged after row {number} ({error})") from None

    return Table(bad.name, tuple(file.schema_arrow.names), rows(), unit="row ", folder=path.parent)
