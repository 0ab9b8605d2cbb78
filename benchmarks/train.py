"""Training side by side: pairs/s of textsiam's loop and of sentence-transformers' trainer, in alternating rounds.

    python benchmarks/train.py run
    python benchmarks/train.py table

Same pairs, backbone and batch size, contrastive loss over hard pairs on both sides. The peer runs as it comes (fp32)
and in bf16 like textsiam. The time of a shorter run is taken off, so that start-up does not count.
"""

from __future__ import annotations

import argparse
import json
import resource
from pathlib import Path

from encode import ceiling, child_of, spread
from quality import BATCH_SIZE, facts, splits, train_peer, train_textsiam

RESULTS = Path(__file__).parent / "results" / "train.json"
METHODS = ("peer default", "peer bf16", "textsiam")


def pace(method, steps):
    """Return the pairs/s of a method over some steps, and its peak memory."""
    train, *_ = splits()

    def seconds(count):
        if method == "textsiam":
            return train_textsiam(train, None, max_steps=count)[1]
        return train_peer("OnlineContrastiveLoss", train, max_steps=count, bf16=method != "peer default")[1]

    short, full = seconds(3), seconds(3 + steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"pairs_per_second": steps * BATCH_SIZE / (full - short), "peak_mib": peak}


def run(rounds, steps):
    """Compare all methods in alternating rounds; returns the results."""
    seen, rooms = {m: [] for m in METHODS}, {}
    for _ in range(rounds):
        for method in METHODS:
            row = child_of(__file__, "pace", method, "--steps", steps)
            seen[method].append(row["pairs_per_second"])
            rooms[method] = max(rooms.get(method, 0), row["peak_mib"])
            print(f"{method}: {seen[method][-1]:.1f} pairs/s, {row['peak_mib']:.0f} MiB", flush=True)
    ours = seen["textsiam"]
    return {
        "batch_size": BATCH_SIZE,
        "pairs_per_second": {m: spread(v) for m, v in seen.items()},
        "ratio": {m: spread([a / b for a, b in zip(ours, v, strict=True)]) for m, v in seen.items() if m != "textsiam"},
        "peak_mib": rooms,
        "ceiling_gflops": ceiling("bfloat16"),
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


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    racer, timer = commands.add_parser("run"), commands.add_parser("pace")
    racer.add_argument("--rounds", type=int, default=3)
    timer.add_argument("method", choices=METHODS)
    for sub in (racer, timer):
        sub.add_argument("--steps", type=int, default=15)
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "pace":
        print(json.dumps(pace(arguments.method, arguments.steps)))
    elif arguments.command == "table":
        table()
    else:
        results = run(arguments.rounds, arguments.steps)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(json.dumps(results))


if __name__ == "__main__":
    main()
