"""The server: how long a verdict takes, what it keeps of the bare fast path, what becomes of it under twice its load.

    python benchmarks/serve.py run                       # 100,000 questions in the index, 5 minutes of load
    python benchmarks/serve.py run --only load --seconds 900    # for longer; kept beside the other
    python benchmarks/serve.py table                     # Markdown from results/serve.json

The server is `textsiam serve` as a user starts it, with all-MiniLM-L6-v2 and an index of Quora's questions; the
client runs on the same cores. Verdicts are asked for one at a time, each about another question, 500 in a round.
Throughput is that of `/v1/embeddings` (base64) with eight clients, in rounds that alternate with `Twin.encode` on the
same texts in a process of its own. The load is open: requests are sent at twice the measured capacity whatever comes
back. One in ten is a single question for `/duplicates`; the others hold 100 questions for `/v1/embeddings`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import httpx2
from encode import child_of, spread
from quality import DATA, facts

RESULTS = Path(__file__).parent / "results" / "serve.json"
CLIENTS, BATCH = 8, 100


def questions(count):
    """Return distinct questions of Quora."""
    from textsiam.data.pairs import read_pairs

    found = [text for name in ("dev", "train") for text in read_pairs(DATA / f"{name}.tsv.gz").texts]
    return list(dict.fromkeys(found))[:count]


def filled(folder, texts):
    """Make an index of the questions."""
    from textsiam.inference.encoders import MINILM
    from textsiam.models.twin import Twin
    from textsiam.search.factory import create_index
    from textsiam.search.index.base import Question
    from textsiam.search.ingest import add_questions, index_model

    twin = Twin.from_pretrained(MINILM)
    index = create_index(folder, index_model(twin, name=MINILM))
    add_questions(twin, index, [Question(str(k), text) for k, text in enumerate(texts)])
    index.compact()
    index.close()


@contextmanager
def served(index, *more):
    """Start the server; yields its address and its process."""
    command = [sys.executable, "-m", "textsiam.cli", "serve", "all-MiniLM-L6-v2", "--index", str(index), "--port", "0",
               "--truncate", "--json", *more]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            said = ""
            for line in process.stdout:
                said += line
                if line == "}\n":
                    break
            yield json.loads(said)["address"], process
        finally:
            process.terminate()
            process.wait()


def resident(process):
    """Return the resident memory of a process in MiB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def verdicts(address, texts, seed, count=500):
    """Return the milliseconds of single verdicts, sorted."""
    rng, taken = random.Random(seed), []
    with httpx2.Client(base_url=address) as client:
        for k in range(count + 20):
            text = f"{rng.choice(texts)} {k}"
            started = time.perf_counter()
            answer = client.post("/duplicates", json={"question": text})
            taken.append(1000 * (time.perf_counter() - started))
            assert answer.status_code == 200, answer.text
    return sorted(taken[20:])


def throughput(address, texts):
    """Return texts/s of eight clients."""
    batches = [texts[k : k + BATCH] for k in range(0, len(texts), BATCH)]
    lock = threading.Lock()

    def work():
        with httpx2.Client(base_url=address, timeout=120) as client:
            while True:
                with lock:
                    if not batches:
                        return
                    batch = batches.pop()
                body = {"input": batch, "model": "m", "encoding_format": "base64"}
                assert client.post("/v1/embeddings", json=body).status_code == 200

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(texts) / (time.perf_counter() - started)


def bare(count, seed):
    """Return texts/s of `Twin.encode`: what a child process prints."""
    from textsiam.inference.encoders import MINILM
    from textsiam.models.twin import Twin

    texts = sample(count, seed)
    twin = Twin.from_pretrained(MINILM)
    twin.encode(texts[:500])
    started = time.perf_counter()
    twin.encode(texts)
    return {"texts_per_second": len(texts) / (time.perf_counter() - started)}


def sample(count, seed):
    """Return questions in an order of their own."""
    return random.Random(seed).sample(questions(100_000), count)


async def pressed(address, process, texts, per_second, seconds):
    """Send requests at a fixed rate whatever comes back; returns what came back and how memory went."""
    statuses, taken, memory, rng = Counter(), {"embed": [], "duplicates": []}, [], random.Random(2)
    limits = httpx2.Limits(max_connections=2000, max_keepalive_connections=200)
    async with httpx2.AsyncClient(base_url=address, timeout=300, limits=limits) as client:

        async def ask(single):
            begun = time.perf_counter()
            try:
                if single:
                    answer = await client.post("/duplicates", json={"question": rng.choice(texts)})
                else:
                    body = {"input": rng.sample(texts, BATCH), "model": "m", "encoding_format": "base64"}
                    answer = await client.post("/v1/embeddings", json=body)
            except httpx2.TransportError as error:
                statuses[type(error).__name__] += 1
                return
            statuses[str(answer.status_code)] += 1
            if answer.status_code == 200:
                taken["duplicates" if single else "embed"].append(time.perf_counter() - begun)

        started, sent, tasks = time.perf_counter(), 0, set()
        while (passed := time.perf_counter() - started) < seconds:
            while sent < passed * per_second:
                task = asyncio.create_task(ask(sent % 10 == 0))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                sent += 1
            if not memory or passed - memory[-1][0] >= 1:
                memory.append((passed, resident(process)))
            await asyncio.sleep(0.005)
        await asyncio.gather(*tasks)
    return statuses, {name: sorted(values) for name, values in taken.items()}, memory


