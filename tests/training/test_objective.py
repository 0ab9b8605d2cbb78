from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from textsiam.models.distances import EUCLIDEAN
from textsiam.training import losses
from textsiam.training.objective import (
    Embedded,
    Objective,
    contrastive_term,
    info_nce_term,
    online_contrastive_term,
    triplet_term,
)

LABELS = torch.tensor([1, 0, 1, 0, 1, 1])
# Pairs 0 and 4 are of one cluster; the left text of pair 1 is of cluster 0 too.
LEFT, RIGHT = torch.tensor([0, 0, 1, 2, 0, 5]), torch.tensor([0, 3, 1, 4, 0, 5])


def vectors(seed: int, n: int = 6) -> Tensor:
    return torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def embedded(**changes: object) -> Embedded:
    batch = Embedded(vectors(0), vectors(1), vectors(2), LABELS, LEFT, RIGHT)
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
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

        def forward(self, b: Embedded) -> Tensor:
            return self.scale * (b.u - b.v).square().mean()

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
