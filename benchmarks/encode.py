"""Encoding side by side: textsiam and sentence-transformers on the same texts, in alternating rounds of one run.

    python benchmarks/encode.py run                     # real questions: the table of the README
    python benchmarks/encode.py run --texts 10000       # another amount of them
    python benchmarks/encode.py run --tokens 256        # made-up texts of one length
    python benchmarks/encode.py latency                 # one pair at a time, and a cold start
    python benchmarks/encode.py int8                    # the exports to int8 beside the twin in bf16
    python benchmarks/encode.py reranker                # pairs read by a cross-encoder, beside its own `predict`
    python benchmarks/encode.py table                   # Markdown from results/encode.json

Every measurement is a process of its own, so that peak memory is its own too; on a GPU, whose peak is
counted anew when asked, all are made in one. The peer's best setting is its weights in bf16 and the fastest of several
batch sizes, chosen in a run before. The share of the ceiling counts the products of the encoder over real tokens only
(padding is waste), against the fastest large product of that number format.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from int8 import run_int8
from quality import DATA, accelerator, facts, results_file

RESULTS = results_file("encode")
PEER_BATCHES = (128, 512, 2048) if accelerator() else (8, 16, 32, 64)
METHODS = ("peer default", "peer best", "textsiam fp32", "textsiam")


def texts_of(count, tokens):
    """Return distinct texts: Quora's test questions, or made-up ones of so many tokens."""
    if tokens is None:
        from textsiam.data.pairs import read_pairs

        found = read_pairs(DATA / "dev.tsv.gz").texts
        more = read_pairs(DATA / "train.tsv.gz").texts if count > len(found) else []
        return [*found, *more][:count]
    import random

    rng = random.Random(0)
    words = ["how", "do", "i", "make", "bread", "why", "is", "the", "sky", "blue", "what", "when", "house", "water"]
    return [" ".join(rng.choices(words, k=tokens - 2)) for _ in range(count)]


def encoder(method, batch):
    """Return a function from texts to vectors."""
    from sentence_transformers import SentenceTransformer

    from textsiam.inference.encoders import MINILM, resolve
    from textsiam.models.twin import Twin

    if method.startswith("textsiam"):
        twin = Twin.from_pretrained(MINILM)
        precision = "fp32" if method.endswith("fp32") else "auto"
        return lambda texts: twin.encode(texts, precision=precision)
    import torch

    kwargs = {"dtype": torch.bfloat16} if method == "peer best" else {}
    model = SentenceTransformer(resolve(MINILM), model_kwargs=kwargs)
    there = bool(accelerator())  # vectors that stay on a GPU may not be computed yet
    return lambda texts: model.encode(texts, batch_size=batch, show_progress_bar=False, convert_to_numpy=there)


