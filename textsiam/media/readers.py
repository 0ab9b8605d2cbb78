"""Reading labelled images or sounds: class folders, a zip of them, an idx file beside its labels, or a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from posixpath import normpath
from typing import TYPE_CHECKING, Any

import numpy as np

from textsiam.data.tables.errors import BadRows, DataError, OnBadRow
from textsiam.data.tables.hub import Loader, load_hub
from textsiam.data.tables.readers import FORMATS, Table, dataset_table, file_format, open_table
from textsiam.data.texts import Texts, texts_found
from textsiam.media.archives import idx_array
from textsiam.media.files import is_zip, media_files, medium_within, natural_order
from textsiam.media.labelled import LabelledFiles
from textsiam.media.medium import Medium
from textsiam.media.names import shown_name

if TYPE_CHECKING:
    from datasets import Dataset

_CLASS_COLUMNS = ("label", "labels", "class")
_PATH_COLUMNS = ("path", "file_name")
_INDEX = ("index.", "metadata.")


def read_labelled(
    source: str | Path | Dataset,
    medium: Medium,
    *,
    on_bad_row: OnBadRow = "error",
    split: str = "train",
    load: Loader | None = None,
    columns: Mapping[str, str] | None = None,
) -> LabelledFiles:
    """Read images or sounds with their classes; none is decoded.

    In a folder, the class of a file is the folder it lies in, relative to the root: `Balinese/character01`.
    Hidden files are passed over; files of other kinds are counted in the report. A .zip is read alike, but
    for a single folder around everything, which is taken off. An idx file has its labels beside it, by the
    names of MNIST: `…-images-idx3-ubyte` and `…-labels-idx1-ubyte`, each also with .gz. A dataset has one
    column of images and one of classes.

    The order is natural (`2.png` before `10.png`) and the same everywhere. One that occurs twice is kept
    once, and left out where its classes differ: this can only be seen where the name holds the bytes.

    Args:
        source: a folder, a .zip, an idx file, a `datasets.Dataset`, or the Hub id `owner/name[:config]`.
        medium: what its files are.
        on_bad_row: "error" stops at the first bad file, "skip" counts bad files by reason in the report.
        split: the split of a Hub dataset.
        load: replaces `datasets.load_dataset`.
        columns: a folder has a table at its root, `index` or (as in `datasets`) `metadata`, that lists its files: the
            columns of the roles 'image' or 'audio' (else one of that name, path or file_name) and 'class';
            `writer/kind` makes a class of two.

    Raises:
        DataError: the source cannot be read or holds nothing labelled, with file and cause.
        ValueError: `columns` has an unknown role.
    """
    if not isinstance(source, str | Path):
        bad = BadRows("dataset", on_bad_row=on_bad_row)
        return _labelled(medium, bad, _dataset_rows(dataset_table("dataset", source), medium, bad), Counter())
    bad, path = BadRows(str(source), on_bad_row=on_bad_row), Path(source)
    others: Counter[str] = Counter()
    if not path.exists():
        dataset = load_hub(str(source), FORMATS, split=split, load=load)
        return _labelled(medium, bad, _dataset_rows(dataset_table(str(source), dataset), medium, bad), others)
    if medium_within(path, [medium]) is None:
        if path.is_file():
            idx = ", a .zip or an idx file" if medium.idx else " or a .zip"
            raise DataError(f"{path}: holds no labelled {medium.nouns}, expected a folder{idx}")
        file_format(path)  # says what the folder holds instead
    if columns and path.is_dir():
        return _labelled(medium, bad, _index_rows(path, medium, columns, bad), others)
    if path.is_file() and not is_zip(path):
        return _labelled(medium, bad, _idx_rows(path), others)
    return _labelled(medium, bad, _folder_rows(path, medium, bad, others), others)


def read_names(path: str | Path, medium: Medium, *, on_bad_row: OnBadRow = "error", decode: bool = True) -> Texts:
    """Read the images, or sounds, of a folder, .zip or idx file by name, whatever their classes.

    With "skip", each is decoded once, to pass over those that cannot be, unless `decode` is False.

    Raises:
        DataError: the source is damaged, or holds none.
    """
    bad, others = BadRows(str(path), on_bad_row=on_bad_row), Counter()
    found = dict(media_files(path, medium, bad, others, decode=decode))
    if not found:
        packed = "; tables in a .zip are not read: unpack it" if is_zip(Path(path)) else ""
        raise bad.nothing_usable(f"holds no {medium.noun}{packed}")
    return texts_found(bad, found, _passed_over(medium, others), modality=medium.modality)


def _passed_over(medium: Medium, others: Counter[str]) -> dict[str, int]:
    return {f"no {medium.noun} ({ending})": count for ending, count in sorted(others.items())}


def _folder_rows(path: Path, medium: Medium, bad: BadRows, others: Counter[str]) -> Iterator[tuple[str, str]]:
    found = list(media_files(path, medium, bad, others))
    folders = [[part for part in normpath(inside).split("/")[:-1] if part not in ("", "..")] for inside, _ in found]
    tops = {folder[0] if folder else "" for folder in folders}
    around = 1 if path.is_file() and len(tops) == 1 and max(map(len, folders)) > 1 else 0
    for (inside, name), folder in zip(found, folders, strict=True):
        if len(folder) > around:
            yield name, "/".join(folder[around:])
        else:
            bad(inside, f"{medium.noun} without class", "lies in no folder that could name its class; put it into one")


def _index_rows(path: Path, medium: Medium, columns: Mapping[str, str], bad: BadRows) -> Iterator[tuple[str, str]]:
    """Give the name and the class of each file that the table at the root of a folder lists."""
    endings = tuple(f"{each}{packed}" for each in FORMATS for packed in ("", ".gz"))
    tables = [each for each in sorted(path.iterdir()) if each.name.startswith(_INDEX) and each.name.endswith(endings)]
    if len(tables) != 1:
        raise DataError(f"{path}: its columns are those of a table at its root, index.tsv or metadata.csv or alike, "
                        f"but it has {_listed([each.name for each in tables])}")  # fmt: skip
    within = bad.within(str(tables[0]))
    with open_table(tables[0], within) as table:
        roles = {"class": "class", **columns}
        paths, role = (medium.modality, *_PATH_COLUMNS), medium.modality
        if role not in roles:
            roles[role] = next((each for each in paths if each in table.columns), role)
        names = [roles.pop(role), *roles.pop("class").split("/")]
        if roles:
            raise ValueError(f"columns has the unknown role {min(roles)!r}, expected {role!r} or 'class'")
        if missing := [each for each in names if each not in table.columns]:
            raise DataError(f"{table.name}: has no column {missing[0]!r}, its columns are {_listed(table.columns)}")
        cell = medium.cells(path, bad.on_bad_row)
        for line, (file, *classes) in table.values(names):
            name, where = cell(names[0], file), f"{table.unit}{line}"
            if isinstance(name, tuple):
                within(where, *name)
            elif not all(str(each or "").strip() for each in classes):
                within(where, "no class", f"{'/'.join(names[1:])!r} is {'/'.join(map(str, classes))!r}")
            else:
                yield name, "/".join(str(each).strip() for each in classes)


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


def _dataset_rows(table: Table, medium: Medium, bad: BadRows) -> Iterator[tuple[str, str]]:
    columns = [name for name, modality in table.file_columns.items() if modality == medium.modality]
    if len(columns) != 1:
        raise DataError(f"{table.name}: expected one column of {medium.nouns}, found {_listed(columns)}; "
                        f"its columns are {_listed(table.columns)}")  # fmt: skip
    classes = [*(each for each in _CLASS_COLUMNS if each in table.columns), *table.class_names]
    if not classes:
        raise DataError(f"{table.name}: has no column of classes, expected a ClassLabel or one of "
                        f"{', '.join(_CLASS_COLUMNS)}; its columns are {_listed(table.columns)}")  # fmt: skip
    if classes[0] not in _CLASS_COLUMNS and len(table.class_names) > 1:
        raise DataError(f"{table.name}: has several columns of classes ({_listed(classes)}); rename one to 'label'")
    names, cell = table.class_names.get(classes[0]), medium.cells(None, bad.on_bad_row)
    for line, (value, number) in table.values((columns[0], classes[0])):
        where = f"{table.unit}{line}"
        name, label = cell(columns[0], value), _class(number, names)
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


def _labelled(medium: Medium, bad: BadRows, rows: Iterator[tuple[str, str]], others: Counter[str]) -> LabelledFiles:
    found: dict[str, str] = {}
    repeated, contradicted = 0, set()
    for name, label in rows:
        repeated += name in found
        if found.setdefault(name, label) != label:
            contradicted.add(name)
    again = (
        f"{len(contradicted)} {medium.nouns} have several classes, such as {shown_name(min(contradicted, default=''))}"
    )
    for name in contradicted:
        del found[name]
    if not found:
        cause = bad.examples[0] if bad.examples else again if contradicted else f"holds no labelled {medium.noun}"
        raise DataError(f"{bad.name}: no usable {medium.noun}: {cause}")
    skipped = {**bad.skipped, **_passed_over(medium, others)}
    if contradicted:
        skipped[f"{medium.noun} of several classes"] = len(contradicted)
    warnings = (*bad.examples, *((again,) if contradicted else ()))
    kept = len(found)
    report = bad.report(kept + repeated, kept, skipped=skipped, duplicate_rows=repeated, warnings=warnings)
    class_names = sorted(set(found.values()), key=natural_order)
    number = {name: i for i, name in enumerate(class_names)}
    classes = np.array([number[label] for label in found.values()], dtype=np.int32)
    return LabelledFiles(list(found), classes, class_names, bad.name, report, medium.modality)


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"
