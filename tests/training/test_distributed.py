"""Two processes that share a batch do what one does with all of it."""

from __future__ import annotations

import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

LOSSES = [
    ["contrastive"],
    ["squared"],
    ["online_contrastive"],
    ["triplet"],
    ["info_nce"],
    ["head"],
    ["pair_head", "online_contrastive"],
    ["online_contrastive", "info_nce", "triplet", "head"],
    ["cosent", "softmax", "n_pair", "angular"],
    ["info_nce_hard", "batch_all", "batch_hard", "batch_semi_hard"],
    ["batch_easy", "batch_random", "batch_distance_weighted", "debiased_triplet"],
    ["batch_hard", "angular", "info_nce", "softmax", "memory", "matryoshka"],
    ["batch_all", "memory"],
]


def job(output: Path, losses: list[str], *, world: int = 1, **more: Any) -> dict[str, Any]:
    knobs = {"batch_size": 8, "learning_rate": 1e-3, "max_gradient_norm": None, **more.pop("settings", {})}
    return {
        "output": str(output),
        "save": f"{output}.pt",
        "losses": losses,
        "world": world,
        "dropout": 0.0,
        "gradients": True,
        "settings": knobs,
        **more,
    }


def outcome(output: Path, rank: int = 0) -> dict[str, Any]:
    return torch.load(f"{output}.pt.{rank}")


def assert_same_weights(got: dict[str, Any], expected: dict[str, Any]) -> None:
    for part in ("twin", "objective"):
        assert not [n for n, v in expected[part].items() if not torch.equal(v, got[part][n])]


def assert_same_gradients(got: dict[str, Any], expected: dict[str, Any], steps: int) -> None:
    assert len(got["gradients"]) == len(expected["gradients"]) == steps
    for ours, theirs in zip(got["gradients"], expected["gradients"], strict=True):
        largest = max(float(g.abs().max()) for g in theirs)
        assert largest > 1e-3
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=5e-6 * largest)


@pytest.mark.parametrize("losses", LOSSES, ids="+".join)
def test_two_processes_have_the_gradient_of_one(launch, tmp_path, losses):
    jobs = [job(tmp_path / str(n), losses, world=n, settings={"max_steps": 3}, validate=False) for n in (1, 2)]
    launch(*jobs)
    alone = outcome(tmp_path / "1")
    for rank in range(2):
        assert_same_gradients(outcome(tmp_path / "2", rank), alone, steps=3)
        assert outcome(tmp_path / "2", rank)["facts"]["left_over"] == []  # or the end of the run may hang
    assert_same_weights(outcome(tmp_path / "2", 0), outcome(tmp_path / "2", 1))
    for name, value in alone["twin"].items():
        torch.testing.assert_close(outcome(tmp_path / "2")["twin"][name], value, rtol=0, atol=2e-4)


@pytest.mark.skipif(find_spec("peft") is None, reason="the extra 'lora' is not installed (package peft)")
def test_adapters_are_trained_by_two_processes_as_by_one(launch, tmp_path):
    given = {"settings": {"max_steps": 3}, "lora": {"rank": 2}}
    launch(*(job(tmp_path / str(n), ["contrastive"], world=n, **given) for n in (1, 2)))
    for rank in range(2):
        assert_same_gradients(outcome(tmp_path / "2", rank), outcome(tmp_path / "1"), steps=3)
    assert_same_weights(outcome(tmp_path / "2", 0), outcome(tmp_path / "2", 1))


def test_left_texts_that_are_encoded_twice_are_gathered(launch, tmp_path):
    given = {"settings": {"max_steps": 3}, "validate": False, "dropout": 1e-9}  # there, and without effect
    launch(*(job(tmp_path / str(n), ["simcse", "contrastive"], world=n, **given) for n in (1, 2)))
    for rank in range(2):
        assert_same_gradients(outcome(tmp_path / "2", rank), outcome(tmp_path / "1"), steps=3)


def test_what_a_teacher_says_is_gathered(launch, tmp_path):
    given = {"settings": {"max_steps": 3}, "validate": False}
    launch(*(job(tmp_path / str(n), ["distillation", "contrastive"], world=n, **given) for n in (1, 2)))
    for rank in range(2):
        assert_same_gradients(outcome(tmp_path / "2", rank), outcome(tmp_path / "1"), steps=3)


