"""Reading whatever a source holds: the one place that asks whether these are texts, files or a forum."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from textsiam.data.graded import GradedPairs
from textsiam.data.graded import read_judged as read_judged_table
from textsiam.data.pairs import Pairs
from textsiam.data.pairs import read_pairs as read_table_of_pairs
from textsiam.data.tables.columns import FILE_NAMES, TEXT_NAMES, Modality, Table, known_column
from textsiam.data.tables.errors import BadRows, DataError, OnBadRow, ReadReport
from textsiam.data.tables.readers import Loader, Opening, open_table
from textsiam.data.tables.rows import Problem, cell_reader
from textsiam.data.texts import Texts
from textsiam.data.texts import read_texts as read_table_of_texts
from textsiam.forums.reading import duplicate_pairs, is_forum
from textsiam.forums.reading import read_texts as read_texts_of_forum
from textsiam.media.labelled import LabelledFiles
from textsiam.media.medium import Medium
from textsiam.media.pairs import draw_up_to
from textsiam.media.readers import read_labelled, read_names
from textsiam.modality import MEDIA, file_cells, medium_of

_IDENTITY_NAMES = ("name", "identity", "person", "writer", "speaker", "label", "class", "account", "id")
_PATH_NAMES = ("path", "file", "filename")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""What no name of an identity has: printed, one with a line break would look like two identities."""


def read_pairs(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
    labelled: bool = True,
    split: str = "train",
    quoted: bool | None = None,
    load: Loader | None = None,
) -> Pairs:
    """Read pairs from a file, a Hub dataset, the packaged sample, or labelled images or sounds.

    Repeats of an unordered pair with the same label are dropped but for the first, and counted. Where an
    unordered pair occurs with both labels, or two equal texts are labelled 0, nothing tells which label is
    right, so every such row is left out, and counted: a wrong label would hurt training and falsify a
    measurement alike. With `labelled=False` every row stays in its place.

    Columns image1, image2 name images and audio1, audio2 sounds; a path is relative to the folder of the table, and
    must be there. Of labelled files (a folder or .zip of class folders, an idx file), up to 10,000 pairs are drawn, as
    many of one class as of two.

    Args:
        source: `sample:forum`; a .tsv, .csv, .jsonl or .parquet file, plain or .gz, or "-" for standard input;
            `owner/name[:config]`; a `datasets.Dataset`, a pandas or polars frame or a list of dicts; a pattern such as
            `part-*.parquet`, or a list of these, read as one; a forum folder, whose duplicate links are pairs labelled
            1; or what `textsiam.media.readers.read_labelled` reads.
        columns: the columns of the roles 'left', 'right' and 'label', where they are not recognised.
        on_bad_row: "error" stops at the first bad row, "skip" counts bad rows by reason in the report.
        labelled: False ignores labels (all are -1) and keeps repeats: pairs that are to be scored.
        split: the split of a Hub dataset.
        quoted: False takes `"` of a TSV or CSV file as an ordinary character.
        load: replaces `datasets.load_dataset`.

    Returns:
        The pairs, with a report of what was left out.

    Raises:
        DataError: the source cannot be read, with file, line and value.

    Example:
        >>> pairs = read_pairs("pairs.tsv")  # doctest: +SKIP
        >>> print(pairs.report)  # doctest: +SKIP
    """
    found = _read(
        read_table_of_pairs, source, columns=columns, on_bad_row=on_bad_row, labelled=labelled, split=split,
        quoted=quoted, load=load,
    )  # fmt: skip
    return found if labelled or (found.labels < 0).all() else replace(found, labels=np.full(len(found), -1))


def read_judged(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
    **opening: Unpack[Opening],
) -> Pairs | GradedPairs:
    """Read pairs with labels, or with scores: `textsiam.data.graded.read_judged` says which; and files too.

    The arguments are those of `read_pairs`; `columns` may name a 'score' in place of a 'label'.

    Raises:
        DataError: the source cannot be read, with file, line and value.
    """
    return _read(read_judged_table, source, columns=columns, on_bad_row=on_bad_row, **opening)


def _read(read: Callable[..., Any], source: Any, **options: Any) -> Any:
    """Read pairs of a folder of files, of a forum, or of tables."""
    if not isinstance(source, str | Path):
        return read(source, file_cells=file_cells, **options)
    if is_forum(source):
        return read(duplicate_pairs(source), file_cells=file_cells, **options)
    if medium := medium_of(source):
        return draw_up_to(read_labelled(source, medium, on_bad_row=options["on_bad_row"]))
    return read(source, file_cells=file_cells, **options)


