"""Pairs of sentences with a graded similarity, as in the STS Benchmark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from textsiam.data.tables.columns import (
    PAIR_NAMES,
    checked_roles,
    checked_text,
    known_pair,
    text_problem,
    unknown_columns,
)
from textsiam.data.tables.errors import BadRows, OnBadRow, ReadReport
from textsiam.data.tables.lines import Lines
from textsiam.data.tables.readers import Loader, Table, file_format, open_table

SCORE_NAMES = ("score", "similarity_score", "label")
_STS_WIDTH = 7  # genre, file, year, id, score, sentence 1, sentence 2; then, on some lines, sources
_STS_NAMES = ("column 6", "column 7", "column 5")


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
            sts = Table(bad.name, tuple(f"column {n}" for n in range(1, _STS_WIDTH + 1)), _sts_rows(lines, bad))
            rows = list(_rows(sts, bad, _STS_NAMES))
    else:
        with open_table(source, bad, split=split, quoted=quoted, load=load) as table:
            rows = list(_rows(table, bad, _columns(table, columns)))
    if not rows:
        raise bad.nothing_usable("has no rows")
    left, right, scores = zip(*rows, strict=True)
    report = bad.report(len(rows), len(rows))
    return GradedPairs(list(left), list(right), np.array(scores, dtype=np.float64), bad.name, report)


def _is_sts(path: Path) -> bool:
    with closing(Lines(path, BadRows(str(path)))) as lines:
        fields = next(lines).rstrip("\r\n").split("\t")
    return len(fields) >= _STS_WIDTH and _score(fields[4]) is not None


def _sts_rows(lines: Lines, bad: BadRows) -> Iterator[tuple[int, list[str]]]:
    for line in lines:
        fields = line.rstrip("\r\n").split("\t")
        if lines.reject_undecodable():
            pass
        elif len(fields) >= _STS_WIDTH:
            yield lines.number, fields
        elif line.strip():
            bad(lines.number, "wrong field count", f"has {len(fields)} fields, expected {_STS_WIDTH} or more")
        lines.begin()


def _columns(table: Table, columns: Mapping[str, str] | None) -> tuple[str, ...]:
    roles = checked_roles(table.name, table.columns, columns, ("left", "right", "score"))
    texts = known_pair(table.columns, roles, PAIR_NAMES)
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


def _rows(table: Table, bad: BadRows, names: tuple[str, ...]) -> Iterator[tuple[str, str, float]]:
    places = [table.columns.index(name) for name in names]
    for line, values in table.rows:
        where, cells = f"{table.unit}{line}", [values[at] for at in places]
        left, right, score = checked_text(cells[0]), checked_text(cells[1]), _score(cells[2])
        if left is None or right is None:
            empty = 0 if left is None else 1
            bad(where, *text_problem(names[empty], cells[empty]))
        elif score is None:
            bad(where, "bad score", f"{names[2]!r} is {cells[2]!r}, expected a number")
        else:
            yield left, right, score


def _score(value: object) -> float | None:
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
