"""SimCSE: what it sets against what, and what it asks of a batch and of a tower."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from textsiam.data.pairs import Pairs
from textsiam.models.twin import Twin
from textsiam.training.batches.collation import TrainingPairs
from textsiam.training.batches.sampling import Uniform
from textsiam.training.loop import train
from textsiam.training.losses import LOSSES, SimCSELoss
from textsiam.training.losses.objective import Objective
from textsiam.training.losses.terms import Embedded
from textsiam.training.settings import Settings


def test_each_text_is_picked_out_by_itself():
    def vectors(seed):
        drawn = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return torch.nn.functional.normalize(drawn, dim=-1)

    clusters, labels = torch.tensor([0, 1, 0, 2]), torch.tensor([1, 0, 0, 1])
    batch = Embedded(vectors(0), vectors(1), None, labels, clusters, clusters, again=vectors(2))
    total = 0.0
    for one, other in ((batch.u, batch.again), (batch.again, batch.u)):
        cosines = one @ other.T / 0.2
        for i in range(4):
            against = [j for j in range(4) if j == i or clusters[j] != clusters[i]]
            total -= cosines[i].exp()[i].log() - cosines[i, against].exp().sum().log()
    assert SimCSELoss(temperature=0.2)(batch).item() == pytest.approx(total.item() / 8)
    assert SimCSELoss(temperature=0.2)(replace(batch, labels=1 - labels)) == SimCSELoss(temperature=0.2)(batch)
    with pytest.raises(ValueError, match="needs left texts that are encoded twice, but the batch has none"):
        SimCSELoss()(replace(batch, again=None))


@pytest.mark.parametrize("half", [False, True], ids=["twin", "asymmetric twin"])
def test_left_texts_stand_twice_in_a_batch_and_dropout_tells_them_apart(twin: Twin, pairs: Pairs, half: bool):
    if half:
        twin.right = twin.left
    data = TrainingPairs(pairs, twin, Uniform(np.arange(96), 16), token_budget=40, twice=True, negatives=not half)
    batch = next(data.epoch(0))
    assert batch.again_rows is not None
    distinct = len(set(batch.left_rows.tolist()))
    assert len(set(batch.again_rows.tolist())) == distinct
    assert not set(batch.again_rows.tolist()) & set(batch.left_rows.tolist() + batch.right_rows.tolist() * (not half))
    with torch.no_grad():
        u, _ = twin.eval()(batch.left, batch.right)
        torch.testing.assert_close(u[batch.left_rows], u[batch.again_rows])
        u, _ = twin.train()(batch.left, batch.right)
    cosine = (u[batch.left_rows] * u[batch.again_rows]).sum(1)
    assert (cosine < 0.9999).all()


def test_texts_without_a_label_are_learned_from_and_a_tower_needs_dropout(twin: Twin, tmp_path):
    pairs = Pairs.from_texts(*[[f"why {word} {k}" for k, word in enumerate("abcdefgh")]] * 2, [1] * 8)
    settings, objective = Settings(batch_size=4, tracker="none", precision="fp32"), Objective({"simcse": SimCSELoss()})
    before = twin.encode(pairs.texts)
    result = train(twin, pairs, objective, output=tmp_path / "run", settings=settings, quiet=True)
    assert result.steps == 2
    assert not np.allclose(twin.encode(pairs.texts), before)
    for module in twin.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with pytest.raises(ValueError, match="simcse: the tower has no dropout"):
        train(twin, pairs, Objective({"simcse": LOSSES["simcse"]()}), output=tmp_path / "other", settings=settings)
