"""Every loss on the same pairs, backbone and steps: AP on Quora dev, and what that does to other data.

    python benchmarks/losses.py run                              # every loss, one seed
    python benchmarks/losses.py run online_contrastive --seeds 0 1 2
    python benchmarks/losses.py table                            # Markdown for the docs

Each run adds a row to the JSON file; rows that are there already are not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from elsewhere import elsewhere
from quality import DATA, facts, judge, splits

RESULTS = Path(__file__).parent / "results" / "losses.json"
# What is told to `textsiam train` beside the settings that all share.
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
    "batch_all": ["--loss.batch_all.margin", "0.3"],
    "batch_hard": ["--loss.batch_hard.margin", "0.3"],
    "batch_hard, soft margin": ["--loss.batch_hard.soft", "true"],
    "batch_semi_hard": ["--loss.batch_semi_hard.margin", "0.3"],
    "batch_distance_weighted": ["--loss.batch_distance_weighted.margin", "0.3"],
    "debiased_triplet": ["--loss.debiased_triplet.margin", "0.3"],
    "online_contrastive + info_nce": [
        "--loss.online_contrastive.margin", "0.5", "--loss.info_nce.weight", "0.005"],
    "online_contrastive + info_nce + head": [
        "--loss.online_contrastive.margin", "0.5", "--loss.info_nce.weight", "0.005",
        "--model.head.kind", "mlp", "--loss.head.weight", "0.3"],
}  # fmt: skip


def run(name: str, seed: int, steps: int) -> dict:
    """Train with one loss and judge it; returns its row."""
    from textsiam.config import build_objective, build_twin, read_config
    from textsiam.training.loop import train

    base = str(Path(__file__).parents[1] / "configs/qqp.yaml")
    off = [
        "--loss.online_contrastive",
        "null",
        "--loss.info_nce",
        "null",
        "--loss.head",
        "null",
        "--model.head",
        "null",
    ]
    config = read_config([base, *off, *LOSSES[name], "--training.seed", str(seed)])
    pairs, _, calibration, test = splits()
    twin = build_twin(config.model, pairs, seed=seed)
    objective = build_objective(config.loss, twin.head)
    settings = replace(config.training, max_steps=steps, tracker="none", average=None)
    with tempfile.TemporaryDirectory() as folder:
        result = train(twin, pairs, objective, output=folder, settings=settings)
    row = {"loss": name, "seed": seed, "steps": steps, "batch_size": settings.batch_size, "seconds": result.seconds}
    return row | judge(twin, calibration, test) | elsewhere(twin, DATA.parent)


def table() -> None:
    """Print the rows as Markdown, best first; the mean over seeds, with the range where there are several."""
    rows = defaultdict(list)
    for row in json.loads(RESULTS.read_text())["rows"]:
        rows[row["loss"]].append(row)

    def cell(name: str, key: str) -> str:
        values = [100 * (row[key]["value"] if isinstance(row[key], dict) else row[key]) for row in rows[name]]
        spread = f" ({min(values):.1f}–{max(values):.1f})" if len(values) > 1 else ""
        return f"{statistics.mean(values):.1f}{spread}"

    keys = ("average_precision", "accuracy", "yahoo_ap", "sts_spearman", "cranfield_ndcg_at_10")
    print("| loss | seeds | Quora AP % | accuracy % | Yahoo AP % | STS-B Spearman % | Cranfield nDCG@10 % |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in sorted(rows, key=lambda n: -statistics.mean(r["average_precision"]["value"] for r in rows[n])):
        print(f"| {name} | {len(rows[name])} | {' | '.join(cell(name, key) for key in keys)} |")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table")
    runner = commands.add_parser("run")
    runner.add_argument("losses", nargs="*", help=f"of {', '.join(LOSSES)}; all when none is named")
    runner.add_argument("--seeds", nargs="+", type=int, default=[0])
    runner.add_argument("--steps", type=int, default=80)
    arguments = parser.parse_args()
    if arguments.command == "table":
        table()
        return
    for name in arguments.losses or LOSSES:
        for seed in arguments.seeds:
            results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
            if any((r["loss"], r["seed"], r["steps"]) == (name, seed, arguments.steps) for r in results["rows"]):
                continue
            results["rows"].append(run(name, seed, arguments.steps))
            results["facts"] = facts()
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            print(name, seed, results["rows"][-1]["average_precision"], flush=True)


if __name__ == "__main__":
    main()
