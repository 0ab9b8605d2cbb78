"""Indexes by location: a folder, an address of a PostgreSQL server, or a class of the user's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from textsiam.dotted import import_dotted
from textsiam.legacy.names import without_ignored_knobs
from textsiam.search.index.base import IndexModel, QuestionIndex, QuestionIndexError
from textsiam.search.index.folder import FolderIndex
from textsiam.search.index.postgres import SCHEMES, PostgresIndex
from textsiam.yamlfile import ConfigError

_OWN = re.compile(r"((?:[^\W\d]\w*\.)+[^\W\d]\w*):(?!//)(.*)", re.DOTALL)


def open_index(location: str | Path, **knobs: Any) -> QuestionIndex:
    """Open an index.

    Args:
        location: A folder, `postgresql://user@host/database#name`, or `module.Class:location`, which imports a backend
            of one's own and opens that location with it (docs/extending.md).
        knobs: Those of the backend: `FolderIndex`, `PostgresIndex`, or one's own.

    Raises:
        QuestionIndexError: There is none, or the backend cannot be imported.
    """
    backend, place = _backend(location)
    return backend(place, **knobs if backend not in _OURS else without_ignored_knobs(knobs))


def create_index(location: str | Path, model: IndexModel, **knobs: Any) -> QuestionIndex:
    """Make an empty index for the vectors of a model; see `open_index`.

    Raises:
        QuestionIndexError: There is something at this location, or the backend cannot be imported.
    """
    backend, place = _backend(location)
    return backend.create(place, model, **knobs if backend not in _OURS else without_ignored_knobs(knobs))


_OURS = (FolderIndex, PostgresIndex)


def _backend(location: str | Path) -> tuple[Any, str | Path]:
    """Return the class that a location names, and what is left for it."""
    text = str(location)
    if text.startswith(SCHEMES):
        return PostgresIndex, location
    if (own := _OWN.fullmatch(text)) and isinstance(location, str) and not Path(text).exists():
        return _imported(own[1]), own[2]
    if "://" in text:
        scheme = text.partition("://")[0]
        raise QuestionIndexError(f"an index is a folder or postgresql://…, got an address that starts with {scheme}://")
    return FolderIndex, location


def _imported(path: str) -> Any:
    try:
        backend = import_dotted(path, "index")
    except ConfigError as error:
        raise QuestionIndexError(str(error)) from error
    needed = ["create", *(name for name, what in vars(QuestionIndex).items() if callable(what) and name[0] != "_")]
    if missing := [name for name in needed if not hasattr(backend, name)]:
        raise QuestionIndexError(
            f"index: {path!r} lacks {', '.join(missing)}: see textsiam.search.index.base.QuestionIndex"
        )
    return backend
