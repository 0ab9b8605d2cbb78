"""Writers of an index that are killed, or that write at once; run as a script by test_index_crashes.py.

The launcher loads everything before it forks, so that a child is at work a moment later. A child tells
over a pipe which operation it begins and which was acknowledged. What operation n of child c does follows from the two
numbers, so the launcher knows what the index must hold: everything that was acknowledged, and of the operation that was
under way all or nothing. The next child reads the whole index before it writes.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
import zlib

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from textsiam.search.index.base import IndexModel, Question, QuestionIndexError

DIM = 16
MODEL = IndexModel("crashes", "c" * 64, DIM)
IDS = 80


def opened(location):
    if location.startswith("postgresql:"):
        from textsiam.search.index.postgres import PostgresIndex

        return PostgresIndex(location)
    from textsiam.search.index.folder import FolderIndex

    return FolderIndex(location)


def recovered(location):
    """Return an index and its content, as soon as its server is there again."""
    until = time.monotonic() + 30
    while True:
        try:
            index = opened(location)
            if location.startswith("postgresql:"):
                wait_until_alone(index)
            return index, content(index)
        except QuestionIndexError:
            if time.monotonic() > until or not location.startswith("postgresql:"):
                raise
            select.select([], [], [], 0.02)


def warm_up(location):
    """Load what a child needs."""
    if location.startswith("postgresql:"):
        import psycopg  # noqa: F401

    else:
        from textsiam.search.index import in_memory_scan as resident

        resident.BLOCK = 16  # so that a merge has a file to write


def vector(text):
    made = np.random.default_rng(zlib.crc32(text.encode())).standard_normal(DIM)
    return (made / np.linalg.norm(made)).astype(np.float32)


def operation(child, number):
    """Return what an operation does: ("upsert", {id: text}), ("delete", ids) or ("compact", None)."""
    rng = random.Random(child * 1_000_003 + number)
    kind = rng.choices(["upsert", "delete", "compact"], [0.5, 0.44, 0.06])[0]
    if kind == "compact":
        return kind, None
    ids = rng.sample(range(IDS), rng.choice([1, 2, 20]))
    if kind == "delete":
        return kind, [f"q{i}" for i in ids]
    return kind, {f"q{i}": f"question {i} of child {child}, operation {number}" for i in ids}


def perform(index, kind, what):
    if kind == "upsert":
        questions = [Question(name, text, {"even": int(name[1:]) % 2 == 0}) for name, text in what.items()]
        index.upsert(questions, np.stack([vector(text) for text in what.values()]), model=MODEL)
    elif kind == "delete":
        index.delete(what)
    else:
        index.compact()


def applied(content, kind, what):
    """Return what an index holds after an operation."""
    if kind == "upsert":
        return content | what
    return {name: text for name, text in content.items() if name not in what} if kind == "delete" else content


def content(index):
    """Read the whole index, by a search that must find everything; returns id → text."""
    (hits,) = index.search(vector("anything")[None], model=MODEL, threshold=-2.0)
    found = {hit.question.id: hit.question.text for hit in hits}
    assert len(found) == len(hits) == index.count(), "a question stands twice, or is not found"
    vectors = index.vectors(list(found))
    for row, text in zip(vectors, found.values(), strict=True):
        np.testing.assert_array_equal(row, vector(text), err_msg=f"half written: {text}")
    return found


def wait_until_alone(index):
    """Wait for the server to notice that the killed writer is gone: it may finish what that had sent."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'textsiam'"
    with index._tables.connection() as connection:
        while connection.execute(others).fetchone()[0] > 1:  # one is ours
            select.select([], [], [], 0.01)


def child_writes(location, child, pipe):
    index, found = recovered(location)
    os.write(pipe, (json.dumps({"content": found}) + "\n").encode())
    for number in range(10**9):
        os.write(pipe, f'{{"begun": {number}}}\n'.encode())
        perform(index, *operation(child, number))
        os.write(pipe, f'{{"done": {number}}}\n'.encode())


