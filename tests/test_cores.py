from __future__ import annotations

import os
import subprocess
import sys

import pytest

from textsiam.inference.fast import cores

# Times 3,000 small products on two threads, which wait for each other after each, beside a process that never waits.
BESIDE = """
import os, subprocess, sys, time
{imports}
import torch
torch.set_num_threads(2)
x, w = torch.randn(256, 384), torch.randn(384, 384)
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
try:
    for _ in range(5):
        x @ w
    done, until = 0, time.perf_counter() + 1.5
    while time.perf_counter() < until:
        x @ w
        done += 1
finally:
    for process in busy:
        process.kill()
print(done, end=" ")
from textsiam.inference.fast.cores import waiting
print(waiting())
"""


@pytest.fixture
def groups(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "_GROUPS", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("told", "quota"),
    [("150000 100000\n", 1.5), ("max 100000\n", None), ("400000 200000", 2.0), ("", None), ("nonsense here", None)],
)
def test_the_quota_of_version_2(groups, told, quota):
    (groups / "cpu.max").write_text(told)
    assert cores.cpu_quota() == quota


@pytest.mark.parametrize(("told", "quota"), [("50000", 0.5), ("-1", None)])
def test_the_quota_of_version_1(groups, told, quota):
    (groups / "cpu").mkdir()
    (groups / "cpu" / "cpu.cfs_quota_us").write_text(told)
    (groups / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cores.cpu_quota() == quota


def test_without_groups_there_is_no_quota(groups):
    assert cores.cpu_quota() is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 4), (1.5, 2), (0.2, 1), (16.0, 4)])
def test_cores_are_those_of_the_affinity_within_the_quota(monkeypatch, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert cores.available_cores() == expected


@pytest.fixture
def before_torch(monkeypatch):
    """As in a process that has not loaded torch, with nothing chosen."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(cores, "_parked", [])
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, "x")  # so that whatever is set is taken back
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("before_torch")
def test_before_torch_the_environment_says_it(monkeypatch):
    monkeypatch.setattr(cores, "available_cores", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    cores.share_cores()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["OMP_NUM_THREADS"]) == ("PASSIVE", "2")
    assert cores.waiting() == "passive"


@pytest.mark.usefixtures("before_torch")
@pytest.mark.parametrize(
    ("name", "value"), [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "7"), ("OMP_NUM_THREADS", "5")]
)
def test_what_was_chosen_is_left(monkeypatch, name, value):
    monkeypatch.setattr(cores, "available_cores", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setenv(name, value)
    cores.share_cores()
    assert os.environ[name] == value
    assert ("OMP_WAIT_POLICY" in os.environ) == (name != "GOMP_SPINCOUNT")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="how threads wait is looked up in GNU's OpenMP")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: no thread waits for another")
def test_threads_leave_the_cores_to_their_neighbours():
    """Whoever imports torch first: both beat threads that spin, on a machine whose cores are all busy."""

    def pace(imports, **environment):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
        code = BESIDE.format(imports=imports)
        said = subprocess.run([sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        done, how = said.stdout.split()
        return int(done), how

    for imports, expected in (("import textsiam", "passive"), ("import torch, textsiam", "throttled")):
        seen = []
        for _ in range(4):  # what else the machine does may be kind to threads that spin, once
            spinning, how = pace("import torch", OMP_WAIT_POLICY="ACTIVE")
            assert how == "active"
            done, how = pace(imports)
            assert how == expected
            seen.append((done, spinning))
            if done > 2 * spinning:
                break
        else:
            raise AssertionError((imports, seen))


def test_the_processor_is_that_of_the_first_core(monkeypatch, tmp_path):
    cores_told = ["model name\t: A Fast One\nflags\t\t: fpu avx2 amx_bf16\n", "model name\t: Another\nflags\t\t: fpu\n"]
    (tmp_path / "cpuinfo").write_text("\n".join(f"processor\t: {k}\n{told}" for k, told in enumerate(cores_told)))
    monkeypatch.setattr(cores, "_INFO", tmp_path / "cpuinfo")
    assert cores.processor() == ("A Fast One", {"fpu", "avx2", "amx_bf16"})
    monkeypatch.setattr(cores, "_INFO", tmp_path / "none")
    assert cores.processor()[1] == set()
