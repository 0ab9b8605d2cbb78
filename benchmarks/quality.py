"""Quality side by side: textsiam's recipe and sentence-transformers' trainer on the same pairs.

Both start from the same backbone and train on the same split with the same batch size; both are judged on the same
test pairs with a threshold from the same calibration pairs. Every run adds one row to the JSON file, so that a stopped
benchmark goes on where it was.

    python benchmarks/train.py run                            # pairs/s first, in alternating rounds
    python benchmarks/quality.py run zero_shot OnlineContrastiveLoss textsiam ...
    python benchmarks/quality.py table                        # Markdown for the README
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

DATA = Path(os.environ.get("TEXTSIAM_DATA", Path(__file__).parents[2] / "shared/data")) / "qqp"
RESULTS = Path(__file__).parent / "results" / "quality.json"
RECIPE = Path(__file__).parents[1] / "configs" / "qqp.yaml"
PEERS = ("ContrastiveLoss", "OnlineContrastiveLoss", "CoSENTLoss", "MultipleNegativesRankingLoss")
METHODS = ("zero_shot", *PEERS, "textsiam")
BATCH_SIZE = 128
# Share of duplicates among the public Quora pairs; the calibration pairs hold twice as many.
PRIOR = 0.369
_TELLING = ("avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
PACE_OF = {"OnlineContrastiveLoss": "peer bf16", "textsiam": "textsiam"}  # who of train.py runs at whose pace


def splits():
    """Return the train, validation, calibration and test pairs that every method gets."""
    from textsiam.data.pairs import read_pairs
    from textsiam.data.splits import split_pairs

    cut = split_pairs(read_pairs(DATA / "train.tsv.gz"), validation=0.05, calibration=0.05, test=0.0, seed=0)
    return cut.train, cut.validation, cut.calibration, read_pairs(DATA / "dev.tsv.gz")


def train_peer(
    loss_name, train, *, epochs=1.0, max_steps=-1, learning_rate=1e-4, batch_size=BATCH_SIZE, bf16=True, seed=0,
    callbacks=None,
):  # fmt: skip
    """Train with sentence-transformers' trainer, in bf16 where there is any; returns a twin and its seconds."""
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer import losses

    from textsiam.inference.encoders import text_encoder
    from textsiam.inference.fast.fast_tower import fast_dtype
    from textsiam.models.twin import Twin

    model = text_encoder()
    rows = {"sentence1": train.left_texts, "sentence2": train.right_texts, "label": train.labels.tolist()}
    if loss_name == "MultipleNegativesRankingLoss":
        kept = [i for i, y in enumerate(rows.pop("label")) if y == 1]
        rows = {name: [texts[i] for i in kept] for name, texts in rows.items()}
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder,
            num_train_epochs=epochs,
            max_steps=max_steps,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            warmup_steps=0.1,
            use_cpu=model.device.type == "cpu",
            bf16=bf16 and fast_dtype(model.device) == torch.bfloat16,
            save_strategy="no",
            report_to="none",
            logging_steps=50,
            seed=seed,
            data_seed=seed,
        )
        loss = getattr(losses, loss_name)(model)
        trainer = SentenceTransformerTrainer(model, arguments, train_dataset=Dataset.from_dict(rows), loss=loss,
                                             callbacks=callbacks)  # fmt: skip
        started, cpu = time.perf_counter(), time.process_time()
        trainer.train()
        return Twin(model), time.perf_counter() - started, time.process_time() - cpu


def train_textsiam(train, validation, *, epochs=None, max_steps=None, options=()):
    """Train with configs/qqp.yaml; returns the twin, seconds (validation included) and those of all cores, passes."""
    changes = {} if epochs is None else {"epochs": epochs}
    if max_steps:
        changes |= {"max_steps": max_steps, "seeds": 1}
    with tempfile.TemporaryDirectory() as folder:
        started, cpu = time.perf_counter(), time.process_time()
        twin, _, settings = train_recipe(train, folder, options, validation=validation, **changes)
        passes = settings.epochs * settings.seeds
        return twin, time.perf_counter() - started, time.process_time() - cpu, passes


def train_recipe(train, folder, options=(), *, validation=None, resume=False, **changes):
    """Train in a folder as configs/qqp.yaml says, with options and settings changed; returns twin, result, settings."""
    from dataclasses import replace

    from textsiam.config.run import build_objective, build_twin, read_config
    from textsiam.training.loop import train as fit

    config = read_config([str(RECIPE), *options])
    settings = replace(config.training, tracker="none", **changes)
    twin = build_twin(config.model, train, seed=settings.seed)
    knobs = {"output": folder, "settings": settings, "validation": validation, "resume": resume}
    return twin, finished(fit(twin, train, build_objective(config.loss, twin.head), **knobs)), settings


