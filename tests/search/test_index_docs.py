"""The example and the commands of docs/question_index.md."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from textsiam.cli import app

PAGE = (Path(__file__).resolve().parents[2] / "docs/question_index.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_example_runs(minilm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names = {}
    exec(compile(block, "index.md", "exec"), names)
    assert names["verdict"].is_duplicate
    assert names["verdict"].canonical.question.id == "1"


def test_every_command_is_shown():
    assert set(re.findall(r"^textsiam index (\S+)", PAGE, re.M)) == set(get_command(app).commands["index"].commands)
