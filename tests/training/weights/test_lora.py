"""Adapters of low rank: what learns, what is saved, that a resume changes nothing, and what is refused."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from textsiam.config.model import ScratchConfig
from textsiam.config.run import ModelConfig, build_twin, read_config
from textsiam.data.pairs import Pairs
from textsiam.inference.encoders import ModelError
from textsiam.inference.lora import LoraConfig, add_adapters, lora_targets, merged, remove_adapters
from textsiam.models.asymmetric import shared_layers, sides
from textsiam.models.twin import Twin
from textsiam.training.loop import train
from textsiam.training.losses import ContrastiveLoss
from textsiam.training.losses.objective import Objective
from textsiam.training.settings import Settings

needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="the extra 'lora' is not installed (package peft)")


def learn(twin: Twin, pairs: Pairs, output: Path, *, resume: bool = False, **knobs: Any) -> None:
    settings = Settings(**{"epochs": 2, "batch_size": 24, "learning_rate": 1e-2, "tracker": "none"} | knobs)
    train(twin, pairs, Objective({"c": ContrastiveLoss()}), output=output, settings=settings, resume=resume, quiet=True)


@needs_peft
def test_adapters_alone_learn_and_are_merged_into_what_is_saved(twin: Twin, pairs: Pairs, tmp_path: Path) -> None:
    twin.lora = LoraConfig(rank=2, target_modules=["query", "dense"])
    before = {name: weight.clone() for name, weight in twin.state_dict().items()}
    learn(twin, pairs, tmp_path / "run", precision="fp32")
    after = twin.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {n for n in before if n.endswith(("query.weight", "dense.weight")) and "pooler" not in n}
    update = after[query := next(n for n in changed if "query" in n)] - before[query]
    assert torch.linalg.matrix_rank(update, atol=1e-6) == 2
    assert all(parameter.requires_grad for parameter in twin.parameters())
    assert not any("lora" in type(module).__module__ for module in twin.modules())
    learn(twin, pairs, tmp_path / "again", precision="fp32", max_steps=2)  # nothing of the first time is in the way
    twin.save_pretrained(tmp_path / "twin")
    vectors = twin.encode(pairs.texts, precision="fp32")
    opened = SentenceTransformer(str(tmp_path / "twin"), device="cpu")
    np.testing.assert_allclose(opened.encode(pairs.texts), vectors, atol=1e-5)
    np.testing.assert_array_equal(
        Twin.from_pretrained(tmp_path / "twin").encode(pairs.texts, precision="fp32"), vectors
    )


@needs_peft
def test_what_is_merged_scores_as_what_was_trained(twin: Twin, pairs: Pairs) -> None:
    weights = dict(twin.state_dict())
    before = twin.left.encode(pairs.texts)
    add_adapters(twin.left, LoraConfig(rank=3, alpha=5.0))
    np.testing.assert_array_equal(twin.left.encode(pairs.texts), before)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    trained = twin.eval().left.encode(pairs.texts)
    assert abs(trained - before).max() > 1e-2
    whole = merged(twin, dict(twin.state_dict()))
    assert whole.keys() == weights.keys()
    remove_adapters(twin)
    assert twin.state_dict().keys() == weights.keys()
    twin.load_state_dict(whole)
    np.testing.assert_allclose(twin.left.encode(pairs.texts), trained, atol=1e-5)


@needs_peft
@pytest.mark.parametrize("shared", [0, 1, "all"])
def test_sides_that_share_layers_share_their_adapters(
    fresh_tower: SentenceTransformer, pairs: Pairs, tmp_path: Path, shared: Any
) -> None:
    twin = Twin(*sides(fresh_tower, right_prompt="bread ", shared_layers=shared), lora=LoraConfig(rank=2))
    before = {name: weight.clone() for name, weight in twin.state_dict().items()}
    learn(twin, pairs, tmp_path / "run", precision="fp32", max_steps=2)
    changed = {name for name, weight in twin.state_dict().items() if not torch.equal(weight, before[name])}
    layers = {name.partition("layer.")[2] for name in changed}
    assert {f"{side}.{layer}" for side in ("left", "right") for layer in layers} == {
        f"{name.partition('.')[0]}.{name.partition('layer.')[2]}" for name in changed
    }
    assert shared_layers(*twin.towers) == (shared or 0)


@needs_peft
@pytest.mark.parametrize(
    "more", [{}, {"ema_decay": 0.9}, {"seeds": 2}, {"trained_share": 0.5}], ids=["plain", "average", "seeds", "share"]
)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    tower: SentenceTransformer, pairs: Pairs, tmp_path: Path, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import copy

    from textsiam.training.run import Run

    twins = [Twin(copy.deepcopy(tower), lora=LoraConfig(rank=2, dropout=0.2)) for _ in range(3)]
    knobs = {"checkpoint_every": 1, **more}
    learn(twins[0], pairs, tmp_path / "whole", **knobs)

    def stopping(self: Run, requested: bool) -> bool:
        return real(self, self.state.step == 3)

    real = Run.stopping
    with monkeypatch.context() as patch:
        patch.setattr(Run, "stopping", stopping)
        learn(twins[1], pairs, tmp_path / "parts", **knobs)
    learn(twins[2], pairs, tmp_path / "parts", resume=True, **knobs)
    whole, resumed = twins[0].state_dict(), twins[2].state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert not all(torch.equal(value, twins[1].state_dict()[name]) for name, value in whole.items())


@needs_peft
def test_the_config_names_the_layers_and_others_are_refused(pairs: Pairs) -> None:
    config = read_config(["--model.scratch", "{}", "--model.lora", "{rank: 4, target_modules: [query, value]}"])
    assert config.model.lora == LoraConfig(rank=4, target_modules=["query", "value"])
    small = {"scratch": ScratchConfig(vocabulary=300, hidden=16, layers=1), "max_tokens": 16}
    twin = build_twin(ModelConfig(**small, lora=config.model.lora), pairs)
    assert [name.rpartition(".")[2] for name in lora_targets(twin.left, twin.lora)] == ["query", "value"]
    with pytest.raises(ModelError, match=r"model\.lora\.target_modules: 'q_proj' is no linear layer.* has query, key"):
        build_twin(ModelConfig(**small, lora=LoraConfig(target_modules=["q_proj"])), pairs)


def test_without_peft_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, textsiam: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("textsiam.inference.lora.find_spec", lambda _: None)
    arguments = ("--model.scratch", "{}", "--model.lora.rank", "4", "--output", tmp_path / "run")
    status, _, err = textsiam("train", *arguments)
    assert status == 1
    assert err.splitlines()[-1].endswith("model.lora needs peft: pip install 'textsiam[lora]'")


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"rank": 0}, "rank must be >= 1, got 0"), ({"alpha": 0}, "alpha must be > 0, got 0"),
     ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0")],
)  # fmt: skip
def test_knobs_out_of_range_are_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoraConfig(**knobs)
