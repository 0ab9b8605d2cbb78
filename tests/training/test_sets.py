"""Several sets of pairs in one run: shares of the batches, losses of their own, processes, resumes."""

from __future__ import annotations

import itertools
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.models.twin import Twin
from textsiam.training.batches.collation import TrainingPairs
from textsiam.training.batches.sampling import Uniform
from textsiam.training.batches.sets import MixedBatches, TrainingSet, acquainted
from textsiam.training.checkpoints import ResumeError
from textsiam.training.loop import train
from textsiam.training.losses import ContrastiveLoss, CoSENTLoss, InfoNCELoss
from textsiam.training.losses.objective import Objective, Objectives
from textsiam.training.losses.terms import Embedded, Term

KNOBS = {"batch_size": 8, "learning_rate": 1e-3, "max_gradient_norm": None}
MORE = [
    {"losses": ["cosent"], "graded": True, "weight": 0.5},
    {"losses": ["triplet", "head", "memory"], "weight": 2.0, "count": 10},  # 10 pairs, passed over more than once
]


def job(output: Path, **given: Any) -> dict[str, Any]:
    base = {"output": str(output), "save": f"{output}.pt", "losses": ["online_contrastive", "softmax"], "more": MORE}
    return {**base, "settings": {**KNOBS, **given.pop("settings", {})}, **given}


def outcome(output: Path, rank: int = 0) -> dict[str, Any]:
    return torch.load(f"{output}.pt.{rank}")


def mixed(driver, twin: Twin, weights: list[float], counts: list[int]) -> MixedBatches:
    sets = [driver.keyword_pairs(count, seed=place) for place, count in enumerate(counts)]
    parts = [TrainingPairs(pairs, twin, Uniform(np.arange(len(pairs)), 4)) for pairs in sets]
    return MixedBatches(parts, weights, seed=0)


def order(data: MixedBatches, epoch: int, start: int = 0) -> list[tuple[int, list[int]]]:
    return [
        (batch.part, [*batch.labels.tolist(), *batch.left_clusters.tolist()])
        for batch in data.epoch(epoch, start=start)
    ]


def test_a_weight_is_a_share_of_the_batches(driver, twin):
    data = mixed(driver, twin, [1.0, 2.0, 0.5], [32, 8, 40])
    first, second = order(data, 0), order(data, 1)
    assert Counter(part for part, _ in first) == Counter(part for part, _ in second) == {0: 8, 1: 16, 2: 4}
    assert [part for part, _ in first] != [part for part, _ in second] != sorted(part for part, _ in second)
    assert mixed(driver, twin, [4.0, 8.0, 2.0], [32, 8, 40]).steps == data.steps == 28  # only their relation counts
    assert mixed(driver, twin, [1.0, 0.001], [8, 8]).steps == 3  # no set is left out


def test_epochs_go_on_in_a_set_where_they_stopped_and_batches_are_found_again(driver, twin):
    data = mixed(driver, twin, [1.0, 0.5], [16, 24])
    seen = [batch for epoch in range(3) for part, batch in order(data, epoch) if part == 1]
    assert sorted(map(str, seen)) == sorted(map(str, order_of_one(data.parts[1], 0)))  # 2 of its 6 batches in an epoch
    for epoch, start in itertools.product(range(2), range(data.steps + 1)):
        assert order(data, epoch, start) == order(data, epoch)[start:]


def order_of_one(data: TrainingPairs, epoch: int) -> list[list[int]]:
    return [[*batch.labels.tolist(), *batch.left_clusters.tolist()] for batch in data.epoch(epoch)]


def test_one_set_alone_is_batched_as_ever(driver, twin):
    data = mixed(driver, twin, [3.0], [32])
    for epoch in range(2):
        assert [batch for _, batch in order(data, epoch)] == order_of_one(data.parts[0], epoch)


