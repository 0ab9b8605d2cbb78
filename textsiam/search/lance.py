"""The index in a folder under its name of 0.1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textsiam.legacy.names import warn_renamed, without_ignored_knobs
from textsiam.search.index.folder import FolderIndex


class LanceIndex(FolderIndex):
    """Deprecated: `FolderIndex`; the knobs that 0.1 had are accepted."""

    def __init__(self, path: str | Path, **knobs: Any) -> None:
        warn_renamed("textsiam.search.lance.LanceIndex")
        super().__init__(path, **without_ignored_knobs(knobs))
