"""The bound that `gallery calibrate` states of the false accept rate for identities never seen: does it hold?

    python benchmarks/galleries.py simulate                 # 2,000 runs each of constructed identities
    python benchmarks/galleries.py signatures               # writers held out: the bound and the rate achieved
    python benchmarks/galleries.py uneven                   # made people, some of whom are alike every time
    python benchmarks/galleries.py references               # mean, max and top-2 mean of several references
    python benchmarks/galleries.py table                    # Markdown for the docs

Constructed identities have scores with an effect of the enrolled identity, one of the probing identity (independent, or
the same as in a cosine), one of the two together and a rest, so that the true rate of a threshold is known. Each run
draws them anew, chooses the threshold and states both bounds. Signatures: raw pixels (64 × 64) as vectors; writers are
split 50 times into those who calibrate and those never seen. Made people (`uneven`) have vectors of their own, spread
more or less around a centre; 150 of them calibrate nothing and show the true rate. Rows are added to the JSON file as
they are done.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from quality import DATA, keep, stored

RESULTS = Path(__file__).parent / "results" / "galleries.json"
SIGNATURES = DATA.parent / "signatures"
IDENTITIES = (10, 15, 30)
# name: the shares of the enrolled, the probing and both together; whether the two effects are one; how they are spread
KINDS = {
    "small": ((0.05, 0.05, 0.1), False, "normal"),
    "medium": ((0.2, 0.2, 0.2), False, "normal"),
    "as a cosine": ((0.2, 0.2, 0.2), True, "normal"),
    "large": ((0.35, 0.35, 0.05), True, "normal"),
    "skewed": ((0.2, 0.2, 0.1), True, "exponential"),
    "heavy tails": ((0.2, 0.2, 0.1), True, "t3"),
    "one in twenty": ((0.2, 0.2, 0.1), True, "rare"),
}
FAR = 0.01
PROBES = 5
UNSEEN, DIM = 150, 24  # people who show the true rate, and the length of their vectors


def effects(rng: np.random.Generator, spread: str, size: int) -> np.ndarray:
    """Return effects of identities with variance 1 (rare ones: 0.7)."""
    if spread == "exponential":
        return rng.exponential(size=size) - 1.0
    if spread == "t3":
        return rng.standard_t(3, size=size) / np.sqrt(3.0)
    return rng.normal(size=size) if spread == "normal" else np.where(rng.random(size) < 0.05, 4.0, 0.0)


def simulated(kind: str, identities: int, runs: int) -> dict:
    """Return how often the bounds hold, and the interval that stood there before (Korn and Graubard, by identity)."""
    from textsiam.decision.intervals import clustered_rate
    from textsiam.search.galleries.unseen import independent_pairs, random_effects_bound, worst_case_bound

    shares, alike, spread = KINDS[kind]
    a, b, c = np.sqrt(shares)
    rest = np.sqrt(1.0 - sum(shares))
    rng = np.random.default_rng([identities, sum(map(ord, kind))])
    many = a * effects(rng, spread, 2_000_000) + b * effects(rng, spread, 2_000_000)
    truth = np.sort(many + np.sqrt(c * c + rest * rest) * rng.normal(size=many.size))
    who = np.repeat(np.arange(identities), PROBES)
    impostor = np.arange(identities) != who[:, None]
    worst = worst_case_bound(FAR, independent_pairs(identities, identities, identities))
    rows = []
    for run in range(runs):
        enrolled = effects(rng, spread, identities)
        probing = enrolled if alike else effects(rng, spread, identities)
        of_pairs = a * enrolled + b * probing[:, None] + c * rng.normal(size=(identities, identities))
        scores = np.repeat(of_pairs, PROBES, axis=0) + rest * rng.normal(size=impostor.shape)
        flat = np.sort(scores[impostor])[::-1]
        threshold = flat[int(FAR * flat.size + 1e-9)] + 1e-9
        true = 1.0 - np.searchsorted(truth, threshold) / truth.size
        bound = random_effects_bound(scores.astype(np.float32), impostor, who, who, FAR, seed=run)
        seen = (scores >= threshold)[impostor].reshape(len(who), -1)
        rows.append((true, bound, worst, clustered_rate(seen, names=who).high))
    true, *bounds = np.array(rows).T
    return {
        "kind": kind, "identities": identities, "runs": runs, "far": FAR, "true_mean": true.mean(),
        "true_95": np.quantile(true, 0.95), **{
            name: {"held": float((true <= bound + 1e-12).mean()), "median": float(np.median(bound))}
            for name, bound in zip(("bound", "worst_case", "before"), bounds, strict=True)
        },
    }  # fmt: skip


def drawings() -> tuple[np.ndarray, np.ndarray]:
    """Return raw pixels (n, 4096) of the genuine signatures, grey and of length 1, and their writers."""
    from PIL import Image

    found, writers = [], []
    for path in sorted((SIGNATURES / "train").glob("*/g_*.png")):
        pixels = 255.0 - np.asarray(Image.open(path).convert("L").resize((64, 64)), np.float64)
        pixels -= pixels.mean()
        found.append(pixels.ravel() / np.linalg.norm(pixels))
        writers.append(path.parent.name)
    return np.array(found), np.unique(writers, return_inverse=True)[1]


def similarities(vectors: np.ndarray, writer: np.ndarray, people: np.ndarray, references: int, how: str = "mean"):
    """Return similarities (probes, people) of signatures that were not enrolled, and the columns of their writers."""
    rows = [np.flatnonzero(writer == person) for person in people]
    enrolled = [vectors[row[:references]] for row in rows]
    probes = np.concatenate([row[5:] for row in rows])  # the same ones for any number of references
    own = np.repeat(np.arange(len(people)), [len(row) - 5 for row in rows])
    if how == "mean":
        means = np.array([each.mean(axis=0) for each in enrolled])
        return vectors[probes] @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T, own
    top = 1 if how == "max" else 2
    scores = [np.sort(vectors[probes] @ each.T, axis=1)[:, -top:].mean(axis=1) for each in enrolled]
    return np.stack(scores, axis=1), own


def as_enrolled(
    vectors: np.ndarray, writer: np.ndarray, people: np.ndarray, references: int, norms: dict | None = None
):
    """Return `similarities` as a gallery has them, and its norms: given, or learned from these people."""
    from people import COSINES

    from textsiam.search.galleries.target_norm import fit_target_norms, offsets, own_similarities

    scores, own = similarities(vectors, writer, people, references)
    of = [vectors[writer == person].astype(np.float32) for person in people]
    if norms is None:  # from what is enrolled, and the probes
        norms = fit_target_norms(COSINES, [np.delete(each, range(references, 5), axis=0) for each in of])
    enrolled = own_similarities(COSINES, [each[:references] for each in of])
    return (scores - offsets(norms, [references] * len(people), enrolled)).astype(np.float32), own, norms


def held_out(vectors: np.ndarray, writer: np.ndarray, people: np.ndarray, calibrating: int, references: int):
    """Return the rate that people never seen reach, and both bounds, where the first `calibrating` people calibrate."""
    from textsiam.search.galleries.calibration import fit_verification

    scores, own, norms = as_enrolled(vectors, writer, people[:calibrating], references)
    point = fit_verification(scores, own, own, far=FAR, prior=0.5)
    scores, own, _ = as_enrolled(vectors, writer, people[calibrating:], references, norms)
    accepted = scores >= point.decision.threshold
    rate = accepted[np.arange(scores.shape[1]) != own[:, None]].mean()
    return rate, point.false_accepts.high, point.worst_case


def row_of(kind: str, identities: int, references: int, rows: list) -> dict:
    """Return how often the bounds held."""
    achieved, bound, worst = np.array(rows, float).T
    return {
        "kind": kind, "identities": identities, "references": references, "runs": len(rows), "far": FAR,
        "true_mean": achieved.mean(), "true_95": np.quantile(achieved, 0.95),
        **{name: {"held": float((achieved <= values).mean()), "median": float(np.median(values))}
           for name, values in (("bound", bound), ("worst_case", worst))},
    }  # fmt: skip


def signatures(calibrating: int, references: int, splits: int = 50) -> dict:
    """Return the bounds of writers who calibrate, and the rate that writers never seen reach."""
    vectors, writer = drawings()
    rng = np.random.default_rng([calibrating, references])
    orders = [rng.permutation(writer.max() + 1) for _ in range(splits)]
    found = [held_out(vectors, writer, people, calibrating, references) for people in orders]
    return row_of("signatures", calibrating, references, found)


def hands(run_of: tuple[int, int, int]) -> tuple[float, float, float]:
    """Return rate and bounds of one run of made people, some of whom are alike every time and others are not."""
    run, calibrating, references = run_of
    rng, people = np.random.default_rng([run, calibrating, references]), calibrating + UNSEEN
    spread = rng.uniform(0.1, 0.5, people)[:, None, None]
    centres = 0.5 * rng.normal(size=DIM) + rng.normal(size=(people, 1, DIM))
    vectors = centres / np.linalg.norm(centres, axis=2, keepdims=True)
    vectors = vectors + spread * rng.normal(size=(people, 5 + PROBES, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).reshape(-1, DIM)
    writer = np.repeat(np.arange(people), 5 + PROBES)
    return held_out(vectors, writer, np.arange(people), calibrating, references)


def uneven(calibrating: int, references: int, runs: int) -> dict:
    """Return how often the bounds hold for made people, with what their own inputs take from their scores."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor() as pool:
        asked = [(run, calibrating, references) for run in range(runs)]
        return row_of("uneven hands", calibrating, references, list(pool.map(hands, asked, chunksize=20)))


