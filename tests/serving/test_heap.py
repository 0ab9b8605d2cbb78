"""A server does not grow: neither by the shapes of batches that it has met, nor by what it has freed."""

from __future__ import annotations

import asyncio
import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from textsiam.inference.fast.fused_bert import FusedBert
from textsiam.inference.tokens import tokenise
from textsiam.serving.heap import give_back_memory

libc = ctypes.CDLL(None) if sys.platform == "linux" else None
if not hasattr(libc, "malloc_trim"):
    pytest.skip("the C library is not glibc", allow_module_level=True)

# A small tower meets 169 shapes of batches, each with two products of its own, and says by how many MiB it has grown.
MANY_SHAPES = """
import textsiam, numpy as np, torch
from textsiam.inference.fast.fast_tower import FastTower
from textsiam.inference.scratch import scratch_text_encoder
from textsiam.inference.tokens import tokenise

def resident():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024

torch.set_num_threads(1)
texts = [" ".join(["word"] * n) for n in range(1, 31)]
tower = scratch_text_encoder(texts, vocabulary=400, hidden=32, max_tokens=32, device="cpu").eval()
fast, tokens = FastTower(tower, torch.bfloat16), tokenise(tower, texts)
with torch.inference_mode():
    fast(tokens.collate([0]))
    before = resident()
    for rows in range(1, 14):
        for longest in range(5, 30, 2):
            fast(tokens.collate([longest] * rows))
print(resident() - before)
"""


def bf16_kernels() -> bool:
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # pyright: ignore


def resident() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not bf16_kernels(), reason="this processor has no kernels in bf16, which are what is kept")
def test_new_shapes_of_batches_take_no_memory():
    out = subprocess.run([sys.executable, "-c", MANY_SHAPES], capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    assert float(out.stdout) < 130  # 75 with 64 kernels, 270 with all of them


def test_batches_of_any_size_share_the_shapes_of_products(tower):
    fused = FusedBert(tower[0], torch.bfloat16)
    seen = set()

    def watched(product):
        def run(x, *stream):
            seen.add(len(x))
            return product(x, *stream)

        return run

    names = ("query_key_value", "out", "wide", "narrow")
    fused.layers = [one._replace(**{name: watched(getattr(one, name)) for name in names}) for one in fused.layers]
    tokens = tokenise(tower, ["why is the sky blue and the sea green"])
    with torch.inference_mode():
        for count in range(1, 33):
            fused(tokens.collate([0] * count))
    most = 32 * int(tokens.lengths[0])
    assert seen <= {*range(8, 72, 8), *range(80, most + 16, 16)}


def test_freed_memory_goes_back_to_the_system_though_the_heap_ends_with_what_is_in_use():
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    size, count = 100_000, 1000  # too small for pages of their own

    async def until_given_back(above: float) -> None:
        giving = asyncio.create_task(give_back_memory(every=0))
        while resident() > above:
            await asyncio.sleep(0)
        giving.cancel()

    blocks = [libc.malloc(size) for _ in range(count)]
    try:
        for block in blocks:
            ctypes.memset(block, 1, size)
        full = resident()
        for block in blocks[:-1]:
            libc.free(block)
        assert resident() > full - 10
        asyncio.run(asyncio.wait_for(until_given_back(full - 80), 20))
    finally:
        libc.free(blocks[-1])
