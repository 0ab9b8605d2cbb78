"""Which texts of a batch each term sees; `test_objective` has the older terms."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from textsiam.models.distances import ANGULAR, EUCLIDEAN
from textsiam.training import losses
from textsiam.training.losses import (
    AngularLoss,
    BatchTripletLoss,
    CoSENTLoss,
    InfoNCELoss,
    NPairLoss,
    SoftmaxLoss,
    TripletLoss,
)
from textsiam.training.losses import in_batch as batch_losses
from textsiam.training.losses.in_batch import Candidates
from textsiam.training.losses.terms import Embedded, Texts
from textsiam.training.mining import online as miners

LABELS = torch.tensor([1, 0, 1, 0, 1, 1])
# Pairs 0 and 4 are of one cluster; the left text of pair 1 is of cluster 0 too.
LEFT, RIGHT = torch.tensor([0, 0, 1, 2, 0, 5]), torch.tensor([0, 3, 1, 4, 0, 5])
AGAINST = torch.tensor([1, 5, 0, 7, 2, 1])  # the negative of pair 2 is a mate of pairs 0 and 4
KEEP = LABELS == 1


def vectors(seed: int, n: int = 6, dim: int = 4) -> Tensor:
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def embedded(**changes: object) -> Embedded:
    batch = Embedded(vectors(0), vectors(1), vectors(2), LABELS, LEFT, RIGHT, negative_clusters=AGAINST)
    return dataclasses.replace(batch, **changes)


def remembering(**changes: object) -> Embedded:
    """A batch with a memory of pairs of clusters 0, 1 and 9."""
    clusters = torch.tensor([0, 1, 9])
    return embedded(left_memory=Texts(vectors(5, 3), clusters), right_memory=Texts(vectors(6, 3), clusters), **changes)


def test_terms_over_pairs_are_the_losses() -> None:
    b = embedded()
    found = CoSENTLoss(temperature=0.3, distance="euclidean")(b)
    assert found == losses.cosent(b.u, b.v, LABELS, temperature=0.3, distance=EUCLIDEAN)
    found = TripletLoss(margin=0.2, soft=True)(b)
    assert found == losses.triplet(b.u[KEEP], b.v[KEEP], vectors(2)[KEEP], margin=0.2, soft=True)
    mask = LEFT[KEEP, None] == RIGHT[None, KEEP]
    found = NPairLoss(temperature=0.5, l2=0.1)(b)
    assert found == losses.n_pair(b.u[KEEP], b.v[KEEP], temperature=0.5, l2=0.1, mask=mask)


def test_symmetric_info_nce_is_the_term_between_towers() -> None:
    """Where every pair is a duplicate and all clusters differ, the term is the function of that name."""
    b = embedded(shared=False, labels=torch.ones(6), left_clusters=torch.arange(6), right_clusters=torch.arange(6))
    found = InfoNCELoss(temperature=0.3)(b)
    assert found.item() == pytest.approx(losses.symmetric_info_nce(b.u, b.v, temperature=0.3).item())
    found = InfoNCELoss(temperature=0.3, symmetric=False)(b)
    assert found.item() == pytest.approx(losses.info_nce(b.u, b.v, torch.arange(6), temperature=0.3).item())


def naive_forth(b: Embedded, temperature: float, further: list[tuple[Tensor, int]]) -> float:
    """Left anchors one by one, against all texts of other clusters."""
    texts = [
        *zip(b.v, RIGHT.tolist(), strict=True),
        *(zip(b.u, LEFT.tolist(), strict=True) if b.shared else ()),
        *further,
    ]
    total = []
    for i in torch.nonzero(KEEP)[:, 0].tolist():
        others = [e for e, cluster in texts if cluster != LEFT[i]]
        cosines = torch.stack([torch.cosine_similarity(b.u[i], e, dim=0) for e in (b.v[i], *others)])
        total.append(-torch.log_softmax(cosines / temperature, 0)[0].item())
    return sum(total) / len(total)


@pytest.mark.parametrize("shared", [True, False])
def test_hard_negatives_join_the_candidates_under_the_cluster_mask(shared: bool) -> None:
    b = embedded(shared=shared)
    drawn = list(zip(b.negative, AGAINST.tolist(), strict=True))
    found = InfoNCELoss(temperature=0.3, symmetric=False, hard_negatives=True)(b)
    assert found.item() == pytest.approx(naive_forth(b, 0.3, drawn))
    # They come from the right tower, so right anchors cannot be compared with them unless there is one tower.
    both = InfoNCELoss(temperature=0.3, hard_negatives=True)(b).item() * 2 - found.item()
    plain = InfoNCELoss(temperature=0.3)(b).item() * 2 - InfoNCELoss(temperature=0.3, symmetric=False)(b).item()
    assert (both == pytest.approx(plain)) is not shared


@pytest.mark.parametrize("shared", [True, False])
def test_remembered_texts_join_the_candidates_under_the_cluster_mask(shared: bool) -> None:
    b = remembering(shared=shared)
    further = [*zip(b.right_memory.embeddings, (0, 1, 9), strict=True)]
    if shared:
        further += [*zip(b.left_memory.embeddings, (0, 1, 9), strict=True)]
    found = InfoNCELoss(temperature=0.3, symmetric=False)(b)
    assert found.item() == pytest.approx(naive_forth(b, 0.3, further))


@pytest.mark.parametrize("shared", [True, False])
def test_angular_sees_every_text_of_another_cluster(shared: bool) -> None:
    for b in (embedded(shared=shared), remembering(shared=shared)):
        texts = [(b.v, RIGHT), *([(b.u, LEFT)] if shared else [])]
        if b.left_memory is not None and b.right_memory is not None:
            texts += [b.right_memory, *([b.left_memory] if shared else [])]
        candidates, clusters = torch.cat([e for e, _ in texts]), torch.cat([c for _, c in texts])
        mask = LEFT[KEEP, None] == clusters[None]
        expected = losses.angular(b.u[KEEP], b.v[KEEP], candidates, degrees=30, mask=mask)
        assert AngularLoss(degrees=30)(b).item() == pytest.approx(expected.item())


def test_in_batch_terms_of_one_tower_see_all_texts_at_once() -> None:
    loss, term = partial(batch_losses.batch_hard, margin=0.7), BatchTripletLoss(margin=0.7)
    b = embedded()
    e, clusters = torch.cat([b.u, b.v]), torch.cat([LEFT, RIGHT])
    assert term(b).item() == pytest.approx(loss(e, clusters).item())
    b = remembering()
    more = Candidates(torch.cat([e, vectors(5, 3), vectors(6, 3)]), torch.cat([clusters, torch.tensor([0, 1, 9] * 2)]))
    assert term(b).item() == pytest.approx(loss(e, clusters, candidates=more).item())
    assert term(b).item() != pytest.approx(loss(e, clusters).item())


def test_in_batch_terms_of_two_towers_compare_across_only() -> None:
    loss, term = partial(batch_losses.batch_all, margin=0.7), BatchTripletLoss(mining="all", margin=0.7)
    for b, more in ((embedded(shared=False), 0), (remembering(shared=False), 3)):
        extra = torch.tensor([0, 1, 9])[:more]
        right = Candidates(torch.cat([b.v, vectors(6, 3)[:more]]), torch.cat([RIGHT, extra]), own=False)
        left = Candidates(torch.cat([b.u, vectors(5, 3)[:more]]), torch.cat([LEFT, extra]), own=False)
        expected = (loss(b.u, LEFT, candidates=right) + loss(b.v, RIGHT, candidates=left)) / 2
        assert term(b).item() == pytest.approx(expected.item())


def test_softmax_is_the_loss_of_its_layer_over_scaled_embeddings() -> None:
    term = SoftmaxLoss()
    head = term.build(4).double()
    b = embedded()
    assert term(b, head).item() == pytest.approx(math.log(2))  # no verdict before evidence
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    expected = losses.pair_softmax(2 * b.u, 2 * b.v, LABELS, weight=head.weight, bias=head.bias)
    assert term(b, head).item() == pytest.approx(expected.item())
    term(b, head).backward()
    assert head.weight.grad.abs().sum() > 0


def test_softmax_learns_to_tell_duplicates() -> None:
    u, other = torch.nn.functional.normalize(torch.randn(2, 200, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    labels = torch.arange(200) % 2
    b = Embedded(u, torch.where(labels[:, None] == 1, u, other), None, labels, torch.arange(200), torch.arange(200))
    term = SoftmaxLoss()
    layer = term.build(8)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        term(b, layer).backward()
        optimizer.step()
    assert term(b, layer).item() < 0.1


def test_what_a_term_needs() -> None:
    needing, content = [TripletLoss(), InfoNCELoss(hard_negatives=True)], [InfoNCELoss(), NPairLoss()]
    assert [t.needs_negatives for t in (*needing, *content)] == [True, True, False, False]
    assert [t.positives_only for t in (TripletLoss(), NPairLoss(), InfoNCELoss(), AngularLoss())] == [
        True, True, False, False,
    ]  # fmt: skip
    for term in needing:
        for missing in ("negative", "negative_clusters"):
            with pytest.raises(ValueError, match="loss needs negatives, but the batch has none"):
                term(embedded(**{missing: None}))


E = vectors(7, 12)
CLUSTERS = torch.arange(12) // 2
MINED: dict[str, tuple[BatchTripletLoss, Callable[..., Tensor]]] = {
    "all": (BatchTripletLoss(mining="all"), batch_losses.batch_all),
    "hard": (BatchTripletLoss(mining="hard", soft=True), partial(batch_losses.batch_hard, soft=True)),
    "semi_hard": (BatchTripletLoss(mining="semi_hard"), batch_losses.batch_semi_hard),
    "easy": (
        BatchTripletLoss(mining="easy", margin=3.0),
        partial(batch_losses.batch_triplet, miner=miners.easy, margin=3.0),
    ),
    "random": (BatchTripletLoss(mining="random"), partial(batch_losses.batch_triplet, miner=miners.random_triplets)),
    "distance_weighted": (BatchTripletLoss(mining="distance_weighted"), batch_losses.batch_distance_weighted),
    "distance_weighted, banded": (
        BatchTripletLoss(mining="distance_weighted", cutoff=0.7, far=1.2),
        partial(batch_losses.batch_distance_weighted, cutoff=0.7, far=1.2),
    ),
    "debiased": (BatchTripletLoss(balance=0.7), partial(batch_losses.debiased_triplet, balance=0.7)),
    "debiased, semi-hard": (
        BatchTripletLoss(mining="semi_hard", balance=2.0, distance="angular", margin=0.9),
        partial(batch_losses.debiased_triplet, select="semi_hard", balance=2.0, distance=ANGULAR, margin=0.9),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MINED)
def test_every_mining_is_the_function_of_its_name(name: str) -> None:
    term, loss = MINED[name]
    b = Embedded(E[::2], E[1::2], None, torch.ones(6), CLUSTERS[::2], CLUSTERS[1::2])
    order = [*range(0, 12, 2), *range(1, 12, 2)]
    assert term(b) == loss(E[order], CLUSTERS[order])
    assert term(b) > 0


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"cutoff": 0.5}, "cutoff is for mining distance_weighted, got 0.5 with hard"),
        ({"far": 1.2, "mining": "all"}, "far is for mining distance_weighted, got 1.2 with all"),
        ({"balance": 1.0, "mining": "easy"}, "balance is for mining hard or semi_hard, got 1.0 with easy"),
        ({"balance": -1.0}, "balance must be >= 0, got -1.0"),
        ({"far": 2.5, "mining": "distance_weighted"}, "expected 0 < cutoff < far < 2, got cutoff 0.5 and far 2.5"),
        ({"margin": 0.0, "mining": "semi_hard", "soft": True}, "margin must be > 0, got 0.0"),
        ({"mining": "hardest"}, "mining must be one of all, hard, semi_hard, .*, got 'hardest'"),
    ],
)
def test_knobs_that_do_not_apply_are_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchTripletLoss(**knobs)
