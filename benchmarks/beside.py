"""What encoding, training, joining and serving keep of their pace beside processes that never wait.

    python benchmarks/beside.py run                        # alone, beside one and beside two, in alternating rounds
    python benchmarks/beside.py run --old ../old           # the package of another folder in the same rounds
    python benchmarks/beside.py run --works train serve
    python benchmarks/beside.py table                      # Markdown from results/beside.json

Every measurement is a process of its own, with all-MiniLM-L6-v2: 2,000 questions of Quora are encoded again and again;
pairs are trained on in batches of 128 with the contrastive loss; 20,000 random vectors are joined; 32 clients, in a
process of their own, ask a server for duplicates among 10,000 questions. A neighbour is `while True: pass`. The
ways: as a user runs it; with torch imported before textsiam; with threads that spin (OMP_WAIT_POLICY=ACTIVE).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from encode import texts_of
from quality import DATA, facts, results_file

RESULTS = results_file("beside")
WAYS = ("as it is", "torch first", "spinning")
SECONDS = 6
_CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_", "PYTHONPATH"))}


def encode():
    """Return texts/s."""
    from textsiam import Twin

    twin, texts = Twin.from_pretrained("all-MiniLM-L6-v2"), texts_of(2000, None)
    return repeated(lambda: twin.encode(texts), len(texts))


def train():
    """Return pairs/s, those of the first steps left out."""
    from textsiam import Twin, read_pairs, train
    from textsiam.training.settings import Settings

    try:
        from textsiam.config.run import build_objective, read_config
    except ModuleNotFoundError:  # where 0.1 has them: it may be the other package
        from textsiam.config import build_objective, read_config  # pyright: ignore

    objective = build_objective(read_config(["--loss.online_contrastive.margin=0.5"]).loss)
    pairs, twin = read_pairs(DATA / "dev.tsv.gz"), Twin.from_pretrained("all-MiniLM-L6-v2")
    steps, per_log = int(os.environ["TEXTSIAM_STEPS"]), 2
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(max_steps=steps, log_every=per_log, tracker="none")
        found = train(twin, pairs, objective, output=folder, settings=settings, quiet=True)
    paces = [record["pairs_per_second"] for record in found.history if "pairs_per_second" in record][1:]
    return len(paces) / sum(1 / pace for pace in paces)


def join():
    """Return vectors/s of a join."""
    import numpy as np

    from textsiam import Twin
    from textsiam.search.join.exact import stream_pairs

    vectors = np.random.default_rng(0).standard_normal((20_000, 384), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    twin = Twin.from_pretrained("all-MiniLM-L6-v2")
    return repeated(lambda: sum(1 for _ in stream_pairs(twin, vectors, 0.8)), len(vectors))


def repeated(work, count):
    """Return how many a second, after one round to warm up."""
    work()
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        work()
        rounds += 1
    return rounds * count / (time.perf_counter() - started)


def serve():
    """Return answers/s for 32 clients."""
    from serve import filled, served

    texts = texts_of(10_000, None)
    with tempfile.TemporaryDirectory() as folder:
        filled(Path(folder) / "index", texts)
        with served(Path(folder) / "index", "--host", "127.0.0.1") as (address, _):
            clients = [sys.executable, __file__, "clients", address]
            said = subprocess.run(clients, capture_output=True, text=True, check=True).stdout
    return float(said)


def clients(address):
    """Print answers/s of 32 clients."""
    import httpx2

    texts, done, until = texts_of(2000, None), [0] * 32, time.perf_counter() + SECONDS

    def ask(k):
        with httpx2.Client(base_url=address, timeout=120) as client:
            while time.perf_counter() < until:
                assert client.post("/duplicates", json={"question": texts[(k * 61 + done[k]) % 2000]}).is_success
                done[k] += 1

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(len(done))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sum(done) / SECONDS)


WORKS = {
    "encode": (encode, "texts/s"),
    "train": (train, "pairs/s"),
    "join": (join, "vectors/s"),
    "serve": (serve, "answers/s"),
}


def one(work, way, busy, package):
    """Return the pace of a work in a process of its own, beside so many busy ones."""
    steps = "16" if busy == 0 else "10"
    added = {"OMP_WAIT_POLICY": "ACTIVE"} if way == "spinning" else {}
    added |= {"TEXTSIAM_FIRST": "1"} if way == "torch first" else {}
    path = {"PYTHONPATH": str(package)} if package else {}
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        said = subprocess.run([sys.executable, __file__, "child", work], capture_output=True, text=True,
                              env=_CLEAN | added | path | {"TEXTSIAM_STEPS": steps})  # fmt: skip
    finally:
        for neighbour in neighbours:
            neighbour.kill()
    if said.returncode:
        raise RuntimeError(said.stderr)
    return float(said.stdout.splitlines()[-1])


def run(works, ways, busy, rounds, old):
    """Measure every way of every work in turns, and write the rows in place of those that are there."""
    ways = [(way, None) for way in ways] + ([("before", Path(old).resolve())] if old else [])
    here = Path(__file__).parents[1]
    for work in works:
        found = {}
        for _ in range(rounds):
            for way, package in ways:
                for count in busy:
                    pace = one(work, way, count, package or here)
                    found.setdefault((way, count), []).append(pace)
                    print(work, way, count, round(pace, 1), flush=True)
        stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
        rows = [{"work": work, "way": way, "busy": count, "unit": WORKS[work][1], "pace": sorted(paces)}
                for (way, count), paces in found.items()]  # fmt: skip
        stored["rows"] = [row for row in stored["rows"] if row["work"] != work] + rows
        RESULTS.write_text(json.dumps(stored | {"facts": facts()}, indent=1) + "\n")


def table():
    """Print the rows as Markdown: the pace alone, and what is left of it."""
    rows = json.loads(RESULTS.read_text())["rows"]
    pace = {(row["work"], row["way"], row["busy"]): statistics.median(row["pace"]) for row in rows}
    print("| work | way | alone | beside one | beside two |\n| --- | --- | --- | --- | --- |")
    for work, way, busy in pace:
        if busy == 0:
            alone = pace[work, way, 0]
            kept = [f"{pace[work, way, n] / alone:.0%}" if (work, way, n) in pace else "–" for n in (1, 2)]
            print(f"| {work} | {way} | {alone:,.0f} {WORKS[work][1]} | {' | '.join(kept)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("run")
    measure.add_argument("--works", nargs="+", default=[*WORKS], choices=[*WORKS])
    measure.add_argument("--ways", nargs="+", default=[*WAYS], choices=WAYS)
    measure.add_argument("--busy", nargs="+", type=int, default=[0, 1, 2])
    measure.add_argument("--rounds", type=int, default=3)
    measure.add_argument("--old", help="a folder with another textsiam")
    commands.add_parser("table")
    commands.add_parser("child").add_argument("work")
    commands.add_parser("clients").add_argument("address")
    given = parser.parse_args()
    if given.command == "run":
        run(given.works, given.ways, given.busy, given.rounds, given.old)
    elif given.command == "table":
        table()
    elif given.command == "clients":
        clients(given.address)
    else:
        if os.environ.get("TEXTSIAM_FIRST"):
            import torch  # noqa: F401
        print(WORKS[given.work][0]())
