from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from textsiam.models.distances import COSINE, DISTANCES, EUCLIDEAN, SQUARED_EUCLIDEAN, Distance
from textsiam.training.losses import angular, info_nce, n_pair
from textsiam.training.losses.in_batch import (
    Candidates,
    batch_all,
    batch_distance_weighted,
    batch_hard,
    batch_semi_hard,
    batch_triplet,
    debiased_triplet,
)
from textsiam.training.mining import online as miners

LOSSES: dict[str, Callable[..., Tensor]] = {
    "batch_all": batch_all,
    "batch_hard": batch_hard,
    "batch_semi_hard": batch_semi_hard,
    "batch_easy": partial(batch_triplet, miner=miners.easy),
    "batch_random": partial(batch_triplet, miner=miners.random_triplets),
    "batch_distance_weighted": batch_distance_weighted,
    "debiased_triplet": debiased_triplet,
}
EVERY = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
EVERY_DISTANCE = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
SOFT = pytest.mark.parametrize("soft", [False, True], ids=["hinge", "soft"])
CLUSTERS = torch.tensor([0, 1, 0, 2, 1, 0, 3, 4, 2, 4, 4, 5])
# Every text has a positive, and clusters have different sizes.
PAIRED = torch.tensor([0, 1, 0, 2, 1, 0, 3, 4, 2, 4, 4, 3])


def vectors(n: int = 12, dim: int = 5, *, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def every_triplet(clusters: Tensor) -> list[tuple[int, int, int]]:
    c, n = clusters.tolist(), range(len(clusters))
    return [(a, p, q) for a in n for p in n for q in n if a != p and c[a] == c[p] != c[q]]


# --- by hand --------------------------------------------------------------------------------------

# Cosine distances from 0 (cluster 0): 1 to 1 (its duplicate), 0.5 to 2 and 2 to 3 (strangers of each other).
HALF = math.sqrt(0.75)
AXES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, HALF], [-1.0, 0.0]], dtype=torch.float64)
BY_HAND = torch.tensor([0, 0, 1, 2])
# From 1: 1 to 0, 1 − HALF to 2 and 1 to 3.


def test_batch_hard_by_hand() -> None:
    expected = ((1 - 0.5 + 0.3) + (1 - (1 - HALF) + 0.3)) / 2
    assert batch_hard(AXES, BY_HAND, margin=0.3).item() == pytest.approx(expected)
    soft = (math.log1p(math.exp(0.5)) + math.log1p(math.exp(HALF))) / 2
    assert batch_hard(AXES, BY_HAND, margin=0.0, soft=True).item() == pytest.approx(soft)


def test_batch_all_by_hand() -> None:
    # (0, 1, 3) costs nothing and is no part of the mean.
    expected = ((1 - 0.5 + 0.3) + (1 - (1 - HALF) + 0.3) + 0.3) / 3
    assert batch_all(AXES, BY_HAND, margin=0.3).item() == pytest.approx(expected)


def test_batch_semi_hard_by_hand() -> None:
    assert batch_semi_hard(AXES, BY_HAND, margin=0.3).item() == 0  # the only stranger beyond is far beyond
    assert batch_semi_hard(AXES, BY_HAND, margin=1.5).item() == pytest.approx(1 - 2 + 1.5)


def test_debiased_triplet_by_hand() -> None:
    # Selected: (0, 1, 2) and (1, 0, 2); random ones set 3 against the same pairs half of the time. Anchors and
    # positives are the same on the mean, the negative differs by half of text 2 − text 3.
    shift = ((AXES[2] - AXES[3]) / 2).square().sum().item()
    plain = batch_hard(AXES, BY_HAND).item()
    assert debiased_triplet(AXES, BY_HAND, balance=0.0).item() == pytest.approx(plain)
    assert debiased_triplet(AXES, BY_HAND, balance=2.0).item() == pytest.approx(plain + 2 * shift)


def test_n_pair_by_hand() -> None:
    a, p = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [3.0, 1.0]])
    # Products: 2, 6 and 0, 1; squared lengths 4, 1, 1, 10.
    expected = (math.log1p(math.exp(4)) + math.log1p(math.exp(-1))) / 2
    assert n_pair(a, p).item() == pytest.approx(expected)
    assert n_pair(a, p, l2=0.1).item() == pytest.approx(expected + 0.1 * 4)
    alone = n_pair(a, p, mask=torch.tensor([[True, True], [False, True]])).item()
    assert alone == pytest.approx(math.log1p(math.exp(-1)) / 2)


