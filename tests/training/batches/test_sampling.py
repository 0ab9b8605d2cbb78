from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.training.batches.sampling import (
    Balanced,
    PerCluster,
    Sampler,
    Uniform,
    WithMined,
    epoch_order,
    make_sampler,
)
from textsiam.training.settings import EpochMining, Settings

# Batch after batch of epochs 0 and 3 with seed 3, as version 0.1 drew them.
RECORDED = {
    "uniform": (
        "13 12 15 23 0 17 3 22 8 9 18 6 1 10 2 11 20 16 14 4 7 5 21 19",
        "19 20 8 1 16 21 5 3 4 2 15 13 22 23 9 0 17 18 6 11 10 12 14 7",
    ),
    "positives only": (
        "22 14 4 20 0 2 8 12 18 10 6 16",
        "10 4 8 6 2 0 22 20 18 12 16 14",
    ),
    "balanced": (
        "1 3 23 8 5 21 15 0 7 22 19 2 11 9 13 17 23 7 17 9 19 13 4 10",
        "14 3 1 15 23 9 4 5 17 21 13 5 16 20 9 23 15 7 18 11 3 19 22 1",
    ),
    "per cluster": (
        "2 1 3 5 13 12 6 7",
        "13 12 7 6 10 9 4 5",
    ),
    "mined": (
        "17 15 23 12 34 0 13 24 3 9 28 28 8 6 18 22 20 34 2 1 16 11 24 10 7 5 24 14 21 34 4 19",
        "21 16 19 24 8 1 28 20 15 28 13 5 2 34 4 3 18 34 22 24 0 17 9 23 11 28 34 14 6 10 12 7",
    ),
    "mined, none found": (
        "13 23 28 34 15 17 0 12 18 46 8 3 6 9 30 22 2 11 32 1 20 36 10 16 14 21 38 40 5 4 19 7",
        "21 16 20 42 19 1 38 8 40 34 3 4 5 13 2 15 23 0 26 24 17 22 18 9 14 6 10 11 12 30 28 7",
    ),
    "mined, balanced": (
        "15 34 28 22 2 0 8 23 24 5 14 21 4 10 20 24 34 3 6 1 12 16 28 18 13 0 12 6 24 9 28 8",
        "3 0 5 34 18 10 28 16 15 24 20 6 19 22 4 28 14 34 21 8 7 24 12 2 4 12 23 16 10 28 24 13",
    ),
}


@pytest.fixture(scope="module")
def twelve_and_twelve(driver) -> Pairs:
    """Duplicates in the even rows, others in the odd ones."""
    return driver.keyword_pairs(24)


def recorded(name: str, pairs: Pairs) -> tuple[Sampler, np.ndarray | None]:
    """Return the sampler of a recording, and what was mined for it."""
    mined = np.full((24, 2), -1)
    mined[0], mined[4], mined[10] = [5, 9], [7, -1], [2, 3]
    every = np.arange(24)
    return {
        "uniform": lambda: (Uniform(every, 8), None),
        "positives only": lambda: (Uniform(every[::2], 4), None),
        "balanced": lambda: (Balanced(pairs.labels, 2, 6, seed=3), None),
        "per cluster": lambda: (PerCluster(pairs_of([3] * 5), 4, 4), None),
        "mined": lambda: (WithMined(Uniform(every, 6), pairs.labels, 2), mined),
        "mined, none found": lambda: (WithMined(Uniform(every, 6), pairs.labels, 2), np.full((24, 1), -1)),
        "mined, balanced": lambda: (WithMined(Balanced(pairs.labels, 4, 2, seed=3), pairs.labels, 2), mined),
    }[name]()


@pytest.mark.parametrize("name", RECORDED)
def test_the_order_is_that_of_version_0_1(twelve_and_twelve, name):
    sampler, mined = recorded(name, twelve_and_twelve)
    orders = [epoch_order(sampler, epoch, seed=3, mined=mined) for epoch in (0, 3)]
    assert tuple(" ".join(map(str, order.ravel())) for order in orders) == RECORDED[name]
    assert {order.shape for order in orders} == {(sampler.steps, sampler.batch_size)}


# --- what settings ask for ------------------------------------------------------------------------


def asked(driver, pairs: Pairs, losses: str = "contrastive", *, world: int = 1, **knobs: Any) -> Sampler:
    return make_sampler(pairs, Settings(**knobs), driver.build_objective([losses]), world=world)


def test_losses_of_duplicates_are_given_no_others(driver, twelve_and_twelve):
    sampler = asked(driver, twelve_and_twelve, "triplet", batch_size=4, duplicate_share=0.5)
    assert sampler.steps == 3
    assert set(epoch_order(sampler, 0, seed=0).ravel() % 2) == {0}


def test_batch_size_is_cut_to_the_data(driver, twelve_and_twelve):
    few = twelve_and_twelve.select(np.arange(7))
    assert (asked(driver, few).batch_size, asked(driver, few).steps) == (7, 1)
    assert asked(driver, few, world=2).batch_size == 6


@pytest.mark.parametrize("label", [0, 1])
def test_a_duplicate_share_holds_in_every_batch_and_uses_every_pair(driver, label):
    pairs = driver.keyword_pairs(30).select([row for row in range(30) if row % 2 or row < 12])
    sampler = asked(driver, pairs, batch_size=4, duplicate_share=0.5)
    orders = np.stack([epoch_order(sampler, epoch, seed=3) for epoch in range(2 * len(pairs))])
    assert (pairs.labels[orders].sum(-1) == 2).all()
    seen = np.bincount(orders.ravel(), minlength=len(pairs))[pairs.labels == label]
    assert seen.min() > 0
    assert seen.max() - seen.min() <= 1  # lap after lap, no pair runs ahead


