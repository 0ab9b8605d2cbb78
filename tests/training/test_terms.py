"""Which texts of a batch each term sees; `test_objective` has the older terms."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import pytest
import torch
from torch import Tensor

from textsiam.models.distances import EUCLIDEAN
from textsiam.training import batch_losses, losses
from textsiam.training.batch_losses import Candidates
from textsiam.training.objective import Embedded, Texts
from textsiam.training.terms import (
    SoftmaxTerm,
    angular_term,
    cosent_term,
    in_batch_term,
    info_nce_term,
    n_pair_term,
    triplet_term,
)

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
    found = cosent_term(temperature=0.3, distance=EUCLIDEAN)(b)
    assert found == losses.cosent(b.u, b.v, LABELS, temperature=0.3, distance=EUCLIDEAN)
    found = triplet_term(margin=0.2, soft=True)(b)
    assert found == losses.triplet(b.u[KEEP], b.v[KEEP], vectors(2)[KEEP], margin=0.2, soft=True)
    mask = LEFT[KEEP, None] == RIGHT[None, KEEP]
    found = n_pair_term(temperature=0.5, l2=0.1)(b)
    assert found == batch_losses.n_pair(b.u[KEEP], b.v[KEEP], temperature=0.5, l2=0.1, mask=mask)


def test_symmetric_info_nce_is_the_term_between_towers() -> None:
    """Where every pair is a duplicate and all clusters differ, the term is the function of that name."""
    b = embedded(shared=False, labels=torch.ones(6), left_clusters=torch.arange(6), right_clusters=torch.arange(6))
    found = info_nce_term(temperature=0.3)(b)
    assert found.item() == pytest.approx(losses.symmetric_info_nce(b.u, b.v, temperature=0.3).item())
    found = info_nce_term(temperature=0.3, symmetric=False)(b)
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
    found = info_nce_term(temperature=0.3, symmetric=False, hard_negatives=True)(b)
    assert found.item() == pytest.approx(naive_forth(b, 0.3, drawn))
    # They come from the right tower, so right anchors cannot be compared with them unless there is one tower.
    both = info_nce_term(temperature=0.3, hard_negatives=True)(b).item() * 2 - found.item()
    plain = info_nce_term(temperature=0.3)(b).item() * 2 - info_nce_term(temperature=0.3, symmetric=False)(b).item()
    assert (both == pytest.approx(plain)) is not shared


@pytest.mark.parametrize("shared", [True, False])
def test_remembered_texts_join_the_candidates_under_the_cluster_mask(shared: bool) -> None:
    b = remembering(shared=shared)
    further = [*zip(b.right_memory.embeddings, (0, 1, 9), strict=True)]
    if shared:
        further += [*zip(b.left_memory.embeddings, (0, 1, 9), strict=True)]
    found = info_nce_term(temperature=0.3, symmetric=False)(b)
    assert found.item() == pytest.approx(naive_forth(b, 0.3, further))


@pytest.mark.parametrize("shared", [True, False])
def test_angular_sees_every_text_of_another_cluster(shared: bool) -> None:
    for b in (embedded(shared=shared), remembering(shared=shared)):
        texts = [(b.v, RIGHT), *([(b.u, LEFT)] if shared else [])]
        if b.left_memory is not None and b.right_memory is not None:
            texts += [b.right_memory, *([b.left_memory] if shared else [])]
        candidates, clusters = torch.cat([e for e, _ in texts]), torch.cat([c for _, c in texts])
        mask = LEFT[KEEP, None] == clusters[None]
        expected = batch_losses.angular(b.u[KEEP], b.v[KEEP], candidates, degrees=30, mask=mask)
        assert angular_term(degrees=30)(b).item() == pytest.approx(expected.item())


def test_in_batch_terms_of_one_tower_see_all_texts_at_once() -> None:
    loss = partial(batch_losses.batch_hard, margin=0.7)
    b = embedded()
    e, clusters = torch.cat([b.u, b.v]), torch.cat([LEFT, RIGHT])
    assert in_batch_term(loss)(b).item() == pytest.approx(loss(e, clusters).item())
    b = remembering()
    more = Candidates(torch.cat([e, vectors(5, 3), vectors(6, 3)]), torch.cat([clusters, torch.tensor([0, 1, 9] * 2)]))
    assert in_batch_term(loss)(b).item() == pytest.approx(loss(e, clusters, candidates=more).item())
    assert in_batch_term(loss)(b).item() != pytest.approx(loss(e, clusters).item())


def test_in_batch_terms_of_two_towers_compare_across_only() -> None:
    loss = partial(batch_losses.batch_all, margin=0.7)
    for b, more in ((embedded(shared=False), 0), (remembering(shared=False), 3)):
        extra = torch.tensor([0, 1, 9])[:more]
        right = Candidates(torch.cat([b.v, vectors(6, 3)[:more]]), torch.cat([RIGHT, extra]), own=False)
        left = Candidates(torch.cat([b.u, vectors(5, 3)[:more]]), torch.cat([LEFT, extra]), own=False)
        expected = (loss(b.u, LEFT, candidates=right) + loss(b.v, RIGHT, candidates=left)) / 2
        assert in_batch_term(loss)(b).item() == pytest.approx(expected.item())


def test_softmax_is_the_loss_of_its_layer_over_scaled_embeddings() -> None:
    term = SoftmaxTerm()
    term.allocate(4)
    assert [(n, tuple(p.shape)) for n, p in term.named_parameters()] == [
        ("heads.4.weight", (2, 12)), ("heads.4.bias", (2,)),
    ]  # fmt: skip
    term.double()
    b = embedded()
    assert term(b).item() == pytest.approx(math.log(2))  # no verdict before evidence
    head = term.heads["4"]
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    expected = losses.pair_softmax(2 * b.u, 2 * b.v, LABELS, weight=head.weight, bias=head.bias)
    assert term(b).item() == pytest.approx(expected.item())
    term(b).backward()
    assert head.weight.grad.abs().sum() > 0


def test_softmax_learns_to_tell_duplicates() -> None:
    u, other = torch.nn.functional.normalize(torch.randn(2, 200, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    labels = torch.arange(200) % 2
    b = Embedded(u, torch.where(labels[:, None] == 1, u, other), None, labels, torch.arange(200), torch.arange(200))
    term = SoftmaxTerm()
    term.allocate(8)
    optimizer = torch.optim.Adam(term.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        term(b).backward()
        optimizer.step()
    assert term(b).item() < 0.1


def test_what_a_term_needs() -> None:
    needing, content = [triplet_term(), info_nce_term(hard_negatives=True)], [info_nce_term(), n_pair_term()]
    assert [t.needs_negatives for t in (*needing, *content)] == [True, True, False, False]
    assert [t.positives_only for t in (triplet_term(), n_pair_term(), info_nce_term(), angular_term())] == [
        True, True, False, False,
    ]  # fmt: skip
    for term in needing:
        for missing in ("negative", "negative_clusters"):
            with pytest.raises(ValueError, match="loss needs negatives, but the batch has none"):
                term(embedded(**{missing: None}))