def test_angular_by_hand() -> None:
    a, p, n = 2 * AXES[:1], AXES[1:2], AXES[2:]
    # With 45 degrees: 4·(a + p)·n − 4·a·p; lengths do not count.
    expected = math.log(1 + math.exp(4 * (0.5 + HALF)) + math.exp(-4))
    assert angular(a, p, n).item() == pytest.approx(expected)
    masked = angular(a, p, n, mask=torch.tensor([[True, False]])).item()
    assert masked == pytest.approx(math.log(1 + math.exp(-4)))
    square = math.tan(math.radians(30)) ** 2
    expected = math.log(1 + math.exp(4 * square * (0.5 + HALF)) + math.exp(-4 * square))
    assert angular(a, p, n, degrees=30).item() == pytest.approx(expected)


# --- naive references -----------------------------------------------------------------------------


def cost(e: Tensor, t: tuple[int, int, int], margin: float, distance: Distance, soft: bool) -> float:
    a, p, n = (e[i : i + 1] for i in t)
    gap = distance(a, p).item() - distance(a, n).item() + margin
    return math.log1p(math.exp(gap)) if soft else max(0.0, gap)


@EVERY_DISTANCE
@SOFT
def test_batch_all_against_a_loop(distance: Distance, soft: bool) -> None:
    e = vectors()
    costs = [cost(e, t, 0.3, distance, soft) for t in every_triplet(CLUSTERS)]
    active = [c for c in costs if c > 0]
    assert soft or 0 < len(active) < len(costs)
    found = batch_all(e, CLUSTERS, margin=0.3, distance=distance, soft=soft).item()
    assert found == pytest.approx(sum(active) / len(active))


@EVERY_DISTANCE
@SOFT
@pytest.mark.parametrize("name", ["batch_hard", "batch_easy", "batch_semi_hard", "batch_random"])
def test_mined_losses_are_the_triplet_loss_of_what_is_mined(name: str, distance: Distance, soft: bool) -> None:
    e = vectors()
    miner = {
        "batch_hard": miners.hard,
        "batch_easy": miners.easy,
        "batch_semi_hard": partial(miners.semi_hard, margin=0.7),
        "batch_random": miners.random_triplets,
    }[name]
    triplets = list(zip(*(t.tolist() for t in miner(distance.all_pairs(e, e), CLUSTERS)), strict=True))
    expected = sum(cost(e, t, 0.7, distance, soft) for t in triplets) / len(triplets)
    found = LOSSES[name](e, CLUSTERS, margin=0.7, distance=distance, soft=soft).item()
    assert found == pytest.approx(expected)


def test_distance_weighted_selects_by_euclidean_distance_on_the_sphere() -> None:
    e = vectors()
    d = EUCLIDEAN.all_pairs(*[normalize(e, dim=-1)] * 2)
    triplets = list(zip(*(t.tolist() for t in miners.distance_weighted(d, CLUSTERS, dim=5)), strict=True))
    for distance in (COSINE, SQUARED_EUCLIDEAN):
        expected = sum(cost(e, t, 0.3, distance, False) for t in triplets) / len(triplets)
        assert batch_distance_weighted(e, CLUSTERS, distance=distance).item() == pytest.approx(expected)


@pytest.mark.parametrize("select", ["hard", "semi_hard"])
def test_debiased_triplet_against_loops(select: str) -> None:
    e = vectors()
    miner = miners.hard if select == "hard" else miners.semi_hard
    chosen = list(zip(*(t.tolist() for t in miner(COSINE.all_pairs(e, e), CLUSTERS)), strict=True))
    shift = 0.0
    for part in range(3):
        means = [torch.stack([e[t[part]] for t in some]).mean(0) for some in (chosen, every_triplet(CLUSTERS))]
        shift += (means[0] - means[1]).square().sum().item()
    expected = sum(cost(e, t, 0.3, COSINE, False) for t in chosen) / len(chosen) + 0.7 * shift
    found = debiased_triplet(e, CLUSTERS, select=select, balance=0.7)
    assert found.item() == pytest.approx(expected)


def test_training_by_the_debiased_loss_removes_the_shift() -> None:
    """The same steps with and without the correction: selected triplets end closer to random ones."""

    def shift_after(balance: float) -> float:
        e = vectors().requires_grad_()
        for _ in range(30):
            (gradient,) = torch.autograd.grad(debiased_triplet(e, CLUSTERS, balance=balance), e)
            e = (e - 0.1 * gradient).detach().requires_grad_()
        return (debiased_triplet(e, CLUSTERS, balance=1.0) - debiased_triplet(e, CLUSTERS, balance=0.0)).item()

    assert shift_after(1.0) < 0.5 * shift_after(0.0)


