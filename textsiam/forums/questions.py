"""A question as its forum has it, the text made of it, and the ids that are taken."""

from __future__ import annotations

import re
import string
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from typing import Any

from textsiam.data.tables.arrow import Unreadable
from textsiam.data.tables.columns import text_problem
from textsiam.data.tables.labels import is_missing
from textsiam.data.tables.labels import shown as shortened
from textsiam.data.tables.rows import Problem
from textsiam.data.texts import checked_id

KINDS = ("duplicate", "related")  # of links
WHOLE_IDS = "whose id, such as '1.0', is read as '1'"  # counted as changed
_IN_UTC = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}")


@dataclass(frozen=True)
class Question:
    """A question: `created` is UTC in ISO 8601 with milliseconds, which sorts as time does; None is unknown."""

    id: str
    text: str
    title: str = ""
    body: str = ""
    tags: tuple[str, ...] = ()
    created: str | None = None
    url: str | None = None
    score: int | None = None


COLUMNS = tuple(field.name for field in fields(Question))
SOURCE_COLUMNS = tuple(name for name in COLUMNS if name != "text")  # what a text is made of


def integer(score: str) -> int | None:
    """Return a score of at most 18 digits; None for anything else."""
    return int(score) if re.fullmatch(r"-?[0-9]{1,18}", score) else None


def text_template(template: str, columns: Iterable[str]) -> Callable[[Mapping[str, object]], str]:
    r"""Return the function that makes the text of a question from its columns.

    White space becomes single spaces, and a column without a value nothing.

    Args:
        template: Such as "{title}. {body}".
        columns: What may stand in braces.

    Raises:
        ValueError: The template names no column, or one that is not there, or more than a name stands in braces.

    Example:
        >>> text_template("{title}. {body}", ("title", "body"))({"title": "Why red?", "body": "It was\nblue."})
        'Why red?. It was blue.'
    """
    known, parts = tuple(columns), _parts(template)
    names = [name for _, name, _ in parts if name is not None]
    if not names:
        raise ValueError(f"--text {template!r}: names no column, expected one in braces, such as {{{known[0]}}}")
    for _, name, more in parts:
        if name is not None and (more or name not in known):
            found = ", ".join(map(repr, known))
            raise ValueError(f"--text {template!r}: has no column {name!r}, found {found}" if not more else
                             f"--text {template!r}: expected no more than the name of a column in braces")  # fmt: skip
    pieces = [(before, name) for before, name, _ in parts]

    def text(row: Mapping[str, object]) -> str:
        made = "".join(before + ("" if name is None else shown(row[name])) for before, name in pieces)
        return " ".join(made.split())

    return text


def template_columns(template: str) -> list[str]:
    """Return the columns that a template of texts names.

    Raises:
        ValueError: A brace is not closed.
    """
    return [name for _, name, _ in _parts(template) if name is not None]


def _parts(template: str) -> list[tuple[str, str | None, bool]]:
    """Split a template into (text before, column, whether more than its name stands in the braces)."""
    try:
        return [(before, name, bool(form or how)) for before, name, form, how in string.Formatter().parse(template)]
    except ValueError as error:
        raise ValueError(f"--text {template!r}: {error}") from None


def cell(name: str, value: object) -> str | Problem:
    """Return a cell as text, "" where it is missing; (reason, problem) for bytes that are no UTF-8, a dict or list."""
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            value = value.decode()
    if isinstance(value, bytes | dict | list):
        return text_problem(name, value)
    missing = isinstance(value, Unreadable) or (is_missing(value) and not isinstance(value, str))
    return "" if missing else str(value)


def id_cell(name: str, value: object) -> str | Problem:
    """Return the id that a cell holds, "" where it is missing; (reason, problem) where it cannot be one."""
    key = checked_id(value)
    if key is None:
        return "bad id", f"{name!r} is {shortened(value)} ({type(value).__name__}), expected an id"
    return key


def tag_names(name: str, tags: object) -> list[str] | Problem:
    """Return the tags of a list, of those that are dicts the name; (reason, problem) where one is no text."""
    if not isinstance(tags, list):
        return "bad tags", f"{name!r} is {shortened(tags)} ({type(tags).__name__}), expected a list"
    found = []
    for tag in tags:
        text = cell(name, tag.get("name", tag) if isinstance(tag, dict) else tag)
        if isinstance(text, tuple):
            return text
        found.append(text.strip())
    return [*filter(None, found)]


def split_tags(tags: str) -> list[str]:
    """Return the tags of a text such as "a, b", "<a><b>", "|a|b|" or "a; b"."""
    return [*filter(None, map(str.strip, re.split("[<>|;,]", tags)))]


def storable(value: Any) -> Any:
    """Return a text (or texts) without what no store takes: NUL, and half of a surrogate pair (becomes "?")."""
    if isinstance(value, tuple):
        return tuple(map(storable, value))
    return value.replace("\0", "").encode("utf-8", "replace").decode() if isinstance(value, str) else value


def shown(value: object) -> str:
    """Return a value as text: nothing for None, a list with commas."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def utc(moment: object) -> str | None:
    """Return a moment in ISO 8601, UTC, to the millisecond; without a zone it is taken for UTC. None: it is none.

    Example:
        >>> utc("2011-08-17T22:18:56.5+02:00")
        '2011-08-17T20:18:56.500Z'
    """
    try:
        if isinstance(moment, str):
            found = datetime.fromisoformat(re.sub(" UTC$", "Z", moment.strip()))
            if _IN_UTC.fullmatch(moment):
                return moment + "Z"  # as dumps have it: half the work
            moment = found
        if isinstance(moment, date) and not isinstance(moment, datetime):
            moment = datetime(moment.year, moment.month, moment.day)
        if not isinstance(moment, datetime):
            return None
        aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return aware.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


class QuestionIds:
    """The ids of questions, each with a place; rising numbers, as dumps have them, cost eight bytes each."""

    def __init__(self) -> None:
        self._rising = array("q")  # place 0, 1, …
        self._others: dict[str, int] = {}  # place -1, -2, …
        self._names: list[str] = []

    def __len__(self) -> int:
        """Count the ids."""
        return len(self._rising) + len(self._others)

    def add(self, key: str) -> bool:
        """Take an id; says False where it was taken."""
        number = _number(key)
        if number is not None and (not self._rising or number > self._rising[-1]):
            self._rising.append(number)
            return True
        if self.find(key) is not None:
            return False
        self._names.append(key)
        self._others[key] = -len(self._names)
        return True

    def find(self, key: str) -> int | None:
        """Return the place of an id; None where nobody took it."""
        number = _number(key)
        if number is not None:
            at = bisect_left(self._rising, number)
            if at < len(self._rising) and self._rising[at] == number:
                return at
        return self._others.get(key)

    def name(self, place: int) -> str:
        """Return the id at a place."""
        return str(self._rising[place]) if place >= 0 else self._names[-1 - place]


def _number(key: str) -> int | None:
    """Return the number that an id is, where it is written in the one way that numbers are."""
    return int(key) if key.isascii() and key.isdecimal() and len(key) < 19 and (key[0] != "0" or key == "0") else None
