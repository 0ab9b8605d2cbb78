"""Pairs of sentences with a graded similarity, as in the STS Benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np

from textsiam.data.pairs import Pairs, pairs_of
from textsiam.data.tables.columns import (
    LABEL_NAMES,
    PAIR_NAMES,
    checked_roles,
    known_column,
    known_pair,
    unknown_columns,
)
from textsiam.data.tables.columns import SCORE_NAMES as _SCORE_NAMES
from textsiam.data.tables.errors import BadRows, DataError, OnBadRow, ReadReport
from textsiam.data.tables.labels import mostly_labels, number_of
from textsiam.data.tables.readers import Opening, Table, open_parts, source_name
from textsiam.data.tables.rows import FileCells, cell_reader

SCORE_NAMES = (*_SCORE_NAMES, "label")


@dataclass(frozen=True, eq=False)
class GradedPairs:
    """Sentence pairs and how similar people found them: `scores` (n,) float64, larger is more similar."""

    left: list[str]
    right: list[str]
    scores: np.ndarray
    source: str
    report: ReadReport

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.left)

    def ungraded(self) -> Pairs:
        """Give the pairs alone, unlabelled."""
        return replace(Pairs.from_texts(self.left, self.right, [-1] * len(self), self.source), report=self.report)


def read_graded(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
    **opening: Unpack[Opening],
) -> GradedPairs:
    """Read graded pairs: a table with sentence1, sentence2, score, or the STS Benchmark's own files.

    The STS Benchmark's files have no header, seven or more columns parted by tabs whatever their name ends
    in, and no quoting: the fifth column is the score, the sixth and seventh are the sentences.

    Args:
        source: as for `read_pairs`.
        columns: the columns of the roles 'left', 'right' and 'score', where they are not recognised.
        on_bad_row: "error" stops at the first bad row, "skip" counts bad rows by reason in the report.
        opening: how tables are opened.

    Raises:
        DataError: the source cannot be read, with file, line and value.

    References:
        Cer et al., SemEval-2017 Task 1: Semantic Textual Similarity, 2017.
    """
    bad = BadRows(source_name(source), on_bad_row=on_bad_row)
    return _graded_of(open_parts(source, bad, **opening), bad, columns)


def _graded_of(
    parts: Iterable[AbstractContextManager[tuple[Table, BadRows]]], bad: BadRows, columns: Mapping[str, str] | None
) -> GradedPairs:
    rows: list[tuple[str, str, float]] = []
    for part in parts:
        with part as (table, within):
            rows += _rows(table, within, _columns(table, columns))
    if not rows:
        raise bad.nothing_usable("has no rows")
    left, right, scores = zip(*rows, strict=True)
    report = bad.report(len(rows), len(rows))
    return GradedPairs(list(left), list(right), np.array(scores, dtype=np.float64), bad.name, report)


def read_judged(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
    file_cells: FileCells | None = None,
    **opening: Unpack[Opening],
) -> Pairs | GradedPairs:
    """Read pairs that somebody judged: with labels, or with scores.

    The header decides: is_duplicate holds labels, score and similarity_score hold scores, and so do the columns of the
    roles 'label' and 'score'. A column called label (or labels) may hold either, so its values decide: scores, where
    more of them are other numbers than are labels. A single bad value changes nothing, and two whole numbers alone,
    such as 1 and 2, are no scores either: they are refused as labels.

    Args:
        source: as for `read_pairs`.
        columns: the columns of the roles 'left', 'right' and 'label' or 'score', where they are not recognised.
        on_bad_row: "error" stops at the first bad row, "skip" counts bad rows by reason in the report.
        file_cells: what names the files of a table; without it, such a table is refused.
        opening: how tables are opened.

    Raises:
        DataError: the source cannot be read, with file, line and value; or some files hold labels and some scores.
    """
    bad = BadRows(source_name(source), on_bad_row=on_bad_row)
    parts = open_parts(source, bad, sample="forum_pairs.tsv", known=(columns or {}).values(), **opening)
    with ExitStack() as stack:
        tables = [stack.enter_context(part) for part in parts]
        scores = {_holds_scores(table, within, columns or {}) for table, within in tables}
        bad.forget()
        if len(scores) > 1:
            raise DataError(f"{bad.name}: some hold labels, and some scores")
        again = map(nullcontext, tables)
        if scores.pop():
            return _graded_of(again, bad, columns)
        return pairs_of(again, bad, columns=columns, file_cells=file_cells)


def _holds_scores(table: Table, bad: BadRows, columns: Mapping[str, str]) -> bool:
    if {"label", "score"} & set(columns):
        return "score" in columns
    if not known_pair(table.columns, columns, PAIR_NAMES):
        return False
    label, score = (known_column(table.columns, names) for names in (LABEL_NAMES, _SCORE_NAMES))
    if label is None or known_column((label,), LABEL_NAMES[:1]) or table.class_names.get(label):
        return label is None and score is not None
    graded = not mostly_labels(value for _, (value,) in table.values((label,)))
    bad.note(f"{label!r} holds {'scores' if graded else 'labels'}, by its values")
    return graded


def _columns(table: Table, columns: Mapping[str, str] | None) -> tuple[str, ...]:
    roles = checked_roles(table.name, table.columns, columns, ("left", "right", "score"))
    texts = known_pair(table.columns, roles, PAIR_NAMES)
    score = roles.get("score") or known_column(table.columns, SCORE_NAMES)
    if texts and score:
        return (*texts, score)
    raise unknown_columns(
        table.name,
        table.columns,
        "the score" if texts else "the sentences of a pair",
        "sentence1, sentence2, score; or the header-less STS Benchmark layout",
        "--column left=NAME, right=NAME, score=NAME (columns={'left': …} in Python)",
    )


def _rows(table: Table, bad: BadRows, names: tuple[str, ...]) -> Iterator[tuple[str, str, float]]:
    cell = cell_reader(table, "text", file_cells=None, on_bad_row=bad.on_bad_row)
    for line, cells in table.values(names):
        where = f"{table.unit}{line}"
        left, right = (cell(name, value) for name, value in zip(names, cells[:2], strict=False))
        score = number_of(cells[2])
        if isinstance(left, tuple) or isinstance(right, tuple):
            bad(where, *(left if isinstance(left, tuple) else right))
        elif score is None:
            bad(where, "bad score", f"{names[2]!r} is {cells[2]!r}, expected a number")
        else:
            yield left, right, score
