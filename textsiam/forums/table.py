"""Any table as a forum: a question a row, and links between them from a file beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textsiam.data.tables.columns import ID_NAMES, TEXT_NAMES, known_column, unknown_columns
from textsiam.data.tables.errors import BadRows, OnBadRow
from textsiam.data.tables.readers import Table, open_table
from textsiam.forums.questions import KINDS, Question, shown, text_template, utc
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

    Columns id, title, body, tags, created, url and score are kept; without an id, the line (or row) is one.

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
    for line, values in table.rows:
        row = dict(zip(table.columns, values, strict=True))
        found = {role: name and row[name] for role, name in known.items()}
        question = _question(found if known["id"] else {**found, "id": line}, make(row))
        where = f"{table.unit}{line}"
        forum.changed["whose line stands in for an id"] += not known["id"]
        if not question.id:
            bad(where, "no id", f"{known['id']!r} is empty, expected an id")
        elif not question.text:
            bad(where, "empty text", f"question {question.id!r} has no text by --text {text!r}")
        elif not forum.add(question):
            bad(where, "repeated id", f"id {question.id!r} is taken already, by an earlier row")
        elif known["created"] and question.created is None:
            forum.changed["without a date, as it cannot be read"] += bool(shown(row[known["created"]]))
        if progress is not None and line % 1000 == 0:
            progress(line, line)
    return text


def _question(row: dict[str, Any], text: str) -> Question:
    tags = row["tags"]
    score = shown(row["score"]).strip()
    return Question(
        id=shown(row["id"]).strip(),
        text=text,
        title=" ".join(shown(row["title"]).split()),
        body=shown(row["body"]).strip(),
        tags=tuple(map(str, tags)) if isinstance(tags, Sequence) and not isinstance(tags, str) else _split(shown(tags)),
        created=utc(row["created"]),
        url=shown(row["url"]).strip() or None,
        score=int(float(score)) if _whole(score) else None,
    )


def _split(tags: str) -> tuple[str, ...]:
    for mark in "<>|;":
        tags = tags.replace(mark, ",")
    return tuple(filter(None, map(str.strip, tags.split(","))))


def _whole(score: str) -> bool:
    try:
        return float(score).is_integer() and abs(float(score)) < 2**62
    except ValueError:
        return False


def _add_links(forum: ForumWriter, bad: BadRows, table: Table) -> None:
    ends = next((each for each in _ENDS if set(each) <= set(table.columns)), None)
    if ends is None:
        raise unknown_columns(table.name, table.columns, "the ends of a link", "id1, id2[, kind]", "a header")
    places = [table.columns.index(name) for name in ends]
    kind_at = table.columns.index("kind") if "kind" in table.columns else None
    for line, values in table.rows:
        kind = KINDS[0] if kind_at is None else shown(values[kind_at]).strip()
        id1, id2 = (shown(values[at]).strip() for at in places)
        where = f"{table.unit}{line}"
        if kind not in KINDS:
            bad(where, "bad kind", f"'kind' is {kind[:40]!r}, expected {' or '.join(KINDS)}")
        elif not (id1 and id2):
            bad(where, "no id", f"{ends[0] if not id1 else ends[1]!r} is empty, expected an id")
        else:
            forum.link(id1, id2, kind)
