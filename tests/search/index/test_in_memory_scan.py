"""Vectors in memory: a scan leaves nothing out, and a view stays what it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textsiam.search.index import in_memory_scan as resident
from textsiam.search.index.in_memory_scan import InMemoryScan, Near, Stored
from textsiam.search.join.int8_candidates import Frame, quantized

NOTHING = np.zeros(0, np.int64)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def normal(count, dim, seed=0):
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


@settings(max_examples=60, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.lists(st.integers(0, 30), unique=True, max_size=20), st.lists(st.integers(0, 30), max_size=6)),
        max_size=12,
    ),
    block=st.sampled_from([4, 8, 1000]),
    stored=st.sampled_from([0, 1, 11]),
    seed=st.integers(0, 1000),
)
def test_a_table_does_what_a_dictionary_does(changes, block, stored, seed):
    rng = np.random.default_rng(seed)
    before, resident.BLOCK = resident.BLOCK, block
    try:
        table, content, seen = InMemoryScan(6), {}, []
        if stored:
            rows, vectors = np.arange(stored) * 2, unit(rng.standard_normal((stored, 6)))
            frame = Frame.fitted(vectors)
            table = InMemoryScan(6, Stored(-1, rows, frame, quantized(vectors, frame)))
            content = dict(zip(rows.tolist(), vectors, strict=True))
        for clock, (rows, gone) in enumerate(changes):
            gone = [row for row in gone if row not in rows]
            vectors = unit(rng.standard_normal((len(rows), 6)) + 1e-3)
            half = len(rows) // 2
            numbers = np.array(rows, np.int64)
            batches = [(numbers[:half], vectors[:half]), (numbers[half:], vectors[half:])]
            table.apply(batches, np.array(gone, np.int64), clock)
            content = {row: vector for row, vector in content.items() if row not in gone} | dict(
                zip(rows, vectors, strict=True)
            )
            seen.append((table.view, dict(content)))
        for clock, (view, held) in enumerate(seen):  # also those of long ago
            assert view.clock == clock
            queries = unit(rng.standard_normal((3, 6)))
            for k, threshold, among in (
                (None, 0.3, None),
                (None, -np.inf, None),
                (2, -np.inf, None),
                (2, 0.6, {3, 7, 11}),
            ):
                only = None if among is None else np.array(sorted(among))
                for query, near in zip(queries, view.near(queries, k, threshold, among=only), strict=True):
                    assert len(set(near.rows.tolist())) == len(near.rows)
                    scores = {row: float(query.astype(np.float64) @ v.astype(np.float64)) for row, v in held.items()}
                    scores = {row: score for row, score in scores.items() if among is None or row in among}
                    for row, score, error in zip(*near, strict=True):
                        assert abs(scores[row] - score) <= error
                    best = sorted((row for row in scores if scores[row] >= threshold), key=scores.__getitem__)[::-1][:k]
                    assert set(best) <= set(near.rows.tolist()) <= set(scores)
        assert sorted(table.rows.tolist()) == sorted(content)
    finally:
        resident.BLOCK = before


def test_full_blocks_become_bytes(monkeypatch):
    monkeypatch.setattr(resident, "BLOCK", 64)
    table, vectors = InMemoryScan(48), normal(200, 48)
    table.apply([(np.arange(200), vectors)], NOTHING, 1)
    assert (len(table.view.packed), len(table.view.tail)) == (3, 8)
    for number in (0, 63, 64, 191, 192, 199):
        (near,) = table.view.near(vectors[number : number + 1], 1, -np.inf)
        assert number in near.rows.tolist()
        assert len(near.rows) < 5


def test_a_table_of_dead_places_says_so():
    table = InMemoryScan(6)
    for clock in range(3):
        assert not table.wasteful
        table.apply([(np.arange(1000), normal(1000, 6, seed=clock))], NOTHING, clock)
    assert table.wasteful


def test_the_best_are_kept_when_in_doubt():
    near = Near(np.arange(4), np.array([0.9, 0.8, 0.5, 0.1]), np.array([0.2, 0.01, 0.3, 0.01]))
    assert near.certain(2) == pytest.approx(0.7)
    assert near.best(2).rows.tolist() == [0, 1, 2]
    assert near.best(None).rows.tolist() == near.best(9).rows.tolist() == [0, 1, 2, 3]
    assert near.certain(5) == -np.inf
