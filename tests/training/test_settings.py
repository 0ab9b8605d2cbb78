from __future__ import annotations

import dataclasses

import pytest
import torch

from textsiam.training.settings import Settings


def test_defaults_are_valid_and_frozen() -> None:
    settings = Settings()
    assert settings.weight_decay > 0  # on by default
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.epochs = 2


@pytest.mark.parametrize(
    "name",
    [
        "epochs", "batch_size", "gradient_accumulation_steps", "token_budget", "validate_every",
        "patience", "checkpoint_every", "keep_checkpoints", "log_every",
    ],
)  # fmt: skip
def test_counts_start_at_one(name: str) -> None:
    assert getattr(Settings(**{name: 1}), name) == 1
    for value in (0, -1):
        with pytest.raises(ValueError, match=f"^{name} must be >= 1, got {value}$"):
            Settings(**{name: value})


def test_no_step_is_a_number_of_steps():
    assert Settings(max_steps=0).max_steps == 0
    with pytest.raises(ValueError, match=r"^max_steps must be >= 0, got -1$"):
        Settings(max_steps=-1)


@pytest.mark.parametrize("name", ["learning_rate", "max_gradient_norm"])
@pytest.mark.parametrize("value", [0.0, -1e-5, float("nan")])
def test_rates_are_positive(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be > 0, got {value}$"):
        Settings(**{name: value})


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "max_gradient_norm"])
def test_rates_are_finite(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be a finite number, got inf$"):
        Settings(**{name: float("inf")})


@pytest.mark.parametrize(
    ("seed", "seeds", "highest"), [(-1, 1, 2**32 - 1), (2**32, 1, 2**32 - 1), (2**32 - 1, 2, 2**32 - 2)]
)
def test_every_run_has_a_seed_that_numpy_takes(seed: int, seeds: int, highest: int) -> None:
    assert Settings(seed=highest, seeds=seeds).seed == highest
    with pytest.raises(ValueError, match=f"^seed must be from 0 to {highest}, got {seed}$"):
        Settings(seed=seed, seeds=seeds)


@pytest.mark.parametrize("name", ["warmup", "ema_decay"])
def test_shares_are_below_one(name: str) -> None:
    assert getattr(Settings(**{name: 0.0}), name) == 0
    for value in (1.0, -0.1, 5):
        with pytest.raises(ValueError, match=rf"^{name} must be in \[0, 1\), got {value}$"):
            Settings(**{name: value})


def test_weight_decay_is_not_negative() -> None:
    assert Settings(weight_decay=0).weight_decay == 0
    with pytest.raises(ValueError, match=r"^weight_decay must be >= 0, got -0\.1$"):
        Settings(weight_decay=-0.1)


@pytest.mark.parametrize(
    "name", ["max_steps", "max_gradient_norm", "ema_decay", "validate_every", "patience", "checkpoint_every"]
)
def test_none_turns_it_off(name: str) -> None:
    assert getattr(Settings(**{name: None}), name) is None


def test_batch_is_a_multiple_of_the_accumulation() -> None:
    assert Settings(batch_size=12, gradient_accumulation_steps=3).batch_size == 12
    with pytest.raises(ValueError, match=r"^batch_size 10 is not a multiple of gradient_accumulation_steps 3$"):
        Settings(batch_size=10, gradient_accumulation_steps=3)


def test_the_token_budget_is_that_of_the_device_unless_it_is_given() -> None:
    devices = [torch.device("cpu"), torch.device("cuda", 0)]
    assert [Settings().budget_on(device) for device in devices] == [1536, 65_536]
    assert [Settings().budget_on(devices[0], threads) for threads in (1, 2)] == [768, 768]
    assert [Settings(token_budget=100).budget_on(device) for device in devices] == [100, 100]
