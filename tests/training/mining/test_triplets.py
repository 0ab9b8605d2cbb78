from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.training.mining.triplets import draw_negatives


def make(*rows: tuple[str, str, int]) -> Pairs:
    left, right, labels = zip(*rows, strict=True)
    return Pairs.from_texts(list(left), list(right), list(labels), source="made.tsv")


@given(
    rows=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 1)), min_size=1, max_size=40),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_negatives_are_of_another_cluster(rows: list[tuple[int, int, int]], seed: int) -> None:
    pairs = make(*((f"text {a}", f"text {b}", label) for a, b, label in rows), ("far", "away", 0))
    clusters = cluster_ids(pairs)
    negatives = draw_negatives(pairs, clusters, seed=seed)
    assert negatives.shape == (len(pairs),)
    assert negatives.min() >= 0
    assert negatives.max() < len(pairs.texts)
    assert (clusters[negatives] != clusters[pairs.left]).all()


def test_labelled_negatives_of_either_side_are_preferred() -> None:
    others = [(f"x{i}", f"y{i}", 1) for i in range(50)]
    pairs = make(("a", "a2", 1), ("a", "hard 1", 0), ("hard 2", "a", 0), ("b", "b2", 1), *others)
    drawn = {pairs.texts[draw_negatives(pairs, cluster_ids(pairs), seed=seed)[0]] for seed in range(40)}
    assert drawn == {"hard 1", "hard 2"}


def test_without_a_labelled_negative_any_other_text_is_drawn(pairs: Pairs) -> None:
    duplicates = pairs.select(np.flatnonzero(pairs.labels == 1))
    clusters = cluster_ids(duplicates)
    drawn = {int(draw_negatives(duplicates, clusters, seed=seed)[0]) for seed in range(400)}
    assert drawn == set(np.flatnonzero(clusters != clusters[duplicates.left[0]]).tolist())


def test_a_contradictory_label_makes_no_duplicate_a_negative() -> None:
    # a = b = c by two duplicates, and yet "a" and "c" are labelled as different.
    pairs = make(("a", "b", 1), ("b", "c", 1), ("a", "c", 0), ("d", "e", 1))
    for seed in range(20):
        negatives = draw_negatives(pairs, cluster_ids(pairs), seed=seed)
        assert {pairs.texts[i] for i in negatives[:3]} <= {"d", "e"}


def test_deterministic_by_seed(pairs: Pairs) -> None:
    clusters = cluster_ids(pairs)
    first = draw_negatives(pairs, clusters, seed=[3, 1])
    np.testing.assert_array_equal(draw_negatives(pairs, clusters, seed=[3, 1]), first)
    assert (draw_negatives(pairs, clusters, seed=[3, 2]) != first).any()


def test_one_cluster_has_no_negative() -> None:
    pairs = make(("a", "b", 1), ("b", "c", 1))
    with pytest.raises(ValueError, match=r"made\.tsv: all texts are duplicates of each other"):
        draw_negatives(pairs, cluster_ids(pairs))
