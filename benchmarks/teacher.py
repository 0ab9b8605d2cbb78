r"""A strong teacher for the twin: a cross-encoder five times its size grades pairs that nobody labelled.

The teacher is a backbone such as all-mpnet-base-v2 (109 million weights), fine-tuned as `train_reranker` does it on the
training pairs of Quora. It grades pairs of training questions that the untrained MiniLM finds alike (six neighbours of
each, none of them labelled), and the twin learns the order of the grades beside the labelled pairs (CoSENT), as
Augmented SBERT does it (Thakur et al. 2021).

    python benchmarks/teacher.py train BACKBONE TEACHER      # half an hour on two cores; results/teacher.json
    python benchmarks/teacher.py grade TEACHER graded.tsv    # 32,000 pairs, a quarter of an hour
    textsiam train configs/qqp.yaml --training.seeds 1 --data.train TRAIN --data.test DEV --output RUN --data.more \
        '[{"source": "graded.tsv", "weight": 0.1, "loss": {"cosent": {}}}]'
    python benchmarks/keeping.py judge "strong teacher=RUN/model"
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
from quality import facts, keep, splits

RESULTS = Path(__file__).parent / "results" / "teacher.json"
_NEIGHBOURS = 6
_JUDGED = 3000  # dev pairs
_BLOCK = 1000


def train(backbone, folder):
    """Fine-tune a cross-encoder on the training pairs, and judge it on dev pairs beside the untrained MiniLM."""
    from sklearn.metrics import average_precision_score

    from textsiam import Twin
    from textsiam.terminal import progress_bars
    from textsiam.training.settings import RerankerSettings
    from textsiam.training.train_reranker import train_reranker

    pairs, _, _, dev = splits()
    how = {"batch_size": 64, "learning_rate": 4e-5, "max_tokens": 96, "duplicate_share": 0.5}
    started = time.perf_counter()
    with progress_bars(("training the teacher", "pairs")) as (advance,):
        teacher = train_reranker(pairs, RerankerSettings(model=backbone, **how), progress=advance)
    seconds = time.perf_counter() - started
    teacher.save_pretrained(folder)
    teacher.symmetric = False  # one order of a pair: half of the time
    some = dev.select(np.random.default_rng(0).permutation(len(dev))[:_JUDGED])
    started = time.perf_counter()
    logits = teacher.logits(some.texts, some.left, some.right)
    pace = len(some) / (time.perf_counter() - started)
    cosine = Twin.from_pretrained("all-MiniLM-L6-v2").pair_similarity(some.texts, some.left, some.right)
    row = {
        "teacher": Path(backbone).name, **how, "pairs": len(pairs), "seconds": seconds, "pairs_per_second": pace,
        "judged": len(some), "quora_ap": float(average_precision_score(some.labels, logits)),
        "quora_accuracy": float(((logits > 0) == some.labels).mean()),
        "untrained_ap": float(average_precision_score(some.labels, cosine)),
    }  # fmt: skip
    keep(RESULTS, [row | {"facts": facts()}])
    print(json.dumps(row))


def grade(folder, output, count):
    """Write pairs of training questions with the probability that the teacher gives them."""
    from textsiam import Twin
    from textsiam.rerank.cross_encoder import Reranker
    from textsiam.terminal import progress_bars

    pairs = splits()[0]
    mined = neighbours(Twin.from_pretrained("all-MiniLM-L6-v2").encode(pairs.texts), pairs)
    mined = mined[np.random.default_rng(0).permutation(len(mined))[:count]]
    teacher = Reranker.from_pretrained(folder)
    teacher.symmetric = False
    with progress_bars(("grading", "pairs")) as (advance,), open(output, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["sentence1", "sentence2", "score"])
        for start in range(0, len(mined), _BLOCK):
            left, right = mined[start : start + _BLOCK].T
            probability = 1.0 / (1.0 + np.exp(-teacher.logits(pairs.texts, left, right)))
            rows = zip(left.tolist(), right.tolist(), probability.tolist(), strict=True)
            table.writerows([pairs.texts[i], pairs.texts[j], f"{p:.5f}"] for i, j, p in rows)
            advance(start + len(left), len(mined))


def neighbours(vectors, pairs):
    """Return pairs of texts `(n, 2)`, each one of the nearest of the other, none of them labelled."""
    known = {frozenset(pair) for pair in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)}
    found = {}
    for start in range(0, len(vectors), _BLOCK):
        similarity = vectors[start : start + _BLOCK] @ vectors.T
        rows = np.arange(len(similarity))
        similarity[rows, start + rows] = -1.0
        nearest = np.argpartition(-similarity, _NEIGHBOURS, axis=1)[:, :_NEIGHBOURS]
        found |= {frozenset((start + i, j)): None for i, row in enumerate(nearest.tolist()) for j in row}
    return np.array([sorted(pair) for pair in found if pair not in known])


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    trainer = commands.add_parser("train")
    trainer.add_argument("backbone", help="folder of the backbone")
    trainer.add_argument("teacher", help="where the teacher is saved")
    grader = commands.add_parser("grade")
    grader.add_argument("teacher")
    grader.add_argument("output")
    grader.add_argument("--count", type=int, default=32_000)
    arguments = parser.parse_args()
    if arguments.command == "train":
        train(arguments.backbone, arguments.teacher)
    else:
        grade(arguments.teacher, arguments.output, arguments.count)


if __name__ == "__main__":
    main()
