"""Configuration: frozen dataclasses, read from YAML and `--key value`; the `build_*` functions are where it stops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

import yaml

from textsiam.training.settings import Settings

if TYPE_CHECKING:
    from textsiam.data.pairs import Pairs
    from textsiam.data.splits import Splits
    from textsiam.models.twin import Twin
    from textsiam.training.objective import Objective

DistanceName = Literal["cosine", "euclidean", "squared_euclidean", "manhattan"]


class ConfigError(ValueError):
    """A config that cannot be used; the message names file, line, key and value."""


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
    seed: int = 0


@dataclass(frozen=True)
class ScratchConfig:
    """A small transformer without pretrained weights; its vocabulary is learned from the training texts."""

    vocabulary: int = 8192
    hidden: int = 128
    layers: int = 2
    heads: int = 2


@dataclass(frozen=True)
class ModelConfig:
    """What the twin is made of.

    Attributes:
        left: Backbone or saved tower, by folder or Hub id.
        right: Another one for right texts (half-twin); None shares `left`.
        scratch: Build `left` from scratch instead.
        pooling: How token vectors become one; None keeps what a saved tower has, and is mean otherwise.
        dim: Project to this many dimensions; None keeps the width of the backbone.
        max_tokens: Cut texts after this many tokens; None keeps the model's limit.
        distance: What scores come from.
        trust_remote_code: Run code that comes with a model.
    """

    left: str = "sentence-transformers/all-MiniLM-L6-v2"
    right: str | None = None
    scratch: ScratchConfig | None = None
    pooling: Literal["mean", "cls", "max", "weightedmean", "lasttoken"] | None = None
    dim: int | None = None
    max_tokens: int | None = 128
    distance: DistanceName = "cosine"
    trust_remote_code: bool = False


@dataclass(frozen=True)
class ContrastiveConfig:
    """See `textsiam.training.losses.contrastive`."""

    weight: float = 1.0
    margin: float = 0.5
    distance: DistanceName = "cosine"
    form: Literal["margin_minus_distance", "squared_margin"] = "margin_minus_distance"


@dataclass(frozen=True)
class OnlineContrastiveConfig:
    """See `textsiam.training.losses.online_contrastive`."""

    weight: float = 1.0
    margin: float = 0.5
    distance: DistanceName = "cosine"


@dataclass(frozen=True)
class TripletConfig:
    """See `textsiam.training.losses.triplet`."""

    weight: float = 1.0
    margin: float = 0.3
    distance: DistanceName = "cosine"


@dataclass(frozen=True)
class InfoNCEConfig:
    """See `textsiam.training.losses.info_nce`."""

    weight: float = 1.0
    temperature: float = 0.05


@dataclass(frozen=True)
class LossConfig:
    """The losses whose weighted sum is minimised; each is on when it is named."""

    contrastive: ContrastiveConfig | None = None
    online_contrastive: OnlineContrastiveConfig | None = None
    triplet: TripletConfig | None = None
    info_nce: InfoNCEConfig | None = None


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
        decision: How the threshold is learned.
        resume: Go on from the newest checkpoint in `output`.
        overwrite: Replace a run that is already in `output`.
    """

    output: str = "runs/quickstart"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=lambda: LossConfig(online_contrastive=OnlineContrastiveConfig()))
    training: Settings = field(default_factory=Settings)
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
        tree = _read_yaml(file)
    overrides = dict(_overrides(arguments))
    for key, value in overrides.items():
        _check_key(key, f"--{key}")
        _put(tree, key, value)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config)
    try:
        return Config(**vars(parser.instantiate(parser.parse_object(tree))))
    except (ArgumentError, ValueError, TypeError) as error:
        raise ConfigError(_explain(error, file, overrides)) from error


def build_pairs(config: DataConfig) -> Splits:
    """Read the pairs of a run and cut the splits that have no source of their own.

    Raises:
        DataError: A source cannot be read.
        ConfigError: The calibration or test split would be empty.
    """
    from dataclasses import replace

    from textsiam.data.pairs import read_pairs
    from textsiam.data.splits import split_pairs

    def read(source: str) -> Pairs:
        return read_pairs(source, columns=config.columns, on_bad_row=config.on_bad_row)

    names = ("validation", "calibration", "test")
    given = {name: source for name in names if (source := getattr(config, name)) is not None}
    shares = {name: 0.0 if name in given else getattr(config, f"{name}_share") for name in names}
    cut = split_pairs(read(config.train), **shares, seed=config.seed)
    splits = replace(cut, **{name: read(source) for name, source in given.items()})
    for name in ("train", "calibration", "test"):
        if len(getattr(splits, name)) == 0:
            raise ConfigError(f"data.{name} is empty: give it a source, or a larger data.{name}_share")
    return splits


