"""Which columns hold what: recognised names, a mapping for others, and what a cell may hold."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textsiam.data.tables.errors import DataError

PAIR_NAMES = (("question1", "question2"), ("sentence1", "sentence2"), ("text1", "text2"))
IMAGE_NAMES = ("image1", "image2")
IMAGE_NAME = "image"
LABEL_NAMES = ("is_duplicate", "label", "labels")
TRIPLET_NAMES = ("anchor", "positive", "negative")
_LABELS: dict[Any, int] = {
    0: 0, 1: 1, "0": 0, "1": 1, "false": 0, "true": 1, "not_duplicate": 0, "duplicate": 1,
}  # fmt: skip


@dataclass(frozen=True)
class PairColumns:
    """The columns of the texts (two, or anchor, positive, negative) and of the label (None: by position).

    `images` says that the texts name images.
    """

    texts: tuple[str, ...]
    label: str | None
    images: bool = False


def find_pair_columns(
    name: str,
    found: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    labelled: bool = True,
    images: Sequence[str] = (),
) -> PairColumns:
    """Find the columns of a pair among those of a table.

    Args:
        name: the table, for messages.
        found: its column names.
        columns: names for the roles 'left', 'right' and 'label'; the roles it leaves out are recognised.
        labelled: whether a label is needed.
        images: the columns that are known to hold images, whatever their names.

    Raises:
        DataError: no known set of columns is there, a mapped column is not, or only some of them hold images.
        ValueError: `columns` has an unknown role.
    """
    roles = checked_roles(name, found, columns, ("left", "right", "label"))
    texts = known_pair(found, roles, (*PAIR_NAMES, IMAGE_NAMES))
    label = roles.get("label") or next((each for each in LABEL_NAMES if each in found), None)
    if texts and (label or not labelled):
        return PairColumns(texts, label if labelled else None, hold_images(name, texts, images))
    triplet = tuple(each for each in TRIPLET_NAMES if each in found)
    if not roles and triplet[:2] == TRIPLET_NAMES[:2]:
        return PairColumns(triplet, None, hold_images(name, triplet, images))
    missing = "the label" if texts else "the texts of a pair"
    graded = "; a graded 'score' is read by read_graded" if texts and "score" in found else ""
    raise unknown_columns(
        name,
        found,
        missing,
        "question1, question2, is_duplicate (or label); sentence1, sentence2, label; text1, text2, label; "
        "image1, image2, label; "
        "or anchor, positive[, negative]",
        "columns={'left': …, 'right': …, 'label': …}" + graded,
    )


def hold_images(name: str, texts: Sequence[str], images: Sequence[str]) -> bool:
    """Tell whether these columns hold images: by `images`, those known to, or by their names.

    Raises:
        DataError: some do and some do not.
    """
    known = [each in images or each in (IMAGE_NAME, *IMAGE_NAMES) for each in texts]
    if any(known) != all(known):
        raise DataError(f"{name}: columns {_listed(texts)} must all hold images, or all texts")
    return all(known)


def known_pair(
    found: Sequence[str], roles: Mapping[str, str], known: Sequence[tuple[str, str]]
) -> tuple[str, str] | None:
    """Give the first known pair of columns that is there, those of the roles 'left' and 'right' in place of its own."""
    named = ((roles.get("left", left), roles.get("right", right)) for left, right in known)
    return next((each for each in named if set(each) <= set(found)), None)


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
    return DataError(
        f"{name}: cannot tell which column holds {missing}: found {_listed(found)}; expected {expected}; "
        f"name others with {option}"
    )


def _listed(names: Iterable[str]) -> str:
    listed = [repr(each if len(each) <= 40 else each[:39] + "…") for each in names]
    return ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "")


def checked_text(value: object) -> str | None:
    """Strip a cell; None where it is no text, or no more than whitespace."""
    return (value.strip() or None) if isinstance(value, str) else None


def text_problem(name: str, value: object) -> tuple[str, str]:
    """Say (reason, problem) of a cell that `checked_text` refused."""
    if value is None or isinstance(value, str):
        return "empty text", f"{name!r} is {'missing' if value is None else 'empty'}, expected a text"
    return "not a text", f"{name!r} is {_shown(value)} ({type(value).__name__}), expected a text"


def label_parser(class_names: Sequence[str] = ()) -> Callable[[object], int | None]:
    """Make the function that reads a label, 0 or 1, from a cell, and gives None for anything else.

    Args:
        class_names: the names behind integer classes, which then decide: in ("duplicate", "not_duplicate")
            class 0 means duplicate.
    """
    known: dict[Any, int] = dict(_LABELS)
    named = [_LABELS.get(each.strip().lower()) for each in class_names]
    if named:
        known = {number: label for number, label in enumerate(named) if label is not None}

    def parse(value: object) -> int | None:
        try:
            label = known.get(value)
        except TypeError:
            return None
        if label is None and isinstance(value, str):
            return known.get(value.strip().lower())
        return label

    return parse


def label_problem(name: str, value: object) -> tuple[str, str]:
    """Say (reason, problem) of a cell that is no label."""
    text = str(value).strip() if value is not None else ""
    if text == "-1":
        return (
            "no label",
            f"{name!r} is -1: a row without a label, as in GLUE's test split; read it with labelled=False",
        )
    if not text:
        return "no label", f"{name!r} is {'missing' if value is None else 'empty'}, expected 0 or 1"
    return "bad label", f"{name!r} is {_shown(value)}, expected 0 or 1"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
