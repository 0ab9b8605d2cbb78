"""The stages of a job in partitions: encode each, compare every two; what a stage has written is not done again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from textsiam.data.tables.arrays import save_vectors
from textsiam.data.tables.errors import OnBadRow
from textsiam.inference.batching import Progress
from textsiam.inference.encoders import ModelError, inputs_of
from textsiam.models.ensemble import open_scorer
from textsiam.models.scorer import Scorer
from textsiam.search.gallery_folder import scorer_fingerprint
from textsiam.search.join.exact import Comparison, FoundPairs
from textsiam.search.join.job import Job, JobError
from textsiam.search.join.pair_files import gathered, write_found

_MAPPED = 16_384  # vectors that are read before their pages are given back


class Stage(Protocol):
    """Work in items, each named by a string, whose results are files of these names."""

    def items(self) -> list[str]:
        """Return all items, in order."""
        ...

    def file(self, item: str) -> Path:
        """Return the file that an item ends in."""
        ...

    def weight(self, item: str) -> int:
        """Return how much work an item is, in units of the progress."""
        ...

    def __call__(self, item: str) -> None:
        """Do an item."""
        ...


Runner = Callable[[Stage, Sequence[str]], Iterator[str]]
"""Does items of a stage, in any order, and yields each that is done."""


def run_here(stage: Stage, items: Sequence[str]) -> Iterator[str]:
    """Do the items in this process, one after the other."""
    for item in items:
        stage(item)
        yield item


def perform(stage: Stage, run: Runner, progress: Progress | None = None) -> None:
    """Do what a stage has not done yet.

    Raises:
        JobError: A runner ended before everything was done.
    """
    items = stage.items()
    missing = [item for item in items if not stage.file(item).exists()]
    total = sum(map(stage.weight, items))
    done = total - sum(map(stage.weight, missing))
    for item in run(stage, missing):
        done += stage.weight(item)
        if progress is not None:
            progress(done, total)
    left = [item for item in missing if not stage.file(item).exists()]
    if left:
        raise JobError(f"{stage.file(left[0])} and {len(left) - 1} others are missing: run the job again to go on")
    for folder in {stage.file(item).parent for item in missing}:
        for aside in folder.glob(".*.tmp"):  # what a killed worker was writing
            aside.unlink(missing_ok=True)


@dataclass(frozen=True)
class Encoding:
    """The stage that encodes partitions: `vectors/00007.npy`, `(texts, dim)` float32.

    What is encoded of a partition is kept in parts, so that a worker that is killed loses seconds.

    Attributes:
        job: What the partitions are of.
        on_bad_row: "error" stops at an image that cannot be opened; "skip" gives it a vector of NaN, and notes why.
        within: Told how far the work is within a partition too, where they are done here, one after the other.
    """

    job: Job
    on_bad_row: OnBadRow = "error"
    within: Progress | None = None

    def items(self) -> list[str]:
        """Return the numbers of the partitions."""
        return [f"{number:05d}" for number in range(len(self.job.partitions))]

    def file(self, item: str) -> Path:
        """Return the file of the vectors."""
        return self.job.vectors_of(int(item))

    def weight(self, item: str) -> int:
        """Return the number of texts."""
        return self.job.size(int(item))

    def __call__(self, item: str) -> None:
        """Encode a partition."""
        twin, number = opened(self.job.model, self.job.fingerprint), int(item)
        texts = self.job.read_texts(number)
        path = self.file(item)
        path.parent.mkdir(exist_ok=True)
        kept = inputs_of(twin.tower()).kept
        parts = [self._part(twin, number, texts[start : start + kept], start) for start in range(0, len(texts), kept)]
        save_vectors(path, map(np.load, parts), dim=twin.dim)
        for part in parts:
            part.unlink()

    def _part(self, twin: Scorer, number: int, texts: Sequence[str], start: int) -> Path:
        """Encode some texts of a partition into a file of their own, if they are not there yet."""
        path = self.job.vectors_of(number).with_name(f".{number:05d}-{start:07d}.tmp")
        if path.exists():
            return path
        within, before = self.within, self.job.partitions[number] + start
        progress = None if within is None else lambda done, _: within(before + done, self.job.count)
        broken: dict[str, str] | None = {} if self.on_bad_row == "skip" else None
        vectors = twin.encode(texts, progress=progress, broken=broken)
        if broken:
            whys = {start + row: broken[text] for row, text in enumerate(texts) if text in broken}
            self.job.write_broken(number, self.job.broken_of(number) | whys)
        save_vectors(path, [vectors], dim=twin.dim)
        return path


@dataclass(frozen=True)
class Joining:
    """The stage that compares partitions: `pairs-0.8/00002-00007.parquet`, with columns left, right and similarity.

    Attributes:
        job: What the partitions are of.
        threshold: Least similarity of a pair.
    """

    job: Job
    threshold: float

    def items(self) -> list[str]:
        """Return every two partitions, and each with itself."""
        count = len(self.job.partitions)
        return [f"{one:05d}-{other:05d}" for one in range(count) for other in range(one, count)]

    def file(self, item: str) -> Path:
        """Return the file of the pairs."""
        return Path(self.job.folder) / f"pairs-{self.threshold!r}" / f"{item}.parquet"

    def weight(self, item: str) -> int:
        """Return how many pairs are compared."""
        one, other = map(int, item.split("-"))
        a, b = self.job.size(one), self.job.size(other)
        return a * (a - 1) // 2 if one == other else a * b

    def __call__(self, item: str) -> None:
        """Compare two partitions."""
        one, other = map(int, item.split("-"))
        twin = opened(self.job.model, self.job.fingerprint)
        numbers = sorted({one, other})
        places = [self._places(number) for number in numbers]
        place, height = np.concatenate(places), len(places[0])
        points = np.empty((len(place), twin.dim), np.float32)
        for number, rows in zip(numbers, places, strict=True):  # one after the other, so that little is there twice
            at = 0 if number == one else height
            points[at : at + len(rows)] = np.load(self.job.vectors_of(number))[rows - self.job.partitions[number]]
        after = 0 if one == other else height
        compare = Comparison(twin, torch.from_numpy(points), self.threshold, rows=height, after=after)
        found = gathered(compare.found())
        write_found(self.file(item), (FoundPairs(place[left], place[right], score) for left, right, score in found))

    def _places(self, number: int) -> np.ndarray:
        """Return the texts of a partition, without broken inputs."""
        rows = np.delete(np.arange(self.job.size(number)), [*self.job.broken_of(number)])
        return rows + self.job.partitions[number]


class PartitionedVectors:
    """The vectors of a job, read from its partitions as they are asked for.

    Args:
        job: Whose `Encoding` is done.
        dim: Width of the vectors.
    """

    def __init__(self, job: Job, dim: int) -> None:
        self._job, self._dim, self._mapped, self._read = job, dim, {}, 0

    def __len__(self) -> int:
        return self._job.count

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors of these texts, `(rows, dim)` float32."""
        found = np.empty((len(rows), self._dim), np.float32)
        partition = rows // self._job.partition_size
        for number in np.unique(partition).tolist():
            chosen = partition == number
            found[chosen] = self._vectors_of(number)[rows[chosen] - number * self._job.partition_size]
        self._read += len(rows)
        return found

    def _vectors_of(self, number: int) -> np.ndarray:
        """Map a partition; what was read of all of them leaves memory now and then."""
        if self._read > _MAPPED:
            self._mapped, self._read = {}, 0
        if number not in self._mapped:
            self._mapped[number] = np.load(self._job.vectors_of(number), mmap_mode="r")
        return self._mapped[number]


@lru_cache(maxsize=1)
def opened(model: str, fingerprint: str) -> Scorer:
    """Open the model of a job, once in a process.

    Raises:
        ModelError: It is not the one that the job was begun with.
    """
    twin = open_scorer(model, sides=False)
    if scorer_fingerprint(twin) != fingerprint:
        raise ModelError(f"{model} is another model here than where the job was begun")
    return twin
