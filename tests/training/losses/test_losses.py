from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from jaxtyping import install_import_hook
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from textsiam.models.distances import COSINE, DISTANCES, EUCLIDEAN, SQUARED_EUCLIDEAN, Distance
from textsiam.models.learned import Mahalanobis
from textsiam.training import losses
from textsiam.training.losses import (
    contrastive,
    cosent,
    info_nce,
    online_contrastive,
    pair_softmax,
    symmetric_info_nce,
    triplet,
)
from textsiam.training.losses import in_batch as batch_losses
from textsiam.training.mining import online as miners

EVERY_DISTANCE = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
PAIR_LOSSES = pytest.mark.parametrize("loss", [contrastive, online_contrastive], ids=lambda f: f.__name__)
FORMS = pytest.mark.parametrize("form", ["margin_minus_distance", "squared_margin"])

# Cosine distances 0, 1, 2 and 1 - 1/sqrt(2) from the first axis.
AXES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [math.sqrt(0.5), math.sqrt(0.5)]])
HALFWAY = 1 - math.sqrt(0.5)


def vectors(n: int, dim: int = 6, *, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch(n: int = 24, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs whose distances overlap between the classes; labels alternate."""
    u = vectors(n, seed=seed)
    return u, u + 0.8 * vectors(n, seed=seed + 100), torch.arange(n) % 2


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def far(rows: int) -> Tensor:
    """Anchors: the first axis, over and over."""
    return AXES[:1].expand(rows, -1)


# --- hand-computed values -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "others"),
    [("margin_minus_distance", (0.5, 0.0, 0.5 - HALFWAY)), ("squared_margin", (0.5, 0.0, None))],
)
def test_contrastive_by_hand(form: str, others: tuple[float, float, float | None]) -> None:
    # Non-duplicates at distance 0, 1 and 0.29; a duplicate at distance 1 costs 1.
    v = AXES[[0, 1, 3, 1]]
    last = others[2] ** 2 if others[2] is not None else 0.25 - HALFWAY**2
    expected = (others[0] ** 2 + others[1] + last + 1.0) / 4
    loss = contrastive(far(4), v, torch.tensor([0, 0, 0, 1]), margin=0.5, form=form)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_online_contrastive_by_hand() -> None:
    # Duplicates at 0.29 and 2, others at 0, 1 and 2. Hard: duplicates farther than 0 (both), others
    # closer than 2 (those at 0 and 1); with margin 1.5 they cost 0.29², 2², 1.5² and 0.5².
    v = AXES[[3, 2, 0, 1, 2]]
    expected = (HALFWAY**2 + 4 + 2.25 + 0.25) / 5
    loss = online_contrastive(far(5), v, torch.tensor([1, 1, 0, 0, 0]), margin=1.5)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_online_contrastive_leaves_easy_pairs_alone() -> None:
    v = AXES[[0, 3, 1, 2]].clone().requires_grad_()
    loss = online_contrastive(far(4), v, torch.tensor([1, 1, 0, 0]), margin=1.5)
    assert loss.item() == 0
    loss.backward()
    assert v.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        (COSINE, (max(0, HALFWAY - 1 + 0.3) + max(0, 1 - 0 + 0.3)) / 2),
        (EUCLIDEAN, (max(0, math.sqrt(2 * HALFWAY) - math.sqrt(2) + 0.3) + math.sqrt(2) + 0.3) / 2),
        (SQUARED_EUCLIDEAN, (max(0, 2 * HALFWAY - 2 + 0.3) + 2 + 0.3) / 2),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_triplet_by_hand(distance: Distance, expected: float) -> None:
    loss = triplet(far(2), AXES[[3, 1]], AXES[[1, 0]], margin=0.3, distance=distance)
    assert loss.item() == pytest.approx(expected, abs=2e-6)


def test_info_nce_by_hand() -> None:
    # Cosines of the one anchor with the candidates: 1, 0, -1; the lengths of vectors do not count.
    candidates = AXES[:3] * torch.tensor([[5.0], [0.1], [2.0]])
    loss = info_nce(2 * far(1), candidates, torch.tensor([1]), temperature=0.5)
    expected = math.log(math.exp(2) + 1 + math.exp(-2))
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    mask = torch.tensor([[True, False, False]])
    loss = info_nce(2 * far(1), candidates, torch.tensor([1]), temperature=0.5, mask=mask)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-6)


def test_soft_triplet_by_hand() -> None:
    expected = (math.log1p(math.exp(HALFWAY - 1 + 0.3)) + math.log1p(math.exp(1.3))) / 2
    loss = triplet(far(2), AXES[[3, 1]], AXES[[1, 0]], margin=0.3, soft=True)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert triplet(far(1), AXES[:1], AXES[:1], margin=0.0, soft=True).item() == pytest.approx(math.log(2))


def test_symmetric_info_nce_by_hand() -> None:
    # Cosines of the first two axes with the first and the half-way one: 1 and r, 0 and r.
    r = math.sqrt(0.5)
    forth = math.log1p(math.exp(r - 1)) + math.log1p(math.exp(-r))
    back = math.log1p(math.exp(-1)) + math.log(2)
    loss = symmetric_info_nce(AXES[:2], AXES[[0, 3]], temperature=1.0)
    assert loss.item() == pytest.approx((forth + back) / 4, abs=1e-6)
    mask = torch.tensor([[True, True], [False, True]])
    loss = symmetric_info_nce(AXES[:2], AXES[[0, 3]], temperature=1.0, mask=mask)
    expected = (math.log1p(math.exp(-r)) + math.log1p(math.exp(-1))) / 4
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_cosent_by_hand() -> None:
    # Distances 0.29 and 1 of pairs that should be closer than those at 0 and 2.
    v = AXES[[3, 1, 0, 2]]
    gaps = (HALFWAY, 1, HALFWAY - 2, 1 - 2)
    expected = math.log(1 + sum(math.exp(2 * g) for g in gaps))
    loss = cosent(far(4), v, torch.tensor([1, 1, 0, 0]), temperature=0.5)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert cosent(far(4), v, torch.ones(4)).item() == 0


def test_pair_softmax_by_hand() -> None:
    # Of (1, 0), (0, 1), (1, 1), the layer takes 1 + 2·1 for a duplicate, and 0.5 for none.
    weight = torch.tensor([[0.0] * 6, [1.0, 0, 0, 0, 0, 2.0]])
    bias = torch.tensor([0.5, 0.0])
    for label, logits in ((1, (0.5, 3.0)), (0, (3.0, 0.5))):
        loss = pair_softmax(AXES[:1], AXES[1:2], torch.tensor([label]), weight=weight, bias=bias)
        assert loss.item() == pytest.approx(math.log1p(math.exp(logits[0] - logits[1])), abs=1e-6)


# --- naive references -----------------------------------------------------------------------------


def naive_contrastive(d: list[float], labels: list[int], margin: float, form: str) -> float:
    total = 0.0
    for each, label in zip(d, labels, strict=True):
        if label == 1:
            total += each**2
        elif form == "squared_margin":
            total += max(0.0, margin**2 - each**2)
        else:
            total += max(0.0, margin - each) ** 2
    return total / len(d)


def naive_online(d: list[float], labels: list[int], margin: float) -> float:
    pull = [x for x, y in zip(d, labels, strict=True) if y == 1]
    push = [x for x, y in zip(d, labels, strict=True) if y == 0]
    closest = min(push) if push else sum(pull) / len(pull)
    farthest = max(pull) if pull else sum(push) / len(push)
    hard = [x**2 for x in pull if x > closest] + [max(0.0, margin - x) ** 2 for x in push if x < farthest]
    return sum(hard) / len(d)


@EVERY_DISTANCE
@FORMS
@pytest.mark.parametrize("kind", ["mixed", "duplicates", "others"])
def test_pair_losses_against_loops(distance: Distance, form: str, kind: str) -> None:
    u, v, labels = batch()
    if kind != "mixed":
        labels = torch.full_like(labels, int(kind == "duplicates"))
    d = distance(u, v)
    margin = d.median().item()
    found = contrastive(u, v, labels, margin=margin, distance=distance, form=form)
    assert found.item() == pytest.approx(naive_contrastive(d.tolist(), labels.tolist(), margin, form))
    found = online_contrastive(u, v, labels, margin=margin, distance=distance)
    expected = naive_online(d.tolist(), labels.tolist(), margin)
    assert expected > 0
    assert found.item() == pytest.approx(expected)


@EVERY_DISTANCE
def test_triplet_against_a_loop(distance: Distance) -> None:
    a, p, n = (vectors(20, seed=seed) for seed in range(3))
    each = [
        max(
            0.0,
            distance(a[i : i + 1], p[i : i + 1]).item() - distance(a[i : i + 1], n[i : i + 1]).item() + 0.3,
        )
        for i in range(20)
    ]
    assert 0 < sum(x > 0 for x in each) < 20
    assert triplet(a, p, n, margin=0.3, distance=distance).item() == pytest.approx(sum(each) / 20)


def test_info_nce_against_a_loop() -> None:
    anchor, candidates = vectors(7), vectors(11, seed=1)
    target = torch.tensor([3, 0, 10, 5, 5, 1, 2])
    mask = torch.rand(7, 11, generator=torch.Generator().manual_seed(0)) < 0.4
    total = 0.0
    for i in range(7):
        logits = [cosine_similarity(anchor[i], candidates[j], dim=0).item() / 0.1 for j in range(11)]
        own = target[i].item()
        total -= logits[own] - math.log(sum(math.exp(x) for j, x in enumerate(logits) if j == own or not mask[i, j]))
    assert info_nce(anchor, candidates, target, temperature=0.1, mask=mask).item() == pytest.approx(total / 7)


@EVERY_DISTANCE
@pytest.mark.parametrize("grades", [2, 5])
def test_cosent_against_a_loop(distance: Distance, grades: int) -> None:
    u, v, _ = batch()
    labels = (torch.arange(24) * 7 % grades) / grades if grades > 2 else torch.arange(24) % 2
    d = distance(u, v).tolist()
    total = 1.0
    for i in range(24):
        for j in range(24):
            if labels[i] > labels[j]:
                total += math.exp((d[i] - d[j]) / 0.4)
    found = cosent(u, v, labels, temperature=0.4, distance=distance)
    assert found.item() == pytest.approx(math.log(total))


def test_pair_softmax_against_a_loop() -> None:
    u, v, labels = batch()
    weight, bias = vectors(2, 18, seed=3), vectors(1, 2, seed=4)[0]
    total = 0.0
    for i in range(24):
        left, right = u[i].tolist(), v[i].tolist()
        features = [*left, *right, *(abs(a - b) for a, b in zip(left, right, strict=True))]
        products = [[w * x for w, x in zip(row, features, strict=True)] for row in weight.tolist()]
        logits = [sum(row) + b for row, b in zip(products, bias.tolist(), strict=True)]
        total += math.log(sum(math.exp(x) for x in logits)) - logits[int(labels[i])]
    assert pair_softmax(u, v, labels, weight=weight, bias=bias).item() == pytest.approx(total / 24)


def test_symmetric_info_nce_is_both_directions() -> None:
    u, v, own = vectors(9), vectors(9, seed=1), torch.arange(9)
    mask = torch.rand(9, 9, generator=torch.Generator().manual_seed(0)) < 0.3
    expected = info_nce(u, v, own, mask=mask) + info_nce(v, u, own, mask=mask.T)
    assert symmetric_info_nce(u, v, mask=mask).item() == pytest.approx(expected.item() / 2)
    assert symmetric_info_nce(v, u, mask=mask.T).item() == pytest.approx(expected.item() / 2)


# --- peers as oracles -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    from sentence_transformers.sentence_transformer import losses

    return losses


@pytest.mark.parametrize("name", ["COSINE_DISTANCE", "EUCLIDEAN", "MANHATTAN"])
def test_sentence_transformers_pair_losses(peer: ModuleType, name: str) -> None:
    u, v, labels = batch()
    theirs = getattr(peer.SiameseDistanceMetric, name)
    ours = DISTANCES[name.split("_")[0].lower()]
    margin = ours(u, v).median().item()
    # torch's pairwise distances add 1e-6 to every coordinate, hence the tolerance.
    expected = peer.ContrastiveLoss(None, theirs, margin).compute_loss_from_embeddings([u, v], labels)
    found = contrastive(u, v, labels, margin=margin, distance=ours)
    assert found.item() == pytest.approx(2 * expected.item(), rel=1e-5)
    for kept in (labels >= 0, labels == 0, labels == 1):
        rows = u[kept], v[kept]
        loss = peer.OnlineContrastiveLoss(None, theirs, margin)
        expected = loss.compute_loss_from_embeddings(list(rows), labels[kept]) / kept.sum()
        found = online_contrastive(*rows, labels[kept], margin=margin, distance=ours)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["COSINE", "EUCLIDEAN", "MANHATTAN"])
def test_sentence_transformers_triplet(peer: ModuleType, name: str) -> None:
    a, p, n = (vectors(20, seed=seed) for seed in range(3))
    loss = peer.TripletLoss(None, getattr(peer.TripletDistanceMetric, name), 0.4)
    expected = loss.compute_loss_from_embeddings([a, p, n], torch.zeros(20))
    found = triplet(a, p, n, margin=0.4, distance=DISTANCES[name.lower()])
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_sentence_transformers_multiple_negatives_ranking(peer: ModuleType) -> None:
    a, p, n = (vectors(20, seed=seed) for seed in range(3))
    loss = peer.MultipleNegativesRankingLoss(None, scale=20.0)
    expected = loss.compute_loss_from_embeddings([a, p, n], torch.zeros(20))
    found = info_nce(a, torch.cat([p, n]), torch.arange(20), temperature=1 / 20)
    assert found.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("grades", [2, 5])
def test_sentence_transformers_cosent(peer: ModuleType, grades: int) -> None:
    u, v, _ = batch()
    labels = torch.arange(24) * 7 % grades / (grades - 1)
    expected = peer.CoSENTLoss(None, scale=20.0).compute_loss_from_embeddings([u, v], labels)
    assert cosent(u, v, labels, temperature=1 / 20).item() == pytest.approx(expected.item(), rel=1e-6)


def test_sentence_transformers_softmax(peer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    u, v, labels = batch()
    theirs = peer.SoftmaxLoss(SimpleNamespace(device="cpu"), 6, 2).double()
    module = sys.modules[type(theirs).__module__]
    monkeypatch.setattr(module, "embed_columns", lambda model, columns: columns)
    head = theirs.classifier
    found = pair_softmax(u, v, labels, weight=head.weight, bias=head.bias)
    assert found.item() == pytest.approx(theirs([u, v], labels).item(), rel=1e-6)


@pytest.mark.parametrize("name", ["COSINE", "EUCLIDEAN"])
def test_pytorch_metric_learning_soft_triplet(name: str) -> None:
    from pytorch_metric_learning import losses
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.reducers import MeanReducer

    a, p, n = (normalize(vectors(20, seed=seed), dim=-1) for seed in range(3))
    rows = torch.arange(20)
    power = 2 if name == "COSINE" else 1  # half the squared distance between unit vectors is the cosine distance
    plain = LpDistance(normalize_embeddings=False, power=power)
    theirs = losses.TripletMarginLoss(0.4 * power, smooth_loss=True, distance=plain, reducer=MeanReducer())
    expected = theirs(torch.cat([a, p, n]), torch.zeros(60), indices_tuple=(rows, rows + 20, rows + 40))
    distance = SQUARED_EUCLIDEAN if power == 2 else EUCLIDEAN
    found = triplet(a, p, n, margin=0.4 * power, distance=distance, soft=True)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_pytorch_metric_learning() -> None:
    from pytorch_metric_learning import losses
    from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
    from pytorch_metric_learning.reducers import MeanReducer

    n, rows = 20, torch.arange(20)
    a, p, q = (normalize(vectors(n, seed=seed), dim=-1) for seed in range(3))
    stacked, labels = torch.cat([a, p, q]), torch.zeros(3 * n)

    theirs = losses.TripletMarginLoss(
        margin=0.4, distance=LpDistance(normalize_embeddings=False), reducer=MeanReducer()
    )
    expected = theirs(stacked, labels, indices_tuple=(rows, rows + n, rows + 2 * n))
    assert triplet(a, p, q, margin=0.4, distance=EUCLIDEAN).item() == pytest.approx(expected.item(), rel=1e-5)

    theirs = losses.ContrastiveLoss(
        pos_margin=0, neg_margin=1.2, distance=LpDistance(normalize_embeddings=False, power=1)
    )
    pairs = (rows[:10], rows[:10] + n, rows[10:], rows[10:] + n)
    split = theirs.compute_loss(stacked, labels, pairs, None, None)
    expected = (split["pos_loss"]["losses"].square().sum() + split["neg_loss"]["losses"].square().sum()) / n
    found = contrastive(a, p, (rows < 10).long(), margin=1.2, distance=EUCLIDEAN)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)

    theirs = losses.NTXentLoss(temperature=0.1, distance=CosineSimilarity())
    others = torch.arange(n)[None, :] != rows[:, None]
    i, j = others.nonzero().T
    expected = theirs(torch.cat([a, p]), torch.zeros(2 * n), indices_tuple=(rows, rows + n, i, j + n))
    assert info_nce(a, p, rows, temperature=0.1).item() == pytest.approx(expected.item(), rel=1e-5)


# --- gradients ------------------------------------------------------------------------------------


@EVERY_DISTANCE
@FORMS
def test_gradcheck_contrastive(distance: Distance, form: str) -> None:
    u, v, labels = batch(8)
    margin = distance(u, v).median().item() * 1.01
    inputs = (u.requires_grad_(), v.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda u, v: contrastive(u, v, labels, margin=margin, distance=distance, form=form), inputs
    )


@EVERY_DISTANCE
def test_gradcheck_online_and_triplet(distance: Distance) -> None:
    u, v, labels = batch(8)
    w = vectors(8, seed=7).requires_grad_()
    margin = distance(u, v).median().item() * 1.01
    inputs = (u.requires_grad_(), v.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda u, v: online_contrastive(u, v, labels, margin=margin, distance=distance), inputs
    )
    assert torch.autograd.gradcheck(lambda *t: triplet(*t, margin=0.3, distance=distance), (*inputs, w))


def test_gradcheck_info_nce() -> None:
    mask = torch.zeros(5, 7, dtype=torch.bool)
    mask[:, 5:] = True
    inputs = (vectors(5).requires_grad_(), vectors(7, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(lambda a, c: info_nce(a, c, torch.arange(5), temperature=0.5, mask=mask), inputs)


@EVERY_DISTANCE
def test_gradcheck_cosent_and_soft_triplet(distance: Distance) -> None:
    u, v, _ = batch(8)
    inputs = (u.requires_grad_(), v.requires_grad_())
    grades = torch.arange(8) % 3
    assert torch.autograd.gradcheck(lambda u, v: cosent(u, v, grades, temperature=0.5, distance=distance), inputs)
    assert torch.autograd.gradcheck(lambda u, v: triplet(u, v, v.roll(1, 0), distance=distance, soft=True), inputs)


def test_gradcheck_pair_softmax_and_symmetric_info_nce() -> None:
    u, v, labels = batch(6)
    inputs = [u, v, vectors(2, 18, seed=3), vectors(1, 2, seed=4)[0]]
    inputs = tuple(t.requires_grad_() for t in inputs)
    assert torch.autograd.gradcheck(lambda u, v, w, b: pair_softmax(u, v, labels, weight=w, bias=b), inputs)
    mask = torch.eye(6, dtype=torch.bool).roll(1, 0)
    assert torch.autograd.gradcheck(lambda u, v: symmetric_info_nce(u, v, temperature=0.5, mask=mask), inputs[:2])


@EVERY_DISTANCE
def test_gradients_between_equal_embeddings_are_finite(distance: Distance) -> None:
    for label in (0, 1):
        labels = torch.full((4,), label)
        for loss in (
            lambda u, v, labels=labels: contrastive(u, v, labels, distance=distance),
            lambda u, v, labels=labels: contrastive(u, v, labels, distance=distance, form="squared_margin"),
            lambda u, v, labels=labels: online_contrastive(u, v, labels, distance=distance),
            lambda u, v: triplet(u, v, v, distance=distance),
            lambda u, v: triplet(u, v, v, distance=distance, soft=True),
            lambda u, v: info_nce(u, v, torch.arange(4)),
            lambda u, v: symmetric_info_nce(u, v),
            lambda u, v, labels=labels: cosent(u, v, labels, distance=distance),
            lambda u, v: cosent(u, v, torch.arange(4), distance=distance),
            lambda u, v, labels=labels: pair_softmax(u, v, labels, weight=torch.ones(2, 9), bias=torch.ones(2)),
        ):
            u, v = torch.ones(4, 3, requires_grad=True), torch.ones(4, 3, requires_grad=True)
            value = loss(u, v)
            value.backward()
            assert torch.isfinite(value)
            assert torch.isfinite(u.grad).all()
            assert torch.isfinite(v.grad).all()


# --- what every loss must keep --------------------------------------------------------------------


@PAIR_LOSSES
@EVERY_DISTANCE
def test_order_and_sides_of_pairs_do_not_matter(loss: Callable[..., Tensor], distance: Distance) -> None:
    u, v, labels = batch()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    expected = loss(u, v, labels, margin=0.8, distance=distance).item()
    assert loss(u[order], v[order], labels[order], margin=0.8, distance=distance).item() == pytest.approx(expected)
    assert loss(v, u, labels, margin=0.8, distance=distance).item() == pytest.approx(expected)


def test_order_of_ranked_and_classified_pairs_does_not_matter() -> None:
    u, v, labels = batch()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    layer = {"weight": vectors(2, 18, seed=3), "bias": vectors(1, 2, seed=4)[0]}
    for loss in (cosent, lambda *args: pair_softmax(*args, **layer)):
        found = loss(u[order], v[order], labels[order]).item()
        assert found == pytest.approx(loss(u, v, labels).item())
    assert cosent(v, u, labels).item() == pytest.approx(cosent(u, v, labels).item())
    found = symmetric_info_nce(u[order], v[order]).item()
    assert found == pytest.approx(symmetric_info_nce(u, v).item())


def test_only_the_order_of_grades_counts() -> None:
    u, v, _ = batch()
    grades = torch.arange(24) % 5
    assert cosent(u, v, grades).item() == cosent(u, v, grades.exp()).item()


def test_order_of_triplets_and_candidates_does_not_matter() -> None:
    a, p, n = (vectors(9, seed=seed) for seed in range(3))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    assert triplet(a[order], p[order], n[order]).item() == pytest.approx(triplet(a, p, n).item())
    target = torch.arange(9)
    expected = info_nce(a, p, target).item()
    assert info_nce(a[order], p, target[order]).item() == pytest.approx(expected)
    assert info_nce(a, p[order], torch.argsort(order)).item() == pytest.approx(expected)


@PAIR_LOSSES
@pytest.mark.parametrize("times", [2, 8])
def test_value_does_not_grow_with_the_batch(loss: Callable[..., Tensor], times: int) -> None:
    u, v, labels = batch()
    small = loss(u, v, labels, margin=0.8).item()
    assert small > 0
    assert loss(u.repeat(times, 1), v.repeat(times, 1), labels.repeat(times), margin=0.8).item() == pytest.approx(small)


@PAIR_LOSSES
@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.float32, torch.bool])
def test_labels_of_any_type(loss: Callable[..., Tensor], dtype: torch.dtype) -> None:
    u, v, labels = batch()
    assert loss(u, v, labels.to(dtype)).item() == loss(u, v, labels).item()


@PAIR_LOSSES
@pytest.mark.parametrize(
    ("labels", "got"), [([-1.0, 1.0], "-1"), ([1, 2], "2"), ([0.5, 1.0], "0.5"), ([1.0, math.nan], "nan")]
)
def test_other_label_conventions_are_refused(loss: Callable[..., Tensor], labels: list[float], got: str) -> None:
    with pytest.raises(ValueError, match=exactly(f"labels must be 1 (duplicate) or 0 (not a duplicate), got {got}")):
        loss(AXES[:2], AXES[2:], torch.tensor(labels))


@pytest.mark.parametrize("value", [0.0, -0.5, math.nan])
def test_margins_and_temperatures_must_be_positive(value: float) -> None:
    u, v, labels = batch()
    message = f"margin must be > 0, got {value}"
    for loss in (contrastive, online_contrastive):
        with pytest.raises(ValueError, match=exactly(message)):
            loss(u, v, labels, margin=value)
    with pytest.raises(ValueError, match=exactly(message)):
        triplet(u, v, v, margin=value)
    with pytest.raises(ValueError, match=exactly(f"temperature must be > 0, got {value}")):
        info_nce(u, v, torch.arange(24), temperature=value)


@pytest.mark.parametrize("value", [-0.5, math.nan])
def test_a_soft_margin_may_be_zero_but_not_less(value: float) -> None:
    u, v, _ = batch()
    with pytest.raises(ValueError, match=exactly(f"margin must be >= 0, got {value}")):
        triplet(u, v, v, margin=value, soft=True)
    with pytest.raises(ValueError, match=exactly(f"temperature must be > 0, got {value}")):
        cosent(u, v, torch.arange(24), temperature=value)
    with pytest.raises(ValueError, match=exactly(f"temperature must be > 0, got {value}")):
        symmetric_info_nce(u, v, temperature=value)


def test_labels_that_fit_no_loss_are_refused() -> None:
    u, v, _ = batch(2)
    with pytest.raises(ValueError, match=exactly("labels must be finite numbers")):
        cosent(u, v, torch.tensor([1.0, math.nan]))
    with pytest.raises(ValueError, match=exactly("labels must be 1 (duplicate) or 0 (not a duplicate), got 2")):
        pair_softmax(u, v, torch.tensor([1, 2]), weight=vectors(2, 18), bias=vectors(1, 2)[0])


def test_a_mean_over_nothing_is_zero_and_keeps_the_graph() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    for loss in (
        lambda e: triplet(e, e, e),
        lambda e: symmetric_info_nce(e, e),
        lambda e: cosent(e, e, nothing),
    ):
        e = vectors(3).requires_grad_()
        value = loss(e[:0])
        assert value.item() == 0
        value.backward()
        assert e.grad.abs().sum() == 0


def test_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="form must be 'margin_minus_distance' or 'squared_margin', got 'cubed'"):
        contrastive(AXES[:2], AXES[2:], torch.tensor([0, 1]), form="cubed")


# --- masks ----------------------------------------------------------------------------------------


def test_a_cluster_mate_is_never_a_negative() -> None:
    anchor, candidates, clusters = vectors(4), vectors(4, seed=1), torch.tensor([0, 0, 1, 2])
    mask = clusters[:, None] == clusters[None, :]
    target = torch.arange(4)
    before = info_nce(anchor[:1], candidates, target[:1], mask=mask[:1]).item()
    moved = candidates.clone()
    moved[1] = anchor[0]  # the mate could not be closer
    assert info_nce(anchor[:1], moved, target[:1], mask=mask[:1]).item() == before
    assert info_nce(anchor[:1], moved, target[:1]).item() > before + 1
    moved = candidates.clone()
    moved[2] = anchor[0]
    assert info_nce(anchor[:1], moved, target[:1], mask=mask[:1]).item() > before + 1


def test_a_masked_candidate_gets_no_gradient() -> None:
    candidates = vectors(3, seed=1).requires_grad_()
    info_nce(vectors(1), candidates, torch.tensor([0]), mask=torch.tensor([[True, True, False]])).backward()
    assert candidates.grad[1].abs().sum() == 0
    assert candidates.grad[0].abs().sum() > 0  # the target counts whatever the mask says
    assert candidates.grad[2].abs().sum() > 0


def test_no_anchor_and_no_negative_cost_nothing() -> None:
    candidates = vectors(3).requires_grad_()
    assert info_nce(candidates[:0], candidates, torch.zeros(0, dtype=torch.long)).item() == 0
    everything = torch.ones(3, 3, dtype=torch.bool)
    loss = info_nce(vectors(3, seed=1), candidates, torch.arange(3), mask=everything)
    loss.backward()
    assert loss.item() == 0
    assert candidates.grad.abs().sum() == 0


ON_NOTHING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "contrastive": lambda e, y: contrastive(e, e, y),
    "contrastive, squared margin": lambda e, y: contrastive(e, e, y, form="squared_margin"),
    "online_contrastive": lambda e, y: online_contrastive(e, e, y),
    "cosent": lambda e, y: cosent(e, e, y),
    "pair_softmax": lambda e, y: pair_softmax(e, e, y, weight=vectors(2, 18), bias=vectors(2)[:, 0]),
    "head": lambda e, y: losses.head_loss(Mahalanobis(6).double(), e, e, y),
    "triplet": lambda e, y: triplet(e, e, e),
    "info_nce": lambda e, y: info_nce(e, torch.ones(3, 6).double(), y),
    "symmetric_info_nce": lambda e, y: symmetric_info_nce(e, e),
    "n_pair": lambda e, y: losses.n_pair(e, e, l2=0.1),
    "angular": lambda e, y: losses.angular(e, e, e),
    "batch_all": batch_losses.batch_all,
    "batch_hard": batch_losses.batch_hard,
    "batch_semi_hard": batch_losses.batch_semi_hard,
    "batch_random": lambda e, y: batch_losses.batch_triplet(e, y, miners.random_triplets),
    "batch_distance_weighted": batch_losses.batch_distance_weighted,
    "debiased_triplet": batch_losses.debiased_triplet,
}  # fmt: skip


@pytest.mark.parametrize("name", ON_NOTHING)
def test_a_mean_over_nothing_is_0_with_a_gradient_of_0(name: str) -> None:
    e = vectors(0).requires_grad_()
    loss = ON_NOTHING[name](e, torch.zeros(0, dtype=torch.long))
    assert loss.shape == ()
    assert loss.item() == 0
    loss.backward()
    assert e.grad is not None


# --- shapes ---------------------------------------------------------------------------------------


@pytest.fixture
def checked() -> Iterator[ModuleType]:
    """The losses and distances, imported once more with their annotations enforced by beartype."""
    files = (".functional", ".pairwise", ".ranking", ".classifier", "")
    names = ("textsiam.models.distances", *(f"textsiam.training.losses{file}" for file in files))
    plain = {name: sys.modules.pop(name) for name in names}
    with install_import_hook(names, "beartype.beartype"):
        yield importlib.import_module(names[-1])
    for name, module in plain.items():
        sys.modules[name] = module
        setattr(sys.modules[name.rpartition(".")[0]], name.rpartition(".")[2], module)


def test_annotated_shapes_hold(checked: ModuleType) -> None:
    from jaxtyping import TypeCheckError

    u, v, labels = (t.float() if t.is_floating_point() else t for t in batch())
    for distance in map(sys.modules["textsiam.models.distances"].distance_named, DISTANCES):
        for loss in (checked.contrastive, checked.online_contrastive):
            assert loss(u, v, labels, distance=distance).shape == ()
            with pytest.raises(TypeCheckError):
                loss(u, v[:5], labels, distance=distance)
            with pytest.raises(TypeCheckError):
                loss(u, v, labels[:5], distance=distance)
            with pytest.raises(TypeCheckError):
                loss(u.long(), v, labels, distance=distance)
        assert distance.all_pairs(u, v[:5]).shape == (24, 5)
        with pytest.raises(TypeCheckError):
            distance.all_pairs(u, v[:, :2])
    assert checked.triplet(u, v, u).shape == ()
    with pytest.raises(TypeCheckError):
        checked.triplet(u, v, u[:, :2])
    mask = torch.zeros(24, 24, dtype=torch.bool)
    assert checked.info_nce(u, v, torch.arange(24), mask=mask).shape == ()
    with pytest.raises(TypeCheckError):
        checked.info_nce(u, v, torch.arange(24), mask=mask[:, :3])
    assert checked.symmetric_info_nce(u, v, mask=mask).shape == ()
    assert checked.cosent(u, v, labels).shape == ()
    assert checked.pair_softmax(u, v, labels, weight=torch.zeros(2, 18), bias=torch.zeros(2)).shape == ()
    with pytest.raises(TypeCheckError):
        checked.cosent(u, v, labels[:5])
    with pytest.raises(TypeCheckError):
        checked.symmetric_info_nce(u, v[:5])
