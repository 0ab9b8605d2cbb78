"""How many answers a promise takes, and how often one is broken: people are simulated, the truth answers.

    python benchmarks/labels.py run --runs 200                    # every set; rows are added to results/labels.json
    python benchmarks/labels.py run --sets askubuntu --runs 2000
    python benchmarks/labels.py table                             # Markdown

Each run has a seed of its own, draws by `textsiam.labelling.plan.Plan`, and stops where `textsiam label` stops, or
after 300 answers (400 with noise). A promise is *broken* where a set was certified and holds fewer right pairs than was
promised; runs that certify nothing are counted apart. The sets:

* `askubuntu`: 1,000 labelled title pairs, scored by the packaged all-MiniLM-L6-v2, P = 0.95; and with 5 % of the
  answers flipped, either way or all towards "yes", P = 0.9 and noise 0.05.
* `forum`: the sample forum, all pairs of its 2,908 questions, whose clusters are complete, P = 0.55: the highest
  multiple of 0.05 that some threshold reaches at a recall of 0.2.
* constructed collections of 100,000 pairs for which no certificate may be issued at P = 0.95: `flat`, right with 0.949
  everywhere; `rising`, where the best-scored pairs are wrong more often; `opposites`, where the best 500 are wrong and
  the rest lifts every larger set to just under the promise.

`peeking` looks at forty thresholds of `flat` after every twenty of 2,000 uniform answers with bounds that nobody
corrected (Clopper & Pearson 1934), and is there to show that the bench sees broken promises.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from quality import DATA, facts

RESULTS = Path(__file__).parent / "results" / "labels.json"
MODEL = "all-MiniLM-L6-v2"
# Precision, answers that are planned and at most given, noise that is allowed for, and the one there is.
SETS = {
    "askubuntu": (0.95, 100, 300, 0.0, ""),
    "askubuntu, 5 % flipped": (0.9, 200, 400, 0.05, "either"),
    "askubuntu, 5 % flipped to yes": (0.9, 200, 400, 0.05, "yes"),
    "forum": (0.55, 200, 300, 0.0, ""),
    "flat": (0.95, 100, 300, 0.0, ""),
    "rising": (0.95, 100, 300, 0.0, ""),
    "opposites": (0.95, 100, 300, 0.0, ""),
}


@cache
def population(name):
    """Return the scores of all candidates, in descending order, and whether each pair is a duplicate."""
    kind = name.partition(",")[0]
    if kind == "askubuntu":
        from textsiam import Twin, read_pairs

        pairs = read_pairs(DATA.parent / "askubuntu" / "titles.tsv.gz")
        scores = Twin.from_pretrained(MODEL).pair_similarity(pairs.texts, pairs.left, pairs.right)
        order = np.argsort(-scores, kind="stable")
        return scores[order], pairs.labels[order].astype(bool)
    if kind == "forum":
        from textsiam import Twin, read_pairs
        from textsiam.data.clusters import cluster_ids
        from textsiam.labelling.candidates import find_candidates
        from textsiam.sources import read_texts

        pairs, read = read_pairs("sample:forum"), read_texts("sample:forum")
        cluster = dict(zip(pairs.texts, cluster_ids(pairs).tolist(), strict=True))
        of = np.array([cluster.get(text, -1 - i) for i, text in enumerate(read.texts)])
        found = find_candidates(Twin.from_pretrained(MODEL), read.texts)
        return found.scores, of[found.left] == of[found.right]
    rng, n = np.random.default_rng(5), 100_000
    scores = np.linspace(1.0, 0.3, n, dtype=np.float32)
    share = {
        "flat": np.full(n, 0.949),
        "rising": 0.949 - 0.15 * np.exp(-np.arange(n) / 2000),
        "opposites": np.where(np.arange(n) < 500, 0.0, np.where(np.arange(n) < 20_000, 0.973, 0.943)),
    }[kind]
    truth = rng.random(n) < share
    # chance may lift a prefix above the promise: there, pairs are made wrong until it is not
    for _ in range(50):
        over = np.flatnonzero(np.cumsum(truth) >= 0.95 * np.arange(1, n + 1))
        if not len(over):
            break
        truth[over[truth[over]][:1]] = False
        first = over[over < 2000]
        truth[first[truth[first]]] = False
    return scores, truth


def one(name, seed):
    """Return what became of one run."""
    from textsiam.labelling.plan import Aim, Plan

    precision, labels, most, noise, flipped = SETS[name]
    scores, truth = population(name)
    plan, rng = Plan(scores, Aim(precision, labels=labels, noise=noise, seed=seed)), np.random.default_rng([seed, 7])
    while len(plan.answers) < most and not plan.done and (draw := plan.draw()) is not None:
        answer = bool(truth[draw.rank])
        if flipped and rng.random() < 0.05:
            answer = not answer if flipped == "either" else True
        plan.answer(draw.number, answer)
    size = plan.proven()
    row = {"answers": len(plan.answers), "certified": size > 0}
    if not size:
        return row
    _, low, high = plan.recall(size)
    recall = float(truth[:size].sum() / truth.sum())
    left = [rank for rank in range(len(scores)) if rank not in {draw.rank for draw in plan.draws}]
    told = plan.curve.probability(scores[left])
    return row | {
        "pairs": size,
        "precision": float(truth[:size].mean()),
        "broken": bool(truth[:size].mean() < precision),
        "recall": recall,
        "covered": low <= recall <= high,
        "width": high - low,
        "accuracy": float(((told >= 0.5) == truth[left]).mean()),
        "calibration_error": calibration_error(told, truth[left]),
    }


def calibration_error(probability, truth, bins=10):
    """Return the mean distance of told and found shares over bins of equal mass."""
    order = np.argsort(probability)
    return float(
        sum(len(b) * abs(probability[b].mean() - truth[b].mean()) for b in np.array_split(order, bins)) / len(order)
    )


def uniform(name, seed):
    """Return the uniform answers that an oracle needs which knows the certified set of the run with this seed."""
    from textsiam.decision.confidence import NestedSets

    precision, _, most, noise, _ = SETS[name]
    size = one(name, seed).get("pairs")
    if size is None:
        return None
    truth = population(name)[1]
    order = np.random.default_rng([seed, 9]).permutation(size)[:most]
    sets = NestedSets([size], [1.0], [float(np.clip(truth[:size].mean(), 0.01, 0.998))], noise=noise)
    for count, rank in enumerate(order.tolist(), 1):
        sets.add(rank, among=size, right=bool(truth[rank]))
        if count >= 20 and sets.proven(precision)[0]:
            return count
    return most


def peeking(seed):
    """Return whether uncorrected bounds at forty thresholds break a promise on `flat`."""
    from scipy.special import betaincinv

    truth = population("flat")[1]
    rng, n = np.random.default_rng([seed, 3]), len(truth)
    ranks = rng.choice(n, 2000, replace=False)
    for count in range(60, 2001, 20):
        seen = ranks[:count]
        for size in np.geomspace(n / 10, n, 40).astype(int):
            inside = seen[seen < size]
            right = int(truth[inside].sum())
            if right and betaincinv(right, len(inside) - right + 1, 0.05) >= 0.95:
                return True
    return False


def summary(name, runs, workers):
    """Return the row of a set."""
    with ProcessPoolExecutor(workers) as pool:
        if name == "peeking":
            return {"set": name, "runs": runs, "broken": float(np.mean(list(pool.map(peeking, range(runs)))))}
        rows = list(pool.map(one, [name] * runs, range(runs), chunksize=4))
        oracle = [n for n in pool.map(uniform, [name] * min(runs, 40), range(min(runs, 40))) if n is not None]
    done = [row for row in rows if row["certified"]]
    found = {"set": name, "runs": runs, "precision": SETS[name][0], "planned": SETS[name][1],
             "certified": len(done) / runs, "broken": sum(row["broken"] for row in done) / runs}  # fmt: skip
    if done:
        for key in ("answers", "pairs", "recall", "width", "accuracy", "calibration_error"):
            found[key] = [round(float(q), 4) for q in np.quantile([row[key] for row in done], [0.05, 0.5, 0.95])]
        found["covered"] = float(np.mean([row["covered"] for row in done]))
        found["oracle_answers"] = float(np.median(oracle))
    return found


def run(sets, runs, workers):
    """Measure sets, and write their rows in place of those that are there."""
    for name in sets:
        row = summary(name, runs, workers)
        print(json.dumps(row), flush=True)
        stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
        stored["facts"] = facts()
        stored["rows"] = [old for old in stored["rows"] if old["set"] != name] + [row]
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


def table():
    """Print the rows as Markdown."""
    print("| set | runs | P | certified | broken | answers | oracle | recall | covered | width |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in json.loads(RESULTS.read_text())["rows"]:
        cell = {k: f"{v[1]:g} ({v[0]:g}–{v[2]:g})" for k, v in row.items() if isinstance(v, list)}
        cells = [row["set"], row["runs"], row.get("precision", ""), row.get("certified", ""), row["broken"]]
        cells += [cell.get("answers", ""), row.get("oracle_answers", ""), cell.get("recall", ""),
                  row.get("covered", ""), cell.get("width", "")]  # fmt: skip
        print("|", " | ".join(map(str, cells)), "|")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("run")
    measure.add_argument("--sets", nargs="+", default=[*SETS, "peeking"])
    measure.add_argument("--runs", type=int, default=200)
    measure.add_argument("--workers", type=int, default=2)
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.sets, arguments.runs, arguments.workers)
    else:
        table()
