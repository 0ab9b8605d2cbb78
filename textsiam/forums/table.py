"""Any table as a forum: a question a row, and links between them from a file beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from textsiam.data.tables.columns import ID_NAMES, TEXT_NAMES, known_column, unknown_columns
from textsiam.data.tables.errors import BadRows, OnBadRow
from textsiam.data.tables.labels import is_missing
from textsiam.data.tables.readers import Table, open_table
from textsiam.data.tables.rows import Problem
from textsiam.data.texts import WHOLE_ID, checked_id
from textsiam.forums.questions import (
    KINDS,
    WHOLE_IDS,
    Question,
    cell,
    id_cell,
    split_tags,
    storable,
    tag_names,
    template_columns,
    text_template,
    utc,
)
from textsiam.forums.writing import ForumWriter, Progress, forum_writer

_NAMES = {
    "id": ID_NAMES,
    "title": ("title",),
    "body": ("body",),
    "tags": ("tags",),
    "created": ("created", "created_at", "creation_date", "date"),
    "url": ("url", "link"),
    "score": ("score",),
}
_ENDS = (("id1", "id2"), ("qid1", "qid2"), ("PostId", "RelatedPostId"))


def import_table(
    file: str | Path,
    output: str | Path,
    *,
    text: str | None = None,
    links: str | Path | None = None,
    on_bad_row: OnBadRow = "error",
    quoted: bool | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the rows of a table to a forum folder.

    Columns id, title, body, tags, created, url and score are kept; without an id, the line (or row) is one. Only these
    and those of the text are looked at. Where all ids look like 1.0, they are whole numbers.

    Args:
        file: .tsv, .csv, .jsonl or .parquet, plain or .gz; or a Hub id.
        output: The forum folder; one that is there is replaced once the new one is whole.
        text: What the text of a question is, over all columns; else the column of the texts, where one is recognised.
        links: A table with the columns id1, id2 and, where some are no duplicates, kind: "duplicate" or "related".
        on_bad_row: "error" stops at the first bad row, "skip" counts bad rows by reason.
        quoted: False takes `"` of a TSV or CSV file as an ordinary character.
        progress: Called with the rows read so far, and again those: how many there are is not known.

    Returns:
        The provenance, as it is in the folder.

    Raises:
        DataError: A file cannot be read, or a row is bad; with file, line and value.
    """
    with forum_writer(output, on_bad_row) as forum:
        bad = forum.bad_rows(str(file))
        with open_table(file, bad, quoted=quoted) as table:
            template = _add_questions(forum, bad, table, text, progress)
        if links is not None:
            bad = forum.bad_rows(str(links))
            with open_table(links, bad, quoted=quoted) as table:
                _add_links(forum, bad, table)
        files = {path.name: path.stat().st_size for path in map(Path, filter(None, (file, links))) if path.exists()}
        return forum.finish({"kind": "table", "name": Path(file).name, "files": files}, template)


def _add_questions(forum: ForumWriter, bad: BadRows, table: Table, text: str | None, progress: Progress | None) -> str:
    """Write the questions of a table; returns the template of their text."""
    if text is None:
        known = known_column(table.columns, TEXT_NAMES)
        if known is None:
            raise unknown_columns(table.name, table.columns, "the texts", ", ".join(TEXT_NAMES), "--text '{column}'")
        text = f"{{{known}}}"
    make = text_template(text, table.columns)
    known = {role: known_column(table.columns, names) for role, names in _NAMES.items()}
    columns = [*dict.fromkeys([*template_columns(text), *filter(None, known.values())])]
    whole = known["id"] is not None and _all_whole(table, bad, [known["id"]])
    for line, values in table.values(columns):
        row, where = dict(zip(columns, values, strict=True)), f"{table.unit}{line}"
        cells = _cells(row, known, whole)
        if isinstance(cells, tuple):
            bad(where, *cells)
            continue
        found = {role: cells.get(name or "", "") for role, name in known.items()}
        moment = row.get(known["created"] or "")
        created = utc(found["created"] if isinstance(moment, bytes) else moment)
        question = _question(found if known["id"] else {**found, "id": str(line)}, make(cells), created)
        if not storable(question.id):
            bad(where, "no id", f"{known['id']!r} is empty, expected an id")
        elif not storable(question.text).strip():
            bad(where, "empty text", f"question {question.id!r} has no text by --text {text!r}")
        elif not forum.add(question):
            bad(where, "repeated id", f"id {question.id!r} is taken already, by an earlier row")
        else:
            forum.changed["whose line stands in for an id"] += not known["id"]
            forum.changed[WHOLE_IDS] += whole
            forum.changed["without a date, as it cannot be read"] += created is None and not is_missing(moment)
        if progress is not None and line % 1000 == 0:
            progress(line, line)
    return text


