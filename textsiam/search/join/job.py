"""A large join as a folder of partitions: each is written whole or not at all, by whoever works on it, and never twice.

The texts are cut into numbered partitions. One stage encodes a partition; the next compares two, or one with itself.
What a stage has written is not done again, so a job goes on where it was stopped, however it was: a worker that was
killed, a machine that was lost, or all of them. A runner says who does the work: this process, or machines of a
cluster that see the same folder (`textsiam.search.join.ray`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from textsiam.data.tables.arrays import save_vectors
from textsiam.data.tables.errors import OnBadRow
from textsiam.data.texts import texts_digest
from textsiam.inference.batching import Progress
from textsiam.inference.encoders import ModelError, inputs_of
from textsiam.models.ensemble import open_scorer
from textsiam.models.scorer import Scorer
from textsiam.search.gallery_folder import scorer_fingerprint
from textsiam.search.join.exact import Comparison, FoundPairs
from textsiam.search.join.pair_files import gathered, write_found
from textsiam.whole_file import locked, whole_file

_FORMAT = 3
_ROWS = 1024  # texts that are written together
_MAPPED = 16_384  # vectors that are read before their pages are given back


class JobError(ValueError):
    """A folder of another job, or a job that cannot go on; the message names the folder."""


@dataclass(frozen=True)
class Job:
    """What a folder holds the partitions of.

    Attributes:
        folder: The folder; every worker sees it under this name.
        model: What `open_scorer` opens, on every worker.
        fingerprint: Of the model; a worker that opens another one refuses to work.
        texts: Digest of the texts, in order; of images, also of the time and size of their files.
        count: How many there are.
        partition_size: Texts of a partition.
    """

    folder: str
    model: str
    fingerprint: str
    texts: str
    count: int
    partition_size: int

    @classmethod
    def begin(cls, folder: str | Path, twin: Scorer, model: str, texts: Sequence[str], *, partition_size: int) -> Job:
        """Write down what the job is and the texts in partitions, or go on with the same job.

        Raises:
            JobError: The folder holds another job, or something else.
            ValueError: `partition_size` is not positive.
        """
        if partition_size < 1:
            raise ValueError(f"a partition must hold at least 1 text, got {partition_size}")
        folder = Path(folder).resolve()
        model = str(Path(model).resolve()) if Path(model).exists() else model  # workers start in other folders
        digest = texts_digest(map(inputs_of(twin.tower()).content, texts))
        job = cls(str(folder), model, scorer_fingerprint(twin), digest, len(texts), partition_size)
        _check_is_free(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "job.json").exists():
            job._check((folder / "job.json").read_text(encoding="utf-8"))
        else:
            with whole_file(folder / "job.json") as aside:
                aside.write_text(json.dumps(job._facts(), indent=2) + "\n", encoding="utf-8")
        for number in range(len(job.partitions)):
            if not (path := job.texts_of(number)).exists():
                _write_texts(path, texts[number * partition_size : (number + 1) * partition_size])
        return job

    @property
    def partitions(self) -> range:
        """The first text of each partition."""
        return range(0, self.count, self.partition_size)

    def size(self, number: int) -> int:
        """Return how many texts a partition holds."""
        return min(self.partition_size, self.count - number * self.partition_size)

    def texts_of(self, number: int) -> Path:
        """Return the file with the texts of a partition."""
        return Path(self.folder) / "texts" / f"{number:05d}.parquet"

    def read_texts(self, number: int) -> list[str]:
        """Return the texts of a partition."""
        import pyarrow.parquet as pq

        column = pq.read_table(self.texts_of(number))["text"].to_pylist()
        return [value.decode("utf-8", "surrogatepass") for value in column]

    def vectors_of(self, number: int) -> Path:
        """Return the file with the vectors of a partition."""
        return Path(self.folder) / "vectors" / f"{number:05d}.npy"

    def broken_of(self, number: int) -> dict[int, str]:
        """Return the inputs of an encoded partition that cannot be opened, by their place in it, with the reason."""
        path = self._broken_file(number)
        return {int(row): why for row, why in json.loads(path.read_bytes()).items()} if path.exists() else {}

    def broken(self) -> dict[int, str]:
        """Return all inputs that cannot be opened, with the reason, once every partition is encoded."""
        parts = ((start, self.broken_of(number)) for number, start in enumerate(self.partitions))
        return {start + row: why for start, part in parts for row, why in part.items()}

    def write_broken(self, number: int, broken: dict[int, str]) -> None:
        """Write down which inputs of a partition cannot be opened."""
        with whole_file(self._broken_file(number)) as aside:
            aside.write_text(json.dumps(broken), encoding="utf-8")

    def _broken_file(self, number: int) -> Path:
        return self.vectors_of(number).with_suffix(".broken.json")

    def _facts(self) -> dict[str, Any]:
        return {"format": _FORMAT} | {k: v for k, v in asdict(self).items() if k not in ("folder", "model")}

    def _check(self, text: str) -> None:
        names = {
            "fingerprint": "model",
            "texts": "list of inputs",
            "count": "number of inputs",
            "partition_size": "size of the partitions",
        }
        try:
            found = json.loads(text)
            other = next((names.get(k, k) for k, v in self._facts().items() if found[k] != v), None)
        except (ValueError, KeyError, TypeError) as error:
            raise JobError(f"{self.folder}/job.json is damaged: remove the folder, or name another one") from error
        if other is not None:
            raise JobError(f"{self.folder} holds a job with another {other}: remove it, or name another folder")


def _write_texts(path: Path, texts: Sequence[str]) -> None:
    """Write texts into a Parquet file, as bytes: the names of files need not be UTF-8."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("text", pa.binary())])
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as aside, pq.ParquetWriter(aside, schema) as writer:
        for start in range(0, len(texts), _ROWS):  # images in memory are megabytes of text
            some = [text.encode("utf-8", "surrogatepass") for text in texts[start : start + _ROWS]]
            writer.write_table(pa.table({"text": some}, schema=schema))


def _check_is_free(folder: Path) -> None:
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.exists() else set()
    if found and "job.json" not in found:
        raise JobError(f"{folder} is not empty and holds no job: name another folder")


def empty_scratch(folder: str | Path, name: str) -> Path:
    """Make a folder for what a command needs while it lasts, inside that of a job; what was left there is removed.

    Raises:
        JobError: The folder holds something else than a job.
    """
    _check_is_free(Path(folder))
    scratch = Path(folder) / ".scratch" / name
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return scratch.resolve()


@contextmanager
def scratch_of(folder: str | Path) -> Iterator[Path]:
    """Give an empty folder inside that of a job, which nobody else works in meanwhile; it is gone in the end.

    Raises:
        JobError: As for `empty_scratch`; or another process is at work in the folder.
    """
    _check_is_free(Path(folder))
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(Path(folder) / ".lock", "a", encoding="utf-8") as lock, ExitStack() as alone:
        try:
            alone.enter_context(locked(lock, wait=False))
        except BlockingIOError:
            raise JobError(f"{folder}: another process is at work there: wait for it, or name another folder") from None
        try:
            yield empty_scratch(folder, "texts")
        finally:
            shutil.rmtree(Path(folder) / ".scratch", ignore_errors=True)


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
