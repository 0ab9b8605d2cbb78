"""Which columns hold what: recognised names, a mapping for others, and what a cell may hold."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from textsiam.data.tables.errors import DataError
from textsiam.data.tables.labels import label_parser as label_parser
from textsiam.data.tables.labels import label_problem as label_problem
from textsiam.data.tables.labels import shown

Row = tuple[int, Sequence[Any]]

Modality = Literal["text", "image", "audio"]
"""What an input is: a text by itself, or a file of which the string is the name."""
NOUNS: dict[Modality, str] = {"text": "texts", "image": "images", "audio": "sounds"}
"""What messages call inputs."""
PAIR_NAMES = (("question1", "question2"), ("sentence1", "sentence2"), ("text1", "text2"))
FILE_NAMES: dict[Modality, tuple[str, str, str]] = {
    "image": ("image1", "image2", "image"),
    "audio": ("audio1", "audio2", "audio"),
}
"""The columns that hold the names of files: the two of a pair, and that of a single one."""
FILE_PAIR_NAMES = tuple((left, right) for left, right, _ in FILE_NAMES.values())
LABEL_NAMES = ("is_duplicate", "label", "labels")
TRIPLET_NAMES = ("anchor", "positive", "negative")
TEXT_NAMES = ("text", "question", "query", "sentence", "document", "title", "body")
TEXT_NAMES = (*TEXT_NAMES, *(one for *_, one in FILE_NAMES.values()))
ID_NAMES = (
    *("id", "_id", "qid", "question_id", "doc_id", "post_id", "query_id", "document_id", "topic_id", "text_id"),
    *("sentence_id",),
)
PAIR_COLUMNS = (*(name for pair in (*PAIR_NAMES, *FILE_PAIR_NAMES) for name in pair), *LABEL_NAMES, *TRIPLET_NAMES)
SCORE_NAMES = ("score", "similarity_score")


@dataclass(frozen=True)
class Table:
    """Named columns and the rows under them.

    `read` takes names of columns and yields `(line, values)`, values in the order of the names and nothing else looked
    at; `unit` says what a "line" is ("" for a line of a text file, "row " for Parquet and Hub rows); `class_names` has
    the names of integer classes; `file_columns` are known to hold images or sounds, and paths in such a column are
    relative to `folder`; `notes` say what was decided about its form; `lines_are_ids` says that it has no columns to
    look for ids in.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Sequence[str]], Iterator[Row]]
    unit: str = ""
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    file_columns: Mapping[str, Modality] = field(default_factory=dict)
    folder: Path | None = None
    notes: tuple[str, ...] = ()
    lines_are_ids: bool = False

    @property
    def rows(self) -> Iterator[Row]:
        """All columns of every row, read once and in order."""
        return self.values(self.columns)

    def values(self, names: Sequence[str]) -> Iterator[Row]:
        """Yield `(line, values)` of these columns.

        Raises:
            DataError: a column is there several times, so that nothing tells which is meant.
        """
        for name in names:
            if self.columns.count(name) > 1:
                raise _repeated(self.name, self.columns, name)
        return self.read(names)


@dataclass(frozen=True)
class PairColumns:
    """The columns of the texts (two, or anchor, positive, negative) and of the label (None: by position).

    `modality` says what they name where they are no texts.
    """

    texts: tuple[str, ...]
    label: str | None
    modality: Modality = "text"


def find_pair_columns(
    name: str,
    found: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    labelled: bool = True,
    files: Mapping[str, Modality] = MappingProxyType({}),
) -> PairColumns:
    """Find the columns of a pair among those of a table.

    Args:
        name: the table, for messages.
        found: its column names.
        columns: names for the roles 'left', 'right' and 'label'; the roles it leaves out are recognised.
        labelled: whether a label is needed.
        files: the columns that are known to hold images or sounds, whatever their names.

    Raises:
        DataError: no known set of columns is there, a mapped column is not, or they hold unlike inputs.
        ValueError: `columns` has an unknown role.
    """
    roles = checked_roles(name, found, columns, ("left", "right", "label"))
    texts = known_pair(found, roles, (*PAIR_NAMES, *FILE_PAIR_NAMES))
    label = roles.get("label") or known_column(found, LABEL_NAMES)
    if texts and (label or not labelled):
        return PairColumns(texts, label if labelled else None, modality_of_columns(name, texts, files))
    triplet = tuple(filter(None, (known_column(found, (each,)) for each in TRIPLET_NAMES)))
    if not roles and len(triplet) > 1 and [*map(_plain, triplet[:2])] == [*TRIPLET_NAMES[:2]]:
        return PairColumns(triplet, None, modality_of_columns(name, triplet, files))
    missing = "the label" if texts else "the texts of a pair"
    graded = "; a graded 'score' is read by read_graded" if texts and known_column(found, SCORE_NAMES) else ""
    raise unknown_columns(
        name,
        found,
        missing,
        "question1, question2, is_duplicate (or label); sentence1, sentence2, label; text1, text2, label; "
        "image1, image2, label; audio1, audio2, label; "
        "or anchor, positive[, negative]",
        "--column left=NAME, right=NAME, label=NAME (columns={'left': …} in Python)" + graded,
    )


