"""Pairs that somebody flagged, with textsiam or another tool: columns id1 and id2, each pair once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from textsiam.data.tables.errors import BadRows, DataError
from textsiam.data.tables.readers import open_table
from textsiam.data.texts import WHOLE_ID
from textsiam.forums.questions import id_cell
from textsiam.labelling.candidates import Candidates

_COLUMNS = ("id1", "id2")
_TEXTS = ("question1", "question2"), ("text1", "text2")  # what `flag` and `label` write, to tell copies


@dataclass(frozen=True)
class Flagged:
    """Flagged pairs.

    Attributes:
        source: The file.
        pairs: Ids of both questions, in the order of the file.
        lines: Where each stands in the file.
        repeated: Rows left out because the pair was there before, whichever of the two came first.
        copies: Places of the pairs whose texts are in the file, and equal.
    """

    source: str
    pairs: list[tuple[str, str]]
    lines: list[int]
    repeated: int = 0
    copies: list[int] = field(default_factory=list)
    ids: list[str] = field(init=False)

    def __post_init__(self) -> None:
        """Name the ids, each once."""
        object.__setattr__(self, "ids", list(dict.fromkeys(key for pair in self.pairs for key in pair)))

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.pairs)

    @property
    def digest(self) -> str:
        """Digest of the pairs in their order, 64 hexadecimal digits; other columns may change."""
        return hashlib.sha256("".join(f"{len(a)} {len(b)} {a}{b}" for a, b in self.pairs).encode()).hexdigest()

    def among(self, ids: Sequence[str], collection: str, source: str) -> Candidates:
        """Return the pairs as places among `ids`, without scores.

        Args:
            ids: Of all questions.
            collection: Digest of the questions.
            source: Where the questions are, for messages.

        Raises:
            DataError: A pair names a question that is not there.
        """
        place = {key: n for n, key in enumerate(ids)}
        for pair, line in zip(self.pairs, self.lines, strict=True):
            for name, key in zip(_COLUMNS, pair, strict=True):
                if key not in place:
                    raise DataError(f"{self.source}:{line}: {name} is {key!r}, which is no question of {source}")
        left, right = np.array([[place[a], place[b]] for a, b in self.pairs], np.int64).T
        return Candidates(left, right, np.zeros(len(self), np.float32), self.digest, collection, "flagged file")


def read_flagged(source: str | Path) -> Flagged:
    """Read flagged pairs: .tsv, .csv, .jsonl or .parquet with the columns id1 and id2.

    Where all ids look like 1.0, as a table has them once one was missing, they are whole numbers.

    Raises:
        DataError: The file cannot be read, lacks a column or pairs, or a pair is one question twice.
    """
    found: dict[frozenset[str], tuple[tuple[str, str], int]] = {}
    rows, copies, bad = 0, list[int](), BadRows(str(source))
    with open_table(source, bad) as table:
        for name in _COLUMNS:
            if name not in table.columns:
                shown = ", ".join(map(repr, table.columns[:12]))
                raise DataError(f"{source}: has no column {name!r}, found {shown}; flagged pairs are id1 and id2")
        texts = next((names for names in _TEXTS if {*names} <= {*table.columns}), ())
        for line, (id1, id2, *held) in table.values([*_COLUMNS, *texts]):
            pair = _id(source, line, "id1", id1), _id(source, line, "id2", id2)
            if not all(pair) or pair[0] == pair[1]:
                what = "a question is missing" if not all(pair) else "both are the same question"
                raise DataError(f"{source}:{line}: id1 is {pair[0]!r} and id2 is {pair[1]!r}: {what}")
            if frozenset(pair) not in found and held and held[0] == held[1]:
                copies.append(len(found))
            found.setdefault(frozenset(pair), (pair, line))
            rows += 1
    if not found:
        raise DataError(f"{source}: holds no pairs")
    pairs, lines = zip(*found.values(), strict=True)
    if all(WHOLE_ID.fullmatch(key) for pair in pairs for key in pair):
        pairs = [(a.removesuffix(".0"), b.removesuffix(".0")) for a, b in pairs]
    return Flagged(str(source), list(pairs), list(lines), rows - len(found), copies)


def _id(source: str | Path, line: int, name: str, value: object) -> str:
    key = id_cell(name, value)
    if isinstance(key, tuple):
        raise DataError(f"{source}:{line}: {key[1]}")
    return key