def read_texts(
    source: Any,
    *,
    column: str | None = None,
    id_column: str | None = None,
    on_bad_row: OnBadRow = "error",
    split: str = "train",
    quoted: bool | None = None,
    load: Loader | None = None,
    store: Path | None = None,
) -> Texts:
    """Read texts, or the names of images or sounds, with their ids.

    A .txt file holds one text a line; its blank lines are counted and left out. In a table, ids are taken
    from a column id, _id, qid, question_id, doc_id, post_id and the like, in any spelling (`Id`, `QuestionId`);
    without one, and in a .txt file, a text's id is its line (its row, for Parquet and the Hub), and where one is empty
    it is "line 7"; the report says so. A file of pairs gives its distinct texts, numbered from 1.

    Args:
        source: as for `read_pairs`, also a .txt file; a forum folder (url, tags and date are then in `metadata`); or a
            folder, .zip or idx file of images or sounds.
        column: the column of the texts, where it is not recognised.
        id_column: the column of the ids, where it is not recognised.
        on_bad_row: "error" stops at the first bad row, "skip" counts bad rows by reason in the report.
        split: the split of a Hub dataset.
        quoted: False takes `"` of a TSV or CSV file as an ordinary character.
        load: replaces `datasets.load_dataset`.
        store: an empty folder that the texts and ids of a table are written into instead of being held in memory. The
            images of a folder are not opened then: whoever does passes over those that cannot be.

    Raises:
        DataError: the source cannot be read, with file, line and value; or two texts have one id.
    """
    forum = isinstance(source, str | Path) and is_forum(source)
    medium = None if forum else medium_of(source)
    if id_column and (forum or medium):
        raise DataError(f"{source}: --id-column {id_column} is for tables, and this is a folder with ids of its own")
    if forum:
        return read_texts_of_forum(source, column=column, on_bad_row=on_bad_row)
    if medium is not None:
        return read_names(source, medium, on_bad_row=on_bad_row, decode=store is None)
    options = {"split": split, "quoted": quoted, "load": load, "file_cells": file_cells, "store": store}
    return read_table_of_texts(source, column=column, id_column=id_column, on_bad_row=on_bad_row, **options)


@dataclass(frozen=True)
class Identities:
    """Inputs in their order, texts or names of files, each with the name of its identity beside it."""

    names: list[str]
    inputs: list[str]
    report: ReadReport


def read_identities(source: str | Path, *, modality: Modality, on_bad_row: OnBadRow = "error") -> Identities:
    """Read inputs with the identity of each: a folder of files for each identity, or a table of names and inputs.

    The table has the columns name and path (name and text, for texts), in the usual spellings; of two columns without
    such a header, the first line is a row, too. Paths are relative to the table.

    Args:
        source: A folder, .zip or idx file as for `textsiam.images.read_images`; or a table as for `read_pairs`.
        modality: What the inputs are.
        on_bad_row: "error" stops at the first bad row or file, "skip" counts bad ones by reason in the report.

    Raises:
        DataError: The source cannot be read, with file, line and value; or an input is of two identities.
    """
    if not (str(source) == "-" or Path(source).exists()):
        raise DataError(f"{source}: no such file or folder")
    if (medium := medium_of(source)) is not None or Path(source).is_dir():
        found = _labelled_folder(source, medium, modality, on_bad_row)
        if strange := [name for name in found.class_names if CONTROL_CHARACTERS.search(name)]:
            raise DataError(f"{source}: the name {strange[0]!r} has control characters: give the folder another one")
        return Identities([found.class_names[c] for c in found.classes.tolist()], found.names, found.report)
    bad, owner = BadRows(str(source), on_bad_row=on_bad_row), dict[str, str]()
    with open_table(source, bad, known=_IDENTITY_NAMES) as table:
        for where, name, value, found in _named_cells(table, bad, modality):
            if isinstance(found, tuple):
                bad(where, *found)
            elif not name:
                bad(where, "no name", "names no identity")
            elif CONTROL_CHARACTERS.search(name):
                bad(where, "control character in a name", f"the name {name!r} has control characters")
            elif owner.setdefault(found, name) != name:
                bad(where, "input of two identities", f"{value!r} is of {name!r} here, and of {owner[found]!r} before")
    if not owner:
        raise bad.nothing_usable("holds no identity")
    return Identities([*owner.values()], [*owner], bad.report(len(owner), len(owner)))


def _labelled_folder(
    source: str | Path, medium: Medium | None, modality: Modality, on_bad_row: OnBadRow
) -> LabelledFiles:
    """Read a folder of files of a medium for each identity, which must be what a model takes."""
    wanted = MEDIA.get(modality)
    if wanted is None:
        what = "is a folder" if medium is None else f"holds {medium.nouns}, and the model reads texts"
        raise DataError(f"{source}: {what}: give a table of names and texts")
    if medium is None or medium is not wanted:
        holds = f"holds no {wanted.noun}" if medium is None else f"holds {medium.nouns}"
        expected = f"a folder of {wanted.nouns} for each identity, or a table of names and paths"
        raise DataError(f"{source}: {holds}, expected {expected}")
    return read_labelled(source, wanted, on_bad_row=on_bad_row)


def _named_cells(table: Table, bad: BadRows, modality: Modality) -> Iterator[tuple[str, str, object, str | Problem]]:
    """Yield where a row stands, its name, what stands beside it, and that as an input or why it is none."""
    columns, header = _identity_columns(table, modality)
    if header:
        bad.note("its columns have no such names as name and path or text, so that the first line is a row, too")
    cell, rows = cell_reader(table, modality, file_cells, bad.on_bad_row), table.values(columns)
    for line, (name, value) in chain([(1, header)] if header else [], rows):
        yield f"{table.unit}{line}", "" if name is None else str(name).strip(), value, cell(columns[1], value)


def _identity_columns(table: Table, modality: Modality) -> tuple[tuple[str, str], tuple[str, ...]]:
    """Return the columns of names and inputs, and the header where that is a row itself."""
    name = known_column(table.columns, _IDENTITY_NAMES)
    texts = modality == "text"
    column = known_column(table.columns, TEXT_NAMES if texts else (*_PATH_NAMES, FILE_NAMES[modality][2]))
    if name and column:
        return (name, column), ()
    if len(table.columns) == 2:
        return (table.columns[0], table.columns[1]), table.columns
    raise DataError(
        f"{table.name}: expected the columns name and {'text' if texts else 'path'}, got {', '.join(table.columns)}"
    )