def measure(method, count, tokens, batch):
    """Time one encoding after a warm-up; returns seconds, peak memory and the encoder's work."""
    import numpy as np
    import torch

    texts = texts_of(count, tokens)
    if accelerator():
        torch.cuda.reset_peak_memory_stats()
    encode = encoder(method, batch)
    encode(texts[: min(len(texts), 256)])
    started = time.perf_counter()
    vectors = encode(texts)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row = {"seconds": seconds, "peak_mib": peak, "texts": len(texts)}
    if accelerator():
        row["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
    if method == "textsiam":
        from textsiam.inference import batching as inference
        from textsiam.inference.encoders import text_encoder
        from textsiam.inference.fast.fast_tower import FastTower
        from textsiam.inference.tokens import tokenise

        tower = text_encoder()
        some = np.random.default_rng(0).permutation(len(texts))[:3000]
        exact = inference.encode(FastTower(tower, torch.float32), [texts[i] for i in some])
        row["min_cosine"] = float((exact * np.asarray(vectors)[some]).sum(1).min())
        config, lengths = tower[0].model.config, tokenise(tower, texts).lengths
        width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
        weights = layers * (4 * width * width + 2 * width * inner)
        row["flop"] = float(2 * weights * lengths.sum() + layers * 4 * width * (lengths.astype(float) ** 2).sum())
        row["tokens"] = int(lengths.sum())
    return row


def ceiling(dtype_name):
    """Return the fastest rate of a large product in a number format, in GFLOP/s."""
    import torch

    dtype, device = getattr(torch, dtype_name), "cuda" if accelerator() else "cpu"
    shapes = [(2048, 2048, 2048), (4096, 384, 1536), (4096, 1536, 384)]
    if accelerator():
        shapes += [(8192, 8192, 8192), (65_536, 384, 1536), (65_536, 1536, 384)]
    best = 0.0
    for m, k, n in shapes:
        a, b = (torch.randn(*size, device=device).to(dtype) for size in ((m, k), (n, k)))
        for _ in range(8):
            synchronise()
            started = time.perf_counter()
            torch.nn.functional.linear(a, b)
            synchronise()
            best = max(best, 2 * m * k * n / (time.perf_counter() - started))
    return best / 1e9


def synchronise():
    """Wait until a GPU has done what it was told."""
    import torch

    if accelerator():
        torch.cuda.synchronize()


def child(*arguments):
    """Run this script in a process of its own and return what it printed."""
    return child_of(__file__, *arguments)


def child_of(script, *arguments):
    """Run a script in a process of its own and return the JSON of its last line."""
    command = [sys.executable, script, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def spread(values):
    """Return the median, the lowest and the highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def run(count, tokens, rounds, methods):
    """Compare all methods in alternating rounds; returns one row of the results."""

    def one(method, texts, batch):
        if accelerator():
            return measure(method, texts, tokens, batch)
        where = ["--texts", texts, *(["--tokens", tokens] if tokens else [])]
        return child("one", method, *where, "--batch", batch)

    some = min(count, 20_000 if accelerator() else 1000)
    trial = {b: one("peer best", some, b)["seconds"] for b in PEER_BATCHES}
    batch = min(trial, key=trial.get)
    print(f"peer's best batch size: {batch}", flush=True)
    seen, rooms, ceilings, work = {m: [] for m in methods}, {}, [], {}
    for _ in range(rounds):
        ceilings.append(ceiling("bfloat16") if accelerator() else child("ceiling", "bfloat16")["gflops"])
        for method in methods:
            row = one(method, count, batch if method == "peer best" else 32)
            seen[method].append(row["texts"] / row["seconds"])
            rooms[method] = max(rooms.get(method, 0), row.get("peak_gpu_mib", row["peak_mib"]))
            work |= row if method == "textsiam" else {}
            print(f"{method}: {seen[method][-1]:.0f} texts/s, {row['peak_mib']:.0f} MiB", flush=True)
    ours = seen["textsiam"]
    rate = [work["flop"] / work["texts"] * r / 1e9 for r in ours]
    return {
        "texts": work["texts"], "tokens": work["tokens"] / work["texts"], "length": tokens, "peer_batch": batch,
        "texts_per_second": {m: spread(v) for m, v in seen.items()},
        "ratio": {m: spread([a / b for a, b in zip(ours, v, strict=True)]) for m, v in seen.items() if m != "textsiam"},
        "peak_mib": rooms, "min_cosine": work["min_cosine"], "ceiling_gflops": spread(ceilings),
        "share_of_ceiling": spread([r / c for r, c in zip(rate, ceilings, strict=True)]),
    }  # fmt: skip


def latency(rounds=100):
    """Return the milliseconds of `compare` when warm, and the seconds of `textsiam score` from a cold start."""
    from textsiam.inference.encoders import MINILM
    from textsiam.models.twin import Twin

    twin = Twin.from_pretrained(MINILM)
    warm, cold = [], []
    for n in range(rounds + 10):
        started = time.perf_counter()
        twin.compare(f"How old are you in {n}?", "What is your age?")
        warm.append(1e3 * (time.perf_counter() - started))
    for _ in range(5):
        started = time.perf_counter()
        command = [str(Path(sys.executable).with_name("textsiam")), "score", MINILM, "How old are you?", "Your age?"]
        subprocess.run(command, check=True, capture_output=True)
        cold.append(time.perf_counter() - started)
    return {"compare_ms": spread(warm[10:]), "score_cold_seconds": spread(cold)}


def reranker(count=300, rounds=5):
    """Return the pairs/s of cross-encoders on Quora's test pairs: by sentence-transformers, and by ours."""
    import copy

    import numpy as np
    import torch

    from textsiam.data.pairs import read_pairs
    from textsiam.rerank.cross_encoder import Reranker, cross_encoder

    pairs = read_pairs(DATA / "dev.tsv.gz").select(range(count))
    model = cross_encoder(max_tokens=128).eval()
    half, ours = copy.deepcopy(model).bfloat16(), Reranker(model, symmetric=False)
    asked = list(zip(pairs.left_texts, pairs.right_texts, strict=True))

    def peer(model, batch):
        return lambda: model.predict(
            asked, activation_fn=torch.nn.Identity(), batch_size=batch, show_progress_bar=False
        )

    def read(precision):
        return lambda: ours.logits(pairs.texts, pairs.left, pairs.right, precision=precision)

    methods = {"peer default": peer(model, 32), **{f"peer bf16, batches of {b}": peer(half, b) for b in PEER_BATCHES},
               "textsiam fp32": read("fp32"), "textsiam": read("auto")}  # fmt: skip
    rates, logits = {name: [] for name in methods}, {}
    for number in range(rounds + 1):  # the first warms up
        for name, method in methods.items():
            started = time.perf_counter()
            logits[name] = np.asarray(method(), np.float32)
            if number:
                rates[name].append(count / (time.perf_counter() - started))
    best = max((n for n in rates if n.startswith("peer bf16")), key=lambda n: statistics.median(rates[n]))
    difference = np.abs(logits["textsiam fp32"] - logits["peer default"]).max() / logits["peer default"].std()
    return {
        "pairs": count,
        "pairs_per_second": {name: spread(values) for name, values in rates.items()},
        "ratio": {
            name: spread([a / b for a, b in zip(rates["textsiam"], rates[other], strict=True)])
            for name, other in (("peer default", "peer default"), ("peer best", best))
        },
        "ratio_fp32": spread([a / b for a, b in zip(rates["textsiam fp32"], rates["peer default"], strict=True)]),
        "largest_difference_fp32": float(difference),  # in standard deviations of the logit
    }


def store(key, value):
    """Put a value under a key of the results file."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results |= {key: value, "facts": facts()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def cell(value, form="{:.0f}"):
    """Return a median with its spread, as text."""
    if value is None:
        return "–"
    median, low, high = (form.format(value[name]) for name in ("median", "low", "high"))
    return f"{median} ({low}–{high})"


def table():
    """Print the rows as Markdown."""
    results = json.loads(RESULTS.read_text())
    print("| texts | tokens | " + " | ".join(METHODS) + " | times default | times best | of the ceiling |")
    print("| --- " * (len(METHODS) + 5) + "|")
    for key, row in results.items():
        if not key.startswith("run"):
            continue
        rates = [cell(row["texts_per_second"].get(m)) for m in METHODS]
        ratios = [cell(row["ratio"].get(m), "{:.2f}") for m in METHODS[:2]]
        share = cell({k: 100 * v for k, v in row["share_of_ceiling"].items()}, "{:.0f} %")
        print(f"| {row['texts']:,} | {row['tokens']:.1f} | " + " | ".join([*rates, *ratios, share]) + " |")


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one, racer = commands.add_parser("one"), commands.add_parser("run")
    one.add_argument("method", choices=METHODS)
    one.add_argument("--batch", type=int, default=32)
    racer.add_argument("--rounds", type=int, default=5)
    racer.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    for sub in (one, racer):
        sub.add_argument("--texts", type=int, default=2000)
        sub.add_argument("--tokens", type=int)
    commands.add_parser("ceiling").add_argument("dtype")
    commands.add_parser("latency")
    commands.add_parser("reranker")
    commands.add_parser("table")
    small = commands.add_parser("int8")
    small.add_argument("--texts", type=int, default=2000)
    small.add_argument("--rounds", type=int, default=7)
    small.add_argument("--pairs", type=int, default=5000)
    arguments = parser.parse_args()
    if arguments.command == "one":
        print(json.dumps(measure(arguments.method, arguments.texts, arguments.tokens, arguments.batch)))
    elif arguments.command == "ceiling":
        print(json.dumps({"gflops": ceiling(arguments.dtype)}))
    elif arguments.command == "table":
        table()
    elif arguments.command == "int8":
        found = run_int8(texts_of(arguments.texts, None), arguments.rounds, arguments.pairs, spread)
        store(f"int8 {arguments.texts}", found)
        print(json.dumps(found))
    elif arguments.command in ("latency", "reranker"):
        found = latency() if arguments.command == "latency" else reranker()
        store(arguments.command, found)
        print(json.dumps(found))
    else:
        row = run(arguments.texts, arguments.tokens, arguments.rounds, arguments.methods)
        store(f"run {arguments.texts} {arguments.tokens or 'real'}", row)
        print(json.dumps(row))


if __name__ == "__main__":
    main()
