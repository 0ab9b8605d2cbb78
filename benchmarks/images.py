"""Image twins on known digits and on characters of alphabets that training never saw; the nearest pixels beside.

    python benchmarks/images.py run mnist                   # configs/mnist.yaml: known digits
    python benchmarks/images.py run omniglot                # configs/omniglot.yaml
    python benchmarks/images.py run omniglot --losses info_nce contrastive triplet --steps 600   # equal steps for each
    python benchmarks/images.py table                       # Markdown for the docs

Omniglot: `images_background_small1`, five alphabets; each in turn is the test and the other four train. Each run adds a
row to the JSON file; rows that are there already are not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from quality import DATA, keep, stored

RESULTS = Path(__file__).parent / "results" / "images.json"
CONFIGS = Path(__file__).parents[1] / "configs"
MNIST = DATA.parent / "mnist"
OMNIGLOT = DATA.parent / "omniglot" / "images_background_small1.zip"
ALPHABETS = ("Balinese", "Early_Aramaic", "Greek", "Korean", "Latin")
# What is told to configs/omniglot.yaml in place of its loss; pairs and triplets take batches as they come.
LOSSES = {
    "info_nce": [],
    "contrastive": ["--loss.info_nce", "null", "--loss.online_contrastive.margin", "0.5",
                    "--training.per_cluster", "null"],
    "triplet": ["--loss.info_nce", "null", "--loss.batch_triplet.mining", "semi_hard", "--training.per_cluster", "4"],
}  # fmt: skip


def trained(*arguments: str):
    """Run a config; returns the outcome and its seconds."""
    from textsiam.config.run import read_config
    from textsiam.recipe import run

    with tempfile.TemporaryDirectory() as folder:
        rest = ["--output", f"{folder}/run", "--training.tracker", "none"]
        started = time.perf_counter()
        outcome = run(read_config([*arguments, *rest]))
        return outcome, time.perf_counter() - started


def digits() -> dict:
    """Return the row of MNIST: ten known digits."""
    from textsiam.images import draw_pairs, read_images

    files = [str(MNIST / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k")]
    outcome, seconds = trained(str(CONFIGS / "mnist.yaml"), "--data.train", files[0], "--data.test", files[1])
    row = {"data": "mnist", "loss": "contrastive", "seconds": seconds, **_training(outcome)}
    return row | _measures(outcome.twin, draw_pairs(read_images(files[1]), 10_000))


def _training(outcome) -> dict:
    return {"training_seconds": outcome.result.seconds, "steps": outcome.result.steps}


def _measures(twin, pairs) -> dict:
    from textsiam.evaluation.pairs import evaluate_pairs
    from textsiam.evaluation.verification import verification_report

    found = evaluate_pairs(twin, pairs)
    verified = verification_report(found.similarities, found.labels, threshold=found.threshold, units=found.units)
    return {
        "accuracy": found.report.accuracy.to_dict(),
        "eer": verified.eer.to_dict(),
        "tar_at_far": {str(k): v and v.to_dict() for k, v in verified.tar_at_far.items()},
        "pixels": _pixel_pairs(pairs),
    }


def _pixel_pairs(pairs) -> float:
    """Return the best pair accuracy of the cosine of raw pixels: its threshold is chosen on these very pairs."""
    import numpy as np

    from textsiam.images.names import open_picture

    images = np.stack([np.asarray(open_picture(name), np.float32).ravel() for name in pairs.texts])
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    scores = (images[pairs.left] * images[pairs.right]).sum(1)
    order = np.argsort(-scores)
    right = np.cumsum(np.where(pairs.labels[order] == 1, 1, -1)) + (pairs.labels == 0).sum()
    return float(right.max() / len(pairs))


def characters(loss: str, alphabet: str, steps: int | None) -> dict:
    """Return the row of one alphabet that training never saw."""
    from textsiam.evaluation.few_shot import evaluate_few_shot, nearest_neighbour_baseline
    from textsiam.images import read_images

    data = ["--data.train", str(OMNIGLOT), "--data.unseen", json.dumps([alphabet])]
    short = [] if steps is None else ["--training.max_steps", str(steps)]
    outcome, seconds = trained(str(CONFIGS / "omniglot.yaml"), *data, *LOSSES[loss], *short)
    images = read_images(OMNIGLOT)
    unseen = images.of_classes([name for name in images.class_names if name.startswith(f"{alphabet}/")])
    row = {"data": alphabet, "loss": loss, "seconds": seconds, "training_seconds": outcome.result.seconds}
    row |= {"steps": outcome.result.steps, "asked_steps": steps}
    row |= {"one_shot": evaluate_few_shot(outcome.twin, unseen, way=20, shot=1).to_dict()}
    return row | {"pixels": nearest_neighbour_baseline(unseen, way=20, shot=1).to_dict()}


def _shown(figure: dict[str, Any] | None) -> str:
    """Return a figure in percent with its interval, or the word that stands in its place."""
    if figure is None:
        return "–"
    low, high = (figure[name] for name in ("low", "high"))
    known = low is not None and low == low
    return f"{100 * figure['value']:.2f} " + (f"({100 * low:.2f}–{100 * high:.2f})" if known else figure["note"])


def table() -> None:
    """Print the rows as Markdown."""
    rows = stored(RESULTS)["rows"]
    print("| MNIST | pair accuracy % | EER % | TAR % at FAR 1 % | pixels: accuracy % | training |\n|" + " --- |" * 6)
    for row in (row for row in rows if "accuracy" in row):
        tar = row["tar_at_far"]["0.01"]
        cells = [_shown(c) for c in (row["accuracy"], row["eer"], tar)]
        print(f"| {row['data']} | {' | '.join(cells)} | {100 * row['pixels']:.1f} | {row['training_seconds']:.0f} s |")
    print("\n| 20-way one-shot % | " + " | ".join(ALPHABETS) + " | mean |\n|" + " --- |" * (len(ALPHABETS) + 2))
    shots = [r for r in rows if "one_shot" in r]
    found: dict[str, dict[str, float]] = {}
    for row in sorted(shots, key=lambda r: (r.get("asked_steps") or 10**9, r["loss"])):
        asked = row.get("asked_steps")
        name = f"{row['loss']}, {asked:,} steps" if asked else f"{row['loss']}, configs/omniglot.yaml"
        found.setdefault(name, {})[row["data"]] = row["one_shot"]["value"]
    found["nearest neighbour of pixels"] = {r["data"]: r["pixels"]["value"] for r in shots}
    for loss, of in found.items():
        cells = [f"{100 * of[a]:.1f}" if a in of else "–" for a in ALPHABETS]
        mean = f"{100 * statistics.mean(of.values()):.1f}" if len(of) == len(ALPHABETS) else "–"
        print(f"| {loss} | {' | '.join(cells)} | {mean} |")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table")
    runner = commands.add_parser("run")
    runner.add_argument("data", nargs="+", choices=("mnist", "omniglot"))
    runner.add_argument("--losses", nargs="+", default=["info_nce"], choices=LOSSES)
    runner.add_argument("--steps", type=int, help="of Omniglot; as many as the config says without")
    runner.add_argument("--alphabets", nargs="+", default=list(ALPHABETS), choices=ALPHABETS)
    arguments = parser.parse_args()
    if arguments.command == "table":
        table()
        return
    steps = arguments.steps
    jobs: list = [(digits, (), ("mnist", "contrastive", None))] if "mnist" in arguments.data else []
    if "omniglot" in arguments.data:
        jobs += [
            (characters, (loss, a, steps), (a, loss, steps)) for loss in arguments.losses for a in arguments.alphabets
        ]
    for job, given, key in jobs:
        if key in {(row["data"], row["loss"], row.get("asked_steps")) for row in stored(RESULTS)["rows"]}:
            continue
        row = job(*given)
        keep(RESULTS, [row])
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
