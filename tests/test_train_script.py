"""scripts/train.py, as `accelerate launch` runs it."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import time
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


@pytest.mark.skipif(sys.platform != "linux", reason="a process is told of its parent's end on Linux alone")
def test_a_run_stops_when_its_launcher_is_gone():
    """Accelerate passes SIGTERM on to nobody: the run would go on, and `--resume` would begin a second one."""
    child = "import train, time; train.stop_with_launcher(); print('ready', flush=True); time.sleep(60)"
    launcher = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE, text=True)\n"
        "print(child.stdout.readline().strip(), child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "ACCELERATE_MIXED_PRECISION": "no", "PYTHONPATH": str(SCRIPT.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        ready, pid = parent.stdout.readline().split()
        assert ready == "ready"
        parent.terminate()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _runs(int(pid)):
        time.sleep(0.05)
    assert not _runs(int(pid))


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
