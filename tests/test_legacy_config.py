"""Configs of version 0.1 still read, with a warning that names the new word."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from textsiam.config.run import ConfigError, read_config
from textsiam.legacy import RENAMED
from textsiam.training.losses import BatchTripletLoss, ContrastiveLoss

MINED = {
    "batch_all: {margin: 0.2}": BatchTripletLoss(mining="all", margin=0.2),
    "batch_hard: {}": BatchTripletLoss(mining="hard"),
    "batch_semi_hard: {distance: euclidean}": BatchTripletLoss(mining="semi_hard", distance="euclidean"),
    "batch_easy: {soft: true}": BatchTripletLoss(mining="easy", soft=True),
    "batch_random: {weight: 2}": BatchTripletLoss(mining="random", weight=2.0),
    "batch_distance_weighted: {far: 1.2}": BatchTripletLoss(mining="distance_weighted", far=1.2),
    "debiased_triplet: {}": BatchTripletLoss(mining="hard", balance=1.0),
    "debiased_triplet: {select: semi_hard, balance: 0.5}": BatchTripletLoss(mining="semi_hard", balance=0.5),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


@pytest.mark.parametrize("line", MINED)
def test_an_old_loss_is_read_with_one_warning_that_names_the_new_one(file: Path, line: str) -> None:
    file.write_text(f"output: here\nloss:\n  {line}\n")
    old = line.partition(":")[0]
    with pytest.warns(FutureWarning) as caught:
        found = read_config([str(file)]).loss
    assert found == {"batch_triplet": MINED[line]}
    (warning,) = caught
    assert str(warning.message).startswith(f"{file}:3: 'loss.{old}' is now 'loss.batch_triplet: {{mining: ")


def test_old_keys_on_the_command_line(file: Path) -> None:
    with pytest.warns(
        FutureWarning, match=r"^--loss\.batch_hard\.soft: 'loss\.batch_hard' is now 'loss\.batch_triplet"
    ):
        found = read_config(["--loss.batch_hard.soft", "true"]).loss
    assert found == {"batch_triplet": BatchTripletLoss(soft=True)}
    file.write_text("loss: {batch_hard: {margin: 0.2}}\n")
    with pytest.warns(FutureWarning):
        found = read_config([str(file), "--loss.batch_hard.margin", "0.4"]).loss
    assert found == {"batch_triplet": BatchTripletLoss(margin=0.4)}


def test_what_version_0_1_saved_beside_a_model_reads_without_a_warning(file: Path) -> None:
    names = [name.partition(".")[2] for name in RENAMED if name.startswith("loss.")]
    file.write_text("loss:\n  contrastive: {margin: 0.4}\n" + "".join(f"  {name}: null\n" for name in names))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_config([str(file)]).loss == {"contrastive": ContrastiveLoss(margin=0.4)}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("batch_hard: {}\n  batch_triplet: {}", "2: 'loss.batch_hard' and 'loss.batch_triplet' are one key today"),
        ("batch_hard: {}\n  batch_all: {}", "2: 'loss.batch_hard' and 'loss.batch_all' are one key today"),
        ("batch_hard: {margn: 1}", "2: unknown key 'loss.batch_triplet.margn': did you mean 'margin'?"),
        ("debiased_triplet: {select: all}", "2: loss.batch_triplet.balance is for mining hard or semi_hard, got 1.0"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_mistakes_in_old_sections_are_named_with_their_line(file: Path, lines: str, expected: str) -> None:
    file.write_text(f"loss:\n  {lines}\n")
    with pytest.raises(ConfigError) as caught:
        read_config([str(file)])
    assert str(caught.value).startswith(f"{file}:{expected}")
