"""Shared by the tests of training: the tiny task of `driver.py`, here or in processes that can be killed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("driver.py")


@pytest.fixture(scope="session")
def driver() -> ModuleType:
    """The module `driver.py`: a tiny task, a tiny twin, an objective by names."""
    spec = importlib.util.spec_from_file_location("driver", DRIVER)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that runs jobs, and the file that its stderr goes to."""
    said = tmp_path_factory.mktemp("driver") / "stderr"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with said.open("a") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(DRIVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment,
        )
        with process:
            yield process, said


@pytest.fixture
def launch(server: tuple[subprocess.Popen[str], Path]) -> Callable[..., tuple[list[list[int]], str]]:
    """Run jobs of `driver.py`, each in a process of its own: their exit statuses and what they said on stderr.

    `clean=True` (the default) asserts that all of them ended well.
    """
    process, said = server
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def run(*jobs: dict[str, Any], clean: bool = True) -> tuple[list[list[int]], str]:
        os.truncate(said, 0)  # it counts as a file of the job, whose size a test limits
        statuses = []
        for job in jobs:
            stdin.write(json.dumps(job) + "\n")
            stdin.flush()
            statuses.append(json.loads(stdout.readline()))
        words = said.read_bytes().decode()
        if clean:
            assert all(status == 0 for job in statuses for status in job), words
        return statuses, words

    return run


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch, driver: ModuleType) -> list[list[Any]]:
    """The gradients that the optimizer was given, one list a step."""
    import torch

    monkeypatch.setattr(torch.optim.AdamW, "step", torch.optim.AdamW.step)  # put back after the test
    noted: list[list[Any]] = []
    driver.record_gradients(noted)
    return noted
