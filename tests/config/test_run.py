from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from textsiam.config.loss import MemoryConfig
from textsiam.config.model import HeadConfig, ScratchConfig
from textsiam.config.run import (
    Config,
    ConfigError,
    DataConfig,
    ModelConfig,
    build_head,
    build_objective,
    build_pairs,
    build_twin,
    read_config,
)
from textsiam.data.pairs import DataError
from textsiam.models.learned import Mahalanobis, PairHead
from textsiam.training.losses import ContrastiveLoss, InfoNCELoss, OnlineContrastiveLoss, TripletLoss
from textsiam.training.losses.terms import Embedded
from textsiam.training.settings import Settings

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    def make(text: str, name: str = "run.yaml") -> str:
        file = tmp_path / name
        file.write_text(text)
        return str(file)

    return make


def test_no_argument_gives_the_defaults():
    assert read_config([]) == Config()


def test_a_file_and_overrides(write):
    file = write(
        """
        output: runs/mine   # a comment
        data: {train: pairs.tsv, columns: {left: a, right: b, label: c}}
        model: {scratch: {hidden: 64}, distance: euclidean}
        loss:
          contrastive: {margin: 0.9, form: squared_margin}
          info_nce: {}
        training: {epochs: 3, learning_rate: 2e-5, patience: null}
        """
    )
    got = read_config([file, "--training.epochs", "5", "--model.scratch.layers=1", "--overwrite", "--data.seed", "7"])
    assert got == Config(
        output="runs/mine",
        data=DataConfig(train="pairs.tsv", columns={"left": "a", "right": "b", "label": "c"}, seed=7),
        model=ModelConfig(scratch=ScratchConfig(hidden=64, layers=1), distance="euclidean"),
        loss={"contrastive": ContrastiveLoss(margin=0.9, form="squared_margin"), "info_nce": InfoNCELoss()},
        training=Settings(epochs=5, learning_rate=2e-5),
        overwrite=True,
    )


@pytest.mark.parametrize(
    ("text", "value"), [("2e-5", 2e-5), ("1E-3", 1e-3), ("5e-05", 5e-5), ("1.5e-4", 1.5e-4), (".5", 0.5), ("1", 1.0)]
)
def test_numbers_are_numbers_in_the_file_and_on_the_command_line(write, text, value):
    file = write(f"training:\n  learning_rate: {text}\n")
    assert read_config([file]).training.learning_rate == value
    assert read_config(["--training.learning_rate", text]).training.learning_rate == value
    assert read_config([f"--training.learning_rate={text}"]).training.learning_rate == value


def test_values_that_only_look_like_numbers_stay_text(write):
    assert read_config([write("output: runs/2e-5\ndata: {train: 1e5.tsv}")]).data.train == "1e5.tsv"


@pytest.mark.parametrize(
    ("arguments", "resume"),
    [
        (["--resume"], True),
        (["--resume", "true"], True),
        (["--resume=false"], False),
        (["--resume", "--overwrite"], True),
    ],
)
def test_flags(arguments, resume):
    assert read_config(arguments).resume is resume


def test_losses_are_on_when_they_are_named(write):
    file = write("loss:\n  triplet: {margin: 0.2}\n")
    assert read_config([file]).loss == {"triplet": TripletLoss(margin=0.2)}
    both = read_config([file, "--loss.info_nce.weight", "0.5"]).loss
    assert both == {"triplet": TripletLoss(margin=0.2), "info_nce": InfoNCELoss(weight=0.5)}
    off = read_config([file, "--loss.triplet", "null", "--loss.contrastive.margin", "1"]).loss
    assert off == {"contrastive": ContrastiveLoss(margin=1.0)}


def test_a_loss_that_is_named_replaces_the_default_one_wherever_it_is_named(write):
    for arguments in (["--loss.triplet.margin", "0.2"], [write("loss: {triplet: {margin: 0.2}}\n")]):
        assert read_config(arguments).loss == {"triplet": TripletLoss(margin=0.2)}
    edited = read_config([write("loss: {triplet: {margin: 0.2, soft: true}}\n"), "--loss.triplet.margin", "0.4"]).loss
    assert edited == {"triplet": TripletLoss(margin=0.4, soft=True)}
    default = {"online_contrastive": OnlineContrastiveLoss()}
    for arguments in (["--loss.triplet", "null"], [write("loss: {triplet: null, cosent:}\n")], [write("loss:\n")]):
        assert read_config(arguments).loss == default
    memory = read_config(["--loss.memory.pairs", "9"]).loss
    assert memory == {**default, "memory": MemoryConfig(9)}  # which is no loss
    assert read_config(["--loss.online_contrastive", "null"]).loss == {}


