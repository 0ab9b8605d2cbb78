"""Distillation: the term by hand, what a batch holds, what it keeps and teaches, that a resume changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from textsiam.data.pairs import Pairs
from textsiam.inference.encoders import ModelError
from textsiam.models.ensemble import Ensemble
from textsiam.models.twin import Twin
from textsiam.training.batches.collation import TrainingPairs
from textsiam.training.batches.sampling import Uniform
from textsiam.training.batches.teacher import Taught
from textsiam.training.checkpoints import ResumeError
from textsiam.training.loop import train
from textsiam.training.losses import ContrastiveLoss, DistillationLoss
from textsiam.training.losses.distillation import distillation
from textsiam.training.losses.objective import Objective
from textsiam.training.losses.terms import Embedded
from textsiam.training.run import Run
from textsiam.training.settings import Settings


def vectors(n: int, dim: int, seed: int) -> Tensor:
    drawn = torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return normalize(drawn, dim=-1)


def learn(twin: Twin, output: Path, driver: Any, *, resume: bool = False, weight: float = 50.0, **knobs: Any) -> Any:
    """Train a twin by distillation beside a contrastive loss; a `weight` of 0 does without."""
    term = {"distillation": DistillationLoss(weight=weight, teacher=knobs.pop("teacher", None))} if weight else {}
    settings = {"batch_size": 8, "epochs": 2, "learning_rate": 5e-3, "tracker": "none", "precision": "fp32"}
    return train(
        twin, driver.keyword_pairs(48), Objective({"contrastive": ContrastiveLoss(), **term}), output=output,
        settings=Settings(**{**settings, **knobs}), resume=resume, quiet=True,
    )  # fmt: skip


def test_by_hand() -> None:
    u, v, t, s = vectors(3, 4, 0), vectors(2, 4, 1), vectors(3, 6, 2), vectors(2, 6, 3)
    gaps = [(u[i] @ v[j] - t[i] @ s[j]).item() ** 2 for i in range(3) for j in range(2)]
    assert distillation(u, v, t, s).item() == pytest.approx(sum(gaps) / 6)
    assert distillation(3 * u, v, t, 0.1 * s).item() == pytest.approx(sum(gaps) / 6)  # lengths say nothing
    assert distillation(u[:0], v, t[:0], s).item() == 0
    torch.autograd.gradcheck(lambda u, v: distillation(u, v, t, s), (u.requires_grad_(), v.requires_grad_()))


def test_only_similarities_count() -> None:
    turned, _ = torch.linalg.qr(vectors(4, 4, 5))
    u, v, labels = vectors(6, 4, 0), vectors(6, 4, 1), torch.tensor([0, 1] * 3)
    batch = Embedded(u, v, None, labels, labels, labels, taught=(u @ turned, v @ turned))
    assert DistillationLoss()(batch).item() == pytest.approx(0)
    other = Embedded(u, v, None, labels, labels, labels, taught=(v, u.flip(0)))
    assert DistillationLoss()(other).item() == pytest.approx(distillation(u, v, v, u.flip(0)).item())
    with pytest.raises(ValueError, match="needs the vectors of a teacher, but the batch has none"):
        DistillationLoss()(Embedded(u, v, None, labels, labels, labels))


@pytest.mark.parametrize("half", [False, True], ids=["twin", "asymmetric twin"])
def test_a_batch_holds_the_vectors_of_its_texts(driver: Any, half: bool) -> None:
    twin, pairs = driver.small_twin(half=half), driver.keyword_pairs(24)
    taught = Taught.by(None, twin, pairs.texts)
    data = TrainingPairs(pairs, twin, Uniform(np.arange(24), 8), taught=taught)
    batch = next(data.epoch(0))
    assert batch.taught is not None
    with torch.no_grad():
        u, v = twin(batch.left, batch.right)
    torch.testing.assert_close(u[batch.left_rows], batch.taught[0], rtol=0, atol=2e-3)
    torch.testing.assert_close(v[batch.right_rows], batch.taught[1], rtol=0, atol=2e-3)


def gap(twin: Twin, teacher: Any, pairs: Pairs) -> float:
    """How far a twin's similarities of all texts are from a teacher's."""
    found, taught = (x @ x.T for x in (twin.encode(pairs.texts), teacher.encode(pairs.texts)))
    return float(np.square(found - taught).mean())


def test_the_tower_before_training_is_kept_and_another_one_is_learned_from(driver: Any, tmp_path: Path) -> None:
    unseen = driver.keyword_pairs(24, seed=100)
    start, plain, kept, taught, ensemble = (driver.small_twin() for _ in range(5))
    learn(plain, tmp_path / "plain", driver, weight=0)
    learn(kept, tmp_path / "kept", driver)
    assert gap(kept, start, unseen) < 0.5 * gap(plain, start, unseen)
    plain.save_pretrained(tmp_path / "teacher")
    learn(taught, tmp_path / "taught", driver, teacher=str(tmp_path / "teacher"))
    assert gap(taught, plain, unseen) < 0.5 * gap(start, plain, unseen)
    Ensemble([start, plain]).save_pretrained(tmp_path / "ensemble")  # its vectors are twice as wide
    learn(ensemble, tmp_path / "by ensemble", driver, teacher=str(tmp_path / "ensemble"), weight=500.0, epochs=6)
    assert gap(ensemble, Ensemble([start, plain]), unseen) < 0.5 * gap(plain, Ensemble([start, plain]), unseen)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, whole, stopped, resumed = (driver.small_twin() for _ in range(4))
    learn(teacher, tmp_path / "first", driver, weight=0)
    knobs = {"teacher": str(teacher.save_pretrained(tmp_path / "teacher")), "checkpoint_every": 1}
    learn(whole, tmp_path / "whole", driver, **knobs)
    real = Run.stopping
    with monkeypatch.context() as patch:
        patch.setattr(Run, "stopping", lambda self, _: real(self, self.state.step == 5))
        assert learn(stopped, tmp_path / "parts", driver, **knobs).interrupted
    with pytest.raises(ResumeError, match=r"loss\.distillation\.teacher was '.*' and is now None"):
        learn(driver.small_twin(), tmp_path / "parts", driver, resume=True, **{**knobs, "teacher": None})
    whole.save_pretrained(tmp_path / "teacher")
    with pytest.raises(ResumeError, match=r"teachers was \[\['"):  # another one under the same name
        learn(driver.small_twin(), tmp_path / "parts", driver, resume=True, **knobs)
    teacher.save_pretrained(tmp_path / "teacher")
    learn(resumed, tmp_path / "parts", driver, resume=True, **knobs)
    weights = resumed.state_dict()
    assert not [name for name, weight in whole.state_dict().items() if not torch.equal(weight, weights[name])]


def test_a_teacher_that_is_not_there_is_one_error(driver: Any, tmp_path: Path, textsiam: Any) -> None:
    with pytest.raises(ModelError, match=r"no such folder"):
        learn(driver.small_twin(), tmp_path, driver, teacher="./nowhere")
    said = textsiam("train", "--loss.distillation.teacher", "./nowhere", "--output", tmp_path / "run")
    assert (said.status, said.err.count("\n")) == (1, 1)
    assert "loss.distillation.teacher: ./nowhere: no such folder" in said.err
    assert not (tmp_path / "run").exists()
