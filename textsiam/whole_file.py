"""A file that appears whole or not at all: written aside, then renamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole_file(target: str | Path) -> Iterator[Path]:
    """Yield the path of a file beside `target` that takes its name when the block ends without an error.

    A file already at `target` stays as it is until then. A crash leaves at most a hidden `.tmp` file behind.

    Raises:
        OSError: The place cannot be written to.
    """
    target = Path(target)
    aside = target.with_name(f".{target.name}.{uuid4().hex[:8]}.tmp")  # many may write at once
    try:
        yield aside
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