def test_n_pair_and_angular_against_loops() -> None:
    a, p, others = vectors(6), vectors(6, seed=1), vectors(9, seed=2)
    mask = torch.rand(6, 9, generator=torch.Generator().manual_seed(0)) < 0.3
    square = math.tan(math.radians(40)) ** 2
    unit = [normalize(x, dim=-1) for x in (a, p, others)]
    n_total = angular_total = 0.0
    for i in range(6):
        rivals = [math.exp((a[i] @ p[j] - a[i] @ p[i]).item() / 2) for j in range(6) if j == i or not mask[i, j]]
        n_total += math.log(sum(rivals))
        own = (unit[0][i] @ unit[1][i]).item()
        sums = [((unit[0][i] + unit[1][i]) @ unit[2][j]).item() for j in range(9) if not mask[i, j]]
        angular_total += math.log(1 + sum(math.exp(4 * square * s - 2 * (1 + square) * own) for s in sums))
    assert n_pair(a, p, temperature=2.0, mask=mask[:, :6]).item() == pytest.approx(n_total / 6)
    assert angular(a, p, others, degrees=40, mask=mask).item() == pytest.approx(angular_total / 6)


def test_n_pair_between_unit_vectors_is_info_nce() -> None:
    a, p = (normalize(vectors(seed=s), dim=-1) for s in (0, 1))
    expected = info_nce(a, p, torch.arange(12), temperature=0.2).item()
    assert n_pair(a, p, temperature=0.2).item() == pytest.approx(expected)


# --- peers as oracles -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    from sentence_transformers.sentence_transformer import losses

    return losses


@pytest.mark.parametrize("name", ["cosine", "euclidean"])
def test_sentence_transformers_batch_triplets(peer: ModuleType, name: str) -> None:
    e, ours = vectors(), DISTANCES[name]
    theirs = getattr(peer.BatchHardTripletLossDistanceFunction, f"{name}_distance")
    for margin in (0.3, 1.0):
        expected = peer.BatchAllTripletLoss(None, theirs, margin).batch_all_triplet_loss(CLUSTERS, e)
        assert batch_all(e, CLUSTERS, margin=margin, distance=ours).item() == pytest.approx(expected.item(), rel=1e-6)
        # An anchor without a duplicate counts there, as if its duplicate were at distance 0.
        expected = peer.BatchHardTripletLoss(None, theirs, margin).batch_hard_triplet_loss(PAIRED, e)
        assert batch_hard(e, PAIRED, margin=margin, distance=ours).item() == pytest.approx(expected.item(), rel=1e-6)
    loss = peer.BatchHardSoftMarginTripletLoss(None, theirs)
    expected = loss.batch_hard_triplet_soft_margin_loss(PAIRED, e)
    found = batch_hard(e, PAIRED, margin=0.0, soft=True, distance=ours)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_sentence_transformers_batch_semi_hard(peer: ModuleType) -> None:
    # Two tight clusters and a stranger: every positive has a negative beyond it, within the margin, where both agree.
    e = torch.tensor([[0.0], [1.0], [10.0], [11.2], [25.0]], dtype=torch.float64)
    clusters = torch.tensor([0, 0, 1, 1, 2])
    theirs = peer.BatchHardTripletLossDistanceFunction.euclidean_distance
    expected = peer.BatchSemiHardTripletLoss(None, theirs, 20.0).batch_semi_hard_triplet_loss(clusters, e)
    found = batch_semi_hard(e, clusters, margin=20.0, distance=EUCLIDEAN)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_pytorch_metric_learning_triplets() -> None:
    from pytorch_metric_learning import losses
    from pytorch_metric_learning import miners as theirs
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.reducers import MeanReducer

    e, plain = vectors(), LpDistance(normalize_embeddings=False)
    for soft in (False, True):  # the mean is over what is not zero there too
        expected = losses.TripletMarginLoss(0.3, smooth_loss=soft, distance=plain)(e, CLUSTERS)
        found = batch_all(e, CLUSTERS, margin=0.3, distance=EUCLIDEAN, soft=soft)
        assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    for loss, name in ((batch_hard, "hard"), (LOSSES["batch_easy"], "easy")):
        mined = theirs.BatchEasyHardMiner(name, name, distance=plain)(e, CLUSTERS)
        over = losses.TripletMarginLoss(2.0, distance=plain, reducer=MeanReducer())
        a, p, _, n = mined
        found = loss(e, CLUSTERS, margin=2.0, distance=EUCLIDEAN)
        assert found.item() == pytest.approx(over(e, CLUSTERS, (a, p, n)).item(), rel=1e-6)


