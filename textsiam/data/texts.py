"""Texts by themselves: the questions of a forum, the documents of a search, the images of a folder by name."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textsiam.data.tables.columns import (
    ID_NAMES,
    IMAGE_NAMES,
    PAIR_NAMES,
    TEXT_NAMES,
    Table,
    checked_roles,
    hold_images,
    known_column,
    known_pair,
    renamed,
    unknown_columns,
)
from textsiam.data.tables.errors import BadRows, DataError, OnBadRow, ReadReport
from textsiam.data.tables.labels import is_missing, shown
from textsiam.data.tables.readers import Loader, open_parts, source_name
from textsiam.data.tables.rows import Cell, ImageCells, cell_reader

_FLOAT = re.compile(r"-?\d+\.0")


@dataclass(frozen=True)
class Texts:
    """Texts in their order, each with an id that no other has; equal texts under two ids stay two.

    `images` says that the texts are names of images. `metadata` is what else is known of each text, by name and in the
    order of the texts; "" is unknown.
    """

    ids: list[str]
    texts: list[str]
    source: str
    report: ReadReport
    images: bool = False
    metadata: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def facts(self, place: int) -> dict[str, str]:
        """Return what is known of a text, by name."""
        return {name: values[place] for name, values in self.metadata.items() if values[place]}

    @property
    def noun(self) -> str:
        """What a message calls them."""
        return "images" if self.images else "questions"

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.texts)


def read_texts(
    source: Any,
    *,
    column: str | None = None,
    id_column: str | None = None,
    on_bad_row: OnBadRow = "error",
    split: str = "train",
    quoted: bool | None = None,
    load: Loader | None = None,
    image_cells: ImageCells | None = None,
) -> Texts:
    """Read texts with their ids from a file; `textsiam.sources.read_texts` says how, and reads images too.

    Args:
        source: `sample:forum`, or what `open_table` opens; a pattern of files or a list of sources is read as one.
        column: the column of the texts, where it is not recognised.
        id_column: the column of the ids, where it is not recognised.
        on_bad_row: "error" stops at the first bad row, "skip" counts bad rows by reason in the report.
        split: the split of a Hub dataset.
        quoted: False takes `"` of a TSV or CSV file as an ordinary character.
        load: replaces `datasets.load_dataset`.
        image_cells: what names the images of a table; without it, such a table is refused.

    Raises:
        DataError: the source cannot be read, with file, line and value; or two texts have one id.
    """
    bad = BadRows(source_name(source), on_bad_row=on_bad_row)
    options = {"split": split, "quoted": quoted, "load": load, "known": (column, id_column)}
    parts = list(open_parts(source, bad, sample="forum_questions.tsv", **options))
    found, images = _Found(several=len(parts) > 1), set()
    for part in parts:
        with part as (table, within):
            name = _text_column(table, column, id_column)
            images.add(hold_images(within.name, [name] if isinstance(name, str) else name, table.image_columns))
            cell = cell_reader(table, any(images), image_cells, bad.on_bad_row)
            if isinstance(name, str):
                _read_with_ids(table, within, name, id_column, cell, found, [*filter(None, (column, id_column))])
            else:
                _read_distinct(table, within, name, cell, found)
    if len(images) > 1:
        raise DataError(f"{bad.name}: some hold images, and some texts")
    return texts_found(bad, _whole_numbers(bad, found), {}, images=images.pop())


def sample_questions() -> Texts:
    """Read the questions of the packaged forum, written for this project."""
    return read_texts("sample:forum")


class _Found(dict[str, str]):
    """The texts that were found, by their ids; where each id stands, and whether all that were given look like 1.0."""

    def __init__(self, *, several: bool) -> None:
        super().__init__()
        self.several = several
        self.parts: list[str] = []
        self.lines = array("q")  # in the order of the ids; the part is above the lowest 40 bits
        self.given, self.whole = False, True
        self.distinct: set[str] = set()

    def begin(self, part: str) -> None:
        self.parts.append(part)

    def put(self, key: str, text: str, line: int) -> None:
        self[key] = text
        self.lines.append((len(self.parts) - 1) << 40 | line)

    def place(self, key: str) -> str:
        part, line = divmod(self.lines[list(self).index(key)], 1 << 40)
        return f"{self.parts[part]}{line}"


def _text_column(table: Table, column: str | None, id_column: str | None) -> str | tuple[str, str]:
    given = {role: name for role, name in (("column", column), ("id_column", id_column)) if name}
    roles = checked_roles(table.name, table.columns, given, ("column", "id_column"))
    if column:
        return roles["column"]
    if found := known_column(table.columns, TEXT_NAMES):
        return found
    pair = known_pair(table.columns, {}, (*PAIR_NAMES, IMAGE_NAMES, ("anchor", "positive")))
    if pair is None:
        expected = f"one of {', '.join(TEXT_NAMES)}, or the columns of a pair"
        option = "--column NAME (column= in Python)"
        raise unknown_columns(table.name, table.columns, "the texts", expected, option)
    if id_column:
        raise DataError(f"{table.name}: --id-column {id_column}: {pair[0]!r} and {pair[1]!r} hold pairs, whose texts "
                        "have no ids of their own; --column names a column of texts")  # fmt: skip
    return pair


def _read_with_ids(
    table: Table, bad: BadRows, column: str, id_column: str | None, cell: Cell, found: _Found, named: Sequence[str]
) -> None:
    id_name = id_column or known_column([each for each in table.columns if each != column], ID_NAMES)
    bad.note(renamed(("texts", "ids"), (column, id_name), {*TEXT_NAMES, *ID_NAMES, *named}))
    unit, missing = table.unit or "line ", 0
    found.begin(f"{bad.name}:{table.unit}" if found.several else unit)
    for line, (value, *ids) in table.values([column, *([id_name] if id_name else [])]):
        where = f"{table.unit}{line}"
        text = cell(column, value)
        if isinstance(text, tuple):
            bad(where, *text)
            continue
        key = _id(ids[0]) if ids else ""
        if key is None:
            bad(where, "bad id", f"{id_name!r} is {shown(ids[0])} ({type(ids[0]).__name__}), expected an id")
            continue
        if key:
            found.given, found.whole = True, found.whole and _FLOAT.fullmatch(key) is not None
        else:
            missing += 1
            key = str(line) if id_name is None else f"{unit}{line}"
            key = f"{Path(bad.name).name}:{key}" if found.several else key
        if key in found:
            bad(where, "repeated id", f"id {key!r} is taken already, by {found.place(key)}")
        else:
            found.put(key, text, line)
    if missing and not table.lines_are_ids:
        why = "no column holds them, --id-column names one"
        if id_name is not None:
            why = f"{id_name!r} is empty in {missing:,} row{'s' if missing > 1 else ''}"
        bad.note(f"{unit.strip()} numbers stand in for ids: {why}")


def _id(value: object) -> str | None:
    """Give an id as a string: "" where there is none, None where this cannot be one."""
    if is_missing(value) and not isinstance(value, str):
        return ""
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            value = value.decode()
    return None if isinstance(value, bytes | dict | list) else str(value).strip()


def _read_distinct(table: Table, bad: BadRows, names: tuple[str, str], cell: Cell, found: _Found) -> None:
    found.begin("")
    bad.note("the distinct texts of pairs, numbered from 1")
    for line, values in table.values(names):
        for name, value in zip(names, values, strict=True):
            text = cell(name, value)
            if isinstance(text, tuple):
                bad(f"{table.unit}{line}", *text)
            elif text not in found.distinct:
                found.distinct.add(text)
                found.put(str(len(found) + 1), text, line)


def _whole_numbers(bad: BadRows, found: _Found) -> dict[str, str]:
    """Give ids that are whole numbers without their `.0`: what a table writes as soon as one of its ids is missing."""
    if not (found.given and found.whole):
        return found
    bad.note("ids such as '1.0' are read as '1'")
    return {key.removesuffix(".0"): text for key, text in found.items()}


def texts_digest(texts: Iterable[str]) -> str:
    """Return a digest of texts in their order, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)} ".encode() + text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def texts_found(
    bad: BadRows,
    found: dict[str, str],
    passed_over: dict[str, int],
    *,
    images: bool = False,
    metadata: Mapping[str, Sequence[str]] | None = None,
) -> Texts:
    """Return the texts that were found by their ids, with a report of those that were not used.

    Raises:
        DataError: there are none.
    """
    if not found:
        raise bad.nothing_usable("holds no text")
    report = bad.report(len(found), len(found), skipped={**bad.skipped, **passed_over})
    return Texts(list(found), list(found.values()), bad.name, report, images, metadata or {})
