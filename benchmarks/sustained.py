"""Whole epochs instead of a few steps: the pace and the memory of every minute, from the first to the last.

    python benchmarks/sustained.py run                                 # the Quora recipe, the peer, and encoding
    python benchmarks/sustained.py run --works textsiam before --old ../old --minutes 6
    python benchmarks/sustained.py table                               # Markdown from results/sustained.json

Each work is a process of its own, one after the other. `textsiam` is an epoch of configs/qqp.yaml, one seed; `peer
bf16` is the same epoch by sentence-transformers' trainer with its best loss, in bf16; `before` is what
`scripts/train.py` of another folder makes of its own configs/qqp.yaml; `encode` encodes all distinct questions of
Quora, over and over, for as many minutes as `--minutes` says. What is done and what memory is resident is read from
outside every second. A minute starts where the first steps ended, so that start-up does not count.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from quality import BATCH_SIZE, DATA, facts, results_file, splits, stored, train_peer, train_recipe

RESULTS = results_file("sustained")
HERE = Path(__file__).resolve().parents[1]
WORKS = {"textsiam": "pairs", "before": "pairs", "peer bf16": "pairs", "encode": "texts"}
_EVERY = 5  # steps after which a trainer says how many there were


def train_ours(folder):
    """Train an epoch of configs/qqp.yaml; its history says how many steps are done."""
    train_recipe(splits()[0], folder, seeds=1, log_every=_EVERY)


def train_theirs(folder):
    """Train the same epoch with the peer's trainer."""
    from transformers import TrainerCallback

    class Told(TrainerCallback):
        """Says how many steps are done."""

        def on_step_end(self, arguments, state, control, **others):
            """Say it every so many steps."""
            if state.global_step % _EVERY == 0:
                say(folder, state.global_step)

    train_peer("OnlineContrastiveLoss", splits()[0], callbacks=[Told()])


def encode(folder):
    """Encode all questions again and again, until it is stopped."""
    from encode import texts_of

    from textsiam import Twin

    twin, texts = Twin.from_pretrained("all-MiniLM-L6-v2"), texts_of(150_000, None)
    for before in itertools.count(0, len(texts)):
        twin.encode(texts, progress=lambda done, total, before=before: say(folder, before + done))


def say(folder, count):
    """Write how much is done, as the history of a training does."""
    with (folder / "history.jsonl").open("a") as file:
        file.write(json.dumps({"step": count}) + "\n")


CHILDREN = {"textsiam": train_ours, "peer bf16": train_theirs, "encode": encode}


def command_of(work, package, folder):
    """Return what runs a work, and tells a history in the folder what is done."""
    if work != "before":
        return [sys.executable, __file__, "child", work, folder]
    config, pairs = package / "configs/qqp.yaml", DATA / "train.tsv.gz"
    return [sys.executable, package / "scripts/train.py", config, "--data.train", pairs, "--output", f"{folder}/run",
            "--training.log_every", str(_EVERY)]  # fmt: skip


def watch(work, package, minutes):
    """Run a work in a process of its own; returns the seconds, what was done and the resident MiB, second by second."""
    seen, size = [], 1 if work == "encode" else BATCH_SIZE
    with tempfile.TemporaryDirectory() as folder:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "KMP_", "GOMP_"))}
        command = command_of(work, package, folder)
        child = subprocess.Popen(command, env=environment | {"PYTHONPATH": str(package)}, stdout=subprocess.DEVNULL)
        try:
            while child.poll() is None and not (seen and seen[-1][0] - seen[0][0] > 60 * minutes):
                time.sleep(1)
                if done := max(map(last_step, Path(folder).rglob("history.jsonl")), default=0):
                    seen.append((time.monotonic(), done * size, resident(child.pid)))
        finally:
            child.kill()
    if not seen:
        raise RuntimeError(f"{work} failed")
    return seen


def last_step(history):
    """Return the last step of a history that is being written; 0 where there is none yet."""
    steps = [json.loads(line)["step"] for line in history.read_text().splitlines()[-2:] if line.endswith("}")]
    return max(steps, default=0)


def resident(pid):
    """Return the resident memory of a process in MiB."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def by_minute(seen):
    """Return the pace and the memory of each whole minute since the first report."""
    import numpy as np

    clock, done, memory = (np.array(column, float) for column in zip(*seen, strict=True))
    moved = np.flatnonzero(np.diff(done, prepend=-1))  # between reports nothing is known
    working = clock <= clock[moved[-1]]
    ends = np.arange(clock[0], clock[moved[-1]] + 1e-9, 60)
    paces = np.diff(np.interp(ends, clock[moved], done[moved])) / 60
    rooms = [memory[working & (clock > a) & (clock <= b)].max() for a, b in itertools.pairwise(ends)]
    return {"pace": [round(p, 1) for p in paces], "resident_mib": [round(r) for r in rooms],
            "done": int(done[-1]), "seconds": round(float(clock[moved[-1]] - clock[0]), 1)}  # fmt: skip


def run(works, old, minutes):
    """Measure one work after the other, and write the rows in place of those that are there."""
    for work in works:
        package = Path(old).resolve() if work == "before" else HERE
        row = {"work": work, "unit": f"{WORKS[work]}/s"} | by_minute(watch(work, package, minutes)) | {"facts": facts()}
        print(json.dumps(row), flush=True)
        results = stored(RESULTS)
        results["rows"] = [each for each in results["rows"] if each["work"] != work] + [row]
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def table():
    """Print the rows as Markdown."""
    print("| work | done | minutes | first minute | last minute | left | memory, second minute | at the end |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in stored(RESULTS)["rows"]:
        pace, room = row["pace"], row["resident_mib"]
        print(f"| {row['work']} | {row['done']:,} {WORKS[row['work']]} | {row['seconds'] / 60:.1f} "
              f"| {pace[0]:,.0f} {row['unit']} | {pace[-1]:,.0f} | {pace[-1] / pace[0]:.0%} "
              f"| {room[min(1, len(room) - 1)]:,} MiB | {room[-1]:,} MiB |")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("run")
    measure.add_argument("--works", nargs="+", default=["textsiam", "peer bf16", "encode"], choices=[*WORKS])
    measure.add_argument("--old", help="a folder with another textsiam, for `before`")
    measure.add_argument("--minutes", type=float, default=30)
    commands.add_parser("table")
    child = commands.add_parser("child")
    child.add_argument("work", choices=[*WORKS])
    child.add_argument("folder", type=Path)
    given = parser.parse_args()
    if given.command == "run":
        run(given.works, given.old, given.minutes)
    elif given.command == "table":
        table()
    else:
        CHILDREN[given.work](given.folder)
