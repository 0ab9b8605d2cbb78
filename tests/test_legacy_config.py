"""Configs of version 0.1 still read, with a warning that names the new word."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from textsiam.config.run import ConfigError, read_config
from textsiam.legacy.config import RENAMED
from textsiam.rerank.lexical_reranker import LexicalReranker
from textsiam.training.losses import BatchTripletLoss, ContrastiveLoss
from textsiam.training.settings import RerankerSettings, Settings

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


RENAMED_KEYS = {
    "training.accumulation": ("training.gradient_accumulation_steps", 2),
    "training.average": ("training.ema_decay", 0.9),
    "training.runs": ("training.seeds", 4),
    "verifier.band": ("reranker.band", (0.2, 0.8)),
    "verifier.wording": ("reranker.lexical_features", True),
}


def _read(config: object, key: str) -> object:
    for name in key.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize("old", RENAMED_KEYS)
@pytest.mark.parametrize("where", ["file", "command line"])
def test_a_renamed_key_is_read_with_one_warning_that_names_the_new_one(file: Path, old: str, where: str) -> None:
    new, value = RENAMED_KEYS[old]
    section, name = old.split(".")
    file.write_text("output: here\n" + (f"{section}:\n  {name}: {value}\n" if where == "file" else ""))
    given = [] if where == "file" else [f"--{old}", str(value)]
    if old == "verifier.band":
        file.write_text(file.read_text().replace("(0.2, 0.8)", "[0.2, 0.8]"))
        given = [each.replace("(0.2, 0.8)", "[0.2, 0.8]") for each in given]
    with pytest.warns(FutureWarning) as caught:
        config = read_config([str(file), *given])
    assert _read(config, new) == value
    (warning,) = caught
    place = f"{file}:{2 if section == 'verifier' else 3}" if where == "file" else f"--{old}"
    was, now = (section, "reranker") if section == "verifier" else (old, new)
    inside = ", 'wording' in it 'lexical_features'" if name == "wording" else ""
    assert str(warning.message) == f"{place}: {was!r} is now {now!r}{inside}"


def test_cross_fitting_by_its_old_name_goes_with_its_seeds(file: Path) -> None:
    file.write_text("training: {runs: 4, leave_out: 0.25}\n")
    with pytest.warns(FutureWarning) as caught:
        training = read_config([str(file)]).training
    assert (training.seeds, training.cross_fit) == (4, 0.25)
    assert len(caught) == 2


def test_an_old_key_beside_the_new_one_is_refused(file: Path) -> None:
    file.write_text("training: {runs: 4, seeds: 2}\n")
    with pytest.raises(ConfigError, match=r"run.yaml:1: 'training.runs' and 'training.seeds' are one key today"):
        read_config([str(file)])


def test_arguments_and_attributes_of_0_1_are_taken_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="= is now ") as told:
        settings = Settings(average=0.5, runs=2, leave_out=0.25, accumulation=4)  # pyright: ignore[reportCallIssue]
    assert {str(each.message) for each in told} == {
        "average= is now ema_decay=",
        "runs= is now seeds=",
        "leave_out= is now cross_fit=",
        "accumulation= is now gradient_accumulation_steps=",
    }
    assert all(each.filename == __file__ for each in told)
    assert settings == Settings(ema_decay=0.5, seeds=2, cross_fit=0.25, gradient_accumulation_steps=4)
    with pytest.warns(DeprecationWarning, match=r"^\.runs is now \.seeds$"):
        assert settings.runs == 2
    reranker = LexicalReranker()
    with pytest.warns(DeprecationWarning, match=r"^\.wording is now \.lexical_features$"):
        reranker.wording = 1
    assert reranker.lexical_features == 1
    with pytest.warns(DeprecationWarning, match="VerifierSettings is now textsiam.training.settings.RerankerSettings"):
        from textsiam.training.settings import VerifierSettings  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.warns(DeprecationWarning, match="^wording= is now lexical_features=$"):
        assert VerifierSettings(wording=True) == RerankerSettings(lexical_features=True)
