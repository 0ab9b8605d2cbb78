from __future__ import annotations

import weakref
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from textsiam.training.batches import gradient_cache
from textsiam.training.batches.collation import TrainingPairs
from textsiam.training.batches.gradient_cache import encoded
from textsiam.training.batches.sampling import Uniform
from textsiam.training.distributed import gather_batch, make_accelerator
from textsiam.training.loop import train
from textsiam.training.run import Run
from textsiam.training.settings import Settings


@pytest.fixture(autouse=True)
def one_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the cores to torch in every run here, whose dropout is compared: threads draw one of their own."""
    monkeypatch.setattr(Run, "_threads", lambda *_: 0)


def run(driver: ModuleType, output: Path, losses: list[str], *, half: bool = False, **knobs: Any) -> Any:
    """Train a twin with dropout in chunks of few texts; return it."""
    twin = driver.small_twin(dropout=0.1, half=half)
    defaults = {"precision": "fp32", "tracker": "none", "batch_size": 24, "max_steps": 1, "token_budget": 30}
    train(
        twin,
        driver.keyword_pairs(48),
        driver.build_objective(losses),
        output=output,
        settings=Settings(**{**defaults, "max_gradient_norm": None, **knobs}),
        quiet=True,
    )
    return twin


def assert_close(left: list[Tensor], right: list[Tensor], *, share: float) -> None:
    assert len(left) == len(right) > 0
    largest = max(float(g.abs().max()) for g in right)
    assert largest > 1e-3
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=share * largest)


@pytest.mark.parametrize("half", [False, True], ids=["twin", "asymmetric twin"])
@pytest.mark.parametrize(
    "losses",
    [["contrastive"], ["squared"], ["online_contrastive"], ["triplet"], ["info_nce"], ["head"],
     ["online_contrastive", "info_nce", "triplet", "head"]],
    ids="+".join,
)  # fmt: skip
def test_gradients_are_those_of_the_whole_batch_with_dropout(driver, tmp_path, gradients, losses, half):
    for cached in (True, False):
        run(driver, tmp_path / str(cached), losses, half=half, gradient_cache=cached)
    assert_close(gradients[0], gradients[1], share=1e-6)


def test_dropout_draws_other_masks_in_every_chunk(driver, tmp_path, gradients):
    """Or the test above would say little."""
    for seed in (0, 1):
        run(driver, tmp_path / str(seed), ["contrastive"], gradient_cache=True, seed=seed, batch_size=48)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(gradients[0], gradients[1], share=1e-2)


@pytest.mark.parametrize("half", [False, True], ids=["twin", "asymmetric twin"])
def test_random_numbers_go_on_as_without_the_cache(driver, tmp_path, gradients, half):
    knobs = {"half": half, "batch_size": 16, "max_steps": 3, "learning_rate": 1e-8}
    for cached in (True, False):
        run(driver, tmp_path / str(cached), ["contrastive"], gradient_cache=cached, **knobs)
    for ours, theirs in zip(gradients[:3], gradients[3:], strict=True):
        assert_close(ours, theirs, share=1e-5)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "knobs",
    [
        {"gradient_accumulation_steps": 2},
        {"max_gradient_norm": 0.01},
        {"gradient_checkpointing": True},
        {"ema_decay": 0.5},
    ],
    ids=lambda knobs: next(iter(knobs)),
)
def test_the_cache_goes_with_other_knobs(driver, tmp_path, gradients, knobs):
    for cached in (True, False):
        run(driver, tmp_path / str(cached), ["info_nce", "head"], gradient_cache=cached, **knobs)
    assert_close(gradients[0], gradients[1], share=1e-6)


@pytest.mark.parametrize(("precision", "share"), [("bf16", 0.02), ("fp16", 0.02)])
def test_the_cache_in_half_precision(driver, tmp_path, gradients, precision, share):
    for cached in (True, False):
        run(driver, tmp_path / str(cached), ["contrastive", "head"], gradient_cache=cached, precision=precision)
    assert_close(gradients[0], gradients[1], share=share)


class Saved:
    """What is saved for the backward pass, weights excepted: bytes now, and the most at any time."""

    def __init__(self, weights: list[Tensor]) -> None:
        self._weights = {w.untyped_storage().data_ptr() for w in weights}
        self._counts: dict[int, int] = {}
        self.now = self.peak = 0

    def pack(self, tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if address in self._weights:
            return lambda: tensor
        held = self._counts.get(address, 0)
        self._counts[address] = held + 1
        if not held:
            self.now += size
            self.peak = max(self.peak, self.now)

        bare = tensor.detach()  # or a saved output and its graph would hold each other

        def unpack() -> Tensor:
            return bare

        weakref.finalize(unpack, self._free, address, size)
        return unpack

    def _free(self, address: int, size: int) -> None:
        self._counts[address] -= 1
        if not self._counts[address]:
            self.now -= size

    @staticmethod
    def unpack(packed: Any) -> Tensor:
        return packed()


@pytest.mark.parametrize("half", [False, True], ids=["twin", "asymmetric twin"])
def test_only_one_chunk_keeps_its_activations(driver, tmp_path, half):
    twin = driver.small_twin(half=half).train()
    objective = driver.build_objective(["contrastive"])
    settings = Settings(precision="fp32", tracker="none")
    data = TrainingPairs(driver.keyword_pairs(96), twin, Uniform(np.arange(96), 96), token_budget=40)
    batch = next(data.epoch(0))
    chunks = [*batch.left, *(batch.right or [])]
    assert len(chunks) > 15
    accelerator = make_accelerator(settings, tmp_path)

    def peak(*, cached: bool) -> int:
        saved = Saved(list(twin.parameters()))
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
            with encoded(accelerator, twin, batch, cached=cached) as (left, right):
                loss = objective(gather_batch(accelerator, batch, left, right))
                accelerator.backward(loss)
            del left, right, loss
        assert saved.now == 0  # nothing is left over
        return saved.peak

    def of_chunk(chunk: Any) -> int:
        saved = Saved(list(twin.parameters()))
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
            output = twin([chunk])[0]
        del output
        return saved.peak

    embeddings = 2 * len(batch) * twin.dim * 4
    largest = max(of_chunk(chunk) for chunk in chunks) * (2 if half else 1)
    cached, whole = peak(cached=True), peak(cached=False)
    print(f"{cached:,} bytes saved at most with the cache, {whole:,} without, {largest:,} for the largest piece")
    assert cached <= largest + 4 * embeddings
    assert whole > 5 * cached


def test_the_same_weights_after_a_resume(driver, tmp_path):
    knobs = {"gradient_cache": True, "checkpoint_every": 2, "max_steps": 4, "learning_rate": 1e-3, "batch_size": 8}
    losses = ["info_nce", "head"]
    whole = run(driver, tmp_path, losses, **knobs).state_dict()
    twin = driver.small_twin(dropout=0.1)
    result = train(
        twin,
        driver.keyword_pairs(48),
        driver.build_objective(losses),
        output=tmp_path,
        settings=Settings(precision="fp32", tracker="none", token_budget=30, max_gradient_norm=None, **knobs),
        resume=True,
        quiet=True,
    )
    assert result.steps == 4
    assert not [name for name, value in twin.state_dict().items() if not torch.equal(value, whole[name])]


def gradients_of(rank: int) -> list[Tensor]:
    """Return gradients of a table of which each process looked other rows up, of layers, and of one that has none."""
    drawn = torch.Generator().manual_seed(rank)
    table = torch.zeros(9000, 3)
    table[[[1, 4, 8999], [4, 5000]][rank]] = torch.randn(3 - rank, 3, generator=drawn)
    return [table, torch.zeros(8500, 2), *(torch.randn(size, generator=drawn) for size in ((40, 30), (30,), (7, 5)))]


def average(rank: int, folder: str, together: int) -> None:
    """Average the gradients of two processes, and write what this one has then."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    gradient_cache._TOGETHER = together
    found = gradients_of(rank)
    gradient_cache._average(SimpleNamespace(num_processes=2), found)
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("together", [1 << 22, 500])
def test_processes_have_the_mean_of_their_gradients(tmp_path, together):
    torch.multiprocessing.spawn(average, (str(tmp_path), together), nprocs=2)
    expected = [(a + b) / 2 for a, b in zip(*map(gradients_of, (0, 1)), strict=True)]
    for rank in (0, 1):
        for own, mean in zip(torch.load(tmp_path / f"{rank}.pt"), expected, strict=True):
            torch.testing.assert_close(own, mean, rtol=1e-6, atol=1e-7)
