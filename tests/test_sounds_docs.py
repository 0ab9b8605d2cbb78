"""The page about sound twins: its example runs, and its config reads."""

import re
from pathlib import Path

import pytest

from textsiam.config.run import read_config
from textsiam.sounds import SoundAugment

pytest.importorskip("soundfile", reason="needs textsiam[audio]")
ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "sounds.md").read_text(encoding="utf-8")


def test_the_example_runs():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names = {}
    exec(compile(block, "docs/sounds.md", "exec"), names)
    assert names["twin"].encode([names["low"], names["high"]]).shape == (2, 64)


def test_the_config_reads(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (tmp_path / "sounds.yaml").write_text(block)
    for file in (tmp_path / "sounds.yaml", ROOT / "configs" / "spoken_words.yaml"):
        config = read_config([str(file)])
        assert isinstance(config.training.augment, SoundAugment)
        assert config.model.scratch_sound.widths == [16, 32, 64]
