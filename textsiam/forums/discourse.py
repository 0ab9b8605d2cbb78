"""Exports of Discourse: topics as its API gives them, and tables of its data explorer."""

from __future__ import annotations

import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from textsiam.data.tables.errors import BadRows, DataError, OnBadRow
from textsiam.data.tables.lines import open_plain
from textsiam.data.tables.readers import open_table
from textsiam.data.tables.rows import Problem
from textsiam.data.texts import WHOLE_ID, checked_id
from textsiam.forums.markup import html_to_text
from textsiam.forums.questions import (
    KINDS,
    SOURCE_COLUMNS,
    WHOLE_IDS,
    Question,
    cell,
    integer,
    shown,
    split_tags,
    storable,
    tag_names,
    text_template,
    utc,
)
from textsiam.forums.writing import ForumWriter, Progress, forum_writer

_ENDINGS = (".json", ".jsonl", ".csv", ".tsv")
_TOPIC = re.compile(r"/t/(?:[^/]*[^/\d][^/]*/)?(\d+)(?:/\d+)?/?")
_DUPLICATE_OF = re.compile(r'\b(?:duplicate|dupe)\s+of\b(?:[\s:]|<(?!a\s)[^<>]*>)*<a\s[^<>]*?\bhref="([^"]+)"', re.I)

Record = dict[str, Any]
_ENDS = {("topic_id", "link_topic_id"): "related", ("id1", "id2"): "duplicate"}  # of links in a table
_COLUMNS = (
    *("topic_id", "id", "link_topic_id", "id1", "id2", "kind", "title", "topic_title", "cooked", "raw", "tags", "url"),
    *("created_at", "like_count", "post_number", "deleted_at", "archetype", "closed", "moderator", "admin", "staff"),
)  # of a table; others are not looked at


