"""Faces of people never seen: all pairs of their pictures, beside raw pixels.

    python benchmarks/faces.py run                          # configs/faces.yaml, from scratch, three seeds
    python benchmarks/faces.py run --how pretrained         # examples/pretrained_cnn, with weights of ImageNet
    python benchmarks/faces.py table

Four splits of five people each, so that everybody is tested once; runs stand in `--runs` and go on where they stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from people import equal_error, trained, unit
from quality import DATA, keep, stored

RESULTS = Path(__file__).parent / "results" / "faces.json"
ROOT = Path(__file__).parents[1]
FACES, EXAMPLE = DATA.parent / "faces", ROOT / "examples" / "pretrained_cnn"
CONFIGS = {"scratch": ROOT / "configs" / "faces.yaml", "pretrained": EXAMPLE / "faces.yaml"}
WAYS = ("raw pixels", *CONFIGS)


def held_out(split: int) -> list[str]:
    """Return the five people whom a split tests."""
    people = sorted(each.name for each in FACES.iterdir() if each.is_dir())
    return sorted(np.random.default_rng(0).permutation(people)[5 * split : 5 * split + 5].tolist())


def run(how: str, split: int, seed: int, runs: Path) -> None:
    """Train on 15 people, and keep what the five others show, unless that is done."""
    key = {"how": how, "split": split, "seed": seed}
    if any(key == {name: row[name] for name in key} for row in stored(RESULTS)["rows"]):
        return
    held, facts = held_out(split), {}
    if how == "raw pixels":
        from textsiam.evaluation.raw_pixels import RawPixels

        encode: Any = RawPixels().vectors
    else:
        sys.path.insert(0, str(EXAMPLE))
        asked = ["--data.train", str(FACES), "--data.unseen", json.dumps(held), "--training.seed", str(seed)]
        outcome = trained(CONFIGS[how], runs / f"{how}_{split}_{seed}", *asked)
        encode = outcome.twin.encode
        facts = {"steps": outcome.result.steps, "training_seconds": outcome.result.seconds}
    files = {name: sorted(map(str, (FACES / name).glob("*.png"))) for name in held}
    row = {**key, "held": held, "eer": pair_eer(encode, files), **facts}
    keep(RESULTS, [row])
    print(json.dumps(row), flush=True)


def pair_eer(encode: Any, files: dict[str, list[str]]) -> float:
    """Return the equal error rate of all pairs of pictures."""
    vectors = unit(np.concatenate([encode(each) for each in files.values()]))
    who = np.repeat(np.arange(len(files)), [len(each) for each in files.values()])
    left, right = np.triu_indices(len(who), 1)
    same = who[left] == who[right]
    return equal_error(np.einsum("ij,ij->i", vectors[left], vectors[right]), same.astype(float), (~same).astype(float))


def table() -> None:
    """Print the rows as Markdown."""
    print("| EER % | 1 | 2 | 3 | 4 | mean | runs |\n|" + " --- |" * 7)
    for how in WAYS:
        rows = [row for row in stored(RESULTS)["rows"] if row["how"] == how]
        by = [[row["eer"] for row in rows if row["split"] == split] for split in range(4)]
        cells = [f"{100 * np.mean(each):.1f}" if each else "–" for each in by]
        mean = f"{100 * np.mean([np.mean(each) for each in by]):.1f}" if all(by) else "–"
        print(f"| {how} | {' | '.join(cells)} | {mean} | {len(rows)} |")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--how", nargs="+", default=["raw pixels", "scratch"], choices=WAYS)
    parser.add_argument("--splits", nargs="+", type=int, default=list(range(4)))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs") / "faces")
    given = parser.parse_args()
    if given.what == "table":
        table()
        return
    for how in given.how:
        for seed in given.seeds if how in CONFIGS else [0]:
            for split in given.splits:
                run(how, split, seed, given.runs)


if __name__ == "__main__":
    main()
