"""Reading labelled images: class folders, a zip of them, an idx file beside its labels, or a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from textsiam.data.tables.errors import BadRows, DataError, OnBadRow
from textsiam.data.tables.hub import Loader, load_hub
from textsiam.data.tables.readers import FORMATS, Table, dataset_table, file_format
from textsiam.data.tables.rows import Cell, Problem
from textsiam.data.texts import Texts, texts_found
from textsiam.images.archives import idx_array
from textsiam.images.files import holds_images, image_files, natural_order
from textsiam.images.labelled import LabelledImages
from textsiam.images.names import broken_picture, picture_cell, shown_name

if TYPE_CHECKING:
    from datasets import Dataset

_CLASS_COLUMNS = ("label", "labels", "class")


def read_images(
    source: str | Path | Dataset,
    *,
    on_bad_row: OnBadRow = "error",
    split: str = "train",
    load: Loader | None = None,
) -> LabelledImages:
    """Read images with their classes; no image is decoded.

    In a folder, the class of an image is the folder it lies in, relative to the root: `Balinese/character01`.
    Hidden files are passed over; files that are no images are counted in the report. A .zip is read alike, but
    for a single folder around everything, which is taken off. An idx file has its labels beside it, by the
    names of MNIST: `…-images-idx3-ubyte` and `…-labels-idx1-ubyte`, each also with .gz. A dataset has one
    column of images and one of classes.

    The order is natural (`2.png` before `10.png`) and the same everywhere. An image that occurs twice is kept
    once, and left out where its classes differ: this can only be seen where the name holds the bytes.

    Args:
        source: a folder, a .zip, an idx file, a `datasets.Dataset`, or the Hub id `owner/name[:config]`.
        on_bad_row: "error" stops at the first bad image, "skip" counts bad images by reason in the report.
        split: the split of a Hub dataset.
        load: replaces `datasets.load_dataset`.

    Raises:
        DataError: the source cannot be read or holds no labelled image, with file and cause.

    Example:
        >>> images = read_images("omniglot.zip")  # doctest: +SKIP
        >>> print(images.report)  # doctest: +SKIP
    """
    if not isinstance(source, str | Path):
        bad = BadRows("dataset", on_bad_row=on_bad_row)
        return _labelled(bad, _dataset_rows(dataset_table("dataset", source), bad), Counter())
    bad, path = BadRows(str(source), on_bad_row=on_bad_row), Path(source)
    others: Counter[str] = Counter()
    if not path.exists():
        dataset = load_hub(str(source), FORMATS, split=split, load=load)
        return _labelled(bad, _dataset_rows(dataset_table(str(source), dataset), bad), others)
    if not holds_images(path):
        if path.is_file():
            raise DataError(f"{path}: holds no labelled images, expected a folder, a .zip or an idx file")
        file_format(path)  # says what the folder holds instead
    if path.is_file() and path.suffix.lower() != ".zip":
        return _labelled(bad, _idx_rows(path), others)
    return _labelled(bad, _folder_rows(path, bad, others), others)


def read_image_names(path: str | Path, *, on_bad_row: OnBadRow = "error", decode: bool = True) -> Texts:
    """Read the images of a folder, .zip or idx file by name, whatever their classes.

    With "skip", each is decoded once, to pass over those that cannot be, unless `decode` is False.

    Raises:
        DataError: the source is damaged, or holds no image.
    """
    bad, others = BadRows(str(path), on_bad_row=on_bad_row), Counter()
    found = dict(image_files(path, bad, others, decode=decode))
    return texts_found(bad, found, _passed_over(others), images=True)


def image_cells(folder: Path | None, on_bad_row: OnBadRow = "error") -> Cell:
    """Return the function of (column, value) that names the image in a cell of a table, or says (reason, problem).

    Args:
        folder: What paths are relative to; None for a table that is no file.
        on_bad_row: "skip" decodes each image once, so that one that cannot be opened is a bad row too.
    """
    known: dict[str, str | Problem] = {}  # a file is looked for once

    def looked_at(name: str, value: object) -> str | Problem:
        found = picture_cell(name, value, folder)
        if on_bad_row == "error" or isinstance(found, tuple) or (problem := broken_picture(found)) is None:
            return found
        return "unreadable image", f"{name!r}: {shown_name(found)}: {problem}"

    def cell(name: str, value: object) -> str | Problem:
        if not isinstance(value, str) or len(value) > 4096:
            return looked_at(name, value)
        found = known.get(value)
        if found is None or isinstance(found, tuple):  # a problem names its column
            found = known[value] = looked_at(name, value)
        return found

    return cell


def _passed_over(others: Counter[str]) -> dict[str, int]:
    return {f"no image ({ending})": count for ending, count in sorted(others.items())}


def _folder_rows(path: Path, bad: BadRows, others: Counter[str]) -> Iterator[tuple[str, str]]:
    found = list(image_files(path, bad, others))
    folders = [inside.split("/")[:-1] for inside, _ in found]
    tops = {folder[0] if folder else "" for folder in folders}
    around = 1 if path.is_file() and len(tops) == 1 and max(map(len, folders)) > 1 else 0
    for (inside, name), folder in zip(found, folders, strict=True):
        if len(folder) > around:
            yield name, "/".join(folder[around:])
        else:
            bad(inside, "image without class", "lies in no folder that could name its class; put it into one")


def _idx_rows(path: Path) -> Iterator[tuple[str, str]]:
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    plain = beside.with_suffix("") if beside.suffix == ".gz" else beside
    labels_at = next((each for each in (beside, plain, Path(f"{plain}.gz")) if each != path and each.is_file()), None)
    if labels_at is None:
        raise DataError(f"{path}: has no labels beside it, expected {plain.name} (also .gz)")
    images, labels = idx_array(path), idx_array(labels_at, 1)
    if len(images) != len(labels):
        raise DataError(f"{path}: holds {len(images):,} images, but {labels_at.name} holds {len(labels):,} labels")
    for row, label in enumerate(labels.tolist()):
        yield f"{path}#{row}", str(label)


def _dataset_rows(table: Table, bad: BadRows) -> Iterator[tuple[str, str]]:
    if len(table.image_columns) != 1:
        raise DataError(f"{table.name}: expected one column of images, found {_listed(table.image_columns)}; "
                        f"its columns are {_listed(table.columns)}")  # fmt: skip
    classes = [*(each for each in _CLASS_COLUMNS if each in table.columns), *table.class_names]
    if not classes:
        raise DataError(f"{table.name}: has no column of classes, expected a ClassLabel or one of "
                        f"{', '.join(_CLASS_COLUMNS)}; its columns are {_listed(table.columns)}")  # fmt: skip
    if classes[0] not in _CLASS_COLUMNS and len(table.class_names) > 1:
        raise DataError(f"{table.name}: has several columns of classes ({_listed(classes)}); rename one to 'label'")
    names, cell = table.class_names.get(classes[0]), image_cells(None, bad.on_bad_row)
    for line, (image, number) in table.values((table.image_columns[0], classes[0])):
        where = f"{table.unit}{line}"
        name, label = cell(table.image_columns[0], image), _class(number, names)
        if isinstance(name, tuple):
            bad(where, *name)
        elif label is None:
            bad(where, "no class", f"{classes[0]!r} is {number!r}, expected a class")
        else:
            yield name, label


def _class(value: Any, names: Any) -> str | None:
    if isinstance(value, str):
        return value.strip() or None
    if not isinstance(value, int):
        return None
    if names is None:
        return str(value)
    return names[value] if 0 <= value < len(names) else None


def _labelled(bad: BadRows, rows: Iterator[tuple[str, str]], others: Counter[str]) -> LabelledImages:
    found: dict[str, str] = {}
    repeated, contradicted = 0, set()
    for name, label in rows:
        repeated += name in found
        if found.setdefault(name, label) != label:
            contradicted.add(name)
    again = f"{len(contradicted)} images have several classes, such as {shown_name(min(contradicted, default=''))}"
    for name in contradicted:
        del found[name]
    if not found:
        cause = bad.examples[0] if bad.examples else again if contradicted else "holds no labelled image"
        raise DataError(f"{bad.name}: no usable image: {cause}")
    skipped = {**bad.skipped, **_passed_over(others)}
    if contradicted:
        skipped["image of several classes"] = len(contradicted)
    warnings = (*bad.examples, *((again,) if contradicted else ()))
    kept = len(found)
    report = bad.report(kept + repeated, kept, skipped=skipped, duplicate_rows=repeated, warnings=warnings)
    class_names = sorted(set(found.values()), key=natural_order)
    number = {name: i for i, name in enumerate(class_names)}
    classes = np.array([number[label] for label in found.values()], dtype=np.int32)
    return LabelledImages(list(found), classes, class_names, bad.name, report)


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"
