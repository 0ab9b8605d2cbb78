"""How many answers a promise takes, and how often one is broken: people are simulated, the truth answers.

    python benchmarks/labels.py run --runs 200                    # every set; rows are added to results/labels.json
    python benchmarks/labels.py run --sets askubuntu --runs 2000
    python benchmarks/labels.py ways --runs 40                    # other ways of choosing pairs, on `forum`
    python benchmarks/labels.py table                             # Markdown

Each run has a seed of its own, draws by `textsiam.labelling.plan.Plan`, and stops where `textsiam label` stops or after
300 answers (400 with noise), whichever comes first. A promise is *broken* where a set was certified and holds fewer
right pairs than was promised; runs that certify nothing are counted apart. The sets:

* `askubuntu`: 1,000 labelled title pairs, scored by the packaged all-MiniLM-L6-v2, P = 0.95; and with 5 % of the
  answers flipped, either way or all towards "yes", P = 0.9 and noise 0.05.
* `forum`: the sample forum, all pairs of its 2,908 questions, whose clusters are complete, P = 0.55: the highest
  multiple of 0.05 that some threshold reaches at a recall of 0.2.
* `demo`: the questions of the sample forum that the twin of `make demo` never saw, all pairs, scored by that twin
  (`runs/quickstart`); P by the same rule.
* `quora`, `yahoo`: pairs of QQP's dev set and 20,000 of Yahoo! Answers, scored by the same model, P = 0.8 and 0.7: they
  were not looked at while the plan was made.
* constructed collections of 100,000 pairs for which no certificate may be issued at P = 0.95: `flat`, right with 0.949
  everywhere; `rising`, where the best-scored pairs are wrong more often; `opposites`, where the best 500 are wrong and
  the rest lifts every larger set to just under the promise. One of 6,000 where only smaller sets may be:
  `shelf`, where the best 3,000 are right, and every set of 3,200 and more is just under the promise, so that rounds for
  larger sets try what is not true.

Answers are those up to the first promise, that of the set aimed at; everything else is judged where `label` stops.

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
DEMO = Path(__file__).parents[1] / "runs" / "quickstart"
# Model and questions, whose clusters are those of the sample forum.
COLLECTIONS = {"forum": (MODEL, "sample:forum"), "demo": (DEMO / "model", str(DEMO / "test.tsv"))}
# Precision, answers that are planned and at most given, noise that is allowed for, and the one there is.
SETS = {
    "askubuntu": (0.95, 150, 300, 0.0, ""),
    "askubuntu, 5 % flipped": (0.9, 200, 400, 0.05, "either"),
    "askubuntu, 5 % flipped to yes": (0.9, 200, 400, 0.05, "yes"),
    "forum": (0.55, 300, 300, 0.0, ""),
    "demo": (0.65, 300, 300, 0.0, ""),
    "quora": (0.8, 150, 300, 0.0, ""),
    "yahoo": (0.7, 150, 300, 0.0, ""),
    "flat": (0.95, 150, 300, 0.0, ""),
    "rising": (0.95, 150, 300, 0.0, ""),
    "opposites": (0.95, 150, 300, 0.0, ""),
    "shelf": (0.95, 300, 300, 0.0, ""),
}
PAIRS = {
    "askubuntu": "askubuntu/titles.tsv.gz",
    "quora": "qqp/dev.tsv.gz",
    "yahoo": "yahoo_zhang/Zhang_dataset.csv",
}


@cache
def population(name):
    """Return the scores of all candidates, in descending order, and whether each pair is a duplicate."""
    kind = name.partition(",")[0]
    if kind in PAIRS:
        from textsiam import Twin, read_pairs

        pairs = read_pairs(DATA.parent / PAIRS[kind])
        pairs = pairs.select(np.random.default_rng(0).permutation(len(pairs))[:20_000])
        scores = Twin.from_pretrained(MODEL).pair_similarity(pairs.texts, pairs.left, pairs.right)
        order = np.argsort(-scores, kind="stable")
        return scores[order], pairs.labels[order].astype(bool)
    if kind in COLLECTIONS:
        from textsiam import Twin, read_pairs
        from textsiam.data.clusters import cluster_ids
        from textsiam.labelling.candidates import find_candidates
        from textsiam.sources import read_texts

        model, questions = COLLECTIONS[kind]
        pairs, read = read_pairs("sample:forum"), read_texts(questions)
        cluster = dict(zip(pairs.texts, cluster_ids(pairs).tolist(), strict=True))
        of = np.array([cluster.get(text, -1 - i) for i, text in enumerate(read.texts)])
        found = find_candidates(Twin.from_pretrained(model), read.texts)
        return found.scores, of[found.left] == of[found.right]
    rng, n = np.random.default_rng(5), 6_000 if kind == "shelf" else 100_000
    scores = np.linspace(1.0, 0.3, n, dtype=np.float32)
    share = {
        "flat": np.full(n, 0.949),
        "rising": 0.949 - 0.15 * np.exp(-np.arange(n) / 2000),
        "opposites": np.where(np.arange(n) < 500, 0.0, np.where(np.arange(n) < 20_000, 0.973, 0.943)),
        "shelf": np.ones(n),
    }[kind]
    truth = rng.random(n) < share
    if kind == "shelf":  # of every set of 3,200 and more, as many as 94.9 % allow
        truth[3200:] = np.diff(np.floor(0.949 * np.arange(3200, n + 1))) > 0
        truth[3000:3200] = rng.permutation(200) < np.floor(0.949 * 3200) - 3000
        return scores, truth
    # chance may lift a prefix above the promise: there, pairs are made wrong until it is not
    for _ in range(50):
        over = np.flatnonzero(np.cumsum(truth) >= 0.95 * np.arange(1, n + 1))
        if not len(over):
            break
        truth[over[truth[over]][:1]] = False
        first = over[over < 2000]
        truth[first[truth[first]]] = False
    return scores, truth


@cache
def guess(name):
    """Return what `label` takes for P(duplicate | score) before the first answer."""
    from textsiam import Twin
    from textsiam.decision.estimate import two_heaps

    found, kind = two_heaps(population(name)[0]), name.partition(",")[0]
    if found is not None or kind not in {*PAIRS, *COLLECTIONS}:
        return found
    decision = Twin.from_pretrained(COLLECTIONS.get(kind, (MODEL, ""))[0]).decision
    return decision and decision.probability


def one(name, seed, trace=False):
    """Return what became of one run; with `trace`, the recall that was certified after each answer."""
    from textsiam.labelling.aim import Aim
    from textsiam.labelling.plan import Plan

    precision, labels, most, noise, flipped = SETS[name]
    scores, truth = population(name)
    plan = Plan(scores, Aim(precision, labels=labels, noise=noise, seed=seed), before=guess(name))
    rng, certified, reached = np.random.default_rng([seed, 7]), [0.0], truth.cumsum() / truth.sum()
    promised, first = None, 0
    while (given := len(plan.answers)) < most and not plan.exhausted:
        if promised is None and plan.done:
            promised, first = given, plan.proven()
        if (plan.finished and not trace) or (draw := plan.draw()) is None:
            break
        answer = bool(truth[draw.rank])
        if flipped and rng.random() < 0.05:
            answer = not answer if flipped == "either" else True
        plan.answer(draw.number, answer)
        if trace:
            size = plan.proven()
            certified.append(float(reached[size - 1]) if size else 0.0)
    if trace:
        return certified
    size = plan.proven()
    row = {"answers": promised or len(plan.answers), "certified": size > 0}
    if not size:
        return row
    _, low, high = plan.recall(size)
    recall = float(reached[size - 1])
    left = np.setdiff1d(np.arange(len(scores)), [draw.rank for draw in plan.draws])
    knots = np.unique(scores[np.linspace(0, len(scores) - 1, 400).astype(int)])
    told = np.interp(scores[left], knots, plan.curve.probability(knots))
    return row | {
        "first": first or size,
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
    """Return the uniform answers that an oracle needs which knows the first certified set of the run with this seed."""
    from textsiam.decision.confidence import NestedSets

    precision, _, most, noise, _ = SETS[name]
    size = one(name, seed).get("first")
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


def way(kind, seed, name="forum"):
    """Return the recall that is certified after each answer, by another way of choosing pairs than ours.

    `uniform`: from the set that an oracle knows to be best for so many answers; `random`: from all candidates;
    `uncertain`: from the stratum whose probability, by the answers so far, is nearest to one half: such draws prove
    nothing but what they show.
    """
    from textsiam.decision.confidence import NestedSets
    from textsiam.labelling.aim import Aim
    from textsiam.labelling.plan import Plan

    precision, labels, most, _, _ = SETS[name]
    scores, truth = population(name)
    reached = truth.cumsum() / truth.sum()
    plan = Plan(scores, Aim(precision, labels=labels, seed=seed), before=guess(name))
    ends, count = plan.strata.ends, len(plan.strata.ends)
    rng, size = np.random.default_rng([seed, 9]), best_size(name) if kind == "uniform" else len(scores)
    sizes, shares = ([size], [1.0]) if kind == "uniform" else (ends, np.full(count, 1 / count))
    sets = NestedSets(sizes, shares, np.clip(reached[np.asarray(sizes) - 1] * truth.sum() / sizes, 0.01, 0.998))
    certified, order = [0.0], rng.permutation(size)
    for number in range(most):
        if kind == "uncertain":
            nearest = np.abs(plan.curve.probability(plan.strata.scores) - 0.5)
            nearest[plan.curve.asked == plan.strata.sizes] = np.inf
            stratum = int(nearest.argmin())
            inside = np.arange(ends[stratum] - plan.strata.sizes[stratum], ends[stratum])
            rank = int(rng.choice(np.setdiff1d(inside, [draw for draw, _, _ in sets.history])))
            plan.curve.add(float(scores[rank]), plan.strata.of(rank), bool(truth[rank]))
        else:
            rank = int(order[number])
        sets.add(rank, among=0 if kind == "uncertain" else size, right=bool(truth[rank]))
        proven = sets.sizes[sets.proven(precision)].max(initial=0)
        certified.append(max(certified[-1], float(reached[proven - 1])) if proven else certified[-1])
    return certified


def oracle_recall(name):
    """Return the median recall of what an oracle certifies which draws from the best set alone."""
    return float(np.median([way("uniform", seed, name)[-1] for seed in range(40)]))


@cache
def best_size(name):
    """Return the set that finds most duplicates among those that 300 uniform answers prove in three of four runs."""
    from textsiam.decision.confidence import NestedSets

    precision, _, most, _, _ = SETS[name]
    truth = population(name)[1]
    right = truth.cumsum()
    good = np.flatnonzero(right >= precision * np.arange(1, len(truth) + 1)) + 1
    for size in np.unique(np.geomspace(max(good[0], 20), good[-1], 60).astype(int))[::-1]:
        proven = 0
        for seed in range(40):
            order = np.random.default_rng([seed, 11]).permutation(size)[:most]
            sets = NestedSets([size], [1.0], [float(np.clip(right[size - 1] / size, 0.01, 0.998))])
            for rank in order.tolist():
                sets.add(rank, among=size, right=bool(truth[rank]))
            proven += bool(sets.proven(precision)[0])
        if proven >= 30:
            return int(size)
    return int(good[0])


WAYS = ("ours", "uniform", "random", "uncertain")


def ways(runs, workers):
    """Measure every way of choosing pairs on the sample forum, and write the medians."""
    found = {}
    with ProcessPoolExecutor(workers) as pool:
        for kind in WAYS:
            seeds = range(runs)
            traces = pool.map(one, ["forum"] * runs, seeds, [True] * runs) if kind == "ours" else pool.map(
                way, [kind] * runs, seeds)  # fmt: skip
            rows = np.array([trace + [trace[-1]] * (301 - len(trace)) for trace in traces])
            found[kind] = [[round(float(v), 4) for v in np.quantile(rows, q, axis=0)[::10]] for q in (0.25, 0.5, 0.75)]
            print(kind, found[kind][1], flush=True)
    write("ways", {"runs": runs, "every": 10, "certified_recall": found})


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
        if oracle:  # where no set keeps the promise there is nothing to reach
            found |= {"oracle_answers": float(np.median(oracle)), "oracle_recall": oracle_recall(name)}
    return found


def run(sets, runs, workers):
    """Measure sets, and write their rows in place of those that are there."""
    for name in sets:
        row = summary(name, runs, workers)
        print(json.dumps(row), flush=True)
        old = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
        write("rows", [other for other in old if other["set"] != name] + [row])


def write(key, value):
    """Write a part of the results, and the facts about this machine."""
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    stored |= {key: value, "facts": facts()}
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


def table():
    """Print the rows as Markdown."""
    print("| set | runs | P | certified | broken | answers | oracle | recall | oracle | covered | width |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in json.loads(RESULTS.read_text())["rows"]:
        cell = {k: f"{v[1]:g} ({v[0]:g}–{v[2]:g})" for k, v in row.items() if isinstance(v, list)}
        cells = [row["set"], row["runs"], row.get("precision", ""), row.get("certified", ""), row["broken"]]
        cells += [cell.get("answers", ""), row.get("oracle_answers", ""), cell.get("recall", ""),
                  row.get("oracle_recall", ""), row.get("covered", ""), cell.get("width", "")]  # fmt: skip
        print("|", " | ".join(map(str, cells)), "|")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("run")
    measure.add_argument("--sets", nargs="+", default=[*SETS, "peeking"])
    measure.add_argument("--runs", type=int, default=200)
    measure.add_argument("--workers", type=int, default=2)
    others = commands.add_parser("ways")
    others.add_argument("--runs", type=int, default=40)
    others.add_argument("--workers", type=int, default=2)
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.sets, arguments.runs, arguments.workers)
    elif arguments.command == "ways":
        ways(arguments.runs, arguments.workers)
    else:
        table()
