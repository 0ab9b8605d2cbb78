"""What an index refuses: another model's vectors, malformed questions and filters, a missing extra."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from textsiam.data.tables.labels import shown
from textsiam.search.index.base import IndexModel, Metadata, Question, QuestionIndexError, Scalar, Where

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_LENGTH_ERROR = 1e-3
LONGEST_ID = 512
"""Characters of an id: what the indexes of PostgreSQL, and a request, can hold."""


def require(module: str, extra: str) -> Any:
    """Import a module of an optional extra.

    Raises:
        QuestionIndexError: It is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise QuestionIndexError(f"{module} is not installed: pip install 'textsiam[{extra}]'") from error


def check_model(location: str, own: IndexModel, given: IndexModel) -> None:
    """Refuse another model's vectors by name.

    Raises:
        QuestionIndexError: The fingerprints, or the widths, differ.
    """
    if (own.fingerprint, own.dim) != (given.fingerprint, given.dim):
        raise QuestionIndexError(
            f"{location}: holds vectors of {own}, got some of {given}: use that model, or run textsiam index migrate"
        )


def check_vectors(vectors: np.ndarray, dim: int, names: Sequence[str] | None = None) -> np.ndarray:
    """Return vectors as contiguous float32, once they are found to be of length 1.

    Raises:
        QuestionIndexError: A wrong shape, or a vector that is not finite or not of length 1; the message names it.
    """
    checked = np.ascontiguousarray(vectors, np.float32)
    if checked.ndim != 2 or checked.shape[1] != dim:
        raise QuestionIndexError(f"expected vectors of shape (n, {dim}), got {checked.shape}")
    if (wrong := off_length(checked)) is not None:
        first, length = wrong
        name = f"query {first}" if names is None else f"question {names[first]!r}"
        raise QuestionIndexError(f"the vector of {name} has length {length:.4g}, expected 1")
    return checked


def off_length(vectors: np.ndarray) -> tuple[int, float] | None:
    """Return the place of the first vector whose length is not 1, and its length; None where there is none."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _LENGTH_ERROR))  # NaN is wrong too
    return (int(wrong[0]), float(lengths[wrong[0]])) if len(wrong) else None


def check_questions(questions: Sequence[Question], vectors: np.ndarray, dim: int) -> np.ndarray:
    """Return the checked vectors of an upsert.

    Raises:
        QuestionIndexError: An empty or repeated id, an empty text, metadata that cannot be filtered by, or vectors that
            do not fit.
    """
    if len(questions) != len(vectors):
        raise QuestionIndexError(f"expected a vector for each of {len(questions)} questions, got {len(vectors)}")
    seen: set[str] = set()
    for question in questions:
        check_question(question)
        if question.id in seen:
            raise QuestionIndexError(f"id {question.id!r} stands twice in one upsert")
        seen.add(question.id)
    return check_vectors(vectors, dim, [question.id for question in questions])


def check_question(question: Question) -> None:
    """Refuse a question that not every store can hold.

    Raises:
        QuestionIndexError: An empty or too long id, an empty text, or metadata that cannot be filtered by.
    """
    where = f"question {shown(question.id)}"
    for what, value in (("id", question.id), ("text", question.text)):
        if not isinstance(value, str) or not value.strip() or not _storable(value):
            raise QuestionIndexError(f"{where}: the {what} is {shown(value)}, expected some text")
    if len(question.id) > LONGEST_ID:
        raise QuestionIndexError(f"{where}: the id has {len(question.id):,} characters, at most {LONGEST_ID} are kept")
    for key, value in question.metadata.items():
        _check_fact(where, key, value)


def check_ids(ids: Iterable[str]) -> list[str]:
    """Return ids as a list.

    Raises:
        QuestionIndexError: They are one string, whose letters would be taken for ids.
    """
    if isinstance(ids, (str, bytes, bytearray)):
        raise QuestionIndexError(f"ids are {ids!r}, expected a list of ids: [{ids!r}]")
    return list(ids)


def check_where(where: Where | None) -> dict[str, list[Scalar]]:
    """Return the values that each key may have.

    Raises:
        QuestionIndexError: A key or a value that no metadata can have.
    """
    allowed: dict[str, list[Scalar]] = {}
    for key, wanted in (where or {}).items():
        values = list(wanted) if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]
        for value in values:
            _check_fact("filter", key, value)
        allowed[key] = values  # pyright: ignore[reportArgumentType]
    return allowed


def check_search(k: int | None, threshold: float | None) -> None:
    """Refuse a search that asks for nothing.

    Raises:
        QuestionIndexError: Neither k nor threshold, or one that makes no sense.
    """
    if k is None and threshold is None:
        raise QuestionIndexError("a search needs k, a threshold, or both")
    if k is not None and k < 1:
        raise QuestionIndexError(f"k must be >= 1, got {k}")
    if threshold is not None and not np.isfinite(threshold):
        raise QuestionIndexError(f"threshold must be a finite number, got {threshold}")


def _check_fact(where: str, key: object, value: object) -> None:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise QuestionIndexError(f"{where}: metadata key {key!r} is not made of letters, digits, _ and -")
    fine = isinstance(value, (str, bool, int)) or (isinstance(value, float) and np.isfinite(value))
    if not fine or (isinstance(value, str) and not _storable(value)):
        raise QuestionIndexError(f"{where}: {key!r} is {value!r}, expected a string, a finite number, true or false")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise QuestionIndexError(f"{where}: {key!r} is {value!r}, expected a number of 64 bits")


def matches(metadata: Metadata, allowed: Mapping[str, Sequence[Scalar]]) -> bool:
    """Say whether metadata pass a checked filter; 1 equals 1.0, but not true."""
    return all(
        key in metadata and any(_equal(metadata[key], value) for value in values) for key, values in allowed.items()
    )


def _equal(a: Scalar, b: Scalar) -> bool:
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _storable(text: str) -> bool:
    """Say whether every store can hold a text: PostgreSQL has no NUL, and half of a surrogate pair is no character."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
