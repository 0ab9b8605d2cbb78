"""How a twin does on other people's data than it was trained on: a gain on one forum must not be a loss elsewhere."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path


def elsewhere(twin, data: Path) -> dict[str, float]:
    """Return AP on question pairs of another forum, Spearman on graded sentences, nDCG@10 on a search task.

    Args:
        twin: Scores pairs.
        data: Folder with `yahoo_zhang/`, `stsbenchmark/` and `cranfield/`.
    """
    from sklearn.metrics import average_precision_score

    from textsiam.data.graded import read_graded
    from textsiam.data.pairs import read_pairs
    from textsiam.evaluation.retrieval import evaluate_sts, retrieval_report
    from textsiam.search.nearest import best_matches

    yahoo = read_pairs(data / "yahoo_zhang/Zhang_dataset.csv")
    scores = twin.pair_similarity(yahoo.texts, yahoo.left, yahoo.right)
    sts = evaluate_sts(twin, read_graded(data / "stsbenchmark/sts-test.csv"), bootstrap=0)
    documents, queries, relevant = cranfield(data / "cranfield")
    where, _ = best_matches(twin, twin.encode(queries), twin.encode(documents, side="right"), 100)
    report = retrieval_report({q + 1: (row + 1).tolist() for q, row in enumerate(where)}, relevant, bootstrap=0)
    return {
        "yahoo_ap": float(average_precision_score(yahoo.labels, scores)),
        "sts_spearman": float(sts.spearman.value),
        "cranfield_ndcg_at_10": float(report.ndcg_at_10.value),
    }


def cranfield(folder: Path) -> tuple[list[str], list[str], dict[int, dict[int, int]]]:
    """Read the Cranfield collection: documents, queries, and for each query (by its place) the grades of documents.

    The published codes run from 1 (a complete answer) to 4 (of minimum interest); a grade is 5 minus the code.
    """

    def texts(file: Path, fields: str) -> list[str]:
        entries = re.split(r"^\.I \d+\n", file.read_text(), flags=re.M)[1:]
        parts = [dict(re.findall(r"^\.(\w)\n(.*?)(?=^\.\w\n|\Z)", entry, re.M | re.S)) for entry in entries]
        return [" ".join(" ".join(part.get(f, "") for f in fields).split()) or "-" for part in parts]

    grades = defaultdict(dict)
    for line in (folder / "cranqrel").read_text().splitlines():
        query, document, code = map(int, line.split()[:3])
        if code > 0:
            grades[query][document] = 5 - code
    return texts(folder / "cran.all.1400", "W"), texts(folder / "cran.qry", "W"), dict(grades)
