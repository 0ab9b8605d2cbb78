"""Texts by themselves: the questions of a forum, the documents of a search, the files of a folder by name."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from textsiam.data.stored_strings import StringsFile, first_of_equal, store_strings
from textsiam.data.tables.columns import (
    FILE_PAIR_NAMES,
    ID_NAMES,
    NOUNS,
    PAIR_NAMES,
    TEXT_NAMES,
    Modality,
    Table,
    checked_roles,
    known_column,
    known_pair,
    modality_of_columns,
    renamed,
    unknown_columns,
    unlike,
)
from textsiam.data.tables.errors import BadRows, DataError, OnBadRow, ReadReport
from textsiam.data.tables.labels import is_missing, shown
from textsiam.data.tables.readers import Opening, open_parts, source_name
from textsiam.data.tables.rows import Cell, FileCells, cell_reader

WHOLE_ID = re.compile(r"-?\d+\.0")  # where all ids are such, they are whole numbers


@dataclass(frozen=True)
class Texts:
    """Texts in their order, each with an id that no other has; equal texts under two ids stay two.

    Those that were read into files of their own stay there, and are read as they are asked for.
    `modality` says what the texts are, or name. `metadata` is what else is known of each text, by name and in the
    order of the texts; "" is unknown. `numbered` says that the source has no ids, and the places of texts stand in.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    source: str
    report: ReadReport
    modality: Modality = "text"
    metadata: Mapping[str, Sequence[str]] = field(default_factory=dict)
    numbered: bool = False

    def facts(self, place: int) -> dict[str, str]:
        """Return what is known of a text, by name."""
        return {name: values[place] for name, values in self.metadata.items() if values[place]}

    @property
    def images(self) -> bool:
        """Whether the texts are names of images."""
        return self.modality == "image"

    @property
    def noun(self) -> str:
        """What a message calls them."""
        return "questions" if self.modality == "text" else NOUNS[self.modality]

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.texts)


def read_texts(
    source: Any,
    *,
    column: str | None = None,
    id_column: str | None = None,
    on_bad_row: OnBadRow = "error",
    file_cells: FileCells | None = None,
    store: Path | None = None,
    **opening: Unpack[Opening],
) -> Texts:
    """Read texts with their ids from a file; `textsiam.sources.read_texts` says how, and reads files too.

    Args:
        source: `sample:forum`, or what `open_table` opens; a pattern of files or a list of sources is read as one.
        column: the column of the texts, where it is not recognised.
        id_column: the column of the ids, where it is not recognised.
        on_bad_row: "error" stops at the first bad row, "skip" counts bad rows by reason in the report.
        file_cells: what names the files of a table; without it, such a table is refused.
        store: an empty folder that texts and ids are written into instead of being held in memory, where only some
            16 bytes of each are; of a table of pairs, the distinct texts are in memory too.
        opening: how tables are opened.

    Raises:
        DataError: the source cannot be read, with file, line and value; or two texts have one id.
    """
    bad = BadRows(source_name(source), on_bad_row=on_bad_row)
    parts = list(open_parts(source, bad, sample="forum_questions.tsv", known=(column, id_column), **opening))
    several, modalities = len(parts) > 1, set()
    found = _Found(several=several) if store is None else _StoredFound(store, several=several)
    for part in parts:
        with part as (table, within):
            name = _text_column(table, column, id_column)
            modality = modality_of_columns(within.name, [name] if isinstance(name, str) else name, table.file_columns)
            modalities.add(modality)
            cell = cell_reader(table, modality, file_cells, bad.on_bad_row)
            if isinstance(name, str):
                _read_with_ids(table, within, name, id_column, cell, found, [*filter(None, (column, id_column))])
            else:
                _read_distinct(table, within, name, cell, found)
    if len(modalities) > 1:
        raise DataError(f"{bad.name}: {unlike(modalities)}")
    if isinstance(found, _StoredFound):
        return found.texts(bad, modality=modalities.pop())
    texts = texts_found(bad, _whole_numbers(bad, found), {}, modality=modalities.pop())
    return replace(texts, numbered=not found.given)


def sample_questions() -> Texts:
    """Read the questions of the packaged forum, written for this project."""
    return read_texts("sample:forum")


class _Found(dict[str, str]):
    """The texts that were found, by their ids; where each id stands, and whether all that were given look like 1.0."""

    def __init__(self, *, several: bool) -> None:
        super().__init__()
        self.several = several
        self.parts: list[str] = []
        self.within: list[tuple[BadRows, str]] = []
        self._rows: dict[str, int] = {}  # of the ids, once one is repeated
        self.lines = array("q")  # in the order of the ids; the part is above the lowest 40 bits
        self.given, self.whole = False, True
        self.distinct: set[str] = set()

    def begin(self, part: str, bad: BadRows, unit: str) -> None:
        self.parts.append(part)
        self.within.append((bad, unit))

    def put(self, key: str, text: str, line: int) -> None:
        self[key] = text
        self.lines.append((len(self.parts) - 1) << 40 | line)

    def place(self, key: str) -> str:
        if key not in self._rows:
            self._rows = {each: row for row, each in enumerate(self)}
        return self.place_of(self._rows[key])

    def place_of(self, row: int) -> str:
        part, line = self.line_of(row)
        return f"{self.parts[part]}{line}"

    def line_of(self, row: int) -> tuple[int, int]:
        return divmod(self.lines[row], 1 << 40)


