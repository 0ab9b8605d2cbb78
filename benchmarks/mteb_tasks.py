"""Duplicate questions as MTEB's pair classification measures them: its harness, on files that lie here.

    python benchmarks/mteb_tasks.py run all-MiniLM-L6-v2 [MODEL …]   # names, or folders of twins; results/mteb.json
    python benchmarks/mteb_tasks.py table                            # Markdown of it

MTEB's own duplicate tasks are downloads; these are of the same kind, and not those of its leaderboard. MTEB is given
each model twice: as sentence-transformers opens it, and as a twin. The interval is textsiam's own, of the same pairs.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # MTEB would ask about the model

import mteb
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


def run(models):
    """Measure models on every task, and keep the rows."""
    rows = []
    for model in models:
        twin, peer = Twin.from_pretrained(model, sides=False), SentenceTransformer(resolve(model))
        for name, (file, about) in TASKS.items():
            pairs = read_pairs(DATA / file)
            task = duplicate_task(name, pairs, about)
            twin.head = None  # MTEB compares vectors
            ap = evaluate_pairs(twin, pairs).report.average_precision
            row = {
                "model": Path(model).parent.name if Path(model).is_dir() else model, "task": name, "pairs": len(pairs),
                "duplicates": int(pairs.labels.sum()), "sentence_transformers": cosine_ap(peer, task),
                "twin": cosine_ap(adapter()(twin), task), "textsiam": ap.value, "low": ap.low, "high": ap.high,
            }  # fmt: skip
            print(row, flush=True)
            rows.append(row)
            RESULTS.write_text(json.dumps({"rows": rows, "mteb": mteb.__version__, "facts": facts()}, indent=1) + "\n")


def table():
    """Print the rows as Markdown."""
    print("| model | task | pairs | SentenceTransformer | twin | textsiam's own |\n|" + " --- |" * 6)
    for row in json.loads(RESULTS.read_text())["rows"]:
        points = {k: f"{100 * row[k]:.1f}" for k in ("sentence_transformers", "twin", "textsiam", "low", "high")}
        print(
            f"| {row['model']} | {row['task']} | {row['pairs']:,} | {points['sentence_transformers']} "
            f"| {points['twin']} | {points['textsiam']} ({points['low']}–{points['high']}) |"
        )


if __name__ == "__main__":
    run(sys.argv[2:]) if sys.argv[1] == "run" else table()
