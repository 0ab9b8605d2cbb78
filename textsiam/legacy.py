"""What 0.1 had under another name, or has no meaning any more: it still works, and warns."""

from __future__ import annotations

import warnings
from typing import Any

RENAMED = {
    "textsiam.search.lance.LanceIndex": "textsiam.search.folder.FolderIndex",
}
# Every index in a folder holds its vectors in memory now, and every search of one is exact.
IGNORED_INDEX_KNOBS = ("probes", "resident")


def warn_renamed(old: str) -> None:
    """Warn that a name of 0.1 was used, at the line that used it."""
    warnings.warn(f"{old} is deprecated: use {RENAMED[old]}", DeprecationWarning, stacklevel=3)


def without_ignored_knobs(knobs: dict[str, Any]) -> dict[str, Any]:
    """Return the knobs of an index without those that mean nothing any more, with a warning if there are any."""
    if ignored := [name for name in IGNORED_INDEX_KNOBS if name in knobs]:
        text = f"{', '.join(ignored)}: ignored, an index in a folder always scans memory, exactly: leave it out"
        warnings.warn(text, DeprecationWarning, stacklevel=3)
    return {name: value for name, value in knobs.items() if name not in ignored}