def percentile(values, share):
    """Return the value below which a share of sorted values lies."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def told(seconds):
    """Return what is kept of sorted seconds."""
    p50, p99, most = (percentile(seconds, share) for share in (0.5, 0.99, 1.0))
    return {"count": len(seconds), "p50": p50, "p99": p99, "max": most}


def told_memory(memory, after):
    """Return memory at the start, once the first seconds were over, and at the end, and how it grew from then on."""
    settled = next((mib for passed, mib in memory if passed >= after), memory[-1][1])
    third = (memory[-1][0] - after) / 3
    thirds = [[one for one in memory if after + k * third <= one[0] <= after + (k + 1) * third] for k in range(3)]
    return {"first": memory[0][1], "settled": settled, "settled_after": after, "last": memory[-1][1],
            "a_minute": slope(memory, after), "a_minute_by_third": [slope(part, 0) for part in thirds]}  # fmt: skip


def slope(memory, after):
    """Return MiB a minute, by least squares, once the first seconds are over."""
    from numpy import polyfit

    late = [(t, m) for t, m in memory if t >= after]
    return 60 * float(polyfit(*zip(*late, strict=True), 1)[0]) if len(late) > 2 else None


def single(index, texts, rounds):
    """Measure verdicts one at a time, and throughput beside the bare fast path."""
    taken, rates, free = [], [], []
    with served(index) as (address, _):
        for seed in range(rounds):
            taken.append(verdicts(address, texts, seed))
            rates.append(throughput(address, sample(6000, seed)))
            free.append(child_of(__file__, "bare", "--seed", seed)["texts_per_second"])
    ratio = spread([a / b for a, b in zip(rates, free, strict=True)])
    percentiles = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {
        "questions": len(texts),
        "verdict_ms": {
            name: spread([percentile(round_, share) for round_ in taken]) for name, share in percentiles.items()
        },
        "texts_per_second": {"server": spread(rates), "bare": spread(free), "ratio": ratio},
        "facts": facts(),
    }


def load(index, texts, seconds):
    """Measure what becomes of a server under twice its load."""
    with served(index, "--max-queue", "65536") as (address, process):
        capacity = statistics.median(throughput(address, sample(3000, seed)) for seed in range(3))
        per_second = 2 * capacity / (0.9 * BATCH)
        statuses, accepted, memory = asyncio.run(pressed(address, process, texts, per_second, seconds))
    return {
        "questions": len(texts),
        "seconds": seconds,
        "requests_per_second": per_second,
        "statuses": dict(statuses),
        "accepted_seconds": {name: told(values) for name, values in accepted.items()},
        "memory_mib": told_memory(memory, min(60, seconds / 3)),
        "facts": facts(),
    }


def run(only, count, rounds, seconds):
    """Measure, and keep each part as soon as it is done: loads of different lengths beside each other."""
    texts = questions(count)
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        filled(index, texts)
        found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        if only != "load":
            found["single"] = single(index, texts, rounds)
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        if only != "single":
            others = [one for one in found.get("load", []) if one["seconds"] != seconds]
            found["load"] = [*others, load(index, texts, seconds)]
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    table()


def table():
    """Print the results as Markdown."""
    found = json.loads(RESULTS.read_text())
    if "single" in found:
        rate, between = found["single"]["texts_per_second"], "{median:,.0f} ({low:,.0f}–{high:,.0f})"
        wait = {
            name: "{median:.1f} ms ({low:.1f}–{high:.1f})".format(**of)
            for name, of in found["single"]["verdict_ms"].items()
        }
        print(f"| {found['single']['questions']:,} questions in the index | measured |\n| --- | --- |")
        print(f"| a verdict, one at a time: p50 | {wait['p50']} |\n| its p99 | {wait['p99']} |")
        print(f"| texts/s of `/v1/embeddings` | {between.format(**rate['server'])} |")
        print("| share of the bare fast path | {median:.0%} ({low:.0%}–{high:.0%}) |\n".format(**rate["ratio"]))
    for one in found.get("load", []):
        print(f"| {one['seconds']} s at {one['requests_per_second']:.0f} requests a second | measured |\n| --- | --- |")
        print(f"| answers | {', '.join(f'{n:,} × {s}' for s, n in one['statuses'].items())} |")
        for name, times in one["accepted_seconds"].items():
            if times["count"]:
                print(f"| accepted `{name}` | p50 {times['p50']:.2f} s, p99 {times['p99']:.2f} s |")
        print(f"| memory | {_course(one['memory_mib'])} |\n")


def _course(memory):
    """Say how memory went."""
    course = "{first:,.0f} MiB at the start, {settled:,.0f} after {settled_after:.0f} s, {last:,.0f} at the end".format(
        **memory
    )
    if memory["a_minute"] is None or None in memory["a_minute_by_third"]:
        return f"{course}; too short to tell more"
    thirds = ", ".join(f"{one:+.1f}" for one in memory["a_minute_by_third"])
    return f"{course}: {memory['a_minute']:+.1f} MiB a minute after that, by thirds {thirds}"


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner, child = commands.add_parser("run"), commands.add_parser("bare")
    runner.add_argument("--only", choices=("single", "load"))
    runner.add_argument("--questions", type=int, default=100_000)
    runner.add_argument("--rounds", type=int, default=5)
    runner.add_argument("--seconds", type=int, default=300)
    child.add_argument("--count", type=int, default=6000)
    child.add_argument("--seed", type=int, default=0)
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "bare":
        print(json.dumps(bare(arguments.count, arguments.seed)))
    elif arguments.command == "table":
        table()
    else:
        run(arguments.only, arguments.questions, arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()
