from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from textsiam.models.distances import EUCLIDEAN
from textsiam.training import losses
from textsiam.training.objective import Embedded, Objective, Texts
from textsiam.training.terms import (
    SoftmaxTerm,
    contrastive_term,
    info_nce_term,
    online_contrastive_term,
    triplet_term,
)

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
    assert contrastive_term(margin=0.7)(b) == losses.contrastive(b.u, b.v, b.labels, margin=0.7)
    assert contrastive_term(form="squared_margin", distance=EUCLIDEAN)(b) == losses.contrastive(
        b.u, b.v, b.labels, form="squared_margin", distance=EUCLIDEAN
    )
    assert online_contrastive_term(margin=0.7, distance=EUCLIDEAN)(b) == losses.online_contrastive(
        b.u, b.v, b.labels, margin=0.7, distance=EUCLIDEAN
    )
    assert triplet_term(margin=0.2, distance=EUCLIDEAN)(b) == losses.triplet(
        b.u[keep], b.v[keep], vectors(2)[keep], margin=0.2, distance=EUCLIDEAN
    )


def test_weighted_sum() -> None:
    b = embedded()
    terms = {"a": (2.0, contrastive_term()), "b": (0.5, triplet_term())}
    expected = 2 * contrastive_term()(b) + 0.5 * triplet_term()(b)
    assert Objective(terms)(b).item() == pytest.approx(expected.item())
    assert Objective(terms)(b).shape == ()


@pytest.mark.parametrize("shared", [True, False])
def test_info_nce_against_a_loop(shared: bool) -> None:
    b = embedded(shared=shared)
    assert info_nce_term(temperature=0.3)(b).item() == pytest.approx(naive_info_nce(b, 0.3))


def test_info_nce_is_symmetric() -> None:
    b = embedded()
    turned = embedded(u=b.v, v=b.u, left_clusters=RIGHT, right_clusters=LEFT)
    assert info_nce_term()(turned).item() == pytest.approx(info_nce_term()(b).item())


@pytest.mark.parametrize("shared", [True, False])
def test_cluster_mates_are_no_negatives(shared: bool) -> None:
    # The left text of pair 1 is a mate of pairs 0 and 4: it may not push them away, and they may not push it.
    b = embedded(
        shared=shared,
        labels=torch.tensor([1, 0, 0, 0, 0, 0]),
        right_clusters=torch.tensor([0, 3, 1, 4, 0, 5]),
    )
    before = info_nce_term()(b).item()
    for mate, side in ((1, "u"), (4, "u"), (4, "v")):
        moved = vars(b)[side].clone()
        moved[mate] = vectors(9)[0] * 3
        assert info_nce_term()(dataclasses.replace(b, **{side: moved})).item() == pytest.approx(before, abs=1e-12)
    stranger = b.v.clone()
    stranger[1] = b.u[0]
    assert info_nce_term()(dataclasses.replace(b, v=stranger)).item() > before + 1


def test_info_nce_compares_one_side_only_between_towers() -> None:
    b = embedded(shared=False, labels=torch.tensor([1, 0, 0, 0, 0, 0]))
    forth = losses.info_nce(b.u[:1], b.v, torch.tensor([0]), mask=(LEFT[0] == RIGHT)[None])
    back = losses.info_nce(b.v[:1], b.u, torch.tensor([0]), mask=(RIGHT[0] == LEFT)[None])
    assert info_nce_term()(b).item() == pytest.approx(((forth + back) / 2).item())


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("term", [contrastive_term(), online_contrastive_term(), triplet_term(), info_nce_term()])
def test_batches_of_one_class_have_finite_gradients(term: object, label: int) -> None:
    u, v, n = (vectors(seed).requires_grad_() for seed in range(3))
    loss = term(embedded(u=u, v=v, negative=n, labels=torch.full((6,), label)))
    assert torch.isfinite(loss)
    loss.backward()
    assert all(torch.isfinite(t.grad).all() for t in (u, v) if t.grad is not None)


