from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from textsiam.models.distances import EUCLIDEAN
from textsiam.models.learned import Mahalanobis
from textsiam.training import losses
from textsiam.training.losses import (
    ContrastiveLoss,
    HeadLoss,
    InfoNCELoss,
    OnlineContrastiveLoss,
    SoftmaxLoss,
    TripletLoss,
)
from textsiam.training.losses.memory_bank import Memory
from textsiam.training.losses.objective import Objective
from textsiam.training.losses.terms import Embedded, Term, Texts


@dataclasses.dataclass(frozen=True)
class Learned(Term):
    """A term that learns a scale for each dimension."""

    def build(self, dim: int) -> nn.Module:
        owner = nn.Module()
        owner.scale = nn.Parameter(torch.arange(dim, dtype=torch.float64))
        return owner

    def __call__(self, b: Embedded, owner: Any) -> Tensor:
        return (owner.scale * (b.u - b.v)).square().mean()


@dataclasses.dataclass(frozen=True)
class Plain(Term):
    """A term that says nothing about what it needs."""

    def __call__(self, b: Embedded) -> Tensor:
        return b.u.sum()


LABELS = torch.tensor([1, 0, 1, 0, 1, 1])
# Pairs 0 and 4 are of one cluster; the left text of pair 1 is of cluster 0 too.
LEFT, RIGHT = torch.tensor([0, 0, 1, 2, 0, 5]), torch.tensor([0, 3, 1, 4, 0, 5])
AGAINST = torch.tensor([1, 5, 0, 7, 2, 1])  # the negative of pair 2 is a mate of pairs 0 and 4


def vectors(seed: int, n: int = 6) -> Tensor:
    return torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def embedded(**changes: object) -> Embedded:
    batch = Embedded(vectors(0), vectors(1), vectors(2), LABELS, LEFT, RIGHT, negative_clusters=AGAINST)
    return dataclasses.replace(batch, **changes)


def naive_info_nce(b: Embedded, temperature: float) -> float:
    """Both directions, one anchor at a time, by cosines of single pairs."""
    total, directions = (
        0.0,
        ((b.u, b.v, b.left_clusters, b.right_clusters), (b.v, b.u, b.right_clusters, b.left_clusters)),
    )
    for anchors, positives, own, across in directions:
        each = []
        for i in range(len(b.labels)):
            if b.labels[i] != 1:
                continue
            others = [positives[j] for j in range(len(positives)) if across[j] != own[i]]
            if b.shared:
                others += [anchors[j] for j in range(len(anchors)) if own[j] != own[i]]
            logits = torch.stack(
                [torch.cosine_similarity(anchors[i], c, dim=0) / temperature for c in (positives[i], *others)]
            )
            each.append(-torch.log_softmax(logits, 0)[0].item())
        total += sum(each) / len(each)
    return total / 2


def test_terms_are_the_losses() -> None:
    b = embedded()
    keep = LABELS == 1
    assert ContrastiveLoss(margin=0.7)(b) == losses.contrastive(b.u, b.v, b.labels, margin=0.7)
    assert ContrastiveLoss(form="squared_margin", distance="euclidean")(b) == losses.contrastive(
        b.u, b.v, b.labels, form="squared_margin", distance=EUCLIDEAN
    )
    assert OnlineContrastiveLoss(margin=0.7, distance="euclidean")(b) == losses.online_contrastive(
        b.u, b.v, b.labels, margin=0.7, distance=EUCLIDEAN
    )
    assert TripletLoss(margin=0.2, distance="euclidean")(b) == losses.triplet(
        b.u[keep], b.v[keep], vectors(2)[keep], margin=0.2, distance=EUCLIDEAN
    )


def test_weighted_sum() -> None:
    b = embedded()
    terms = {"a": ContrastiveLoss(weight=2.0), "b": TripletLoss(weight=0.5)}
    expected = 2 * ContrastiveLoss()(b) + 0.5 * TripletLoss()(b)
    assert Objective(terms)(b).item() == pytest.approx(expected.item())
    assert Objective(terms)(b).shape == ()


@pytest.mark.parametrize("shared", [True, False])
def test_info_nce_against_a_loop(shared: bool) -> None:
    b = embedded(shared=shared)
    assert InfoNCELoss(temperature=0.3)(b).item() == pytest.approx(naive_info_nce(b, 0.3))


