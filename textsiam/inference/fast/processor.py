"""What the processor is fast with, and how many of its cores torch may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


def multiplies_bytes() -> bool:
    """Say whether this processor, and torch with it, is faster with bytes than with floats (avx512_vnni)."""
    return _supports("vnni") and torch.backends.mkldnn.is_available()


def multiplies_halves() -> bool:
    """Say whether this processor multiplies bf16 without a detour over fp32 (avx512_bf16, AMX)."""
    return _supports("avx512_bf16") or multiplies_tiles()


def multiplies_tiles() -> bool:
    """Say whether this processor multiplies tiles of bf16 (AMX)."""
    return _supports("amx_tile")


def _supports(name: str) -> bool:
    """Say whether torch knows of these instructions, and this processor has them."""
    check = getattr(torch.cpu, f"_is_{name}_supported", None)
    return check is not None and bool(check())


@contextmanager
def one_core(wanted: bool = True) -> Iterator[None]:
    """Have torch use no other core, where that is wanted, for what this thread asks of it."""
    if not wanted:  # and leave alone what other threads may be setting
        yield
        return
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(cores)


def share_out(works: Sequence[Callable[[], None]], stop: Callable[[], None], *, alone: bool) -> None:
    """Run every work in a thread and wait for all; the first error stops the others and is raised.

    Args:
        works: Each works until there is nothing left; one alone runs in this thread.
        stop: Has the others find nothing left.
        alone: Give each worker one core: threads of their own would wait for each other after every operation.
    """
    if len(works) == 1:
        works[0]()
        return

    def worker(work: Callable[[], None]) -> None:
        if alone:
            torch.set_num_threads(1)
        try:
            work()
        except BaseException:
            stop()
            raise

    # A part of the setting is the whole process's: `one_core` takes it back.
    with one_core(alone), ThreadPoolExecutor(len(works), thread_name_prefix="worker") as pool:
        futures = [pool.submit(worker, work) for work in works]
        try:
            for future in futures:
                future.result()
        except BaseException:  # Ctrl-C too
            stop()
            raise