def equal_error(scores: np.ndarray, own: np.ndarray) -> float:
    """Return the equal error rate of similarities (probes, people) and the columns of the probes' writers."""
    from textsiam.evaluation.verification import verification_report

    labels = np.arange(scores.shape[1]) == own[:, None]
    return verification_report(scores.ravel(), labels.ravel().astype(int), threshold=0.0, bootstrap=0).eer.value


def references(resamples: int = 1000) -> list[dict]:
    """Return the equal error rates of five references, by writer resampled pairs of ways to join them."""
    vectors, writer = drawings()
    people = np.arange(writer.max() + 1)
    found = {how: similarities(vectors, writer, people, 5, how) for how in ("mean", "max", "top 2")}
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(people), len(people)) for _ in range(resamples)]

    def again(how: str, drawn: np.ndarray) -> float:
        scores, own = found[how]
        kept = np.unique(drawn)  # a writer drawn twice weighs no more, or it would meet itself
        rows = np.isin(own, kept)
        return equal_error(scores[rows][:, kept], np.searchsorted(kept, own[rows]))

    base = np.array([again("mean", drawn) for drawn in draws[:200]])
    rows = []
    for how in found:
        apart = np.array([again(how, drawn) for drawn in draws[:200]]) - base
        rows.append({"kind": "references", "how": how, "eer": equal_error(*found[how]),
                     "minus_mean": np.quantile(apart, [0.025, 0.975]).tolist()})  # fmt: skip
    return rows


