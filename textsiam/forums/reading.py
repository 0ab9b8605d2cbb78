"""Reading a forum folder: its questions, and the links between them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from textsiam.data.tables.columns import checked_text, text_problem
from textsiam.data.tables.errors import BadRows, DataError, OnBadRow
from textsiam.data.tables.jsonl import records_table
from textsiam.data.tables.readers import Table, open_table
from textsiam.data.texts import Texts, texts_found
from textsiam.forums.questions import KINDS, shown

QUESTIONS, LINKS, PROVENANCE = "questions.parquet", "duplicates.tsv", "provenance.json"
_FACTS = ("url", "tags", "created")  # what goes with a question to where it is shown


@dataclass(frozen=True)
class Link:
    """A link from one question to another; of a duplicate, to the question that was there before."""

    id1: str
    id2: str
    kind: str


def is_forum(source: str | Path) -> bool:
    """Tell whether this is a forum folder, as `textsiam import` writes it, or what is left of one."""
    return any(os.path.isfile(Path(source, name)) for name in (QUESTIONS, LINKS))  # False, too, where nobody may look


def read_questions(folder: str | Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Give the values of some columns, a question after the other, in bounded memory.

    Args:
        folder: The forum.
        columns: Some of id, text, title, body, tags, created, url and score.

    Raises:
        DataError: The file is missing or damaged, or has no such column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(folder, QUESTIONS)
    try:
        with pq.ParquetFile(path) as file:
            for name in columns:
                if name not in file.schema_arrow.names:
                    raise DataError(f"{path}: has no column {name!r}, found {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(batch_size=8192, columns=list(columns)):
                yield from zip(*(batch[name].to_pylist() for name in columns), strict=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: is missing or damaged ({error}); import the forum again") from None


def read_texts(folder: str | Path, *, column: str | None = None, on_bad_row: OnBadRow = "error") -> Texts:
    """Read the texts of a forum with their ids, and with url, tags and date as metadata.

    Args:
        folder: The forum.
        column: Another column than "text": "title" or "body".
        on_bad_row: "error" stops at the first empty text, "skip" counts it.

    Raises:
        DataError: The folder is damaged, has no such column, or has an empty text in it.
    """
    bad = BadRows(str(Path(folder, QUESTIONS)), on_bad_row=on_bad_row)
    name = column or "text"
    found: dict[str, str] = {}
    facts: dict[str, list[str]] = {fact: [] for fact in _FACTS}
    for row, (key, cell, *values) in enumerate(read_questions(folder, ("id", name, *_FACTS)), start=1):
        text = checked_text(cell)
        if text is None:
            bad(f"row {row}", *text_problem(name, cell))
            continue
        found[key] = text
        for fact, value in zip(_FACTS, values, strict=True):
            facts[fact].append(shown(value))
    given = {fact: values for fact, values in facts.items() if any(values)}
    return texts_found(bad, found, {}, metadata=given)


def read_links(folder: str | Path, *, kind: str | None = None) -> Iterator[Link]:
    """Give the links of a forum, or those of one kind: "duplicate" or "related".

    Raises:
        DataError: The file is missing or damaged, with line and value.
    """
    path = Path(folder, LINKS)
    if not path.is_file():
        raise DataError(f"{path}: is missing; import the forum again")
    bad = BadRows(str(path))
    with open_table(path, bad) as table:
        if table.columns != ("id1", "id2", "kind"):
            raise DataError(f"{path}:1: has the columns {', '.join(table.columns)}, expected id1, id2, kind")
        for line, (id1, id2, found) in table.rows:
            if found not in KINDS:
                bad(line, "bad kind", f"'kind' is {found!r}, expected {' or '.join(KINDS)}")
            elif kind in (None, found):
                yield Link(id1, id2, found)


def duplicate_pairs(folder: str | Path) -> Table:
    """Return the duplicate links of a forum as a table of pairs: question1, question2, is_duplicate (always 1).

    Raises:
        DataError: The folder is damaged, or no question is linked as a duplicate.
    """
    links = list(read_links(folder, kind="duplicate"))
    linked = {end for link in links for end in (link.id1, link.id2)}
    texts = {key: text for key, text in read_questions(folder, ("id", "text")) if key in linked}
    missing = sorted(linked - texts.keys())
    path = Path(folder, LINKS)
    if missing:
        raise DataError(f"{path}: links question {missing[0]!r}, which {QUESTIONS} does not hold")
    if not links:
        raise DataError(f"{path}: links no question as a duplicate; expected pairs")
    records = ({"question1": texts[link.id1], "question2": texts[link.id2], "is_duplicate": 1} for link in links)
    return replace(records_table(str(path), records), unit="link ")


def dates_of_texts(folder: str | Path) -> dict[str, str]:
    """Return when each text of a forum was asked, the last time where several questions have it; "" is unknown.

    Raises:
        DataError: The file is missing or damaged.
    """
    found: dict[str, str] = {}
    for text, created in read_questions(folder, ("text", "created")):
        found[text.strip()] = max(created or "", found.get(text.strip(), ""))
    return found
