"""A run that was killed and resumed equals one that never stopped: real processes, real signals, real full disks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from textsiam.training.checkpoints import ResumeError, list_checkpoints
from textsiam.training.loop import train
from textsiam.training.losses import ContrastiveLoss
from textsiam.training.losses.objective import Objective
from textsiam.training.settings import Settings

# Dropout on, weights in the loss, a weight average, drawn negatives, accumulated gradients, three epochs of six steps;
# log lines, validations and checkpoints never at the same step.
JOB: dict[str, Any] = {
    "losses": ["online_contrastive", "triplet", "head"],
    "settings": {
        "batch_size": 8, "epochs": 3, "gradient_accumulation_steps": 2, "ema_decay": 0.5, "learning_rate": 2e-3,
        "log_every": 4, "checkpoint_every": 3, "validate_every": 5,
    },
}  # fmt: skip

STEP = 2  # batches; deaths are counted in batches

DEATHS = [
    [("after step", 1 * STEP)],  # before the first checkpoint
    [("after step", 7 * STEP - 1)],  # amid an accumulated step
    [("after step", 17 * STEP)],
    [("after step", 4 * STEP), ("after step", 5 * STEP), ("after step", 3 * STEP)],  # three times in a row
    [("during validation", 2)],
    [("inside checkpoint", 3)],  # the first checkpoint
    [("inside checkpoint", 8)],
    [("before rename", 3)],
    [("between renames", 2)],
]


def job(output: Path, **more: Any) -> dict[str, Any]:
    return {**JOB, "output": str(output), "save": f"{output}.pt", **more}


def outcome(output: Path, rank: int = 0) -> dict[str, Any]:
    return torch.load(f"{output}.pt.{rank}")


def without_speed(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in record.items() if k != "pairs_per_second"} for record in history]


def assert_same_run(output: Path, reference: Path, rank: int = 0) -> None:
    got, expected = outcome(output, rank), outcome(reference, rank)
    for part in ("twin", "objective"):
        assert got[part].keys() == expected[part].keys()
        assert not [name for name, value in expected[part].items() if not torch.equal(value, got[part][name])]
    assert without_speed(got["history"]) == without_speed(expected["history"])
    for fact in ("steps", "best_step", "interrupted"):
        assert got["facts"][fact] == expected["facts"][fact]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_and_resumed_equals_uninterrupted(launch, tmp_path, precision):
    knobs = {**JOB["settings"], "precision": precision}
    jobs, expected = [job(tmp_path / "whole", settings=knobs)], [[0]]
    deaths = DEATHS if precision == "fp32" else DEATHS[3:9:2]
    for number, places in enumerate(deaths):
        output = tmp_path / str(number)
        for attempt, (place, count) in enumerate(places):
            die = {"place": place, "count": count}
            jobs.append(job(output, settings=knobs, die=die, resume=attempt > 0))
            expected.append([-signal.SIGKILL])
        jobs.append(job(output, settings=knobs, resume=True))
        expected.append([0])
    statuses, _ = launch(*jobs, clean=False)
    assert statuses == expected  # every death took place
    whole = outcome(tmp_path / "whole")
    assert whole["facts"]["steps"] == 18
    assert [r["step"] for r in whole["history"] if "loss" in r] == [4, 8, 12, 16, 18]
    for number in range(len(deaths)):
        assert_same_run(tmp_path / str(number), tmp_path / "whole")
        left = {p.name for folder in ("", "checkpoints") for p in (tmp_path / str(number) / folder).iterdir()}
        assert left == {"best", "checkpoints", "tokens", "history.jsonl", "step-00000015", "step-00000018"}


def test_the_head_of_a_twin_resumes_with_it(launch, tmp_path):
    whole, output = tmp_path / "whole", tmp_path / "run"
    common = {"losses": ["online_contrastive", "pair_head"]}
    die = {"place": "after step", "count": 11 * STEP}
    statuses, _ = launch(
        job(whole, **common), job(output, **common, die=die), job(output, **common, resume=True), clean=False
    )
    assert statuses == [[0], [-signal.SIGKILL], [0]]
    assert any(name.startswith("head.") for name in outcome(output)["twin"])
    assert_same_run(output, whole)


@pytest.mark.slow
def test_killed_at_any_moment_from_outside(launch, tmp_path):
    """The last weights are compared here: there is no validation that could have kept earlier ones."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    common = {"validate": False, "settings": {**JOB["settings"], "checkpoint_every": 1}}
    kills = [
        job(again, **common, resume=True, watch={"path": f"checkpoints/{pattern}", "signal": signal.SIGKILL})
        for pattern in (".step-00000002.*.tmp", "step-00000007", ".step-00000011.*.tmp/optimizer.bin", "step-00000015")
    ]
    statuses, _ = launch(job(whole, **common), *kills, job(again, **common, resume=True), clean=False)
    assert statuses == [[0], *[[-signal.SIGKILL]] * 4, [0]]
    assert_same_run(again, whole)


