from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from textsiam import recipe
from textsiam.config.loss import MatryoshkaConfig
from textsiam.config.model import ScratchConfig
from textsiam.config.run import (
    Config,
    ConfigError,
    DataConfig,
    DecisionConfig,
    ModelConfig,
    read_config,
)
from textsiam.data.pairs import DataError, read_pairs
from textsiam.inference.encoders import ModelError
from textsiam.inference.scratch import scratch_text_encoder
from textsiam.manifest import Manifest
from textsiam.models.twin import Twin
from textsiam.recipe import Interrupted, run
from textsiam.rerank.base import BaseReranker
from textsiam.rerank.cross_encoder import Reranker
from textsiam.rerank.lexical_reranker import LexicalReranker
from textsiam.saving import SaveError
from textsiam.training.checkpoints import ResumeError, list_checkpoints
from textsiam.training.losses import DistillationLoss, InfoNCELoss, OnlineContrastiveLoss, TripletLoss
from textsiam.training.run import Run
from textsiam.training.settings import EpochMining, RerankerSettings

ROOT = Path(__file__).resolve().parents[1]
TOPICS = ["bread", "cactus", "tyre", "dog", "mountain", "swim", "sky", "sleep", "visa", "wine", "guitar", "egg"]
NOISE = ["how", "why", "please", "best", "way", "today", "old", "new", "good", "cheap", "fast", "again", "now"]


