from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from textsiam.inference.encoders import ModelError
from textsiam.models.twin import Twin
from textsiam.search.duplicates import Duplicates, find_duplicates
from textsiam.search.join import stages as parts
from textsiam.search.join.approximate import Sharding
from textsiam.search.join.exact import FoundPairs, pairs_above
from textsiam.search.join.job import Job, JobError
from textsiam.search.join.ray import JobConfig
from textsiam.search.join.rescoring import found_by
from textsiam.search.join.stages import Encoding, Joining, PartitionedVectors, perform, run_here


@pytest.fixture
def saved(twin: Twin, tmp_path: Path) -> Iterator[str]:
    parts.opened.cache_clear()
    yield str(twin.save_pretrained(tmp_path / "twin"))
    parts.opened.cache_clear()


@pytest.fixture
def many(sentences: list[str]) -> list[str]:
    return [*sentences, *(f"{text} Please." for text in sentences[:20])]


def high(twin: Twin, texts: list[str], share: float) -> float:
    """The similarity that this share of the pairs reaches: those of a random tower are all large."""
    vectors = twin.encode(texts)
    return float(np.quantile((vectors @ vectors.T)[np.triu_indices(len(texts), 1)], 1 - share))


def same(a: Duplicates, b: Duplicates) -> None:
    np.testing.assert_array_equal(a.left, b.left)
    np.testing.assert_array_equal(a.right, b.right)
    np.testing.assert_array_equal(a.similarity, b.similarity)
    assert a.clusters == b.clusters