def table(rows: list[dict]) -> str:
    """Return the rows as Markdown."""
    names = ("identities", "calibrating", "true rate % (95 % of runs)", "bound %, holds", "worst %, holds", "before")
    lines = [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
    for row in rows:
        if "bound" in row:
            name = row["kind"] + (f", references: {row['references']}" if "references" in row else "")
            shown = [f"{100 * row[b]['median']:.1f}, {row[b]['held']:.1%}" for b in ("bound", "worst_case")]
            before = f"{row['before']['held']:.1%}" if "before" in row else ""
            rates = f"{100 * row['true_mean']:.2f} ({100 * row['true_95']:.2f})"
            lines.append(f"| {name} | {row['identities']} | {rates} | {' | '.join(shown)} | {before} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["simulate", "signatures", "uneven", "references", "table"])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--identities", nargs="*", type=int, default=list(IDENTITIES))
    arguments = parser.parse_args()
    asked = {
        "simulate": lambda: (simulated(k, n, arguments.runs) for k in arguments.kinds for n in arguments.identities),
        "signatures": lambda: (signatures(n, count) for n in IDENTITIES for count in (1, 5)),
        "uneven": lambda: (uneven(n, count, arguments.runs) for n in arguments.identities for count in (1, 5)),
        "references": references,
        "table": list,
    }
    for row in asked[arguments.what]():
        keep(RESULTS, [row])
    rows = stored(RESULTS)["rows"]
    print(table(rows) if arguments.what == "table" else json.dumps(rows[-3:], indent=2))


if __name__ == "__main__":
    main()
