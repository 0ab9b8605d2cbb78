"""Configuration: frozen dataclasses, read from YAML and `--key value`; the `build_*` functions are where it stops."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from textsiam.loss_config import DistanceName, LossConfig, OnlineContrastiveConfig
from textsiam.loss_config import build_objective as build_objective
from textsiam.training.settings import Settings, VerifierSettings
from textsiam.yamlfile import ConfigError, line_of, overrides, put, read_yaml

if TYPE_CHECKING:
    from textsiam.data.pairs import Pairs
    from textsiam.data.splits import Splits
    from textsiam.models.learned import Head
    from textsiam.models.twin import Twin


@dataclass(frozen=True)
class DataConfig:
    """Where pairs come from. A split without a source of its own is cut from `train`, question-disjoint.

    Attributes:
        train: A file, a Hub id, or "sample:forum".
        validation: Pairs that choose the best weights.
        calibration: Pairs that the probability and the threshold are learned from.
        test: Pairs that the report is about.
        validation_share: Share of `train` that is cut for validation when it has no source.
        calibration_share: The same for calibration.
        test_share: The same for test.
        columns: Names of the columns, where they are not recognised: left, right, label.
        on_bad_row: "error" stops at the first bad row, "skip" counts it and goes on.
        pairs: Pairs that are drawn for training where `train` holds labelled images (a folder or .zip of class folders,
            an idx file); None draws 20,000, or as many as there are.
        unseen: Classes of images, or folders of classes, that only the test sees.
        disjoint: Give every split classes of its own, instead of images of its own.
        seed: Seed of the cut.
    """

    train: str = "sample:forum"
    validation: str | None = None
    calibration: str | None = None
    test: str | None = None
    validation_share: float = 0.05
    calibration_share: float = 0.05
    test_share: float = 0.1
    columns: dict[str, str] | None = None
    on_bad_row: Literal["error", "skip"] = "error"
    pairs: int | None = None
    unseen: list[str] | None = None
    disjoint: bool = False
    seed: int = 0


@dataclass(frozen=True)
class ScratchConfig:
    """A small transformer without pretrained weights; its vocabulary is learned from the training texts."""

    vocabulary: int = 8192
    hidden: int = 128
    layers: int = 2
    heads: int = 2


@dataclass(frozen=True)
class ScratchImageConfig:
    """A small CNN without pretrained weights; see `textsiam.models.scratch.scratch_image_encoder`.

    Attributes:
        size: Side of the square that images are resized to, in pixels.
        channels: 1 for grey, 3 for colour.
        widths: Channels of each stage.
        depths: Blocks of each stage.
    """

    size: int = 28
    channels: int = 1
    widths: list[int] = field(default_factory=lambda: [32, 64, 128])
    depths: list[int] = field(default_factory=lambda: [1, 1, 1])


@dataclass(frozen=True)
class HeadConfig:
    """A learned metric that scores the pairs; `loss.head` trains it. See `textsiam.models.learned`.

    Attributes:
        kind: A perceptron on what two embeddings share and what sets them apart, or a Mahalanobis distance.
        hidden: Hidden units of the perceptron.
        dropout: Share of them that training leaves out.
        rank: Rank of the Mahalanobis matrix; None is full.
        diagonal: Keep the Mahalanobis matrix diagonal.
    """

    kind: Literal["mlp", "mahalanobis"] = "mlp"
    hidden: int = 256
    dropout: float = 0.1
    rank: int | None = None
    diagonal: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """What the twin is made of.

    Attributes:
        left: Backbone or saved tower, by folder or Hub id.
        right: Another one for right texts (half-twin); None shares `left`.
        left_prompt: What stands before each left text; None keeps what the tower comes with.
        right_prompt: The same for right texts, "" for none. If nothing else differs, the sides share all weights.
        shared_layers: How many layers of the transformer, counted from below, both sides of a half-twin share.
        scratch: Build `left` from scratch instead: a transformer for texts.
        scratch_image: The same for images: a CNN.
        pooling: How token vectors become one; None keeps what a saved tower has, and is mean otherwise.
        dim: Project to this many dimensions; None keeps the width of the backbone.
        max_tokens: Cut texts after this many tokens; None keeps the model's limit.
        image_size: Resize images to a square of this side, in pixels; None keeps what the model comes with.
        distance: What scores come from.
        head: A learned metric that scores the pairs instead; candidates are still found by the distance.
        trust_remote_code: Run code that comes with a model.
    """

    left: str = "sentence-transformers/all-MiniLM-L6-v2"
    right: str | None = None
    left_prompt: str | None = None
    right_prompt: str | None = None
    shared_layers: int | Literal["all"] | None = None
    scratch: ScratchConfig | None = None
    scratch_image: ScratchImageConfig | None = None
    pooling: Literal["mean", "cls", "max", "weightedmean", "lasttoken"] | None = None
    dim: int | None = None
    max_tokens: int | None = 128
    image_size: int | None = None
    distance: DistanceName = "cosine"
    head: HeadConfig | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class DecisionConfig:
    """How the threshold is learned from the calibration pairs.

    Attributes:
        rule: What it maximises.
        precision: A precision that it must reach with 95 % confidence, instead of the rule.
        prior: Share of duplicates where the twin will be used; None takes that of the calibration pairs.
    """

    rule: Literal["f1", "accuracy"] = "f1"
    precision: float | None = None
    prior: float | None = None


@dataclass(frozen=True)
class Config:
    """Everything that defines a run.

    Attributes:
        output: Folder for the model, the report, checkpoints and logs.
        data: Where pairs come from.
        model: What the twin is made of.
        loss: What is minimised.
        training: Knobs of the loop.
        verifier: A cross-encoder that is asked where the trained twin is in doubt; None does without.
        decision: How the threshold is learned.
        resume: Go on from the newest checkpoint in `output`.
        overwrite: Replace a run that is already in `output`.
    """

    output: str = "runs/quickstart"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=lambda: LossConfig(online_contrastive=OnlineContrastiveConfig()))
    training: Settings = field(default_factory=Settings)
    verifier: VerifierSettings | None = None
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    resume: bool = False
    overwrite: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the config as plain values, for JSON and YAML."""
        return asdict(self)