def test_info_nce_is_symmetric() -> None:
    b = embedded()
    turned = embedded(u=b.v, v=b.u, left_clusters=RIGHT, right_clusters=LEFT)
    assert InfoNCELoss()(turned).item() == pytest.approx(InfoNCELoss()(b).item())


@pytest.mark.parametrize("shared", [True, False])
def test_cluster_mates_are_no_negatives(shared: bool) -> None:
    # The left text of pair 1 is a mate of pairs 0 and 4: it may not push them away, and they may not push it.
    b = embedded(
        shared=shared,
        labels=torch.tensor([1, 0, 0, 0, 0, 0]),
        right_clusters=torch.tensor([0, 3, 1, 4, 0, 5]),
    )
    before = InfoNCELoss()(b).item()
    for mate, side in ((1, "u"), (4, "u"), (4, "v")):
        moved = vars(b)[side].clone()
        moved[mate] = vectors(9)[0] * 3
        assert InfoNCELoss()(dataclasses.replace(b, **{side: moved})).item() == pytest.approx(before, abs=1e-12)
    stranger = b.v.clone()
    stranger[1] = b.u[0]
    assert InfoNCELoss()(dataclasses.replace(b, v=stranger)).item() > before + 1


def test_info_nce_compares_one_side_only_between_towers() -> None:
    b = embedded(shared=False, labels=torch.tensor([1, 0, 0, 0, 0, 0]))
    forth = losses.info_nce(b.u[:1], b.v, torch.tensor([0]), mask=(LEFT[0] == RIGHT)[None])
    back = losses.info_nce(b.v[:1], b.u, torch.tensor([0]), mask=(RIGHT[0] == LEFT)[None])
    assert InfoNCELoss()(b).item() == pytest.approx(((forth + back) / 2).item())


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("term", [ContrastiveLoss(), OnlineContrastiveLoss(), TripletLoss(), InfoNCELoss()])
def test_batches_of_one_class_have_finite_gradients(term: object, label: int) -> None:
    u, v, n = (vectors(seed).requires_grad_() for seed in range(3))
    loss = term(embedded(u=u, v=v, negative=n, labels=torch.full((6,), label)))
    assert torch.isfinite(loss)
    loss.backward()
    assert all(torch.isfinite(t.grad).all() for t in (u, v) if t.grad is not None)


def test_terms_for_duplicates_cost_nothing_without_any_but_keep_the_graph() -> None:
    for term in (TripletLoss(), InfoNCELoss()):
        u = vectors(0).requires_grad_()
        loss = term(embedded(u=u, labels=torch.zeros(6, dtype=torch.long)))
        assert loss.item() == 0
        loss.backward()  # every process must take part in the backward pass
        assert u.grad.abs().sum() == 0


def test_terms_with_weights_are_owned() -> None:
    objective = Objective({"learned": Learned(), "plain": ContrastiveLoss()})
    objective.allocate(4)
    assert [name for name, _ in objective.named_parameters()] == ["owners.learned.4.scale"]
    objective(embedded()).backward()
    assert next(objective.parameters()).grad is not None
    assert list(objective.state_dict()) == ["owners.learned.4.scale"]


def test_errors() -> None:
    with pytest.raises(ValueError, match="the objective has no loss: name at least one"):
        Objective({})
    for weight in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"weight must be > 0, got {weight}"):
            Objective({"a": ContrastiveLoss(weight=weight)})
    for given in ({"terms": {"a": HeadLoss()}}, {"terms": {"a": Plain()}, "head": Mahalanobis(4)}):
        with pytest.raises(ValueError, match="a head is trained by its loss: give both, or none"):
            Objective(**given)
    with pytest.raises(ValueError, match="distance"):
        ContrastiveLoss(distance="cosin")
    with pytest.raises(ValueError, match=r"form must be one of margin_minus_distance, squared_margin, got 'sqared'"):
        ContrastiveLoss(form="sqared")
    with pytest.raises(ValueError, match="the triplet loss needs negatives, but the batch has none"):
        TripletLoss()(embedded(negative=None))
    with pytest.raises(ValueError, match="weight of width 4 must be > 0, got 0"):
        Objective({"a": ContrastiveLoss()}, widths={4: 0.0})
    for widths in ({}, {0: 1.0}):
        with pytest.raises(ValueError, match=re.escape(f"widths must be >= 1, got {list(widths)}")):
            Objective({"a": ContrastiveLoss()}, widths=widths)
    with pytest.raises(ValueError, match="width 8 is more than the 4 dimensions of the embeddings"):
        Objective({"a": ContrastiveLoss()}, widths={8: 1.0, 2: 1.0}).allocate(4)


