"""What is served of trained weights: a mean with those that training started from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from textsiam.images.medium import pair_images
from textsiam.models.twin import Twin
from textsiam.training.checkpoints import ResumeError
from textsiam.training.loop import train
from textsiam.training.run import Run
from textsiam.training.settings import Settings
from textsiam.training.weights.averaging import between

KNOBS: dict[str, Any] = {
    "batch_size": 8, "epochs": 2, "learning_rate": 2e-3, "tracker": "none", "precision": "fp32", "checkpoint_every": 1,
}  # fmt: skip


def learn(
    driver: Any, output: Path, twin: Twin | None = None, *, head: bool = True, validate: bool = False,
    resume: bool = False, **knobs: Any,
) -> tuple[dict[str, Tensor], Any]:  # fmt: skip
    """Train a small twin; returns its weights, and what training did."""
    twin = driver.small_twin() if twin is None else twin
    twin.head = driver.pair_head() if head else None
    losses = ["online_contrastive", "pair_head"] if head else ["online_contrastive"]
    result = train(
        twin, driver.keyword_pairs(48), driver.build_objective(losses, twin.head), output=output,
        settings=Settings(**{**KNOBS, **knobs}), validation=driver.keyword_pairs(24, seed=100) if validate else None,
        resume=resume, quiet=True,
    )  # fmt: skip
    return {name: weight.clone() for name, weight in twin.state_dict().items()}, result


def test_between_by_hand() -> None:
    start = {"w": torch.tensor([0.0, 8.0]), "half": torch.tensor([1.0], dtype=torch.float16), "gone": torch.ones(1)}
    trained = {"w": torch.tensor([4.0, 0.0]), "half": torch.tensor([2.0], dtype=torch.float16), "n": torch.tensor(7)}
    mixed = between(start, trained, 0.25)
    assert mixed.keys() == trained.keys()
    assert mixed["w"].tolist() == [1.0, 6.0]
    assert mixed["half"].dtype == torch.float16
    assert mixed["half"].tolist() == [1.25]
    assert mixed["n"] is trained["n"]


@pytest.mark.parametrize("more", [{}, {"seeds": 2}, {"ema_decay": 0.5}], ids=["plain", "seeds", "average"])
def test_towers_are_between_the_start_and_what_was_trained(driver: Any, tmp_path: Path, more: dict[str, Any]) -> None:
    start = driver.small_twin().state_dict()
    trained, _ = learn(driver, tmp_path / "whole", **more)
    mixed, _ = learn(driver, tmp_path / "part", trained_share=0.25, **more)
    assert mixed.keys() == trained.keys()
    for name, weight in mixed.items():
        other = start.get(name)  # a head starts from nothing worth keeping
        expected = trained[name] if other is None else 0.75 * other + 0.25 * trained[name]
        torch.testing.assert_close(weight, expected, msg=name)
    assert sum(not torch.equal(weight, mixed[name]) for name, weight in start.items()) > 10


def test_what_is_served_is_what_is_validated(driver: Any, tmp_path: Path) -> None:
    twin, pairs = driver.small_twin(), driver.keyword_pairs(24, seed=100)
    _, result = learn(driver, tmp_path, twin, validate=True, trained_share=0.5)
    scores = twin.pair_similarity(pairs.texts, pairs.left, pairs.right)
    assert result.best_average_precision == pytest.approx(average_precision_score(pairs.labels, scores), abs=1e-12)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = learn(driver, tmp_path / "whole", trained_share=0.5)
    real = Run.stopping
    twin = driver.small_twin()
    with monkeypatch.context() as patch:
        patch.setattr(Run, "stopping", lambda self, _: real(self, self.state.step == 5))
        _, stopped = learn(driver, tmp_path / "parts", twin, trained_share=0.5)
    assert stopped.interrupted
    with pytest.raises(ResumeError, match=r"trained_share was 0\.5 and is now 0\.25"):
        learn(driver, tmp_path / "parts", resume=True, trained_share=0.25)
    with torch.no_grad():
        twin.left[0].model.embeddings.word_embeddings.weight.add_(1)
    with pytest.raises(ResumeError, match=r"start was \['"):  # another backbone of the same size
        learn(driver, tmp_path / "parts", twin, resume=True, trained_share=0.5)
    resumed, _ = learn(driver, tmp_path / "parts", resume=True, trained_share=0.5)
    assert not [name for name, weight in whole.items() if not torch.equal(weight, resumed[name])]


def test_what_has_no_mean_is_refused(tmp_path: Path) -> None:
    from textsiam.inference.scratch import scratch_image_encoder

    twin = Twin(scratch_image_encoder(size=20, widths=(8,), depths=(1,), device="cpu"))
    pairs = pair_images(["a.png", "b.png"], ["b.png", "c.png"], [1, 0])
    with pytest.raises(ValueError, match="the twin has batch norms"):  # before any work is done
        train(twin, pairs, None, output=tmp_path, settings=Settings(trained_share=0.5), quiet=True)  # pyright: ignore


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_lies_between_none_and_all(share: float) -> None:
    with pytest.raises(ValueError, match=f"trained_share must be between 0 and 1, got {share}"):
        Settings(trained_share=share)
