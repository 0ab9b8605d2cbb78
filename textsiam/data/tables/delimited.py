"""TSV and CSV: the delimiter and the header are decided once, from the first lines; rows are never guessed."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Literal

from textsiam.data.tables.columns import Row, Table
from textsiam.data.tables.errors import BadRows, DataError
from textsiam.data.tables.labels import label_of, number_of
from textsiam.data.tables.lines import Lines

LONGEST_RECORD = 131_072  # characters after which a record of several lines is suspected of an open quote
_DELIMITERS = "\t,;|"
_SAMPLE = 20  # lines that tell the delimiter
_SEP = re.compile(r'"?sep=(.)"?[\r\n]*', re.DOTALL)  # the first line that Excel reads and writes
_STS_NAMES = ("genre", "file", "year", "id", "score", "sentence1", "sentence2")  # then, on some lines, sources
_DECIMAL = re.compile(r"\s*-?\d*\.\d+\s*")


def delimited_table(lines: Lines, bad: BadRows, usual: str, quoted: bool | None) -> Table:
    """Read the header of a TSV or CSV file, and give the rows below it.

    Args:
        lines: the file.
        bad: what to do with rows that cannot be read.
        usual: the delimiter that the name of the file promises; the content wins.
        quoted: whether `"` quotes a field. None means yes, except under an angle-bracket header (`<question1>`), whose
            layout has no quoting; then a quote that swallowed what looks like rows is refused, too.

    Raises:
        DataError: the header is blank, broken or not UTF-8.
    """
    header = _first_line(lines)
    if _is_sts(header):
        note = "has no header: read as the STS Benchmark's layout"
        return Table(lines.name, _STS_NAMES, lambda names: _sts_rows(lines, bad, names), notes=(note,))
    if quoted is None and header.startswith("<"):
        quoted = False
    if separator := _SEP.fullmatch(header):
        delimiter, note = separator[1], ""
        lines.begin()
    else:
        sample = [header, *islice(lines, _SAMPLE)]
        lines.rewind(0)
        delimiter = _delimiter(sample, usual, quoted)
        note = "" if delimiter == usual else f"fields are separated by {_name(delimiter)}"
        note = note if delimiter in header or not note else f"has one column, so that {_name(usual)} separate nothing"
    lines.begin()
    start = lines.number + 1
    try:
        names = next(csv.reader(_fed(lines, delimiter, 1, quoted), **_dialect(delimiter, quoted)), [])
    except csv.Error as error:
        raise DataError(f"{lines.name}:{start}: the header cannot be read ({error})") from None
    columns = tuple(name.strip().strip("<>") for name in names)
    below = lines.number

    def read(asked: Sequence[str]) -> Iterator[Row]:
        lines.restart(below)
        places = [columns.index(name) for name in asked]
        for line, row in _rows(lines, bad, delimiter, quoted, len(columns)):
            values = [row[at] for at in places]
            if not (lines.undecodable and "\ufffd" in "".join(values) and lines.reject_undecodable()):
                yield line, values

    return Table(lines.name, columns, read, notes=(note,))


def _first_line(lines: Lines) -> str:
    header = next(lines)
    if lines.undecodable:
        raise DataError(f"{lines.name}:1: {lines.undecodable[1]}")
    if not header.strip():
        raise DataError(f"{lines.name}:1: is blank, expected a header")
    if "\r" in header.rstrip("\r\n"):
        raise DataError(f"{lines.name}: lines end in a bare carriage return, expected a line feed")
    return header


def _name(delimiter: str) -> str:
    return {"\t": "tabs", ",": "commas", ";": "semicolons"}.get(delimiter, repr(delimiter))


def _delimiter(sample: Sequence[str], usual: str, quoted: bool | None) -> str:
    """Decide by the header and the lines below it: what gives most rows the header's width, then the wider header."""

    def fit(delimiter: str) -> tuple[bool, float, int, bool]:
        rows = csv.reader(sample, delimiter=delimiter, quoting=_dialect(delimiter, quoted)["quoting"])
        try:
            widths = [len(row) for row in rows if row]
        except csv.Error:
            widths = [sample[0].count(delimiter) + 1]
        width, *others = widths
        share = sum(each == width for each in others) / len(others) if others else 1.0
        return width > 1, round(share, 1), width, delimiter == usual

    return max((usual, *_DELIMITERS), key=fit)


def _dialect(delimiter: str, quoted: bool | None) -> dict[str, Any]:
    quoting: Literal[0, 3] = csv.QUOTE_NONE if quoted is False else csv.QUOTE_MINIMAL
    return {"delimiter": delimiter, "quoting": quoting, "strict": True}


