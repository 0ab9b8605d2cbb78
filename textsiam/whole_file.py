"""A file that appears whole or not at all: written aside, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole_file(target: str | Path) -> Iterator[Path]:
    """Yield the path of a file beside `target` that takes its name when the block ends without an error.

    A file already at `target` stays as it is until then, and keeps its permissions; a new one has those that the umask
    gives. A link stays one, and what it leads to is replaced. What is no file, as a pipe or `/dev/null`, is written to
    in the end. A crash leaves at most a hidden `.tmp` file behind.

    Raises:
        OSError: The place cannot be written to.
    """
    target = Path(target)
    stream = target.exists() and not (target.is_file() or target.is_dir())
    if not stream:
        target = Path(os.path.realpath(target))
    folder = Path(tempfile.gettempdir()) if stream else target.parent
    aside = folder / f".{target.name}.{uuid4().hex[:8]}.tmp"  # many may write at once
    try:
        if target.is_file():  # what was private is so while it is written, too
            aside.touch(0o600)
        yield aside
        if stream:
            with aside.open("rb") as whole, target.open("wb") as end:
                shutil.copyfileobj(whole, end)
            return
        if target.is_file():
            shutil.copymode(target, aside)
        aside.replace(target)
    finally:
        with suppress(OSError):  # a missing file, or a place that is no folder
            aside.unlink()


def file_identity(path: str | Path) -> tuple[int, int] | None:
    """Return what tells a file from another one that takes its name later; None where there is none.

    It holds as long as somebody has the file open.
    """
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
