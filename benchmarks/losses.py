"""Every loss on the same pairs, backbone and steps, and the recipe with each of its parts changed.

Measured are AP and accuracy on Quora dev, and what that does to other data.

    python benchmarks/losses.py run losses                       # every loss, 80 steps
    python benchmarks/losses.py run parts                        # the recipe, one epoch, without or with a part
    python benchmarks/losses.py run losses --only cosent --seeds 0 1 2
    python benchmarks/losses.py run recipes                      # whole configs, as a user runs them
    python benchmarks/losses.py table losses                     # Markdown for the docs

Each run adds a row to the JSON file; rows that are there already are not run again.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from elsewhere import elsewhere
from quality import DATA, finished, judge, keep, splits, stored

RESULTS = Path(__file__).parent / "results" / "losses.json"
EPOCH = 348  # steps
# What is told to `textsiam train` instead of the losses of the recipe.
LOSSES = {
    "contrastive": ["--loss.contrastive.margin", "0.5"],
    "contrastive, squared margin": ["--loss.contrastive.form", "squared_margin", "--loss.contrastive.margin", "0.5"],
    "contrastive, euclidean": ["--loss.contrastive.distance", "euclidean", "--loss.contrastive.margin", "1.0"],
    "online_contrastive": ["--loss.online_contrastive.margin", "0.5"],
    "cosent": ["--loss.cosent.temperature", "0.05"],
    "softmax": ["--loss.softmax.weight", "1"],
    "triplet": ["--loss.triplet.margin", "0.3"],
    "info_nce": ["--loss.info_nce.temperature", "0.05"],
    "info_nce, hard negatives": ["--loss.info_nce.hard_negatives", "true"],
    "n_pair": ["--loss.n_pair.temperature", "0.05"],
    "angular": ["--loss.angular.degrees", "45"],
    "batch_triplet, all": ["--loss.batch_triplet.mining", "all"],
    "batch_triplet, hard": ["--loss.batch_triplet.mining", "hard"],
    "batch_triplet, hard, soft margin": ["--loss.batch_triplet.soft", "true"],
    "batch_triplet, semi_hard": ["--loss.batch_triplet.mining", "semi_hard"],
    "batch_triplet, distance_weighted": ["--loss.batch_triplet.mining", "distance_weighted"],
    "batch_triplet, hard, balance 1": ["--loss.batch_triplet.balance", "1"],
}  # fmt: skip
# What is told to it beside the recipe.
PARTS = {
    "recipe, one epoch": [],
    "without info_nce": ["--loss.info_nce", "null"],
    "ten times the info_nce": ["--loss.info_nce.weight", "0.05"],
    "pairs as they come (75 % duplicates)": ["--training.duplicate_share", "null"],
    "without the head": ["--model.head", "null", "--loss.head", "null"],
    "a head that the towers do not feel": ["--loss.head.frozen", "true"],
    "a Mahalanobis head": ["--model.head.kind", "mahalanobis"],
    "mean of the weights (0.99)": ["--training.ema_decay", "0.99"],
    "semi-hard negatives mined, a quarter of the batch": [
        "--training.mine.category", "semi-hard", "--training.mine.as_pairs", "0.25"],
    "hard negatives mined, a quarter of the batch": [
        "--training.mine.category", "hard", "--training.mine.as_pairs", "0.25"],
    "cosent beside": ["--loss.cosent.weight", "0.1"],
}  # fmt: skip


RECIPES = {"qqp_reranked": "configs/qqp_reranked.yaml"}


def run_recipe(name: str, seed: int) -> list[dict]:
    """Run a whole config; returns a row for the untrained twin, the trained one, and the one with its reranker."""
    from textsiam.config.run import read_config
    from textsiam.inference.encoders import MINILM
    from textsiam.models.twin import Twin
    from textsiam.recipe import run as run_config

    data = ["--data.train", str(DATA / "train.tsv.gz"), "--data.test", str(DATA / "dev.tsv.gz")]
    with tempfile.TemporaryDirectory() as folder:
        rest = ["--output", f"{folder}/run", "--training.seed", str(seed), "--training.tracker", "none"]
        started = time.perf_counter()
        outcome = run_config(read_config([str(Path(__file__).parents[1] / RECIPES[name]), *data, *rest]))
        seconds = time.perf_counter() - started
    twin, rows = outcome.twin, []
    reranker = twin.reranker
    for evaluation in outcome.evaluations:
        kind = evaluation.name
        twin.reranker = reranker if kind == "reranked" else None
        judged = Twin.from_pretrained(MINILM) if kind == "zero-shot" else twin
        fields = ("average_precision", "roc_auc", "accuracy", "f1", "calibration_error")
        row = {"kind": "recipes", "name": f"{name}, {kind}", "seed": seed, "steps": outcome.result.steps}
        row |= {"seconds": seconds, "training_seconds": outcome.result.seconds}
        row |= {"reranker_seconds": outcome.reranker_seconds if kind == "reranked" else None}
        row |= {field: getattr(evaluation.report, field).to_dict() for field in fields}
        rows.append(row | elsewhere(judged, DATA.parent))
    return rows


def run(kind: str, name: str, seed: int, steps: int) -> dict:
    """Train one variant and judge it; returns its row."""
    from textsiam.config.run import build_objective, build_twin, read_config
    from textsiam.training.loop import train

    recipe = str(Path(__file__).parents[1] / "configs/qqp.yaml")
    off = [
        x
        for key in ("loss.online_contrastive", "loss.info_nce", "loss.head", "model.head")
        for x in (f"--{key}", "null")
    ]
    changed = [*off, *LOSSES[name]] if kind == "losses" else PARTS[name]
    config = read_config([recipe, *changed, "--training.seed", str(seed)])
    pairs, _, calibration, test = splits()
    twin = build_twin(config.model, pairs, seed=seed)
    settings = replace(config.training, max_steps=steps, tracker="none", seeds=1)
    with tempfile.TemporaryDirectory() as folder:
        result = finished(train(twin, pairs, build_objective(config.loss, twin.head), output=folder, settings=settings))
    row = {"kind": kind, "name": name, "seed": seed, "steps": steps, "batch_size": settings.batch_size}
    row["seconds"] = result.seconds
    return row | judge(twin, calibration, test) | elsewhere(twin, DATA.parent)


def keep_and_say(rows: list[dict]) -> None:
    """Add rows to the results."""
    keep(RESULTS, rows)
    for row in rows:
        print(row["name"], row["seed"], row["average_precision"], flush=True)


def table(kind: str) -> None:
    """Print the rows as Markdown, best first; the mean over seeds, with the range where there are several."""
    rows = defaultdict(list)
    for row in stored(RESULTS)["rows"]:
        if row["kind"] == kind:
            rows[row["name"]].append(row)

    def cell(name: str, key: str) -> str:
        values = [100 * (row[key]["value"] if isinstance(row[key], dict) else row[key]) for row in rows[name]]
        spread = f" ({min(values):.1f}–{max(values):.1f})" if len(values) > 1 else ""
        return f"{statistics.mean(values):.1f}{spread}"

    keys = ("average_precision", "accuracy", "yahoo_ap", "sts_spearman", "cranfield_ndcg_at_10")
    print(f"| {kind} | seeds | Quora AP % | accuracy % | Yahoo AP % | STS-B Spearman % | Cranfield nDCG@10 % |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in sorted(rows, key=lambda n: -statistics.mean(r["average_precision"]["value"] for r in rows[n])):
        print(f"| {name} | {len(rows[name])} | {' | '.join(cell(name, key) for key in keys)} |")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("table", "run"):
        sub = commands.add_parser(command)
        sub.add_argument("kind", choices=("losses", "parts", "recipes"))
    sub.add_argument("--only", nargs="+", help="names of some")
    sub.add_argument("--seeds", nargs="+", type=int, default=[0])
    sub.add_argument("--steps", type=int, help="80 for losses, an epoch for parts")
    arguments = parser.parse_args()
    if arguments.command == "table":
        table(arguments.kind)
        return
    kind = arguments.kind
    if kind == "recipes":
        for name in arguments.only or RECIPES:
            for seed in arguments.seeds:
                keep_and_say(run_recipe(name, seed))
        return
    steps = arguments.steps or (80 if kind == "losses" else EPOCH)
    for name in arguments.only or (LOSSES if kind == "losses" else PARTS):
        for seed in arguments.seeds:
            key = (kind, name, seed, steps)
            if key in {(r["kind"], r["name"], r["seed"], r["steps"]) for r in stored(RESULTS)["rows"]}:
                continue
            keep_and_say([run(*key)])


if __name__ == "__main__":
    main()
