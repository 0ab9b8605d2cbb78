"""The fused backbone computes what transformers computes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer

from textsiam.inference.batching import encode
from textsiam.inference.fast import fused_bert
from textsiam.inference.fast.fast_tower import FastTower
from textsiam.inference.fast.fused_bert import FusedBert, attend, fusable
from textsiam.inference.tokens import tokenise


def backbones(tower: SentenceTransformer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    features = tokenise(tower, texts).collate(np.arange(len(texts)))
    with torch.inference_mode():
        ours = FusedBert(tower[0], torch.float32)(features)["token_embeddings"]  # pyright: ignore
        theirs = tower[0](dict(features))["token_embeddings"]
    return ours, theirs, features["attention_mask"].bool()


@pytest.mark.parametrize(
    "texts",
    [
        ["why is the sky blue"],
        ["why", "why is the sky blue and the sea green", "how do I"],
        ["word " * 120, "short"],  # beyond the length up to which attention is two products
        ["word " * 120] * 2,
        [""],
    ],
    ids=["one", "padded", "long padded", "long", "empty"],
)
def test_every_token_is_that_of_transformers(minilm: SentenceTransformer, texts: list[str]) -> None:
    ours, theirs, real = backbones(minilm, texts)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours[real], theirs[real], rtol=0, atol=2e-5)


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("longest", [1, 15, 16, 17, 32, 33, 48, 49, 70, 128, 192, 193, 256])
def test_attention_in_bf16_at_any_length(longest: int, tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_bert, "multiplies_tiles", lambda: tiles)
    generator = torch.Generator().manual_seed(longest)
    mixed = torch.randn(3, longest, 3, 2, 8, generator=generator).bfloat16()
    bias = torch.zeros(3, 1, 1, longest)
    bias[1, ..., -(longest // 2) :] = -1e9 if longest > 1 else 0
    q, k, v = mixed.double().permute(2, 0, 3, 1, 4)
    for given in (None, bias):
        scores = q @ k.transpose(2, 3) + (0 if given is None else given)
        expected = (scores.softmax(-1) @ v).transpose(1, 2).reshape(3, longest, 16)
        torch.testing.assert_close(attend(mixed, given).double(), expected, rtol=0, atol=0.05)
        torch.testing.assert_close(attend(mixed.float(), given).double(), expected, rtol=0, atol=1e-5)


def test_scores_beyond_the_range_of_exp(fresh_tower: SentenceTransformer, sentences: list[str]) -> None:
    """A peaked attention must not overflow."""
    with torch.no_grad():
        for layer in fresh_tower[0].model.encoder.layer:  # pyright: ignore
            layer.attention.self.query.weight.mul_(300)
            layer.attention.self.key.weight.mul_(300)
    ours, theirs, real = backbones(fresh_tower, sentences[:4])
    assert ours.isfinite().all()
    torch.testing.assert_close(ours[real], theirs[real], rtol=0, atol=1e-3)


def test_bf16_loses_less_than_the_library_does(minilm: SentenceTransformer, sentences: list[str]) -> None:
    exact = minilm.encode(sentences)

    def worst(backbone: torch.nn.Module | FusedBert) -> float:
        fast = FastTower(minilm, torch.bfloat16)
        fast.backbone = backbone
        return float((encode(fast, sentences) * exact).sum(1).min())

    ours = worst(FusedBert(minilm[0], torch.bfloat16))  # pyright: ignore
    assert ours >= 0.9999
    assert ours > worst(copy.deepcopy(minilm[0]).bfloat16().eval())


@pytest.mark.parametrize(("layers", "stream"), [(1, torch.bfloat16), (6, torch.bfloat16), (12, torch.float32)])
def test_deep_backbones_sum_in_fp32(
    layers: int, stream: torch.dtype, fresh_tower: SentenceTransformer, sentences: list[str]
) -> None:
    """The sum of a layer in bf16 is rounded; what twelve of them lose together is too much."""
    encoder: Any = fresh_tower[0].model.encoder  # pyright: ignore
    encoder.layer = torch.nn.ModuleList(copy.deepcopy(encoder.layer[n % len(encoder.layer)]) for n in range(layers))
    fast = FastTower(fresh_tower, torch.bfloat16)
    assert isinstance(fast.backbone, FusedBert)
    assert fast.backbone.stream == stream
    exact = encode(FastTower(fresh_tower, torch.float32), sentences)
    assert (encode(fast, sentences) * exact).sum(1).min() >= 0.9999


def test_only_what_it_computes_is_fusable(tower: SentenceTransformer, fresh_tower: SentenceTransformer) -> None:
    assert fusable(tower[0])
    assert isinstance(FastTower(tower, torch.float32).backbone, FusedBert)
    assert not fusable(tower[1])
    backbone = fresh_tower[0]
    assert isinstance(backbone, Transformer)
    model = backbone.model
    for name, value in (("hidden_act", "relu"), ("is_decoder", True)):
        before = getattr(model.config, name)  # pyright: ignore
        setattr(model.config, name, value)
        assert not fusable(backbone)
        assert not isinstance(FastTower(fresh_tower, torch.float32).backbone, FusedBert)
        setattr(model.config, name, before)
    backbone.model.embeddings.word_embeddings.to("meta")  # pyright: ignore
    assert not fusable(backbone)


def test_other_backbones_take_the_library_s_path(fresh_tower: SentenceTransformer, sentences: list[str]) -> None:
    fresh_tower[0].model.config.hidden_act = "gelu_new"  # pyright: ignore
    found = encode(FastTower(fresh_tower, torch.float32), sentences)
    np.testing.assert_allclose(found, fresh_tower.encode(sentences), atol=1e-5)
    half = encode(FastTower(fresh_tower, torch.bfloat16), sentences)
    assert (half * found).sum(1).min() > 0.999
