"""Towers and augmentations of the user's own, by dotted path: trained, resumed, saved, opened again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textsiam.config.run import ConfigError, build_augment, build_twin, read_config
from textsiam.data.pairs import sample_pairs
from textsiam.images.augmentation import Augment
from textsiam.inference.encoders import ModelError
from textsiam.models.twin import Twin
from textsiam.recipe import run
from textsiam.training.checkpoints import ResumeError

PARTS = '''
from dataclasses import dataclass

import torch
from PIL import ImageOps
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module

from textsiam import scratch_image_encoder, scratch_text_encoder


class Gate(Module):
    """Scales each dimension by a learned weight."""

    config_keys = ["width"]

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.scale = torch.nn.Parameter(torch.rand(width))

    def forward(self, features, **kwargs):
        features["sentence_embedding"] = features["sentence_embedding"] * self.scale
        return features

    def get_embedding_dimension(self):
        return self.width

    def save(self, output_path, *args, safe_serialization=True, **kwargs):
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path, subfolder="", **kwargs):
        found = cls(**cls.load_config(model_name_or_path, subfolder=subfolder))
        return cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=found)


def tower(width=16):
    words = ["why is the sky blue", "how do I learn to swim"]
    return SentenceTransformer(modules=[*list(scratch_text_encoder(words, hidden=width))[:2], Gate(width)])


def cnn(width=8):
    plain = scratch_image_encoder(size=20, widths=(width,), depths=(1,))
    return SentenceTransformer(modules=[*list(plain)[:2], Gate(width)])


def nothing():
    return None


@dataclass(frozen=True)
class Fade:
    share: float = 0.5
    clusters: bool = False

    def __post_init__(self):
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be from 0 to 1, got {self.share}")

    def __call__(self, image, seed):
        return image.point(lambda value: value * (1 - self.share * (sum(seed) % 7) / 7))


@dataclass(frozen=True)
class Inverted:
    def __call__(self, image, seed):
        return ImageOps.invert(image)


def function(image, seed):
    return image


class Loose:
    def __call__(self, image, seed):
        return image
'''
CONFIG = """
data: {{train: {images}, pairs: 60, validation_share: 0.25, calibration_share: 0.25, test_share: 0.25}}
model:
  builder: {{own_parts.cnn: {{width: 8}}}}
  dim: 4
training:
  epochs: 4
  batch_size: 16
  tracker: none
  augment:
    - {{shift: 0.05, clusters: true}}
    - own_parts.Fade: {{share: 0.25}}
    - own_parts.Inverted
