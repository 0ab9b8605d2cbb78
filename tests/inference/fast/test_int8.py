"""Products of bytes, against products of floats; and the export that runs on them."""

from __future__ import annotations

import json
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch.nn.functional import gelu, linear

from textsiam.inference.batching import encode
from textsiam.inference.encoders import ModelError
from textsiam.inference.fast import int8
from textsiam.inference.fast.activation_ranges import LayerRanges, Range, observe
from textsiam.inference.fast.fast_tower import FastTower
from textsiam.inference.fast.fused_bert import FusedBert
from textsiam.inference.fast.int8 import Int8Bert, Scales, check_int8, doubled, scales_of
from textsiam.inference.fast.runtimes import GRAPH_FILES, _open_torch
from textsiam.inference.tokens import chunk_by_tokens, tokenise
from textsiam.models.export import ExportReport, export_twin
from textsiam.models.twin import Twin

try:
    check_int8()
except ModelError as error:
    pytest.skip(str(error), allow_module_level=True)


def opened(folder: Path) -> Twin:
    return Twin.from_pretrained(folder, device="cpu")


def ranges_on(tower: SentenceTransformer, texts: list[str]) -> list[LayerRanges]:
    tokens = tokenise(tower, texts)
    batches = [tokens.collate(rows) for rows in chunk_by_tokens(tokens.lengths, 256)]
    return observe(FusedBert(tower[0], torch.float32), batches)  # pyright: ignore


def quantised(tower: SentenceTransformer, texts: list[str]) -> FastTower:
    fast = FastTower(tower, torch.float32)
    fast.backbone = Int8Bert(tower[0], ranges_on(tower, texts), torch.float32)  # pyright: ignore
    return fast


@pytest.fixture(scope="module")
def exported(tower, pairs, tmp_path_factory) -> tuple[Path, ExportReport]:
    folder = tmp_path_factory.mktemp("int8") / "twin"
    # The random tower's AP on 96 pairs says nothing about int8, so it may lose what it likes.
    return folder, export_twin(Twin(tower), folder, pairs, graph_format="torch", int8=True, max_points_lost=100.0)


# --- products -------------------------------------------------------------------------------------


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def range_of(x: torch.Tensor) -> Range:
    return Range(x.amin(0).clamp_max(0), x.amax(0).clamp_min(0))


@pytest.mark.parametrize("symmetric", [False, True])
def test_bytes_stand_for_what_they_were_made_of(symmetric: bool) -> None:
    weight = numbers(24, 16)
    x = numbers(200, 16, seed=1) * torch.linspace(0.01, 30, 16) + 0.5  # channels of very different size
    given = scales_of(range_of(x), weight, symmetric=symmetric)
    assert given.zero == 128 if symmetric else 0 < given.zero < 255
    found = (int8._quantised(given)(x).float() - given.zero) * given.unit
    # Half a step; a zero that lies between two bytes costs another half at the ends.
    assert ((found - x).abs() <= given.unit * 1.01).all()
    assert (found - x).abs().mean() < 0.3 * given.unit.mean()


def test_beyond_the_range_bytes_end() -> None:
    given = Scales(torch.full((2,), 0.1), 28)
    x = torch.tensor([[1e9, -1e9], [0.0, 0.26], [22.69, -2.81], [22.7, float("inf")]])
    assert int8._quantised(given)(x).tolist() == [[255, 0], [28, 31], [255, 0], [255, 255]]


