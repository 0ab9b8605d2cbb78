"""scripts/train.py, as `accelerate launch` runs it."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "train.py"


@pytest.mark.parametrize(
    ("threads", "launched", "processes", "expected"),
    [
        ("1", True, None, "8"),  # what accelerate launch sets on its own
        ("1", True, "2", "4"),
        ("1", True, "16", "1"),
        ("3", True, None, "3"),  # asked for
        ("1", False, None, "1"),  # not launched by accelerate
    ],
)
def test_a_launched_process_uses_its_share_of_the_cores(monkeypatch, threads, launched, processes, expected):
    monkeypatch.setattr("textsiam.inference.fast.cores.available_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    for name, value in (("ACCELERATE_MIXED_PRECISION", "no" if launched else None), ("LOCAL_WORLD_SIZE", processes)):
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
    runpy.run_path(str(SCRIPT))["use_all_cores"]()
    assert os.environ["OMP_NUM_THREADS"] == expected
