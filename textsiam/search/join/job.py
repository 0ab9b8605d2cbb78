"""A large join as a folder of partitions: each is written whole or not at all, by whoever works on it, and never twice.

The texts are cut into numbered partitions. One stage encodes a partition; the next compares two, or one with itself.
What a stage has written is not done again, so a job goes on where it was stopped, however it was: a worker that was
killed, a machine that was lost, or all of them. A runner says who does the work: this process, or machines of a
cluster that see the same folder (`textsiam.search.join.ray`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from textsiam.data.texts import texts_digest
from textsiam.inference.encoders import inputs_of
from textsiam.models.scorer import Scorer
from textsiam.search.gallery_folder import scorer_fingerprint
from textsiam.whole_file import locked, whole_file

_FORMAT = 3
_ROWS = 1024  # texts that are written together


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
