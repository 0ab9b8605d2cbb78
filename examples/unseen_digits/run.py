"""Twins of handwritten digits that training never saw: 7, 8 and 9, told apart pair by pair.

    python run.py one --seeds 0         # unseen.yaml: one twin of the other digits and of characters
    python run.py together              # seeds 0 1 2: four twins of characters alone, and score normalization: 90.0 %
    python run.py table                 # results.json as Markdown

MNIST's four files and Omniglot's `images_background_small1.zip` are looked for in the folders `mnist` and `omniglot` of
the folder that TEXTSIAM_DATA names. Each run adds rows to results.json; those that are there are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
RESULTS = HERE / "results.json"
DATA = Path(os.environ.get("TEXTSIAM_DATA", HERE.parents[2] / "shared" / "data"))
MNIST = DATA / "mnist"
OMNIGLOT = DATA / "omniglot" / "images_background_small1.zip"
NEW = ["7", "8", "9"]
# What is told to unseen.yaml: digits and characters, as it is made for, or characters alone.
BOTH = ["--data.train", str(MNIST / "train-images-idx3-ubyte.gz"), "--data.more", json.dumps([str(OMNIGLOT)])]
CHARACTERS = ["--data.train", str(OMNIGLOT), "--data.more", "null", "--data.unseen", "null"]
# The ensemble has so many twins of characters, two of them trained at once: ten minutes on two cores. Every other one
# sees what its drawings enclose.
MEMBERS, SHORTER = 4, ["--training.max_steps", "2500"]
ENCLOSURES = ["--model.builder", "{unseen_digits.drawing_tower: {enclosures: true}}"]


def trained(*arguments: str) -> tuple[Any, dict]:
    """Run unseen.yaml; return the twin, and its steps and seconds."""
    from textsiam.config.run import read_config
    from textsiam.recipe import run

    with tempfile.TemporaryDirectory() as folder:
        rest = ["--output", f"{folder}/run", "--training.tracker", "none"]
        outcome = run(read_config([str(HERE / "unseen.yaml"), *arguments, *rest]))
    assert outcome is not None
    return outcome.twin, {"training_seconds": outcome.result.seconds, "steps": outcome.result.steps}


def one(seed: int) -> list[dict]:
    """Return the row of a twin of seven digits and of characters."""
    twin, training = trained(*BOTH, "--training.seed", str(seed))
    return [{"data": "unseen", "seed": seed, **training, **of_new_digits(twin)}]


def member(seed: int, folder: str) -> dict:
    """Train a member of the ensemble on one core, and save it; what a child process prints."""
    import torch

    torch.set_num_threads(1)
    twin, training = trained(*CHARACTERS, "--training.seed", str(seed), *SHORTER, *(ENCLOSURES if seed % 2 else []))
    twin.save_pretrained(f"{folder}/{seed}")
    return training


def child(seed: int, folder: str) -> dict:
    """Have a member trained by a process of its own."""
    command = [sys.executable, __file__, "member", str(seed), folder]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def together(seed: int) -> list[dict]:
    """Return the rows of four twins whose scores are averaged, and of the same normalized by all characters.

    No twin has seen a digit. The threshold is that of pairs of the seven digits which are not asked about.
    """
    import unseen_digits  # noqa: F401 - registers the CNN of the saved twins

    from textsiam.images import draw_pairs, read_images
    from textsiam.models.ensemble import Ensemble
    from textsiam.models.score_normalization import ScoreNormalization
    from textsiam.models.twin import Twin

    seeds, started = range(MEMBERS * seed, MEMBERS * (seed + 1)), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda k: child(k, folder), seeds))
        seconds = time.perf_counter() - started
        ensemble = Ensemble([Twin.from_pretrained(f"{folder}/{k}") for k in seeds])
    known = read_images(MNIST / "train-images-idx3-ubyte.gz")
    pairs = draw_pairs(known.of_classes([name for name in known.class_names if name not in NEW]), 10_000)
    rows = []
    for name in ("four twins", "four twins, normalized"):
        if name.endswith("normalized"):
            ensemble.head = ScoreNormalization.of(ensemble.encode(read_images(OMNIGLOT).names))
        ensemble.calibrate(pairs, rule="accuracy")
        row = {"data": f"unseen, {name}", "seed": seed, "training_seconds": seconds, "members": parts}
        rows.append(row | {"steps": parts[0]["steps"]} | of_new_digits(ensemble))
    return rows


def of_new_digits(scorer: Any) -> dict:
    """Measure what is said of pairs of unseen test digits, and of pairs of which one image at least is of those."""
    import numpy as np

    from textsiam.images import draw_pairs, read_images

    test = read_images(MNIST / "t10k-images-idx3-ubyte.gz")
    new, pairs = test.of_classes(NEW), draw_pairs(test, 40_000)
    is_new = np.isin(pairs.texts, new.names)
    asked = is_new[pairs.left] | is_new[pairs.right]
    mixed = np.concatenate([np.flatnonzero(asked & (pairs.labels == label))[:5_000] for label in (0, 1)])
    return {**measures(scorer, draw_pairs(new, 10_000)), "any": measures(scorer, pairs.select(mixed))}


def measures(scorer: Any, pairs: Any) -> dict:
    """Return accuracy at the threshold of the decision, EER and TAR."""
    from textsiam.evaluation.pairs import evaluate_pairs
    from textsiam.evaluation.verification import verification_report

    found = evaluate_pairs(scorer, pairs)
    verified = verification_report(found.similarities, found.labels, threshold=found.threshold, units=found.units)
    tar = {str(far): value and value.to_dict() for far, value in verified.tar_at_far.items()}
    return {"accuracy": found.report.accuracy.to_dict(), "eer": verified.eer.to_dict(), "tar_at_far": tar}


def table(rows: list[dict]) -> None:
    """Print the rows as Markdown."""
    print("| pairs of 7, 8 and 9 | seed | % right | EER % | one image at least: % right | EER % |\n|" + " --- |" * 6)
    for row in rows:
        shown = [
            f"{100 * measured['value']:.1f}"
            for part in (row, row["any"])
            for measured in (part["accuracy"], part["eer"])
        ]
        print(f"| {row['data']} | {row['seed']} | {' | '.join(shown)} |")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table")
    part = commands.add_parser("member")
    part.add_argument("seed", type=int)
    part.add_argument("folder")
    for name in ("one", "together"):
        commands.add_parser(name).add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    if given.command == "table":
        table(kept["rows"])
        return
    if given.command == "member":
        print(json.dumps(member(given.seed, given.folder)))
        return
    job, name = (one, "unseen") if given.command == "one" else (together, "unseen, four twins")
    for seed in given.seeds:
        if (name, seed) not in {(row["data"], row["seed"]) for row in kept["rows"]}:
            kept["rows"] += job(seed)
            RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    table(kept["rows"])


if __name__ == "__main__":
    main()
