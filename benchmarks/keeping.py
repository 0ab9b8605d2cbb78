"""What training on Quora costs elsewhere, and what keeps it: every way against the untrained backbone, in pairs.

Each way is the recipe `configs/qqp.yaml` (one seed) with something changed. Judged are Quora's dev pairs, and five sets
of other origin: AskUbuntu and Yahoo (AP), STS-B (Spearman), Cranfield (nDCG@10), links of three Stack Exchange dumps
(reciprocal rank of a linked question). Every figure stands beside its difference to the untrained backbone, with the
95 % interval of a paired bootstrap: 1,000 draws of clusters, pairs or queries, the same for both.

    python benchmarks/keeping.py run --twins FOLDER          # trained twins are kept there, and opened if they are
    python benchmarks/keeping.py judge mine=FOLDER half=FOLDER=0.5     # a saved twin; half of its weights
    python benchmarks/keeping.py table
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from elsewhere import cranfield
from quality import DATA, PRIOR, facts, keep, splits, stored, train_recipe

RESULTS = Path(__file__).parent / "results" / "keeping.json"
FIGURES = {
    "quora_ap": "Quora AP",
    "quora_accuracy": "accuracy",
    "quora_calibration_error": "calibration error",
    "yahoo_ap": "Yahoo AP",
    "askubuntu_ap": "AskUbuntu AP",
    "sts_spearman": "STS-B Spearman",
    "cranfield_ndcg_at_10": "Cranfield nDCG@10",
    "links_mrr": "links MRR",
}
# What is told to `textsiam train` beside the recipe, and the share of the trained weights (None: all of them).
WAYS = {
    "recipe": ([], None),
    "share 0.7": ([], 0.7),
    "share 0.5": ([], 0.5),
    "distillation 10": (["--loss.distillation.weight", "10"], None),
    "distillation 10, share 0.7": (["--loss.distillation.weight", "10"], 0.7),
}
DRAWS = 1000
Measure = Callable[[np.ndarray], np.ndarray]
"""How often each item stands in each resample `(r, n)` → a figure of each resample `(r,)`."""


def read_sets():
    """Return the sets that are judged, by name."""
    from textsiam.data.graded import read_graded
    from textsiam.data.pairs import read_pairs

    root = DATA.parent
    return {
        "calibration": splits()[2],
        "quora": read_pairs(DATA / "dev.tsv.gz"),
        "yahoo": read_pairs(root / "yahoo_zhang/Zhang_dataset.csv"),
        "askubuntu": read_pairs(root / "askubuntu/titles.tsv.gz"),
        "sts": read_graded(root / "stsbenchmark/sts-test.csv"),
        "cranfield": cranfield(root / "cranfield"),
        "links": _links(),
    }


def _links():
    from unlabelled import dumps

    with tempfile.TemporaryDirectory() as folder:
        return dumps(Path(folder))[1]


def measures(twin, sets):
    """Return, for each figure, what a resample draws and how it is measured of the twin.

    Args:
        twin: Scores pairs; it learns its decision from the calibration pairs.
        sets: From `read_sets`; those that are missing are not measured.
    """
    from textsiam.decision.intervals import Units

    found = {}
    if "quora" in sets:
        twin.calibrate(sets["calibration"], rule="accuracy", prior=PRIOR)
        pairs, labels = sets["quora"], sets["quora"].labels
        scores, units = twin.pair_similarity(pairs.texts, pairs.left, pairs.right), Units.of_pairs(sets["quora"])
        right = (scores >= twin.decision.threshold) == (labels == 1)
        found["quora_ap"] = units, ranked(scores, labels)
        found["quora_accuracy"] = units, mean_of(right)
        found["quora_calibration_error"] = units, calibrated(twin.decision.probability(scores), labels)
    for name in {"yahoo", "askubuntu"} & sets.keys():
        pairs = sets[name]
        scores = twin.pair_similarity(pairs.texts, pairs.left, pairs.right)
        found[f"{name}_ap"] = Units.of_pairs(pairs), ranked(scores, pairs.labels)
    if "sts" in sets:
        graded = sets["sts"]
        scores = twin.similarity(list(graded.left), list(graded.right))
        found["sts_spearman"] = Units.alone(len(scores)), correlated(np.asarray(scores), np.asarray(graded.scores))
    if "cranfield" in sets:
        gains = cranfield_ndcg(twin, *sets["cranfield"])
        found["cranfield_ndcg_at_10"] = Units.alone(len(gains)), mean_of(gains)
    if "links" in sets:
        from unlabelled import of_links

        ranks, groups = of_links(twin, sets["links"])
        found["links_mrr"] = Units.grouped(groups), mean_of(ranks)
    return found


def ranked(scores, labels) -> Measure:
    """Return average precision; among equal scores the pairs that are no duplicates stand first."""
    order = np.lexsort((labels, -np.asarray(scores)))
    duplicate = np.asarray(labels, float)[order]

    def measure(counts):
        here = counts[:, order] * duplicate
        true, seen = np.cumsum(here, axis=1), np.cumsum(counts[:, order], axis=1)
        return (here * true / np.maximum(seen, 1)).sum(axis=1) / true[:, -1]

    return measure


def mean_of(values) -> Measure:
    """Return the mean of a figure of each item."""
    return lambda counts: counts @ np.asarray(values, float) / counts.sum(axis=1)


def calibrated(probabilities, labels) -> Measure:
    """Return the expected calibration error in 15 bins of equal mass."""
    from textsiam.evaluation.binary import BINS, equal_mass_bins

    gaps = np.zeros((len(labels), BINS))
    gaps[np.arange(len(labels)), equal_mass_bins(probabilities)] = labels - probabilities
    return lambda counts: np.abs(counts @ gaps).sum(axis=1) / counts.sum(axis=1)


def correlated(scores, grades) -> Measure:
    """Return Spearman's rank correlation."""
    from scipy.stats import spearmanr

    def measure(counts):
        drawn = (np.repeat(np.arange(len(scores)), row) for row in counts.astype(int))
        return np.array([spearmanr(scores[items], grades[items])[0] for items in drawn])

    return measure