def test_what_the_terms_need_is_what_the_objective_needs() -> None:
    def needs(*terms: Term) -> tuple[bool, bool]:
        made = Objective({str(i): term for i, term in enumerate(terms)})
        return made.needs_negatives, made.positives_only

    assert needs(TripletLoss()) == (True, True)
    assert needs(TripletLoss(), ContrastiveLoss()) == (True, False)
    assert needs(ContrastiveLoss()) == (False, False)
    assert needs(Plain()) == (False, False)  # what says nothing asks for nothing


def test_widths_are_the_weighted_mean_of_the_sum_over_leading_dimensions() -> None:
    terms = {"contrastive": ContrastiveLoss(margin=0.9, weight=2.0), "triplet": TripletLoss(weight=0.5)}
    b = embedded()
    expected = 0.0
    for width, weight in ((4, 1.0), (2, 0.25)):
        u, v, n = (normalize(t[:, :width], dim=1) for t in (b.u, b.v, b.negative))
        expected += weight * Objective(terms)(embedded(u=u, v=v, negative=n)).item()
    assert Objective(terms, widths={4: 1.0, 2: 0.25})(b).item() == pytest.approx(expected / 1.25)


def test_one_width_is_that_of_the_peer() -> None:
    """As sentence-transformers shrinks: the leading dimensions, normalised; it sums where we take the mean."""
    from sentence_transformers.sentence_transformer.losses import matryoshka

    b = embedded()
    found = b.narrowed(3)
    assert torch.equal(found.u, matryoshka.shrink(b.u, 3))
    assert torch.equal(found.negative, matryoshka.shrink(b.negative, 3))
    assert torch.equal(found.labels, b.labels)
    assert found.shared is b.shared


def test_narrowing_reaches_what_is_remembered() -> None:
    found = embedded(left_memory=Texts(vectors(5), LEFT), right_memory=Texts(vectors(6), RIGHT)).narrowed(2)
    assert torch.equal(found.left_memory.embeddings, normalize(vectors(5)[:, :2], dim=1))
    assert torch.equal(found.right_memory.clusters, RIGHT)


def test_terms_with_weights_have_them_for_every_width() -> None:
    made = Objective({"softmax": SoftmaxLoss()}, widths={4: 1.0, 2: 1.0})
    made.allocate(4)
    assert {n: tuple(p.shape) for n, p in made.named_parameters() if p.ndim == 2} == {
        "owners.softmax.4.weight": (2, 12),
        "owners.softmax.2.weight": (2, 6),
    }
    made.double()(embedded()).backward()
    assert all(p.grad.abs().sum() > 0 for p in made.parameters())


def test_the_loss_of_the_head_sees_the_whole_width() -> None:
    head, cut = Mahalanobis(4, diagonal=True).double(), ContrastiveLoss()
    b, widths = embedded(), {2: 1.0, 1: 3.0}
    alone = 0.5 * HeadLoss()(b, head)
    expected = alone + Objective({"cut": cut}, widths=widths)(b)
    found = Objective({"head": HeadLoss(weight=0.5), "cut": cut}, head=head, widths=widths)(b)
    assert found.item() == pytest.approx(expected.item())
    only = Objective({"head": HeadLoss(weight=0.5)}, head=head, widths=widths)
    assert only(b).item() == pytest.approx(alone.item())


def test_its_identity_is_every_knob_by_its_key() -> None:
    made = Objective({"c": ContrastiveLoss(margin=0.7)}, memory=Memory(9), widths={4: 1.0})
    assert made.identity() == {
        "loss.c.weight": 1.0, "loss.c.margin": 0.7, "loss.c.distance": "cosine",
        "loss.c.form": "margin_minus_distance", "loss.memory.pairs": 9, "loss.matryoshka.widths": {4: 1.0},
    }  # fmt: skip


def test_losses_are_taken_in_the_precision_of_the_embeddings() -> None:
    b = embedded(u=vectors(0).float(), v=vectors(1).float())
    objective = Objective({"info_nce": InfoNCELoss(), "softmax": SoftmaxLoss()})
    objective.allocate(4)
    expected = objective(b)
    with torch.autocast("cpu", torch.bfloat16):
        assert objective(b) == expected
