"""Ranges of activations are those that the library's own modules see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

from textsiam.inference.fast.activation_ranges import LayerRanges, Range, observe, read_ranges, write_ranges
from textsiam.inference.fast.fused_bert import FusedBert
from textsiam.inference.tokens import tokenise


def batches(tower: SentenceTransformer, texts: list[str], size: int) -> list[dict[str, torch.Tensor]]:
    tokens = tokenise(tower, texts)
    return [tokens.collate(np.arange(start, min(start + size, len(texts)))) for start in range(0, len(texts), size)]


def observed(tower: SentenceTransformer, texts: list[str], size: int = 4) -> list[LayerRanges]:
    return observe(FusedBert(tower[0], torch.float32), batches(tower, texts, size))  # pyright: ignore


def test_ranges_are_those_of_the_library_s_modules(fresh_tower: SentenceTransformer, sentences: list[str]) -> None:
    tower = fresh_tower.eval()
    seen: dict[torch.nn.Module, list[torch.Tensor]] = {}
    model: Any = tower[0].model
    parts = {
        "query_key_value": lambda layer: layer.attention.self.value,
        "out": lambda layer: layer.attention.output.dense,
        "wide": lambda layer: layer.intermediate.dense,
        "narrow": lambda layer: layer.output.dense,
    }
    handles = [
        part(layer).register_forward_pre_hook(lambda m, given: seen.setdefault(m, []).append(given[0].flatten(0, 1)))
        for layer in model.encoder.layer
        for part in parts.values()
    ]
    with torch.inference_mode():
        for text in sentences:  # one by one: nothing is padded
            tower[0](batches(tower, [text], 1)[0])
    for handle in handles:
        handle.remove()
    found = observed(tower, sentences)
    assert len(found) == len(model.encoder.layer)
    for layer, ranges in zip(model.encoder.layer, found, strict=True):
        for name, part in parts.items():
            values = torch.cat(seen[part(layer)])
            torch.testing.assert_close(getattr(ranges, name).low, values.amin(0).clamp_max(0), rtol=0, atol=1e-5)
            torch.testing.assert_close(getattr(ranges, name).high, values.amax(0).clamp_min(0), rtol=0, atol=1e-5)
            assert getattr(ranges, name).largest.min() > 0


def test_written_and_read_they_are_the_same(tower: SentenceTransformer, sentences: list[str], tmp_path) -> None:
    ranges = observed(tower, sentences[:4])
    write_ranges(tmp_path / "ranges.safetensors", ranges)
    again = read_ranges(tmp_path / "ranges.safetensors")
    assert len(again) == len(ranges)
    for a, b in zip(ranges, again, strict=True):
        for one, other in zip(a, b, strict=True):
            assert torch.equal(one.low, other.low)
            assert torch.equal(one.high, other.high)


@pytest.mark.parametrize("spoil", ["fewer", "other", "none"])
def test_other_files_are_refused(tower, sentences, tmp_path, spoil: str) -> None:
    file = tmp_path / "ranges.safetensors"
    write_ranges(file, observed(tower, sentences[:4]))
    from safetensors.torch import load_file

    tensors = load_file(file)
    tensors.pop("layers.0.wide.low")
    tensors |= {"layers.0.wide.least": torch.zeros(3)} if spoil == "other" else {}
    save_file({} if spoil == "none" else tensors, file)
    with pytest.raises(ValueError, match="not the ranges of a backbone"):
        read_ranges(file)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        ([-1.0, 0.0], [1.0], "two vectors of one width"),
        ([0.5], [1.0], "0 must lie within"),
        ([-1.0], [-0.5], "0 must lie within"),
        ([float("-inf")], [1.0], "finite"),
        ([0.0], [float("nan")], "finite"),
    ],
)
def test_what_is_no_range_is_refused(low: list[float], high: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Range(torch.tensor(low), torch.tensor(high))


def test_texts_and_numbers_are_needed(fresh_tower: SentenceTransformer, sentences: list[str]) -> None:
    with pytest.raises(ValueError, match="no texts"):
        observed(fresh_tower, [])
    with torch.no_grad():
        fresh_tower[0].model.encoder.layer[1].output.dense.bias[0] = float("nan")  # pyright: ignore
        fresh_tower[0].model.encoder.layer[0].output.dense.bias[0] = float("inf")  # pyright: ignore
    with pytest.raises(ValueError, match="finite"):
        observed(fresh_tower, sentences[:2])
