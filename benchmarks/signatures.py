"""Signatures of writers never seen: against those of others, and against skilled forgeries of theirs.

    python benchmarks/signatures.py run                     # configs/signatures.yaml, three splits, 15 writers held out
    python benchmarks/signatures.py run --how pretrained    # examples/pretrained_cnn, with weights of ImageNet
    python benchmarks/signatures.py run --how peer          # the same CNN, batches and steps, triplets of a peer
    python benchmarks/signatures.py run --steps 250         # shorter
    python benchmarks/signatures.py compare                 # paired intervals, writers drawn
    python benchmarks/signatures.py table                   # Markdown for the docs

A writer is enrolled by one or five signatures, five times drawn, as a gallery does it: their mean, less what how alike
they are takes. The other signatures of all writers held out and the skilled forgeries of this one claim to be theirs.
The knobs were tuned on 24 writers; each split holds out 15 of the other 21. Runs stand in `--runs`, with the scores of
their claims, and go on where they stopped; rows are added to results/signatures.json as they are done.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from people import ENROLLED, FORGED, OTHERS, Claims, apart, claims, encoded, opened, store, trained
from quality import DATA, keep, stored

RESULTS = Path(__file__).parent / "results" / "signatures.json"
ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "pretrained_cnn"
CONFIGS = {"ours": ROOT / "configs" / "signatures.yaml", "pretrained": EXAMPLE / "signatures.yaml"}
SIGNATURES = DATA.parent / "signatures"
PEER = {"peer_triplet.PeerTriplet": {}}
HELD, TUNED_ON = 15, 24
TRAINED, OTHER_WAYS = ("ours", "pretrained", "peer"), ("raw pixels", "no reference")
MEASURES = ("others 1", "others 5", "forged 1", "forged 5")


def writers() -> dict[str, dict[str, list[str]]]:
    """Return the files of each writer: genuine ones and forged ones."""
    found: dict[str, dict[str, list[str]]] = {}
    with (SIGNATURES / "index.tsv").open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            kind = FORGED if row["kind"] == "forgery" else "genuine"
            found.setdefault(row["writer"], {"genuine": [], FORGED: []})[kind].append(str(SIGNATURES / row["path"]))
    return dict(sorted(found.items()))


def held_out(split: int) -> list[str]:
    """Return the 15 writers whom a split tests: of the 21 on whom nothing was tuned."""
    names = np.array(list(writers()))
    rest = names[np.random.default_rng(2024).permutation(len(names))[TUNED_ON:]]
    return sorted(np.random.default_rng(split).permutation(rest)[:HELD].tolist())


def thresholds(calibrating: dict, tested: dict) -> dict[str, Any]:
    """Return what thresholds that the writers who calibrate give mean for those tested, with five references."""
    known, asked = claims(calibrating, ENROLLED, calibrating), claims(tested, ENROLLED, calibrating)
    others = np.sort(known.scores[known.kinds == OTHERS])[::-1]
    genuine = known.scores[known.kinds == "genuine"]
    points = {"others at 1 %": others[int(0.01 * len(others))], "genuine at 95 %": np.quantile(genuine, 0.05)}
    return {name: {kind: float((asked.scores[asked.kinds == kind] > at).mean()) for kind in ("genuine", OTHERS, FORGED)}
            for name, at in points.items()}  # fmt: skip


def twin(split: int, how: str, steps: int | None, folder: Path) -> tuple[dict, dict[int, Claims]]:
    """Train on 30 writers, less those who calibrate; return what the 15 others show."""
    held, files = held_out(split), writers()
    asked = ["--data.train", str(SIGNATURES), "--data.unseen", json.dumps(held), "--training.seed", str(split)]
    asked += [] if steps is None else ["--training.max_steps", str(steps)]
    sys.path.insert(0, str(EXAMPLE))
    config = CONFIGS.get(how, CONFIGS["ours"])
    outcome = trained(config, folder, *asked, loss=PEER if how == "peer" else None)
    tested = encoded(outcome.twin.encode, {name: files[name] for name in held})
    calibrating = sorted({Path(text).parent.name for text in outcome.splits.calibration.texts})
    known = encoded(outcome.twin.encode, {name: files[name] for name in calibrating})
    facts = {"steps": outcome.result.steps, "training_seconds": outcome.result.seconds, "calibrating": calibrating}
    return facts | {"thresholds": thresholds(known, tested)}, both(tested, known)


def both(vectors: dict, others: dict | None = None) -> dict[int, Claims]:
    """Return the claims with one and with five references."""
    return {count: claims(vectors, count, others) for count in (1, ENROLLED)}


def pixels(split: int) -> tuple[dict, dict[int, Claims]]:
    """Return what raw pixels show."""
    from textsiam.evaluation.raw_pixels import RawPixels

    files = writers()
    return {}, both(encoded(RawPixels().vectors, {name: files[name] for name in held_out(split)}))


def statistics_of(path: str) -> list[float]:
    """Return ten statistics of the ink of a signature: its darkest, its quantiles, its levels, how even strokes are.

    Of 44 that were tried on the writers of the tuning these tell most: genuine ones are hardly ever quite black.
    """
    from PIL import Image
    from scipy.ndimage import maximum_filter

    pixels = np.asarray(Image.open(path).convert("L"))
    ink = 1.0 - pixels / 255.0
    dark = ink[ink > 0.02]
    ridge = ink[(ink == maximum_filter(ink, 3)) & (ink > 0.2)]
    faint = ((ink > 0.1) & (ink < 0.4)).sum() / (ink > 0.1).sum()
    quantiles = np.quantile(dark, [0.5, 0.75, 0.9, 0.95, 0.99])
    return [ink.max(), dark.mean(), *quantiles, ridge.std(), faint, len(np.unique(pixels))]


def without_reference(split: int) -> tuple[dict, dict[int, Claims]]:
    """Return what a random forest makes of the ink of a claim without any reference, trained on the other writers."""
    from sklearn.ensemble import RandomForestClassifier

    held = held_out(split)
    made = {name: {kind: np.array([statistics_of(each) for each in some]) for kind, some in of.items()}
            for name, of in writers().items()}  # fmt: skip
    known = [(row, kind) for name, of in made.items() if name not in held for kind in of for row in of[kind]]
    shown, labels = np.array([row for row, _ in known]), [kind == "genuine" for _, kind in known]
    forest = RandomForestClassifier(500, min_samples_leaf=2, random_state=split).fit(shown, labels)
    rows = [(score, kind, number, number) for number, name in enumerate(held) for kind in made[name]
            for score in forest.predict_proba(made[name][kind])[:, 1]]  # fmt: skip
    found = Claims(*(np.array(each) for each in zip(*rows, strict=True)))
    return {}, {1: found, ENROLLED: found}


def rates(made: dict[int, Claims]) -> dict[str, float]:
    """Return the equal error rates, by what claims and by the number of references."""
    return {f"{kind} {count}": each.eer(kind) for count, each in made.items() for kind in (OTHERS, FORGED)
            if (each.kinds == kind).any()}  # fmt: skip


def place(runs: Path, how: str, split: int, steps: int | None) -> Path:
    """Return where a run and the scores of its claims stand."""
    return runs / f"{how.replace(' ', '_')}_{split}_{steps or 'all'}"


def run(how: str, split: int, steps: int | None, runs: Path) -> None:
    """Measure one way on one split, unless that is done."""
    key = {"how": how, "split": split, "asked_steps": steps}
    if any(key == {name: row.get(name) for name in key} for row in stored(RESULTS)["rows"]):
        return
    folder = place(runs, how, split, steps)
    if how in TRAINED:
        facts, made = twin(split, how, steps, folder)
    else:
        facts, made = (pixels if how == "raw pixels" else without_reference)(split)
    store(folder, made)
    row = {**key, "held": held_out(split), **rates(made), **facts}
    keep(RESULTS, [row])
    print(json.dumps(row), flush=True)


def compare(runs: Path) -> None:
    """Print the differences between ours and each other way on the splits that both have, and keep them."""
    rows = [row for row in stored(RESULTS)["rows"] if "split" in row]
    of: dict[tuple, set[int]] = {}
    for row in rows:
        of.setdefault((row["how"], row["asked_steps"]), set()).add(row["split"])
    for ours, theirs in (
        (a, b) for a in of for b in of if a[0] in CONFIGS and b[0] not in CONFIGS and b[1] in (None, a[1])
    ):
        splits = sorted(of[ours] & of[theirs])
        for measure in MEASURES if splits else ():
            kind, count = measure.split()
            made = [[opened(place(runs, how, s, steps), int(count)) for s in splits] for how, steps in (ours, theirs)]
            if (made[1][0].kinds == kind).any():
                low, high = apart(*made, [held_out(s) for s in splits], kind)
                row = {"ours": ours, "minus": theirs, "splits": splits, "measure": measure, "interval": [low, high]}
                keep(RESULTS, [row])
                print(json.dumps(row), flush=True)


def table() -> None:
    """Print the rows as Markdown."""
    by: dict[str, list[dict[str, Any]]] = {}
    for row in (row for row in stored(RESULTS)["rows"] if "split" in row):
        by.setdefault(row["how"] + (f", {row['asked_steps']:,} steps" if row["asked_steps"] else ""), []).append(row)
    print("| EER %, mean of splits | splits | " + " | ".join(MEASURES) + " |\n|" + " --- |" * (2 + len(MEASURES)))
    for how, rows in by.items():
        cells = [f"{100 * np.mean([row[m] for row in rows]):.1f}" if m in rows[0] else "–" for m in MEASURES]
        print(f"| {how} | {', '.join(str(row['split']) for row in rows)} | {' | '.join(cells)} |")
    for how, rows in by.items():
        for name in rows[0].get("thresholds", ()):
            shares = {kind: np.mean([row["thresholds"][name][kind] for row in rows])
                      for kind in ("genuine", OTHERS, FORGED)}  # fmt: skip
            print(f"{how}, {name}: accepted " + ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items()))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "compare", "table"))
    parser.add_argument("--how", nargs="+", default=["ours", *OTHER_WAYS], choices=(*TRAINED, *OTHER_WAYS))
    parser.add_argument("--splits", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of training; as many as the config says without")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "signatures")
    given = parser.parse_args()
    if given.what == "run":
        for how in given.how:
            for split in given.splits:
                run(how, split, given.steps if how in TRAINED else None, given.runs)
    elif given.what == "compare":
        compare(given.runs)
    else:
        table()


if __name__ == "__main__":
    main()