def test_sets_know_the_duplicates_of_each_other():
    known = Pairs.from_texts(["a", "c"], ["b", "d"], [1, 0])
    other = Pairs.from_texts(["a", "b"], ["x", "y"], [1, 1])
    sets = acquainted([TrainingSet(pairs, Objective({"c": ContrastiveLoss()})) for pairs in (known, other)])
    clusters = dict(zip(sets[1].pairs.texts, cluster_ids(sets[1].pairs).tolist(), strict=True))
    assert len(set(clusters.values())) == 1  # x ~ a ~ b ~ y, of which the other set does not know a ~ b
    alone = TrainingSet(other, Objective({"c": ContrastiveLoss()}))
    assert acquainted([alone]) == [alone]


def test_each_batch_has_the_losses_of_its_set_and_weights_of_others_a_gradient_of_zero(driver):
    parts = [driver.build_objective(losses) for losses in (["head"], ["cosent"])]
    both = Objectives(parts)
    both.allocate(16)
    u, v = torch.nn.functional.normalize(torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    clusters = torch.arange(6)
    for part, labels in enumerate((clusters % 2, torch.rand(6, generator=torch.Generator().manual_seed(1)))):
        batch = Embedded(u, v, None, labels, clusters, clusters, part=part)
        both.zero_grad()
        loss = both(batch)
        loss.backward()
        assert loss.item() == pytest.approx(parts[part](batch).item())
        assert [bool(p.grad is not None and p.grad.any()) for p in both.parameters()] == [part == 0] * 2
        assert all(p.grad is not None for p in both.parameters())


def test_two_processes_have_the_gradient_of_one(launch, tmp_path):
    losses = ["online_contrastive", "softmax", "pair_head"]
    common = {"dropout": 0.0, "gradients": True, "validate": False, "losses": losses}
    launch(*(job(tmp_path / str(n), world=n, settings={"max_steps": 8}, **common) for n in (1, 2)))
    alone = outcome(tmp_path / "1")
    for rank in range(2):
        got = outcome(tmp_path / "2", rank)
        assert len(got["gradients"]) == len(alone["gradients"]) == 8
        for ours, theirs in zip(got["gradients"], alone["gradients"], strict=True):
            largest = max(float(g.abs().max()) for g in theirs)
            assert largest > 1e-3
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=2e-4 * largest)
        assert got["facts"]["left_over"] == []


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_uninterrupted(launch, tmp_path, world):
    knobs = {"epochs": 2, "gradient_accumulation_steps": 2, "checkpoint_every": 3, "validate_every": 5, "log_every": 4}
    common: dict[str, Any] = {"settings": knobs, "world": world}
    whole, output = tmp_path / "whole", tmp_path / "run"
    statuses, said = launch(
        job(whole, **common),
        job(output, die={"place": "after step", "count": 9}, **common),
        job(output, resume=True, die={"place": "after step", "count": 25}, **common),
        job(output, resume=True, **common),
        clean=False,
    )
    assert statuses[0] == statuses[-1] == [0] * world, said
    assert [status[0] for status in statuses[1:-1]] == [-signal.SIGKILL] * 2
    got, expected = outcome(output), outcome(whole)
    assert expected["facts"]["steps"] == got["facts"]["steps"] == 42  # 12 + 6 + 24 batches an epoch
    for part in ("twin", "objective"):
        assert not [name for name, value in expected[part].items() if not torch.equal(value, got[part][name])]
    slow = [[{k: v for k, v in r.items() if k != "pairs_per_second"} for r in o["history"]] for o in (got, expected)]
    assert slow[0] == slow[1]


def test_another_set_is_no_resume(driver, tmp_path):
    def learn(steps: int, **changed: Any) -> None:
        more = [driver.further_set(**{"losses": ["cosent"], "graded": True, **changed})]
        settings = driver.make_settings(**KNOBS, max_steps=steps, checkpoint_every=1)
        given = {"output": tmp_path, "settings": settings, "more": more, "resume": True, "quiet": True}
        train(driver.small_twin(), driver.keyword_pairs(), driver.build_objective(["contrastive"]), **given)

    learn(3)
    with pytest.raises(ResumeError, match=r"more\.0\.weight was 1\.0 and is now 2\.0"):
        learn(3, weight=2.0)
    with pytest.raises(ResumeError, match=r"more\.0\.data was '\w+' and is now '\w+'; more\.0\.grades was"):
        learn(3, seed=7)
    with pytest.raises(ResumeError, match=r"more\.0\.loss\.contrastive\.margin was None.*; more\.0\.loss\.cosent"):
        learn(3, losses=["contrastive"], graded=False)


