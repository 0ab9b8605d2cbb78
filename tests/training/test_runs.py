"""Several runs whose weights are averaged."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from textsiam.data.pairs import Pairs
from textsiam.images.medium import pair_images
from textsiam.models.twin import Twin
from textsiam.training import loop
from textsiam.training.checkpoints import ResumeError
from textsiam.training.loop import train
from textsiam.training.settings import Settings

KNOBS: dict[str, Any] = {"batch_size": 8, "epochs": 2, "learning_rate": 2e-3, "tracker": "none", "precision": "fp32"}


def trained(driver: Any, output: Path, *, seed: int = 0, validate: bool = True, **knobs: Any) -> Any:
    twin = driver.small_twin()
    twin.head = driver.pair_head()
    objective = driver.build_objective(["online_contrastive", "pair_head"], twin.head)
    validation = driver.keyword_pairs(24, seed=100) if validate else None
    settings = Settings(**{**KNOBS, "seed": seed, **knobs})
    result = train(
        twin, driver.keyword_pairs(48), objective, output=output, settings=settings, validation=validation, quiet=True
    )
    return twin, result


@pytest.mark.parametrize("validate", [True, False])
def test_the_twin_has_the_mean_of_the_weights(driver, tmp_path: Path, validate: bool) -> None:
    twin, result = trained(driver, tmp_path / "both", seed=3, seeds=2, validate=validate)
    alone = [trained(driver, tmp_path / str(seed), seed=seed, validate=validate) for seed in (3, 4)]
    states = [member.state_dict() for member, _ in alone]
    for name, weight in twin.state_dict().items():
        torch.testing.assert_close(weight, (states[0][name] + states[1][name]) / 2)
    assert sum(not torch.equal(weight, states[1][name]) for name, weight in states[0].items()) > 10
    assert result.steps == sum(one.steps for _, one in alone)
    steps = [record["step"] for record in result.history if "loss" in record]
    assert steps == sorted(steps)
    pairs = driver.keyword_pairs(24, seed=100)
    if validate:
        scores = twin.pair_similarity(pairs.texts, pairs.left, pairs.right)
        assert result.best_average_precision == pytest.approx(average_precision_score(pairs.labels, scores))
        assert result.history[-1] == {"step": result.steps, "validation_ap": result.best_average_precision}
    lines = (tmp_path / "both" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history


def test_killed_in_any_run_and_resumed_it_is_the_same(launch, tmp_path: Path) -> None:
    common: dict[str, Any] = {
        "losses": ["online_contrastive", "pair_head"],
        "settings": {**{k: v for k, v in KNOBS.items() if k not in ("tracker", "precision")}, "seeds": 2,
                     "checkpoint_every": 2},
    }  # fmt: skip

    def job(name: str, **more: Any) -> dict[str, Any]:
        return {**common, "output": str(tmp_path / name), "save": str(tmp_path / f"{name}.pt"), **more}

    jobs, expected = [job("whole")], [[0]]
    for count in (5, 15):  # of twelve steps in each run
        die = {"place": "after step", "count": count}
        jobs += [job(f"at {count}", die=die), job(f"at {count}", resume=True)]
        expected += [[-signal.SIGKILL], [0]]
    statuses, said = launch(*jobs, clean=False)
    assert statuses == expected, said
    whole = torch.load(tmp_path / "whole.pt.0")
    for count in (5, 15):
        found = torch.load(tmp_path / f"at {count}.pt.0")
        assert not [name for name, value in whole["twin"].items() if not torch.equal(value, found["twin"][name])]
        assert found["facts"]["steps"] == whole["facts"]["steps"] == 24


def test_finished_runs_of_other_settings_are_refused(driver, tmp_path: Path) -> None:
    trained(driver, tmp_path, seeds=2, epochs=1)
    twin = driver.small_twin()
    settings = Settings(**{**KNOBS, "seeds": 2, "epochs": 1, "learning_rate": 1e-3})
    with pytest.raises(ResumeError, match=r"run-0/finished: .*learning_rate was 0\.002 and is now 0\.001"):
        train(
            twin, driver.keyword_pairs(48), driver.build_objective(["online_contrastive"]), output=tmp_path,
            settings=settings, resume=True, quiet=True,
        )  # fmt: skip


def test_finished_runs_from_other_weights_are_refused(driver, tmp_path: Path) -> None:
    settings = Settings(**{**KNOBS, "seeds": 2, "epochs": 1, "trained_share": 0.5})
    for resume in (False, True):
        twin = driver.small_twin()
        if resume:
            with torch.no_grad():
                next(twin.parameters()).add_(1)
        asked = (twin, driver.keyword_pairs(48), driver.build_objective(["online_contrastive"]))
        knobs: dict[str, Any] = {"output": tmp_path, "settings": settings, "resume": resume, "quiet": True}
        if resume:
            with pytest.raises(ResumeError, match=r"run-0/finished: start was \['\w+'\] and is now \['\w+'\]$"):
                train(*asked, **knobs)
        else:
            train(*asked, **knobs)


def test_finished_runs_may_be_resumed_with_other_logs(driver, tmp_path: Path) -> None:
    first, _ = trained(driver, tmp_path, seeds=2, epochs=1)
    twin = driver.small_twin()
    twin.head = driver.pair_head()
    objective = driver.build_objective(["online_contrastive", "pair_head"], twin.head)
    settings = Settings(**{**KNOBS, "seeds": 2, "epochs": 1, "log_every": 1, "keep_checkpoints": 5})
    validation = driver.keyword_pairs(24, seed=100)
    train(
        twin, driver.keyword_pairs(48), objective, output=tmp_path, settings=settings, validation=validation,
        resume=True, quiet=True,
    )  # fmt: skip
    expected = first.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in twin.state_dict().items())


def test_batch_norms_are_not_averaged(tmp_path: Path) -> None:
    from textsiam.inference.scratch import scratch_image_encoder
    from textsiam.models.ensemble import average_twins

    twin = Twin(scratch_image_encoder(size=20, widths=(8,), depths=(1,), device="cpu")).eval()
    with pytest.raises(ValueError, match="the twin has batch norms"):
        average_twins([twin, twin])
    pairs = pair_images(["a.png", "b.png"], ["b.png", "c.png"], [1, 0])
    with pytest.raises(ValueError, match="the twin has batch norms"):  # before any work is done
        train(twin, pairs, None, output=tmp_path, settings=Settings(seeds=2), quiet=True)  # pyright: ignore
    assert not any(module.training for module in twin.modules())  # asking has changed nothing


def test_batch_norms_that_keep_their_statistics_are_averaged() -> None:
    from torch import nn

    from textsiam.inference.scratch import scratch_image_encoder
    from textsiam.models.ensemble import average_twins

    twins = [Twin(scratch_image_encoder(size=20, widths=(8,), depths=(1,), device="cpu")) for _ in range(2)]
    for twin in twins:
        for module in twin.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train = lambda mode=True, module=module: module  # as those do that know other pictures
    with torch.no_grad():
        for weight in twins[1].parameters():
            weight.add_(1)
    mean = average_twins(twins)
    for one, two in zip(mean.parameters(), twins[0].parameters(), strict=True):
        torch.testing.assert_close(one, two + 0.5)


def test_each_run_leaves_out_a_part_and_judges_it(driver, tmp_path: Path, monkeypatch) -> None:
    seen: list[set[str]] = []
    once = loop.Run
    monkeypatch.setattr(loop, "Run", lambda *given: seen.append(set(given[1].texts)) or once(*given))
    pairs = lone_pairs()
    twin, settings = driver.small_twin(), Settings(**{**KNOBS, "seeds": 2, "cross_fit": 0.25})
    objective = driver.build_objective(["online_contrastive"])
    result = train(twin, pairs, objective, output=tmp_path, settings=settings, quiet=True)
    assert result.left_out is not None
    apart, similarity = result.left_out.pairs, result.left_out.similarity
    assert len(apart) == len(similarity) == 24
    parts = [apart.select(range(12)), apart.select(range(12, 24))]
    for k, part in enumerate(parts):
        assert not seen[k] & set(part.texts)
        assert seen[k] | set(part.texts) == set(pairs.texts)
        member = Twin.from_pretrained(tmp_path / f"run-{k}" / "finished" / "twin", device="cpu")
        expected = member.pair_similarity(part.texts, part.left, part.right)
        np.testing.assert_allclose(similarity[12 * k : 12 * k + 12], expected, atol=1e-5)
    assert not set(parts[0].texts) & set(parts[1].texts)
    again = driver.small_twin()
    resumed = train(again, pairs, driver.build_objective(["online_contrastive"]), output=tmp_path, settings=settings,
                    resume=True, quiet=True)  # fmt: skip
    assert resumed.left_out is not None
    np.testing.assert_allclose(resumed.left_out.similarity, similarity, atol=1e-5)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in twin.state_dict().items())


def lone_pairs() -> Pairs:
    """48 pairs that share no text."""
    words = ["cat", "dog", "sun", "sea", "tea", "car"]
    left = [f"{words[i % 6]} {words[i // 6 % 6]} {i}" for i in range(48)]
    right = [f"{words[i % 6]} {words[(i // 6 + i % 2) % 6]} {i} too" for i in range(48)]
    return Pairs.from_texts(left, right, [1 - i % 2 for i in range(48)])


@pytest.mark.parametrize(("seeds", "share"), [(1, 0.1), (2, 0.6), (3, 0.0)])
def test_what_is_left_out_is_a_part_of_several_runs(seeds: int, share: float) -> None:
    with pytest.raises(ValueError, match=f"at most 1 / seeds, with 2 seeds or more, got {share} with {seeds}"):
        Settings(seeds=seeds, cross_fit=share)


def test_there_is_at_least_one_run() -> None:
    with pytest.raises(ValueError, match="seeds must be >= 1, got 0"):
        Settings(seeds=0)
