"""What a cell of labels says: a duplicate, no duplicate, or neither; and whether a column holds labels at all."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from textsiam.data.tables.errors import DataError

_YES = {"1", "true", "yes", "y", "t"}
_NO = {"0", "false", "no", "n", "f", "different"}
_ALIKE = {"duplicate", "duplicates", "equivalent", "paraphrase", "paraphrases", "same"}
_NUMBER = re.compile(r"\+?0*([01])(\.0*)?")
_NOT = re.compile(r"(?:not|non)(?=\w)")
_MISSING = ("", "nan", "none", "null", "na", "n/a")


def label_of(value: object) -> int | None:
    """Give the label that a cell says, whatever the format of its table: 1 for a duplicate, 0 for none, else None.

    Numbers are 0 and 1 (also 1.0); words are true, yes, duplicate, equivalent, paraphrase, same; false, no, different
    and any of these after "not" or "non", in any case.

    Example:
        >>> [label_of(each) for each in (1.0, "1.0", "Yes", "not_duplicate", "2", None)]
        [1, 1, 1, 0, None, None]
    """
    if not isinstance(value, str):
        try:
            return int(value) if value in (0, 1) else None  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError, ArithmeticError):
            return None
    word = value.strip().casefold()
    if number := _NUMBER.fullmatch(word):
        return int(number[1])
    if not word[:1].isalpha():
        return None
    word = re.sub(r"[\s_-]+", "", word)
    rest = _NOT.sub("", word, count=1)
    if word in _YES or word in _NO:
        return int(word in _YES)
    return int(rest == word) if rest in _ALIKE else None


def is_missing(value: object) -> bool:
    """Tell whether a cell holds nothing: None, NaN, no more than whitespace, or a word for it."""
    if isinstance(value, str):
        return value.strip().casefold() in _MISSING
    return value is None or value != value


class LabelParser:
    """Reads labels, and knows afterwards which spelling it took for which.

    Called with a cell, it gives 0, 1, or None for anything else.
    """

    def __init__(self, class_names: Sequence[str] = (), *, name: str = "", column: str = "") -> None:
        """Decide what integer classes mean, where they have names.

        Args:
            class_names: the names behind integer classes, which then decide: in ("duplicate", "not_duplicate")
                class 0 means duplicate.
            name: the table, for messages.
            column: the column, for messages.

        Raises:
            DataError: none of the names says what it means.
        """
        self.column, self.class_names = column, tuple(class_names)
        self._known: dict[Any, int] = {}
        if class_names:
            said = [label_of(each) for each in class_names]
            self._known = {number: label for number, label in enumerate(said) if label is not None}
            if not self._known:
                raise DataError(
                    f"{name}: the classes of {column!r} are {_listed(class_names)}: cannot tell which of them is a "
                    "duplicate; expected names such as 'duplicate' and 'not_duplicate', or plain 0 and 1"
                )
        self._taken: dict[Any, int] = {}

    def __call__(self, value: object) -> int | None:
        """Give the label of a cell."""
        try:
            label = self._taken.get(value)
        except TypeError:
            return None
        if label is None:
            label = self._known.get(value) if self._known and not isinstance(value, str) else label_of(value)
            if label is not None and len(self._taken) < 1000:
                self._taken[value] = label
        return label

    @property
    def mapping(self) -> str:
        """What stood for what, where it was not 0 and 1; else ""."""
        spelled = {str(self._named(value)): label for value, label in self._taken.items()}
        odd = [
            f"{word!r} is {label}"
            for word, label in spelled.items()
            if word not in ("True", "False") and not _NUMBER.fullmatch(word.strip())
        ]
        return f"labels of {self.column!r}: {', '.join(odd)}" if odd else ""

    def problem(self, value: object) -> tuple[str, str]:
        """Say (reason, problem) of a cell that is no label."""
        named = self._named(value)
        if self._known and named is not value:
            words = " or ".join(repr(self.class_names[number]) for number in self._known)
            return "bad label", f"{self.column!r} is {value} ({named!r}), expected {words}"
        return label_problem(self.column, value)

    def _named(self, value: Any) -> Any:
        within = isinstance(value, int) and 0 <= value < len(self.class_names)
        return self.class_names[value] if within else value


label_parser = LabelParser


def label_problem(name: str, value: object) -> tuple[str, str]:
    """Say (reason, problem) of a cell that is no label."""
    text = str(value).strip() if value is not None else ""
    if text in ("-1", "-1.0"):
        return (
            "no label",
            f"{name!r} is -1: a row without a label, as in GLUE's test split; read it with labelled=False",
        )
    if is_missing(value):
        what = "empty" if isinstance(value, str) else "missing"
        return "no label", f"{name!r} is {what}, expected 0 or 1"
    return "bad label", f"{name!r} is {shown(value)}, expected 0 or 1"


def number_of(value: object) -> float | None:
    """Give a cell as a finite number, else None."""
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def mostly_labels(values: Iterable[object]) -> bool:
    """Tell labels from scores: more cells hold a label than another number, or there are at most two whole numbers."""
    labels, numbers = 0, 0
    distinct: set[float] = set()
    for value in values:
        number, label = number_of(value), label_of(value)
        labels += label is not None
        if number is not None and number != -1:
            numbers += label is None
            distinct.add(number)
    classes = len(distinct) <= 2 and all(number.is_integer() for number in distinct)
    return classes or labels >= numbers


def shown(value: object) -> str:
    """Shorten a cell for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"{name!r} ({number})" for number, name in enumerate(names))
