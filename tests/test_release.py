"""What is published: the wheel in a venv of its own, with nothing but what it asks for."""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import textsiam

ROOT = Path(__file__).resolve().parents[1]
needs_release = pytest.mark.skipif(
    os.environ.get("TEXTSIAM_RELEASE") != "all", reason="minutes long: make test-release runs it"
)


def run(*command, cwd=ROOT, fails=False):
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, env=clean, timeout=1800
    )
    assert (done.returncode != 0) == fails, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return the folder of a wheel and a source distribution, built in isolation."""
    pytest.importorskip("build", reason="pip install -c constraints.txt build twine")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder)
    return folder


@pytest.fixture(scope="module")
def bare(built, tmp_path_factory):
    """Return the `bin` of a venv that holds the wheel and its dependencies only."""
    venv = tmp_path_factory.mktemp("bare")
    run(sys.executable, "-m", "venv", venv)
    (wheel,) = built.glob("*.whl")
    run(venv / "bin/pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    return venv / "bin"


@needs_release
def test_what_is_built_is_whole(built):
    pytest.importorskip("twine", reason="pip install -c constraints.txt build twine")
    run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir())
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = run("git", "ls-files", "textsiam").stdout.split()
    assert set(tracked) <= names
    with tarfile.open(source) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", *tracked} <= packed


@needs_release
def test_the_bare_wheel_trains_and_scores(bare, tmp_path):
    assert "Usage" in run(bare / "textsiam", "--help", cwd=tmp_path).stdout
    assert textsiam.__version__ in run(bare / "textsiam", "--version", cwd=tmp_path).stdout
    config = {
        "output": "run",
        "data": {"train": "sample:forum", "validation_share": 0.1, "calibration_share": 0.15, "test_share": 0.2},
        "model": {"scratch": {"layers": 1, "hidden": 32, "heads": 2}},
        "loss": {"online_contrastive": {"margin": 0.5}},
        "training": {"max_steps": 5, "batch_size": 32},
        "decision": {"rule": "f1"},
    }
    (tmp_path / "scratch.yaml").write_text(yaml.safe_dump(config))
    run(bare / "textsiam", "train", "scratch.yaml", cwd=tmp_path)
    said = run(bare / "textsiam", "score", "run/model", "How old are you?", "What is your age?", "--json", cwd=tmp_path)
    assert -1 <= json.loads(said.stdout)["similarity"] <= 1


_MISSING = [
    ("serve", ["serve", "MODEL"]),
    ("postgres", ["index", "create", "MODEL", "postgresql://user@localhost/forum#questions"]),
    ("onnx", ["export", "MODEL", "--format", "onnx", "--output", "fast"]),
    ("openvino", ["export", "MODEL", "--format", "openvino", "--output", "fast"]),
    ("ray", ["flag", "MODEL", "questions.txt", "--ray", "auto", "--output", "flagged.tsv"]),
    ("minilm", ["score", "all-MiniLM-L6-v2", "a", "b"]),
]


@needs_release
@pytest.mark.parametrize(("extra", "command"), _MISSING, ids=[extra for extra, _ in _MISSING])
def test_a_missing_extra_is_named_in_one_line(extra, command, bare, tower, tmp_path):
    from textsiam.models.twin import Twin

    Twin(tower).save_pretrained(tmp_path / "MODEL")
    (tmp_path / "questions.txt").write_text("How old are you?\nWhat is your age?\n")
    said = run(bare / "textsiam", *command, cwd=tmp_path, fails=True).stderr.strip()
    assert f"textsiam[{extra}]" in said
    assert len(said.splitlines()) == 1


def test_the_version_stands_in_one_place():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == textsiam.__version__
    newest = re.search(r"^## \[(\d[\d.]*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest is not None
    assert newest[1] == textsiam.__version__


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "textsiam" / "py.typed").exists()


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.stem)
def test_what_runs_elsewhere_reads_and_calls_what_is_there(path):
    read = yaml.safe_load(path.read_text())
    assert read
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for job in read.get("jobs", {}).values():
        for step in job["steps"]:
            assert set(re.findall(r"make ([\w-]+)", step.get("run", ""))) <= targets
