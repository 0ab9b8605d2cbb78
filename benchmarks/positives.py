"""Learning from duplicates alone: textsiam's mined negatives against sentence-transformers' in-batch ones.

Both get the same duplicates of Quora's train file, labels hidden, the same backbone, batch size and grid of learning
rates and epochs. The cell of the grid is chosen on duplicates that training never saw, set against the nearest wording;
Quora dev is looked at once, by the chosen twin of each method. textsiam takes negatives from the texts of all
questions of train, which MultipleNegativesRankingLoss has no use for.

    python benchmarks/positives.py run minilm --pairs 6000
    python benchmarks/positives.py run scratch --pairs 30000     # a backbone that has never seen Quora
    python benchmarks/positives.py table

Each twin of the grid is kept in the folder `--work`, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from quality import DATA, finished, keep, stored

RESULTS = Path(__file__).parent / "results" / "positives.json"
METHODS = ("textsiam", "MultipleNegativesRankingLoss")
GRIDS = {
    "minilm": {"epochs": (1, 2), "learning_rate": (2e-5, 1e-4)},
    "scratch": {"epochs": (2, 6), "learning_rate": (5e-4, 2e-3)},
}
BATCH_SIZE = 64
HELD_OUT = 1000


def material(count):
    """Return duplicates to learn from, others to choose by, and the texts that negatives come from."""
    from textsiam.data.pairs import read_pairs
    from textsiam.data.splits import split_pairs
    from textsiam.training.mining.positives_only import positives_alone

    everything = read_pairs(DATA / "train.tsv.gz")
    cut = split_pairs(positives_alone(everything), validation=0.1, calibration=0.0, test=0.0, seed=0)
    held_out = cut.validation.select(np.arange(HELD_OUT))
    others = sorted(set(everything.texts) - set(cut.train.texts) - set(cut.validation.texts))
    some = np.sort(np.random.default_rng(0).permutation(len(cut.train))[:count])
    return cut.train.select(some), held_out, [*others, *sorted(set(cut.train.texts))]


def untrained(backbone, texts):
    """Return the twin that both methods start from."""
    from textsiam.inference.encoders import MINILM
    from textsiam.inference.scratch import scratch_text_encoder
    from textsiam.models.twin import Twin

    if backbone == "minilm":
        return Twin.from_pretrained(MINILM)
    return Twin(scratch_text_encoder(texts, vocabulary=8192, hidden=128, layers=2, heads=2, max_tokens=64, seed=0))


def train_peer(twin, train, learning_rate, epochs):
    """Train in place with sentence-transformers' trainer and MultipleNegativesRankingLoss."""
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer import losses

    from textsiam.inference.fast.fast_tower import fast_dtype

    model = twin.left
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder, num_train_epochs=epochs, per_device_train_batch_size=BATCH_SIZE, learning_rate=learning_rate,
            warmup_steps=0.1, use_cpu=model.device.type == "cpu", bf16=fast_dtype(model.device) == torch.bfloat16,
            save_strategy="no", report_to="none", logging_steps=50, seed=0, data_seed=0, disable_tqdm=True,
        )  # fmt: skip
        rows = Dataset.from_dict({"anchor": train.left_texts, "positive": train.right_texts})
        loss = losses.MultipleNegativesRankingLoss(model)
        SentenceTransformerTrainer(model, arguments, train_dataset=rows, loss=loss).train()
    model.eval()


