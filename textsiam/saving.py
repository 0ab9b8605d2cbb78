"""Folders that appear whole or not at all: written aside, then renamed."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from textsiam.whole_file import keep_on_disk


class SaveError(OSError):
    """Something could not be written; the message names the folder and what is still intact."""


@contextmanager
def whole_folder(target: str | Path, own: Collection[str] | None = None) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block ends without an error.

    Args:
        target: The folder.
        own: Names of what may be there already, to be replaced; None replaces whatever is there.

    A folder already at `target` stays as it is until then, and is replaced by renaming; a crash at any moment
    leaves the old folder or the new one under this name, or the old one aside, where `recover` finds it. It keeps the
    permissions of what it replaces; what is new has those that the umask gives.

    Raises:
        SaveError: The disk is full, the place cannot be written to, or holds something that is not `own`.
    """
    target = Path(target).resolve()
    old = _aside(target)
    fresh: Path | None = None
    try:
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file is in the way")
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(target)
        _check_own(target, own)
        fresh = target.with_name(f".{target.name}.{uuid4().hex[:8]}.tmp")
        fresh.mkdir()
        given = fresh.stat().st_mode & 0o666  # of a file: some libraries leave it to its owner alone
        if target.exists():
            shutil.copymode(target, fresh)
        yield fresh
        for path in fresh.rglob("*"):
            if path.is_file():
                kept = target / path.relative_to(fresh)
                path.chmod(kept.stat().st_mode & 0o777 if kept.is_file() else given)
                keep_on_disk(path)
        keep_on_disk(fresh)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)  # left by a crash right after the renames
            target.rename(old)
        fresh.rename(target)
        keep_on_disk(target.parent)  # the name is on the disk, too
        shutil.rmtree(old, ignore_errors=True)
    except Exception as error:
        reason = write_failure(error) or _system_failure(error)
        if reason is None:
            raise
        kept = f"; {target} is as it was before" if target.exists() else ""
        raise SaveError(f"cannot write {target}: {reason}{kept}") from error
    finally:
        if fresh is not None:
            shutil.rmtree(fresh, ignore_errors=True)


def _system_failure(error: Exception) -> str | None:
    """Return what the system says of an error that is its own and was not said yet; else None."""
    if isinstance(error, SaveError) or not isinstance(error, OSError):
        return None
    return {errno.EACCES: "permission denied"}.get(error.errno or 0, error.strerror or str(error))


def foreign(folder: Path, own: Collection[str]) -> str | None:
    """Return the first name in a folder that is not among its `own`; None where there is none, or no folder."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return next((name for name in names if name not in own and name != ".DS_Store"), None)


def _check_own(target: Path, own: Collection[str] | None) -> None:
    if own is not None and (other := foreign(target, own)) is not None:
        raise SaveError(f"{target}: holds {other!r}, which would be lost; name another folder, or move it away")


def write_failure(error: Exception) -> str | None:
    """Return why something could not be written, where a library says so in an error of its own; else None."""
    text = str(error)
    if "No space left" in text or "os error 28" in text:
        return "the disk is full"
    if any(sign in text for sign in ("I/O error", "iostream error", "unexpected pos", "file write failed")):
        return f"the disk is full, or a file cannot grow ({text.splitlines()[0]})"  # torch does not say which
    return None


def recover(target: Path) -> None:
    """Put back the old folder where a crash struck between the two renames of `whole_folder`."""
    target = target.resolve()
    old = _aside(target)
    if old.exists() and not target.exists():
        with suppress(FileNotFoundError):  # somebody else has put it back
            old.rename(target)


def _aside(target: Path) -> Path:
    # Hidden: `target.old` could be a copy that the user made.
    return target.with_name(f".{target.name}.old")
