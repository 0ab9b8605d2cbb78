from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.models.distances import EUCLIDEAN
from textsiam.training.mining import online as miners

DIM = 5
MINERS: dict[str, Callable[..., miners.Triplets]] = {
    "random": miners.random_triplets,
    "easy": miners.easy,
    "semi_hard": partial(miners.semi_hard, margin=0.4),
    "hard": miners.hard,
    "all": miners.all_triplets,
    "distance_weighted": partial(miners.distance_weighted, dim=DIM),
}
EVERY = pytest.mark.parametrize("miner", MINERS.values(), ids=MINERS)
CLUSTERS = torch.tensor([0, 1, 0, 2, 1, 0, 3, 4, 2, 4, 4, 5])


def unit_vectors(n: int, *, seed: int = 0) -> Tensor:
    return normalize(torch.randn(n, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=-1)


def distances(n: int = 12, *, seed: int = 0) -> Tensor:
    e = unit_vectors(n, seed=seed)
    return EUCLIDEAN.all_pairs(e, e)


def as_set(triplets: miners.Triplets) -> set[tuple[int, int, int]]:
    found = list(zip(*(t.tolist() for t in triplets), strict=True))
    assert len(set(found)) == len(found)
    return set(found)


def every_triplet(clusters: Tensor) -> list[tuple[int, int, int]]:
    c, n = clusters.tolist(), range(len(clusters))
    return [(a, p, q) for a in n for p in n for q in n if a != p and c[a] == c[p] != c[q]]


# --- by hand --------------------------------------------------------------------------------------

LINE = torch.tensor([0.0, 1.0, 3.0, 3.5, 10.0])  # texts on a line, of clusters 7, 7, 7, 8, 9
BY_HAND = {
    "hard": {(0, 2, 3), (1, 2, 3), (2, 0, 3)},
    "easy": {(0, 1, 4), (1, 0, 4), (2, 1, 4)},
    # Text 3 lies just beyond 2 from 0, and beyond 0 and 2 from 1; from 2 it is too close, and 4 too far.
    "semi_hard": {(0, 2, 3), (1, 0, 3), (1, 2, 3)},
    "all": {(a, p, n) for a in range(3) for p in range(3) for n in (3, 4) if a != p},
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name: str) -> None:
    knobs = {"margin": 2.0} if name == "semi_hard" else {}
    miner = miners.all_triplets if name == "all" else getattr(miners, name)
    d = (LINE[:, None] - LINE[None, :]).abs()
    assert as_set(miner(d, torch.tensor([7, 7, 7, 8, 9]), **knobs)) == BY_HAND[name]


def test_relations_by_hand() -> None:
    positive, negative = miners.relations(torch.tensor([0, 1]), torch.tensor([0, 1, 0]))
    assert positive.tolist() == [[False, False, True], [False, False, False]]
    assert negative.tolist() == [[False, True, False], [True, False, True]]
    positive, _ = miners.relations(torch.tensor([0, 1]), torch.tensor([0, 1, 0]), own=False)
    assert positive.tolist() == [[True, False, True], [False, True, False]]


# --- naive references -----------------------------------------------------------------------------


def naive(name: str, d: Tensor, clusters: Tensor, margin: float) -> set[tuple[int, int, int]]:
    triplets = every_triplet(clusters)
    if name == "all":
        return set(triplets)
    chosen = set()
    if name == "semi_hard":
        for pair in {(a, p) for a, p, _ in triplets}:
            inside = [t for t in triplets if t[:2] == pair and d[t[0], t[1]] < d[t[0], t[2]] < d[t[0], t[1]] + margin]
            if inside:
                chosen.add(min(inside, key=lambda t: d[t[0], t[2]].item()))
        return chosen
    sign = 1 if name == "hard" else -1
    for a in {t[0] for t in triplets}:
        mine = [t for t in triplets if t[0] == a]
        p = max(mine, key=lambda t: sign * d[t[0], t[1]].item())[1]
        n = min(mine, key=lambda t: sign * d[t[0], t[2]].item())[2]
        chosen.add((a, p, n))
    return chosen


@pytest.mark.parametrize("name", ["easy", "semi_hard", "hard", "all"])
@pytest.mark.parametrize("seed", range(5))
def test_against_loops(name: str, seed: int) -> None:
    d = distances(seed=seed)
    assert as_set(MINERS[name](d, CLUSTERS)) == naive(name, d, CLUSTERS, margin=0.4)


@pytest.mark.parametrize("name", ["random", "distance_weighted"])
def test_draws_take_each_positive_once(name: str) -> None:
    d = distances()
    a, p, n = MINERS[name](d, CLUSTERS)
    assert as_set((a, p, n)) <= set(every_triplet(CLUSTERS))
    near = {"random": 3.0, "distance_weighted": 1.4}[name]
    expected = {(i, j) for i, j, k in every_triplet(CLUSTERS) if d[i, k] < near}
    assert sorted(zip(a.tolist(), p.tolist(), strict=True)) == sorted(expected)


# --- pytorch-metric-learning ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_pytorch_metric_learning(seed: int) -> None:
    from pytorch_metric_learning import miners as theirs
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_triplets_indices

    e = unit_vectors(12, seed=seed)
    d, plain = EUCLIDEAN.all_pairs(e, e), LpDistance(normalize_embeddings=False)
    assert as_set(miners.all_triplets(d, CLUSTERS)) == as_set(get_all_triplets_indices(CLUSTERS))
    for name in ("hard", "easy"):
        a, p, _, n = theirs.BatchEasyHardMiner(name, name, distance=plain)(e, CLUSTERS)
        assert as_set(MINERS[name](d, CLUSTERS)) == as_set((a, p, n))
    inside = as_set(theirs.TripletMarginMiner(0.4, "semihard", distance=plain)(e, CLUSTERS))
    found = as_set(MINERS["semi_hard"](d, CLUSTERS))
    assert found <= inside
    assert {t[:2] for t in found} == {t[:2] for t in inside}


# --- draws ----------------------------------------------------------------------------------------


def frequencies(miner: Callable[..., miners.Triplets], d: Tensor, clusters: Tensor, draws: int) -> np.ndarray:
    """How often each text is drawn as the negative of pair (0, 1)."""
    generator = torch.Generator().manual_seed(0)
    counts = np.zeros(len(clusters))
    for _ in range(draws):
        a, p, n = miner(d, clusters, generator=generator)
        counts[n[(a == 0) & (p == 1)].item()] += 1
    return counts / draws


def test_random_negatives_are_uniform() -> None:
    found = frequencies(miners.random_triplets, distances(6), torch.tensor([0, 0, 0, 1, 2, 2]), 2000)
    assert found[:3].tolist() == [0, 0, 0]
    np.testing.assert_allclose(found[3:], 1 / 3, atol=0.04)


def test_distance_weighted_negatives_have_the_published_weights() -> None:
    reach = [0.0, 0.2, 0.3, 0.5, 0.9, 1.2, 1.39, 1.41, 1.9]  # of the texts from text 0
    d = torch.tensor(reach, dtype=torch.float64).expand(9, 9)
    weights = []
    for x in reach[2:]:
        x = max(x, 0.5)
        q = x ** (DIM - 2) * (1 - x * x / 4) ** ((DIM - 3) / 2)
        weights.append(1 / q if x < 1.4 else 0)
    expected = np.array([0, 0, *weights]) / sum(weights)
    found = frequencies(MINERS["distance_weighted"], d, torch.tensor([0, 0, 1, 2, 3, 4, 5, 6, 7]), 4000)
    assert found[expected == 0].sum() == 0
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_many_dimensions_do_not_overflow() -> None:
    d = torch.tensor([0.0, 0.1, 0.5, 0.6, 1.39]).expand(5, 5)
    _, _, n = miners.distance_weighted(d, torch.tensor([0, 0, 1, 2, 3]), dim=1024)
    assert set(n[:1].tolist()) == {2}  # 0.6 is (0.6 / 0.5)^1022 times rarer


@pytest.mark.parametrize("name", ["random", "distance_weighted"])
def test_the_same_batch_draws_alike_and_another_differently(name: str) -> None:
    d, clusters = distances(60), torch.arange(60) // 3
    first = MINERS[name](d, clusters)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(first, MINERS[name](d, clusters), strict=True))
    assert not torch.equal(first[2], MINERS[name](d, clusters + 60)[2])


