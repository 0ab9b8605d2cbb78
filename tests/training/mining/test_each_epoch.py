"""Negatives mined anew as training goes on: of the weights of then, the same after a kill and on every process."""

from __future__ import annotations

import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.inference.encoders import ModelError
from textsiam.training.loop import train
from textsiam.training.mining import each_epoch as epoch_miner
from textsiam.training.mining.offline import mine
from textsiam.training.settings import EpochMining

# Hard negatives from the start pull the untrained twin together, and it says so.
pytestmark = pytest.mark.filterwarnings("ignore::textsiam.training.reporting.collapse.CollapseWarning")

MINE = {"category": "hard", "negatives": 2, "as_pairs": 0.25}


def run(driver, output: Path, losses=("triplet", "online_contrastive"), pairs: Pairs | None = None, **knobs: Any):
    twin = driver.small_twin()
    settings = driver.make_settings(**{"batch_size": 8, "epochs": 3, "learning_rate": 2e-3, "mine": MINE, **knobs})
    pairs = driver.keyword_pairs() if pairs is None else pairs
    return train(twin, pairs, driver.build_objective(list(losses)), output=output, settings=settings, quiet=True)


@pytest.fixture
def minings(monkeypatch) -> list[tuple[dict[str, torch.Tensor], np.ndarray]]:
    """The weights of every mining of a run, and what it found."""
    seen = []

    def noting(twin, *arguments, **knobs):
        found = mine(twin, *arguments, **knobs)
        seen.append(({k: v.clone() for k, v in twin.state_dict().items()}, found))
        return found

    monkeypatch.setattr(epoch_miner, "mine", noting)
    return seen


@pytest.mark.parametrize(("every", "times"), [(1, 3), (2, 2), (5, 1)])
def test_negatives_are_mined_before_the_first_epoch_and_every_few_epochs(driver, tmp_path, minings, every, times):
    result = run(driver, tmp_path, mine={**MINE, "every": every})
    assert result.steps == 3 * 8  # of six labelled pairs each
    assert len(minings) == times
    noted = [record for record in result.history if "mined_share" in record]
    assert [record["step"] for record in noted] == [8 * every * n for n in range(times)]
    for record, (_, found) in zip(noted, minings, strict=True):
        assert record["mined_share"] == found.found / 24 > 0
    first = driver.small_twin().state_dict()
    assert all(torch.equal(value, minings[0][0][name]) for name, value in first.items())
    for (before, _), (after, _) in pairwise(minings):
        assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_batches_hold_what_the_weights_of_the_epoch_found(driver, tmp_path, minings, monkeypatch):
    seen: list[list[tuple[int, int]]] = []
    run_type = driver.train.__globals__["Run"]
    count = run_type.count

    def noting(self, *batch):
        data, epoch = self.data.parts[0], self.state.step // self.steps_per_epoch
        if self.state.step % self.steps_per_epoch == 0:
            seen.append([(int(r), int(n)) for r, n in enumerate(data.mined[:, 0]) if n >= 0])
            np.testing.assert_array_equal(data.mined, minings[epoch][1].by_pair(2))
        count(self, *batch)

    monkeypatch.setattr(run_type, "count", noting)
    run(driver, tmp_path)
    assert len(seen) == 3
    assert all(seen)
    pairs = driver.keyword_pairs()
    clusters = cluster_ids(pairs)
    assert all(clusters[pairs.left[r]] != clusters[n] for epoch in seen for r, n in epoch)


def test_the_average_mines_where_it_is_what_is_served(driver, tmp_path, minings):
    run(driver, tmp_path, ema_decay=0.9)
    final = run(driver, tmp_path / "last", ema_decay=None)
    assert final.steps == 24
    averaged, last = minings[1][0], minings[4][0]
    assert any(not torch.equal(value, last[name]) for name, value in averaged.items())


def test_mining_that_no_loss_has_a_use_for_is_refused(driver, tmp_path):
    with pytest.raises(ValueError, match="mine: no loss of this run reads negatives; set as_pairs"):
        run(driver, tmp_path, losses=["online_contrastive"], mine={**MINE, "as_pairs": 0.0})
    assert run(driver, tmp_path, losses=["online_contrastive"], max_steps=1).steps == 1
    assert run(driver, tmp_path, losses=["triplet"], mine={**MINE, "as_pairs": 0.0}, max_steps=1).steps == 1


def test_data_that_cannot_be_mined_is_refused(driver, tmp_path):
    with pytest.raises(ValueError, match="memory: no pair of duplicates to mine negatives for"):
        run(driver, tmp_path, pairs=Pairs.from_texts(["bread"], ["dog"], [0]), batch_size=1, mine={"category": "hard"})
    with pytest.raises(ValueError, match="memory: all texts are duplicates of each other"):
        run(driver, tmp_path, pairs=Pairs.from_texts(["bread"], ["old bread"], [1]), batch_size=1, mine={})


def test_a_check_is_asked_by_name(driver, tmp_path, monkeypatch):
    asked = []

    def named(name, *, device):
        asked.append((name, device))
        return lambda left, right: np.ones(len(left))

    monkeypatch.setattr(epoch_miner, "cross_encoder_check", named)
    result = run(driver, tmp_path, mine={**MINE, "check": "some/model"})
    assert asked == [("some/model", "cpu")]  # opened once
    assert {r["mined_share"] for r in result.history if "mined_share" in r} == {0.0}
    monkeypatch.undo()
    with pytest.raises(ModelError, match="missing: cannot be opened as a cross-encoder"):
        run(driver, tmp_path / "other", mine={**MINE, "check": str(tmp_path / "missing")})


