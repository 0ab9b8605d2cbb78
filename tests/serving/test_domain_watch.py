"""Questions that come in are compared with those that the decision was learned on, and the log says so once."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from textsiam.models.domain import DomainWatch, collection_shift, domain_of
from textsiam.models.twin import Twin

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

HERE = ["how", "do", "i", "water", "a", "cactus", "bread", "mend", "my", "bicycle", "tyre", "what", "is"]
ELSEWHERE = ["kernel", "panic", "after", "sudo", "apt", "upgrade", "grub", "boot", "nvidia", "driver"]


def made(words: list[str], count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"{' '.join(rng.choice(words, 8))}?" for _ in range(count)]


@pytest.fixture(scope="module")
def settled(tower, pairs) -> Twin:
    """A twin whose decision remembers a domain."""
    twin = Twin(tower).calibrate(pairs)
    assert twin.decision is not None
    twin.decision = replace(twin.decision, domain=domain_of(twin, made(HERE, 1000, 0)))
    twin.collection = None
    return twin


def test_every_256_texts_are_compared_as_a_collection_is(settled):
    watch = DomainWatch(settled)
    for words, seed in ((HERE, 1), (ELSEWHERE, 2), (HERE, 3)):
        texts = made(words, 256, seed)
        vectors = settled.encode(texts)
        assert watch.take(texts[:200], vectors[:200]) is None
        assert watch.take(texts[:200], vectors[:200]) is None  # again the same ones
        taken = watch.take(texts, vectors)
        assert list(taken) == texts
        assert watch.check(taken) == (words is ELSEWHERE)
        assert str(watch.shift) == str(collection_shift(settled, texts))
        assert (watch.shift is None) == (words is HERE)


def test_of_a_large_batch_a_part_is_kept(settled):
    watch = DomainWatch(settled)
    texts = made(HERE, 1000, 4)
    vectors = settled.encode(texts)
    taken = watch.take(texts, vectors)
    assert list(taken) == texts[:256]
    assert taken[texts[0]].base is None  # a copy: the vectors of the batch are not held


def test_the_log_says_it_once_and_info_as_long_as_it_holds(settled, serve, index, caplog):
    client = serve(twin=settled)

    def told() -> int:
        return sum(record.message == "unlike what was learned" for record in caplog.records)

    with caplog.at_level(logging.WARNING, "textsiam.serving"):
        for seed in (5, 6):
            upsert = [{"id": f"{seed}-{k}", "text": text} for k, text in enumerate(made(ELSEWHERE, 256, seed))]
            assert client.post("/questions:batch", json={"upsert": upsert}).status_code == 200
            assert told() == 1
        assert "wording" in client.get("/info").json()["domain_shift"]
        assert client.post("/duplicates", json={"questions": made(HERE, 256, 7)}).status_code == 200
        assert client.get("/info").json()["domain_shift"] is None
        assert told() == 1