@pytest.mark.parametrize("half", [False, True], ids=["twin", "asymmetric twin"])
@pytest.mark.parametrize("gradient_accumulation_steps", [1, 2])
def test_the_gradient_cache_on_two_processes_has_the_gradient_of_one_without(
    launch, tmp_path, half, gradient_accumulation_steps
):
    losses = ["info_nce", "triplet", "head"]
    knobs = {
        "max_steps": 3,
        "batch_size": 16,
        "token_budget": 20,
        "gradient_accumulation_steps": gradient_accumulation_steps,
    }
    cached = {**knobs, "gradient_cache": True}
    common = {"half": half, "validate": False}
    launch(
        job(tmp_path / "1", losses, settings=knobs, **common),
        job(tmp_path / "2", losses, world=2, settings=cached, **common),
    )
    alone = outcome(tmp_path / "1")
    for rank in range(2):
        assert_same_gradients(outcome(tmp_path / "2", rank), alone, steps=3)
    assert_same_weights(outcome(tmp_path / "2", 0), outcome(tmp_path / "2", 1))


def test_clipping_and_accumulation_are_those_of_one_process(launch, tmp_path):
    knobs = {"max_steps": 3, "gradient_accumulation_steps": 2, "max_gradient_norm": 0.1}
    launch(*(job(tmp_path / str(n), ["contrastive", "head"], world=n, settings=knobs) for n in (1, 2)))
    alone = outcome(tmp_path / "1")
    norm = torch.cat([g.flatten() for g in alone["gradients"][0]]).norm()
    assert norm == pytest.approx(0.1, rel=1e-3)
    for rank in range(2):
        assert_same_gradients(outcome(tmp_path / "2", rank), alone, steps=3)


def test_only_one_process_validates_and_all_know_the_result(launch, tmp_path):
    knobs = {"max_steps": 6, "validate_every": 2, "patience": 1, "learning_rate": 1e-2}
    launch(job(tmp_path / "run", ["online_contrastive"], world=2, settings=knobs))
    first, second = outcome(tmp_path / "run", 0), outcome(tmp_path / "run", 1)
    checked = [r["validation_ap"] for r in first["history"] if "validation_ap" in r]
    assert (first["facts"].pop("scored"), second["facts"].pop("scored")) == (len(checked), 0)
    assert first["facts"] == second["facts"]
    assert checked == [r["validation_ap"] for r in second["history"] if "validation_ap" in r]
    assert_same_weights(first, second)  # both hold the weights of the best validation


def test_two_processes_read_the_same_tokens(launch, tmp_path):
    output = tmp_path / "run"
    launch(job(output, ["contrastive"], world=2, half=True, settings={"max_steps": 1}))
    names = sorted(p.name.partition(".")[2] for p in (output / "tokens").iterdir())
    assert names == ["ids.npy", "json", "offsets.npy"]  # both towers tokenise alike


