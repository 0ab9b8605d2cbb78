"""Where the time of encoding goes: each operation of a layer beside the fastest product and the fastest copy.

    python benchmarks/roofline.py             # on one core, as a worker has it; rows are kept in results/roofline.json
    python benchmarks/roofline.py --tokens 16 128

One layer of all-MiniLM-L6-v2 in the number format that inference takes here, a batch of 1,024 tokens that fill it. The
roofline of an operation (Williams, Waterman & Patterson 2009) is the longer one of its FLOPs at the rate of the fastest
product, and its bytes, read and written once, at the rate of a copy of a batch's activations, which are in the cache.
What is elementwise has no FLOPs that count.
"""

from __future__ import annotations

import argparse
import json
import time

from quality import facts, results_file

RESULTS = results_file("roofline")
_BATCH = 1024
_ROUNDS = 30


def least(function):
    """Return the least seconds of a call."""
    function()
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def operations(layer, tokens, heads, stream):
    """Return each operation of a layer: what it does, its FLOPs, its bytes, and how often a layer has it."""
    import torch
    from torch.nn.functional import layer_norm

    from textsiam.inference.fast.fused_bert import attend

    rows, hidden = _BATCH, len(layer.norm_out[0])
    half = torch.randn(rows, hidden).bfloat16()
    x = half.to(stream)  # the residual stream
    mixed, wide = layer.query_key_value(half), layer.wide(half)
    inner, size, held = wide.shape[1], wide.element_size(), x.element_size()

    def product(inputs, outputs):
        return 2 * rows * inputs * outputs, size * (rows * (inputs + outputs) + inputs * outputs)

    def added(inputs):  # to the stream, which is read and written
        flop, moved = product(inputs, hidden)
        return flop, moved + (2 * held - size) * rows * hidden, 1

    shape = (rows // tokens, tokens, 3, heads, -1)
    found = {
        "query, key, value": (lambda: layer.query_key_value(half), *product(hidden, 3 * hidden), 1),
        "attention": (lambda: attend(mixed.view(shape), None), 4 * rows * tokens * hidden, 4 * size * rows * hidden, 1),
        "output, and the sum": (lambda: layer.out(half, x), *added(hidden)),
        "wide, with GELU": (lambda: layer.wide(half), *product(hidden, inner), 1),
        "narrow, and the sum": (lambda: layer.narrow(wide, x), *added(inner)),
        "norm": (lambda: layer_norm(half.to(stream), (hidden,), *layer.norm_out), 0, 2 * held * rows * hidden, 2),
    }
    if held != size:
        found["cast"] = (lambda: x.to(half.dtype), 0, (held + size) * rows * hidden, 2)
    return found


def run(lengths):
    """Measure each length; returns the rows."""
    import torch

    from textsiam import Twin
    from textsiam.inference.fast.fast_tower import FastTower, fast_dtype

    torch.set_num_threads(1)
    tower = Twin.from_pretrained("all-MiniLM-L6-v2").tower()
    dtype = fast_dtype(tower.device)
    backbone = FastTower(tower, dtype).backbone
    side = torch.randn(2048, 2048).to(dtype)
    block = torch.randn(_BATCH, 384)
    target = torch.empty_like(block)
    rows = []
    with torch.inference_mode():
        for tokens in lengths:
            flops = 2 * 2048**3 / least(lambda: torch.nn.functional.linear(side, side))
            bandwidth = 2 * block.nbytes / least(lambda: target.copy_(block))
            named = operations(backbone.layers[0], tokens, backbone.heads, backbone.stream)
            for name, (call, flop, moved, times) in named.items():
                seconds = times * least(call)
                floor = times * max(flop / flops, moved / bandwidth)
                rows.append({"tokens": tokens, "operation": name, "ms": 1e3 * seconds, "roofline_ms": 1e3 * floor,
                             "gflop_per_second": times * flop / seconds / 1e9})  # fmt: skip
            rows.append({"tokens": tokens, "operation": "fastest product", "gflop_per_second": flops / 1e9})
            rows.append({"tokens": tokens, "operation": "copy", "gb_per_second": bandwidth / 1e9})
    return rows


def table(rows):
    """Print the rows as Markdown."""
    for tokens in dict.fromkeys(row["tokens"] for row in rows):
        here = [row for row in rows if row["tokens"] == tokens]
        total = sum(row.get("ms", 0.0) for row in here)
        floor = sum(row.get("roofline_ms", 0.0) for row in here)
        print(f"\n| {tokens} tokens | ms | share | at its roofline | GFLOP/s |\n| --- | --- | --- | --- | --- |")
        for row in here:
            if "ms" in row:
                share, reached = row["ms"] / total, row["roofline_ms"] / row["ms"]
                rate = f"{row['gflop_per_second']:.0f}" if row["gflop_per_second"] else "–"
                print(f"| {row['operation']} | {row['ms']:.2f} | {share:.0%} | {reached:.0%} | {rate} |")
            elif "gflop_per_second" in row:
                print(f"| fastest product | | | | {row['gflop_per_second']:.0f} |")
        print(f"| all of it | {total:.2f} | | {floor / total:.0%} | |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", nargs="+", type=int, default=[16, 64, 256])
    found = run(parser.parse_args().tokens)
    RESULTS.write_text(json.dumps({"rows": found, "facts": facts()}, indent=1) + "\n")
    table(found)