def forked(work):
    """Run work(pipe) in a child; returns its process id and the end to read from."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(read)
        try:
            work(write)
        except BaseException as error:
            os.write(write, (json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n").encode())
        finally:
            os._exit(1)
    os.close(write)
    return process, os.fdopen(read, "rb")


def kill_writers(location, kills):
    """Kill writers one after the other, every twentieth time the server's process too; returns what was counted.

    Args:
        location: Of an empty index.
        kills: How many.
    """
    warm_up(location)
    rng = random.Random(7)
    counts = {"kills": 0, "acknowledged": 0, "under_way": {"upsert": 0, "delete": 0, "compact": 0}, "kept": 0}
    possible = [{}]
    for child in range(kills + 1):
        process, pipe = forked(lambda write, child=child: child_writes(location, child, write))
        first = json.loads(pipe.readline() or '{"error": "the child died"}')
        if "error" in first or first["content"] not in possible:
            os.kill(process, signal.SIGKILL)
            missing = {k: v for k, v in possible[0].items() if first.get("content", {}).get(k) != v}
            return counts | {"problem": first.get("error") or f"lost or torn before child {child}: {missing}"}
        counts["kept"] += len(possible) == 2 and possible[0] != possible[1] and first["content"] == possible[1]
        backend_too = child < kills and child % 20 == 19 and location.startswith("postgresql:")
        if child < kills:
            select.select([], [], [], rng.choice([0.02, 0.1, 0.3]) * rng.random())
        if backend_too:
            kill_backend(location)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        counts["kills"] += 1
        told = [json.loads(line) for line in pipe]
        # A child whose server died may say so before it is killed itself: then its last operation was not acknowledged.
        if told and "error" in told[-1] and not backend_too:
            return counts | {"problem": f"child {child}: {told[-1]['error']}"}
        possible = after(child, first["content"], told, counts)
    return counts


def after(child, held, told, counts):
    """Return what the index may hold after a child was killed: without and with the operation that was under way."""
    begun = [line["begun"] for line in told if "begun" in line]
    done = [line["done"] for line in told if "done" in line]
    for number in done:
        held = applied(held, *operation(child, number))
    counts["acknowledged"] += len(done)
    if len(begun) == len(done):
        return [held]
    kind, what = operation(child, begun[-1])
    counts["under_way"][kind] += 1
    return [held, applied(held, kind, what)]


def kill_backend(location):
    """Kill the server's process for a writer, upon which the server ends all others and recovers from its log."""
    import psycopg

    with psycopg.connect(location.partition("#")[0], autocommit=True) as connection:
        for (process,) in connection.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'textsiam'"):
            os.kill(process, signal.SIGKILL)


def write_at_once(location, writers, rounds):
    """Let several processes write, and compact, at the same time; returns what they were told."""
    warm_up(location)

    def work(me, pipe):
        index = opened(location)
        refused = 0
        for turn in range(rounds):
            mine = {f"w{me}-{turn}-{i}": f"writer {me}, turn {turn}, question {i}" for i in range(5)}
            shared = {f"shared{i}": f"writer {me}, turn {turn}" for i in range(3)}
            both = [*mine.items(), *shared.items()]
            questions, vectors = [Question(*item) for item in both], np.stack([vector(text) for _, text in both])
            index.upsert(questions, vectors, model=MODEL)
            if turn % 5 == 4:
                try:
                    index.compact()
                except QuestionIndexError as error:
                    if "wait for it" not in str(error):
                        raise
                    refused += 1
        os.write(pipe, (json.dumps({"refused": refused}) + "\n").encode())

    started = [forked(lambda pipe, me=me: work(me, pipe)) for me in range(writers)]
    told = [json.loads(pipe.readline() or '{"error": "a writer died"}') for _, pipe in started]
    for process, _ in started:
        os.waitpid(process, 0)
    return {"told": told, "content": content(opened(location))}


if __name__ == "__main__":
    command, place, *numbers = sys.argv[1:]
    result = {"kill": kill_writers, "race": write_at_once}[command](place, *map(int, numbers))
    print(json.dumps(result), flush=True)
    os._exit(0)