@pytest.mark.parametrize("part", [1, 7, 34, 68, 1000])
def test_parts_give_the_pairs_of_the_whole(twin: Twin, saved: str, many: list[str], tmp_path: Path, part: int) -> None:
    if part == 1:
        many = many[:9]
    job = Job.begin(tmp_path / "job", twin, saved, many, partition_size=part)
    seen: list[tuple[int, int]] = []
    perform(Encoding(job), run_here, lambda *at: seen.append(at))
    assert seen[-1] == (len(many), len(many))
    vectors = PartitionedVectors(job, twin.dim)
    assert len(vectors) == len(many)
    whole = vectors[np.arange(len(many))]
    np.testing.assert_allclose(whole, twin.encode(many), atol=0.02)
    np.testing.assert_array_equal(vectors[np.array([8, 0, 8])], whole[[8, 0, 8]])
    seen.clear()
    threshold = high(twin, many, 0.2)
    stage = Joining(job, threshold)
    perform(stage, run_here, lambda *at: seen.append(at))
    assert seen[-1] == (len(many) * (len(many) - 1) // 2,) * 2
    found, expected = FoundPairs.joined(found_by(stage)).sorted(), pairs_above(twin, whole, threshold)
    assert len(many) ** 2 / 20 < len(expected.left) < len(many) ** 2 / 5
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert pq.read_schema(stage.file(stage.items()[0])).names == ["left", "right", "similarity"]


def test_duplicates_by_parts_are_those_of_memory(twin: Twin, saved: str, many: list[str], tmp_path: Path) -> None:
    texts = [*many, many[3]]
    threshold = high(twin, texts, 0.1)
    found = find_duplicates(twin, texts, threshold=threshold, job=JobConfig(saved, tmp_path / "job", partition_size=15))
    expected = find_duplicates(twin, texts, threshold=threshold - 1e-3)
    pairs = [set(zip(x.left.tolist(), x.right.tolist(), strict=True)) for x in (found, expected)]
    near = {pair for pair, s in zip(zip(expected.left, expected.right, strict=True), expected.similarity, strict=True)
            if s < threshold + 1e-3}  # fmt: skip
    assert pairs[0] <= pairs[1]
    assert pairs[1] - pairs[0] <= near  # in bf16 a text's vector depends on its batch by rounding
    assert len(pairs[0]) > 50
    with pytest.raises(ValueError, match="it cannot be approximate as well"):
        find_duplicates(twin, texts, threshold=0.6, job=JobConfig(saved, tmp_path / "job"), sharding=Sharding())


@pytest.mark.parametrize("stop", [0, 1, 3, 6])
def test_a_job_goes_on_where_it_was_stopped(
    twin: Twin, saved: str, many: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    some, few = high(twin, many, 0.2), high(twin, many, 0.05)
    whole = find_duplicates(twin, many, threshold=some, job=JobConfig(saved, tmp_path / "whole", partition_size=20))
    done: list[str] = []

    def killed(stage: parts.Stage, items: Sequence[str]) -> Iterator[str]:
        for item in items:
            if len(done) == stop:
                raise KeyboardInterrupt
            stage(item)
            done.append(item)
            yield item

    monkeypatch.setattr("textsiam.search.join.ray.run_here", killed)
    with pytest.raises(KeyboardInterrupt):
        find_duplicates(twin, many, threshold=some, job=JobConfig(saved, tmp_path / "job", partition_size=20))
    stop = 10**9
    first = list(done)
    resumed = find_duplicates(twin, many, threshold=some, job=JobConfig(saved, tmp_path / "job", partition_size=20))
    same(resumed, whole)
    assert len(done) == len(set(done)) == 4 + 10  # nothing twice: four parts, ten pairs of parts
    assert done[: len(first)] == first
    assert not list((tmp_path / "job").rglob("*.tmp"))
    again = find_duplicates(twin, many, threshold=some, job=JobConfig(saved, tmp_path / "job", partition_size=20))
    same(again, whole)
    assert len(done) == 14
    other = find_duplicates(twin, many, threshold=few, job=JobConfig(saved, tmp_path / "job", partition_size=20))
    assert len(done) == 24  # another threshold needs other pairs, not other vectors
    assert len(other) < len(whole)


def test_a_folder_of_another_job_is_refused(twin: Twin, saved: str, many: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "job"
    Job.begin(folder, twin, saved, many, partition_size=20)
    Job.begin(folder, twin, saved, many, partition_size=20)
    swapped = [many[1], many[0], *many[2:]]
    for texts, part, what in ((swapped, 20, "list of inputs"), (many, 21, "size of the partitions")):
        with pytest.raises(JobError, match=f"holds a job with another {what}: remove it, or name another folder"):
            Job.begin(folder, twin, saved, texts, partition_size=part)
    for text in ("{", "{}", "[]"):
        (folder / "job.json").write_text(text)
        with pytest.raises(JobError, match=r"job\.json is damaged"):
            Job.begin(folder, twin, saved, many, partition_size=20)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(JobError, match="mine is not empty and holds no job: name another folder"):
        Job.begin(tmp_path / "mine", twin, saved, many, partition_size=20)
    with pytest.raises(ValueError, match="a partition must hold at least 1 text, got 0"):
        Job.begin(folder, twin, saved, many, partition_size=0)


def test_another_model_is_refused_where_work_is_done(twin: Twin, saved: str, many: list[str], tmp_path: Path) -> None:
    job = Job.begin(tmp_path / "job", twin, saved, many, partition_size=50)
    facts = json.loads((tmp_path / "job" / "job.json").read_text())
    assert "folder" not in facts  # it may be moved
    stage = Encoding(Job(**{**job.__dict__, "fingerprint": "0" * 64}))
    with pytest.raises(ModelError, match="is another model here than where the job was begun"):
        stage("00000")
    assert not stage.file("00000").exists()


def test_a_runner_that_leaves_something_out(twin: Twin, saved: str, many: list[str], tmp_path: Path) -> None:
    job = Job.begin(tmp_path / "job", twin, saved, many, partition_size=30)

    def lazy(stage: parts.Stage, items: Sequence[str]) -> Iterator[str]:
        return run_here(stage, items[1:])

    with pytest.raises(JobError, match=r"00000\.npy and 0 others are missing: run the job again to go on"):
        perform(Encoding(job), lazy)


DRIVER = """
import json, sys
from textsiam.models.twin import Twin
from textsiam.search.join.ray import JobConfig
from textsiam.search.join.rescoring import found_by
from textsiam.search.duplicates import find_duplicates

model, folder, threshold, texts = sys.argv[1], sys.argv[2], float(sys.argv[3]), json.load(open(sys.argv[4]))
said, job = lambda done, total: print(done, flush=True), JobConfig(model, folder, partition_size=7)
find_duplicates(Twin.from_pretrained(model), texts, threshold=threshold, joining=said, job=job)
"""


@pytest.mark.slow
def test_a_killed_driver_leaves_only_whole_files_and_the_job_goes_on(
    twin: Twin, saved: str, many: list[str], tmp_path: Path
) -> None:
    threshold = high(twin, many, 0.2)
    whole = find_duplicates(twin, many, threshold=threshold, job=JobConfig(saved, tmp_path / "whole", partition_size=7))
    (tmp_path / "texts.json").write_text(json.dumps(many))
    command = [sys.executable, "-c", DRIVER, saved, str(tmp_path / "job"), repr(threshold), tmp_path / "texts.json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as driver:
        assert driver.stdout is not None
        for _ in range(5):
            assert driver.stdout.readline()
        driver.send_signal(signal.SIGKILL)
    assert driver.returncode == -signal.SIGKILL
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "job").rglob("*-*.parquet")}
    assert 5 <= len(done) <= 10 * 11 // 2
    same(
        find_duplicates(twin, many, threshold=threshold, job=JobConfig(saved, tmp_path / "job", partition_size=7)),
        whole,
    )
    assert all(file.stat().st_mtime_ns == at for file, at in done.items())