def test_an_empty_file_and_empty_sections_give_the_defaults(write):
    assert read_config([write("")]) == Config()
    assert read_config([write("training:\n  # epochs: 3\n")]) == Config()


def message(arguments: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("output: a\ntraning: {epochs: 1}\n", "run.yaml:2: unknown key 'traning': did you mean 'training'?"),
        (
            "loss:\n  contrastive:\n    margn: 1\n",
            "run.yaml:3: unknown key 'loss.contrastive.margn': did you mean 'margin'?",
        ),
        ("data:\n  xyz: 1\n", "run.yaml:2: unknown key 'data.xyz': expected one of train, validation, calibration"),
        ("training:\n  epochs: {a: 1}\n", "run.yaml:3: 'training.epochs' is a value, nothing lies below it"),
        ("training:\n  epochs: [1\n", "run.yaml:3: not valid YAML"),
        ("a: b: c\n", "run.yaml:1: not valid YAML"),
        ("- a\n- b\n", "run.yaml:1: expected keys and values, got list"),
        ("just words\n", "run.yaml:1: expected keys and values, got str"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named_with_its_line(write, text, expected):
    file = write(text)
    if "'training.epochs' is a value" in expected:
        expected = expected.replace(":3:", ":2:")
    assert message([file]).startswith(file.removesuffix("run.yaml") + expected)


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("training:\n  epochs: many\n", 2, "'training.epochs' is 'many', expected int"),
        (
            "output: x\ntraining:\n  seed: 0\n  learning_rate: fast\n",
            4,
            "'training.learning_rate' is 'fast', expected float",
        ),
        (
            "model:\n  distance: cosin\n",
            2,
            "'model.distance' is 'cosin', expected one of "
            "['cosine', 'euclidean', 'squared_euclidean', 'manhattan', 'angular']",
        ),
        ("model:\n  scratch:\n    hidden: wide\n", 3, "'model.scratch.hidden' is 'wide', expected int"),
        ("loss:\n  triplet: {margin: wide}\n", 2, "'loss.triplet.margin' is 'wide', expected float"),
        ("resume: perhaps\n", 1, "'resume' is 'perhaps', expected bool"),
        ("output: x\ndata: 5\n", 2, "'data' is a section, got the value 5"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_line(write, text, line, expected):
    file = write(text)
    assert message([file]) == f"{file}:{line}: {expected}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--training.epocs", "3"], "--training.epocs: unknown key 'training.epocs': did you mean 'epochs'?"),
        (["--model.left.name", "x"], "--model.left.name: 'model.left' is a value, nothing lies below it"),
        (["-x", "3"], "'-x': expected --key value (the config file comes first)"),
        (["--output", "a", "late.yaml"], "'late.yaml': expected --key value (the config file comes first)"),
        (["--", "a"], "'--': expected --key value (the config file comes first)"),
    ],
)
def test_a_broken_command_line_is_named(arguments, expected):
    assert message(arguments) == expected


@pytest.mark.parametrize(
    "key",
    [
        "output", "data.train", "model.left", "model.scratch.hidden", "loss.triplet.margin", "training.log_every",
        "training.learning_rate", "training.epochs", "training.seeds", "training.batch_size", "training.mine.margin",
        "reranker.band", "resume",
    ],
)  # fmt: skip
def test_a_key_that_must_have_a_value_is_not_null(key):
    assert message([f"--{key}", "null"]) == f"--{key}: {key!r} must have a value, got null"


@pytest.mark.parametrize("key", ["reranker", "model.scratch", "model.head", "model.lora", "training.mine"])
def test_a_section_that_may_be_left_out_is_no_value(key):
    assert message([f"--{key}", "true"]) == f"--{key}: {key!r} is a section, got the value True"
    assert read_config([f"--{key}", "null"]) == Config()