def test_opening_the_check_leaves_the_random_state_alone(driver, monkeypatch):
    def drawing(name, *, device):
        torch.rand(3)
        return lambda left, right: np.zeros(len(left))

    monkeypatch.setattr(epoch_miner, "cross_encoder_check", drawing)
    miner = epoch_miner.EpochMiner(EpochMining("hard", check="some/model"), driver.keyword_pairs(), seed=0)
    before = torch.get_rng_state()
    miner.mine(driver.small_twin(), 0)
    assert miner.found > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tracker_gets_the_settings_and_how_much_was_found(driver, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run(driver, tmp_path, tracker="tensorboard")
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    logged = [r["mined_share"] for r in result.history if "mined_share" in r]
    assert [e.value for e in events.Scalars("mined_share")] == pytest.approx(logged)


def test_a_run_in_a_used_folder_mines_anew(driver, tmp_path, minings):
    for _ in range(2):
        run(driver, tmp_path, checkpoint_every=2)
    assert len(minings) == 6
    np.testing.assert_array_equal(minings[0][1].negative, minings[3][1].negative)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"every": 0}, "every must be >= 1, got 0"),
        ({"as_pairs": 1.0}, r"as_pairs must be in \[0, 1\), got 1.0"),
        ({"margin": -1.0}, "margin must be > 0, got -1.0"),
    ],
)
def test_knobs_that_make_no_sense_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        EpochMining(**knobs)


# --- processes of their own -----------------------------------------------------------------------

JOB: dict[str, Any] = {
    "losses": ["online_contrastive", "triplet", "head"],
    "settings": {
        "batch_size": 8, "epochs": 5, "gradient_accumulation_steps": 2, "ema_decay": 0.5, "learning_rate": 2e-3,
        "log_every": 4, "checkpoint_every": 5, "validate_every": 6, "mine": {**MINE, "every": 2},
    },
}  # fmt: skip
STEP = 2  # batches; deaths are counted in batches


def job(output: Path, **more: Any) -> dict[str, Any]:
    return {**JOB, "output": str(output), "save": f"{output}.pt", **more}


def assert_same_run(output: Path, reference: Path, rank: int = 0) -> None:
    got, expected = (torch.load(f"{place}.pt.{rank}") for place in (output, reference))
    for part in ("twin", "objective"):
        assert got[part].keys() == expected[part].keys()
        assert not [name for name, value in expected[part].items() if not torch.equal(value, got[part][name])]
    plain = [
        [{k: v for k, v in r.items() if k != "pairs_per_second"} for r in run["history"]] for run in (got, expected)
    ]
    assert plain[0] == plain[1]


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(launch, tmp_path):
    jobs, expected = [job(tmp_path / "whole")], [[0]]
    # Epochs of eight steps (two batches of three labelled pairs and a mined one each); mined at steps 0, 16 and 32.
    deaths = [
        ("after step", 2 * STEP),  # before the first checkpoint
        ("after step", 7 * STEP),  # what was mined at step 0 comes from the checkpoint of step 5
        ("after step", 17 * STEP),  # mined at step 16, after the newest checkpoint: mined again
        ("after step", 23 * STEP - 1),
        ("after step", 34 * STEP),
        ("before rename", 2),
        ("during validation", 2),
    ]
    for number, (place, count) in enumerate(deaths):
        output = tmp_path / str(number)
        jobs += [job(output, die={"place": place, "count": count}), job(output, resume=True)]
        expected += [[-signal.SIGKILL], [0]]
    statuses, said = launch(*jobs, clean=False)
    assert statuses == expected, said
    whole = torch.load(f"{tmp_path / 'whole'}.pt.0")
    assert [r["step"] for r in whole["history"] if "mined_share" in r] == [0, 16, 32]
    for number in range(len(deaths)):
        assert_same_run(tmp_path / str(number), tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_share_what_one_has_mined(launch, tmp_path):
    knobs = {"batch_size": 8, "epochs": 2, "learning_rate": 1e-3, "max_gradient_norm": None, "checkpoint_every": 5}
    common = {"losses": ["online_contrastive", "triplet"], "dropout": 0.0, "validate": False,
              "settings": {**knobs, "mine": MINE}, "gradients": True}  # fmt: skip
    one, two, again = tmp_path / "one", tmp_path / "two", tmp_path / "again"
    statuses, said = launch(
        job(one, **common),
        job(two, **common, world=2),
        job(again, **common, world=2, die={"place": "after step", "count": 7}),
        job(again, **common, world=2, resume=True),
        clean=False,
    )
    assert [statuses[0], statuses[1], statuses[3]] == [[0], [0, 0], [0, 0]], said
    assert statuses[2][0] == -signal.SIGKILL
    alone, shared = (torch.load(f"{place}.pt.0") for place in (one, two))
    assert alone["facts"]["steps"] == shared["facts"]["steps"] == 16
    for ours, theirs in zip(shared["gradients"][:3], alone["gradients"][:3], strict=True):
        largest = max(float(g.abs().max()) for g in theirs)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * largest)
    mined = [[r["mined_share"] for r in run["history"] if "mined_share" in r] for run in (alone, shared)]
    assert mined[0][0] == mined[1][0] > 0
    for rank in range(2):
        assert_same_run(again, two, rank)
