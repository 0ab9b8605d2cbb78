from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from textsiam.search.clusters import complete_clusters


def naive(n: int, pairs: dict[tuple[int, int], float]) -> list[list[int]]:
    """Greedy complete linkage, word for word: best pair first, merge if every pair across was found."""
    groups = [{i} for i in range(n)]
    found = {frozenset(pair) for pair in pairs}
    for a, b in sorted(pairs, key=lambda pair: (-pairs[pair], pair)):
        one = next(g for g in groups if a in g)
        other = next(g for g in groups if b in g)
        if one is not other and all(frozenset((x, y)) in found for x in one for y in other):
            groups.remove(other)
            one |= other
    return sorted(sorted(g) for g in groups if len(g) > 1)


def clusters(n: int, pairs: dict[tuple[int, int], float]) -> list[list[int]]:
    left, right = (np.array([pair[k] for pair in pairs], np.int64) for k in (0, 1))
    return [c.tolist() for c in complete_clusters(n, left, right, np.array(list(pairs.values()), np.float32))]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, dict[tuple[int, int], float]]:
    """Graphs whose similarities often tie, of any density."""
    n = draw(st.integers(1, 12))
    every = [(i, j) for i in range(n) for j in range(i + 1, n)]
    kept = draw(st.lists(st.sampled_from(every), unique=True)) if every else []
    return n, {pair: draw(st.integers(1, 6)) / 8 for pair in kept}


@settings(max_examples=300, deadline=None)
@example((4, {(0, 1): 0.8, (1, 2): 0.9, (2, 3): 0.8}))
@given(graphs())
def test_against_greedy_merging_word_for_word(graph: tuple[int, dict[tuple[int, int], float]]) -> None:
    n, pairs = graph
    assert clusters(n, pairs) == naive(n, pairs)


@pytest.mark.parametrize("seed", range(3))
def test_points_on_a_line_against_greedy_merging(seed: int) -> None:
    places = np.random.default_rng(seed).uniform(0, 12, 70)
    apart = np.abs(places[:, None] - places)
    pairs = {(i, j): -apart[i, j] for i in range(70) for j in range(i + 1, 70) if apart[i, j] <= 0.9}
    assert len(pairs) > 200
    assert clusters(70, pairs) == naive(70, pairs)


def test_a_component_without_gaps_is_one_cluster() -> None:
    pairs = {(i, j): 0.5 for i in range(5) for j in range(i + 1, 5)} | {(6, 8): 0.9}
    assert clusters(9, pairs) == [[0, 1, 2, 3, 4], [6, 8]]
    del pairs[1, 3]
    assert clusters(9, pairs) == naive(9, pairs) != [[0, 1, 2, 3, 4], [6, 8]]


def test_nothing_and_what_is_no_number() -> None:
    assert clusters(0, {}) == clusters(3, {}) == []
    with pytest.raises(ValueError, match="the similarity of pair 1 is not a number"):
        clusters(3, {(0, 1): 0.5, (1, 2): float("nan")})
    with pytest.raises(ValueError, match="an edge leaves the 2 nodes"):
        clusters(2, {(0, 2): 0.5})


def test_one_giant_component_takes_time_in_proportion_to_its_pairs() -> None:
    def seconds(n: int) -> float:
        # A chain of lookalikes: each is like the 20 on either side of it.
        left = np.repeat(np.arange(n), 20)
        right = left + np.tile(np.arange(1, 21), n)
        kept = right < n
        similarity = np.random.default_rng(0).random(kept.sum()).astype(np.float32)
        started = time.process_time()
        found = complete_clusters(n, left[kept], right[kept], similarity)
        assert max(map(len, found)) <= 21
        assert sum(map(len, found)) > 0.9 * n
        return time.process_time() - started

    small, large = (min(seconds(n) for _ in range(3)) for n in (2_500, 20_000))
    assert large < 30 * small  # 8 times the pairs; squares would be 64
