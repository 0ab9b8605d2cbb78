"""Train a twin: `accelerate launch scripts/train.py [CONFIG] [--key value ...]`, by default configs/quickstart.yaml."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from textsiam.cli import main
from textsiam.commands.making import run_training
from textsiam.inference.fast.cores import available_cores

_PDEATHSIG = 1  # of prctl: the signal for a process whose parent ends


def use_all_cores() -> None:
    """Take this process's share of the cores: `accelerate launch` gives it one CPU thread unless told otherwise.

    Torch must not be loaded yet. `--num_cpu_threads_per_process N` with N above 1 is left as it is.
    """
    if os.environ.get("OMP_NUM_THREADS") == "1" and "ACCELERATE_MIXED_PRECISION" in os.environ:
        share = available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        os.environ["OMP_NUM_THREADS"] = str(max(1, share))


def stop_with_launcher() -> None:
    """Have this process end with a checkpoint once its launcher is gone: Accelerate passes on no SIGTERM (Linux)."""
    if sys.platform == "linux" and "ACCELERATE_MIXED_PRECISION" in os.environ:
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    stop_with_launcher()
    use_all_cores()
    main(lambda: run_training(sys.argv[1:]))
