"""The page about image twins: its example runs, and its config reads."""

import re
from pathlib import Path

import yaml

from textsiam.config.run import read_config

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")


def test_the_example_runs():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names = {}
    exec(compile(block, "docs/images.md", "exec"), names)
    assert names["twin"].encode([names["ring"], names["disc"]]).shape == (2, 64)


def test_the_config_reads(tmp_path):
    block, layout, imitations = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    assert yaml.safe_load(block)["data"]["unseen"] == ["Latin"]
    (tmp_path / "images.yaml").write_text(block)
    config = read_config([str(tmp_path / "images.yaml")])
    assert [each.clusters for each in config.training.augment] == [True, False]
    assert config.model.scratch_image.size == 56
    shipped = yaml.safe_load((ROOT / "configs" / "signatures.yaml").read_text(encoding="utf-8"))
    assert yaml.safe_load(layout)["model"].items() <= shipped["model"].items()
    assert yaml.safe_load(imitations)["data"].items() <= shipped["data"].items()