def test_products_are_those_of_rounded_numbers() -> None:
    """Against float64: what is rounded is rounded in the same way, the rest is exact."""
    weight, bias, x = numbers(48, 32), numbers(48, seed=1), numbers(40, 32, seed=2)
    given = scales_of(range_of(x), weight)
    rounded = (torch.round(x / given.unit) + given.zero).clamp(0, 255).sub(given.zero).double()
    scale = (weight * given.unit).abs().amax(1, keepdim=True) / 127
    whole = torch.round(weight * given.unit / scale).double()
    expected = linear(rounded, whole) * scale.T.double() + bias.double()
    assert (expected - linear(x, weight, bias)).abs().max() < 0.3  # which is what rounding costs here
    unit = torch.linspace(0.5, 2, 48)
    found = int8._product((weight, bias), given, unit, torch.float32)(x)
    torch.testing.assert_close(found.double(), expected / unit, rtol=1e-5, atol=1e-5)
    before = numbers(40, 48, seed=3)
    found = int8._added((weight, bias), given)(int8._quantised(given)(x), before.clone())
    torch.testing.assert_close(found.double(), before + expected, rtol=1e-5, atol=1e-5)
    between = Scales(torch.full((48,), 0.05), 4)
    found = int8._gelu_product((weight, bias), given, between)(x)
    assert found.dtype == torch.uint8
    steps = (found.double() - (gelu(expected) / 0.05 + 4).clamp(0, 255)).abs()
    assert steps.max() < 0.5 + 1e-3


def test_units_far_beyond_the_others_are_doubled() -> None:
    wide, narrow = (numbers(192, 8), numbers(192, seed=1)), (numbers(8, 192, seed=2), numbers(8, seed=3))
    high = torch.full((192,), 5.0)
    high[7] = 14.0
    given = Range(torch.full((192,), -0.17), high)
    (weight, bias), (back, _), scales = doubled(wide, narrow, given)
    knee = float(scales.unit[0]) * (255 - scales.zero)
    assert knee == pytest.approx(5.05, abs=0.1)  # two units may be added, and below 5 all would have to be
    assert len(weight) == len(bias) == back.shape[1] == len(scales.unit) == 194
    assert torch.equal(weight[192:], wide[0][[7, 7]])
    assert torch.equal(back[:, 192:], narrow[0][:, [7, 7]])
    z = torch.linspace(-6, 14, 1000)
    parts = sum(gelu(z + (b - bias[7])).clamp(max=knee) for b in bias[[7, 192, 193]])
    assert (parts - gelu(z)).abs().max() <= 0.171
    far = (z < knee - 3) | ((z - knee * 1.5).abs() < 0.2)
    assert (parts - gelu(z))[far].abs().max() < 0.04


@pytest.mark.parametrize("top", [0.0, 0.3, 3.9, 30.0])
def test_alike_units_stay_as_they_are(top: float) -> None:
    wide, narrow = (numbers(192, 8), numbers(192, seed=1)), (numbers(8, 192, seed=2), numbers(8, seed=3))
    given = Range(torch.zeros(192), torch.full((192,), top))
    found = doubled(wide, narrow, given)
    assert torch.equal(found[0][0], wide[0])
    assert float(found[2].unit[0]) * (255 - found[2].zero) == pytest.approx(max(top, 1e-3), rel=0.05, abs=0.01)


# --- the backbone ---------------------------------------------------------------------------------


def test_vectors_are_close_to_those_in_fp32(minilm: SentenceTransformer, sentences: list[str]) -> None:
    fast = quantised(minilm, sentences[:24])
    texts = [*sentences, "", "why is the sky blue " * 30]
    found, exact = encode(fast, texts), encode(FastTower(minilm, torch.float32), texts)
    cosines = (found * exact).sum(1)
    assert cosines[24:-2].min() > 0.996  # which the ranges were not made of
    assert cosines[-2:].min() > 0.95  # nor of anything alike


def test_what_smoothing_and_doubling_are_for(minilm, sentences, monkeypatch) -> None:
    exact = minilm.encode(sentences)

    def lost() -> float:
        return float(1 - (encode(quantised(minilm, sentences), sentences) * exact).sum(1).mean())

    now = lost()
    monkeypatch.setattr(int8, "_DOUBLED", 0.0)
    without_doubling = lost()
    monkeypatch.setattr(int8, "_SMOOTHING", 0.0)
    assert now < without_doubling < lost() / 1.5


