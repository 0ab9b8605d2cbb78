"""What the processor is fast with, and how many of its cores torch may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def multiplies_bytes() -> bool:
    """Say whether this processor, and torch with it, is faster with bytes than with floats (avx512_vnni)."""
    vnni = getattr(torch.cpu, "_is_vnni_supported", None)
    return vnni is not None and bool(vnni()) and torch.backends.mkldnn.is_available()


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
