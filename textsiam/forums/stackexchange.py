"""Dumps of Stack Exchange: Posts.xml and PostLinks.xml."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textsiam.data.tables.errors import BadRows, DataError, OnBadRow
from textsiam.forums.markup import html_to_text, without_duplicate_note
from textsiam.forums.questions import SOURCE_COLUMNS, Question, integer, text_template, utc
from textsiam.forums.writing import ForumWriter, Progress, forum_writer
from textsiam.forums.xml_rows import xml_rows

POSTS, LINKS = "Posts.xml", "PostLinks.xml"
_LEFT_OUT = defaultdict(lambda: "wikis and notices", {"1": None, "2": "answers"})  # by PostTypeId
_KINDS = {"1": "related", "3": "duplicate"}  # by LinkTypeId
_TAG = re.compile(r"[^<>|]+")  # <a><b>, and |a|b| since 2024
_HOST = re.compile(r"[\w-]+(\.[\w-]+)*\.(com|net|org)")


def import_stackexchange(
    dump: str | Path,
    output: str | Path,
    *,
    text: str = "{title}",
    site: str | None = None,
    on_bad_row: OnBadRow = "skip",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the questions of a dump and the links between them to a forum folder, in bounded memory.

    Left out and counted: answers and other posts, deleted ones, the note "Possible Duplicate:" of old posts (it gives
    the label away), and links to what is no question of the dump.

    Args:
        dump: The folder that holds Posts.xml and, where there are links, PostLinks.xml.
        output: The forum folder; one that is there is replaced once the new one is whole.
        text: What the text of a question is, over id, title, body, tags, created, url and score.
        site: The host, such as "askubuntu.com", for urls; else the name of the folder, where it is one.
        on_bad_row: "error" stops at the first post that is not as it should be, "skip" counts it.
        progress: Called with the bytes read and the bytes in all.

    Returns:
        The provenance, as it is in the folder.

    Raises:
        DataError: A file is missing, truncated or damaged, with line and byte; or holds no question.
    """
    dump = Path(dump)
    files = _files(dump)
    if site is None and _HOST.fullmatch(dump.resolve().name):
        site = dump.resolve().name
    done, total = 0, sum(files.values())

    def read(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, max(done, total))

    make = text_template(text, SOURCE_COLUMNS)
    with forum_writer(output, on_bad_row) as forum:
        bad = forum.bad_rows(str(dump / POSTS))
        for line, post in xml_rows(dump / POSTS, "posts", read=read):
            reason = "deleted" if "DeletionDate" in post else _LEFT_OUT[post.get("PostTypeId", "1")]
            if reason:
                forum.left_out[reason] += 1
            elif (row := _row(forum, bad, line, post, site)) is not None:
                _add(forum, bad, line, Question(text=make(row), **row))
        if LINKS in files:
            bad = forum.bad_rows(str(dump / LINKS))
            for line, link in xml_rows(dump / LINKS, "postlinks", read=read):
                _link(forum, bad, line, link)
        source = {"kind": "stackexchange", "name": dump.resolve().name, "site": site, "files": files}
        return forum.finish(source, text)


def _files(dump: Path) -> dict[str, int]:
    """Return the sizes of the files that are there, in bytes."""
    if not dump.is_dir():
        raise DataError(f"{dump}: is no folder, expected the one that holds {POSTS} and {LINKS}")
    files = {name: (dump / name).stat().st_size for name in (POSTS, LINKS) if (dump / name).is_file()}
    if POSTS not in files:
        packed = next(iter(sorted(dump.glob("*.7z"))), None)
        hint = f"; unpack {packed.name} first: 7z x {packed.name}" if packed else ""
        raise DataError(f"{dump}: holds no {POSTS}{hint}")
    return files


def _add(forum: ForumWriter, bad: BadRows, line: int, question: Question) -> None:
    if not question.text:
        bad(line, "empty text", f"question {question.id} has no text by --text")
    elif not forum.add(question):
        bad(line, "repeated id", f"Id {question.id!r} is taken already, by an earlier question")


def _row(
    forum: ForumWriter, bad: BadRows, line: int, post: Mapping[str, str], site: str | None
) -> dict[str, Any] | None:
    """Return the columns of a question; None where it is rejected."""
    missing = next((name for name in ("Id", "PostTypeId", "Title") if not post.get(name, "").strip()), None)
    key = post.get("Id", "")
    if missing:
        what = "is empty" if missing in post else "is missing"
        bad(line, f"no {missing}", f"{missing} {what}" + (f" (post {key})" if key else ""))
        return None
    if not (key.isascii() and key.isdecimal()):
        bad(line, "bad Id", f"Id is {key[:40]!r}, expected a whole number")
        return None
    html = post.get("Body", "")
    body = without_duplicate_note(html)
    forum.changed['without the note "Possible Duplicate"'] += body is not html
    created, score = utc(post.get("CreationDate")), post.get("Score", "")
    forum.changed["without a date, as it cannot be read"] += created is None and "CreationDate" in post
    return {
        "id": key,
        "title": " ".join(post["Title"].split()),
        "body": html_to_text(body),
        "tags": tuple(_TAG.findall(post.get("Tags", ""))),
        "created": created,
        "url": f"https://{site}/q/{key}" if site else None,
        "score": integer(score),
    }


def _link(forum: ForumWriter, bad: BadRows, line: int, link: Mapping[str, str]) -> None:
    for name in ("PostId", "RelatedPostId", "LinkTypeId"):
        if not link.get(name):
            bad(line, f"no {name}", f"{name} is {'empty' if name in link else 'missing'}")
            return
    kind = _KINDS.get(link["LinkTypeId"])
    if kind is None:
        forum.left_out["links of another type"] += 1
    else:
        forum.link(link["PostId"], link["RelatedPostId"], kind)