def read_config(arguments: Sequence[str]) -> Config:
    """Read a config from command-line arguments: `[FILE] [--key value | --key=value | --flag] ...`.

    Args:
        arguments: An optional YAML file first, then overrides such as `--training.learning_rate 2e-5`.

    Raises:
        ConfigError: The file is missing or broken, a key is unknown, or a value does not fit; the message names
            file, line, key and value.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    arguments = list(arguments)
    tree: dict[str, Any] = {}
    file = None
    if arguments and not arguments[0].startswith("-"):
        file = Path(arguments.pop(0))
        tree = read_yaml(file, _check_key)
        if isinstance(named := tree.get("loss"), dict) and named:
            tree["loss"] = {**dict.fromkeys(f.name for f in fields(LossConfig)), **named}  # no other loss is on
    given = dict(overrides(arguments))
    for key, value in given.items():
        _check_key(key, f"--{key}")
        put(tree, key, value)
    _check_sections(tree, file, given)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config)
    try:
        return Config(**vars(parser.instantiate(parser.parse_object(tree))))
    except (ArgumentError, ValueError, TypeError) as error:
        raise ConfigError(_explain(error, file, given)) from error


def build_pairs(config: DataConfig) -> Splits:
    """Read the pairs of a run and cut the splits that have no source of their own.

    Raises:
        DataError: A source cannot be read.
        ConfigError: The calibration or test split would be empty.
    """
    from textsiam.data.images import holds_images, read_images, split_labelled
    from textsiam.data.pairs import read_pairs
    from textsiam.data.splits import split_pairs

    def read(source: str) -> Pairs:
        return read_pairs(source, columns=config.columns, on_bad_row=config.on_bad_row)

    names = ("validation", "calibration", "test")
    given = {name: source for name in names if (source := getattr(config, name)) is not None}
    shares = {name: 0.0 if name in given else getattr(config, f"{name}_share") for name in names}
    if holds_images(config.train):
        images = read_images(config.train, on_bad_row=config.on_bad_row)
        drawn = {"pairs": config.pairs, "unseen": config.unseen, "disjoint": config.disjoint}
        cut = split_labelled(images, **shares, **drawn, seed=config.seed)
    elif config.pairs is not None or config.unseen or config.disjoint:
        raise ConfigError(f"data.pairs, data.unseen and data.disjoint are for labelled images; {config.train} has none")
    else:
        cut = split_pairs(read(config.train), **shares, seed=config.seed)
    splits = cut.replacing(**{name: read(source) for name, source in given.items()}) if given else cut
    for name in ("train", "calibration", "test"):
        if len(getattr(splits, name)) == 0:
            raise ConfigError(f"data.{name} is empty: give it a source, or a larger data.{name}_share")
    return splits


def build_twin(config: ModelConfig, train: Pairs, *, device: str | None = None, seed: int = 0) -> Twin:
    """Build the twin of a run.

    Raises:
        ModelError: A model cannot be found, or an option does not fit it.
    """
    from textsiam.models.encoders import encoder
    from textsiam.models.halves import sides
    from textsiam.models.scratch import scratch_image_encoder, scratch_text_encoder
    from textsiam.models.twin import Twin

    def tower(name: str) -> Any:
        return encoder(
            name,
            pooling=config.pooling,
            dim=config.dim,
            max_tokens=config.max_tokens,
            size=config.image_size,
            device=device,
            trust_remote_code=config.trust_remote_code,
        )

    if config.scratch is not None and config.scratch_image is not None:
        raise ConfigError("model.scratch is for texts and model.scratch_image for images: give one of them")
    if config.scratch_image is not None:
        left = scratch_image_encoder(**asdict(config.scratch_image), dim=config.dim, seed=seed, device=device)
    elif config.scratch is None:
        left = tower(config.left)
    else:
        size = asdict(config.scratch)
        left = scratch_text_encoder(
            train.texts, **size, dim=config.dim, max_tokens=config.max_tokens or 128, seed=seed, device=device
        )
    right = None if config.right is None else tower(config.right)
    differences = {"left_prompt": config.left_prompt, "right_prompt": config.right_prompt}
    towers = sides(left, right, shared_layers=config.shared_layers, **differences)
    twin = Twin(*towers, distance=config.distance)
    if config.head is not None:
        twin.head = build_head(config.head, twin.dim, seed=seed).to(twin.left.device)
    return twin


def build_head(config: HeadConfig, dim: int, *, seed: int = 0) -> Head:
    """Build the head of a twin whose vectors have `dim` dimensions.

    Raises:
        ValueError: A rank that does not fit.
    """
    import torch

    from textsiam.models.learned import Mahalanobis, PairHead

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if config.kind == "mahalanobis":
            return Mahalanobis(dim, rank=config.rank, diagonal=config.diagonal)
        return PairHead(dim, hidden=config.hidden, dropout=config.dropout)


def _check_key(key: str, where: str) -> bool:
    """Refuse an unknown key; return whether keys of ours may lie below it."""
    owner: Any = Config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        names = [f.name for f in fields(owner)]
        if part not in names:
            near = get_close_matches(part, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names)}"
            raise ConfigError(f"{where}: unknown key {'.'.join(parts[: depth + 1])!r}: {hint}")
        if parts[: depth + 1] == ["data", "columns"]:
            return False  # what lies below are the user's own names
        hint = get_type_hints(owner)[part]
        below = next((t for t in (hint, *get_args(hint)) if isinstance(t, type) and is_dataclass(t)), None)
        if below is None and depth + 1 < len(parts):
            raise ConfigError(f"{where}: {'.'.join(parts[: depth + 1])!r} is a value, nothing lies below it")
        owner = below
    return True


def _check_sections(tree: dict[str, Any], file: Path | None, given: Mapping[str, Any]) -> None:
    """Refuse a value where a section belongs; an empty section has its defaults."""
    for key, hint in get_type_hints(Config).items():
        if is_dataclass(hint) and tree.get(key, {}) is None:
            del tree[key]
        elif is_dataclass(hint) and not isinstance(tree.get(key, {}), dict):
            raise ConfigError(f"{_source(key, file, given)}: {key!r} is a section, got the value {tree[key]!r}")


def _explain(error: Exception, file: Path | None, given: Mapping[str, Any]) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip()
    # Inside an optional section, jsonargparse names the section first and the key below it later.
    key = ".".join(re.findall(r'Parser key "([\w.]+)":', text))
    source = _source(key, file, given) if key else str(file or "config")
    problem = re.search(r"Expected an? (.+?)\. Got value: (.*?)(?: - Expected a |$)", text)
    if not key or problem is None:
        return f"{source}: {text}"
    expected = re.sub(r"<class '(\w+)'>|typing\.Literal", lambda m: m[1] or "one of ", problem[1])
    return f"{source}: {key!r} is {problem[2]!r}, expected {expected}"


def _source(key: str, file: Path | None, given: Mapping[str, Any]) -> str:
    """Return the option that set a key, or its line (or that of the section around it) in the file."""
    for option in given:
        if f"{option}.".startswith(f"{key}.") or f"{key}.".startswith(f"{option}."):
            return f"--{option}"
    while file is not None and key:
        if line := line_of(file, key):
            return f"{file}:{line}"
        key = key.rpartition(".")[0]
    return str(file or "config")