def test_pytorch_metric_learning_n_pair_and_angular() -> None:
    from pytorch_metric_learning import losses
    from pytorch_metric_learning.distances import DotProductSimilarity
    from pytorch_metric_learning.regularizers import LpRegularizer

    a, p = vectors(6), vectors(6, seed=1)
    stacked, labels = torch.cat([a, p]), torch.arange(6).repeat(2)
    rows = torch.arange(6)
    positives = (rows, rows + 6, rows[:0], rows[:0])
    products, shortness = DotProductSimilarity(normalize_embeddings=False), LpRegularizer(p=2, power=2)
    for l2, knobs in ((0.0, {}), (0.3, {"embedding_regularizer": shortness, "embedding_reg_weight": 0.3})):
        expected = losses.NPairsLoss(distance=products, **knobs)(stacked, labels, indices_tuple=positives)
        assert n_pair(a, p, l2=l2).item() == pytest.approx(expected.item(), rel=1e-6)

    stacked = normalize(stacked, dim=-1)  # negatives are not normalised there
    others = labels[:6, None] != labels[None, :]
    i, j = others.nonzero().T
    expected = losses.AngularLoss(alpha=45)(stacked, labels, indices_tuple=(rows, rows + 6, i, j)).item()
    found = angular(a, p, stacked, degrees=45, mask=~others)
    assert found.item() == pytest.approx(expected, rel=1e-6)


# --- gradients ------------------------------------------------------------------------------------


@EVERY
@EVERY_DISTANCE
@SOFT
def test_gradcheck(loss: Callable[..., Tensor], distance: Distance, soft: bool) -> None:
    e = vectors(8).requires_grad_()
    margin = 0.731  # no triplet lies on the kink
    function = partial(loss, clusters=CLUSTERS[:8], margin=margin, distance=distance, soft=soft)
    assert function(e) > 0
    assert torch.autograd.gradcheck(lambda x: function(x), (e,))


def test_gradcheck_n_pair_and_angular() -> None:
    a, p, n = (vectors(4, seed=s).requires_grad_() for s in range(3))
    mask = torch.eye(4, dtype=torch.bool).flip(0)
    assert torch.autograd.gradcheck(lambda a, p: n_pair(a, p, temperature=0.7, l2=0.1, mask=mask), (a, p))
    assert torch.autograd.gradcheck(lambda a, p, n: angular(a, p, n, mask=mask), (a, p, n))


@EVERY
@EVERY_DISTANCE
def test_gradients_between_equal_embeddings_are_finite(loss: Callable[..., Tensor], distance: Distance) -> None:
    e = torch.ones(4, 3, requires_grad=True)
    value = loss(e, torch.tensor([0, 0, 1, 1]), distance=distance)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(e.grad).all()


@EVERY
def test_without_a_triplet_it_costs_nothing_but_keeps_the_graph(loss: Callable[..., Tensor]) -> None:
    for clusters in (torch.zeros(12, dtype=torch.long), torch.arange(12)):
        e = vectors().requires_grad_()
        value = loss(e, clusters)
        assert value.item() == 0
        value.backward()  # every process must take part in the backward pass
        assert e.grad.abs().sum() == 0


def test_without_a_pair_it_costs_nothing_but_keeps_the_graph() -> None:
    for loss in (n_pair, lambda a, p: angular(a, p, p)):
        e = vectors().requires_grad_()
        value = loss(e[:0], e[:0])
        assert value.item() == 0
        value.backward()
        assert e.grad.abs().sum() == 0


# --- what every loss must keep --------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"batch_random", "batch_distance_weighted"}))  # they draw
@EVERY_DISTANCE
def test_the_order_of_the_texts_does_not_matter(name: str, distance: Distance) -> None:
    loss = LOSSES[name]
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    found = loss(vectors()[order], CLUSTERS[order], distance=distance).item()
    assert found == pytest.approx(loss(vectors(), CLUSTERS, distance=distance).item())


def test_the_order_of_pairs_and_candidates_does_not_matter() -> None:
    a, p, n = (vectors(seed=s) for s in range(3))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    assert n_pair(a[order], p[order]).item() == pytest.approx(n_pair(a, p).item())
    assert angular(a[order], p[order], n.flip(0)).item() == pytest.approx(angular(a, p, n).item())
    assert angular(p, a, n).item() == pytest.approx(angular(a, p, n).item())