def cranfield_ndcg(twin, documents, queries, relevant):
    """Return nDCG@10 of each judged query."""
    from textsiam.evaluation.retrieval import retrieval_report
    from textsiam.search.nearest import best_matches

    where, _ = best_matches(twin, twin.encode(queries), twin.encode(documents, side="right"), 100)
    reports = [retrieval_report({q: (where[q - 1] + 1).tolist()}, {q: relevant[q]}, bootstrap=0) for q in relevant]
    return np.array([report.ndcg_at_10.value for report in reports])


def compared(before, after):
    """Return every figure of a twin, with its difference to the untrained one."""
    from textsiam.decision.intervals import interval

    rows = {}
    for name, (units, measure) in after.items():
        other, whole = before[name][1], np.ones((1, units.first.size))
        drawn = [measure(counts) - other(counts) for counts in units.weights(DRAWS, 0)]
        gain = interval((measure(whole) - other(whole))[0], np.concatenate(drawn))
        rows[name] = {"value": float(measure(whole)[0]), "gain": gain.to_dict()}
    return rows


def trained(options, folder, seed):
    """Return a twin trained by the recipe, kept in a folder or opened from there, and what is known of its training.

    Args:
        options: What is told to `textsiam train` beside the recipe.
        folder: Where trained twins are kept.
        seed: Of the training.
    """
    from textsiam.models.twin import Twin

    place = folder / f"{' '.join(options).replace('--', '').replace('/', '-') or 'recipe'}, seed {seed}"
    if not place.exists():
        pairs = splits()[0]
        off = ["--training.trained_share", "null", "--loss.distillation", "null"]
        changes = {"seeds": 1, "seed": seed, "checkpoint_every": 40}
        run = folder / f"run of {place.name}"
        twin, result, _ = train_recipe(pairs, run, [*off, *options], resume=True, **changes)
        known = {"options": options, "seed": seed, "pairs": len(pairs), "steps": result.steps}
        twin.provenance = {"benchmark": known | {"seconds": result.seconds}}
        twin.save_pretrained(place)
    twin = Twin.from_pretrained(place)
    return twin, twin.provenance["benchmark"]


def judge(given, every):
    """Judge twins; each that has no row yet adds one.

    Args:
        given: For each row its name, the twin, the share of its weights (None: all), and what is known of its training.
        every: Of Quora's and of Yahoo's pairs, each so many-th is judged.
    """
    from textsiam.inference.encoders import MINILM
    from textsiam.models.twin import Twin
    from textsiam.training.weights.averaging import between

    sets, start = read_sets(), Twin.from_pretrained(MINILM)
    sets |= {name: sets[name].select(np.arange(0, len(sets[name]), every)) for name in ("quora", "yahoo")}
    weights = {name: weight.clone() for name, weight in start.state_dict().items()}
    before = measures(start, sets)
    for name, twin, share, known in (("untrained", None, None, {}), *given):
        if (name, every) in {(row["way"], row["every"]) for row in stored(RESULTS)["rows"]}:
            continue
        if share is not None:
            own = twin.state_dict()
            twin.load_state_dict(own | between(weights, {key: own[key] for key in weights}, share))
        figures = compared(before, before if twin is None else measures(twin, sets))
        row = {"way": name, "every": every, "share": share, **known, "figures": figures, "facts": facts()}
        keep(RESULTS, [row])
        print(json.dumps(row), flush=True)


def table(every):
    """Print rows as Markdown: figures, and what they differ by from the untrained backbone."""
    print(f"| way | {' | '.join(FIGURES.values())} |\n| --- |{' --- |' * len(FIGURES)}")
    for row in stored(RESULTS)["rows"]:
        cells = []
        for figure in (row["figures"][name] for name in FIGURES if row["every"] == every):
            gain = {end: f"{100 * figure['gain'][end]:+.1f}" for end in ("value", "low", "high")}
            apart = f" ({gain['value']}: {gain['low']} to {gain['high']})" if row["way"] != "untrained" else ""
            cells.append(f"{100 * figure['value']:.1f}{apart}")
        if cells:
            print(f"| {row['way']} | {' | '.join(cells)} |")


def opened(text):
    """Return what `judge` takes of `NAME=FOLDER` or `NAME=FOLDER=SHARE`."""
    from textsiam.models.twin import Twin

    name, folder, *share = text.split("=")
    twin = Twin.from_pretrained(folder)
    return name, twin, float(share[0]) if share else None, twin.provenance.get("benchmark", {})


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="judge each so many-th pair of Quora and Yahoo")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table")
    runner = commands.add_parser("run")
    runner.add_argument("ways", nargs="*", default=list(WAYS))
    runner.add_argument("--twins", type=Path, required=True, help="folder of the trained twins")
    runner.add_argument("--seed", type=int, default=0)
    commands.add_parser("judge").add_argument("twins", nargs="+", help="NAME=FOLDER, or NAME=FOLDER=SHARE")
    arguments = parser.parse_args()
    if arguments.command == "table":
        table(arguments.every)
    elif arguments.command == "run":
        for name in arguments.ways:
            options, share = WAYS[name]
            twin, known = trained(options, arguments.twins, arguments.seed)
            judge([(name, twin, share, known)], arguments.every)
    else:
        judge([opened(text) for text in arguments.twins], arguments.every)


if __name__ == "__main__":
    main()
