"""Configuration: frozen dataclasses, read from YAML and `--key value`; the `build_*` functions are where it stops."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from textsiam.augment_config import build_augment as build_augment
from textsiam.augment_config import read_augment
from textsiam.data.augment import Augment
from textsiam.data_config import DataConfig
from textsiam.data_config import build_pairs as build_pairs
from textsiam.legacy import OLD_KEYS, read_old_image_keys
from textsiam.loss_config import LossConfig, OnlineContrastiveConfig
from textsiam.loss_config import build_objective as build_objective
from textsiam.model_config import ModelConfig
from textsiam.model_config import build_head as build_head
from textsiam.model_config import build_twin as build_twin
from textsiam.training.settings import Settings, VerifierSettings
from textsiam.yamlfile import ConfigError, line_of, overrides, put, read_yaml


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
        return {**asdict(replace(self, training=Settings())), "training": self.training.to_dict()}


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
    augment = _read_augment(tree, file, given)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config)
    try:
        config = Config(**vars(parser.instantiate(parser.parse_object(tree))))
    except (ArgumentError, ValueError, TypeError) as error:
        raise ConfigError(_explain(error, file, given)) from error
    return replace(config, training=replace(config.training, augment=augment))


def _read_augment(tree: dict[str, Any], file: Path | None, given: Mapping[str, Any]) -> Any:
    """Take the augmentations out of a config: their form depends on what they name."""
    try:
        read_old_image_keys(tree)
    except ValueError as error:
        raise ConfigError(f"{_source(str(error).partition(':')[0], file, given)}: {error}") from error
    key = "training.augment"
    found = tree["training"].pop("augment", None) if "training" in tree else None
    try:
        return None if found is None else read_augment(found, key)
    except ConfigError as error:
        raise ConfigError(f"{_source(key, file, given)}: {error}") from error


def _check_key(key: str, where: str) -> bool:
    """Refuse an unknown key; return whether keys of ours may lie below it."""
    owner: Any = Config
    parts = key.split(".")
    if any(f"{key}.".startswith(f"{old}.") for old in OLD_KEYS):
        return False
    for depth, part in enumerate(parts):
        names = [f.name for f in fields(owner)]
        if part not in names and owner is Augment and depth + 1 < len(parts):
            return False  # module.name of the user's own, with its knobs below
        if part not in names:
            near = get_close_matches(part, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names)}"
            raise ConfigError(f"{where}: unknown key {'.'.join(parts[: depth + 1])!r}: {hint}")
        if parts[: depth + 1] in (["data", "columns"], ["model", "builder"]):
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
