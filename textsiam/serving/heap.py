"""What keeps a server's memory from growing for as long as it has work."""

from __future__ import annotations

import asyncio
import ctypes
import os

_EVERY = 30.0  # seconds


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