def test_the_losses_as_a_whole(write):
    assert read_config([write("loss: {triplet: {}}"), "--loss", "null"]) == Config()
    assert message(["--loss", "3"]) == "--loss: 'loss' is a section, got the value 3"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model.lora.rank", "0"], "model.lora.rank must be >= 1, got 0"),
        (["--training.mine.margin", "0"], "training.mine.margin must be > 0, got 0.0"),
        (["--model.head.rank", "wide"], "'model.head.rank' is 'wide', expected int"),
        (["--data.train", "123"], "'data.train' is '123', expected str or list[str]"),
        (["--data.validation", "[1, 2]"], "'data.validation' is '[1, 2]', expected str or list[str]"),
        (["--model.shared_layers", "most"], "'model.shared_layers' is 'most', expected int or one of ['all']"),
        (["--model.builder", "3"], "'model.builder' is '3', expected str or dict[str, Any]"),
        (["--training.learning_rate", ".inf"], "training.learning_rate must be a finite number, got inf"),
        (["--training.weight_decay", ".inf"], "training.weight_decay must be a finite number, got inf"),
        (["--training.seed", "-1"], "training.seed must be from 0 to 4294967295, got -1"),
        (["--training.seed", "4294967296"], "training.seed must be from 0 to 4294967295, got 4294967296"),
        (["--data.seed", "-1"], "data.seed must be >= 0, got -1"),
        (
            ["--data.test_share", ".nan"],
            "data: validation_share, calibration_share and test_share must be >= 0 and leave some, "
            "got [0.05, 0.05, nan]",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_below_a_section_or_among_several_types_is_said_in_words(arguments, expected):
    assert message(arguments) == f"{arguments[0]}: {expected}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--training.epochs", "many"], "--training.epochs: 'training.epochs' is 'many', expected int"),
        (
            ["--loss.contrastive.margin", "wide"],
            "--loss.contrastive.margin: 'loss.contrastive.margin' is 'wide', expected float",
        ),
        (["--model", "bert"], "--model: 'model' is a section, got the value 'bert'"),
    ],
)
def test_a_value_that_does_not_fit_names_the_option(arguments, expected):
    assert message(arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--training.epochs", "0"], "epochs must be >= 1, got 0"),
        (
            ["--training.batch_size", "10", "--training.gradient_accumulation_steps", "3"],
            "batch_size 10 is not a multiple",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_a_config_error(arguments, expected):
    assert expected in message(arguments)


def test_a_missing_file_names_its_neighbour(write, tmp_path):
    write("", "quickstart.yaml")
    assert message([str(tmp_path / "quikstart.yaml")]) == (
        f"{tmp_path}/quikstart.yaml: no such file; did you mean {tmp_path}/quickstart.yaml?"
    )
    assert message([str(tmp_path / "zzz.yaml")]) == f"{tmp_path}/zzz.yaml: no such file"
    assert message([str(tmp_path / "none" / "a.yaml")]) == f"{tmp_path}/none/a.yaml: no such file"


def test_a_file_that_is_not_text_is_named(tmp_path):
    (tmp_path / "run.yaml").write_bytes(b"output: \xff\xfe\n")
    assert message([str(tmp_path / "run.yaml")]) == f"{tmp_path}/run.yaml: not UTF-8 at byte 8"


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(
            output="runs/ä",
            data=DataConfig(columns={"left": "a", "right": "b"}, on_bad_row="skip"),
            model=ModelConfig(scratch=ScratchConfig(hidden=16), pooling="cls", dim=8, max_tokens=None),
            loss={"triplet": TripletLoss(distance="euclidean"), "online_contrastive": OnlineContrastiveLoss()},
            training=Settings(learning_rate=2e-5, ema_decay=0.99, max_steps=3, patience=2),
            overwrite=True,
        ),
        Config(loss={"triplet": TripletLoss()}),
    ],
    ids=["defaults", "everything", "one-loss"],
)
def test_a_config_written_beside_a_model_reads_again(tmp_path, config):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True))
    assert read_config([str(file)]) == config
    assert read_config([str(file), "--resume"]) == replace(config, resume=True)


def test_there_are_configs():
    assert len(CONFIGS) >= 8


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_config_builds(file):
    config = read_config([str(file)])
    head = None if config.model.head is None else build_head(config.model.head, 384)
    objective = build_objective(config.loss, head)
    assert objective.terms
    vectors = torch.nn.functional.normalize(torch.randn(4, 384), dim=1)
    labels, clusters = torch.tensor([1, 0]), torch.tensor([0, 1])
    negative = vectors[2:].roll(1, 0)
    batch = Embedded(
        vectors[:2], vectors[2:], negative, labels, clusters, torch.tensor([0, 2]), negative_clusters=clusters + 1
    )
    objective.allocate(384)
    assert torch.isfinite(objective(batch))
    assert config.output.startswith("runs/")


