"""The page about image twins: its example runs, and its config reads."""

import re
from pathlib import Path

import yaml
from PIL import Image

from textsiam.config import read_config
from textsiam.data.images import draw_pairs, read_images
from textsiam.models.cohort import Cohort
from textsiam.models.ensemble import Ensemble
from textsiam.models.scratch import scratch_image_encoder
from textsiam.models.twin import Twin

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "images.md").read_text(encoding="utf-8")


def test_the_example_runs():
    block, registering, _ = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(registering, {})
    names = {}
    exec(compile(block, "docs/images.md", "exec"), names)
    assert names["twin"].encode([names["ring"], names["disc"]]).shape == (2, 64)


def test_several_twins_against_a_cohort(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for digit in range(7):
        (tmp_path / "images" / str(digit)).mkdir(parents=True)
        for k in range(6):
            drawn = Image.new("L", (20, 20), 0)
            drawn.paste(255, (2 * digit, 2, 2 * digit + 4, 12 + k))
            drawn.save(tmp_path / "images" / str(digit) / f"{k}.png")
    for seed in range(4):
        tower = scratch_image_encoder(size=20, channels=1, widths=(8,), depths=(1,), dim=4, seed=seed, device="cpu")
        Twin(tower).save_pretrained(f"runs/characters-{seed}/model")
    few = {"draw_pairs": lambda images, _: draw_pairs(images, 120)}
    names = {"Twin": Twin, "Ensemble": Ensemble, "Cohort": Cohort, **few}
    names["read_images"] = lambda _: read_images(tmp_path / "images")
    *_, together = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(compile(together, "docs/images.md", "exec"), names)
    assert names["ensemble"].head.knobs() == {"kind": "cohort", "dim": 16, "size": 42, "nearest": 10}
    assert names["ensemble"].require_decision().rule == "accuracy"


def test_the_config_reads(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    assert yaml.safe_load(block)["data"]["unseen"] == ["Latin"]
    (tmp_path / "images.yaml").write_text(block)
    config = read_config([str(tmp_path / "images.yaml")])
    assert config.training.augment.rotate == 12
    assert config.model.scratch_image.size == 56
