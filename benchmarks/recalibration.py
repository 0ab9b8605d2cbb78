"""How far a few labels carry the packaged decision to another forum: `recalibrate`, and a fresh fit of the same labels.

    python benchmarks/recalibration.py

Prints Markdown: calibration error and accuracy on the pairs of AskUbuntu that were not drawn, means of 40 draws.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

DATA = Path(os.environ.get("TEXTSIAM_DATA", Path(__file__).parents[2] / "shared/data"))
DRAWS = 40


def main() -> None:
    """Score once, draw, print."""
    from textsiam.data.pairs import read_pairs
    from textsiam.decision.decision import fit_decision
    from textsiam.decision.recalibration import recalibrate
    from textsiam.evaluation.binary import calibration_error
    from textsiam.models.twin import Twin

    pairs = read_pairs(DATA / "askubuntu/titles.tsv.gz")
    twin = Twin.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    scores, labels, old = twin.pair_similarity(pairs.texts, pairs.left, pairs.right), pairs.labels, twin.decision
    print("| random labels | packaged decision | recalibrated | fresh fit |\n| --- | --- | --- | --- |")
    for count in (20, 60, 100):
        found, seed = [], 0
        while len(found) < 3 * DRAWS:
            rows = np.random.default_rng(seed := seed + 1).permutation(len(pairs))
            seen, rest = rows[:count], rows[count:]
            if not 5 <= labels[seen].sum() <= count - 5:  # what both ask for
                continue
            new = recalibrate(old, scores[seen], labels[seen]).decision
            for decision in (old, new, fit_decision(scores[seen], labels[seen])):
                p = decision.probability(scores[rest])
                found.append((calibration_error(p, labels[rest]), np.mean((p >= 0.5) == labels[rest])))
        cells = [f"{error:.3f}, {100 * right:.1f} %" for error, right in np.array(found).reshape(DRAWS, 3, 2).mean(0)]
        print(f"| {count} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
