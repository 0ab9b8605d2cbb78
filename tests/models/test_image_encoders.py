from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import (
    ConvNextConfig,
    ConvNextModel,
    MobileNetV2Config,
    MobileNetV2Model,
    RegNetConfig,
    RegNetModel,
    ResNetConfig,
    ResNetModel,
)

from textsiam.inference.encoders import ModelError, encoder, image_encoder, text_encoder
from textsiam.inference.scratch import scratch_image_encoder
from textsiam.models.twin import Twin

CNNS: dict[str, tuple[Any, Any]] = {
    "resnet": (
        ResNetModel,
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    ),
    "regnet": (RegNetModel, RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=8)),
    "convnext": (ConvNextModel, ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=4)),
    "mobilenet": (MobileNetV2Model, MobileNetV2Config(depth_multiplier=0.1, image_size=64, tf_padding=False)),
}


def saved(name: str, folder: Path, *, mode: str = "crop") -> Path:
    """Write a random CNN with its image processor, as a model of the Hub has it."""
    kind, config = CNNS[name]
    torch.manual_seed(0)
    model = kind(config).train()
    with torch.no_grad():  # so that batch norms know what comes
        for _ in range(30):
            model(torch.randn(8, 3, 64, 64))
    model.save_pretrained(folder)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 64, "width": 64},
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    if mode == "crop":
        processor |= {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 64}, "crop_pct": 0.9}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (48 + i, 60, 3), dtype=np.uint8)) for i in range(5)]


@pytest.mark.parametrize("name", CNNS)
def test_a_cnn_of_transformers_becomes_a_tower(name, tmp_path, pictures):
    tower = image_encoder(saved(name, tmp_path / "cnn"), dim=12, device="cpu")
    twin = Twin(tower)
    vectors = twin.encode(pictures)
    assert vectors.shape == (5, 12)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(tower.encode(pictures), vectors, atol=1e-5)  # the library's own way
    twin.save_pretrained(tmp_path / "twin")
    plain = SentenceTransformer(str(tmp_path / "twin"), device="cpu")
    np.testing.assert_allclose(plain.encode(pictures), vectors, atol=1e-5)
    np.testing.assert_allclose(
        Twin.from_pretrained(tmp_path / "twin", device="cpu").encode(pictures), vectors, atol=1e-6
    )


def test_mean_pooling_is_global_average_pooling(tmp_path, pictures):
    tower = image_encoder(saved("resnet", tmp_path / "cnn"), device="cpu").eval()
    features = tower.preprocess(pictures)
    with torch.inference_mode():
        raw = tower[0].model(features["pixel_values"]).last_hidden_state.mean((2, 3))
        expected = torch.nn.functional.normalize(raw, dim=1).numpy()
    np.testing.assert_allclose(Twin(tower).encode(pictures), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["crop", "square"])
def test_another_size(mode, tmp_path, pictures):
    tower = image_encoder(saved("resnet", tmp_path / "cnn", mode=mode), size=32, device="cpu")
    assert tower.preprocess(pictures)["pixel_values"].shape[-2:] == (32, 32)
    tower.save_pretrained(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    assert again.preprocess(pictures)["pixel_values"].shape[-2:] == (32, 32)


def test_encoder_builds_what_a_model_takes(tmp_path, tower):
    tower.save_pretrained(str(tmp_path / "text"))
    text = encoder(tmp_path / "text", max_tokens=8, size=32, device="cpu")
    assert text.max_seq_length == 8
    image = encoder(saved("resnet", tmp_path / "cnn"), max_tokens=8, size=32, device="cpu")
    assert image.modalities == ["image"]


def test_what_does_not_fit_is_refused(tmp_path, tower):
    tower.save_pretrained(str(tmp_path / "text"))
    with pytest.raises(ModelError, match="text: takes no images alone"):
        image_encoder(tmp_path / "text", device="cpu")
    folder = saved("resnet", tmp_path / "cnn")
    with pytest.raises(ModelError, match="size must be >= 16 pixels, got 8"):
        image_encoder(folder, size=8, device="cpu")
    with pytest.raises(ModelError, match="dim must be >= 1, got 0"):
        image_encoder(folder, dim=0, device="cpu")
    with pytest.raises(ModelError, match="no such folder"):
        image_encoder("./nowhere")
    with pytest.raises(ModelError, match="takes no texts"):
        text_encoder(folder, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 2}, r"channels must be 1 \(grey\) or 3 \(colour\), got 2"),
        ({"size": 15}, "size must be >= 16 pixels, got 15"),
        ({"widths": (8,), "depths": (1, 1)}, "widths and depths are given for each stage, got 1 and 2"),
        ({"widths": (8, 0), "depths": (1, 1)}, r"widths and depths must be >= 1, got \(8, 0\) and \(1, 1\)"),
        ({"widths": (), "depths": ()}, "widths and depths are given for each stage, got 0 and 0"),
    ],
)
def test_sizes_that_cannot_be(options, message):
    with pytest.raises(ModelError, match=message):
        scratch_image_encoder(**options)


def test_the_same_seed_gives_the_same_weights_and_leaves_torch_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, two, other = (
        scratch_image_encoder(size=20, widths=(8,), depths=(1,), seed=s, device="cpu") for s in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    same = [torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)]
    assert all(same)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def test_colour_and_grey(pictures):
    grey = Twin(scratch_image_encoder(size=20, channels=1, widths=(8,), depths=(1,), device="cpu"))
    colour = Twin(scratch_image_encoder(size=20, channels=3, widths=(8,), depths=(1,), device="cpu"))
    np.testing.assert_allclose(grey.encode(pictures), grey.encode([p.convert("L") for p in pictures]), atol=1e-6)
    turned = [Image.merge("RGB", p.split()[::-1]) for p in pictures]
    assert np.abs(colour.encode(pictures) - colour.encode(turned)).max() > 1e-4
