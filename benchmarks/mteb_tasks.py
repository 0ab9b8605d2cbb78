"""Duplicate questions as MTEB's pair classification measures them: its harness, on files that lie here.

    python benchmarks/mteb_tasks.py run all-MiniLM-L6-v2 [MODEL …]   # names, or folders of twins; results/mteb.json
    python benchmarks/mteb_tasks.py run all-MiniLM-L6-v2 --pairs 2000     # of each task, so many that are drawn
    python benchmarks/mteb_tasks.py table                            # Markdown of it

MTEB's own duplicate tasks are downloads; these are of the same kind, and not those of its leaderboard. MTEB is given
each model twice: as sentence-transformers opens it, and as a twin. The interval is textsiam's own, of the same pairs.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # MTEB would ask about the model

import mteb
import numpy as np
from datasets import Dataset, DatasetDict
from mteb.abstasks.pair_classification import AbsTaskPairClassification
from mteb.abstasks.task_metadata import TaskMetadata
from quality import facts
from sentence_transformers import SentenceTransformer

from textsiam import Twin, evaluate_pairs, read_pairs
from textsiam.inference.encoders import resolve

RESULTS = Path(__file__).parent / "results" / "mteb.json"
DATA = Path(os.environ.get("TEXTSIAM_DATA", "../shared/data"))
TASKS = {
    "AskUbuntu": ("askubuntu/titles.tsv.gz", "titles of a technical forum; the others look drawn at random"),
    "Yahoo": ("yahoo_zhang/Zhang_dataset.csv", "pairs of questions to Yahoo, marked by hand"),
    "Quora": ("qqp/dev.tsv.gz", "pairs of two published dev splits of Quora's questions"),
}


def duplicate_task(name, pairs, description=""):
    """Return a task of MTEB about these pairs."""
    about = TaskMetadata(
        name=name, description=description or name, type="PairClassification", category="t2t", main_score="max_ap",
        dataset={"path": "local", "revision": "local"}, eval_splits=["test"], eval_langs=["eng-Latn"],
    )  # fmt: skip

    class DuplicateQuestions(AbsTaskPairClassification):
        metadata = about

        def load_data(self, **_):
            columns = {"sentence1": pairs.left_texts, "sentence2": pairs.right_texts, "labels": pairs.labels.tolist()}
            self.dataset, self.data_loaded = DatasetDict({"test": Dataset.from_dict(columns)}), True

    return DuplicateQuestions()


def adapter():
    """Return the class of docs/integrations.md that MTEB is given a twin by."""
    page = (Path(__file__).parents[1] / "docs/integrations.md").read_text(encoding="utf-8")
    names = {"__name__": "integrations"}
    exec(page.split("## MTEB\n")[1].split("```python\n")[1].split("```")[0], names)
    return names["TwinEncoder"]


def cosine_ap(model, task):
    """Return the average precision that MTEB gives a model."""
    result = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    return result.task_results[0].scores["test"][0]["cosine_ap"]


def drawn(pairs, most):
    """Return so many of the pairs, drawn with a fixed seed; all, where there are no more."""
    if most is None or most >= len(pairs):
        return pairs
    return pairs.select(np.sort(np.random.default_rng(0).permutation(len(pairs))[:most]))


def run(models, most):
    """Measure models on every task, and keep the rows."""
    rows = []
    for model in models:
        twin, peer = Twin.from_pretrained(model, sides=False), SentenceTransformer(resolve(model))
        for name, (file, about) in TASKS.items():
            every = read_pairs(DATA / file)
            pairs = drawn(every, most)
            task = duplicate_task(name, pairs, about)
            twin.head = None  # MTEB compares vectors
            ap = evaluate_pairs(twin, pairs).report.average_precision
            row = {
                "model": Path(model).parent.name if Path(model).is_dir() else model, "task": name, "of": len(every),
                "pairs": len(pairs), "duplicates": int(pairs.labels.sum()),
                "sentence_transformers": cosine_ap(peer, task),
                "twin": cosine_ap(adapter()(twin), task), "textsiam": ap.value, "low": ap.low, "high": ap.high,
            }  # fmt: skip
            print(row, flush=True)
            rows.append(row)
            RESULTS.write_text(json.dumps({"rows": rows, "mteb": mteb.__version__, "facts": facts()}, indent=1) + "\n")


def table():
    """Print the rows as Markdown."""
    print("| model | task | pairs | duplicates | SentenceTransformer | twin | textsiam's own |\n|" + " --- |" * 7)
    for row in json.loads(RESULTS.read_text())["rows"]:
        peer, twin, own, low, high = (
            f"{100 * row[k]:.1f}" for k in ("sentence_transformers", "twin", "textsiam", "low", "high")
        )
        pairs = f"{row['pairs']:,}" if row["pairs"] == row["of"] else f"{row['pairs']:,} of {row['of']:,}"
        print(
            f"| {row['model']} | {row['task']} | {pairs} | {row['duplicates']:,} | {peer} | {twin} "
            f"| {own} ({low}–{high}) |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("models", nargs="*", help="names, or folders of twins")
    parser.add_argument("--pairs", type=int, help="draw so many of each task; all by default")
    given = parser.parse_args()
    run(given.models, given.pairs) if given.what == "run" else table()
