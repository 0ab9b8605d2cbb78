"""What keeps a server's memory from growing for as long as it has work."""

from __future__ import annotations

import asyncio
import ctypes
import os

# oneDNN keeps a kernel for each product of a shape, up to 1,024 of them, and torch as many in front of it. Each has a
# description of a third of a megabyte or more on the heap. A server meets new shapes for hours, and what comes and goes
# between the tensors of batches leaves the heap in pieces. So few are kept: to make all kernels of a batch anew takes
# 2 ms, and the batch 100.
_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
_EVERY = 30.0  # seconds


def keep_few_kernels() -> None:
    """Bound the kernels that are kept, before the first is made; what the environment says already stays."""
    for name, value in _KERNELS.items():
        os.environ.setdefault(name, value)


def give_back_free_memory() -> None:
    """Give memory that is free back to the system; where the C library is not glibc, nothing is done."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


async def give_back_memory(every: float = _EVERY) -> None:
    """Give memory that is free back to the system from time to time, for ever.

    Left alone, glibc gives back the end of a heap, and none of the pieces between what lives long.

    Args:
        every: Seconds between two times, each of which takes 10 ms, or 100 where all cores are busy.
    """
    while True:
        await asyncio.sleep(every)
        await asyncio.to_thread(give_back_free_memory)
