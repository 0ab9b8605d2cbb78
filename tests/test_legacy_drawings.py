"""What version 0.1 wrote is read, or refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from textsiam.config.run import ConfigError, read_config
from textsiam.images.augmentation import Augment
from textsiam.inference.scratch import scratch_image_encoder
from textsiam.models.twin import Twin


def test_changes_of_clusters_are_an_item_of_augment_now(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "training:\n  augment: {rotate: 12}\n  augment_clusters: {rotate: 180, flip: true}\n"
    )
    with pytest.warns(FutureWarning, match=r"training\.augment_clusters is now an item of training\.augment: \[\{'rot"):
        config = read_config([str(tmp_path / "c.yaml")])
    assert config.training.augment == [Augment(rotate=180, flip=True, clusters=True), Augment(rotate=12)]


def test_keys_that_were_off_are_read_in_silence(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "model: {scratch_image: {size: 20, drawings: false, enclosures: false}}\n"
        "training: {augment: {rotate: 5, thickness: 0.0, stroke: 0.0}, augment_clusters: null}\n"
    )
    config = read_config([str(tmp_path / "c.yaml")])
    assert config.model.scratch_image.size == 20
    assert config.training.augment == Augment(rotate=5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.scratch_image.drawings", "true"),
        ("model.scratch_image.enclosures", "true"),
        ("training.augment.stroke", "0.4"),
        ("training.augment.thickness", "0.05"),
    ],
)
def test_keys_of_drawings_name_the_example(key, value):
    with pytest.raises(ConfigError, match=rf"^--{key}: {key}: has moved to examples/unseen_digits: ") as failure:
        read_config([f"--{key}", value])
    assert "\n" not in str(failure.value)


def test_a_twin_of_drawings_says_what_to_import(tmp_path):
    """A saved tower as 0.1 wrote it names the CNN that the example registers."""
    tower = scratch_image_encoder(size=20, widths=(8,), depths=(1,), device="cpu")
    Twin(tower).save_pretrained(tmp_path / "twin")
    file = tmp_path / "twin" / "config.json"
    told = json.loads(file.read_text()) | {"model_type": "textsiam_drawing_resnet", "architectures": ["DrawingResNet"]}
    file.write_text(json.dumps(told))
    program = "import sys; from textsiam.models.twin import Twin; Twin.from_pretrained(sys.argv[1])"
    command = [sys.executable, "-c", program, str(tmp_path / "twin")]  # this process may have imported the example
    problem = subprocess.run(command, capture_output=True, text=True, check=False).stderr.splitlines()[-1]
    assert "ModelError: cannot open the model" in problem
    assert "it is a CNN of drawings: import unseen_digits first" in problem
