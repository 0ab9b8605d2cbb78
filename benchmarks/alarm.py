"""How often the packaged decision says that pairs are unlike those it was learned on, and in what they differ.

    python benchmarks/alarm.py
    python benchmarks/alarm.py --server     # questions that come in at a server, 256 at a time

Prints Markdown: samples of 500 pairs, and of Quora's at several shares of duplicates. No label is read by the alarm.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np

DATA = Path(os.environ.get("TEXTSIAM_DATA", Path(__file__).parents[2] / "shared/data"))
PAIRS, SAMPLES = 500, 20


def main() -> None:
    """Draw, ask, print."""
    from textsiam.data.pairs import read_pairs
    from textsiam.models.domain import pairs_shift
    from textsiam.models.twin import Twin

    twin = Twin.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    print("| pairs | alarms | in what they differ |\n| --- | --- | --- |")

    def ask(name, pairs, share=None):
        alarms, named = 0, Counter()
        for seed in range(SAMPLES):
            rng = np.random.default_rng(seed)
            rows = rng.permutation(len(pairs))
            if share is not None:
                ones = int(PAIRS * share)
                kinds = [rows[pairs.labels[rows] == value][:n] for value, n in ((1, ones), (0, PAIRS - ones))]
                rows = np.concatenate(kinds)
            part = pairs.select(rows[:PAIRS])
            shift = pairs_shift(twin, twin.decision, part, twin.pair_similarity(part.texts, part.left, part.right))
            alarms += shift is not None
            named.update(one.name for one in (shift.differences if shift else ()))
        print(
            f"| {name} | {alarms} of {SAMPLES} | {', '.join(f'{k} ({n})' for k, n in named.most_common())} |",
            flush=True,
        )

    quora = read_pairs(DATA / "qqp/dev.tsv.gz")
    ask("Quora, held out", quora)
    for share in (0.05, 0.95):
        ask(f"Quora, {100 * share:.0f} % duplicates", quora, share)
    ask("AskUbuntu", read_pairs(DATA / "askubuntu/titles.tsv.gz"))
    ask("Yahoo", read_pairs(DATA / "yahoo_zhang/Zhang_dataset.csv"))
    ask("the sample forum", read_pairs("sample:forum"))


def watch() -> None:
    """Let questions come in at a server, print."""
    from textsiam.data.pairs import read_pairs
    from textsiam.models.domain import DomainWatch
    from textsiam.models.twin import Twin

    twin = Twin.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    print("| questions | blocks | alarms | in what they differ |\n| --- | --- | --- | --- |")
    for name, source, blocks in (
        ("Quora, held out", "qqp/dev.tsv.gz", 40),
        ("AskUbuntu", "askubuntu/titles.tsv.gz", 7),
        ("Yahoo", "yahoo_zhang/Zhang_dataset.csv", 10),
    ):
        texts, seen, alarms, named = list(read_pairs(DATA / source).texts), DomainWatch(twin), 0, Counter()
        order = np.random.default_rng(0).permutation(len(texts))[: 256 * blocks].reshape(-1, 256)
        for block in order.tolist():
            part = [texts[k] for k in block]
            seen.check(seen.take(part, twin.encode(part)))
            alarms += seen.shift is not None
            named.update(one.name for one in (seen.shift.differences if seen.shift else ()))
        differ = ", ".join(f"{k} ({n})" for k, n in named.most_common())
        print(f"| {name} | {len(order)} | {alarms} | {differ} |", flush=True)


if __name__ == "__main__":
    watch() if "--server" in sys.argv else main()
