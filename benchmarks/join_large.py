"""What `join.py clusters` and `join.py million` measure: pairs that memory need not hold, and a million questions."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

GROUP = 11  # texts of a group of the synthetic pairs
_FILE = 1_000_000  # texts whose pairs are in one file
# What questions are varied by: (pattern, what stands in its place), each changes the words and hardly the meaning.
VARIATIONS = (
    (r"^what is\b", "what's"), (r"^how do i\b", "how can i"), (r"^how can i\b", "what is the way to"),
    (r"^why\b", "for what reason"), (r"^is it\b", "would it be"), (r"\bbest\b", "top"), (r"\bindia\b", "this country"),
    (r"\bmoney\b", "cash"), (r"\bget\b", "obtain"), (r"\blearn\b", "study"), (r"\?$", " these days?"),
    (r"^", "please tell me: "), (r"^", "a question of mine, "), (r"\?$", " in your opinion?"), (r"^", "hello, "),
    (r"\?$", " and why?"), (r"\?$", ", thank you"), (r"^", "does anybody know, "), (r"\?$", " nowadays, in short?"),
)  # fmt: skip


def synthetic(folder, texts, pairs):
    """Write pairs as a job does: of groups of eleven texts, where some are missing, and every third is linked on."""
    from textsiam.search.join.exact import FoundPairs
    from textsiam.search.join.pair_files import write_found

    rng, written = np.random.default_rng(0), 0
    a, b = np.triu_indices(GROUP, 1)
    share = min(1.0, pairs / (texts / GROUP * (len(a) + 1 / 3)))
    for number, start in enumerate(range(0, texts - _FILE + 1, _FILE) if texts > _FILE else [0]):
        first = np.arange(start, min(start + _FILE, texts) - 2 * GROUP, GROUP)
        left, right = (np.add.outer(first, ends).ravel() for ends in (a, b))
        kept = rng.random(len(left)) < share
        linked = first[rng.random(len(first)) < 1 / 3]
        left, right = np.append(left[kept], linked + 1), np.append(right[kept], linked + GROUP + 1)
        found = FoundPairs(left, right, rng.uniform(0.8, 1, len(left)).astype(np.float32))
        written += write_found(folder / f"{number:05d}.parquet", [found])
    return {"pairs": written}


def sort_and_cluster(folder, texts):
    """Cluster and sort the pairs of a folder as `flag` does with those of a job in partitions, in next to no memory."""
    from textsiam.search.clusters import stream_clusters
    from textsiam.search.join.pair_files import stream_found
    from textsiam.search.join.sorted_pairs import COLUMNS, Blocks, Room, sorted_blocks

    files = sorted(folder.glob("*.parquet"))
    found = Blocks(lambda: (block for file in files for block in stream_found(file)))
    base, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter()
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    room = Room(1_000_000, scratch)
    clusters = sum(1 for _ in stream_clusters(texts, found, room))
    clustered = time.perf_counter()
    left, *_ = room.columns("pairs", sorted_blocks(found, room), COLUMNS)
    return {
        "texts": texts, "pairs": len(left), "clusters": clusters, "cluster_seconds": clustered - started,
        "sort_seconds": time.perf_counter() - clustered, "base_mib": base,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def varied(questions, count):
    """Return so many distinct questions: those given, then what becomes of them by one rule, by two, and so on.

    A rule is a pattern and what stands in its place, tried on the question in small letters; a question that it leaves
    as it is gives nothing new. The first rule is applied to all questions, then the second to these and to what the
    first made of them, and so on, until there are enough: every question stands beside near copies of itself.
    """
    known = dict.fromkeys(questions)
    for pattern, instead in VARIATIONS:
        for question in list(known):
            if len(known) >= count:
                return list(known)[:count]
            known.setdefault(re.sub(pattern, instead, question.lower(), count=1))
    return list(known)[:count]


def flagged(file, output, threshold, options):
    """Run `textsiam flag` on a file of questions; returns its seconds by stage, its peak memory and its pairs."""
    import pyarrow.parquet as pq

    command = [sys.executable, str(Path(__file__)), "flag", "all-MiniLM-L6-v2", str(file), *options]
    command += ["--threshold", str(threshold), "--output", str(output), "--json", "--limit", "0"]
    with tempfile.TemporaryFile("w+") as said:
        started = time.perf_counter()
        child = subprocess.Popen(command, stdout=said, stderr=subprocess.PIPE, text=True)
        stages = {}
        for line in child.stderr:
            if line.startswith("stage "):
                _, name, seconds = line.split()
                stages[name] = float(seconds) - started
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"flag failed: {child.returncode}")
        said.seek(0)
        facts = json.load(said)
    table = pq.read_table(output, columns=["id1", "id2"])
    numbers = [table[name].to_numpy().astype(np.int64) for name in ("id1", "id2")]
    row = {"seconds": time.perf_counter() - started, "until": stages, "peak_mib": usage.ru_maxrss / 1024}
    row |= {
        "pairs": facts["found"]["pairs"],
        "clusters": facts["found"]["clusters"],
        "said_recall": facts.get("recall"),
    }
    return row, np.sort(np.minimum(*numbers) << 32 | np.maximum(*numbers))


def flag_in_stages(arguments):
    """Run the command in this process, and say on stderr when each stage is over, on the clock of the parent."""
    from textsiam.cli import main
    from textsiam.search import duplicates

    def timed(owner, name, stage):
        inner = getattr(owner, name)

        def outer(*args, **kwargs):
            found = inner(*args, **kwargs)
            print(f"stage {stage} {time.perf_counter()}", file=sys.stderr, flush=True)
            return found

        setattr(owner, name, outer)

    from textsiam.models.twin import Twin

    timed(Twin, "encode", "encode")
    for name in ("pairs_above", "most_pairs"):
        timed(duplicates, name, "compare")
    timed(duplicates, "clusters_of_texts", "cluster")
    sys.argv = ["textsiam", *arguments]
    main()


def million(questions, count, threshold):
    """Flag varied questions exactly and approximately, each in a process of its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = varied(questions, count)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "questions.parquet"
        pq.write_table(pa.table({"id": np.arange(len(texts)), "text": texts}), file)
        rows, truth = {}, None
        for name, options in (
            ("exact", ()),
            ("approximate", ("--approximate",)),
            ("partitions", ("--work", f"{folder}/work")),
        ):
            rows[name], numbers = flagged(file, Path(folder) / f"{name}.parquet", threshold, options)
            truth = numbers if truth is None else truth
            rows[name]["recall"] = len(np.intersect1d(numbers, truth)) / max(1, len(truth))
            print(f"{len(texts)} {name}: {json.dumps(rows[name])}", flush=True)
    return {"questions": len(texts), "given": len(questions), "threshold": threshold, "methods": rows}


if __name__ == "__main__":
    flag_in_stages(sys.argv[1:])
