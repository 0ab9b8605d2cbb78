from __future__ import annotations

import importlib
import os
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import textsiam

HEAVY = {"torch", "transformers", "sentence_transformers", "sklearn", "datasets", "accelerate", "scipy", "evaluate"}
HEAVY |= {"onnx", "onnxruntime", "openvino", "nncf", "numpy", "pyarrow", "PIL"}
BIN = Path(sys.executable).parent
COMMANDS = [
    ["-c", "import textsiam"],
    ["-m", "textsiam.cli", "--help"],
    ["-m", "textsiam.cli", "--version"],
    ["-m", "textsiam.cli", "train", "--help"],
    ["-m", "textsiam.cli", "score", "--help"],
    ["-m", "textsiam.cli", "export", "--help"],
    ["-m", "textsiam.cli", "data", "report", "--help"],
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda a: " ".join(a[1:]))
def test_nothing_heavy_is_loaded(arguments):
    said = run("-X", "importtime", *arguments)
    assert said.returncode == 0, said.stderr
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in said.stderr.splitlines()}
    assert "textsiam" in loaded
    assert not loaded & HEAVY


def processor_seconds(*arguments: str) -> float:
    """Processor time of a Python process, so that a busy machine counts little; the best of three."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run(*arguments).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


@pytest.mark.parametrize("arguments", COMMANDS[:2], ids=lambda a: " ".join(a[1:]))
def test_it_starts_as_fast_as_what_draws_its_help(arguments):
    """At most three times what typer and rich take by themselves: a third of a second, on any processor."""
    assert processor_seconds(*arguments) < 3 * processor_seconds("-c", "import typer.rich_utils")


def test_every_public_name_is_there():
    assert len(textsiam.__all__) >= 10
    for name in textsiam.__all__:
        assert getattr(textsiam, name).__name__ == name
    assert set(textsiam.__all__) <= set(dir(textsiam))
    assert sorted(textsiam.__all__) == textsiam.__all__
    assert textsiam._HOME.keys() == set(textsiam.__all__)


def test_a_name_that_is_not_there_is_named():
    with pytest.raises(AttributeError, match="module 'textsiam' has no attribute 'Twinn'"):
        textsiam.Twinn  # noqa: B018


def test_the_version_is_that_of_the_installed_package():
    assert metadata.version("textsiam") == textsiam.__version__
    assert run("-m", "textsiam.cli", "--version").stdout == f"{textsiam.__version__}\n"


def test_every_module_imports():
    root = Path(textsiam.__file__).parent
    modules = [".".join(("textsiam", *p.relative_to(root).with_suffix("").parts)) for p in root.rglob("*.py")]
    assert len(modules) > 30
    for module in modules:
        importlib.import_module(module.removesuffix(".__init__"))


def test_the_command_is_installed():
    command = BIN / "textsiam"
    if not command.exists():
        pytest.skip("the package is not installed with its command")
    said = subprocess.run([command, "--help"], capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert said.returncode == 0
    for name in ("score", "evaluate", "flag", "match", "train", "data"):
        assert f" {name} " in said.stdout


def test_the_room_of_configs_gives_its_names_by_itself():
    code = "from textsiam.config import Config, read_config, loss; print(Config.__name__, loss.__name__)"
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout == "Config textsiam.config.loss\n", found.stderr
