"""The images or sounds in a folder, a zip or an idx file, by name and in natural order."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from textsiam.data.tables.errors import EXAMPLES, BadRows, DataError
from textsiam.media.archives import archive_kind, idx_array, zip_file
from textsiam.media.medium import Medium

_LOOKED_AT = 1000
_LINK = "link to a folder"  # not followed, as it may lead back to where it stands


def medium_within(path: str | Path, media: Sequence[Medium]) -> Medium | None:
    """Return which of these media a source has most of, looking at its first thousand such files; None where none.

    Args:
        path: A folder with a file of a medium at any depth, a .zip (which is taken for one of the first medium where
            nothing in it tells), or an idx file.
        media: What is looked for.
    """
    path = Path(path)
    try:
        if path.is_dir():
            found = (inside for inside, _ in _walk(path, []))
        elif not path.is_file():
            return None
        elif is_zip(path):
            found = (inside for inside, _ in _members(path, []))
        else:
            return next((each for each in media if each.idx), None) if archive_kind(path) == "idx" else None
        kinds = (next((each for each in media if each.has_ending(inside)), None) for inside in found)
        counts = Counter(islice((kind for kind in kinds if kind is not None), _LOOKED_AT))
    except DataError:  # its reader says better what is wrong
        return media[0] if is_zip(path) else None
    first = media[0] if path.is_file() else None
    return max(counts, key=lambda each: counts[each], default=first)


def media_files(
    path: str | Path, medium: Medium, bad: BadRows, others: Counter[str], *, decode: bool = True
) -> Iterator[tuple[str, str]]:
    """Give (id, name) of every image or sound: the id is the path inside the folder or zip, or the row of an idx file.

    Hidden files and folders, and those that macOS adds to a zip, are passed over; links that lead to a folder or to
    nothing, and all but the last of several members of one name, are counted. Where bad rows are to be skipped, every
    file is decoded once, so that a truncated or animated one is known now and not in the middle of the work.

    Args:
        path: a folder, a .zip or an idx file.
        medium: what is looked for.
        bad: what to do with an empty file, and with one that cannot be opened.
        others: counts the other files, by their endings.
        decode: False leaves it to whoever opens the files to pass over those that cannot be.

    Raises:
        DataError: the zip or idx file is damaged, or a file is empty.
    """
    path, left_out = Path(path), list[tuple[str, str]]()
    if not (path.is_dir() or is_zip(path)):
        for row in range(len(idx_array(path))):
            yield str(row), f"{path}#{row}"
        return
    if path.is_dir():
        found = ((inside, str(path / inside), size) for inside, size in _walk(path, left_out))
    else:
        found = ((inside, f"{path}#{inside}", size) for inside, size in _members(path, left_out))
    wanted = []
    for inside, name, size in sorted(found, key=lambda each: natural_order(each[0])):
        if not medium.has_ending(inside):
            others[os.path.splitext(inside)[1].lower() or "no ending"] += 1
        elif not size:
            bad(inside, f"empty {medium.noun}", f"is empty (0 bytes), expected {medium.some}")
        else:
            wanted.append((inside, name))
    _count(left_out, bad)
    if bad.on_bad_row == "error" or not decode:
        yield from wanted
        return
    with ThreadPoolExecutor() as pool:
        for (inside, name), problem in zip(wanted, pool.map(medium.broken, (n for _, n in wanted)), strict=True):
            if problem is None:
                yield inside, name
            else:
                bad(inside, f"unreadable {medium.noun}", problem)


def class_folders(names: Iterable[str]) -> list[str]:
    """Return the last folder of each file that lies in one, in a folder or a zip: what its class is called.

    Example:
        >>> class_folders(["people/Ada/1.png", "people.zip#old/Bo/2.png", "digits-idx3-ubyte#7"])
        ['Ada', 'Bo']
    """
    inside = (name.rpartition("#")[2] for name in names if not name.startswith("data:"))
    return sorted({Path(each).parent.name for each in inside} - {""}, key=natural_order)


def natural_order(text: str) -> tuple[list[tuple[int, str]], str]:
    """Give the key that sorts `page2` before `page10`, and otherwise by characters.

    Example:
        >>> sorted(["page10", "page2"], key=natural_order)
        ['page2', 'page10']
    """
    parts = re.split(r"([0-9]+)", text)
    for i in range(1, len(parts), 2):
        parts[i] = parts[i].lstrip("0")
    return [(len(part) if i % 2 else 0, part) for i, part in enumerate(parts)], text  # of numbers the longer is larger


def is_zip(path: Path) -> bool:
    """Whether a file is taken for a zip: by its ending, as an .xlsx is one too."""
    return path.suffix.lower() == ".zip"


def _walk(root: Path, left_out: list[tuple[str, str]]) -> Iterator[tuple[str, int]]:
    """Give each file of a folder and its bytes; what cannot be followed is added to `left_out`, with the reason."""
    for folder, folders, files in os.walk(root):
        folders[:] = [each for each in folders if _is_seen(each)]
        inside = Path(folder).relative_to(root)
        left_out += [((inside / each).as_posix(), _LINK) for each in folders if Path(folder, each).is_symlink()]
        for file in filter(_is_seen, files):
            path = Path(folder, file)
            if path.is_file():
                yield (inside / file).as_posix(), path.stat().st_size
            elif path.is_symlink():
                left_out.append(((inside / file).as_posix(), "link to nothing"))


def _members(path: Path, left_out: list[tuple[str, str]]) -> Iterator[tuple[str, int]]:
    """Give each file of a zip and its bytes, as `_walk`; one may lie in `../`, as none is unpacked into a folder."""
    seen = [each for each in zip_file(path).infolist() if not each.is_dir() and _is_seen(each.filename)]
    last = {each.filename: each for each in seen}
    for each in seen:
        if each is last[each.filename]:
            yield each.filename, each.file_size
        else:
            left_out.append((each.filename, "replaced by a later member of the same name"))


def _count(left_out: list[tuple[str, str]], bad: BadRows) -> None:
    for inside, reason in left_out:
        bad.skipped[reason] += 1
        if bad.skipped[reason] <= EXAMPLES:
            bad.examples.append(f"left out {bad.name}:{inside}: {reason}")


def _is_seen(inside: str) -> bool:
    parts = (part for part in inside.split("/") if part not in (".", ".."))
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts)
