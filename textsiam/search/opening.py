"""Indexes by location: a folder, or an address of a PostgreSQL server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textsiam.search.index import IndexModel, QuestionIndex, QuestionIndexError
from textsiam.search.lance import LanceIndex
from textsiam.search.postgres import SCHEMES, PostgresIndex


def open_index(location: str | Path, *, resident: bool = False, **knobs: Any) -> QuestionIndex:
    """Open an index.

    Args:
        location: A folder, or `postgresql://user@host/database#name`.
        resident: Answer searches from vectors held in memory, where it is this process that searches, and no server.
        knobs: Those of `LanceIndex` or `PostgresIndex`.

    Raises:
        QuestionIndexError: There is none.
    """
    backend = _backend(location)
    if backend is LanceIndex:
        knobs["resident"] = resident
    return backend(location, **knobs)


def create_index(location: str | Path, model: IndexModel, **knobs: Any) -> QuestionIndex:
    """Make an empty index for the vectors of a model; see `open_index`.

    Raises:
        QuestionIndexError: There is something at this location.
    """
    return _backend(location).create(location, model, **knobs)


def _backend(location: str | Path) -> Any:
    text = str(location)
    if text.startswith(SCHEMES):
        return PostgresIndex
    if "://" in text:
        scheme = text.partition("://")[0]
        raise QuestionIndexError(f"an index is a folder or postgresql://…, got an address that starts with {scheme}://")
    return LanceIndex