def finished(result):
    """Return the result of a training, unless a signal stopped it: its twin is what it was then, and no row is kept."""
    if result.interrupted:
        raise SystemExit(f"stopped at step {result.steps}, nothing is kept of it")
    return result


def judge(twin, calibration, test):
    """Return what the README quotes of a twin: AP and accuracy on test at the calibration threshold."""
    from textsiam.evaluation.pairs import evaluate_pairs

    twin.calibrate(calibration, rule="accuracy", prior=PRIOR)
    report = evaluate_pairs(twin, test).report
    fields = ("average_precision", "roc_auc", "accuracy", "f1", "calibration_error")
    return {name: getattr(report, name).to_dict() for name in fields}


def run(method, epochs, share):
    """Train on a share of the pairs and judge one method; returns its row."""
    import numpy as np

    from textsiam.inference.encoders import text_encoder
    from textsiam.models.twin import Twin

    train, validation, calibration, test = splits()
    if share < 1:
        train = train.select(np.random.default_rng(0).permutation(len(train))[: int(share * len(train))])
    seconds = cpu_seconds = 0.0
    if method == "zero_shot":
        twin = Twin(text_encoder())
    elif method == "textsiam":
        twin, seconds, cpu_seconds, epochs = train_textsiam(train, validation, epochs=epochs)
    else:
        twin, seconds, cpu_seconds = train_peer(method, train, epochs=epochs or 1)
    row = {"method": method, "epochs": epochs, "batch_size": BATCH_SIZE, "pairs": len(train)}
    return row | {"seconds": seconds, "cpu_seconds": cpu_seconds} | judge(twin, calibration, test)


def facts():
    """Return what a figure depends on: hardware, versions, commit."""
    from importlib.metadata import version

    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    names = ("textsiam", "sentence-transformers", "transformers", "accelerate", "torch")
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        **accelerator(),
        "versions": {n: version(n) for n in names},
        "commit": commit,
    }


def accelerator():
    """Return the name of the GPU that torch takes by itself; nothing where there is none."""
    import torch

    return {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}


def results_file(name):
    """Return the file of a benchmark of speed: those of a GPU stand apart, and of processors that multiply tiles."""
    kind = "_gpu" if accelerator() else "_amx" if "amx_bf16" in processor() else ""
    return Path(__file__).parent / "results" / f"{name}{kind}.json"


def processor():
    """Return the name of the processor, and those of its instructions that figures depend on most."""
    from textsiam.inference.fast import cores

    name, instructions = cores.processor()
    return ", ".join([name, *(flag for flag in _TELLING if flag in instructions)])


def stored(file):
    """Return the results in a file, without rows where there is none."""
    return json.loads(file.read_text()) if file.exists() else {"rows": []}


def keep(file, rows):
    """Add rows to a file; it is read again first, since another process may have added some meanwhile."""
    file.parent.mkdir(exist_ok=True)
    results = stored(file)
    results["rows"] += rows
    results["facts"] = facts()
    file.write_text(json.dumps(results, indent=1) + "\n")


def table():
    """Print the rows as Markdown; the time is that of the pairs at the pace of the alternating rounds."""
    results = json.loads(RESULTS.read_text())
    paces = json.loads((RESULTS.parent / "train.json").read_text())["pairs_per_second"]
    paces = {row["method"]: paces.get(PACE_OF.get(row["method"], "")) for row in results["rows"]}
    print("| method | pairs x epochs | pairs/s | time at that pace | AP | accuracy | F1 | calibration error |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in results["rows"]:
        pace_of = paces[row["method"]]
        epochs = row["epochs"] or 1
        rate = f"{pace_of['median']:.0f} ({pace_of['low']:.0f}–{pace_of['high']:.0f})" if pace_of else "–"
        seconds = f"{row['pairs'] * epochs / pace_of['median']:.0f} s" if pace_of else "–"
        amount = "–" if row["method"] == "zero_shot" else f"{row['pairs']:,} x {epochs}"
        cells = [row[name] for name in ("average_precision", "accuracy", "f1", "calibration_error")]
        figures = " | ".join(f"{100 * c['value']:.1f} ({100 * c['low']:.1f}–{100 * c['high']:.1f})" for c in cells)
        print(f"| {row['method']} | {amount} | {rate} | {seconds} | {figures} |")


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table")
    runner = commands.add_parser("run")
    runner.add_argument("methods", nargs="+", choices=METHODS)
    runner.add_argument("--epochs", type=int)
    runner.add_argument(
        "--share", type=float, default=1.0, help="of the training pairs (to choose among the peer's losses)"
    )
    arguments = parser.parse_args()
    if arguments.command == "table":
        table()
    else:
        for method in arguments.methods:
            row = run(method, arguments.epochs, arguments.share)
            keep(RESULTS, [row])
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