@pytest.mark.parametrize("share", [None, 0.5])
def test_a_share_of_mined_pairs_in_every_batch(driver, share):
    pairs = driver.keyword_pairs(96)
    sampler = asked(driver, pairs, batch_size=12, duplicate_share=share, mine=EpochMining(as_pairs=0.25))
    assert sampler.steps == 96 // 9
    mined = np.full((96, 1), -1)
    mined[[2, 4, 8]] = 1
    order = epoch_order(sampler, 1, seed=2, mined=mined)
    for rows in order:
        from_mined = rows[rows >= 96] - 96
        assert len(from_mined) == 3
        assert set(from_mined) <= {2, 4, 8}
        if share is not None:
            assert pairs.labels[rows[rows < 96]].sum() == 6
    if share is None:
        plain = order[order < 96]
        assert len(np.unique(plain)) == len(plain) == 90


def test_errors(driver, twelve_and_twelve):
    pairs = twelve_and_twelve
    with pytest.raises(ValueError, match="batch_size 9 cannot be shared equally by 2 processes"):
        asked(driver, pairs, batch_size=9, world=2)
    with pytest.raises(ValueError, match="keywords-0: no pairs to train on"):
        asked(driver, pairs.select(pairs.labels == 0), "triplet")
    with pytest.raises(ValueError, match="keywords-0: 1 pairs cannot be shared by 2 processes"):
        asked(driver, pairs.select([0]), world=2)
    with pytest.raises(ValueError, match=r"u\.tsv: training needs labelled pairs"):
        asked(driver, Pairs.from_texts(["a", "b"], ["c", "d"], [1, -1], source="u.tsv"))
    with pytest.raises(ValueError, match="keywords-0: duplicate_share needs pairs of both labels"):
        asked(driver, pairs.select(pairs.labels == 1), duplicate_share=0.5)
    with pytest.raises(ValueError, match="mined pairs need duplicates, and a loss that reads others too"):
        asked(driver, pairs, "triplet", mine=EpochMining(as_pairs=0.5))
    for share, mined_share in ((0.6, 0.5), (None, 0.99)):
        with pytest.raises(ValueError, match=f"a batch of 8 has no room for a share of {mined_share} mined pairs"):
            asked(driver, pairs, batch_size=8, duplicate_share=share, mine=EpochMining(as_pairs=mined_share))
    cases: list[tuple[str, dict[str, Any]]] = [("triplet", {}), ("contrastive", {"duplicate_share": 0.5})]
    for losses, knobs in cases:
        with pytest.raises(ValueError, match="per_cluster makes batches of duplicates"):
            asked(driver, pairs, losses, per_cluster=4, **knobs)


# --- P×K ------------------------------------------------------------------------------------------


def pairs_of(sizes: list[int]) -> Pairs:
    """Return clusters of so many texts each, with all their pairs, and a pair of no duplicates."""
    left, right, labels = [], [], []
    for cluster, size in enumerate(sizes):
        for a in range(size):
            for b in range(a + 1, size):
                left.append(f"{cluster} {a}"), right.append(f"{cluster} {b}"), labels.append(1)
    return Pairs.from_texts([*left, "0 0"], [*right, "1 0"], [*labels, 0])


@examples(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 6), min_size=4, max_size=12), half=st.integers(1, 2), seed=st.integers(0, 2**32 - 1)
)
def test_every_batch_has_as_many_clusters_as_it_has_room_for_and_none_twice(sizes, half, seed):
    pairs = pairs_of(sizes)
    clusters = cluster_ids(pairs)
    if sum(s * (s - 1) // 2 >= half for s in sizes) < 4:
        return
    sampler = PerCluster(pairs, 4 * half, 2 * half)
    order = epoch_order(sampler, 0, seed=seed)
    assert order.shape == (sampler.steps, 4 * half)
    assert len(set(order.ravel().tolist())) == order.size  # no pair twice in an epoch
    for batch in order:
        assert (pairs.labels[batch] == 1).all()
        _, counts = np.unique(clusters[pairs.left[batch]], return_counts=True)
        assert counts.tolist() == [half] * 4


def test_clusters_of_a_family_meet_in_a_batch():
    pairs = pairs_of([4] * 12)
    clusters = cluster_ids(pairs)
    sampler = PerCluster(replace(pairs, families=clusters // 2), 4, 2)
    order = epoch_order(sampler, 0, seed=3)
    for batch in order:
        of_batch = clusters[pairs.left[batch]]
        assert len(set(of_batch.tolist())) == 4
        assert len(set((of_batch // 2).tolist())) == 2
    together = {tuple(sorted(set((clusters[pairs.left[batch]] // 2).tolist()))) for batch in order}
    assert len(together) > 5  # but which families do is drawn


def test_the_same_seed_gives_the_same_epoch():
    pairs = pairs_of([5] * 6)
    sampler = PerCluster(pairs, 4, 2)
    first, again, other = (epoch_order(sampler, 0, seed=seed) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()


@pytest.mark.parametrize(
    ("batch_size", "per_cluster", "message"),
    [
        (4, 3, "per_cluster must be an even number >= 2, got 3"),
        (5, 4, "batch_size 5 is not a multiple of 2, the pairs of a cluster"),
        (16, 4, "memory: a batch of 16 pairs needs 8 clusters of 2 or more pairs each, there are 3"),
    ],
)
def test_what_cannot_be_filled_is_refused(batch_size, per_cluster, message):
    pairs = pairs_of([3, 3, 3])
    with pytest.raises(ValueError, match=message):
        PerCluster(pairs, batch_size, per_cluster)
