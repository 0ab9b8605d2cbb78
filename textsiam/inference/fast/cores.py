"""The cores that this process may use, threads that leave them to others while they wait, and kernels that are kept.

A thread of OpenMP that waits for another one spins: it keeps its core busy, for up to a millisecond after every
operation. Beside another busy process that is a cliff: the thread that is waited for does not get the core on which the
other one spins, and training on two cores falls to a twentieth of its pace. Threads that sleep cost nothing when alone.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import sys
import threading
from pathlib import Path
from typing import Literal

Waiting = Literal["passive", "throttled", "active", "unknown"]
_POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# oneDNN keeps a kernel for each product of a shape, up to 1,024 of them, and torch as many in front of it. Each has a
# description of up to a megabyte on the heap. Training meets new shapes at every step, a server for hours, and what
# comes and goes between the tensors of batches leaves the heap in pieces. So few are kept: to make all kernels of a
# batch anew takes 2 ms, and the batch 100.
_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
_INFO = Path("/proc/cpuinfo")
_GROUPS = Path("/sys/fs/cgroup")
_parked: list[threading.Thread] = []


def available_cores() -> int:
    """Return how many cores this process may use: its affinity, and no more than its cgroup's quota, rounded up."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return own if quota is None else max(1, min(own, math.ceil(quota)))


def processor() -> tuple[str, set[str]]:
    """Return the name of the processor, and its instructions as Linux names them; none where it does not tell."""
    import platform

    lines = re.findall(r"^([\w ]+?)\s*: (.*)$", _INFO.read_text(), re.M) if _INFO.exists() else []
    told = dict(reversed(lines))  # of the first core
    name = told.get("model name") or platform.processor() or platform.machine()
    return name, set((told.get("flags") or told.get("Features") or "").split())


def cpu_quota() -> float | None:
    """Return how many cores' time this process's cgroup has (`docker run --cpus`); None where there is no limit."""
    try:  # version 2: "150000 100000", or "max 100000"
        quota, period = (_GROUPS / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:  # version 1: −1 for no limit
            quota, period = ((_GROUPS / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    try:
        return float(quota) / float(period) if float(quota) > 0 else None
    except (ValueError, ZeroDivisionError):
        return None


def share_cores() -> None:
    """Have torch use no more threads than there are cores for them, and none that spins while it waits.

    What the environment says (`OMP_NUM_THREADS`, `OMP_WAIT_POLICY`, `GOMP_SPINCOUNT`, `KMP_BLOCKTIME`) is left as it
    is. Before torch is loaded, this sets the environment, which processes that are started inherit; afterwards, it asks
    the OpenMP that was loaded.
    """
    cores, chosen = available_cores(), any(name in os.environ for name in _POLICIES)
    fewer = "OMP_NUM_THREADS" not in os.environ and cores < (os.cpu_count() or 1)
    if (torch := sys.modules.get("torch")) is None:
        if not chosen:
            os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        if fewer:
            os.environ["OMP_NUM_THREADS"] = str(cores)
        return
    if fewer and hasattr(torch, "get_num_threads") and cores < torch.get_num_threads():
        torch.set_num_threads(cores)
    if not chosen and not _parked:
        _park()


def keep_few_kernels() -> None:
    """Bound the kernels that are kept, before the first is made; what the environment says already stays."""
    for name, value in _KERNELS.items():
        os.environ.setdefault(name, value)


def waiting() -> Waiting:
    """Return how OpenMP's threads wait in this process: asleep, asleep after a moment, spinning, or nobody knows."""
    if _parked:
        return "throttled"
    if os.environ.get("GOMP_SPINCOUNT") == "0" or os.environ.get("KMP_BLOCKTIME") == "0":
        return "passive"
    policy = os.environ.get("OMP_WAIT_POLICY", "active").lower()
    return "passive" if policy == "passive" else "active" if sys.platform == "linux" else "unknown"


def _park() -> None:
    """Have the OpenMP that is loaded already spin no longer.

    GNU's reads the policy when it is loaded, but spins 300 times less wherever it manages more threads than there are
    cores (`gomp_throttled_spin_count_var`). So a thread of ours starts a team that is one larger than that, which does
    nothing, and sleeps from then on, as its team does. LLVM's and Intel's have a call for it.
    """
    try:
        loaded = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows
        return
    if hasattr(loaded, "kmp_set_blocktime"):
        loaded.kmp_set_blocktime(0)
    if not hasattr(loaded, "GOMP_parallel"):
        return
    started = threading.Event()

    def park() -> None:
        loaded.GOMP_parallel(loaded.free, None, available_cores() + 1, 0)  # free(NULL) does nothing
        started.set()
        threading.Event().wait()

    _parked.append(threading.Thread(target=park, name="textsiam-parked-team", daemon=True))
    _parked[0].start()
    started.wait()
