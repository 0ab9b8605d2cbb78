"""Training side by side: pairs/s of textsiam's loop and of sentence-transformers' trainer, in alternating rounds.

    python benchmarks/train.py run
    python benchmarks/train.py ways                           # two processes, checkpointing, long texts
    python benchmarks/train.py agree                          # the same steps reach the same validation AP
    python benchmarks/train.py table

Same pairs, backbone and batch size (on a GPU each takes its fastest, all in one process), contrastive loss over hard
pairs on both sides. The peer runs as it comes (fp32) and in bf16 like textsiam. The time of a shorter run is taken off,
so that start-up does not count. `agree` trains both for as many steps with the same loss, learning rate and schedule,
and compares the average precision on validation pairs over several seeds: what is faster must not learn less. `ways`
trains textsiam on questions and on texts of 256 tokens (batches of 32) in one process and in two, and with less memory;
the pace is that of its log, without the first lines, and memory that of the largest process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

from encode import ceiling, child_of, spread
from quality import (
    BATCH_SIZE,
    RECIPE,
    accelerator,
    facts,
    results_file,
    splits,
    train_peer,
    train_recipe,
    train_textsiam,
)

from textsiam.inference.fast.cores import available_cores

RESULTS = results_file("train")
# On a GPU each method takes its fastest.
BATCH_SIZES = (128, 512, 2048) if accelerator() else (BATCH_SIZE,)
# What the recipe adds to the loss that the peer has too.
_ONE_LOSS = [f"--{key}=null" for key in ("model.head", "loss.head", "loss.info_nce", "training.duplicate_share")]
METHODS = ("peer default", "peer bf16", "textsiam")


def pace(method, steps, batch_sizes):
    """Return the pairs/s of a method, its peak memory (the GPU's, if any), and its fastest batch size.

    The steps are those of the recipe's batch size: larger batches take fewer.
    """
    import torch

    train, *_ = splits()
    if accelerator():
        torch.cuda.reset_peak_memory_stats()

    def seconds(count, size):
        if method == "textsiam":
            options = ["--training.batch_size", str(size)]
            return train_textsiam(train, None, max_steps=count, options=options)[1]
        bf16 = method != "peer default"
        return train_peer("OnlineContrastiveLoss", train, max_steps=count, batch_size=size, bf16=bf16)[1]

    def rate(size):
        count = max(4, steps * BATCH_SIZE // size)
        short, full = seconds(3, size), seconds(3 + count, size)
        return count * size / (full - short)

    rates = {size: rate(size) for size in batch_sizes}
    best = max(rates, key=rates.get)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if accelerator():
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {"pairs_per_second": rates[best], "peak_mib": peak, "batch_size": best}


def run(rounds, steps):
    """Compare all methods in alternating rounds; returns the results."""
    seen, rooms = {m: [] for m in METHODS}, {}

    def trial(method, *sizes):
        if accelerator():
            return pace(method, steps, sizes)
        return child_of(__file__, "pace", method, "--steps", steps, "--batch", *sizes)

    sizes = dict.fromkeys(METHODS, BATCH_SIZE)
    if len(BATCH_SIZES) > 1:
        sizes = {m: trial(m, *BATCH_SIZES)["batch_size"] for m in METHODS}
    for _ in range(rounds):
        for method in METHODS:
            row = trial(method, sizes[method])
            seen[method].append(row["pairs_per_second"])
            rooms[method] = max(rooms.get(method, 0), row["peak_mib"])
            print(f"{method}: {seen[method][-1]:.1f} pairs/s, {row['peak_mib']:.0f} MiB", flush=True)
    ours = seen["textsiam"]
    return {
        "batch_size": sizes,
        "pairs_per_second": {m: spread(v) for m, v in seen.items()},
        "ratio": {m: spread([a / b for a, b in zip(ours, v, strict=True)]) for m, v in seen.items() if m != "textsiam"},
        "peak_mib": rooms,
        "ceiling_gflops": ceiling("bfloat16"),
        "facts": facts(),
    }


WAYS = {
    "one process": [],
    "two processes": [],
    "gradient checkpointing": ["--training.gradient_checkpointing=true"],
    "gradient cache": ["--training.gradient_cache=true"],
}


def way(name, tokens, steps):
    """Return the pairs/s of textsiam trained in one of the ways, as its log says, and the peak memory."""
    import tempfile

    pairs, *_ = splits()
    options, changes = [*WAYS[name]], {"seeds": 1, "log_every": 2, "max_steps": steps}
    if tokens > 128:
        pairs = lengthened(pairs.select(range(2000)), tokens)
        options, changes = [*options, f"--model.max_tokens={tokens}"], {**changes, "batch_size": 32}
    with tempfile.TemporaryDirectory() as folder:
        history = train_recipe(pairs, folder, options, **changes)[1].history
    paces = [record["pairs_per_second"] for record in history if "pairs_per_second" in record][2:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"pairs_per_second": len(paces) / sum(1 / pace for pace in paces), "peak_mib": peak}


def lengthened(pairs, tokens):
    """Return pairs whose texts are followed by those of other questions, up to so many words."""
    from dataclasses import replace
    from itertools import cycle, islice

    words = [word for text in pairs.texts for word in text.split()]
    texts = [" ".join([text, *islice(cycle(words), 7 * i, 7 * i + tokens)]) for i, text in enumerate(pairs.texts)]
    return replace(pairs, texts=texts)


def ways(rounds, steps):
    """Compare the ways in alternating rounds; returns the results."""
    found = {}
    for _ in range(rounds):
        for tokens in (128, 256):
            for name in WAYS:
                launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
                launch += [str(RECIPE.parent / "accelerate" / f"{'ddp_cpu' if 'two' in name else 'one_process'}.yaml")]
                threads = 1 if "two" in name else available_cores()  # Accelerate gives a process one unless told
                launch += ["--num_cpu_threads_per_process", str(threads)]
                command = [*launch, __file__, "way", name, "--tokens", str(tokens), "--steps", str(steps)]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                rows = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
                key = f"{name}, {'questions' if tokens == 128 else 'texts of 256 tokens'}"
                row = found.setdefault(key, {"pairs_per_second": [], "peak_mib": 0})
                row["pairs_per_second"].append(min(row["pairs_per_second"] for row in rows))
                row["peak_mib"] = max(row["peak_mib"], *(row["peak_mib"] for row in rows), 0)
                print(key, rows, flush=True)
    return {key: {**row, "pairs_per_second": spread(row["pairs_per_second"])} for key, row in found.items()}


def reached(method, seed, steps):
    """Return the validation AP of a method after some steps of the contrastive loss over hard pairs."""
    from sklearn.metrics import average_precision_score

    train, validation, *_ = splits()
    if method == "textsiam":
        options = [*_ONE_LOSS, "--training.seed", str(seed)]
        twin = train_textsiam(train, None, max_steps=steps, options=options)[0]
    else:
        twin = train_peer("OnlineContrastiveLoss", train, max_steps=steps, seed=seed)[0]
    scores = twin.pair_similarity(validation.texts, validation.left, validation.right)
    return {"average_precision": float(average_precision_score(validation.labels, scores))}


def agree(seeds, steps):
    """Compare what textsiam and the peer in bf16 reach in the same number of steps; returns the results."""
    from statistics import mean, stdev

    seen = {"peer bf16": [], "textsiam": []}
    for seed in range(seeds):
        for method, values in seen.items():
            row = child_of(__file__, "reached", method, "--seed", seed, "--steps", steps)
            values.append(row["average_precision"])
            print(f"{method}, seed {seed}: AP {100 * values[-1]:.2f}", flush=True)
    difference = [a - b for a, b in zip(seen["textsiam"], seen["peer bf16"], strict=True)]
    return {
        "steps": steps,
        "average_precision": seen,
        "difference": {"mean": mean(difference), "standard_error": stdev(difference) / seeds**0.5},
        "facts": facts(),
    }


def table():
    """Print the results as Markdown."""
    results = json.loads(RESULTS.read_text())
    print("| method | pairs/s | textsiam is faster by | peak memory |\n| --- | --- | --- | --- |")
    for method, rate in results["pairs_per_second"].items():
        ratio = results["ratio"].get(method)
        faster = "–" if ratio is None else "{median:.2f} ({low:.2f}–{high:.2f})".format(**ratio)
        print(f"| {method} | {rate['median']:.0f} ({rate['low']:.0f}–{rate['high']:.0f}) | {faster} | "
              f"{results['peak_mib'][method]:,.0f} MiB |")  # fmt: skip
    if agreement := results.get("agreement"):
        seen = {m: ", ".join(f"{100 * v:.2f}" for v in values) for m, values in agreement["average_precision"].items()}
        print(f"\nValidation AP after {agreement['steps']} steps of one loss: {seen}")


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    racer, timer = commands.add_parser("run"), commands.add_parser("pace")
    racer.add_argument("--rounds", type=int, default=3)
    timer.add_argument("method", choices=METHODS)
    timer.add_argument("--batch", type=int, nargs="+", default=[BATCH_SIZE])
    for sub in (racer, timer):
        sub.add_argument("--steps", type=int, default=15)
    judge, agreer = commands.add_parser("reached"), commands.add_parser("agree")
    judge.add_argument("method", choices=METHODS[1:])
    judge.add_argument("--seed", type=int, default=0)
    agreer.add_argument("--seeds", type=int, default=3)
    for sub in (judge, agreer):
        sub.add_argument("--steps", type=int, default=100)
    commands.add_parser("table")
    others, one_way = commands.add_parser("ways"), commands.add_parser("way")
    others.add_argument("--rounds", type=int, default=2)
    one_way.add_argument("name", choices=[*WAYS])
    one_way.add_argument("--tokens", type=int, default=128)
    for sub in (others, one_way):
        sub.add_argument("--steps", type=int, default=16)
    arguments = parser.parse_args()
    if arguments.command == "pace":
        print(json.dumps(pace(arguments.method, arguments.steps, arguments.batch)))
    elif arguments.command == "way":
        print(json.dumps(way(arguments.name, arguments.tokens, arguments.steps)))
    elif arguments.command == "reached":
        print(json.dumps(reached(arguments.method, arguments.seed, arguments.steps)))
    elif arguments.command == "table":
        table()
    else:
        before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        if arguments.command == "agree":
            results = before | {"agreement": agree(arguments.seeds, arguments.steps)}
        elif arguments.command == "ways":
            results = before | {"ways": ways(arguments.rounds, arguments.steps) | {"facts": facts()}}
        else:
            results = before | run(arguments.rounds, arguments.steps)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(json.dumps(results))


if __name__ == "__main__":
    main()
