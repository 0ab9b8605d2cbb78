"""What a config alone tells to be wrong is said at once, before data is read; what training did wrong is said after."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textsiam.config.preflight import faults
from textsiam.config.run import Config, ConfigError, read_config
from textsiam.data.pairs import Pairs
from textsiam.evaluation.pairs import evaluate_pairs
from textsiam.inference.encoders import ModelError
from textsiam.rerank.cross_encoder import cross_encoder
from textsiam.training.distributed import launch_notes, tracker_of
from textsiam.training.settings import Settings

SCRATCH = [
    "--model.scratch.hidden=16",
    "--model.scratch.layers=1",
    "--model.scratch.vocabulary=200",
    "--training.tracker=none",
]
QUICK = [*SCRATCH, "--training.batch_size=8", "--training.epochs=1", "--training.precision=fp32"]


@pytest.fixture
def pair_file(pairs, tmp_path):
    rows = zip(pairs.left_texts, pairs.right_texts, pairs.labels.tolist(), strict=True)
    file = tmp_path / "pairs.tsv"
    file.write_text("question1\tquestion2\tis_duplicate\n" + "".join(f"{a}\t{b}\t{y}\n" for a, b, y in rows))
    return file


def test_all_faults_of_keys_and_values_come_in_one_message(tmp_path):
    file = tmp_path / "c.yaml"
    training = "training:\n  epocs: 3\n  learning_rate: -1\n  batch_size: many\n"
    file.write_text(f"{training}loss:\n  triplet: {{margn: 1}}\n")
    with pytest.raises(ConfigError) as caught:
        read_config([str(file), "--data.test_share", "2"])
    said = str(caught.value).splitlines()
    assert said[0] == "5 faults:"
    for part in (":2: unknown key 'training.epocs'", ":3: training.learning_rate must be > 0",
                 ":4: 'training.batch_size'",
                 ":6: unknown key 'loss.triplet.margn'", "--data.test_share: data: validation_share"):  # fmt: skip
        assert sum(part in line for line in said) == 1, said


def test_an_image_twin_takes_one_try(tmp_path, textsiam):
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(3):
            Image.fromarray(np.full((20, 20), 40 * k, np.uint8)).save(tmp_path / "images" / name / f"{k}.png")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "history.jsonl").write_text("")
    (tmp_path / "run" / "manifest.json").write_text('{"made_by_textsiam": ["history.jsonl"]}')
    knobs = [
        "--data.labels=positives",
        "--training.per_cluster=3",
        "--training.tracker=tensorbord",
        "--model.left=./no",
    ]
    said = textsiam("train", "--data.train", tmp_path / "images", "--output", tmp_path / "run", *knobs)
    assert said.status == 1
    lines = said.err.splitlines()
    assert lines[0] == "error: 5 faults:"
    for part in ("unfinished run", "for texts", "./no: no such folder", "'tensorbord'", "per_cluster must be an even"):
        assert sum(part in line for line in lines) == 1, lines


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        (["--training.tracker=wandb"], "'wandb', which is not installed: pip install wandb"),
        (["--training.tracker=wandbee"], "tracker is 'wandbee', expected auto, none, or one of"),
        (["--training.per_cluster=3"], "per_cluster must be an even number"),
        (["--training.per_cluster=10", "--training.batch_size=64"], "batch_size 64 is not a multiple of 5"),
        (["--training.mine.category=hard"], "mine: no loss of this run reads negatives"),
        (["--training.augment.rotate=5"], "augment changes images and sounds"),
        (["--model.head.kind=mlp"], "loss.head is not"),
        (["--model.left=./nowhere"], "./nowhere: no such folder"),
        (["--model.scratch.hidden=8", "--model.scratch_image.size=28"], "each build the left tower"),
        (["--model.scratch_image.size=28"], "data.train holds none"),
        (
            ["--model.scratch.hidden=8", "--training.trained_share=0.5"],
            "with pretrained weights",
        ),
        (["--data.test={tmp}/missing.tsv"], "missing.tsv: no such file"),
        (["--data.pairs=9"], "are for labelled images"),
        (["--reranker.model=./nowhere"], "./nowhere: no such folder"),
        (["--decision.prior=2"], "decision.prior must be between 0 and 1"),
    ],
)
def test_a_fault_is_told_before_data_is_read(knobs, expected, pair_file, tmp_path, textsiam, monkeypatch):
    from textsiam import recipe, sources

    if "wandb" in knobs[0]:
        monkeypatch.setattr("textsiam.training.distributed.get_available_trackers", lambda: ["tensorboard"])
    monkeypatch.setattr(recipe, "build_pairs", lambda config: pytest.fail("data is read"))
    knobs = [knob.replace("{tmp}", str(tmp_path)) for knob in knobs]
    said = textsiam("train", "--data.train", pair_file, "--output", tmp_path / "run", *knobs)
    assert said.status == 1
    assert expected in said.err
    assert len(said.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
    assert sources


def test_a_tracker_that_is_there_is_taken():
    assert tracker_of(Settings(tracker="none")) == "none"
    assert tracker_of(Settings(tracker="all")) == "all"


def test_a_run_refused_before_its_first_step_leaves_nothing_and_may_start_anew(tmp_path, textsiam):
    run = ["train", "--output", tmp_path / "run", *QUICK]
    said = textsiam(*run, "--loss.matryoshka.widths=[4000]")  # known once the twin is there
    assert said.status == 1
    assert "more than the 16 dimensions" in said.err
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text('{"made_by_textsiam": ["config.yaml"]}')  # as after kill -9
    (tmp_path / "run" / "config.yaml").write_text("{}")
    said = textsiam(*run, "--training.max_steps=1")
    assert (said.status, "unfinished" in said.err) == (0, False)
    assert "losses: online_contrastive, info_nce; 1 epochs, batches of 8" in said.out


def test_the_command_and_the_script_have_the_same_defaults(monkeypatch):
    from textsiam import recipe
    from textsiam.commands.making import run_training

    seen: list[Config] = []
    monkeypatch.setattr(recipe, "run", lambda config, **_: seen.append(config))
    root = Path(__file__).resolve().parents[2]
    for arguments in ([], [str(root / "configs" / "quickstart.yaml")]):
        run_training(arguments)
    assert seen[0] == seen[1] == read_config([str(root / "configs" / "quickstart.yaml")])
    assert "run_training(sys.argv[1:])" in (root / "scripts" / "train.py").read_text()


@pytest.mark.filterwarnings("ignore::textsiam.training.reporting.collapse.CollapseWarning")
def test_a_learning_rate_that_diverges_is_said(tmp_path, textsiam):
    knobs = ["--training.learning_rate=1", "--training.max_steps=15"]
    said = textsiam("train", "--output", tmp_path / "run", *QUICK, *knobs, "--json")
    if said.status == 0:  # the weights are numbers still
        assert "the learning rate is too high" in said.json["warning"]
    else:
        assert "lower the learning rate" in said.err.replace("\n", " ")


def test_of_one_probability_for_all_pairs_there_is_no_calibration_error(twin, pairs: Pairs):
    twin.calibrate(pairs)

    class Same:
        decision = twin.decision

        def pair_similarity(self, texts, left, right):
            return np.full(len(left), 0.5, np.float32)

    evaluation = evaluate_pairs(Same(), pairs, bootstrap=0)
    assert not evaluation.tells_pairs_apart
    assert evaluation.report.calibration_error is None
    assert evaluate_pairs(twin, pairs, bootstrap=0).report.calibration_error is not None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}, "has started one"),
        ({"ACCELERATE_USE_FSDP": "true"}, "nothing is sharded"),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, None),
    ],
)
def test_a_launch_that_does_less_than_it_was_asked_is_said(environment, expected, monkeypatch):
    for name in ("ACCELERATE_MIXED_PRECISION", "MASTER_PORT", "WORLD_SIZE", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notes = launch_notes()
    assert len(notes) == (expected is not None)
    assert expected is None or expected in notes[0]


def test_a_reranker_with_too_few_positions_is_refused_early(tower, tmp_path):
    tower.save_pretrained(str(tmp_path / "m"), create_model_card=False)
    with pytest.raises(ModelError, match=r"max_tokens is 64, but .* has 32 positions"):
        cross_encoder(tmp_path / "m", max_tokens=64, device="cpu")
    knobs = [f"--reranker.model={tmp_path / 'm'}", "--reranker.max_tokens=64", f"--output={tmp_path / 'run'}"]
    began = time.monotonic()
    (fault,) = faults(read_config(knobs))
    assert "has 32 positions" in str(fault)
    assert time.monotonic() - began < 60
    assert faults(replace(read_config([*knobs, "--reranker.max_tokens", "null"]))) == []
