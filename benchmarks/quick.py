"""The main ratios to the peer in at most five minutes, beside those recorded last: has anything become slower?

    python benchmarks/quick.py                # prints; `make bench-quick`
    python benchmarks/quick.py --record       # and keeps what it measured in results/quick.json

Ratios are compared, not rates: machines differ. Each measurement is a process of its own, ours and the peer's in turns.
The peer is sentence-transformers at its best (bf16, a good batch size); of a cold start, `import torch` alone. A ratio
that fell by more than a fifth is marked, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from encode import child_of, texts_of
from quality import facts, results_file

RESULTS = results_file("quick")
_SLOWER = 0.8
_HERE = Path(__file__).parent


def encoding(method):
    """Return texts/s of 1,000 Quora questions."""
    row = child_of(_HERE / "encode.py", "one", method, "--texts", 1000, "--batch", 32)
    return row["texts"] / row["seconds"]


def long_texts(method):
    """Return texts/s of 64 texts of 256 tokens."""
    row = child_of(_HERE / "encode.py", "one", method, "--texts", 64, "--tokens", 256, "--batch", 16)
    return row["texts"] / row["seconds"]


def training(method):
    """Return pairs/s of eight steps."""
    return child_of(_HERE / "train.py", "pace", method, "--steps", 8)["pairs_per_second"]


def joining(method):
    """Return joins/s of the vectors of 4,000 questions."""
    return 1 / child_of(__file__, "--child", method)["seconds"]


def starting(method):
    """Return cold starts a second: of `textsiam score`, or of `import torch`."""
    score = ["-m", "textsiam.cli", "score", "all-MiniLM-L6-v2", "How old are you?", "What is your age?"]
    started = time.perf_counter()
    subprocess.run([sys.executable, *(score if method == "textsiam" else ["-c", "import torch"])], check=True,
                   capture_output=True)  # fmt: skip
    return 1 / (time.perf_counter() - started)


WORKS = {
    "encode 1,000 questions": (encoding, "peer best", 3),
    "encode 64 texts of 256 tokens": (long_texts, "peer best", 2),
    "train, batches of 128": (training, "peer bf16", 1),
    "join 4,000 questions": (joining, "paraphrase_mining_embeddings", 3),
    "cold score, to import torch": (starting, "import torch", 3),
}


def join_once(method):
    """Return the seconds of one join."""
    from join import METHODS

    from textsiam import Twin

    vectors = Twin.from_pretrained("all-MiniLM-L6-v2").encode(texts_of(4000, None))
    METHODS[method](vectors[:500].copy(), 0.8)  # the first call imports and compiles
    started = time.perf_counter()
    METHODS[method](vectors.copy(), 0.8)
    return {"seconds": time.perf_counter() - started}


def run(record):
    """Measure and print every ratio; returns whether none fell."""
    recorded = json.loads(RESULTS.read_text())["ratio"] if RESULTS.exists() else {}
    print(f"{'':32}{'ratio':>8}{'recorded':>10}")
    found, good = {}, True
    for work, (measure, peer, rounds) in WORKS.items():
        found[work] = statistics.median([measure("textsiam") / measure(peer) for _ in range(rounds)])
        before = recorded.get(work)
        fell = before is not None and found[work] < _SLOWER * before
        good &= not fell
        print(f"{work:32}{found[work]:8.2f}{'' if before is None else f'{before:10.2f}'}{'  slower' if fell else ''}",
              flush=True)  # fmt: skip
    if record:
        RESULTS.write_text(json.dumps({"ratio": found, "facts": facts()}, indent=1) + "\n")
    return good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(join_once(given.child)))
    else:
        sys.exit(0 if run(given.record) else 1)