def test_terms_for_duplicates_cost_nothing_without_any_but_keep_the_graph() -> None:
    for term in (triplet_term(), info_nce_term()):
        u = vectors(0).requires_grad_()
        loss = term(embedded(u=u, labels=torch.zeros(6, dtype=torch.long)))
        assert loss.item() == 0
        loss.backward()  # every process must take part in the backward pass
        assert u.grad.abs().sum() == 0


def test_terms_with_weights_are_owned() -> None:
    objective = Objective({"learned": (1.0, Learned()), "plain": (1.0, contrastive_term())})
    assert [name for name, _ in objective.named_parameters()] == ["owners.learned.scale"]
    objective(embedded()).backward()
    assert next(objective.parameters()).grad is not None
    assert list(objective.state_dict()) == ["owners.learned.scale"]


def test_errors() -> None:
    with pytest.raises(ValueError, match="the objective has no loss: name at least one"):
        Objective({})
    for weight in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"weight of a must be > 0, got {weight}"):
            Objective({"a": (weight, contrastive_term())})
    with pytest.raises(ValueError, match="the triplet loss needs negatives, but the batch has none"):
        triplet_term()(embedded(negative=None))
    with pytest.raises(ValueError, match="weight of width 4 must be > 0, got 0"):
        Objective({"a": (1.0, contrastive_term())}, widths={4: 0.0})
    for widths in ({}, {0: 1.0}):
        with pytest.raises(ValueError, match=re.escape(f"widths must be >= 1, got {list(widths)}")):
            Objective({"a": (1.0, contrastive_term())}, widths=widths)
    with pytest.raises(ValueError, match="width 8 is more than the 4 dimensions of the embeddings"):
        Objective({"a": (1.0, contrastive_term())}, widths={8: 1.0, 2: 1.0}).allocate(4)


def test_what_the_terms_need_is_what_the_objective_needs() -> None:
    def needs(*terms: object) -> tuple[bool, bool]:
        made = Objective({str(i): (1.0, term) for i, term in enumerate(terms)})
        return made.needs_negatives, made.positives_only

    assert needs(triplet_term()) == (True, True)
    assert needs(triplet_term(), contrastive_term()) == (True, False)
    assert needs(contrastive_term()) == (False, False)
    assert needs(lambda b: b.u.sum()) == (False, False)  # what says nothing asks for nothing


def test_widths_are_the_weighted_mean_of_the_sum_over_leading_dimensions() -> None:
    terms = {"contrastive": (2.0, contrastive_term(margin=0.9)), "triplet": (0.5, triplet_term())}
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
    made = Objective({"softmax": (1.0, SoftmaxTerm())}, widths={4: 1.0, 2: 1.0})
    made.allocate(4)
    assert {n: tuple(p.shape) for n, p in made.named_parameters() if p.ndim == 2} == {
        "owners.softmax.heads.4.weight": (2, 12),
        "owners.softmax.heads.2.weight": (2, 6),
    }
    made.double()(embedded()).backward()
    assert all(p.grad.abs().sum() > 0 for p in made.parameters())


class Learned(nn.Module):
    """A term whose weight fits embeddings of 4 dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.arange(4, dtype=torch.float64))

    def forward(self, b: Embedded) -> Tensor:
        return (self.scale * (b.u - b.v)).square().mean()


def test_terms_that_fit_one_width_see_the_whole_one() -> None:
    fixed, cut = Learned(), contrastive_term()
    b, widths = embedded(), {2: 1.0, 1: 3.0}
    expected = 0.5 * fixed(b) + Objective({"cut": (1.0, cut)}, widths=widths)(b)
    found = Objective({"fixed": (0.5, fixed), "cut": (1.0, cut)}, widths=widths)(b)
    assert found.item() == pytest.approx(expected.item())
    assert Objective({"fixed": (0.5, fixed)}, widths=widths)(b).item() == pytest.approx(0.5 * fixed(b).item())


def test_losses_are_taken_in_the_precision_of_the_embeddings() -> None:
    b = embedded(u=vectors(0).float(), v=vectors(1).float())
    objective = Objective({"info_nce": (1.0, info_nce_term()), "softmax": (1.0, SoftmaxTerm())})
    objective.allocate(4)
    expected = objective(b)
    with torch.autocast("cpu", torch.bfloat16):
        assert objective(b) == expected