def build_twin(config: ModelConfig, train: Pairs, *, device: str | None = None, seed: int = 0) -> Twin:
    """Build the twin of a run.

    Raises:
        ModelError: A model cannot be found, or an option does not fit it.
    """
    from textsiam.models.encoders import scratch_text_encoder, text_encoder
    from textsiam.models.twin import Twin

    def tower(name: str) -> Any:
        return text_encoder(
            name,
            pooling=config.pooling,
            dim=config.dim,
            max_tokens=config.max_tokens,
            device=device,
            trust_remote_code=config.trust_remote_code,
        )

    if config.scratch is None:
        left = tower(config.left)
    else:
        size = asdict(config.scratch)
        left = scratch_text_encoder(
            train.texts, **size, dim=config.dim, max_tokens=config.max_tokens or 128, seed=seed, device=device
        )
    return Twin(left, None if config.right is None else tower(config.right), distance=config.distance)


def build_objective(config: LossConfig) -> Objective:
    """Build what a run minimises.

    Raises:
        ConfigError: No loss is named.
        ValueError: A weight, margin or temperature is not positive.
    """
    from textsiam.models.distances import distance_named
    from textsiam.training import objective

    makers = {
        "contrastive": objective.contrastive_term,
        "online_contrastive": objective.online_contrastive_term,
        "triplet": objective.triplet_term,
        "info_nce": objective.info_nce_term,
    }
    terms = {}
    for name, maker in makers.items():
        chosen = getattr(config, name)
        if chosen is not None:
            knobs = asdict(chosen)
            weight = knobs.pop("weight")
            if "distance" in knobs:
                knobs["distance"] = distance_named(knobs["distance"])
            terms[name] = (weight, maker(**knobs))
    if not terms:
        raise ConfigError(f"loss: name at least one of {', '.join(makers)}")
    return objective.Objective(terms, needs_negatives="triplet" in terms, positives_only=set(terms) == {"triplet"})


def _read_yaml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        near = (
            get_close_matches(file.name, [p.name for p in file.parent.glob("*.yaml")], n=1)
            if file.parent.is_dir()
            else []
        )
        raise ConfigError(f"{file}: no such file" + (f"; did you mean {file.parent / near[0]}?" if near else ""))
    try:
        text = file.read_text(encoding="utf-8")
        for key, line in _keys(yaml.compose(text)):
            _check_key(key, f"{file}:{line}")
        tree = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 at byte {error.start}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}:1: expected keys and values, got {type(tree).__name__}")
    return tree


class _Loader(yaml.SafeLoader):
    """YAML 1.2 floats: `2e-5` is a number, as everyone expects (YAML 1.1 reads a string)."""


def _float_resolver() -> None:
    import re

    pattern = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)([eE][-+]?\d+)?$")
    _Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
    for first in "-+0123456789.":
        _Loader.yaml_implicit_resolvers.setdefault(first, []).append(("tag:yaml.org,2002:float", pattern))


_float_resolver()


def _keys(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            key = f"{prefix}{name.value}"
            yield key, name.start_mark.line + 1
            if not _is_free(key):
                yield from _keys(value, f"{key}.")


def _is_free(key: str) -> bool:
    """Whether what lies below a key is the user's own, and not fields of ours."""
    return key == "data.columns"


def _check_key(key: str, where: str) -> None:
    owner: Any = Config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        names = [f.name for f in fields(owner)]
        if part not in names:
            near = get_close_matches(part, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names)}"
            raise ConfigError(f"{where}: unknown key {'.'.join(parts[: depth + 1])!r}: {hint}")
        if _is_free(".".join(parts[: depth + 1])):
            return
        hint = get_type_hints(owner)[part]
        below = next((t for t in (hint, *get_args(hint)) if isinstance(t, type) and is_dataclass(t)), None)
        if below is None and depth + 1 < len(parts):
            raise ConfigError(f"{where}: {'.'.join(parts[: depth + 1])!r} is a value, nothing lies below it")
        owner = below


def _overrides(arguments: Sequence[str]) -> Iterator[tuple[str, Any]]:
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        if not option.startswith("--") or len(option) == 2:
            raise ConfigError(f"{option!r}: expected --key value (the config file comes first)")
        key, equals, value = option[2:].partition("=")
        if equals:
            text: str | None = value
        elif rest and not rest[0].startswith("--"):
            text = rest.pop(0)
        else:
            text = "true"  # a bare flag
        try:
            yield key, yaml.load(text, Loader=_Loader)
        except yaml.YAMLError:
            yield key, text


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[last] = value


def _explain(error: Exception, file: Path | None, overrides: Mapping[str, Any]) -> str:
    import re

    text = re.sub(r"\s+", " ", str(error)).strip()
    key = re.search(r'key "([\w.]+)"', text)
    source = f"--{key[1]}" if key and key[1] in overrides else str(file or "config")
    if key and source == str(file) and file is not None:
        lines = dict(_keys(yaml.compose(file.read_text(encoding="utf-8"))))
        source = f"{file}:{lines[key[1]]}" if key[1] in lines else source
    return f"{source}: {text}"
