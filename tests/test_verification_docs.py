"""The page about verification: its example runs, and what it names exists."""

import re
from importlib import import_module
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "verification.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_example_runs(minilm, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 2
    names = {}
    exec(compile("\n".join(blocks), "docs/verification.md", "exec"), names)
    assert names["twin"].head.knobs()["size"] == 4
    assert len(names["gallery"]) == 100
    assert names["claim"].duplicate
    assert {"EER", "rank 1"} <= {line.split("  ")[0] for line in capsys.readouterr().out.splitlines()}
    assert (tmp_path / "gallery" / "gallery.json").exists()


@pytest.mark.parametrize("module", ["evaluation.report_pictures", "data.images", "search.gallery"])
def test_modules_exist(module):
    assert import_module(f"textsiam.{module}")


def test_functions_exist():
    from textsiam import images
    from textsiam.evaluation import few_shot, identification, verification
    from textsiam.evaluation.report import pictures as report_pictures

    owners = [few_shot, identification, report_pictures, verification, images]
    known = {name for owner in owners for name in vars(owner)}
    named = set(re.findall(r"`(\w+)\(", PAGE)) | set(re.findall(r"`(evaluate_\w+)`", PAGE))
    gallery = {"score", "of", "encode", "calibrate", "load", "enroll", "write_report", "verify", "identify"}
    assert named - gallery <= known


def test_the_numbers_are_right():
    assert "1 % among 100 is 10 % among 1,000" in PAGE
    assert round(1 - (1 - 0.01) ** 10, 2) == 0.10