class _StoredFound(_Found):
    """The same in files: which ids are repeated is looked for in the end."""

    def __init__(self, folder: Path, *, several: bool) -> None:
        super().__init__(several=several)
        self._folder, self._ids, self._texts = folder, StringsFile(folder / "ids"), StringsFile(folder / "texts")

    def __contains__(self, key: object) -> bool:
        return False

    def __len__(self) -> int:
        return len(self.lines)

    def put(self, key: str, text: str, line: int) -> None:
        self._ids.append(key)
        self._texts.append(text)
        self.lines.append((len(self.parts) - 1) << 40 | line)

    def texts(self, bad: BadRows, *, modality: Modality) -> Texts:
        ids, texts = self._ids.close(), self._texts.close()
        first = first_of_equal(ids, self._folder)
        once = first == np.arange(len(first), dtype=first.dtype)
        for row in np.flatnonzero(~once).tolist():
            part, line = self.line_of(row)
            within, unit = self.within[part]
            within(f"{unit}{line}", *_repeated(ids[row], self.place_of(int(first[row]))))
        if not once.all():
            ids, texts = (each.rows(np.flatnonzero(once)) for each in (ids, texts))
        if not len(ids):
            raise bad.nothing_usable("holds no text")
        if _all_whole(bad, self):
            ids = store_strings(self._folder / "whole", (key.removesuffix(".0") for key in ids))
        return Texts(ids, texts, bad.name, bad.report(len(ids), len(ids)), modality, numbered=not self.given)


def _text_column(table: Table, column: str | None, id_column: str | None) -> str | tuple[str, str]:
    given = {role: name for role, name in (("column", column), ("id_column", id_column)) if name}
    roles = checked_roles(table.name, table.columns, given, ("column", "id_column"))
    if column:
        return roles["column"]
    if found := known_column(table.columns, TEXT_NAMES):
        return found
    pair = known_pair(table.columns, {}, (*PAIR_NAMES, *FILE_PAIR_NAMES, ("anchor", "positive")))
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
    found.begin(f"{bad.name}:{table.unit}" if found.several else unit, bad, table.unit)
    for line, (value, *ids) in table.values([column, *([id_name] if id_name else [])]):
        where = f"{table.unit}{line}"
        text = cell(column, value)
        if isinstance(text, tuple):
            bad(where, *text)
            continue
        key = checked_id(ids[0]) if ids else ""
        if key is None:
            bad(where, "bad id", f"{id_name!r} is {shown(ids[0])} ({type(ids[0]).__name__}), expected an id")
            continue
        if key:
            found.given, found.whole = True, found.whole and WHOLE_ID.fullmatch(key) is not None
        else:
            missing += 1
            key = str(line) if id_name is None else f"{unit}{line}"
            key = f"{Path(bad.name).name}:{key}" if found.several else key
        if key in found:
            bad(where, *_repeated(key, found.place(key)))
        else:
            found.put(key, text, line)
    if missing and not table.lines_are_ids:
        why = "no column holds them, --id-column names one"
        if id_name is not None:
            why = f"{id_name!r} is empty in {missing:,} row{'s' if missing > 1 else ''}"
        bad.note(f"{unit.strip()} numbers stand in for ids: {why}")


def _repeated(key: str, place: str) -> tuple[str, str]:
    return "repeated id", f"id {key!r} is taken already, by {place}"


def checked_id(value: object) -> str | None:
    """Give an id as a string: "" where there is none, None where this cannot be one."""
    if is_missing(value) and not isinstance(value, str):
        return ""
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            value = value.decode()
    return None if isinstance(value, bytes | dict | list) else str(value).strip()


def _read_distinct(table: Table, bad: BadRows, names: tuple[str, str], cell: Cell, found: _Found) -> None:
    found.begin("", bad, table.unit)
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
    return {key.removesuffix(".0"): text for key, text in found.items()} if _all_whole(bad, found) else found


def _all_whole(bad: BadRows, found: _Found) -> bool:
    if whole := found.given and found.whole:
        bad.note("ids such as '1.0' are read as '1'")
    return whole


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
    modality: Modality = "text",
    metadata: Mapping[str, Sequence[str]] | None = None,
) -> Texts:
    """Return the texts that were found by their ids, with a report of those that were not used.

    Raises:
        DataError: there are none.
    """
    if not found:
        raise bad.nothing_usable("holds no text")
    report = bad.report(len(found), len(found), skipped={**bad.skipped, **passed_over})
    return Texts(list(found), list(found.values()), bad.name, report, modality, metadata or {})