@pytest.mark.parametrize(("cutoff", "far"), [(0.0, 1.4), (1.4, 1.4), (0.5, 2.0), (math.nan, 1.4)])
def test_bounds_of_the_distance_are_checked(cutoff: float, far: float) -> None:
    with pytest.raises(ValueError, match=f"expected 0 < cutoff < far < 2, got cutoff {cutoff} and far {far}"):
        miners.distance_weighted(distances(), CLUSTERS, dim=DIM, cutoff=cutoff, far=far)


# --- what every miner must keep -------------------------------------------------------------------


@EVERY
@given(
    edges=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), min_size=1, max_size=8), seed=st.integers(0, 99)
)
@settings(max_examples=40, deadline=None)
def test_duplicates_of_duplicates_are_never_set_against_each_other(
    miner: Callable[..., miners.Triplets], edges: list[tuple[int, int]], seed: int
) -> None:
    """Labels name A~B and B~C only; A and C are duplicates all the same."""
    chain = [(0, 1), (1, 2), (5, 6), (6, 7), (7, 8)]
    texts = [f"text {i}" for i in range(12)]
    rows = [*chain, *((a, b) for a, b in edges if a != b)]
    alone = [(i, (i + 1) % 12) for i in range(12)]  # names every text; says nothing
    pairs = Pairs.from_texts(
        [texts[a] for a, _ in [*rows, *alone]],
        [texts[b] for _, b in [*rows, *alone]],
        [1] * len(rows) + [0] * 12,
        source="chains",
    )
    place = [list(pairs.texts).index(text) for text in texts]
    clusters = torch.from_numpy(cluster_ids(pairs)[place].astype(np.int64))
    assert clusters[0] == clusters[2]
    assert clusters[5] == clusters[8]
    reached = {i: {i} for i in range(12)}
    for _ in range(12):
        for a, b in rows:
            reached[a] |= reached[b]
            reached[b] |= reached[a]
    for a, p, n in zip(*(t.tolist() for t in miner(distances(seed=seed), clusters)), strict=True):
        assert a != p
        assert p in reached[a]
        assert n not in reached[a]