def _all_whole(table: Table, bad: BadRows, names: Sequence[str]) -> bool:
    """Tell whether all ids look like 1.0: reads the table once more where they do, else down to the first other."""
    keys = (checked_id(value) for _, values in table.values(names) for value in values)
    given = (key or "" for key in keys if key != "")
    first = next(given, "")
    whole = all(map(WHOLE_ID.fullmatch, chain([first], given)))
    bad.forget()
    return whole


def _cells(
    row: Mapping[str, object], known: Mapping[str, str | None], whole: bool
) -> dict[str, str | list[str]] | Problem:
    """Return the cells of a row as texts, tags also as a list; (reason, problem) of the first that is none."""
    cells: dict[str, str | list[str]] = {}
    for name, value in row.items():
        if name == known["id"]:
            found = id_cell(name, value)
        else:
            found = (tag_names if name == known["tags"] and isinstance(value, list) else cell)(name, value)
        if isinstance(found, tuple):
            return found
        cells[name] = found.removesuffix(".0") if whole and name == known["id"] and isinstance(found, str) else found
    return cells


def _question(row: Mapping[str, Any], text: str, created: str | None) -> Question:
    tags, score = row["tags"], row["score"].strip()
    return Question(
        id=row["id"],
        text=text,
        title=" ".join(row["title"].split()),
        body=row["body"].strip(),
        tags=tuple(tags if isinstance(tags, list) else split_tags(tags)),
        created=created,
        url=row["url"].strip() or None,
        score=int(float(score)) if _whole(score) else None,
    )


def _whole(score: str) -> bool:
    try:
        return float(score).is_integer() and abs(float(score)) < 2**62
    except ValueError:
        return False


def _add_links(forum: ForumWriter, bad: BadRows, table: Table) -> None:
    ends = next((each for each in _ENDS if set(each) <= set(table.columns)), None)
    if ends is None:
        raise unknown_columns(table.name, table.columns, "the ends of a link", "id1, id2[, kind]", "a header")
    whole = _all_whole(table, bad, ends)
    columns = [*ends, *(["kind"] if "kind" in table.columns else [])]
    for line, values in table.values(columns):
        problem = _link(forum, dict(zip(columns, values, strict=True)), ends, whole)
        if problem is not None:
            bad(f"{table.unit}{line}", *problem)


def _link(forum: ForumWriter, row: Mapping[str, object], ends: tuple[str, str], whole: bool) -> Problem | None:
    """Take the link of a row; returns (reason, problem) where it is none."""
    id1, id2, kind = id_cell(ends[0], row[ends[0]]), id_cell(ends[1], row[ends[1]]), cell("kind", row.get("kind"))
    if isinstance(id1, tuple) or isinstance(id2, tuple) or isinstance(kind, tuple):
        return next(each for each in (kind, id1, id2) if isinstance(each, tuple))
    kind = kind.strip() if "kind" in row else KINDS[0]
    if kind not in KINDS:
        return "bad kind", f"'kind' is {kind[:40]!r}, expected {' or '.join(KINDS)}"
    if not (id1 and id2):
        return "no id", f"{ends[0] if not id1 else ends[1]!r} is empty, expected an id"
    if whole:
        id1, id2 = id1.removesuffix(".0"), id2.removesuffix(".0")
        forum.changed["links whose ids, such as '1.0', are read as '1'"] += 1
    forum.link(id1, id2, kind)
    return None