"""


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Write a module of the user's own into the current directory."""
    (tmp_path / "own_parts.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("own_parts", None)


@pytest.fixture
def config(parts):
    rng = np.random.default_rng(0)
    for c in range(4):
        (parts / "images" / f"c{c}").mkdir(parents=True)
        for i in range(30):
            pixels = rng.integers(0, 60, (20, 20), dtype=np.uint8)
            pixels[4 * c + 1 : 4 * c + 3] = 220
            Image.fromarray(pixels).save(parts / "images" / f"c{c}" / f"{i}.png")
    (parts / "own.yaml").write_text(CONFIG.format(images=parts / "images"))
    return parts / "own.yaml"


def weights(twin):
    return b"".join(tensor.numpy().tobytes() for _, tensor in sorted(twin.state_dict().items()))


@pytest.mark.slow
def test_a_run_resumes_saves_and_opens_with_parts_of_the_users_own(config, monkeypatch):
    whole = run(read_config([str(config), "--output", "whole"]))
    every = ["--training.checkpoint_every", "2"]
    short = [str(config), "--output", "halves", *every]
    with monkeypatch.context() as patch:
        patch.setattr("textsiam.training.run.Run.stopping", _stop_at(whole.result.steps // 2))
        with pytest.raises(Exception, match="stopped at step"):
            run(read_config(short))
    other = read_config([*short, "--training.augment", "own_parts.Inverted", "--resume", "true"])
    with pytest.raises(ResumeError, match="augment was"):
        run(other)
    resumed = run(read_config([*short, "--resume", "true"]))
    assert weights(resumed.twin) == weights(whole.twin)

    saved = yaml_of(config.parent / "whole")
    assert read_config([str(saved)]).to_dict() == {**read_config([str(config)]).to_dict(), "output": "whole"}
    facts = json.loads((config.parent / "whole/model/textsiam.json").read_text())
    assert facts["provenance"]["config"]["training"]["augment"][1] == {"own_parts.Fade": {"share": 0.25}}
    assert facts["provenance"]["model"] == "{'own_parts.cnn': {'width': 8}}"
    again = Twin.from_pretrained("whole/model")
    image = Image.open(config.parent / "images/c0/0.png")
    assert np.array_equal(again.encode([image]), whole.twin.encode([image]))


def yaml_of(run_folder: Path) -> Path:
    return run_folder / "config.yaml"


def _stop_at(step):
    from textsiam.training.run import Run

    genuine = Run.stopping
    return lambda self, requested: genuine(self, requested or self.state.step >= step)


def test_reading_a_config_imports_nothing(config):
    read = read_config([str(config)])
    assert "own_parts" not in sys.modules
    assert read.training.augment[0] == Augment(shift=0.05, clusters=True)
    assert [type(each).__name__ for each in build_augment(read.training.augment)] == ["Augment", "Fade", "Inverted"]


OPENING = (
    "import sys; {}; from textsiam.models.twin import Twin; twin = Twin.from_pretrained(sys.argv[1]{}); print(twin.dim)"
)


def opened(folder: Path, before: str = "", how: str = "") -> subprocess.CompletedProcess:
    program = OPENING.format(before or "pass", how)
    return subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, cwd=folder.parent
    )


@pytest.mark.slow
def test_a_saved_tower_causes_no_import(parts):
    Twin(build_twin(read_config(["--model.builder", "own_parts.tower"]).model, sample_pairs()).left).save_pretrained(
        "twin"
    )
    (parts / "own_parts.py").write_text("print('imported')\n" + PARTS)
    refused = opened(parts / "twin")
    assert "imported" not in refused.stdout
    assert "its own_parts.Gate is no module of sentence-transformers: import own_parts first, or " in refused.stderr
    trusted = opened(parts / "twin", how=", trust_remote_code=True")
    assert trusted.stdout == "imported\n16\n", trusted.stderr
    assert opened(parts / "twin", before="import own_parts").stdout == "imported\n16\n"


def test_what_is_no_module_is_not_used(parts):
    """A name in a saved folder leads to a class of torch only, whatever has been imported."""
    Twin(build_twin(read_config(["--model.builder", "own_parts.tower"]).model, sample_pairs()).left).save_pretrained(
        "twin"
    )
    listed = parts / "twin" / "modules.json"
    listed.write_text(listed.read_text().replace("own_parts.Gate", "subprocess.Popen"))
    with pytest.raises(ModelError, match=r"its subprocess\.Popen is no module of sentence-transformers"):
        Twin.from_pretrained("twin")


def test_a_builder_has_knobs_a_seed_and_what_the_model_section_adds(parts):
    def built(*knobs, seed=0):
        return build_twin(read_config([*knobs]).model, sample_pairs(), device="cpu", seed=seed)

    wide = built("--model.builder", "{own_parts.tower: {width: 24}}", "--model.max_tokens", "12")
    assert (wide.dim, wide.left.max_seq_length) == (24, 12)
    first, again, other = (built("--model.builder", "own_parts.tower", "--model.dim", "6", seed=s) for s in (0, 0, 1))
    assert first.dim == 6
    assert weights(first) == weights(again) != weights(other)


@pytest.mark.parametrize(
    ("knobs", "problem"),
    [
        (["--model.builder", "own_parts.nothing"], "the model is NoneType, expected a SentenceTransformer"),
        (["--model.builder", "{own_parts.tower: {widht: 3}}"], "model.builder: own_parts.tower: got an unexpected"),
        (["--model.builder", "own_parts.PI"], "model.builder: 'own_parts.PI': module 'own_parts' has no 'PI'"),
        (["--model.builder", "own_parts.tower", "--model.scratch.hidden", "8"],
         "model.scratch and model.builder each build the left tower"),
        (["--model.builder", "{a.b: {}, c.d: {}}"], "expected module.name or {module.name: {knob: value}}"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_builder_is_told_in_one_line(parts, knobs, problem):
    with pytest.raises((ConfigError, ModelError)) as failure:
        build_twin(read_config(knobs).model, sample_pairs())
    assert problem in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("augment", "problem"),
    [
        (
            "own_parts.Loose",
            "training.augment: own_parts.Loose must be a dataclass with __call__: its fields are its knobs",
        ),
        ("{own_parts.Fade: {share: 2}}", "training.augment: own_parts.Fade: share must be from 0 to 1, got 2"),
        (
            "[own_parts.Inverted, {own_parts.Fade: {shrae: 1}}]",
            "training.augment[1]: own_parts.Fade: got an unexpected",
        ),
        ("own_parts.function", "own_parts.function: missing a required argument: 'image'"),
        ("no_such_parts.Fade", "training.augment: 'no_such_parts.Fade': no module 'no_such_parts'"),
        (
            "[{rotat: 5}]",
            "--training.augment: training.augment[0]: Augment.__init__() got an unexpected keyword argument 'rotat'",
        ),
        ("{rotate: 500}", "--training.augment: training.augment: rotate must be from 0 to 180, got 500"),
        ("5", "training.augment is 5, expected module.name or"),
    ],
)
def test_what_is_wrong_with_an_augmentation_is_told_in_one_line(parts, augment, problem):
    with pytest.raises(ConfigError) as failure:
        build_augment(read_config(["--training.augment", augment]).training.augment)
    assert problem in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_misspelt_knob_is_found_with_its_line(tmp_path):
    (tmp_path / "c.yaml").write_text("training:\n  augment:\n    rotat: 5\n")
    with pytest.raises(ConfigError, match=r"c.yaml:3: unknown key 'training.augment.rotat': did you mean 'rotate'\?"):
        read_config([str(tmp_path / "c.yaml")])