def _fed(lines: Lines, delimiter: str, width: int, quoted: bool | None) -> Iterator[str]:
    """Give lines to a csv.reader, which limits the length of fields for the whole process: raised where one is longer.

    A quote that opens and swallows rows is found out before it swallows the whole file.
    """
    size, suspect = 0, LONGEST_RECORD
    for line in lines:
        several = len(lines.taken) > 1
        size, suspect = (size + len(line), suspect) if several else (len(line), LONGEST_RECORD)
        if several and size > suspect and quoted is None and width > 1:
            rows = sum(_like_a_row(each, delimiter, width) for each in lines.taken[1:])
            if 2 * rows > len(lines.taken):
                raise csv.Error("open quote")
            suspect = 2 * size
        if size > csv.field_size_limit():
            csv.field_size_limit(2 * size)
        yield line


def _rows(
    lines: Lines, bad: BadRows, delimiter: str, quoted: bool | None, width: int
) -> Iterator[tuple[int, list[str]]]:
    while True:
        # A csv.reader is of no use after an error; a new one starts at the line after the bad one.
        reader = csv.reader(_fed(lines, delimiter, width, quoted), **_dialect(delimiter, quoted))
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
            if len(lines.taken) > 1 and len(row) != width:
                bad(start, "unbalanced quoting", _unbalanced(
                    f"the row has {len(row)} fields down to line {lines.number}, the header has {width}"
                ))  # fmt: skip
                lines.rewind()
                break
            elif len(lines.taken) > 1 and quoted is None and _holds_whole_rows(lines.taken, delimiter, width):
                what = f"the quote that opens here is closed by a stray one on line {lines.number}"
                bad(
                    start, "unbalanced quoting", f"{_unbalanced(what)}; if it closes a field of several lines, --quoted"
                )
                lines.rewind()
                break
            elif len(row) == width:
                yield start, row
            elif row:  # a blank line is no row
                bad(start, "wrong field count", f"has {len(row)} fields, the header has {width}")


def _reject_record(lines: Lines, bad: BadRows, start: int, error: str) -> None:
    if error.startswith("new-line character"):
        bad(start, "carriage return", "a carriage return inside an unquoted field")
    else:
        what = "text follows a closing quote"
        if error == "open quote":
            what = f"a quote opens and {LONGEST_RECORD:,} characters do not close it"
        elif error.startswith("unexpected end"):
            what = "a quote opens and the file ends before it closes"
        bad(start, "unbalanced quoting", _unbalanced(what))


def _unbalanced(what: str) -> str:
    return f"unbalanced quoting: {what}; if '\"' is an ordinary character here, pass --no-quoted (quoted=False)"


def _holds_whole_rows(taken: Sequence[str], delimiter: str, width: int) -> bool:
    """Tell a quote that swallowed rows from a text of several lines.

    A quote that opens in one row and is closed by a stray quote of another leaves a first and a last line
    that would each be a row on their own; of commas, one that ends in a label or a score.
    """

    def whole(line: str) -> bool:
        last = line.rstrip("\r\n").rpartition(delimiter)[2].strip('"')
        judged = label_of(last) is not None or _DECIMAL.fullmatch(last) is not None
        return _like_a_row(line, delimiter, width) and (delimiter == "\t" or judged)

    return width > 1 and whole(taken[0]) and whole(taken[-1])


def _like_a_row(line: str, delimiter: str, width: int) -> bool:
    """Tell whether a line has the fields of a row. A tab inside a text is rare; a comma is not, but a space follows."""
    fields = line.rstrip("\r\n").split(delimiter)
    return len(fields) == width and (delimiter == "\t" or not any(field.startswith(" ") for field in fields[1:]))


def _is_sts(header: str) -> bool:
    fields = header.rstrip("\r\n").split("\t")
    return len(fields) >= len(_STS_NAMES) and number_of(fields[4]) is not None


def _sts_rows(lines: Lines, bad: BadRows, names: Sequence[str]) -> Iterator[Row]:
    """Give the rows of the STS Benchmark's own files: no header, tabs whatever the ending, no quoting."""
    places = [_STS_NAMES.index(name) for name in names]
    lines.restart()
    for line in lines:
        fields = line.rstrip("\r\n").split("\t")
        if lines.reject_undecodable():
            pass
        elif len(fields) >= len(_STS_NAMES):
            yield lines.number, [fields[at] for at in places]
        elif line.strip():
            bad(lines.number, "wrong field count", f"has {len(fields)} fields, expected {len(_STS_NAMES)} or more")
        lines.begin()
