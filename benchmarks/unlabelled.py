"""What a collection without labels teaches: title–body pairs, SimCSE (dropout twins), both, beside the untrained twin.

Each variant is trained twice: on titles and bodies of three Stack Exchange dumps (no question that a link connects),
and on titles and abstracts of Cranfield. Judged are the dumps' links (mean reciprocal rank of a linked question, with
the interval of what is gained), Yahoo question pairs (AP, by the twin of the dumps: a forum that it never saw) and
Cranfield (nDCG@10, by the twin of its abstracts).

    python benchmarks/unlabelled.py run
    python benchmarks/unlabelled.py table
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from elsewhere import cranfield
from quality import DATA, finished, keep, stored

RESULTS = Path(__file__).parent / "results" / "unlabelled.json"
SITES = ("bicycles.meta", "conlang.meta", "french.meta")
# Weights of the two losses.
VARIANTS = {
    "untrained": {},
    "title–body": {"info_nce": 1.0},
    "title–body and SimCSE": {"info_nce": 1.0, "simcse": 0.1},
    "SimCSE": {"simcse": 1.0},
}
CHARACTERS = 300  # of a body
YAHOO = 5000  # pairs


def dumps(folder):
    """Return titles with bodies of questions without a link, and for each dump all its texts and its links."""
    from textsiam.data.pairs import Pairs
    from textsiam.forums.reading import read_links, read_questions
    from textsiam.forums.stackexchange import import_stackexchange

    material, judged = [], []
    for site in SITES:
        import_stackexchange(DATA.parent / "stackexchange" / site, folder / site)
        rows = {key: (text, body) for key, text, body in read_questions(folder / site, ("id", "text", "body"))}
        links = list(read_links(folder / site))
        linked = {rows[end][0] for link in links for end in (link.id1, link.id2)}
        material += [(text, body[:CHARACTERS]) for text, body in rows.values() if text not in linked and body.strip()]
        ends = [(rows[link.id1][0], rows[link.id2][0]) for link in links]
        ends = [(a, b) for a, b in ends if a != b]
        left, right = [a for a, _ in ends], [b for _, b in ends]
        texts = list(dict.fromkeys(text for text, _ in rows.values()))
        judged.append((texts, Pairs.from_texts(left, right, [1] * len(ends), site)))
    return material, judged


def abstracts():
    """Return titles of Cranfield with their abstracts, less the title that each begins with."""
    import re

    entries = re.split(r"^\.I \d+\n", (DATA.parent / "cranfield/cran.all.1400").read_text(), flags=re.M)[1:]
    fields = [dict(re.findall(r"^\.(\w)\n(.*?)(?=^\.\w\n|\Z)", entry, re.M | re.S)) for entry in entries]
    both = [[" ".join(each.get(name, "").split()) for name in "TW"] for each in fields]
    rows = [(title, text.removeprefix(title).strip(" .")) for title, text in both]
    return [(title, text[:CHARACTERS]) for title, text in rows if title and text]


def learned(rows, weights, seed):
    """Return MiniLM trained on these pairs by these losses."""
    from textsiam.data.pairs import Pairs
    from textsiam.inference.encoders import MINILM
    from textsiam.models.twin import Twin
    from textsiam.training.loop import train
    from textsiam.training.losses import LOSSES
    from textsiam.training.losses.objective import Objective
    from textsiam.training.settings import Settings

    twin = Twin.from_pretrained(MINILM)
    if not weights:
        return twin
    pairs = Pairs.from_texts([title for title, _ in rows], [body for _, body in rows], [1] * len(rows))
    objective = Objective({name: LOSSES[name](weight=weight) for name, weight in weights.items()})
    epochs = min(5, -(-1000 // len(pairs)))  # as `adapt` has it, with its batch and learning rate
    settings = Settings(epochs=epochs, batch_size=32, learning_rate=2e-5, tracker="none", seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        finished(train(twin, pairs, objective, output=folder, settings=settings, quiet=True))
    return twin


def of_links(twin, judged):
    """Return the reciprocal ranks of the linked questions of all dumps, and the group of each."""
    from textsiam.data.clusters import cluster_ids
    from textsiam.evaluation.link_ranks import reciprocal_ranks

    ranks, groups, first = [], [], 0
    for texts, links in judged:
        ranks.append(reciprocal_ranks(twin, texts, links))
        groups.append(first + cluster_ids(links)[np.unique(np.r_[links.left, links.right])])
        first = groups[-1].max() + 1
    return np.concatenate(ranks), np.concatenate(groups)


def judge_elsewhere(forum, science):
    """Return AP on Yahoo by the twin of the dumps, and nDCG@10 on Cranfield by that of its abstracts."""
    from sklearn.metrics import average_precision_score

    from textsiam.data.pairs import read_pairs
    from textsiam.evaluation.retrieval import retrieval_report
    from textsiam.search.nearest import best_matches

    yahoo = read_pairs(DATA.parent / "yahoo_zhang/Zhang_dataset.csv")
    yahoo = yahoo.select(np.sort(np.random.default_rng(0).permutation(len(yahoo))[:YAHOO]))
    scores = forum.pair_similarity(yahoo.texts, yahoo.left, yahoo.right)
    documents, queries, relevant = cranfield(DATA.parent / "cranfield")
    where, _ = best_matches(science, science.encode(queries), science.encode(documents), 100)
    report = retrieval_report({q + 1: (row + 1).tolist() for q, row in enumerate(where)}, relevant, bootstrap=0)
    return {
        "yahoo_ap": float(average_precision_score(yahoo.labels, scores)),
        "cranfield_ndcg_at_10": float(report.ndcg_at_10.value),
    }


def run(names, seed):
    """Train and judge the variants that have no row yet; each adds one."""
    from textsiam.evaluation.link_ranks import difference

    with tempfile.TemporaryDirectory() as folder:
        material, judged = dumps(Path(folder))
    science_rows = abstracts()
    before, _ = of_links(learned(material, {}, seed), judged)
    there = {(row["variant"], row["seed"]) for row in stored(RESULTS)["rows"]}
    for name in names:
        if (name, seed) in there:
            continue
        forum, science = (learned(rows, VARIANTS[name], seed) for rows in (material, science_rows))
        ranks, groups = of_links(forum, judged)
        gain = difference(before, ranks, groups)
        row = {"variant": name, "seed": seed, "pairs": [len(material), len(science_rows)], "links_mrr": ranks.mean()}
        row |= {"gain": gain and gain.to_dict(), "groups": len(np.unique(groups))} | judge_elsewhere(forum, science)
        print(json.dumps(row), flush=True)
        keep(RESULTS, [row])


def table():
    """Print the rows as Markdown."""
    print("| learned from | dumps' links, MRR % (gain) | Yahoo, AP % | Cranfield, nDCG@10 % |")
    print("| --- | --- | --- | --- |")
    for row in stored(RESULTS)["rows"]:
        gain = {name: f"{100 * row['gain'][name]:+.1f}" for name in ("value", "low", "high")}
        links = f"{100 * row['links_mrr']:.1f} ({gain['value']}: {gain['low']} to {gain['high']})"
        print(f"| {row['variant']} | {links} | {100 * row['yahoo_ap']:.1f} | {100 * row['cranfield_ndcg_at_10']:.1f} |")


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table")
    runner = commands.add_parser("run")
    runner.add_argument("variants", nargs="*", default=list(VARIANTS))
    runner.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.command == "table":
        table()
    else:
        run(arguments.variants, arguments.seed)


if __name__ == "__main__":
    main()
