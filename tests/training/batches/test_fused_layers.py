"""The layers that training computes in fewer passes: the library's layers and autograd are the oracle."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from textsiam.inference.encoders import prepare
from textsiam.training.batches import crew, fused_layers
from textsiam.training.batches.crew import OwnDropout, encoded_by_threads
from textsiam.training.batches.fused_layers import FusedLayers, Share, dropped, what_is_kept

TEXTS = [
    "is it the same question",
    "how are two questions compared",
    "why",
    "what does a longer text make of it all",
    "and so on",
]


def chunks_of(tower: SentenceTransformer, sizes: tuple[int, ...] = (3, 2)) -> list[dict[str, Tensor]]:
    prepared, rows = prepare(tower, TEXTS), np.split(np.arange(len(TEXTS)), np.cumsum(sizes)[:-1])
    return [prepared.collate(some) for some in rows]


def learned(
    tower: SentenceTransformer, *, fused: bool, dtype: torch.dtype = torch.float32, threads: int = 2, times: int = 1
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return embeddings and gradients of the weights; with `fused` off, the library's layers give them."""
    tower = copy.deepcopy(tower).train()
    half = dtype == torch.bfloat16

    def encode(chunks: list[dict[str, Tensor]]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=False):
            return torch.cat([tower(dict(chunk))["sentence_embedding"] for chunk in chunks])

    torch.manual_seed(3)
    layers = FusedLayers(tower[0], dtype)
    if not fused:
        layers._replaced, layers._layers, layers.leaves = [], [], []
    weights = [weight for weight in tower.parameters() if weight.requires_grad]
    for _ in range(times):
        torch.manual_seed(4)
        with encoded_by_threads(encode, weights, chunks_of(tower), threads, layers) as embeddings:
            found = embeddings.detach().clone()
            directions = torch.randn(found.shape, generator=torch.Generator().manual_seed(5))
            (embeddings * directions).sum().backward()
    named = tower.named_parameters()
    return found, {name: weight.grad for name, weight in named if weight.grad is not None}


def with_dropout(tower: SentenceTransformer, p: float) -> SentenceTransformer:
    tower = copy.deepcopy(tower)
    for module in tower.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = p
    return tower


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_learned_is_what_autograd_finds(tower: SentenceTransformer, p: float, threads: int) -> None:
    tower = with_dropout(tower, p)
    expected, gradients = learned(tower, fused=False, threads=threads)
    found, others = learned(tower, fused=True, threads=threads)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    assert others.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            others[name], gradient, atol=2e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_bf16_is_as_near_to_fp32_as_autocast(tower: SentenceTransformer) -> None:
    tower = with_dropout(tower, 0.1)
    _, exact = learned(tower, fused=False)
    far = {}
    for fused in (False, True):
        _, gradients = learned(tower, fused=fused, dtype=torch.bfloat16)
        squares = sum(float((gradients[name] - exact[name]).square().sum()) for name in exact)
        far[fused] = (squares / sum(float(g.square().sum()) for g in exact.values())) ** 0.5
    assert far[True] < 1.2 * far[False] < 0.1


def test_gradients_are_added_to_those_that_are_there(tower: SentenceTransformer) -> None:
    _, once = learned(tower, fused=True)
    _, twice = learned(tower, fused=True, times=2)
    for name, gradient in once.items():
        torch.testing.assert_close(twice[name], 2 * gradient, atol=1e-6, rtol=1e-5)


def test_layers_that_do_not_learn_whole_or_are_watched_stay_the_library_s(tower: SentenceTransformer) -> None:
    _, gradients = learned(tower, fused=False)
    frozen, watched = copy.deepcopy(tower), copy.deepcopy(tower)
    layers = frozen[0].model.encoder.layer
    for weight in layers[0].attention.self.query.parameters():
        weight.requires_grad_(False)
    assert len(FusedLayers(frozen[0], torch.float32).leaves) == 8 * (len(layers) - 1)
    _, others = learned(frozen, fused=True)
    assert "0.model.encoder.layer.0.attention.self.query.weight" not in others
    for name, gradient in others.items():
        torch.testing.assert_close(gradient, gradients[name], atol=2e-5, rtol=1e-4)
    seen: list[str] = []
    watched[0].model.encoder.layer[1].output.register_forward_hook(lambda *_: seen.append("seen"))
    assert len(FusedLayers(watched[0], torch.float32).leaves) == 8 * (len(layers) - 1)
    assert "forward" not in vars(layers[1])


def test_layers_are_the_library_s_again_after_an_error(tower: SentenceTransformer) -> None:
    tower = copy.deepcopy(tower)
    layers = FusedLayers(tower[0], torch.float32)
    with pytest.raises(ZeroDivisionError), layers.in_place():
        raise ZeroDivisionError
    assert not any("forward" in vars(layer) for layer in tower[0].model.encoder.layer)


def test_masks_of_both_kinds_hide_the_same_keys(tower: SentenceTransformer) -> None:
    backbone = with_dropout(tower, 0.0)[0]
    layer = FusedLayers(backbone, torch.float32)._layers[0]
    x, fits = torch.randn(2, 5, 32), (torch.arange(5) < torch.tensor([[3], [5]]))[:, None, None]
    share = Share(torch.Generator())
    hidden = layer(x, fits, share)
    added = layer(x, torch.zeros(fits.shape).masked_fill(~fits, -1e9), share)
    shorter = layer(x[:1, :3], None, share)
    torch.testing.assert_close(hidden, added)
    torch.testing.assert_close(hidden[:1, :3], shorter)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_keep_numbers_as_they_are_or_not_at_all(dtype: torch.dtype) -> None:
    share, x = Share(torch.Generator().manual_seed(0)), torch.randn(300, 301).to(dtype)
    bits = share.kept(x.shape, dtype, 0.3)
    assert bits is not None
    kept = what_is_kept(x, bits)
    assert torch.equal(kept[bits != 0], x[bits != 0])
    assert not kept[bits == 0].any()
    assert float((bits == 0).float().mean()) == pytest.approx(0.3, abs=0.005)
    assert share.kept(x.shape, dtype, 0.0) is None
    assert dropped(0.1) == pytest.approx(0.1, abs=1e-5)


def test_rows_have_zeros_below_them() -> None:
    x = torch.randn(70, 4)
    rows = fused_layers._rows(x, torch.bfloat16)
    assert rows.shape == (128, 4)
    assert torch.equal(rows[:70], x.bfloat16())
    assert not rows[70:].any()


def test_dropout_in_threads_draws_what_fused_layers_draw() -> None:
    x = torch.randn(40, 9)
    with OwnDropout(7):
        found = torch.nn.functional.dropout(x, 0.25)
    bits = OwnDropout(7).share.kept(x.shape, x.dtype, 0.25)
    assert bits is not None
    torch.testing.assert_close(found, what_is_kept(x, bits) / (1 - crew.dropped(0.25)))
