"""Duplicates among more texts than one machine is fast enough for: the partitions of a job on a Ray cluster.

Ray Data hands the items of a stage to a pool of actors and repeats those of an actor or a machine that was lost; what
an item has written is kept (`textsiam.search.join.stages`), so that a job whose driver was killed goes on too.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from textsiam.data.tables.errors import DataError, OnBadRow
from textsiam.inference.batching import Progress
from textsiam.inference.encoders import ModelError
from textsiam.legacy.names import old_arguments
from textsiam.models.scorer import Scorer
from textsiam.search.join.exact import FoundPairs
from textsiam.search.join.job import Job, JobError, empty_scratch
from textsiam.search.join.rescoring import Rescoring, found_by
from textsiam.search.join.sorted_pairs import Room
from textsiam.search.join.stages import Encoding, Joining, PartitionedVectors, Runner, Stage, perform, run_here

PARTITION_SIZE = 65_536
"""Texts of a partition: two of them at 384 dimensions are 0.2 GB, and comparing them takes one core about 8 seconds."""
FILES_OF_PARTITION = 32_768
"""Images or sounds of a partition: their vectors are longer. Two of them at 1,280 dimensions are 0.34 GB."""


@old_arguments(part="partition_size")
@dataclass(frozen=True)
class JobConfig:
    """Where a large job is done.

    Attributes:
        model: What `open_scorer` opens, by the same name on every machine.
        folder: Where its partitions are written; every machine sees it under the same name.
        address: Of the Ray cluster, "auto" for the one that this machine belongs to, "local" for one on this machine;
            None does without Ray, one partition after the other in this process.
        partition_size: Texts of a partition.
        cpus: Cores of a worker.
        pairs_in_memory: Pairs that are held in memory where they are sorted and clustered: 100 to 200 bytes each.
        on_bad_row: What becomes of images that cannot be opened: "error", or "skip".
    """

    model: str
    folder: str | Path
    address: str | None = None
    partition_size: int = PARTITION_SIZE
    cpus: int = 1
    pairs_in_memory: int = 1_000_000
    on_bad_row: OnBadRow = "error"

    def room(self) -> Room:
        """Make an empty folder for what is sorted, inside the folder of the job, and return it with its limit."""
        return Room(self.pairs_in_memory, empty_scratch(self.folder, "pairs"))

    def begin(self, twin: Scorer, texts: Sequence[str]) -> Job:
        """Begin a job in the folder, or go on with the same one; see `Job.begin`."""
        return Job.begin(self.folder, twin, self.model, texts, partition_size=self.partition_size)

    def encode(self, job: Job, dim: int, progress: Progress | None = None) -> PartitionedVectors:
        """Encode the texts of a job, as far as that was not done yet.

        Raises:
            JobError: The cluster loses every worker again and again.
            ModelError: Ray is not installed, or a machine opens another model.
            DataError: An image cannot be opened.
        """
        within = progress if self.address is None else None
        perform(Encoding(job, self.on_bad_row, within), self._runner(), progress)
        if self.on_bad_row == "error" and (broken := job.broken()):  # from a run before, which skipped them
            raise DataError(next(iter(broken.values())))
        return PartitionedVectors(job, dim)

    def join(
        self, job: Job, threshold: float, progress: Progress | None = None, *, rescored: bool = False
    ) -> Iterable[FoundPairs]:
        """Return every pair i < j at or above the threshold, in blocks in any order, as far as not done yet.

        Args:
            job: What was begun, and encoded.
            threshold: Least similarity.
            progress: Called as `progress(done, total)`, in pairs compared.
            rescored: Whether the model's reranker is asked about the pairs.

        Raises:
            JobError: As for `encode`.
            ModelError: As for `encode`.
        """
        stage = Joining(job, threshold)
        perform(stage, self._runner(), progress)
        if rescored:
            stage = Rescoring(job, threshold)
            perform(stage, self._runner())
        return found_by(stage)

    def _runner(self) -> Runner:
        return run_here if self.address is None else RayRunner(self.address, self.cpus)


class Worker:
    """An actor that does items of a stage; Ray Data gives it rows and takes them back with what went wrong.

    Args:
        stage: What it does.
        cpus: Cores that it has.
    """

    def __init__(self, stage: Stage, cpus: int) -> None:
        torch.set_num_threads(cpus)
        self.stage = stage

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Do the item of a row."""
        try:
            self.stage(row["item"])
        except (ValueError, OSError) as error:  # what repeating would not mend
            return {"item": row["item"], "error": str(error)}
        return {"item": row["item"], "error": ""}


@dataclass(frozen=True)
class RayRunner:
    """Does items on a Ray cluster.

    Attributes:
        address: As for `JobConfig`.
        cpus: Cores of a worker.
    """

    address: str
    cpus: int = 1

    def __call__(self, stage: Stage, items: Sequence[str]) -> Iterator[str]:
        """Do the items, and yield each that is done; those that Ray gives up on are begun again while others get done.

        Raises:
            JobError: An item fails for a reason of its own, or nothing gets done any more.
        """
        left = list(items)
        while left:
            before = len(left)
            failure: Exception | None = None
            with _ray(self.address) as ray:
                try:
                    yield from self._round(ray, stage, left)
                except ray.exceptions.RayError as error:
                    failure = error
            left = [item for item in left if not stage.file(item).exists()]
            if left and len(left) == before:
                reason = "" if failure is None else f": {str(failure).strip().splitlines()[-1]}"
                raise JobError(f"no worker of the cluster at {self.address} gets anything done{reason}") from failure

    def _round(self, ray: Any, stage: Stage, items: Sequence[str]) -> Iterator[str]:
        resources = ray.cluster_resources()
        gpus = 1 if resources.get("GPU") else 0
        workers = int(resources["GPU"]) if gpus else max(1, int(resources.get("CPU", 1)) // self.cpus)
        rows = ray.data.from_items([{"item": item} for item in items], override_num_blocks=len(items)).map(
            Worker,
            fn_constructor_args=(stage, self.cpus),
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(items))),
            num_cpus=self.cpus,
            num_gpus=gpus,
        )
        for batch in rows.iter_batches(batch_size=1, prefetch_batches=0):  # as soon as each is done
            if error := str(batch["error"][0]):
                raise JobError(error)
            yield str(batch["item"][0])


@contextmanager
def _ray(address: str) -> Iterator[Any]:
    """Give Ray, connected to a cluster, without its warnings, its progress bars, or what it would tell others.

    Raises:
        ModelError: Ray is not installed, or there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # the warnings of its core go to stderr
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise ModelError("ray is not installed: pip install 'textsiam[ray]'") from error
        ours = not ray.is_initialized()
        if ours:
            try:
                _answers(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, ValueError) as error:
                raise ModelError(f"no Ray cluster at {address}: {str(error).splitlines()[0]}") from error
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        try:
            yield ray
        finally:
            if ours:
                ray.shutdown()


def _answers(address: str) -> None:
    """Raise an `OSError` where nothing listens at a `host:port`: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()