def test_the_same_text_has_the_same_vector(minilm: SentenceTransformer, sentences: list[str]) -> None:
    fast = quantised(minilm, sentences)
    together, again = encode(fast, sentences), encode(fast, sentences)
    np.testing.assert_array_equal(together, again)
    others = ["and now for something longer, so that batches are padded " * 3, *sentences]
    alone = np.concatenate([encode(fast, [text]) for text in sentences])
    for found in (alone, encode(fast, others)[1:], encode(fast, sentences, token_budget=30)):
        assert (found * together).sum(1).min() > 0.9999


def test_ranges_of_another_backbone_are_refused(minilm, tower, sentences) -> None:
    ranges = ranges_on(tower, sentences[:2])
    with pytest.raises(ValueError, match=r"ranges of 2 layers, the backbone has 6"):
        Int8Bert(minilm[0], ranges, torch.float32)
    with pytest.raises(ValueError, match=r"layer 0: a range of 32 channels, 384 are needed"):
        Int8Bert(minilm[0], ranges * 3, torch.float32)


# --- the export -----------------------------------------------------------------------------------


def test_the_export_encodes_with_bytes(exported, tower, sentences) -> None:
    folder, report = exported
    twin = opened(folder)
    assert twin.backend is not None
    assert twin.backend.int8
    assert str(report).startswith("torch int8, 96 pairs")
    exact = Twin(tower).encode(sentences, precision="fp32")
    found = twin.encode(sentences)
    cosines = (found * exact).sum(1)
    assert cosines.min() > 0.99
    assert np.abs(found - exact).max() > 2e-5  # beyond the rounding of fp32: it is another format indeed
    assert report.cosine_min == pytest.approx(cosines.min(), abs=1e-3)
    np.testing.assert_allclose(twin.encode(sentences, precision="fp32"), exact, atol=1e-6)
    assert "torch" in twin.backend.towers[0].number_format
    facts = json.loads((folder / "textsiam.json").read_text())["backend"]
    assert (facts["format"], facts["int8"], facts["file"]) == ("torch", True, "graph/ranges.safetensors")


def test_saved_again_it_is_the_same(exported, sentences, tmp_path) -> None:
    twin = opened(exported[0])
    twin.save_pretrained(tmp_path / "again")
    np.testing.assert_array_equal(opened(tmp_path / "again").encode(sentences), twin.encode(sentences))


def test_changed_weights_leave_it(exported, sentences) -> None:
    twin = opened(exported[0])
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1 - 3 * (parameter.ndim > 1))
    assert (twin.encode(sentences) * twin.encode(sentences, precision="fp32")).sum(1).min() >= 0.999


def test_damaged_ranges_are_an_error(exported, tmp_path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(exported[0], folder)
    (folder / GRAPH_FILES["torch"]).write_text("nonsense")
    with pytest.raises(ModelError, match=r"ranges\.safetensors: cannot open the graph .*: export the twin again"):
        opened(folder)


def test_processors_without_it_are_told(exported, twin, pairs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(ModelError, match="int8 in torch needs a processor with avx512_vnni"):
        export_twin(twin, tmp_path / "out", pairs, graph_format="torch", int8=True)
    with pytest.raises(ModelError, match="int8 in torch needs a processor with avx512_vnni"):
        opened(exported[0])
    assert not (tmp_path / "out").exists()


def test_what_it_does_not_compute_is_refused_by_name(fresh_tower, pairs, tmp_path) -> None:
    twin = Twin(fresh_tower)
    with pytest.raises(ModelError, match="format 'torch' is for int8 only"):
        export_twin(twin, tmp_path / "out", pairs, graph_format="torch")
    fresh_tower[0].model.config.hidden_act = "relu"
    with pytest.raises(ModelError, match="for a BertModel with gelu on a CPU, not for a BertModel with relu on cpu"):
        export_twin(twin, tmp_path / "out", pairs, graph_format="torch", int8=True)
    assert not (tmp_path / "out").exists()


def test_on_a_gpu_the_weights_are_used(tmp_path) -> None:
    tower = types.SimpleNamespace(device=torch.device("cuda"))
    run = _open_torch(tower, tmp_path / "ranges.safetensors", torch.float32)  # pyright: ignore
    with pytest.raises(ModelError, match="on a CPU only"):
        run(np.zeros((1, 1)), np.ones((1, 1)))
