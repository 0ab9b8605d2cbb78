"""Heads: trained jointly as a term, or alone on fixed embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from textsiam.models.learned import Mahalanobis, PairHead
from textsiam.models.twin import Twin
from textsiam.training.loop import train
from textsiam.training.losses import HeadLoss, head_loss
from textsiam.training.losses.heads import PairVectors, fit_head
from textsiam.training.losses.objective import Objective
from textsiam.training.losses.terms import Embedded
from textsiam.training.settings import Settings

SETTINGS = Settings(batch_size=16, epochs=6, learning_rate=5e-3, tracker="none", precision="fp32")


def batch(seed: int = 0) -> Embedded:
    u, v = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()
    clusters = torch.arange(5)
    return Embedded(u, v, None, torch.tensor([1, 0, 1, 0, 0]), clusters, clusters)


def test_head_loss_by_hand() -> None:
    head = Mahalanobis(2, diagonal=True)
    u, v = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    z = [3.0, 3.0 - 5 * 2]  # squared distances 0 and 2, each times the starting scale
    expected = (np.log1p(np.exp(z[0])) - z[0] + np.log1p(np.exp(z[1]))) / 2
    assert head_loss(head, u, v, torch.tensor([1, 0])).item() == pytest.approx(expected, rel=1e-5)


def test_frozen_towers_feel_nothing() -> None:
    head, embedded = PairHead(4).double(), batch()
    u, v = embedded.u, embedded.v
    free = torch.autograd.grad(HeadLoss()(embedded, head), (u, v), allow_unused=True)
    assert all(g is not None and g.abs().sum() > 0 for g in free)
    frozen = HeadLoss(frozen=True)(embedded, head)
    assert torch.autograd.grad(frozen, (u, v, head.scale), allow_unused=True)[:2] == (None, None)


@pytest.mark.parametrize("average", [None, 0.5])
def test_trained_jointly_the_best_head_is_kept(driver, tmp_path: Path, average: float | None) -> None:
    twin = driver.small_twin()
    twin.head = PairHead(16, hidden=8)
    before = {name: t.clone() for name, t in twin.state_dict().items()}
    pairs, validation = driver.keyword_pairs(96), driver.keyword_pairs(48, seed=100)
    settings = Settings(**{**vars(SETTINGS), "ema_decay": average})
    result = train(
        twin, pairs, Objective({"head": HeadLoss()}, head=twin.head),
        output=tmp_path, settings=settings, validation=validation, quiet=True,
    )  # fmt: skip
    assert twin.head is not None
    after = twin.state_dict()
    moved = [name for name, t in before.items() if not torch.equal(t, after[name])]
    assert any(name.startswith("head.") for name in moved)
    assert any(name.startswith("left.") for name in moved)
    scores = twin.pair_similarity(validation.texts, validation.left, validation.right)
    assert average_precision_score(validation.labels, scores) == pytest.approx(result.best_average_precision)
    best = Twin.from_pretrained(tmp_path / "best")
    assert all(torch.equal(t, after[name]) for name, t in best.state_dict().items())


def test_a_head_that_no_term_trains_stays_as_it_is(driver, tmp_path: Path) -> None:
    twin = driver.small_twin()
    twin.head = PairHead(16, hidden=8)
    before = {name: t.clone() for name, t in twin.head.state_dict().items()}
    settings = Settings(**{**vars(SETTINGS), "epochs": 1})
    objective = driver.build_objective(["contrastive"])
    train(twin, driver.keyword_pairs(32), objective, output=tmp_path, settings=settings, quiet=True)
    assert twin.head is not None
    assert all(torch.equal(t, before[name]) for name, t in twin.head.state_dict().items())


def planted(n: int, seed: int) -> PairVectors:
    """Unit vectors whose first three dimensions alone say what belongs together; the others are noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n)
    u = rng.normal(size=(n, 16))
    v = np.where(labels[:, None] == 1, u + 0.3 * rng.normal(size=u.shape), rng.normal(size=u.shape))
    v[:, 3:] = rng.normal(size=(n, 13))
    u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (u, v))
    return PairVectors(u.astype(np.float32), v.astype(np.float32), labels)


def average_precision(head: PairHead | Mahalanobis, pairs: PairVectors) -> float:
    with torch.no_grad():
        scores = head(torch.from_numpy(pairs.u), torch.from_numpy(pairs.v))
    return float(average_precision_score(pairs.labels, scores.numpy()))


@pytest.mark.parametrize(("kind", "knobs"), [
    (PairHead, {"hidden": 32}), (Mahalanobis, {}), (Mahalanobis, {"rank": 4}), (Mahalanobis, {"diagonal": True}),
])  # fmt: skip
def test_fitted_on_fixed_embeddings(kind: type[PairHead | Mahalanobis], knobs: dict[str, Any]) -> None:
    torch.manual_seed(0)
    head = kind(16, **knobs)
    pairs, validation = planted(3000, 0), planted(500, 1)
    cosine = average_precision(PairHead(16).eval(), validation)
    best = fit_head(head, pairs, validation=validation, learning_rate=1e-2)
    assert best > cosine + 0.1
    assert average_precision(head, validation) == best


def test_a_head_that_training_makes_worse_comes_back_as_it_was() -> None:
    torch.manual_seed(0)
    head = PairHead(16).eval()
    before = {name: t.clone() for name, t in head.state_dict().items()}
    flipped = planted(500, 0)
    flipped = PairVectors(flipped.u, flipped.v, 1 - flipped.labels)
    fit_head(head, flipped, validation=planted(200, 1), learning_rate=1e-2, epochs=2)
    assert all(torch.equal(t, before[name]) for name, t in head.state_dict().items())


def test_pair_vectors_are_those_of_the_twin(driver) -> None:
    twin, pairs = driver.small_twin(), driver.keyword_pairs(12)
    vectors = PairVectors.of(twin, pairs)
    np.testing.assert_array_equal(vectors.u, twin.encode(pairs.left_texts))
    np.testing.assert_array_equal(vectors.v, twin.encode(pairs.right_texts))
    assert vectors.labels.tolist() == pairs.labels.tolist()


def test_the_same_seed_fits_the_same_head() -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        head = PairHead(16, hidden=8)
        torch.rand(1 + len(found))  # what is drawn elsewhere does not matter
        fit_head(head, planted(200, 0), validation=planted(100, 1), epochs=3)
        found.append(head.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
