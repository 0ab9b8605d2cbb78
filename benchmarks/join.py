"""All pairs above a threshold side by side: textsiam and others on the same vectors of real questions.

    python benchmarks/join.py encode                          # vectors of up to 150,000 distinct questions
    python benchmarks/join.py run                             # 10,000, 50,000 and 150,000, or all that there are
    python benchmarks/join.py run --sizes 50000 --methods textsiam paraphrase_mining_embeddings
    python benchmarks/join.py table                           # Markdown from results/join.json
    python benchmarks/join.py clusters                        # 100 million synthetic pairs: sorted and clustered
    python benchmarks/join.py million                         # `flag` on a million questions; --count 50000 is quick

Every measurement is a process of its own, in alternating rounds, so that peak memory is its own too. Recall is the
share of the exact pairs, from an fp32 product of all vectors, that a method returns at the same threshold. Clustering
methods return no pairs: they are timed only. The ceiling is the fastest large bf16 product of the processor in the same
round, on all cores (each with a product of its own); the share counts the products of the upper triangle.

semhash finds approximate neighbours and encodes by itself: it is given the same vectors. faiss compares by range search
with a flat index, which is exact, and with an IVF index, which is not.

The million are all distinct questions of Quora (train and dev) and Yahoo, and what becomes of them by rules: see
`varied` in join_large.py. The seconds until a stage is over count from the start of the command.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from encode import cell, child_of, spread
from join_large import million, sort_and_cluster, synthetic
from quality import DATA, facts

RESULTS = Path(__file__).parent / "results" / "join.json"
VECTORS = Path(tempfile.gettempdir()) / "textsiam-join-vectors.npy"
SIZES = (10_000, 50_000, 150_000)
NEEDS = {"semhash": "semhash", "faiss flat": "faiss", "faiss IVF": "faiss"}


def questions(count):
    """Return distinct questions of Quora, and where those are too few, of Yahoo."""
    from textsiam.data.pairs import read_pairs

    found = {}
    for name in ("dev.tsv.gz", "train.tsv.gz"):
        found |= dict.fromkeys(read_pairs(DATA / name).texts)
    more = DATA.parent / "yahoo_zhang" / "Zhang_dataset.csv"
    if len(found) < count and more.exists():
        for line in more.read_text(encoding="utf-8", errors="replace").splitlines()[1:]:
            found |= dict.fromkeys(cell for cell in line.split("\t")[:2] if cell)
    return list(found)[:count]


def encode_all(path, count):
    """Encode the questions into a file."""
    from textsiam.inference.encoders import MINILM
    from textsiam.models.twin import Twin

    texts = questions(count)
    np.save(path, Twin.from_pretrained(MINILM).encode(texts))
    return {"vectors": len(texts), "file": str(path)}


def scorer():
    """Return what compares vectors by their cosine: a twin without towers, which are not measured here."""
    import torch

    from textsiam.models.distances import COSINE

    def similarity(u, v):
        return COSINE.similarity(COSINE(torch.from_numpy(u), torch.from_numpy(v))).numpy()

    known = {"head": None, "reranker": None, "scores_by_cosine": True, "candidate_threshold": lambda least: least}
    return SimpleNamespace(distance=COSINE, device=torch.device("cpu"), vector_similarity=similarity, **known)


def ours(vectors, threshold):
    """Join exactly."""
    from textsiam.search.join.exact import pairs_above

    found = pairs_above(scorer(), vectors, threshold)
    return found.left, found.right


def ours_approximate(vectors, threshold):
    """Join inside shards, without measuring the recall: that is done here for all methods."""
    from textsiam.search.join.approximate import Sharding, most_pairs

    found = most_pairs(scorer(), vectors, threshold, sharding=Sharding(sample=0)).pairs
    return found.left, found.right


def ours_clusters(vectors, threshold):
    """Join exactly and cluster."""
    from textsiam.search.clusters import complete_clusters
    from textsiam.search.join.exact import pairs_above

    complete_clusters(len(vectors), *pairs_above(scorer(), vectors, threshold))


def mining(vectors, threshold):
    """sentence-transformers, asked for as many neighbours and pairs as there can be: its default leaves pairs out."""
    import torch
    from sentence_transformers.util import paraphrase_mining_embeddings

    found = paraphrase_mining_embeddings(torch.from_numpy(vectors), top_k=100, max_pairs=10_000_000)
    kept = np.array([(a, b) for score, a, b in found if score >= threshold], np.int64).reshape(-1, 2)
    return kept.min(1), kept.max(1)


def communities(vectors, threshold):
    """sentence-transformers' clusters, each around one text."""
    import torch
    from sentence_transformers.util import community_detection

    community_detection(torch.from_numpy(vectors), threshold=threshold, min_community_size=2)


