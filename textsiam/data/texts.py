"""Texts by themselves: the questions of a forum, the documents of a search, the images of a folder by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from textsiam.data.tables.columns import (
    IMAGE_NAME,
    IMAGE_NAMES,
    PAIR_NAMES,
    checked_roles,
    hold_images,
    known_pair,
    unknown_columns,
)
from textsiam.data.tables.errors import BadRows, OnBadRow, ReadReport
from textsiam.data.tables.lines import Lines
from textsiam.data.tables.readers import SAMPLES, Loader, Table, file_format, open_table
from textsiam.data.tables.rows import Cell, ImageCells, cell_reader

TEXT_NAMES = ("text", "question", "query", "sentence", "document", "title", "body", IMAGE_NAME)
ID_NAMES = ("id", "_id", "qid", "question_id", "doc_id")


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
    source: str | Path,
    *,
    column: str | None = None,
    on_bad_row: OnBadRow = "error",
    split: str = "train",
    quoted: bool | None = None,
    load: Loader | None = None,
    image_cells: ImageCells | None = None,
) -> Texts:
    """Read texts with their ids from a file; `textsiam.sources.read_texts` says how, and reads images too.

    Args:
        source: `sample:forum`; a .txt, .tsv, .csv, .jsonl or .parquet file, plain or .gz; or a Hub id.
        column: the column of the texts, where it is not recognised.
        on_bad_row: "error" stops at the first bad row, "skip" counts bad rows by reason in the report.
        split: the split of a Hub dataset.
        quoted: False takes `"` of a TSV or CSV file as an ordinary character.
        load: replaces `datasets.load_dataset`.
        image_cells: what names the images of a table; without it, such a table is refused.

    Raises:
        DataError: the source cannot be read, with file, line and value; or two texts have one id.
    """
    bad = BadRows(str(source), on_bad_row=on_bad_row)
    path = SAMPLES / "forum_questions.tsv" if bad.name == "sample:forum" else Path(source)
    found: dict[str, str] = {}
    if path.exists() and file_format(path) == "text":
        with closing(Lines(path, bad)) as lines:
            blank = _read_lines(lines, found)
        return texts_found(bad, found, {"blank line": blank} if blank else {})
    with open_table(path if path.exists() else source, bad, split=split, quoted=quoted, load=load) as table:
        name = _text_column(table, column)
        images = hold_images(table.name, [name] if isinstance(name, str) else name, table.image_columns)
        cell = cell_reader(table, images, image_cells)
        rows = _distinct(table, bad, name, cell) if isinstance(name, tuple) else _with_ids(table, bad, name, cell)
        found.update(rows)
    return texts_found(bad, found, {}, images=images)


def sample_questions() -> Texts:
    """Read the questions of the packaged forum, written for this project."""
    return read_texts("sample:forum")


def _read_lines(lines: Lines, found: dict[str, str]) -> int:
    blank = 0
    for line in lines:
        if not lines.reject_undecodable():
            if text := line.strip():
                found[str(lines.number)] = text
            else:
                blank += 1
        lines.begin()
    return blank


def _text_column(table: Table, column: str | None) -> str | tuple[str, str]:
    roles = checked_roles(table.name, table.columns, {"column": column} if column else None, ("column",))
    if roles:
        return roles["column"]
    found = next((each for each in TEXT_NAMES if each in table.columns), None)
    found = found or known_pair(table.columns, {}, (*PAIR_NAMES, IMAGE_NAMES, ("anchor", "positive")))
    if found is None:
        expected = f"one of {', '.join(TEXT_NAMES)}, or the columns of a pair"
        raise unknown_columns(table.name, table.columns, "the texts", expected, "column=…")
    return found


def _with_ids(table: Table, bad: BadRows, name: str, cell: Cell) -> Iterator[tuple[str, str]]:
    at = table.columns.index(name)
    id_at = next((table.columns.index(each) for each in ID_NAMES if each in table.columns and each != name), None)
    seen: dict[str, int] = {}
    for line, values in table.rows:
        where = f"{table.unit}{line}"
        text = cell(name, values[at])
        if isinstance(text, tuple):
            bad(where, *text)
            continue
        key = str(line) if id_at is None else _id(values[id_at])
        if not key:
            bad(where, "no id", f"{table.columns[id_at or 0]!r} is empty, expected an id")
        elif key in seen:
            bad(where, "repeated id", f"id {key!r} is taken already, by {table.unit or 'line '}{seen[key]}")
        else:
            seen[key] = line
            yield key, text


def _id(value: object) -> str:
    return "" if value is None else str(value).strip()


def _distinct(table: Table, bad: BadRows, names: tuple[str, str], cell: Cell) -> Iterator[tuple[str, str]]:
    places = [(name, table.columns.index(name)) for name in names]
    index: dict[str, int] = {}
    for line, values in table.rows:
        for name, at in places:
            text = cell(name, values[at])
            if isinstance(text, tuple):
                bad(f"{table.unit}{line}", *text)
            elif text not in index:
                index[text] = len(index) + 1
                yield str(index[text]), text


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
