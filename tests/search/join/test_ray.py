"""Jobs on a Ray cluster of two nodes on this machine, whose workers and nodes are killed."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from textsiam.inference.encoders import ModelError
from textsiam.inference.scratch import scratch_text_encoder
from textsiam.models.twin import Twin
from textsiam.search.join.exact import FoundPairs
from textsiam.search.join.job import Job, JobError
from textsiam.search.join.ray import JobConfig, RayRunner
from textsiam.search.join.rescoring import found_by
from textsiam.search.join.stages import Encoding, Joining, Stage, perform, run_here

TEXTS = [f"How do I {verb} a {thing}{end}" for verb in ("mend", "buy", "sell", "paint", "lend")
         for thing in ("house", "car", "boat", "bike", "door", "lamp", "phone", "chair")
         for end in ("?", " quickly?", " in winter?")]  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    tower = scratch_text_encoder(TEXTS, vocabulary=400, hidden=32, max_tokens=32, device="cpu").eval()
    return str(Twin(tower).save_pretrained(tmp_path_factory.mktemp("bulk") / "twin"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    if find_spec("ray") is None:
        pytest.skip("the extra 'ray' is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from ray.cluster_utils import Cluster

        room = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
        nodes = Cluster(initialize_head=True, head_node_args={**room, "include_dashboard": False})
        nodes.spare = nodes.add_node(**room)
        nodes.wait_for_nodes()
        yield nodes
        nodes.shutdown()


def threshold_of(twin: Twin) -> float:
    """A similarity that a tenth of the pairs reach: those of a random tower are all large."""
    vectors = twin.encode(TEXTS)
    return float(np.quantile((vectors @ vectors.T)[np.triu_indices(len(TEXTS), 1)], 0.9))


def gated(stage: Stage, folder: Path) -> Stage:
    """A stage whose items, once one is done, leave a trace when they begin and then wait for the gate to open."""

    # Inside a function, so that Ray sends the class itself: workers cannot import this file.
    class Gated(type(stage)):
        def __call__(self, item: str) -> None:
            import fcntl
            import os

            if any(self.file(each).exists() for each in self.items()):
                (folder / f"{item}.{os.getpid()}").touch()
                with open(folder / "gate") as gate:
                    fcntl.flock(gate, fcntl.LOCK_SH)
            super().__call__(item)

    return Gated(**stage.__dict__)


def run_gated(stage: Stage, folder: Path, runner: RayRunner, deed: Callable[[set[int]], bool]) -> None:
    """Perform a stage; while items are held at the gate, ask `deed` what to do to their processes until it did it."""
    folder.mkdir()
    opened: list[bool] = []
    with (folder / "gate").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)

        def progress(done: int, total: int) -> None:
            if opened:
                return
            for _ in range(1200):
                if deed({int(path.suffix[1:]) for path in folder.iterdir() if path.suffix}):
                    fcntl.flock(gate, fcntl.LOCK_UN)
                    opened.append(True)
                    return
                threading.Event().wait(0.1)
            raise AssertionError("no worker came to the gate")

        perform(gated(stage, folder), runner, progress)


@pytest.mark.slow
def test_a_killed_worker_and_a_lost_node_change_nothing(cluster: Any, saved: str, tmp_path: Path) -> None:
    twin = Twin.from_pretrained(saved)
    stages = [Joining(Job.begin(tmp_path / name, twin, saved, TEXTS, partition_size=30), threshold_of(twin))
              for name in ("alone", "job")]  # fmt: skip
    for stage in stages:
        perform(Encoding(stage.job), run_here)
    perform(stages[0], run_here)
    deeds = []

    def kill_a_worker_and_lose_a_node(pids: set[int]) -> bool:
        raylet = psutil.Process(cluster.spare.all_processes["raylet"][0].process.pid)
        there = pids & {process.pid for process in raylet.children(recursive=True)}
        if not there or not pids - there:
            return False
        for pid in pids - there:
            os.kill(pid, signal.SIGKILL)
            deeds.append("worker")
        cluster.remove_node(cluster.spare, allow_graceful=False)
        deeds.append("node")
        return True

    # A worker on each node, both in the middle of an item.
    run_gated(stages[1], tmp_path / "gate", RayRunner(cluster.address, cpus=2), kill_a_worker_and_lose_a_node)
    assert deeds == ["worker", "node"]
    expected, found = (FoundPairs.joined(found_by(stage)).sorted() for stage in stages)
    assert len(expected.left) > 200
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    for item in stages[0].items():
        assert stages[0].file(item).read_bytes() == stages[1].file(item).read_bytes()
    assert not list((tmp_path / "job").rglob("*.tmp"))


@pytest.mark.slow
def test_an_error_is_said_once_and_what_was_done_is_not_done_again(cluster: Any, saved: str, tmp_path: Path) -> None:
    twin = Twin.from_pretrained(saved)
    bulk = JobConfig(saved, tmp_path / "job", cluster.address, partition_size=60, cpus=2)
    job = bulk.begin(twin, TEXTS)
    text = job.texts_of(1).read_bytes()
    job.texts_of(1).write_bytes(b"no Parquet")
    with pytest.raises(JobError, match="Parquet"):
        bulk.encode(job, twin.dim)
    job.texts_of(1).write_bytes(text)
    twin.encode(TEXTS[:60])
    vectors = bulk.encode(job, twin.dim)[np.arange(len(TEXTS))]
    np.testing.assert_allclose(vectors, twin.encode(TEXTS), atol=0.02)


def test_without_a_cluster_or_without_ray(saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("ray") is not None:
        bulk = JobConfig(saved, tmp_path / "job", "127.0.0.1:1")
        twin = Twin.from_pretrained(saved)
        with pytest.raises(ModelError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
            bulk.encode(bulk.begin(twin, TEXTS), twin.dim)
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    bulk = JobConfig(saved, tmp_path / "other", "auto")
    twin = Twin.from_pretrained(saved)
    with pytest.raises(ModelError, match=r"ray is not installed: pip install 'textsiam\[ray\]'"):
        bulk.encode(bulk.begin(twin, TEXTS), twin.dim)