def modality_of_columns(name: str, columns: Sequence[str], files: Mapping[str, Modality]) -> Modality:
    """Tell what these columns hold: by `files`, those known to hold images or sounds, or by their names.

    Raises:
        DataError: one holds something else than another.
    """
    named: dict[str, Modality] = {}
    for modality, names in FILE_NAMES.items():
        named |= dict.fromkeys(names, modality)
    named |= files
    found: set[Modality] = {named.get(each, "text") for each in columns}
    if len(found) > 1:
        raise DataError(f"{name}: columns {_listed(columns)} must all hold the same: {_listed_nouns()}")
    return found.pop()


def unlike(modalities: Iterable[Modality]) -> str:
    """Say what tables that are read as one hold, where that is not the same."""
    return " and ".join(f"some hold {NOUNS[each]}" for each in sorted(modalities))


def _listed_nouns() -> str:
    *first, last = NOUNS.values()
    return f"{', '.join(first)} or {last}"


def known_column(found: Sequence[str], names: Sequence[str]) -> str | None:
    """Give the first of some names that a table has, in its spelling: `Question ID` and `QuestionId` are question_id.

    Where two columns differ from a name by their spelling only, neither is taken.
    """
    for name in names:
        if name in found:
            return name
        alike = [each for each in found if _plain(each) == _plain(name)]
        if len(alike) == 1:
            return alike[0]
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def known_pair(
    found: Sequence[str], roles: Mapping[str, str], known: Sequence[tuple[str, str]]
) -> tuple[str, str] | None:
    """Give the first known pair of columns that is there, those of the roles 'left' and 'right' in place of its own."""
    for names in known:
        left, right = (
            roles.get(role) or known_column(found, (name,)) for role, name in zip(("left", "right"), names, strict=True)
        )
        if left and right:
            return left, right
    return None


def renamed(roles: Iterable[str], columns: Iterable[str | None], known: Collection[str]) -> str:
    """Say which columns were taken for what, where a name is not one of the documented ones; else ""."""
    taken = [(role, column) for role, column in zip(roles, columns, strict=True) if column]
    if all(column in known for _, column in taken):
        return ""
    return ", ".join(f"{role} of {column!r}" for role, column in taken)


def checked_roles(
    name: str, found: Sequence[str], columns: Mapping[str, str] | None, roles: Sequence[str]
) -> dict[str, str]:
    """Check that a mapping has known roles and that the table has the columns it names.

    Raises:
        ValueError: a role is unknown.
        DataError: a column is not in the table.
    """
    mapping = dict(columns or {})
    for role, column in mapping.items():
        if role not in roles:
            near = difflib.get_close_matches(role, roles, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(map(repr, roles))}"
            raise ValueError(f"unknown key {role!r} in columns: {hint}")
        if column not in found:
            raise DataError(f"{name}: has no column {column!r} (for {role!r}), found {_listed(found)}")
    return mapping


def unknown_columns(name: str, found: Sequence[str], missing: str, expected: str, option: str) -> DataError:
    """Make the one error for unknown columns: what was found, what is expected, what option maps them."""
    if repeated := [each for each in found if each and found.count(each) > 1]:
        return _repeated(name, found, repeated[0])
    return DataError(
        f"{name}: cannot tell which column holds {missing}: found {_listed(found)}; expected {expected}; "
        f"name others with {option}"
    )


def _repeated(name: str, found: Sequence[str], column: str) -> DataError:
    return DataError(f"{name}: column {column!r} appears {found.count(column)} times")


def _listed(names: Iterable[str]) -> str:
    listed = [repr(each if len(each) <= 40 else each[:39] + "…") for each in names]
    return ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "")


def checked_text(value: object) -> str | None:
    """Strip a cell; None where it is no text, or no more than whitespace."""
    return (value.strip() or None) if isinstance(value, str) else None


def text_problem(name: str, value: object) -> tuple[str, str]:
    """Say (reason, problem) of a cell that `checked_text` refused."""
    if isinstance(value, bytes):
        return "wrong encoding", f"{name!r} is {shown(value)}, which is not UTF-8"
    if value is None or isinstance(value, str):
        return "empty text", f"{name!r} is {'missing' if value is None else 'empty'}, expected a text"
    return "not a text", f"{name!r} is {shown(value)} ({type(value).__name__}), expected a text"