@pytest.mark.parametrize("pairs", [47, 13, 5, 3])
def test_an_odd_number_of_pairs_ends_well(launch, tmp_path, pairs):
    launch(job(tmp_path / "run", ["contrastive", "triplet"], world=2, pairs=pairs, settings={"epochs": 2}))
    batch = min(8, pairs // 2 * 2)
    assert [outcome(tmp_path / "run", rank)["facts"]["steps"] for rank in range(2)] == [2 * (pairs // batch)] * 2


def test_batches_without_a_duplicate_on_one_side_end_well(launch, tmp_path):
    """Some shares of a batch hold no duplicate, and some whole batches none: no term may leave a process waiting."""
    launch(job(tmp_path / "run", ["triplet", "info_nce"], world=2, pairs=40, settings={"batch_size": 2, "epochs": 1}))
    assert_same_weights(outcome(tmp_path / "run", 0), outcome(tmp_path / "run", 1))


def test_too_few_pairs_are_a_clear_error(launch, tmp_path):
    statuses, said = launch(job(tmp_path / "run", ["contrastive"], world=2, pairs=1), clean=False)
    assert statuses == [[1, 1]]
    assert "ValueError: keywords-0: 1 pairs cannot be shared by 2 processes" in said
    statuses, said = launch(job(tmp_path / "run", ["contrastive"], world=2, settings={"batch_size": 7}), clean=False)
    assert statuses == [[1, 1]]
    assert "ValueError: batch_size 7 cannot be shared equally by 2 processes" in said


def test_two_killed_processes_resume_to_the_same_weights(launch, tmp_path):
    losses = ["online_contrastive", "triplet", "head"]
    common: dict[str, Any] = {
        "world": 2,
        "dropout": 0.1,
        "gradients": False,
        "settings": {"epochs": 2, "ema_decay": 0.5, "checkpoint_every": 3, "validate_every": 5, "log_every": 4},
    }
    whole, output = tmp_path / "whole", tmp_path / "run"
    # Where only one dies at first, the other ends because the connection breaks.
    statuses, said = launch(
        job(whole, losses, **common),
        job(output, losses, **common, die={"place": "after step", "count": 4}),
        job(output, losses, **common, resume=True, die={"place": "before rename", "count": 1}),
        job(output, losses, **common, resume=True, die={"place": "inside checkpoint", "count": 6}),
        job(output, losses, **common, resume=True),
        clean=False,
    )
    assert statuses[0] == statuses[-1] == [0, 0], said
    assert [status[0] for status in statuses[1:-1]] == [-signal.SIGKILL] * 3
    assert all(status[1] != 0 for status in statuses[1:-1])
    for rank in range(2):
        assert_same_weights(outcome(output, rank), outcome(whole, rank))
        assert outcome(output, rank)["facts"]["steps"] == 12
    assert sorted(p.name for p in (output / "checkpoints").iterdir()) == ["step-00000009", "step-00000012"]

    statuses, said = launch(job(output, losses, **{**common, "world": 1}, resume=True), clean=False)
    assert statuses == [[1]]
    assert "processes was 2 and is now 1" in said


def test_a_signal_stops_both_at_the_same_step(launch, tmp_path):
    # the next line of the log plays no part: it is far away
    common: dict[str, Any] = {"world": 2, "settings": {"epochs": 1000, "log_every": 10**6, "validate_every": 5}}
    watch = {"path": "history.jsonl", "signal": signal.SIGTERM}
    statuses, said = launch(job(tmp_path / "run", ["contrastive"], **common, watch=watch), clean=False)
    assert statuses == [[130, 130]], said
    first, second = (outcome(tmp_path / "run", rank)["facts"] for rank in range(2))
    assert first["steps"] == second["steps"] < 6000
    assert first["interrupted"]
    assert second["interrupted"]
    assert (tmp_path / "run" / "checkpoints" / f"step-{first['steps']:08d}").is_dir()


@pytest.mark.parametrize("validate", [True, False])
def test_sharded_training_gives_the_weights_of_one_process(launch, tmp_path, validate):
    common: dict[str, Any] = {
        "gradients": False,
        "validate": validate,
        # Chunks so small that the processes have different numbers of them, if batches are cut at all.
        "settings": {"epochs": 2, "max_gradient_norm": 1.0, "token_budget": 24},
    }
    losses = ["online_contrastive", "info_nce", "triplet"]
    launch(job(tmp_path / "1", losses, **common), job(tmp_path / "2", losses, world=2, fsdp=True, **common))
    alone, first, second = outcome(tmp_path / "1"), outcome(tmp_path / "2", 0), outcome(tmp_path / "2", 1)
    assert first["facts"]["steps"] == alone["facts"]["steps"] == 12
    assert_same_weights(first, second)
    for name, value in alone["twin"].items():
        torch.testing.assert_close(first["twin"][name], value, rtol=0, atol=1e-3)


def test_sharded_training_resumes(launch, tmp_path):
    common: dict[str, Any] = {
        "gradients": False,
        "world": 2,
        "fsdp": True,
        "settings": {"epochs": 2, "checkpoint_every": 3},
    }
    whole, output = tmp_path / "whole", tmp_path / "run"
    statuses, said = launch(
        job(whole, ["contrastive"], **common),
        job(output, ["contrastive"], **common, die={"place": "after step", "count": 8}),
        job(output, ["contrastive"], **common, resume=True),
        clean=False,
    )
    assert statuses[0] == statuses[2] == [0, 0], said
    assert statuses[1][0] == -signal.SIGKILL
    assert_same_weights(outcome(output, 0), outcome(whole, 0))
    assert (output / "checkpoints" / "step-00000009" / "pytorch_model_fsdp_0").is_dir()  # it was sharded indeed


def test_a_gradient_cache_over_shards_is_refused(launch, tmp_path):
    statuses, said = launch(
        job(tmp_path / "run", ["contrastive"], world=2, fsdp=True, settings={"gradient_cache": True}), clean=False
    )
    assert statuses == [[1, 1]]
    assert "gradient_cache encodes as many chunks as a process has: it cannot be used with FSDP" in said


def test_an_average_of_shards_is_refused(launch, tmp_path):
    statuses, said = launch(
        job(tmp_path / "run", ["contrastive"], world=2, fsdp=True, settings={"ema_decay": 0.9}), clean=False
    )
    assert statuses == [[1, 1]]
    assert "average keeps a mean of whole weights: it cannot be used with FSDP" in said