@pytest.fixture(scope="session")
def pair_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up pairs: the same two topic words make a duplicate; many small clusters, so that they can be split."""
    rng = random.Random(5)

    def question(topic: tuple[str, str]) -> str:
        words = [*topic, *rng.sample(NOISE, 2)]
        rng.shuffle(words)
        return " ".join(words)

    topics = [(a, b) for i, a in enumerate(TOPICS) for b in TOPICS[i + 1 :]]
    lines = ["question1\tquestion2\tis_duplicate"]
    for topic in topics:
        asked = [question(topic) for _ in range(3)]
        lines += [f"{asked[0]}\t{other}\t1" for other in asked[1:]]
        near = next(t for t in topics if t != topic and topic[0] in t)
        lines.append(f"{asked[0]}\t{question(near)}\t0")
        lines.append(f"{asked[1]}\t{question(rng.choice(topics[10:]))} {rng.choice(NOISE)}\t0")
    file = tmp_path_factory.mktemp("data") / "pairs.tsv"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture
def config(pair_file, tmp_path) -> Config:
    base = Config(
        output=str(tmp_path / "run"),
        data=DataConfig(train=str(pair_file), validation_share=0.15, calibration_share=0.2, test_share=0.2),
        model=ModelConfig(scratch=ScratchConfig(vocabulary=300, hidden=16, layers=1), max_tokens=16),
        loss={"online_contrastive": OnlineContrastiveLoss(), "info_nce": InfoNCELoss(weight=0.1)},
    )
    settings = replace(base.training, epochs=2, batch_size=16, learning_rate=5e-3, precision="fp32", tracker="none")
    return replace(base, training=settings)


@pytest.fixture(scope="session")
def finished(pair_file, tmp_path_factory):
    """A run that has ended: its config and its outcome."""
    base = Config(
        output=str(tmp_path_factory.mktemp("finished") / "run"),
        data=DataConfig(train=str(pair_file), validation_share=0.15, calibration_share=0.2, test_share=0.2),
        model=ModelConfig(scratch=ScratchConfig(vocabulary=300, hidden=16, layers=1), max_tokens=16),
        decision=DecisionConfig(rule="accuracy", prior=0.3),
    )
    settings = replace(base.training, epochs=3, batch_size=16, learning_rate=5e-3, precision="fp32", log_every=5)
    made = replace(base, training=settings)
    return made, run(made)


def names(folder: str | Path) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def test_a_run_leaves_everything_in_its_folder(finished):
    config, outcome = finished
    assert names(config.output) >= {
        "model", "report.html", "summary.json", "config.yaml", "splits.json", "history.jsonl", "test.tsv",
    }  # fmt: skip
    assert not names(config.output) & {"best", "checkpoints", "tokens"}
    summary = json.loads((outcome.output / "summary.json").read_text())
    assert summary == json.loads(json.dumps(outcome.to_dict()))
    assert summary["steps"] == outcome.result.steps > 0
    assert [e["name"] for e in summary["evaluations"]] == ["zero-shot", "trained"]
    history = [json.loads(line) for line in (outcome.output / "history.jsonl").read_text().splitlines()]
    assert history == outcome.result.history
    assert sum("validation_ap" in record for record in history) == 3
    splits = json.loads((outcome.output / "splits.json").read_text())
    assert splits == json.loads(json.dumps(outcome.splits.report.to_dict()))
    report = (outcome.output / "report.html").read_text()
    assert "zero-shot" in report
    assert "trained" in report


def test_training_helps_on_questions_never_seen(finished):
    zero_shot, trained = finished[1].evaluations
    assert trained.report.average_precision.value > zero_shot.report.average_precision.value
    splits = finished[1].splits
    seen = [set(part.texts) for part in (splits.train, splits.validation, splits.calibration, splits.test)]
    assert all(not a & b for i, a in enumerate(seen) for b in seen[i + 1 :])
    assert read_pairs(finished[1].output / "test.tsv").fingerprint == splits.test.fingerprint


def test_the_saved_model_gives_the_same_verdicts(finished):
    outcome = finished[1]
    again = Twin.from_pretrained(outcome.output / "model", device="cpu")
    test = outcome.splits.test
    left, right = test.left_texts, test.right_texts
    assert again.compare(left, right) == outcome.twin.compare(left, right)
    np.testing.assert_array_equal(again.encode(left), outcome.twin.encode(left))
    trained = outcome.evaluations[1]
    np.testing.assert_array_equal(trained.similarities, again.pair_similarity(test.texts, test.left, test.right))
    decision = again.require_decision()
    assert (decision.rule, decision.prior) == ("accuracy", 0.3)
    assert again.provenance["fingerprints"]["train"] == outcome.splits.train.fingerprint


def test_the_config_beside_the_model_repeats_the_run(finished):
    config, outcome = finished
    assert read_config([str(outcome.output / "config.yaml")]) == config
    assert read_config(["--output", config.output]).output == config.output
    assert outcome.twin.provenance["config"] == config.to_dict()


def test_a_finished_run_is_not_touched_without_being_asked(finished):
    config, outcome = finished
    before = {p: p.stat().st_mtime_ns for p in outcome.output.rglob("*")}
    for asked in (config, replace(config, resume=True)):
        with pytest.raises(ConfigError, match="holds a finished run: choose another --output, or --overwrite true"):
            run(asked)
    assert {p: p.stat().st_mtime_ns for p in outcome.output.rglob("*")} == before


def test_overwriting_replaces_what_a_run_made_and_nothing_else(config):
    short = replace(config, training=replace(config.training, max_steps=2))
    output = Path(config.output)
    run(short)
    mine = [output / "notes.txt", output / "run-notes" / "a.txt", output / "logs" / "a.txt", output / "tokens.txt"]
    for file in mine:  # the run had no tracker, hence no logs
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    (output / "model" / "old").write_text("of the run before")
    first = (output / "summary.json").read_text()
    again = run(replace(short, overwrite=True, training=replace(short.training, max_steps=3)))
    assert again.result.steps == 3
    assert [file.read_text() for file in mine] == ["mine"] * len(mine)
    assert not (output / "model" / "old").exists()
    assert (output / "summary.json").read_text() != first
    assert not read_config([str(output / "config.yaml")]).overwrite  # repeating it must not overwrite unasked
    made = json.loads((output / "manifest.json").read_text())["made_by_textsiam"]
    assert {*made, "manifest.json"} == names(output) - {"notes.txt", "run-notes", "logs", "tokens.txt"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def twice(config) -> Config:
    """The config that overwrites a run that has ended."""
    run(replace(config, training=replace(config.training, max_steps=1)))
    return replace(config, overwrite=True)


def changed(config: Config, section: str, **keys: object) -> Config:
    return replace(config, **{section: replace(getattr(config, section), **keys)})


def test_a_run_that_would_read_what_it_overwrites_is_refused(twice):
    output = Path(twice.output)
    before = contents(output)
    distillation = {**twice.loss, "distillation": DistillationLoss(teacher=str(output / "model"))}
    mining = EpochMining(check=str(output / "model"))
    for key, asked in [
        ("model.left", changed(twice, "model", scratch=None, left=str(output / "model"))),
        ("model.right", changed(twice, "model", right=f"{output}/../run/model")),
        ("data.train", changed(twice, "data", train=str(output / "test.tsv"))),
        ("data.test", changed(twice, "data", test=[str(output / "*.tsv")])),
        ("data.more.0", changed(twice, "data", more=[str(output / "test.tsv")])),
        ("reranker.model", replace(twice, reranker=RerankerSettings(model=str(output / "model")))),
        ("training.mine.check", changed(twice, "training", mine=mining)),
        ("loss.distillation.teacher", replace(twice, loss=distillation)),
    ]:
        with pytest.raises(ConfigError, match=f"{re.escape(key)}: .* was made by an earlier run in {output}"):
            run(asked)
    assert contents(output) == before


@pytest.mark.parametrize("late", [False, True])
def test_an_overwriting_run_that_is_refused_costs_nothing(twice, tmp_path, late):
    before = contents(Path(twice.output))
    refused = changed(twice, "data", train=str(tmp_path / "missing.tsv"))
    if late:  # the width is known once the twin is there
        refused = replace(twice, loss={**twice.loss, "matryoshka": MatryoshkaConfig([4000])})
    with pytest.raises(ValueError, match="more than the 16 dimensions" if late else "missing"):
        run(refused)
    assert contents(Path(twice.output)) == before


def test_what_a_killed_overwriting_run_set_aside_is_back_again(twice):
    output = Path(twice.output)
    before = contents(output)
    Manifest(output).set_aside()
    (output / "config.yaml").write_text("of the run that was killed before its first step")
    Manifest(output).add("test.tsv")
    with pytest.raises(SaveError):
        Manifest(output).add("config.yaml")
    (output / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="holds a finished run"):
        run(replace(twice, overwrite=False))
    assert contents(output) == before
    assert run(changed(twice, "training", max_steps=2)).result.steps == 2
    assert ".overwritten" not in names(output)


def test_a_resume_that_is_refused_changes_nothing(config, pair_file, tmp_path, monkeypatch):
    source, output = tmp_path / "pairs.tsv", Path(config.output)
    shutil.copy(pair_file, source)
    asked = changed(config, "data", train=str(source))
    real = Run.stopping
    with monkeypatch.context() as patch:
        patch.setattr(Run, "stopping", lambda self, _: real(self, self.state.step == 2))
        with pytest.raises(Interrupted):
            run(asked)
    before = contents(output)
    source.write_text("".join(source.read_text().splitlines(keepends=True)[:-20]))
    with pytest.raises(ResumeError, match=r"step-00000002: data was '\w+' and is now '\w+'"):
        run(replace(asked, resume=True))
    assert {name: content for name, content in contents(output).items() if "tokens" not in name} == {
        name: content for name, content in before.items() if "tokens" not in name
    }


def test_training_nothing_takes_the_weights_as_they_are(config):
    outcome = run(replace(config, training=replace(config.training, max_steps=0)))
    assert outcome.result.best_average_precision is None
    zero_shot, trained = outcome.evaluations
    np.testing.assert_allclose(trained.similarities, zero_shot.similarities, atol=1e-6)
    assert (outcome.output / "model").is_dir()


@pytest.mark.parametrize("name", ["model", "logs", "run-1", "test.tsv", "checkpoints"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_no_run_made_is_in_the_way_and_stays(config, name, overwrite):
    output = Path(config.output)
    (output / name).mkdir(parents=True)
    (output / name / "mine").write_text("mine")
    training = replace(
        config.training, tracker="tensorboard" if name == "logs" else "none", seeds=1 + (name == "run-1")
    )
    with pytest.raises(ConfigError, match=f"{name} in the way, made by no run that left a manifest.json: move it"):
        run(replace(config, overwrite=overwrite, training=training))
    assert (output / name / "mine").read_text() == "mine"
    assert names(output) == {name}


def test_a_run_of_version_0_1_left_no_manifest_and_is_not_removed(config):
    output = Path(config.output)
    run(replace(config, training=replace(config.training, max_steps=1)))
    (output / "manifest.json").unlink()
    before = {p: p.stat().st_mtime_ns for p in output.rglob("*")}
    with pytest.raises(ConfigError, match=r"config\.yaml, splits\.json, .*, summary\.json in the way, made by no run"):
        run(replace(config, overwrite=True))
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*")} == before


def test_the_same_seed_gives_the_same_weights(config, tmp_path):
    def weights(seed: int, place: str) -> dict[str, torch.Tensor]:
        settings = replace(config.training, seed=seed, max_steps=5)
        return run(replace(config, output=str(tmp_path / place), training=settings)).twin.state_dict()

    first, second, other = weights(1, "a"), weights(1, "b"), weights(2, "c")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_an_interrupted_run_resumes_to_the_same_twin(config, tmp_path, monkeypatch):
    whole = run(replace(config, output=str(tmp_path / "whole")))
    count = Run.count

    def interrupted(self, *batch):
        count(self, *batch)
        if self.state.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "count", interrupted)
        with pytest.raises(Interrupted, match="stopped at step 5; go on with the same command and --resume true"):
            run(config)
    output = Path(config.output)
    assert [p.name for p in list_checkpoints(output / "checkpoints")] == ["step-00000005"]
    with pytest.raises(
        ConfigError, match=r"holds an unfinished run: --resume true \(goes on from step-00000005\), --overwrite true"
    ):
        run(config)

    loss = {**config.loss, "info_nce": InfoNCELoss(weight=0.1, temperature=0.1), "triplet": TripletLoss()}
    with pytest.raises(
        ResumeError, match=r"loss\.info_nce\.\w+ was 0\.05 and is now 0\.1; loss\.triplet was None and is now "
    ):
        run(replace(config, resume=True, loss=loss))
    with pytest.raises(ResumeError, match=r"model\.max_tokens was 16 and is now 12"):
        run(replace(config, resume=True, model=replace(config.model, max_tokens=12)))
    with pytest.raises(ResumeError, match=r"learning_rate was 0\.005 and is now 0\.01"):
        run(replace(config, resume=True, training=replace(config.training, learning_rate=0.01)))
    with pytest.raises(ResumeError, match=r"data\.seed was 0 and is now 3$"):
        run(replace(config, resume=True, data=replace(config.data, seed=3)))
    with pytest.raises(ResumeError, match=r"training\.seeds was 1 and is now 2$"):
        run(replace(config, resume=True, training=replace(config.training, seeds=2)))

    resumed = run(replace(config, resume=True))
    ours, theirs = resumed.twin.state_dict(), whole.twin.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.result.best_step == whole.result.best_step
    assert not read_config([str(output / "config.yaml")]).resume


def test_a_mistake_leaves_nothing_behind(config, tmp_path):
    missing = replace(config, data=replace(config.data, train=str(tmp_path / "missing.tsv")))
    with pytest.raises(DataError, match=r"missing\.tsv"):
        run(missing)
    with pytest.raises(ModelError, match="no such folder"):
        run(replace(config, model=ModelConfig(left="./nowhere")))
    with pytest.raises(ConfigError, match="loss: name at least one"):
        run(replace(config, loss={}))
    with pytest.raises(ConfigError, match=r"data\.test is empty"):
        run(replace(config, data=replace(config.data, test_share=0.0)))
    assert not Path(config.output).exists()
    assert run(replace(config, training=replace(config.training, max_steps=1))).result.steps == 1


def test_two_runs_do_not_work_in_one_folder(config, monkeypatch):
    """The second one is refused, and what the first one has written stays."""
    refused = []

    def second(self, *batch):
        if not refused:
            before = {path: path.read_bytes() for path in Path(config.output).rglob("*") if path.is_file()}
            for how in ({}, {"overwrite": True}, {"resume": True}):
                with pytest.raises(ConfigError, match=r"output .*: another run is at work there"):
                    run(replace(config, **how))
                refused.append(how)
            assert {path: path.read_bytes() for path in before} == before
        return count(self, *batch)

    count = Run.count
    monkeypatch.setattr(Run, "count", second)
    run(config)
    assert len(refused) == 3
    assert {"model", "splits.json", "test.tsv", "summary.json"} <= names(config.output)


def test_a_resume_with_another_test_writes_the_pairs_that_it_was_tested_on(config, tmp_path, monkeypatch):
    lines = Path(config.data.train).read_text().splitlines(keepends=True)
    for name, part in (("train", lines[1:121]), ("one", lines[121:141]), ("two", lines[141:161])):
        (tmp_path / f"{name}.tsv").write_text(lines[0] + "".join(part))
    data = replace(config.data, train=str(tmp_path / "train.tsv"), test_share=0.0, test=str(tmp_path / "one.tsv"))

    def interrupted(self, *batch):
        count(self, *batch)
        os.kill(os.getpid(), signal.SIGTERM)

    count = Run.count
    with monkeypatch.context() as patch:
        patch.setattr(Run, "count", interrupted)
        with pytest.raises(Interrupted):
            run(replace(config, data=data))
    outcome = run(replace(config, data=replace(data, test=str(tmp_path / "two.tsv")), resume=True))
    assert read_pairs(outcome.output / "test.tsv").fingerprint == outcome.splits.test.fingerprint
    told = json.loads((outcome.output / "splits.json").read_text())
    assert told == json.loads(json.dumps(outcome.splits.report.to_dict()))
    assert "two.tsv" in (outcome.output / "config.yaml").read_text()


def test_a_signal_in_the_last_step_is_obeyed(config, monkeypatch):
    """What would follow may take hours: measuring, a reranker."""

    def interrupted(self, *batch):
        count(self, *batch)
        if self.state.step == self.total_steps:
            os.kill(os.getpid(), signal.SIGTERM)

    count = Run.count
    with monkeypatch.context() as patch:
        patch.setattr(Run, "count", interrupted)
        with pytest.raises(Interrupted, match=r"--resume true"):
            run(config)
    outcome = run(replace(config, resume=True))
    assert outcome.result.steps == json.loads((outcome.output / "history.jsonl").read_text().splitlines()[-1])["step"]
    assert (outcome.output / "model").is_dir()


def test_an_output_that_cannot_be_made_is_named(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"output .*file/run: cannot be written: Not a directory"):
        run(replace(config, output=str(tmp_path / "file" / "run")))


@pytest.mark.filterwarnings("ignore:decision.precision")
def test_a_target_precision_is_learned(config):
    settings = replace(config.training, max_steps=5)
    wanted = replace(config, training=settings, decision=DecisionConfig(precision=0.35))
    assert "precision" in run(wanted).twin.require_decision().rule


def test_a_target_precision_out_of_reach_costs_a_warning_and_not_the_training(config):
    settings = replace(config.training, max_steps=5)
    wanted = replace(config, training=settings, decision=DecisionConfig(precision=0.999))
    with pytest.warns(UserWarning, match=r"decision\.precision: no threshold shows a precision of 0\.999"):
        outcome = run(wanted)
    assert outcome.twin.require_decision().rule == "f1"
    assert (outcome.output / "model").is_dir()


def test_the_terminal_shows_the_splits_and_a_table(config):
    console = Console(record=True, width=80, file=io.StringIO())
    run(replace(config, training=replace(config.training, max_steps=2)), console=console)
    said = console.export_text()
    rows = [line for line in said.splitlines() if line.startswith(("zero-shot", "trained"))]
    assert len(rows) == 2
    assert all(len(re.findall(r"[\d.]+ \([\d.]+–[\d.]+\)", row)) == 4 for row in rows)  # nothing is cut off
    assert " test pairs, " in said


def write_config(file: Path, config: Config) -> list[str]:
    file.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
    return [str(ROOT / "scripts" / "train.py"), str(file)]


@pytest.mark.slow
def test_the_script_stops_on_a_signal_with_status_130_and_resumes(config, tmp_path):
    knobs = replace(config.training, epochs=400, batch_size=8, checkpoint_every=1000, validate_every=1000, log_every=1)
    command = [sys.executable, *write_config(tmp_path / "run.yaml", replace(config, training=knobs))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 100
    while not (Path(config.output) / "history.jsonl").exists() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "go on with the same command and --resume true" in said.splitlines()[-1]
    assert "Traceback" not in said
    (checkpoint,) = list_checkpoints(Path(config.output) / "checkpoints")
    assert checkpoint.name > "step-00000000"


@pytest.mark.slow
def test_two_processes_by_the_launcher(config, tmp_path):
    """What a user types: `accelerate launch --config_file configs/accelerate/ddp_cpu.yaml scripts/train.py CONFIG`."""
    if torch.accelerator.is_available():
        pytest.skip("here the launcher would put both processes on an accelerator")
    short = replace(config, training=replace(config.training, max_steps=4))
    script, *arguments = write_config(tmp_path / "run.yaml", short)
    wrapper = tmp_path / "wrapper.py"
    wrapper.write_text(
        "import runpy\nfrom accelerate import PartialState\n"
        f"runpy.run_path({script!r}, run_name='__main__')\nprint(PartialState().num_processes, 'processes')\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = [
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(ROOT / "configs" / "accelerate" / "ddp_cpu.yaml"),
    ]
    command = [sys.executable, *launcher, "--main_process_port", port, str(wrapper), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes\n") == 2
    spoken = [line.split()[0] for line in done.stdout.splitlines() if line.startswith(("zero-shot ", "trained "))]
    assert spoken == ["zero-shot", "trained"]  # one process speaks
    assert json.loads((Path(config.output) / "summary.json").read_text())["steps"] == 4
    assert Twin.from_pretrained(Path(config.output) / "model", device="cpu").compare("a", "b").probability >= 0


@pytest.fixture
def backbone(tmp_path) -> str:
    """The folder of a tiny tower to make a cross-encoder of."""
    tower = scratch_text_encoder([*TOPICS, *NOISE], vocabulary=200, hidden=16, layers=1, max_tokens=32, device="cpu")
    tower.save_pretrained(str(tmp_path / "backbone"), create_model_card=False)
    return str(tmp_path / "backbone")


def test_a_reranker_is_trained_saved_and_measured(config, backbone):
    reranker = RerankerSettings(model=backbone, epochs=40, learning_rate=3e-3, batch_size=16, band=(0.02, 0.98))
    outcome = run(replace(config, reranker=reranker))
    assert [e.name for e in outcome.evaluations] == ["zero-shot", "trained", "reranked"]
    assert outcome.to_dict()["reranker_seconds"] > 0
    trained, reranked = (e.similarities for e in outcome.evaluations[1:])
    assert (trained != reranked).any()
    again = Twin.from_pretrained(outcome.output / "model", device="cpu")
    assert again.reranker is not None
    assert again.reranker.combination == outcome.twin.reranker.combination
    test = outcome.splits.test
    np.testing.assert_allclose(again.pair_similarity(test.texts, test.left, test.right), reranked, atol=1e-5)
    assert again.compare(test.left_texts, test.right_texts) == outcome.twin.compare(test.left_texts, test.right_texts)
    written = read_config([str(outcome.output / "config.yaml")])
    assert written.reranker == reranker


@pytest.mark.parametrize("validation_share", [0.0, 0.15])
def test_a_reranker_is_combined_on_pairs_that_the_decision_does_not_see(
    config, backbone, monkeypatch, validation_share
):
    told: list[tuple[int, bool]] = []
    monkeypatch.setattr(
        Reranker, "fit", lambda self, pairs, _, *, band, lexical_features: told.append((len(pairs), lexical_features))
    )
    reranker = RerankerSettings(model=backbone, batch_size=16, lexical_features=True)
    data = replace(config.data, validation_share=validation_share)
    splits = run(replace(config, data=data, reranker=reranker)).splits
    assert told == [(len(splits.validation or splits.calibration), True)]  # where there are none, better than nothing
    assert bool(len(splits.validation)) == bool(validation_share)


def test_a_reranker_that_cannot_be_combined_does_not_cost_the_twin(config, backbone):
    reranker = RerankerSettings(model=backbone, batch_size=16, band=(0.499, 0.5))
    with pytest.warns(UserWarning, match=r"reranker: .* The twin goes without it"):
        outcome = run(replace(config, reranker=reranker))
    assert [e.name for e in outcome.evaluations] == ["zero-shot", "trained"]
    assert Twin.from_pretrained(outcome.output / "model", device="cpu").reranker is None


@pytest.mark.parametrize("cross_fit", [None, 0.3])
def test_the_wording_alone_is_weighed_by_what_the_twin_has_not_seen(config, cross_fit, monkeypatch):
    told: list[tuple[set[str], int]] = []
    fit = BaseReranker.fit

    def watched(self, pairs, similarity, **more):
        told.append((set(pairs.texts), len(similarity)))
        return fit(self, pairs, similarity, **more)

    monkeypatch.setattr(BaseReranker, "fit", watched)
    monkeypatch.setattr("textsiam.rerank.lexical_features._FEWEST", 5)
    settings = replace(config.training, seeds=2, cross_fit=cross_fit)
    reranker = RerankerSettings(model="lexical", band=(0.001, 0.999))
    outcome = run(replace(config, training=settings, reranker=reranker))
    assert [e.name for e in outcome.evaluations] == ["zero-shot", "trained", "reranked"]
    ((texts, count),) = told
    held = outcome.splits.validation if cross_fit is None else outcome.splits.train
    assert texts <= set(held.texts)
    assert count > 0.5 * len(held)
    again = Twin.from_pretrained(outcome.output / "model", device="cpu")
    assert isinstance(again.reranker, LexicalReranker)
    test = outcome.splits.test
    found = again.pair_similarity(test.texts, test.left, test.right)
    np.testing.assert_allclose(found, outcome.evaluations[2].similarities, atol=1e-5)
    assert (found != outcome.evaluations[1].similarities).any()


def test_no_epochs_are_no_reranker():
    with pytest.raises(ValueError, match="epochs must be >= 1, got 0; for no cross-encoder, model is 'lexical'"):
        RerankerSettings(epochs=0)


def test_without_lightgbm_no_twin_is_trained_for_a_lexical_reranker(config, monkeypatch):
    monkeypatch.setattr("textsiam.rerank.trees.find_spec", lambda name: None)
    monkeypatch.setattr(recipe, "build_twin", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(ModelError, match=r"pip install 'textsiam\[trees\]'"):
        run(replace(config, reranker=RerankerSettings(model="lexical")))


def test_a_reranker_in_a_run_of_many_processes_is_refused_at_once(config, monkeypatch):
    two = SimpleNamespace(num_processes=2, is_main_process=True)
    monkeypatch.setattr("textsiam.config.preflight.process_state", lambda: two)
    with pytest.raises(ConfigError, match="reranker is trained by one process, not by 2"):
        run(replace(config, reranker=RerankerSettings()))
    assert not Path(config.output).exists()
