"""Labelled pairs of texts, or of files by name: what a twin learns from and is judged by."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from textsiam.data.components import by_first_appearance, joined_groups
from textsiam.data.integers import picked_rows, whole_numbers
from textsiam.data.repeats import find_repeats
from textsiam.data.tables.columns import (
    FILE_NAMES,
    NOUNS,
    PAIR_COLUMNS,
    PAIR_NAMES,
    Modality,
    checked_text,
    find_pair_columns,
    renamed,
    text_problem,
    unlike,
)
from textsiam.data.tables.errors import BadRows, DataError, OnBadRow, ReadReport
from textsiam.data.tables.readers import Opening, Table, open_parts, source_name
from textsiam.data.tables.rows import FileCells, PairRows, cell_reader, int_array

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["DataError", "Pairs", "ReadReport", "read_pairs", "sample_pairs"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """`n` pairs over `m` distinct texts.

    `texts` are distinct and stripped; `left` and `right` (n,) int32 point into them; `labels` (n,) int8 is 1
    for a duplicate, 0 for not, -1 for unlabelled (scikit-learn's convention); `source` names the data in
    messages. Where `groups` (m,) int32 is given, texts of one group are known to be the same thing, such as
    images of one class; -1 is unknown. `families` (m,) int32 go further: what is changed alike for training, such as
    signatures and their forgeries; -1 is unknown. `modality` says whether the texts are names of images or sounds (see
    `textsiam.media.names`): two names are then two inputs, however alike they are spelled.

    Raises:
        ValueError: the arrays differ in length, or hold what is no label, group or index of a text; the message
            names its position and value.
    """

    texts: list[str]
    left: np.ndarray
    right: np.ndarray
    labels: np.ndarray
    source: str
    report: ReadReport
    groups: np.ndarray | None = None
    modality: Modality = "text"
    families: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check the arrays and bring them to their types."""
        index = (0, len(self.texts) - 1), f"the index of one of the {len(self.texts)} texts"
        kinds = {
            "left": (np.int32, *index),
            "right": (np.int32, *index),
            "labels": (np.int8, (-1, 1), "1, 0 or -1"),
            **dict.fromkeys(("groups", "families"), (np.int32, (-1, 2**31 - 1), "a group's number from 0 on, or -1")),
        }
        for name, (dtype, within, expected) in kinds.items():
            if (values := getattr(self, name)) is not None:
                checked = whole_numbers(values, dtype, within, f"{self.source}: {name}", expected)
                object.__setattr__(self, name, checked)
        if not len(self.left) == len(self.right) == len(self.labels):
            raise ValueError(f"{self.source}: left, right and labels differ in length: "
                             f"{len(self.left)}, {len(self.right)}, {len(self.labels)}")  # fmt: skip
        for name in ("groups", "families"):
            if (values := getattr(self, name)) is not None and len(values) != len(self.texts):
                raise ValueError(f"{self.source}: {len(values)} {name} for {len(self.texts)} texts")

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
        report = ReadReport(source, len(labels), len(labels))
        return cls(list(index), int_array(ends[0]), int_array(ends[1]), np.asarray(labels), source, report)

    @classmethod
    def concat(cls, parts: Sequence[Pairs], source: str | None = None) -> Pairs:
        """Put pairs one after the other, sharing equal texts; nothing is dropped.

        Groups of two parts are two groups, unless a text is in both.

        Raises:
            ValueError: `parts` is empty, or what they hold is not the same.
        """
        if not parts:
            raise ValueError("concat needs at least one Pairs")
        if len({part.modality for part in parts}) > 1:
            kinds = ", ".join(f"{part.source} ({NOUNS[part.modality]})" for part in parts)
            raise ValueError(f"concat takes pairs of one kind, of texts or of images or of sounds: {kinds}")
        index: dict[str, int] = {}
        places, left, right = [], [], []
        for part in parts:
            place = np.array([index.setdefault(text, len(index)) for text in part.texts], dtype=np.int32)
            places.append(place)
            left.append(place[part.left])
            right.append(place[part.right])
        name = " + ".join(dict.fromkeys(part.source for part in parts)) if source is None else source
        reports = [part.report for part in parts]
        report = ReadReport(
            source=name,
            rows=sum(each.rows for each in reports),
            kept=sum(each.kept for each in reports),
            skipped=dict(sum((Counter(each.skipped) for each in reports), Counter())),
            duplicate_rows=sum(each.duplicate_rows for each in reports),
            contradictory=sum(each.contradictory for each in reports),
            warnings=tuple(warning for each in reports for warning in each.warnings),
            decided=tuple(dict.fromkeys(decision for each in reports for decision in each.decided)),
        )
        return cls(
            texts=list(index),
            left=np.concatenate(left),
            right=np.concatenate(right),
            labels=np.concatenate([part.labels for part in parts]),
            source=name,
            report=report,
            groups=joined_groups(places, [part.groups for part in parts], len(index)),
            modality=parts[0].modality,
            families=joined_groups(places, [part.families for part in parts], len(index)),
        )

    def select(self, rows: np.ndarray | Sequence[int]) -> Pairs:
        """Keep these rows (indices in the order given, or a boolean mask) and only the texts they use."""
        kept = picked_rows(rows, len(self), self.source)
        left, right = self.left[kept], self.right[kept]
        used = np.unique(np.concatenate([left, right]))
        return replace(
            self,
            texts=[self.texts[i] for i in used],
            left=np.searchsorted(used, left),
            right=np.searchsorted(used, right),
            labels=self.labels[kept],
            groups=None if self.groups is None else self.groups[used],
            families=None if self.families is None else self.families[used],
        )

    @property
    def images(self) -> bool:
        """Whether the texts are names of images."""
        return self.modality == "image"

    @property
    def columns(self) -> tuple[str, str]:
        """The columns that a table of these pairs has, beside the label: `read_pairs` knows them."""
        return PAIR_NAMES[0] if self.modality == "text" else FILE_NAMES[self.modality][:2]

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

        Each text is hashed once, where it first appears, so numbering and unused texts play no part. Groups and
        families count by what they put together, where there are any.
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
        for name in ("groups", "families"):
            if (together := getattr(self, name)) is not None:
                groups = together[used[order]]
                known = groups >= 0
                groups[known] = by_first_appearance(groups[known])
                digest.update(name.encode() + groups.astype("<i4").tobytes())
        return digest.hexdigest()

    def to_dataset(self) -> Dataset:
        """Give a `datasets.Dataset` with columns question1, question2 (image1, image2 of images …) and is_duplicate."""
        from datasets import Dataset

        columns = dict(zip(self.columns, (self.left_texts, self.right_texts), strict=True))
        return Dataset.from_dict({**columns, "is_duplicate": self.labels.tolist()})


def read_pairs(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
    labelled: bool = True,
    file_cells: FileCells | None = None,
    **opening: Unpack[Opening],
) -> Pairs:
    """Read pairs from a table; `textsiam.sources.read_pairs` says how, and reads files too.

    Args:
        source: `sample:forum`, or what `open_table` opens; a pattern of files or a list of sources is read as one.
        columns: the columns of the roles 'left', 'right' and 'label', where they are not recognised.
        on_bad_row: "error" stops at the first bad row, "skip" counts bad rows by reason in the report.
        labelled: False ignores labels (all are -1) and keeps repeats: pairs that are to be scored.
        file_cells: what names the files of a table; without it, such a table is refused.
        opening: how tables are opened.

    Raises:
        DataError: the source cannot be read, with file, line and value.
    """
    bad = BadRows(source_name(source), on_bad_row=on_bad_row)
    parts = open_parts(source, bad, sample="forum_pairs.tsv", known=(columns or {}).values(), **opening)
    return pairs_of(parts, bad, columns=columns, labelled=labelled, file_cells=file_cells)


def pairs_of(
    parts: Iterable[AbstractContextManager[tuple[Table, BadRows]]],
    bad: BadRows,
    *,
    columns: Mapping[str, str] | None,
    labelled: bool = True,
    file_cells: FileCells | None = None,
) -> Pairs:
    """Read the pairs of tables as those of one; the arguments are those of `read_pairs`."""
    rows, modalities = PairRows(), set()
    documented = {*PAIR_COLUMNS, *(columns or {}).values()}
    for part in parts:
        with part as (table, within):
            found = find_pair_columns(
                within.name, table.columns, columns=columns, labelled=labelled, files=table.file_columns
            )
            within.note(renamed(("left", "right", "label"), (*found.texts[:2], found.label), documented))
            cell = cell_reader(table, found.modality, file_cells, bad.on_bad_row)
            rows.read(table, within, found, cell, default=1 if labelled else -1)
            modalities.add(found.modality)
    if len(modalities) > 1:
        raise DataError(f"{bad.name}: {unlike(modalities)}")
    return _assemble(bad, rows, clean=labelled, modality=modalities.pop())


def sample_pairs() -> Pairs:
    """Read the packaged forum: question pairs in clusters, written for this project."""
    return read_pairs("sample:forum")


def _assemble(bad: BadRows, rows: PairRows, *, clean: bool, modality: Modality) -> Pairs:
    if not rows.left:
        raise bad.nothing_usable("has a header but no rows")
    left, right, labels = int_array(rows.left), int_array(rows.right), np.frombuffer(rows.labels, dtype=np.int8)
    pairs = Pairs(list(rows.index), left, right, labels, bad.name, ReadReport(bad.name, 0, 0), modality=modality)
    found: dict[str, Any] = {}
    if clean:
        repeats = find_repeats(left, right, labels)
        pairs = pairs if repeats.keep.all() else pairs.select(repeats.keep)
        if not len(pairs):
            raise DataError(f"{bad.name}: no usable row: every pair has contradictory labels")
        warnings = repeats.warnings(rows.place)
        found = {
            "duplicate_rows": int(repeats.duplicate.sum()),
            "contradictory": int(repeats.contradictory.sum()),
            "warnings": (*bad.examples, *warnings),
        }
    return replace(pairs, report=bad.report(rows.accepted, len(pairs), **found))
