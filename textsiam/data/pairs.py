"""Labelled pairs of texts: what a twin learns from and is judged by."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from textsiam.data.columns import (
    PairColumns,
    checked_text,
    find_pair_columns,
    label_parser,
    label_problem,
    text_problem,
)
from textsiam.data.problems import BadRows, DataError, OnBadRow, ReadReport
from textsiam.data.readers import SAMPLES, Loader, Table, open_table
from textsiam.data.repeats import find_repeats

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["DataError", "Pairs", "ReadReport", "read_pairs", "sample_pairs"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """`n` pairs over `m` distinct texts.

    `texts` are distinct and stripped; `left` and `right` (n,) int32 point into them; `labels` (n,) int8 is 1
    for a duplicate, 0 for not, -1 for unlabelled (scikit-learn's convention); `source` names the data in
    messages.

    Raises:
        ValueError: the arrays differ in length, point outside `texts`, or hold another label.
    """

    texts: list[str]
    left: np.ndarray
    right: np.ndarray
    labels: np.ndarray
    source: str
    report: ReadReport

    def __post_init__(self) -> None:
        """Bring the arrays to their types and check them."""
        for name, dtype in (("left", np.int32), ("right", np.int32), ("labels", np.int8)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=dtype))
        if not len(self.left) == len(self.right) == len(self.labels):
            raise ValueError(f"{self.source}: left, right and labels differ in length: "
                             f"{len(self.left)}, {len(self.right)}, {len(self.labels)}")  # fmt: skip
        ends = np.concatenate([self.left, self.right])
        if len(ends) and not 0 <= ends.min() <= ends.max() < len(self.texts):
            raise ValueError(f"{self.source}: a pair points outside the {len(self.texts)} texts")
        if len(self.labels) and not -1 <= self.labels.min() <= self.labels.max() <= 1:
            raise ValueError(f"{self.source}: labels must be 1, 0 or -1, got {np.unique(self.labels).tolist()}")

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.labels)

    @classmethod
    def from_texts(
        cls, left: Sequence[str], right: Sequence[str], labels: Sequence[int], source: str = "memory"
    ) -> Pairs:
        """Make pairs of texts in memory, row for row: nothing is dropped.

        Raises:
            DataError: a text is empty, a label is none of 1, 0, -1, or the lengths differ.
        """
        if not len(left) == len(right) == len(labels):
            raise DataError(f"{source}: {len(left)} left texts, {len(right)} right texts, {len(labels)} labels")
        index: dict[str, int] = {}
        ends = (array("i"), array("i"))
        for row, both in enumerate(zip(left, right, strict=True)):
            for side, text in zip(ends, both, strict=True):
                stripped = checked_text(text)
                if stripped is None:
                    raise DataError(f"{source}: row {row}: {text_problem('text', text)[1]}")
                side.append(index.setdefault(stripped, len(index)))
        found = np.asarray(labels)
        wrong = np.flatnonzero(~np.isin(found, (-1, 0, 1)))
        if len(wrong):
            raise DataError(f"{source}: row {wrong[0]}: label is {found[wrong[0]]}, expected 0 or 1")
        report = ReadReport(source, len(found), len(found))
        return cls(list(index), _ints(ends[0]), _ints(ends[1]), found.astype(np.int8), source, report)

    @classmethod
    def concat(cls, parts: Sequence[Pairs], source: str | None = None) -> Pairs:
        """Put pairs one after the other, sharing equal texts; nothing is dropped.

        Raises:
            ValueError: `parts` is empty.
        """
        if not parts:
            raise ValueError("concat needs at least one Pairs")
        index: dict[str, int] = {}
        left, right = [], []
        for part in parts:
            place = np.array([index.setdefault(text, len(index)) for text in part.texts], dtype=np.int32)
            left.append(place[part.left])
            right.append(place[part.right])
        name = " + ".join(dict.fromkeys(part.source for part in parts)) if source is None else source
        skipped: dict[str, int] = {}
        for part in parts:
            for reason, count in part.report.skipped.items():
                skipped[reason] = skipped.get(reason, 0) + count
        reports = [part.report for part in parts]
        report = ReadReport(
            source=name,
            rows=sum(each.rows for each in reports),
            kept=sum(each.kept for each in reports),
            skipped=skipped,
            duplicate_rows=sum(each.duplicate_rows for each in reports),
            contradictory=sum(each.contradictory for each in reports),
            warnings=tuple(warning for each in reports for warning in each.warnings),
        )
        labels = np.concatenate([part.labels for part in parts])
        return cls(list(index), np.concatenate(left), np.concatenate(right), labels, name, report)

    def select(self, rows: np.ndarray | Sequence[int]) -> Pairs:
        """Keep these rows (indices in the order given, or a boolean mask) and only the texts they use."""
        kept = np.asarray(rows)
        kept = np.flatnonzero(kept) if kept.dtype == bool else kept.astype(np.int64)
        left, right = self.left[kept], self.right[kept]
        used = np.unique(np.concatenate([left, right]))
        texts = [self.texts[i] for i in used]
        return Pairs(
            texts,
            np.searchsorted(used, left),
            np.searchsorted(used, right),
            self.labels[kept],
            self.source,
            self.report,
        )

    @property
    def left_texts(self) -> list[str]:
        """The left text of each pair (n,)."""
        return [self.texts[i] for i in self.left]

    @property
    def right_texts(self) -> list[str]:
        """The right text of each pair (n,)."""
        return [self.texts[i] for i in self.right]

    @property
    def both_labels(self) -> bool:
        """Whether every pair is labelled, some as duplicates and some as not."""
        return set(np.unique(self.labels).tolist()) == {0, 1}

    @property
    def positives(self) -> int:
        """The number of pairs labelled 1."""
        return int((self.labels == 1).sum())

    @property
    def fingerprint(self) -> str:
        """The sha256 (hex) of the pairs in their order: equal for equal content, whatever the source.

        Each text is hashed once, where it first appears, so numbering and unused texts play no part.
        """
        ends = np.stack([self.left, self.right], axis=1).reshape(-1)
        used, first, inverse = np.unique(ends, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        digest = hashlib.sha256()
        for i in used[order]:
            encoded = self.texts[i].encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        digest.update(rank[inverse].astype("<i4").tobytes() + self.labels.astype("<i1").tobytes())
        return digest.hexdigest()

    def to_dataset(self) -> Dataset:
        """Give a `datasets.Dataset` with columns question1, question2, is_duplicate."""
        from datasets import Dataset

        columns = {
            "question1": self.left_texts,
            "question2": self.right_texts,
            "is_duplicate": self.labels.tolist(),
        }
        return Dataset.from_dict(columns)


def read_pairs(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
    labelled: bool = True,
    split: str = "train",
    quoted: bool | None = None,
    load: Loader | None = None,
) -> Pairs:
    """Read pairs from a file, a Hub dataset or the packaged sample.

    Repeats of an unordered pair with the same label are dropped but for the first, and counted. Where an
    unordered pair occurs with both labels, or two equal texts are labelled 0, nothing tells which label is
    right, so every such row is left out, and counted: a wrong label would hurt training and falsify a
    measurement alike. With `labelled=False` every row stays in its place.

    Args:
        source: `sample:forum`; a .tsv, .csv, .jsonl or .parquet file, plain or .gz; or `owner/name[:config]`.
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
    bad = BadRows(str(source), on_bad_row=on_bad_row)
    path = SAMPLES / "forum_pairs.tsv" if bad.name == "sample:forum" else source
    rows = _Rows()
    with open_table(path, bad, split=split, quoted=quoted, load=load) as table:
        found = find_pair_columns(table.name, table.columns, columns=columns, labelled=labelled)
        _read_rows(table, bad, found, rows, default=1 if labelled else -1)
    return _assemble(table, bad, rows, clean=labelled)


def sample_pairs() -> Pairs:
    """Read the packaged forum: question pairs in clusters, written for this project."""
    return read_pairs("sample:forum")


class _Rows:
    """The pairs read so far: texts become ids at once, so that memory grows with distinct texts only."""

    def __init__(self) -> None:
        self.accepted = 0
        self.index: dict[str, int] = {}
        self.left, self.right, self.labels = array("i"), array("i"), array("b")
        self.lines = array("q")

    def add(self, line: int, left: str, right: str, label: int) -> None:
        index = self.index
        self.left.append(index.setdefault(left, len(index)))
        self.right.append(index.setdefault(right, len(index)))
        self.labels.append(label)
        self.lines.append(line)


def _read_rows(table: Table, bad: BadRows, columns: PairColumns, rows: _Rows, *, default: int) -> None:
    places = [(name, table.columns.index(name)) for name in columns.texts]
    label_at = -1 if columns.label is None else table.columns.index(columns.label)
    parse = label_parser(table.class_names.get(columns.label or "", ()))
    for line, values in table.rows:
        texts = []
        for name, at in places:
            text = checked_text(values[at])
            if text is None:
                bad(f"{table.unit}{line}", *text_problem(name, values[at]))
                break
            texts.append(text)
        else:
            label = default if columns.label is None else parse(values[label_at])
            if label is None:
                bad(f"{table.unit}{line}", *label_problem(columns.label or "", values[label_at]))
                continue
            rows.accepted += 1
            rows.add(line, texts[0], texts[1], label)
            if len(texts) == 3:
                rows.add(line, texts[0], texts[2], 0 if default == 1 else -1)


def _assemble(table: Table, bad: BadRows, rows: _Rows, *, clean: bool) -> Pairs:
    if not rows.accepted and not bad.skipped:
        raise DataError(f"{table.name}: has a header but no rows")
    if not rows.left:
        raise DataError(f"{table.name}: no usable row: " + "; ".join(bad.examples[:1]))
    left, right, labels = _ints(rows.left), _ints(rows.right), np.frombuffer(rows.labels, dtype=np.int8)
    texts = list(rows.index)
    pairs = Pairs(texts, left, right, labels, table.name, ReadReport(table.name, rows.accepted, len(left)))
    if not clean:
        return _with_report(pairs, rows, bad, 0, 0, ())
    lines = np.frombuffer(rows.lines, dtype=np.int64)
    repeats = find_repeats(left, right, labels)
    kept = pairs if repeats.keep.all() else pairs.select(repeats.keep)
    if not len(kept):
        raise DataError(f"{table.name}: no usable row: every pair has contradictory labels")
    warnings = repeats.warnings(lambda row: f"{table.name}:{table.unit}{lines[row]}")
    return _with_report(kept, rows, bad, int(repeats.duplicate.sum()), int(repeats.contradictory.sum()), warnings)


def _with_report(
    pairs: Pairs, rows: _Rows, bad: BadRows, duplicates: int, contradictory: int, warnings: tuple[str, ...]
) -> Pairs:
    report = ReadReport(
        source=pairs.source,
        rows=rows.accepted + bad.skipped.total(),
        kept=len(pairs),
        skipped=dict(bad.skipped),
        duplicate_rows=duplicates,
        contradictory=contradictory,
        warnings=(*bad.examples, *warnings),
    )
    return replace(pairs, report=report)


def _ints(values: array[int]) -> np.ndarray:
    return np.frombuffer(values, dtype=np.int32) if values else np.zeros(0, dtype=np.int32)
