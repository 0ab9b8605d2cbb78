"""Image twins on digits and on characters of alphabets that training never saw; the nearest neighbour of pixels beside.

    python benchmarks/images.py run mnist                   # configs/mnist.yaml: known digits
    python benchmarks/images.py run unseen --seeds 0 1 2    # configs/mnist_unseen.yaml: 7, 8 and 9 are never seen
    python benchmarks/images.py run together --seeds 0 1 2  # four twins of characters, and a cohort
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from encode import child_of
from quality import DATA, keep, stored

RESULTS = Path(__file__).parent / "results" / "images.json"
CONFIGS = Path(__file__).parents[1] / "configs"
MNIST = DATA.parent / "mnist"
OMNIGLOT = DATA.parent / "omniglot" / "images_background_small1.zip"
NEW = ["7", "8", "9"]
# What is told to configs/mnist_unseen.yaml: digits and characters, as it is made for, or characters alone.
BOTH = ["--data.train", str(MNIST / "train-images-idx3-ubyte.gz"), "--data.more", json.dumps([str(OMNIGLOT)])]
CHARACTERS = ["--data.train", str(OMNIGLOT), "--data.more", "null", "--data.unseen", "null"]
# The ensemble has so many twins of characters, two of them trained at once: twelve minutes on two cores. Every other
# one sees what its drawings enclose.
MEMBERS, SHORTER = 4, ["--training.max_steps", "2500"]
ENCLOSURES = ["--model.scratch_image.enclosures", "true"]
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
    from textsiam.config import read_config
    from textsiam.recipe import run

    with tempfile.TemporaryDirectory() as folder:
        rest = ["--output", f"{folder}/run", "--training.tracker", "none"]
        started = time.perf_counter()
        outcome = run(read_config([*arguments, *rest]))
        return outcome, time.perf_counter() - started


def digits() -> dict:
    """Return the row of MNIST: ten known digits."""
    from textsiam.data.images import draw_pairs, read_images

    files = [str(MNIST / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k")]
    outcome, seconds = trained(str(CONFIGS / "mnist.yaml"), "--data.train", files[0], "--data.test", files[1])
    row = {"data": "mnist", "loss": "contrastive", "seconds": seconds, **_training(outcome)}
    return row | _measures(outcome.twin, draw_pairs(read_images(files[1]), 10_000))


def unseen(seed: int) -> dict:
    """Return the row of digits that training never saw, among themselves and among all ten."""
    outcome, seconds = trained(str(CONFIGS / "mnist_unseen.yaml"), *BOTH, "--training.seed", str(seed))
    row = {"data": "unseen", "loss": "info_nce", "seed": seed, "seconds": seconds, **_training(outcome)}
    return row | _of_new_digits(outcome.twin)


def member(seed: int, folder: str) -> dict:
    """Train a member of the ensemble on one core, and save it; what a child process prints."""
    import torch

    torch.set_num_threads(1)
    knobs = [*CHARACTERS, "--training.seed", str(seed), *SHORTER, *(ENCLOSURES if seed % 2 else [])]
    outcome, _ = trained(str(CONFIGS / "mnist_unseen.yaml"), *knobs)
    outcome.twin.save_pretrained(f"{folder}/{seed}")
    return _training(outcome)


def together(seed: int) -> list[dict]:
    """Return the rows of several twins whose scores are averaged, and of the same against a cohort of all characters.

    No twin has seen a digit. The threshold is that of pairs of the seven digits which are not asked about.
    """
    from textsiam.data.images import draw_pairs, read_images
    from textsiam.models.cohort import Cohort
    from textsiam.models.ensemble import Ensemble
    from textsiam.models.twin import Twin

    seeds, started = range(MEMBERS * seed, MEMBERS * (seed + 1)), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda k: child_of(__file__, "member", k, folder), seeds))
        seconds = time.perf_counter() - started
        ensemble = Ensemble([Twin.from_pretrained(f"{folder}/{k}") for k in seeds])
    known = read_images(MNIST / "train-images-idx3-ubyte.gz")
    pairs = draw_pairs(known.of_classes([name for name in known.class_names if name not in NEW]), 10_000)
    rows = []
    for name in ("four twins", "four twins and a cohort"):
        if name.endswith("cohort"):
            ensemble.head = Cohort.of(ensemble.encode(read_images(OMNIGLOT).names))
        ensemble.calibrate(pairs, rule="accuracy")
        row = {"data": f"unseen, {name}", "loss": "info_nce", "seed": seed, "seconds": seconds, "members": parts}
        rows.append(row | {"training_seconds": seconds, "steps": parts[0]["steps"]} | _of_new_digits(ensemble))
    return rows


def _of_new_digits(scorer) -> dict:
    """Measure what is said of pairs of unseen test digits, and of pairs of which one image at least is of those."""
    from textsiam.data.images import draw_pairs, read_images

    test = read_images(MNIST / "t10k-images-idx3-ubyte.gz")
    new = test.of_classes(NEW)
    found = _measures(scorer, draw_pairs(new, 10_000))
    return found | {"any": _measures(scorer, _with_one_of(draw_pairs(test, 40_000), set(new.names)))}


def _with_one_of(pairs, new: set[str]):
    """Keep 5,000 pairs of one digit and 5,000 of two, of which one image at least is new."""
    import numpy as np

    is_new = np.array([name in new for name in pairs.texts])
    asked = is_new[pairs.left] | is_new[pairs.right]
    return pairs.select(np.concatenate([np.flatnonzero(asked & (pairs.labels == label))[:5_000] for label in (0, 1)]))


def _training(outcome) -> dict:
    return {"training_seconds": outcome.result.seconds, "steps": outcome.result.steps}


def _measures(twin, pairs) -> dict:
    from textsiam.evaluation.pairs import evaluate_pairs
    from textsiam.evaluation.verification import verification_report

    found = evaluate_pairs(twin, pairs)
    verified = verification_report(found.similarities, found.labels, threshold=found.threshold)
    return {
        "accuracy": vars(found.report.accuracy),
        "eer": vars(verified.eer),
        "tar_at_far": {str(k): v and vars(v) for k, v in verified.tar_at_far.items()},
        "pixels": _pixel_pairs(pairs),
    }


def _pixel_pairs(pairs) -> float:
    """Return the best pair accuracy of the cosine of raw pixels: its threshold is chosen on these very pairs."""
    import numpy as np

    from textsiam.data.pictures import open_picture

    images = np.stack([np.asarray(open_picture(name), np.float32).ravel() for name in pairs.texts])
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    scores = (images[pairs.left] * images[pairs.right]).sum(1)
    order = np.argsort(-scores)
    right = np.cumsum(np.where(pairs.labels[order] == 1, 1, -1)) + (pairs.labels == 0).sum()
    return float(right.max() / len(pairs))


def characters(loss: str, alphabet: str, steps: int | None) -> dict:
    """Return the row of one alphabet that training never saw."""
    from textsiam.data.images import read_images
    from textsiam.evaluation.few_shot import evaluate_few_shot, nearest_neighbour_baseline

    data = ["--data.train", str(OMNIGLOT), "--data.unseen", json.dumps([alphabet])]
    short = [] if steps is None else ["--training.max_steps", str(steps)]
    outcome, seconds = trained(str(CONFIGS / "omniglot.yaml"), *data, *LOSSES[loss], *short)
    images = read_images(OMNIGLOT)
    unseen = images.of_classes([name for name in images.class_names if name.startswith(f"{alphabet}/")])
    row = {"data": alphabet, "loss": loss, "seconds": seconds, "training_seconds": outcome.result.seconds}
    row |= {"steps": outcome.result.steps, "asked_steps": steps}
    row |= {"one_shot": vars(evaluate_few_shot(outcome.twin, unseen, way=20, shot=1))}
    return row | {"pixels": vars(nearest_neighbour_baseline(unseen, way=20, shot=1))}


def table() -> None:
    """Print the rows as Markdown."""
    rows = stored(RESULTS)["rows"]
    print("| MNIST | pair accuracy % | EER % | TAR % at FAR 1 % | pixels: accuracy % | training |\n|" + " --- |" * 6)
    lines = [(row["data"], row) for row in rows if "accuracy" in row]
    lines = [(f"{name}, seed {row['seed']}" if "seed" in row else name, row) for name, row in lines]
    lines += [(f"{r['data']}: one image at least, seed {r['seed']}", {**r, **r["any"]}) for r in rows if "any" in r]
    for name, row in lines:
        tar = row["tar_at_far"]["0.01"]
        cells = [
            f"{100 * c['value']:.2f} ({100 * c['low']:.2f}–{100 * c['high']:.2f})"
            for c in (row["accuracy"], row["eer"], tar)
        ]
        print(f"| {name} | {' | '.join(cells)} | {100 * row['pixels']:.1f} | {row['training_seconds']:.0f} s |")
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
    child = commands.add_parser("member")
    for name, kind in (("seed", int), ("folder", str)):
        child.add_argument(name, type=kind)
    runner = commands.add_parser("run")
    runner.add_argument("data", nargs="+", choices=("mnist", "unseen", "together", "omniglot"))
    runner.add_argument("--losses", nargs="+", default=["info_nce"], choices=LOSSES)
    runner.add_argument("--steps", type=int, help="of Omniglot; as many as the config says without")
    runner.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the unseen digits")
    runner.add_argument("--alphabets", nargs="+", default=list(ALPHABETS), choices=ALPHABETS)
    arguments = parser.parse_args()
    if arguments.command == "table":
        table()
        return
    if arguments.command == "member":
        print(json.dumps(member(arguments.seed, arguments.folder)))
        return
    steps = arguments.steps
    jobs: list = [(digits, (), ("mnist", "contrastive", None))] if "mnist" in arguments.data else []
    if "unseen" in arguments.data:
        jobs += [(unseen, (seed,), ("unseen", "info_nce", seed)) for seed in arguments.seeds]
    if "together" in arguments.data:
        jobs += [(together, (seed,), ("unseen, four twins", "info_nce", seed)) for seed in arguments.seeds]
    if "omniglot" in arguments.data:
        jobs += [
            (characters, (loss, a, steps), (a, loss, steps)) for loss in arguments.losses for a in arguments.alphabets
        ]
    for job, given, key in jobs:
        if key in {
            (row["data"], row["loss"], row.get("seed", row.get("asked_steps"))) for row in stored(RESULTS)["rows"]
        }:
            continue
        made = job(*given)
        rows = made if isinstance(made, list) else [made]
        keep(RESULTS, rows)
        for row in rows:
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
