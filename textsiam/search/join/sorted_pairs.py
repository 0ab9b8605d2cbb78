"""More pairs than memory holds: sorted in runs on a disk, and kept in columns that are mapped into memory.

Nothing here touches the disk where all pairs may be in memory: that is the case of a single run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from textsiam.search.join.exact import FoundPairs

T = TypeVar("T")
BLOCK = 65_536
"""Pairs that are looked at together."""
COLUMNS = np.int64, np.int64, np.float32
"""What the columns of `FoundPairs` hold."""
_RECORD = np.dtype(list(zip(FoundPairs._fields, COLUMNS, strict=True)))


class Blocks(Iterable[T]):
    """Blocks, as of pairs, that can be looked through again and again.

    Args:
        begin: Begins with the first block.
    """

    def __init__(self, begin: Callable[[], Iterator[T]]) -> None:
        self._begin = begin

    def __iter__(self) -> Iterator[T]:
        """Yield the blocks."""
        return self._begin()


@dataclass(frozen=True)
class Room:
    """Where pairs are put.

    Attributes:
        pairs: How many may be in memory at once; None holds all.
        folder: Where the others go, a folder on a disk that is ours alone.

    Raises:
        ValueError: `pairs` is not positive.
    """

    pairs: int | None = None
    folder: Path = Path()

    def __post_init__(self) -> None:
        if self.pairs is not None and self.pairs < 1:
            raise ValueError(f"at least 1 pair must fit into memory, got {self.pairs}")

    def fits(self, pairs: int) -> bool:
        """Say whether so many pairs may be in memory."""
        return self.pairs is None or pairs <= self.pairs

    def columns(self, name: str, blocks: Iterable[Sequence[np.ndarray]], kinds: Sequence[Any]) -> list[np.ndarray]:
        """Put the columns of blocks one after the other: in memory where all may be, else in files that are mapped.

        Args:
            name: What the files are called.
            blocks: Columns of one length.
            kinds: The type of each column.
        """
        if self.pairs is None:
            held = [*map(tuple, blocks)]
            return [np.concatenate([np.zeros(0, kind), *(b[i] for b in held)]) for i, kind in enumerate(kinds)]
        paths = [self.folder / f"{name}.{i}" for i in range(len(kinds))]
        files = [path.open("wb") for path in paths]
        try:
            for block in blocks:
                for file, column, kind in zip(files, block, kinds, strict=True):
                    file.write(np.ascontiguousarray(column, kind).data)
        finally:
            for file in files:
                file.close()
        return [
            np.memmap(path, kind, "r") if path.stat().st_size else np.zeros(0, kind)
            for path, kind in zip(paths, kinds, strict=True)
        ]

    def empty(self, name: str, count: int, kind: Any) -> np.ndarray:
        """Return so many values to write into: in memory where as many pairs may be, else in a file that is mapped."""
        return np.empty(count, kind) if self.fits(count) else np.memmap(self.folder / name, kind, "w+", shape=(count,))


MEMORY = Room()
"""No limit, and no folder."""


def slices(*columns: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the values of columns of one length, block by block; mapped ones are read, so that no page stays mapped."""
    for start in range(0, len(columns[0]), BLOCK):
        yield tuple(_read(column, start) for column in columns)


def _read(column: np.ndarray, start: int) -> np.ndarray:
    if isinstance(column, np.memmap) and column.filename is not None:
        return np.fromfile(column.filename, column.dtype, BLOCK, offset=start * column.itemsize)
    return column[start : start + BLOCK]


def sorted_blocks(pairs: Iterable[FoundPairs], room: Room, *, group: np.ndarray | None = None) -> Iterator[FoundPairs]:
    """Yield pairs best first, equal ones in order of left, then right index: an external merge sort.

    Runs of as many pairs as memory may hold are sorted and written. Then the next pairs of each run are held, as many
    in all, and those are yielded that come before the last one that is held of any run.

    Args:
        pairs: In any order, none twice, in blocks that fit into memory.
        room: How many pairs may be in memory, about 100 bytes each, and where the runs go, 20 bytes a pair.
        group: The group of each index, `(n,)`: by that of its left index, groups of pairs come in ascending order.
    """
    runs = _runs(pairs, room)
    first, second = next(runs), next(runs, None)
    if second is None:
        yield _in_order(first, group)
        return
    path, lengths = room.folder / "runs", []
    with path.open("w+b") as file:
        for run in chain((first, second), runs):
            lengths.append(len(run.left))
            file.write(_records(_in_order(run, group)).data)
        del first, second
        yield from _merged(file, lengths, room, group)
    path.unlink()


def _runs(pairs: Iterable[FoundPairs], room: Room) -> Iterator[FoundPairs]:
    """Yield as many pairs as fit into memory, and what is left in the end, which may be none."""
    held, count = [], 0
    for block in pairs:
        held.append(block)
        count += len(block.left)
        while room.pairs is not None and count > room.pairs:
            whole = FoundPairs.joined(held)
            yield FoundPairs(*(column[: room.pairs] for column in whole))
            held = [FoundPairs(*(column[room.pairs :] for column in whole))]
            count -= room.pairs
    yield FoundPairs.joined(held)


def _merged(file: BinaryIO, lengths: Sequence[int], room: Room, group: np.ndarray | None) -> Iterator[FoundPairs]:
    """Yield the pairs of sorted runs that stand in a file one after the other."""
    stops = np.cumsum(lengths)
    places, share = (stops - lengths).tolist(), max(1, (room.pairs or 0) // len(lengths))
    held = [FoundPairs.joined(())] * len(lengths)
    while True:
        for run, stop in enumerate(stops.tolist()):
            if not len(held[run].left) and places[run] < stop:
                file.seek(places[run] * _RECORD.itemsize)
                records = np.frombuffer(file.read(min(share, stop - places[run]) * _RECORD.itemsize), _RECORD)
                held[run] = FoundPairs(*(records[name] for name in FoundPairs._fields))
                places[run] += len(records)
        known = [run for run, stop in enumerate(stops.tolist()) if places[run] < stop]  # more may come of these
        ends = [tuple(key[-1] for key in _keys(held[run], group)) for run in known]
        taken = []
        for run, rows in enumerate(held):
            cut = _not_after(_keys(rows, group), min(ends)) if ends else len(rows.left)
            taken.append(FoundPairs(*(column[:cut] for column in rows)))
            held[run] = FoundPairs(*(column[cut:] for column in rows))
        yield _in_order(FoundPairs.joined(taken), group)
        if not ends:
            return


def _keys(pairs: FoundPairs, group: np.ndarray | None) -> list[np.ndarray]:
    """Return what pairs are sorted by, the most important first."""
    return [*([] if group is None else [group[pairs.left]]), -pairs.similarity, pairs.left, pairs.right]


def _in_order(pairs: FoundPairs, group: np.ndarray | None) -> FoundPairs:
    order = np.lexsort(_keys(pairs, group)[::-1])
    return FoundPairs(*(column[order] for column in pairs))


def _not_after(keys: list[np.ndarray], cut: tuple[Any, ...]) -> int:
    """Return how many rows, which are sorted by these keys, do not come after a cut."""
    before, equal = np.zeros(len(keys[0]), bool), np.ones(len(keys[0]), bool)
    for key, value in zip(keys, cut, strict=True):
        before |= equal & (key < value)
        equal &= key == value
    return int((before | equal).sum())


def _records(pairs: FoundPairs) -> np.ndarray:
    records = np.empty(len(pairs.left), _RECORD)
    for name, column in zip(FoundPairs._fields, pairs, strict=True):
        records[name] = column
    return records
