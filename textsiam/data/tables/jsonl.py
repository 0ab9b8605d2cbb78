"""The records of a JSONL file as a table: its columns are the keys of all records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from textsiam.data.tables.columns import Row, Table
from textsiam.data.tables.errors import BadRows, DataError
from textsiam.data.tables.lines import Lines


def json_table(lines: Lines, bad: BadRows) -> Table:
    """Read JSONL: once for the keys, which any record may lack, and again for the values.

    Raises:
        DataError: it holds no object, or is a JSON array.
    """
    columns: dict[str, None] = {}
    for _, _, record in _records(lines, bad, quietly=True):
        columns.update(dict.fromkeys(record))
    if not columns:
        lines.restart()
        for _ in _records(lines, bad):  # says what is wrong with the first line
            pass
        raise DataError(f"{lines.name}: holds no JSON object")

    def read(names: Sequence[str]) -> Iterator[Row]:
        lines.restart()
        for number, line, record in _records(lines, bad):
            values = [record.get(name) for name in names]
            # json lets through half a character, which no tokeniser takes
            half = _half_character(values) if "\\ud" in line.lower() else None
            if half is None:
                if not (lines.undecodable and "\ufffd" in str(values) and lines.reject_undecodable()):
                    yield number, values
            else:
                bad(number, "wrong encoding", f"holds half of a surrogate pair ({half!a})")

    return Table(lines.name, tuple(columns), read)


def records_table(name: str, records: Iterable[Mapping[str, Any]]) -> Table:
    """Give records in memory as a table."""
    rows = list(records)
    columns = dict.fromkeys(key for record in rows for key in record)

    def read(names: Sequence[str]) -> Iterator[Row]:
        return enumerate(([record.get(each) for each in names] for record in rows), 1)

    return Table(name, tuple(columns), read, "row ")


def _half_character(values: Sequence[Any]) -> str | None:
    try:
        json.dumps(values, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        return error.object[error.start : error.start + 1]
    return None


def _records(lines: Lines, bad: BadRows, *, quietly: bool = False) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for line in lines:
        number = lines.number
        if number == 1 and line.lstrip().startswith("["):
            raise DataError(f"{lines.name}: is a JSON array, expected one object a line (JSONL)")
        elif line.strip():
            record, problem = _parsed(line)
            if not problem:
                yield number, line, record
            elif not quietly and not lines.reject_undecodable():
                bad(number, *problem)
        lines.begin()


def _parsed(line: str) -> tuple[dict[str, Any], tuple[str, str] | None]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        return {}, ("invalid JSON", "is nested too deeply" if deep else f"is not JSON ({error})")
    if isinstance(record, dict):
        return record, None
    return {}, ("not an object", f"is a JSON {type(record).__name__}, expected an object")
