"""The example and the commands of docs/question_index.md."""

import re
import shlex
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


def commands():
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    return [line.split("  #")[0].strip() for line in block.splitlines() if line.startswith("textsiam")]


@pytest.mark.parametrize("line", commands())
def test_every_command_and_option_exists(line):
    tokens = shlex.split(line)[1:]
    command = get_command(app)
    while tokens and tokens[0] in getattr(command, "commands", {}):
        command = command.commands[tokens.pop(0)]
    assert not hasattr(command, "commands"), f"{line}: no such command"
    known = {name for parameter in command.params for name in parameter.opts}
    assert {t for t in tokens if t.startswith("--")} <= known


def test_every_command_is_shown():
    named = {shlex.split(line)[2] for line in commands() if line.startswith("textsiam index")}
    assert named == set(get_command(app).commands["index"].commands)