def test_a_set_is_learned_from(driver, tmp_path):
    """The first set says nothing of egg and sky; the second does, and a twin that saw it tells them apart."""
    questions = [[f"{topic} {noise}" for noise in driver.NOISE] for topic in ("egg", "sky")]
    grades = [a == b for a in range(2) for b in range(2) for _ in range(6)]
    left = [questions[a][k] for a in range(2) for b in range(2) for k in range(6)]
    right = [questions[b][k + 6] for a in range(2) for b in range(2) for k in range(6)]
    pairs = Pairs.from_texts(left, right, [-1] * 24)

    def apart(more: list[TrainingSet], name: str) -> float:
        twin = driver.small_twin()
        settings = driver.make_settings(**{**KNOBS, "learning_rate": 1e-2}, epochs=4)
        given = {"output": tmp_path / name, "settings": settings, "more": more, "quiet": True}
        train(twin, driver.keyword_pairs(), driver.build_objective(["contrastive"]), **given)
        similarity = twin.pair_similarity(pairs.texts, pairs.left, pairs.right)
        return float(similarity[grades].mean() - similarity[~np.array(grades)].mean())

    graded = TrainingSet(pairs, Objective({"cosent": CoSENTLoss()}), 2.0, np.array(grades, float))
    assert apart([graded], "with") > apart([], "without") + 0.2


@pytest.mark.parametrize(
    ("labels", "grades", "term", "expected"),
    [
        ([0, 0], [0.2, 0.7], ContrastiveLoss(), "memory: holds scores, which loss cannot learn from, as cosent does"),
        (
            [1, 1],
            None,
            ContrastiveLoss(),
            "memory: every pair is labelled 1, and loss learns from pairs of both labels",
        ),
        ([0, 0], None, CoSENTLoss(), "memory: every pair is labelled 0, and loss learns from pairs of both labels"),
        ([1, 1], None, InfoNCELoss(), None),
        ([-1, -1], [0.2, 0.7], CoSENTLoss(), None),
    ],
)
def test_losses_that_cannot_learn_from_a_set(labels: list[int], grades: Any, term: Term, expected: str | None):
    pairs, scores = Pairs.from_texts(["a", "b"], ["c", "d"], labels), None if grades is None else np.array(grades)
    given = TrainingSet(pairs, Objective({"loss": term}), grades=scores)
    if expected is None:
        return given.check()
    with pytest.raises(ValueError, match=expected):
        given.check()
    with pytest.raises(ValueError, match="weight must be > 0, got 0"):
        TrainingSet(pairs, Objective({"loss": term}), 0)


def test_what_is_left_out_of_a_run_is_left_out_of_its_other_sets(driver, tmp_path, monkeypatch):
    """With `cross_fit`, each of several runs leaves out questions: a further set must not bring them back."""
    from textsiam.training import loop

    members: list[Any] = []
    monkeypatch.setattr(loop, "train_members", lambda _1, _2, _3, given, **_4: members.extend(given) or _stop())
    pairs = driver.keyword_pairs(60)
    further = TrainingSet(pairs, Objective({"c": ContrastiveLoss()}))  # the same again
    settings = driver.make_settings(seeds=2, cross_fit=0.2)
    with pytest.raises(InterruptedError):
        train(driver.small_twin(), pairs, further.objective, output=tmp_path, settings=settings, more=[further])
    for member in members:
        assert 0 < len(member.more[0].pairs) < len(pairs)
        assert set(member.more[0].pairs.texts) <= set(member.pairs.texts)


def _stop() -> None:
    raise InterruptedError
