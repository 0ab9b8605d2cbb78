"""The rows of a table of pairs, as ids of distinct texts (or names of files) and labels."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from textsiam.data.tables.columns import NOUNS, Modality, PairColumns, Table, checked_text, text_problem
from textsiam.data.tables.errors import BadRows, DataError, OnBadRow
from textsiam.data.tables.labels import LabelParser

Problem = tuple[str, str]
Cell = Callable[[str, object], str | Problem]
FileCells = Callable[[Modality, Path | None, OnBadRow], Cell]


class PairRows:
    """The pairs read so far: texts become ids at once, so that memory grows with distinct texts only."""

    def __init__(self) -> None:
        """Begin without pairs."""
        self.accepted = 0
        self.index: dict[str, int] = {}
        self.left, self.right, self.labels = array("i"), array("i"), array("b")
        self.lines = array("q")
        self.starts: list[tuple[int, str]] = []

    def add(self, line: int, left: str, right: str, label: int) -> None:
        """Add the pair of a line."""
        index = self.index
        self.left.append(index.setdefault(left, len(index)))
        self.right.append(index.setdefault(right, len(index)))
        self.labels.append(label)
        self.lines.append(line)

    def read(self, table: Table, bad: BadRows, columns: PairColumns, cell: Cell, *, default: int) -> None:
        """Read the rows of a table, a text by `cell`; `default` is the label where no column holds one."""
        names = [*columns.texts, *([columns.label] if columns.label else [])]
        classes = table.class_names.get(columns.label or "", ())
        parse = LabelParser(classes, name=bad.name, column=columns.label or "")
        self.starts.append((len(self.lines), f"{bad.name}:{table.unit}"))
        for line, values in table.values(names):
            texts = []
            for name, value in zip(columns.texts, values, strict=False):
                text = cell(name, value)
                if isinstance(text, tuple):
                    bad(f"{table.unit}{line}", *text)
                    break
                texts.append(text)
            else:
                label = default if columns.label is None else parse(values[-1])
                if label is None:
                    bad(f"{table.unit}{line}", *parse.problem(values[-1]))
                    continue
                self.accepted += 1
                self.add(line, texts[0], texts[1], label)
                if len(texts) == 3:
                    self.add(line, texts[0], texts[2], 0 if default == 1 else -1)
        bad.note(parse.mapping)

    def place(self, row: int) -> str:
        """Say where a pair stands: file and line."""
        name = next(name for start, name in reversed(self.starts) if start <= row)
        return f"{name}{self.lines[row]}"


def cell_reader(table: Table, modality: Modality, file_cells: FileCells | None, on_bad_row: OnBadRow) -> Cell:
    """Return the function of (column, value) that gives a text or the name of a file, or (reason, problem).

    Args:
        table: whose cells are read.
        modality: what they hold.
        file_cells: makes this function for files, of the folder that paths are relative to.
        on_bad_row: as for `BadRows`; where rows are skipped, files that cannot be opened are bad ones.

    Raises:
        DataError: they hold files, and nothing is given to read those.
    """
    if modality == "text":
        return _text_cell
    if file_cells is None:
        raise DataError(f"{table.name}: holds {NOUNS[modality]}, and only texts are read here; see textsiam.sources")
    return file_cells(modality, table.folder, on_bad_row)


def int_array(values: array[int]) -> np.ndarray:
    """View an array of C ints (n,) int32."""
    return np.frombuffer(values, dtype=np.int32) if values else np.zeros(0, dtype=np.int32)


def _text_cell(name: str, value: object) -> str | Problem:
    if isinstance(value, bytes):  # a column of bytes, or of what should be UTF-8 and is not everywhere
        with suppress(UnicodeDecodeError):
            value = value.decode()
    text = checked_text(value)
    if text is None:
        return text_problem(name, value)
    return ("NUL character", f"{name!r} holds a NUL character") if "\0" in text else text
