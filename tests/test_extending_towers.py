"""The sections of docs/extending.md on towers and augmentations: their code runs as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from textsiam.config.run import build_augment, read_config
from textsiam.images.augmentation import Augment, augmented
from textsiam.models.twin import Twin
from textsiam.recipe import run

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write each block that begins with a file's name into the current directory."""
    for block, name in re.findall(
        r"```(?:python|yaml)\n(# (my_towers\.py|my_augmentations\.py|gated\.yaml)\n.*?)```", PAGE, re.S
    ):
        (tmp_path / name).write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("my_towers", "my_augmentations"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_the_tower_trains_and_opens_again(files, minilm):
    short = ["--training.max_steps", "2", "--training.batch_size", "8", "--training.tracker", "none"]
    twin = run(read_config(["gated.yaml", "--output", "runs/quickstart", *short])).twin
    assert [type(module).__name__ for module in twin.left] == ["Transformer", "Pooling", "Gate", "Dense", "Normalize"]
    opening = PAGE[PAGE.index("## Opening what was saved") :]
    (block,) = re.findall(r"```python\n(.*?)```", opening, re.S)
    names = {"Twin": Twin}
    exec(block, names)
    assert names["twin"].dim == 128


def test_the_augmentation_stands_in_a_list(files):
    (block,) = re.findall(r"```yaml\n(training:.*?)```", PAGE, re.S)
    (files / "augment.yaml").write_text(block)
    assert list(yaml.safe_load(block)) == ["training"]
    ours, blur = build_augment(read_config(["augment.yaml"]).training.augment)
    assert (ours, blur.radius) == (Augment(rotate=10, shift=0.05), 1.5)
    picture = Image.radial_gradient("L").resize((20, 20))
    first, again = (augmented(picture, [ours, blur], [0, 1], row=3) for _ in range(2))
    assert first.tobytes() == again.tobytes() != picture.tobytes()