def import_discourse(
    export: str | Path,
    output: str | Path,
    *,
    text: str = "{title}",
    site: str | None = None,
    on_bad_row: OnBadRow = "skip",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the topics of a Discourse export, and the links between them, to a forum folder.

    Known are, by their keys and in any mix: a topic (`/t/ID.json`), lists of topics (`/latest.json`, `/c/…`, `/tag/…`),
    posts (`/posts.json`), results of the data explorer (JSON, or CSV with the columns of the tables topics, posts or
    topic_links), each also as lines of JSON. A topic of several files is taken from one that has its first post.

    Discourse knows no duplicates. A link counts as one where a post of a moderator, or in a closed topic, says
    "duplicate of" before it; all other links between topics are related. Left out and counted: answers, deleted topics
    and private messages.

    Args:
        export: A file, or a folder of them: .json, .jsonl or .csv, plain or .gz. A .json file is read whole.
        output: The forum folder; one that is there is replaced once the new one is whole.
        text: What the text of a question is, over id, title, body, tags, created, url and score.
        site: The host, such as "meta.discourse.org": for urls, and to know links in a text as the forum's own.
        on_bad_row: "error" stops at the first topic that is not as it should be, "skip" counts it.
        progress: Called with the bytes read and the bytes in all.

    Returns:
        The provenance, as it is in the folder.

    Raises:
        DataError: A file is missing or, with `on_bad_row="error"`, damaged; or there is no topic.
    """
    export = Path(export)
    files = {path: path.stat().st_size for path in _files(export)}
    make = text_template(text, SOURCE_COLUMNS)
    done = 0
    with forum_writer(output, on_bad_row) as forum:
        topics = _Topics(forum, site)
        for path, size in files.items():
            bad = forum.bad_rows(str(path))
            for where, record in _records(path, bad):
                topics.take(bad, where, record, make)
            done += size
            if progress is not None:
                progress(done, sum(files.values()))
        topics.finish()
        sizes = {path.name if path == export else str(path.relative_to(export)): size for path, size in files.items()}
        if len(sizes) > 20:
            sizes = {f"{len(sizes):,} files": sum(sizes.values())}
        return forum.finish({"kind": "discourse", "name": export.resolve().name, "site": site, "files": sizes}, text)


class _Topics:
    """Turns the records of an export into questions and links."""

    def __init__(self, forum: ForumWriter, site: str | None) -> None:
        self._forum, self._site = forum, site
        self._links: list[tuple[str, str, str]] = []
        self._without_post: dict[str, Question] = {}  # until it is known that no other file has the first post

    def take(self, bad: BadRows, where: object, record: Record, make: Callable[[Record], str]) -> None:
        """Take a record: a topic, a post, or a link of a table."""
        ends = next((each for each in _ENDS if set(each) <= record.keys()), None)
        if ends is not None:
            self._table_link(bad, where, record, ends)
            return
        given = record.get("topic_id", record.get("id"))
        key = _topic_id(given)
        posts = _dicts(_inside(record, "post_stream", "posts"))
        first = next((post for post in posts if post.get("post_number") == 1), record)
        self._forum.left_out["answers"] += sum(post is not first for post in posts)
        reason = _left_out(record)
        if reason in ("", "answers"):  # a reply may say of what its topic is a duplicate
            for post in posts or [record]:
                self._post_links(key, record, post)
        if reason:
            self._forum.left_out[reason] += 1
            return
        row = self._row(key, record, first)
        if isinstance(row, tuple):
            bad(where, *row)
            return
        self._forum.changed[WHOLE_IDS] += key != checked_id(given)
        question = Question(text=make(row), **row)
        if not storable(question.text).strip():
            bad(where, "empty text", f"topic {key} has no text by --text")
        elif not question.body:
            self._without_post.setdefault(key, question)
        elif not self._forum.add(question):
            self._forum.left_out["topics given again"] += 1

    def finish(self) -> None:
        """Write the topics whose first post no file has, and the links."""
        for question in self._without_post.values():
            self._forum.add(question)
        for link in self._links:
            self._forum.link(*link)

    def _row(self, key: str, record: Record, first: Record) -> Record | Problem:
        """Return the columns of a question; (reason, problem) where it is none."""
        title = cell("title", record.get("title") or record.get("topic_title"))
        tags = record.get("tags") or []
        tags = split_tags(tags) if isinstance(tags, str) else tag_names("tags", tags)
        if isinstance(title, tuple):
            return title
        if isinstance(tags, tuple):
            return tags
        if not storable(key):
            return "no id", "a topic without an id"
        if not title.strip():
            return "no title", f"a topic without title (id {key})"
        created = record.get("created_at") or first.get("created_at")
        score = shown(record.get("like_count"))
        self._forum.changed["without a date, as it cannot be read"] += bool(created) and utc(created) is None
        return {
            "id": key,
            "title": " ".join(title.split()),
            "body": html_to_text(_text(first.get("cooked"))) or _text(first.get("raw")).strip(),
            "tags": tuple(tags),
            "created": utc(created),
            "url": f"https://{self._site}/t/{key}" if self._site else _text(record.get("url")) or None,
            "score": integer(score),
        }

    def _post_links(self, key: str, topic: Record, post: Record) -> None:
        """Take the links that go from a post to other topics."""
        if post.get("deleted_at"):
            return
        own = [_text(link.get("url")) for link in _dicts(post.get("link_counts"))
               if link.get("internal") and not link.get("reflection")]  # fmt: skip
        settled = _true(topic.get("closed")) or any(_true(post.get(role)) for role in ("moderator", "admin", "staff"))
        said = _DUPLICATE_OF.findall(_text(post.get("cooked"))) if settled else []
        for kind, urls in zip(KINDS, (said, own), strict=True):
            for url in urls:
                target = _TOPIC.search(url)
                try:
                    host = urlsplit(url).hostname
                except ValueError:  # it is no url
                    continue
                if target and (kind == "related" or host in (None, self._site) or url in own):
                    self._links.append((key, target[1], kind))

    def _table_link(self, bad: BadRows, where: object, record: Record, ends: tuple[str, str]) -> None:
        id1, id2 = (_topic_id(record[name]) for name in ends)
        kind = shown(record.get("kind")).strip() or _ENDS[ends]
        if not (id1 and id2):
            bad(where, "no id", f"{ends[0] if not id1 else ends[1]!r} is empty, expected the id of a topic")
        elif kind not in KINDS:
            bad(where, "bad kind", f"'kind' is {kind[:40]!r}, expected {' or '.join(KINDS)}")
        else:
            self._links.append((id1, id2, kind))


def _left_out(record: Record) -> str:
    """Say why a record is no question, "" where it is one."""
    if record.get("deleted_at"):
        return "deleted"
    if record.get("archetype") == "private_message":
        return "private messages"
    return "answers" if _topic_id(record.get("post_number", 1)) != "1" else ""


def _topic_id(value: object) -> str:
    """Return an id, a whole number also where a table has 1.0; "" where it is none."""
    key = checked_id(value) or ""
    return key.removesuffix(".0") if WHOLE_ID.fullmatch(key) else key


def _true(value: object) -> bool:
    """Return what a flag says, also as a table writes it."""
    return value.strip().lower() not in ("", "0", "f", "false", "no") if isinstance(value, str) else bool(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _files(export: Path) -> list[Path]:
    if export.is_file():
        return [export]
    if not export.is_dir():
        raise DataError(f"{export}: is not there; expected a file or folder of .json, .jsonl or .csv")
    found = sorted(path for path in export.rglob("*") if path.is_file() and _ending(path) in _ENDINGS)
    if not found:
        raise DataError(f"{export}: holds no file that ends in {', '.join(_ENDINGS)}")
    return found


def _ending(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _records(path: Path, bad: BadRows) -> Iterator[tuple[object, Record]]:
    """Give (line, record) of whatever a file holds."""
    if _ending(path) not in (".json", ".jsonl"):
        with open_table(path, bad) as table:
            names = [name for name in _COLUMNS if name in table.columns]
            for line, values in table.values(names):
                yield f"{table.unit}{line}", dict(zip(names, values, strict=True))
        return
    try:
        with open_plain(path) as stream:
            lines = enumerate(stream, 1) if _ending(path) == ".jsonl" else [(1, stream.read())]
            for number, line in lines:
                if line.strip():
                    yield from _parsed(line, number, bad)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def _parsed(text: bytes, line: int, bad: BadRows) -> Iterator[tuple[int, Record]]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}, character {error.pos:,}"
        ended = ": it ends in the middle" if not error.doc[error.pos :].strip() else ""
        bad(line + error.lineno - 1, "invalid JSON", f"is not JSON{ended} ({error.msg}, {where})")
        return
    except UnicodeDecodeError as error:
        bad(line, "wrong encoding", f"byte {error.start:,} (0x{text[error.start]:02x}) is not {error.encoding}")
        return
    except RecursionError:
        bad(line, "invalid JSON", "is nested too deeply")
        return
    except ValueError:  # Python takes no number of more digits, as the time grows with their square
        most_digits = sys.get_int_max_str_digits()
        document = json.loads(text, parse_int=lambda digits: int(digits) if len(digits) <= most_digits else None)
    found = list(_unwrapped(document))
    if not found:
        keys = ", ".join(list(document)[:6]) if isinstance(document, dict) else type(document).__name__
        bad(line, "unknown document", f"holds no topics that are known by their keys (found {keys or 'nothing'})")
    for record in found:
        if isinstance(record, str):
            bad(line, "bad row of the data explorer", record)
        else:
            yield line, record


def _unwrapped(document: Any) -> Iterator[Record | str]:
    """Give the topics, posts or rows inside a document of the API or the data explorer, or what is wrong with a row."""
    if isinstance(document, list):
        for each in document:
            yield from _unwrapped(each)
    elif isinstance(document, dict):
        rows, columns = document.get("rows"), document.get("columns")
        topics = _inside(document, "topic_list", "topics") or document.get("topics") or document.get("latest_posts")
        if isinstance(columns, list) and isinstance(rows, list):
            yield from (_explorer_row(number, row, columns) for number, row in enumerate(rows, 1))
        elif topics:
            yield from _dicts(topics)
        elif "id" in document or "topic_id" in document:
            yield document


def _explorer_row(number: int, row: Any, columns: list[Any]) -> Record | str:
    if not isinstance(row, list):
        return f"row {number} is a JSON {type(row).__name__}, expected a list"
    if len(row) != len(columns):
        return f"row {number} has {len(row)} fields, expected {len(columns)}"
    return dict(zip(map(str, columns), row, strict=True))


def _inside(document: Record, *keys: str) -> Any:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None  # pyright: ignore[reportAssignmentType]
    return document


def _dicts(values: Any) -> list[Record]:
    return [each for each in values if isinstance(each, dict)] if isinstance(values, list) else []
