"""Two records of what the code does are compared value by value."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import record_behaviour

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "record_behaviour.py"
MACHINE = {"cpu": "one"}
TRAINED = {"history": [{"step": 10, "loss": 0.5, "seconds": 1.5}], "weights": "abc"}
EVALUATION = {"report": {"verifier": {"f1": 0.75}, "n": 4}}


@pytest.fixture
def record(tmp_path):
    def write(name: str, vectors: Any = (0.0, 1.0), **items: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        np.save(folder / "vectors_fp32.npy", np.array(vectors, np.float32))
        items = {"one_process": TRAINED, "evaluation": EVALUATION, "vectors": {"fp32": str(vectors)}, **items}
        (folder / "behaviour.json").write_text(json.dumps({"machine": MACHINE, "items": items}))
        return folder

    return write


def compared(old: Path, new: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, SCRIPT, "compare", old, new], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_times_and_renamed_keys_make_no_difference(record):
    trained = {"history": [{"step": 10, "loss": 0.5, "seconds": 9.0}], "weights": "abc"}
    renamed = {"report": {"reranker": {"f1": 0.75}, "n": 4}}
    code, said = compared(record("old"), record("new", one_process=trained, evaluation=renamed))
    assert code == 0
    assert said.count("identical") == 4


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"one_process": {**TRAINED, "weights": "abd"}}, "abc -> abd"),
        ({"one_process": {**TRAINED, "history": []}}, "one_process: history"),
        ({"evaluation": {"report": {"verifier": {"f1": 0.76}, "n": 4}}}, ".reranker.f1: 0.75 -> 0.76"),
        ({"evaluation": {"report": {"verifier": {"f1": 0.75}}}}, ".n: 4 -> nothing"),
        ({"vectors": (0.0, 0.75)}, "differs by up to 0.25"),
        ({"flag": {"questions": 3}}, "flag: questions"),
    ],
)
def test_a_difference_is_named_and_fails(record, changed, said):
    code, printed = compared(record("old"), record("new", **changed))
    assert code == 1
    assert said in printed
    assert printed.count("differs") == 1


def test_digests_are_enough_to_see_that_something_differs(record, tmp_path):
    old, new = record("old"), record("new", evaluation={"report": {"reranker": {"f1": 0.76}, "n": 4}})
    written = {
        "machine": MACHINE,
        "digests": record_behaviour.digests(json.loads((old / "behaviour.json").read_text())["items"]),
    }
    (tmp_path / "digests.json").write_text(json.dumps(written))
    assert compared(tmp_path / "digests.json", old)[0] == 0
    code, said = compared(tmp_path / "digests.json", new)
    assert code == 1
    assert [line.split()[:2] for line in said.splitlines() if "differs" in line] == [["evaluation:", "report"]]


def test_a_folder_without_the_package_is_refused(tmp_path):
    command = [sys.executable, SCRIPT, "record", tmp_path / "out", "--code", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "holds no package textsiam" in done.stderr or "status" in done.stderr