@pytest.mark.slow
@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_config_gives_data_and_a_twin(file, minilm):
    config = read_config([str(file), "--data.train", "sample:forum"])
    scratch = config.model.scratch_image or config.model.scratch_sound
    if scratch is not None:
        cells = scratch.widths[-1] * int(np.prod(getattr(scratch, "grid", None) or [1]))
        assert build_twin(config.model, None, device="cpu").dim == (config.model.dim or cells)  # pyright: ignore
        return
    splits = build_pairs(config.data)
    assert min(len(getattr(splits, n)) for n in ("train", "calibration", "test")) > 10
    assert (len(splits.validation) > 10) == (config.data.validation_share > 0)
    twin = build_twin(config.model, splits.train, device="cpu")
    assert twin.dim == minilm.get_embedding_dimension()


def test_the_objective_is_what_the_config_says():
    names = {
        "info_nce": InfoNCELoss(),
        "contrastive": ContrastiveLoss(weight=2.0),
        "triplet": TripletLoss(weight=0.5, margin=0.7),
    }
    made = build_objective(names)
    assert made.terms == names
    assert [*made.terms] == ["contrastive", "triplet", "info_nce"]  # sums of floats depend on the order
    assert made.needs_negatives
    assert not made.positives_only
    alone = build_objective({"triplet": TripletLoss()})
    assert alone.positives_only
    u = torch.tensor([[1.0, 0.0]])
    batch = Embedded(
        u, u, torch.tensor([[0.0, 1.0]]), torch.tensor([1]), torch.tensor([0]), torch.tensor([0]),
        negative_clusters=torch.tensor([1]),
    )  # fmt: skip
    wide = build_objective({"triplet": TripletLoss(margin=3.0)})
    assert wide(batch).item() == pytest.approx(2.0)  # 0 - 1 + 3
    euclidean = build_objective({"triplet": TripletLoss(margin=3.0, distance="squared_euclidean")})
    assert euclidean(batch).item() == pytest.approx(1.0)  # 0 - 2 + 3


def test_an_objective_without_a_loss_is_refused():
    with pytest.raises(ConfigError, match="loss: name at least one of contrastive, online_contrastive, triplet"):
        build_objective({})


@pytest.fixture
def pair_file(pairs, tmp_path):
    file = tmp_path / "pairs.tsv"
    rows = zip(pairs.left_texts, pairs.right_texts, pairs.labels, strict=True)
    lines = ["question1\tquestion2\tis_duplicate", *(f"{a}\t{b}\t{y}" for a, b, y in rows)]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_splits_are_cut_or_taken_from_their_own_source(pair_file, pairs):
    cut = build_pairs(DataConfig(train=str(pair_file), calibration_share=0.2, test_share=0.3))
    assert 0 < len(cut.test) < len(pairs)
    again = build_pairs(DataConfig(train=str(pair_file), calibration_share=0.2, test_share=0.3))
    assert [again.test.fingerprint, again.train.fingerprint] == [cut.test.fingerprint, cut.train.fingerprint]
    given = build_pairs(DataConfig(train=str(pair_file), test=str(pair_file), calibration_share=0.2))
    assert given.test.fingerprint == pairs.fingerprint


def test_a_split_that_would_be_empty_is_named(pair_file):
    with pytest.raises(ConfigError, match=r"data\.test is empty: give it a source, or a larger data\.test_share"):
        build_pairs(DataConfig(train=str(pair_file), test_share=0.0))
    with pytest.raises(DataError, match=r"missing\.tsv"):
        build_pairs(DataConfig(train=str(pair_file.with_name("missing.tsv"))))


def test_a_scratch_twin_has_the_size_of_its_config(pairs):
    config = ModelConfig(scratch=ScratchConfig(vocabulary=300, hidden=16, layers=1), dim=8, max_tokens=12)
    twin = build_twin(replace(config, distance="euclidean"), pairs, device="cpu", seed=3)
    assert (twin.dim, twin.left.max_seq_length, twin.distance.name) == (8, 12, "euclidean")
    assert len(twin.left.tokenizer) <= 300
    again = build_twin(config, pairs, device="cpu", seed=3)
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), again.parameters(), strict=True))
    assert twin.left.tokenizer.get_vocab() == again.left.tokenizer.get_vocab()
    other = build_twin(config, pairs, device="cpu", seed=4)
    assert not all(torch.equal(a, b) for a, b in zip(twin.parameters(), other.parameters(), strict=True))