def faiss_pairs(vectors, threshold, index):
    """Search the range around each vector."""
    import faiss

    faiss.normalize_L2(vectors)
    index = index(faiss, vectors)
    index.add(vectors)
    lefts, rights = [], []
    for start in range(0, len(vectors), 10_000):
        limits, _, near = index.range_search(vectors[start : start + 10_000], threshold)
        left = np.repeat(np.arange(len(limits) - 1), np.diff(limits).astype(np.int64)) + start
        lefts.append(left[near > left])
        rights.append(near[near > left])
    return np.concatenate(lefts), np.concatenate(rights)


def ivf(faiss, vectors):
    """Return an IVF index with √n lists, of which a fortieth is searched."""
    lists = max(1, round(len(vectors) ** 0.5))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:: max(1, len(vectors) // (lists * 64))])
    index.nprobe = max(1, lists // 40)
    return index


def semhash_pairs(vectors, threshold):
    """Deduplicate with semhash: the records are names, and the encoder looks up their vectors."""
    from semhash import SemHash

    names = [str(i) for i in range(len(vectors))]
    encoder = SimpleNamespace(encode=lambda texts, **_: vectors[[int(text) for text in texts]])
    found = SemHash.from_records(names, model=encoder).self_deduplicate(threshold=threshold)
    pairs = {
        tuple(sorted((int(record.record), int(other)))) for record in found.filtered for other, _ in record.duplicates
    }
    kept = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    return kept[:, 0], kept[:, 1]


METHODS = {
    "textsiam": ours,
    "textsiam approximate": ours_approximate,
    "textsiam with clusters": ours_clusters,
    "paraphrase_mining_embeddings": mining,
    "community_detection": communities,
    "semhash": semhash_pairs,
    "faiss flat": lambda v, t: faiss_pairs(v, t, lambda faiss, v: faiss.IndexFlatIP(v.shape[1])),
    "faiss IVF": lambda v, t: faiss_pairs(v, t, ivf),
}


def exact(vectors, threshold):
    """Return the numbers i · n + j of all pairs, by fp32 products that know nothing of the join."""
    import torch

    points = torch.nn.functional.normalize(torch.from_numpy(vectors), dim=1)
    numbers = []
    for start in range(0, len(points), 1024):
        left, right = (points[start : start + 1024] @ points.T >= threshold).nonzero().numpy().T
        left = left + start
        numbers.append((left * len(points) + right)[left < right])
    return np.concatenate(numbers)


def measure(method, path, size, threshold):
    """Time one join; the truth is what `exact` wrote."""
    vectors = np.load(path)[:size].copy()
    METHODS[method](vectors[:500].copy(), threshold)  # the first call imports and compiles
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.perf_counter()
    found = METHODS[method](vectors, threshold)
    row = {"seconds": time.perf_counter() - started}
    row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row["base_mib"] = base
    if found is not None:
        truth = np.load(truth_file(path, size, threshold))
        numbers = np.unique(found[0] * size + found[1])
        row |= {"pairs": len(numbers), "exact_pairs": len(truth)}
        row["recall"] = len(np.intersect1d(numbers, truth)) / max(1, len(truth))
    return row


def truth_file(path, size, threshold):
    """Return where the numbers of the exact pairs are."""
    return Path(path).with_name(f"{Path(path).stem}-{size}-{threshold}.npy")


def ceiling():
    """Return the fastest rate of bf16 products, a product of its own on each core, in GFLOP/s."""
    import threading

    import torch

    cores, done = torch.get_num_threads(), []
    torch.set_num_threads(1)
    shapes = ((1024, 384, 1024), (2048, 2048, 2048), (4096, 384, 512))

    def core(m, k, n, rounds, barrier):
        a, b = torch.randn(m, k).bfloat16(), torch.randn(n, k).bfloat16()
        out = torch.empty(m, n, dtype=torch.bfloat16)
        torch.set_num_threads(1)
        torch.mm(a, b.T, out=out)
        barrier.wait()
        started = time.perf_counter()
        for _ in range(rounds):
            torch.mm(a, b.T, out=out)
        done.append(2 * m * k * n * rounds / (time.perf_counter() - started))

    best = 0.0
    for m, k, n in shapes:
        rounds = max(1, int(2e11 / (2 * m * k * n)))
        for _ in range(3):
            done.clear()
            barrier = threading.Barrier(cores)
            crew = [threading.Thread(target=core, args=(m, k, n, rounds, barrier)) for _ in range(cores)]
            for one in crew:
                one.start()
            for one in crew:
                one.join()
            best = max(best, sum(done))
    return best / 1e9


def run(path, sizes, methods, threshold, rounds, limit):
    """Compare all methods in alternating rounds; returns a row for each size."""
    rows = {}
    skipped = {m: f"{NEEDS[m]} is not installed" for m in methods if m in NEEDS and find_spec(NEEDS[m]) is None}
    for size in sizes:
        size = min(size, len(np.load(path, mmap_mode="r")))
        where = ("--vectors", path, "--size", size, "--threshold", threshold)
        child_of(__file__, "truth", *where)
        seen, ceilings = {m: [] for m in methods if m not in skipped}, []
        for _ in range(rounds):
            ceilings.append(child_of(__file__, "ceiling")["gflops"])
            for method, found in seen.items():
                found.append(child_of(__file__, "one", method, *where))
                print(f"{size} {method}: {json.dumps(found[-1])}", flush=True)
        rows[str(size)] = row_of(seen, ceilings, size, np.load(path, mmap_mode="r").shape[1]) | {"skipped": {**skipped}}
        # Methods that compare all with all take nine times as long at three times the size.
        late = [m for m, found in seen.items() if spread([r["seconds"] for r in found])["median"] > limit / 9]
        skipped |= dict.fromkeys(late, "too slow at this size")
    return rows


def row_of(seen, ceilings, size, dim):
    """Return the figures of one size."""
    row = {"methods": {m: summary(found) for m, found in seen.items()}, "ceiling_gflops": spread(ceilings)}
    own = [r["seconds"] for r in seen.get("textsiam", [])]
    if own:
        work = size * (size - 1) * dim / 1e9
        row["share_of_ceiling"] = spread([work / s / c for s, c in zip(own, ceilings, strict=True)])
        row["times_faster"] = {
            m: spread([r["seconds"] / s for s, r in zip(own, found, strict=True)]) for m, found in seen.items()
        }
    return row


def summary(found):
    """Return the medians of the rounds of one method."""
    row = {"seconds": spread([r["seconds"] for r in found]), "peak_mib": max(r["peak_mib"] for r in found),
           "base_mib": max(r["base_mib"] for r in found)}  # fmt: skip
    if "recall" in found[0]:
        row |= {k: found[0][k] for k in ("recall", "pairs", "exact_pairs")}
    return row


def table():
    """Print the rows as Markdown."""
    results = json.loads(RESULTS.read_text())
    print("| vectors | method | seconds | textsiam is faster by | peak MiB | pairs | recall |\n" + "| --- " * 7 + "|")
    for size, row in results["sizes"].items():
        for method, found in row["methods"].items():
            ratio = cell(row.get("times_faster", {}).get(method), "{:.1f}")
            pairs = f"{found['pairs']:,}" if "pairs" in found else "–"
            recall = f"{found['recall']:.4f}" if "recall" in found else "–"
            print(f"| {int(size):,} | {method} | {cell(found['seconds'], '{:.2f}')} | {ratio} | "
                  f"{found['peak_mib']:,.0f} | {pairs} | {recall} |")  # fmt: skip
        for method, reason in row["skipped"].items():
            print(f"| {int(size):,} | {method} | {reason} | – | – | – | – |")
        if "share_of_ceiling" in row:
            share = cell({k: 100 * v for k, v in row["share_of_ceiling"].items()}, "{:.0f}")
            print(f"\n{int(size):,}: {share} % of {cell(row['ceiling_gflops'])} GFLOP/s\n")


def stored():
    """Return what was measured."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def store(results):
    """Write down what was measured."""
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    subs = {name: commands.add_parser(name) for name in RUN}
    for name in ("clusters", "synthetic", "sorted"):
        subs[name].add_argument("--texts", type=int, default=20_000_000)
        subs[name].add_argument("--pairs", type=int, default=100_000_000)
        subs[name].add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "textsiam-join-pairs")
    subs["million"].add_argument("--count", type=int, default=1_000_000)
    subs["million"].add_argument("--threshold", type=float, default=0.9)
    for name in ("encode", "run", "one", "truth"):
        subs[name].add_argument("--vectors", type=Path, default=VECTORS)
    for name in ("one", "truth"):
        subs[name].add_argument("--size", type=int, required=True)
    for name in ("run", "one", "truth"):
        subs[name].add_argument("--threshold", type=float, default=0.8)
    subs["encode"].add_argument("--count", type=int, default=SIZES[-1])
    subs["one"].add_argument("method", choices=METHODS)
    subs["run"].add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    subs["run"].add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    subs["run"].add_argument("--rounds", type=int, default=3)
    subs["run"].add_argument("--limit", type=float, default=900, help="seconds that a method may be expected to take")
    a = parser.parse_args()
    print(json.dumps(RUN[a.command](a)))


def run_and_keep(a):
    """Compare all methods, and keep what those that were not measured again had."""
    said, old, now = run(a.vectors, a.sizes, a.methods, a.threshold, a.rounds, a.limit), stored(), facts()
    same = old.get("facts", {}).get("cpu") == now["cpu"]
    sizes = old.get("sizes", {}) if same else {}  # what another processor did is no row of this table
    for size, row in said.items():
        row["methods"] = sizes.get(size, {}).get("methods", {}) | row["methods"]
    store(old | {"threshold": a.threshold, "sizes": sizes | said, "facts": now})
    return said


def keep(name, count, row):
    """Keep a row of a table whose rows may be of several processors."""
    old = stored()
    store(old | {name: old.get(name, {}) | {str(count): row | {"facts": facts()}}})
    return row


def clusters_and_keep(a):
    """Write synthetic pairs, and sort and cluster them, each in a process of its own."""
    where = ("--texts", a.texts, "--pairs", a.pairs, "--folder", a.folder)
    child_of(__file__, "synthetic", *where)
    said = child_of(__file__, "sorted", *where)
    shutil.rmtree(a.folder)
    return keep("clusters", said["pairs"], said)


def million_and_keep(a):
    """Flag a million questions, or as many as asked for."""
    said = million(questions(sys.maxsize), a.count, a.threshold)
    return keep("million", said["questions"], said)


def write_truth(a):
    """Write the numbers of the exact pairs."""
    np.save(truth_file(a.vectors, a.size, a.threshold), exact(np.load(a.vectors)[: a.size], a.threshold))
    return {}


RUN = {
    "table": lambda a: table(),
    "encode": lambda a: encode_all(a.vectors, a.count),
    "ceiling": lambda a: {"gflops": ceiling()},
    "truth": write_truth,
    "one": lambda a: measure(a.method, a.vectors, a.size, a.threshold),
    "run": run_and_keep,
    "clusters": clusters_and_keep,
    "synthetic": lambda a: synthetic(a.folder, a.texts, a.pairs),
    "sorted": lambda a: sort_and_cluster(a.folder, a.texts),
    "million": million_and_keep,
}


if __name__ == "__main__":
    sys.exit(main())