@pytest.mark.parametrize("name", ["easy", "semi_hard", "hard", "all"])
def test_the_order_of_the_texts_does_not_matter(name: str) -> None:
    d = distances()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    found = MINERS[name](d[order][:, order], CLUSTERS[order])
    assert as_set(tuple(order[t] for t in found)) == as_set(MINERS[name](d, CLUSTERS))


@EVERY
def test_further_candidates_join_the_batch(miner: Callable[..., miners.Triplets]) -> None:
    """The first 7 of 12 texts as anchors: what is found for them is what is found among all 12."""
    d = distances()
    a, p, n = miner(d[:7], CLUSTERS[:7], CLUSTERS)
    assert a.max() < 7
    assert max(p.max(), n.max()) > 6
    assert as_set((a, p, n)) <= set(every_triplet(CLUSTERS))
    if miner not in (MINERS["random"], MINERS["distance_weighted"]):
        assert as_set((a, p, n)) == {t for t in as_set(miner(d, CLUSTERS)) if t[0] < 7}


@EVERY
def test_other_candidates_may_be_the_same_texts(miner: Callable[..., miners.Triplets]) -> None:
    """Between two towers, candidate i is the other side of pair i: a positive like any other."""
    d = EUCLIDEAN.all_pairs(unit_vectors(4), unit_vectors(4, seed=1)) * 0.7
    a, p, n = miner(d, torch.arange(4), torch.arange(4), own=False)
    assert len(a) > 0
    assert torch.equal(a, p)
    assert (a != n).all()


@EVERY
def test_without_positives_or_negatives_there_is_nothing(miner: Callable[..., miners.Triplets]) -> None:
    for clusters in (torch.zeros(12, dtype=torch.long), torch.arange(12)):
        assert [len(t) for t in miner(distances(), clusters)] == [0, 0, 0]
