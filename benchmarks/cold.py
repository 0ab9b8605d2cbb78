"""Cold starts side by side: `import torch`, `textsiam score` and `flag` on 1,000 questions, in alternating rounds.

    python benchmarks/cold.py run                          # this checkout
    python benchmarks/cold.py run --before ../older        # and another checkout of textsiam beside it
    python benchmarks/cold.py table                        # Markdown from results/cold.json

Each measurement is a process of its own, whose modules were compiled to bytecode before: by the clock, and in seconds
of processor time (user and system together), which other work on the machine changes less. The system has the files in
memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from quality import DATA, facts, results_file

RESULTS = results_file("cold")
HERE = Path(__file__).resolve().parents[1]
QUESTIONS = 1000
_READ = """
import time, torch
from safetensors.torch import load_file
from textsiam.inference.encoders import packaged_minilm
started = time.perf_counter(), time.process_time()
for tensor in load_file(packaged_minilm() / "model.safetensors").values():
    tensor.bfloat16()
print(time.perf_counter() - started[0], time.process_time() - started[1])
"""
_WARM = """
import sys, time
from textsiam.models.twin import Twin
twin, texts = Twin.from_pretrained("all-MiniLM-L6-v2"), open(sys.argv[1]).read().splitlines()
twin.encode(texts)
started = time.perf_counter(), time.process_time()
twin.encode(texts)
print(time.perf_counter() - started[0], time.process_time() - started[1])
"""


def measured(arguments, checkout, cache):
    """Return wall and processor seconds of a Python process."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env |= {"PYTHONPATH": str(checkout), "PYTHONPYCACHEPREFIX": str(Path(cache, checkout.name))}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True, env=env, cwd=cache)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if arguments[1] in (_READ, _WARM):  # which time the part that counts
        return tuple(map(float, done.stdout.split()))
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(rounds, before):
    """Return the seconds of each measurement: median, least and most of the rounds."""
    from textsiam.data.pairs import read_pairs

    checkouts = {"": HERE} | ({} if before is None else {" before": before.resolve()})
    with tempfile.TemporaryDirectory() as cache:
        texts = Path(cache, "questions.txt")
        lines = [" ".join(text.split()) for text in read_pairs(DATA / "dev.tsv.gz").texts[:QUESTIONS]]
        texts.write_text("\n".join(lines) + "\n")
        command = ["-m", "textsiam.cli"]
        works = {"import torch": (["-c", "import torch"], HERE), "reading the weights": (["-c", _READ], HERE)}
        for name, checkout in checkouts.items():
            score = [*command, "score", "all-MiniLM-L6-v2", "How old are you?", "What is your age?"]
            flag = [*command, "flag", "all-MiniLM-L6-v2", str(texts), "--output", str(Path(cache, "flagged.tsv"))]
            works |= {f"score{name}": (score, checkout), f"flag{name}": (flag, checkout)}
        works["encode, warm"] = (["-c", _WARM, str(texts)], HERE)
        for work in works.values():
            measured(*work, cache)  # compiles
        found = {name: [] for name in works}
        for _ in range(rounds):
            for name, work in works.items():
                found[name].append(measured(*work, cache))
    return {
        name: {kind: spread([each[k] for each in values]) for k, kind in enumerate(("wall", "processor"))}
        for name, values in found.items()
    }


def spread(values):
    """Return the median, the least and the largest of some values."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def table():
    """Print the measurements as Markdown."""
    rows = json.loads(RESULTS.read_text())["run"]
    print("| process | seconds | processor seconds |\n| --- | --- | --- |")
    for name, found in rows.items():
        cells = [f"{s['median']:.2f} ({s['low']:.2f}–{s['high']:.2f})" for s in (found["wall"], found["processor"])]
        print(f"| {name} | {' | '.join(cells)} |")


def main():
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("--rounds", type=int, default=7)
    one.add_argument("--before", type=Path, help="another checkout of textsiam")
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "table":
        table()
        return
    found = run(arguments.rounds, arguments.before)
    RESULTS.write_text(json.dumps({"run": found, "facts": facts()}, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