@EVERY
def test_further_candidates_count_and_get_no_gradient_of_their_own(loss: Callable[..., Tensor]) -> None:
    """Anchors 0 to 6 among all 12 texts: the others may be chosen, by memory or by another tower."""
    e, more = vectors()[:7].requires_grad_(), vectors()[7:]
    candidates = Candidates(torch.cat([e, more]), CLUSTERS)
    found = loss(e, CLUSTERS[:7], candidates=candidates)
    assert found.item() != pytest.approx(loss(e, CLUSTERS[:7]).item())
    found.backward()
    assert torch.isfinite(e.grad).all()
    assert e.grad.abs().sum() > 0


def test_all_among_further_candidates_is_all_of_those_anchors() -> None:
    e = vectors()
    costs = [cost(e, t, 0.3, COSINE, False) for t in every_triplet(CLUSTERS) if t[0] < 7]
    active = [c for c in costs if c > 0]
    found = batch_all(e[:7], CLUSTERS[:7], candidates=Candidates(e, CLUSTERS))
    assert found.item() == pytest.approx(sum(active) / len(active))


def test_the_memory_of_all_triplets_does_not_grow_with_the_dimension() -> None:
    n, dim = 64, 4096
    e, clusters = torch.randn(n, dim, requires_grad=True), torch.arange(n) % 8
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        batch_all(e, clusters)
    assert max(kept) <= n * dim  # the embeddings themselves; 64·7·56 triplets of dimension 4096 would be 400 times that


# --- errors ---------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("value", [0.0, -0.5, math.nan])
def test_margins_must_be_positive(loss: Callable[..., Tensor], value: float) -> None:
    with pytest.raises(ValueError, match=f"margin must be > 0, got {value}"):
        loss(vectors(), CLUSTERS, margin=value)
    if loss is not batch_semi_hard and value != 0:
        with pytest.raises(ValueError, match=f"margin must be >= 0, got {value}"):
            loss(vectors(), CLUSTERS, margin=value, soft=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: debiased_triplet(e, CLUSTERS, select="all"), "select must be 'hard' or 'semi_hard', got 'all'"),
        (lambda e: debiased_triplet(e, CLUSTERS, balance=-1.0), "balance must be >= 0, got -1.0"),
        (lambda e: n_pair(e, e, temperature=0.0), "temperature must be > 0, got 0.0"),
        (lambda e: n_pair(e, e, l2=-1.0), "l2 must be >= 0, got -1.0"),
        (lambda e: angular(e, e, e, degrees=90.0), "degrees must be between 0 and 90, got 90.0"),
        (lambda e: batch_distance_weighted(e, CLUSTERS, far=3.0), "expected 0 < cutoff < far < 2"),
    ],
)  # fmt: skip
def test_knobs_out_of_range_are_named(call: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(vectors())


# --- shapes ---------------------------------------------------------------------------------------


def test_annotated_shapes_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses and miners, imported once more with their annotations enforced by beartype."""
    import importlib
    import sys

    from jaxtyping import TypeCheckError, install_import_hook

    names = ("textsiam.training.mining.online", "textsiam.training.losses.ranking", "textsiam.training.losses.in_batch")
    for name in names:
        room, _, module = name.rpartition(".")
        monkeypatch.delattr(importlib.import_module(room), module)
        monkeypatch.delitem(sys.modules, name)
    with install_import_hook(names, "beartype.beartype"):
        ranking, checked = (importlib.import_module(name) for name in names[1:])
    e, more = vectors()[:7].float(), vectors().float()
    candidates = checked.Candidates(more, CLUSTERS)
    for loss in (
        checked.batch_all,
        checked.batch_hard,
        checked.batch_semi_hard,
        checked.batch_distance_weighted,
        checked.debiased_triplet,
        partial(checked.batch_triplet, miner=checked.miners.random_triplets),
        partial(checked.batch_triplet, miner=checked.miners.all_triplets),
    ):
        assert loss(e, CLUSTERS[:7]).shape == loss(e, CLUSTERS[:7], candidates=candidates).shape == ()
        with pytest.raises(TypeCheckError):
            loss(e, CLUSTERS)
    mask = torch.zeros(7, 12, dtype=torch.bool)
    assert ranking.angular(e, e, more, mask=mask).shape == ranking.n_pair(e, e, mask=mask[:, :7]).shape == ()
    for call in (
        lambda: ranking.angular(e, e, more, mask=mask[:, :7]),
        lambda: ranking.n_pair(e, e[:5]),
        lambda: checked.miners.hard(torch.zeros(7, 12), CLUSTERS[:7], CLUSTERS[:9]),
    ):
        with pytest.raises(TypeCheckError):
            call()