def train_ours(twin, pairs, learning_rate, epochs):
    """Train in place as `data.labels: positives` does."""
    from textsiam.training.loop import train as fit
    from textsiam.training.losses import OnlineContrastiveLoss
    from textsiam.training.losses.objective import Objective
    from textsiam.training.settings import Settings

    settings = Settings(
        epochs=epochs, batch_size=2 * BATCH_SIZE, learning_rate=learning_rate, tracker="none", keep_checkpoints=1,
        checkpoint_every=10**6,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        objective = Objective({"online_contrastive": OnlineContrastiveLoss()})
        finished(fit(twin, pairs, objective, output=folder, settings=settings, quiet=True))


def precision(twin, pairs):
    """Return the average precision and the scores of labelled pairs."""
    from sklearn.metrics import average_precision_score

    scores = twin.pair_similarity(pairs.texts, pairs.left, pairs.right)
    return float(average_precision_score(pairs.labels, scores)), scores


def run(backbone, count, work, grid):
    """Train the grid of both methods, and judge the chosen twin of each on Quora dev; keeps the rows."""
    from textsiam.data.pairs import read_pairs
    from textsiam.models.twin import Twin
    from textsiam.training.mining.positives_only import with_trained_negatives

    train, held_out, others = material(count)
    dev, start = read_pairs(DATA / "dev.tsv.gz"), untrained(backbone, train.texts)
    held_out, ours = with_trained_negatives(start, held_out), None
    chosen = {"untrained": (start, {})}
    facts = {"backbone": backbone, "pairs": len(train), "grid": grid}
    for epochs, rate in itertools.product(*grid.values()):
        for method in METHODS:
            folder, seconds = work / f"{backbone}-{len(train)}" / f"{method}-{rate}-{epochs}", None
            if not folder.exists():
                twin, started = untrained(backbone, train.texts), time.perf_counter()
                if method == "textsiam":
                    ours = ours or with_trained_negatives(start, train, others=others)
                    train_ours(twin, ours, rate, epochs)
                else:
                    train_peer(twin, train, rate, epochs)
                seconds = time.perf_counter() - started
                twin.save_pretrained(folder)
            twin = Twin.from_pretrained(folder)
            cell = {"learning_rate": rate, "epochs": epochs, "held_out": precision(twin, held_out)[0]}
            print(backbone, method, cell, seconds and f"{seconds:.0f} s", flush=True)
            if method not in chosen or cell["held_out"] > chosen[method][1]["held_out"]:
                chosen[method] = twin, cell
    scores, rows = {}, []
    for method, (twin, cell) in chosen.items():
        value, scores[method] = precision(twin, dev)
        rows.append({**facts, "method": method, **cell, "average_precision": value})
    rows[-1]["textsiam_is_better_by"] = better(dev, *(scores[method] for method in METHODS))
    print(json.dumps(rows, indent=1), flush=True)
    keep(RESULTS, rows)


def better(pairs, scores, others, resamples=300):
    """Return by how much the average precision differs, with a 95 % interval over clusters of questions."""
    from sklearn.metrics import average_precision_score

    from textsiam.data.components import connected_components

    clusters = connected_components(len(pairs.texts), pairs.left, pairs.right)[pairs.left]
    _, cluster = np.unique(clusters, return_inverse=True)
    count, rng, found = int(cluster.max()) + 1, np.random.default_rng(0), []
    for _ in range(resamples):
        weight = rng.multinomial(count, np.full(count, 1 / count))[cluster]
        one, other = (average_precision_score(pairs.labels, s, sample_weight=weight) for s in (scores, others))
        found.append(one - other)
    whole = [float(average_precision_score(pairs.labels, s)) for s in (scores, others)]
    low, high = np.quantile(found, (0.025, 0.975))
    return {"value": whole[0] - whole[1], "low": float(low), "high": float(high)}


def table():
    """Print the rows as Markdown."""
    print("| backbone | duplicates | method | rate × epochs chosen | AP on held-out links % | AP on Quora dev % |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in stored(RESULTS)["rows"]:
        cell = f"{row['learning_rate']:g} × {row['epochs']}" if "epochs" in row else "–"
        held_out = f"{100 * row['held_out']:.1f}" if "held_out" in row else "–"
        gain = row.get("textsiam_is_better_by")
        more = (
            ""
            if gain is None
            else "; textsiam {value:+.1f} ({low:+.1f} to {high:+.1f})".format(
                **{name: 100 * each for name, each in gain.items()}
            )
        )
        value = f"{100 * row['average_precision']:.1f}{more}"
        print(f"| {row['backbone']} | {row['pairs']:,} | {row['method']} | {cell} | {held_out} | {value} |")


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table")
    runner = commands.add_parser("run")
    runner.add_argument("backbone", choices=tuple(GRIDS))
    runner.add_argument("--pairs", type=int, default=6000)
    runner.add_argument("--epochs", type=int, nargs="+", help="of the grid; the default has two")
    runner.add_argument("--work", type=Path, default=Path("runs/positives"))
    arguments = parser.parse_args()
    if arguments.command == "table":
        table()
    else:
        grid = GRIDS[arguments.backbone] | ({"epochs": arguments.epochs} if arguments.epochs else {})
        run(arguments.backbone, arguments.pairs, arguments.work, grid)


if __name__ == "__main__":
    main()
