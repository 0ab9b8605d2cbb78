"""The images in a folder, a zip or an idx file, by name and in natural order."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from textsiam.data.tables.errors import BadRows, DataError
from textsiam.images.archives import archive_kind, idx_array, zip_file
from textsiam.images.names import PICTURE_SUFFIXES, broken_picture


def holds_images(path: str | Path) -> bool:
    """Tell whether `image_files` can read this: a folder with an image at any depth, a .zip or an idx file."""
    path = Path(path)
    if path.is_dir():
        return any(_is_image(each) for each, _ in _walk(path))
    if not path.is_file():
        return False
    if _is_zip(path):
        return True
    try:
        return archive_kind(path) == "idx"
    except DataError:  # its reader says better what is wrong
        return False


def image_files(
    path: str | Path, bad: BadRows, others: Counter[str], *, decode: bool = True
) -> Iterator[tuple[str, str]]:
    """Give (id, name) of every image: the id is the path inside the folder or zip, or the row of an idx file.

    Hidden files and folders, and those that macOS adds to a zip, are passed over. Where bad rows are to be skipped,
    every image is decoded once, so that a truncated or animated one is known now and not in the middle of the work.

    Args:
        path: a folder, a .zip or an idx file.
        bad: what to do with an empty file, and with an image that cannot be opened.
        others: counts the files that are no images, by their endings.
        decode: False leaves it to whoever opens the images to pass over those that cannot be.

    Raises:
        DataError: the zip or idx file is damaged, or a file is empty.
    """
    path = Path(path)
    if path.is_dir():
        found = ((inside, str(path / inside), size) for inside, size in _walk(path))
    elif _is_zip(path):
        members = [each for each in zip_file(path).infolist() if not each.is_dir() and _is_seen(each.filename)]
        found = ((each.filename, f"{path}#{each.filename}", each.file_size) for each in members)
    else:
        for row in range(len(idx_array(path))):
            yield str(row), f"{path}#{row}"
        return
    images = []
    for inside, name, size in sorted(found, key=lambda each: natural_order(each[0])):
        if not _is_image(inside):
            others[os.path.splitext(inside)[1].lower() or "no ending"] += 1
        elif not size:
            bad(inside, "empty image", "is empty (0 bytes), expected an image")
        else:
            images.append((inside, name))
    if bad.on_bad_row == "error" or not decode:
        yield from images
        return
    with ThreadPoolExecutor() as pool:
        for (inside, name), problem in zip(images, pool.map(broken_picture, (n for _, n in images)), strict=True):
            if problem is None:
                yield inside, name
            else:
                bad(inside, "unreadable image", problem)


def class_folders(names: Iterable[str]) -> list[str]:
    """Return the last folder of each image that lies in one, in a folder or a zip: what its class is called.

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


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip"  # by its ending: an .xlsx is a zip too


def _walk(root: Path) -> Iterator[tuple[str, int]]:
    for folder, folders, files in os.walk(root):
        folders[:] = [each for each in folders if _is_seen(each)]
        for file in files:
            path = Path(folder, file)
            if _is_seen(file) and path.is_file():
                yield path.relative_to(root).as_posix(), path.stat().st_size


def _is_seen(inside: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in inside.split("/"))


def _is_image(inside: str) -> bool:
    return inside.lower().endswith(PICTURE_SUFFIXES)
