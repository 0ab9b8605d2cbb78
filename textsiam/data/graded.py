"""Pairs of sentences with a graded similarity, as in the STS Benchmark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textsiam.data.tables.columns import PAIR_NAMES, checked_roles, checked_text, text_problem, unknown_columns
from textsiam.data.tables.errors import BadRows, DataError, OnBadRow, ReadReport
from textsiam.data.tables.lines import Lines
from textsiam.data.tables.readers import Loader, Table, file_format, open_table

SCORE_NAMES = ("score", "similarity_score", "label")
_STS_WIDTH = 7  # genre, file, year, id, score, sentence 1, sentence 2; then, on some lines, sources
_STS_COLUMNS = (5, 6, 4)

_Row = tuple[str, str, float]


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


def read_graded(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
    split: str = "train",
    quoted: bool | None = None,
    load: Loader | None = None,
) -> GradedPairs:
    """Read graded pairs: a table with sentence1, sentence2, score, or the STS Benchmark's own files.

    The STS Benchmark's files have no header, seven or more columns parted by tabs whatever their name ends
    in, and no quoting: the fifth column is the score, the sixth and seventh are the sentences.

    Args:
        source: a .tsv, .csv, .jsonl or .parquet file, plain or .gz; or a Hub id.
        columns: the columns of the roles 'left', 'right' and 'score', where they are not recognised.
        on_bad_row: "error" stops at the first bad row, "skip" counts bad rows by reason in the report.
        split: the split of a Hub dataset.
        quoted: False takes `"` of a TSV or CSV file as an ordinary character.
        load: replaces `datasets.load_dataset`.

    Raises:
        DataError: the source cannot be read, with file, line and value.

    References:
        Cer et al., SemEval-2017 Task 1: Semantic Textual Similarity, 2017.
    """
    bad = BadRows(str(source), on_bad_row=on_bad_row)
    path = Path(source)
    if path.exists() and file_format(path) in ("\t", ",") and _is_sts(path):
        with closing(Lines(path, bad)) as lines:
            rows = list(_sts_rows(lines, bad))
    else:
        with open_table(source, bad, split=split, quoted=quoted, load=load) as table:
            rows = list(_table_rows(table, bad, _columns(table, columns)))
    if not rows:
        raise DataError(f"{bad.name}: " + (f"no usable row: {bad.examples[0]}" if bad.examples else "has no rows"))
    left, right, scores = zip(*rows, strict=True)
    report = ReadReport(
        bad.name,
        len(rows) + bad.skipped.total(),
        len(rows),
        skipped=dict(bad.skipped),
        warnings=tuple(bad.examples),
    )
    return GradedPairs(list(left), list(right), np.array(scores, dtype=np.float64), bad.name, report)


def _is_sts(path: Path) -> bool:
    with closing(Lines(path, BadRows(str(path)))) as lines:
        fields = next(lines).rstrip("\r\n").split("\t")
    return len(fields) >= _STS_WIDTH and _score(fields[_STS_COLUMNS[2]]) is not None


def _sts_rows(lines: Lines, bad: BadRows) -> Iterator[_Row]:
    for line in lines:
        fields = line.rstrip("\r\n").split("\t")
        if lines.reject_undecodable():
            pass
        elif len(fields) >= _STS_WIDTH:
            row = _row(
                str(lines.number),
                bad,
                ("column 6", "column 7", "column 5"),
                [fields[i] for i in _STS_COLUMNS],
            )
            if row:
                yield row
        elif line.strip():
            bad(lines.number, "wrong field count", f"has {len(fields)} fields, expected {_STS_WIDTH} or more")
        lines.begin()


def _columns(table: Table, columns: Mapping[str, str] | None) -> tuple[str, ...]:
    roles = checked_roles(table.name, table.columns, columns, ("left", "right", "score"))
    known = [(roles.get("left", left), roles.get("right", right)) for left, right in PAIR_NAMES]
    texts = next((each for each in known if set(each) <= set(table.columns)), None)
    score = roles.get("score") or next((each for each in SCORE_NAMES if each in table.columns), None)
    if texts and score:
        return (*texts, score)
    raise unknown_columns(
        table.name,
        table.columns,
        "the score" if texts else "the sentences of a pair",
        "sentence1, sentence2, score; or the header-less STS Benchmark layout",
        "columns={'left': …, 'right': …, 'score': …}",
    )


def _table_rows(table: Table, bad: BadRows, names: tuple[str, ...]) -> Iterator[_Row]:
    places = [table.columns.index(name) for name in names]
    for line, values in table.rows:
        row = _row(f"{table.unit}{line}", bad, names, [values[at] for at in places])
        if row:
            yield row


def _row(where: str, bad: BadRows, names: tuple[str, ...], values: list[Any]) -> _Row | None:
    left, right = checked_text(values[0]), checked_text(values[1])
    if left is None or right is None:
        empty = 0 if left is None else 1
        bad(where, *text_problem(names[empty], values[empty]))
        return None
    score = _score(values[2])
    if score is None:
        bad(where, "bad score", f"{names[2]!r} is {values[2]!r}, expected a number")
        return None
    return left, right, score


def _score(value: object) -> float | None:
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
