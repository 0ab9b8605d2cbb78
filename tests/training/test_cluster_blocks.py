from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.training.cluster_blocks import ClusterBlocks


def pairs_of(sizes: list[int]) -> Pairs:
    """Return clusters of so many texts each, with all their pairs, and a pair of no duplicates."""
    left, right, labels = [], [], []
    for cluster, size in enumerate(sizes):
        for a in range(size):
            for b in range(a + 1, size):
                left.append(f"{cluster} {a}"), right.append(f"{cluster} {b}"), labels.append(1)
    return Pairs.from_texts([*left, "0 0"], [*right, "1 0"], [*labels, 0])


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 6), min_size=4, max_size=12), half=st.integers(1, 2), seed=st.integers(0, 2**32 - 1)
)
def test_every_batch_has_as_many_clusters_as_it_has_room_for_and_none_twice(sizes, half, seed):
    pairs = pairs_of(sizes)
    clusters = cluster_ids(pairs)
    if sum(s * (s - 1) // 2 >= half for s in sizes) < 4:
        return
    blocks = ClusterBlocks(pairs, clusters, 4 * half, 2 * half)
    order = blocks.order(np.random.default_rng(seed))
    assert len(order) == blocks.steps * 4 * half
    assert len(set(order.tolist())) == len(order)  # no pair twice in an epoch
    for batch in order.reshape(blocks.steps, 4 * half):
        assert (pairs.labels[batch] == 1).all()
        _, counts = np.unique(clusters[pairs.left[batch]], return_counts=True)
        assert counts.tolist() == [half] * 4


def test_the_same_seed_gives_the_same_epoch():
    pairs = pairs_of([5] * 6)
    blocks = ClusterBlocks(pairs, cluster_ids(pairs), 4, 2)
    first, again, other = (blocks.order(np.random.default_rng(seed)) for seed in (0, 0, 1))
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
        ClusterBlocks(pairs, cluster_ids(pairs), batch_size, per_cluster)