def test_a_head_is_built_as_the_config_says(write, minilm, pairs):
    file = write("model:\n  head: {kind: mahalanobis, rank: 8}\nloss:\n  head: {weight: 0.1}\n")
    config = read_config([file])
    assert config.model.head == HeadConfig(kind="mahalanobis", rank=8)
    heads = [build_twin(config.model, pairs, seed=seed).head for seed in (3, 3, 4)]
    assert all(isinstance(head, Mahalanobis) and head.factor.shape == (384, 8) for head in heads)
    assert torch.equal(heads[0].factor, heads[1].factor)
    assert not torch.equal(heads[0].factor, heads[2].factor)
    plain = read_config([write("model:\n  head: {}\nloss:\n  head: {}\n"), "--model.head.hidden", "7"])
    head = build_twin(plain.model, pairs).head
    assert isinstance(head, PairHead)
    assert head.knobs() == {"kind": "mlp", "dim": 384, "hidden": 7, "dropout": 0.1}


def test_an_asymmetric_twin_is_what_the_config_says(pairs):
    from textsiam.inference.tokens import default_prompt
    from textsiam.models.asymmetric import shared_layers

    small = ["--model.scratch.hidden=16", "--model.scratch.vocabulary=200", "--model.max_tokens=32"]
    prompts = ["--model.left_prompt='ask '", "--model.right_prompt='answer '"]
    for more, expected in (([], "all"), (["--model.shared_layers=all"], "all"), (["--model.shared_layers=1"], 1)):
        twin = build_twin(read_config([*small, *prompts, *more]).model, pairs, device="cpu")
        assert shared_layers(*twin.towers) == expected
        assert [default_prompt(tower) for tower in twin.towers] == ["ask ", "answer "]
    with pytest.raises(ConfigError, match=r"model\.shared_layers"):
        read_config([*small, "--model.shared_layers=most"])


def test_mining_is_off_unless_a_key_of_it_is_given(write):
    from textsiam.training.settings import EpochMining

    assert read_config([]).training.mine is None
    file = write("training:\n  mine: {category: hard, every: 2, positive_share: 0.95}\n")
    expected = EpochMining("hard", every=2, positive_share=0.95)
    assert read_config([file]).training.mine == expected
    assert read_config([write("training: {mine: {}}\n")]).training.mine == EpochMining()
    assert read_config(["--training.mine.as_pairs", "0.2"]).training.mine == EpochMining(as_pairs=0.2)
    with pytest.raises(ConfigError, match=r"unknown key 'training.mine.categry': did you mean 'category'"):
        read_config(["--training.mine.categry", "hard"])
    with pytest.raises(ConfigError, match=r"'training.mine.category' is 'harder', expected one of"):
        read_config(["--training.mine.category", "harder"])
    with pytest.raises(ConfigError, match=r"margin must be > 0, got 0.0"):
        read_config(["--training.mine.margin", "0"])


def test_a_key_that_stands_twice_is_refused(write):
    file = write("training: {max_steps: 1}\noutput: here\ntraining: {learning_rate: 1e-3}\n")
    with pytest.raises(
        ConfigError, match=r"run\.yaml:3: not valid YAML: the key 'training' is there already, in line 1"
    ):
        read_config([file])


@pytest.mark.parametrize("name", ["run #1", "my: run", "a, b", "& more", "what?", "%", "@home", "runs/[1]"])
def test_a_name_on_the_command_line_is_itself(name):
    config = read_config(["--output", name, f"--data.train={name}"])
    assert (config.output, config.data.train) == (name, name)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--model.scratch.layers", "0"], "model.scratch.layers must be >= 1, got 0"),
        (["--model.scratch.hidden", "0"], "model.scratch.hidden must be >= 1, got 0"),
        (["--model.scratch.hidden", "10", "--model.scratch.heads", "3"], "must be a multiple of heads, got 10 and 3"),
        (["--model.scratch.layers", "1", "--model.pooling", "cls"], "a tower from scratch has mean pooling, got 'cls'"),
        (["--model.scratch.layers", "1", "--model.max_tokens", "0"], "model.max_tokens must be >= 3"),
        (["--model.scratch.layers", "1", "--model.image_size", "5"], "model.scratch reads texts"),
    ],
)
def test_a_tower_from_scratch_refuses_what_it_cannot_be(options, problem, pairs):
    with pytest.raises(ConfigError, match=problem):
        build_twin(read_config(options).model, pairs, device="cpu")