@pytest.mark.slow
def test_a_signal_stops_after_the_step_with_a_checkpoint(launch, tmp_path):
    knobs = {**JOB["settings"], "epochs": 8, "checkpoint_every": 1000}
    jobs, expected = [job(tmp_path / "whole", settings=knobs)], [[0]]
    for number in (signal.SIGINT, signal.SIGTERM):
        output = tmp_path / number.name
        jobs += [
            job(output, settings=knobs, watch={"path": "history.jsonl", "signal": number}),
            job(output, settings=knobs, resume=True),
        ]
        expected += [[130], [0]]
    statuses, _ = launch(jobs[0], jobs[1], clean=False)
    assert statuses == expected[:2]
    stopped = outcome(tmp_path / "SIGINT")["facts"]
    assert stopped["interrupted"]
    assert 4 <= stopped["steps"] < 48
    assert [p.name for p in list_checkpoints(tmp_path / "SIGINT" / "checkpoints")] == [f"step-{stopped['steps']:08d}"]
    statuses, _ = launch(*jobs[2:], clean=False)
    assert statuses == expected[2:]
    for number in (signal.SIGINT, signal.SIGTERM):
        assert_same_run(tmp_path / number.name, tmp_path / "whole")


def start(driver: ModuleType, output: Path, *, resume: bool = False, losses=("contrastive",), **knobs: Any) -> Any:
    data_seed = knobs.pop("data_seed", 0)
    validation = knobs.pop("validation", None)
    pairs = knobs.pop("pairs", driver.keyword_pairs(48, seed=data_seed))
    terms = knobs.pop("terms", None)
    knobs = {"precision": "fp32", "tracker": "none", "batch_size": 8, "checkpoint_every": 2, **knobs}
    return train(
        driver.small_twin(),
        pairs,
        driver.build_objective(list(losses)) if terms is None else Objective(terms),
        output=output,
        settings=Settings(**knobs),
        validation=validation,
        resume=resume,
        quiet=True,
    )


def test_another_run_is_not_resumed(driver, tmp_path):
    start(driver, tmp_path)
    newest = tmp_path / "checkpoints" / "step-00000006"
    for changed, message in [
        ({"data_seed": 1}, r"data was '[0-9a-f]{64}' and is now '[0-9a-f]{64}'"),
        ({"validation": driver.keyword_pairs(24)}, "validation was None and is now '[0-9a-f]{64}'"),
        ({"learning_rate": 1e-3}, "learning_rate was 5e-05 and is now 0.001"),
        ({"epochs": 2, "seed": 3}, "epochs was 1 and is now 2; seed was 0 and is now 3"),
        ({"losses": ("triplet",)}, r"loss\.contrastive\.distance was 'cosine' and is now None; .*triplet"),
        (
            {"terms": {"contrastive": ContrastiveLoss(margin=0.6)}},
            r"loss\.contrastive\.margin was 0\.5 and is now 0\.6$",
        ),
        ({"ema_decay": 0.9}, "ema_decay was None and is now 0.9"),
    ]:
        with pytest.raises(ResumeError, match=f"cannot resume from {newest}: {message}"):
            start(driver, tmp_path, resume=True, **changed)
    result = start(driver, tmp_path, resume=True, keep_checkpoints=1, log_every=2, checkpoint_every=3)
    assert result.steps == 6  # these may change


def test_resume_without_a_checkpoint_starts_from_the_beginning(driver, tmp_path):
    assert start(driver, tmp_path, resume=True).steps == 6


def test_the_steps_before_a_resume_are_not_done_again(driver, tmp_path):
    start(driver, tmp_path)
    assert [p.name for p in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000004", "step-00000006"]
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000006")
    seen = []
    run_type = driver.train.__globals__["Run"]
    count = run_type.count
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_type, "count", lambda run, *batch: (seen.append(run.state.step), count(run, *batch)))
        start(driver, tmp_path, resume=True)
    assert seen == [4, 5]


def test_a_signal_handler_of_the_caller_is_put_back(driver, tmp_path):
    def mine(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        start(driver, tmp_path, max_steps=1)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_training_in_a_thread_leaves_signals_alone(driver, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(start, driver, tmp_path, max_steps=1).result().steps == 1


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of four megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.slow
def test_a_full_disk_is_named_and_the_run_goes_on_once_there_is_room(launch, tmp_path, small_disk):
    whole, output = tmp_path / "whole", small_disk / "run"
    save = {"save": str(tmp_path / "run.pt")}
    launch(job(whole))
    for step, what in ((9, "step-00000009"), (10, "best"), (12, "step-00000012")):
        full = {"place": "after step", "count": step * STEP, "fill": True}
        statuses, said = launch(job(output, die=full, **save), clean=False)
        assert statuses == [[1]]
        (error,) = [line for line in said.splitlines() if "Error" in line]
        assert error.startswith("SaveError: cannot write ")
        assert what in error
        assert "disk is full" in error or "No space left on device" in error
        newest = list_checkpoints(output / "checkpoints")[-1]
        assert newest.name == ("step-00000006" if step == 9 else "step-00000009")
        (output / "filler").unlink()
        launch(job(output, resume=True, **save))
        assert_same_run(tmp_path / "run", whole)
        shutil.rmtree(output)


@pytest.mark.slow
def test_files_that_cannot_grow_are_a_clear_error(launch, tmp_path):
    """As on a full disk, but anywhere: the optimizer's file is larger than the process may write."""
    whole, output = tmp_path / "whole", tmp_path / "run"
    launch(job(whole))
    shutil.copytree(whole, output)
    shutil.rmtree(output / "checkpoints" / "step-00000018")
    statuses, said = launch(job(output, resume=True, file_limit=45_000), clean=False)
    assert statuses == [[1]]
    (error,) = [line for line in said.splitlines() if "Error" in line]
    assert error.startswith(f"SaveError: cannot write {output}/checkpoints/step-00000018: the disk is full, or a file")
    assert [p.name for p in list_checkpoints(output / "checkpoints")] == ["step-00000015"]
    launch(job(output, resume=True))
    assert_same_run(output, whole)
