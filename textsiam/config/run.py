"""Configuration: frozen dataclasses, read from YAML and `--key value`; the `build_*` functions are where it stops."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from textsiam.config.augment import augmentation_for, read_augment
from textsiam.config.augment import build_augment as build_augment
from textsiam.config.data import DataConfig
from textsiam.config.data import build_pairs as build_pairs
from textsiam.config.data import build_sets as build_sets
from textsiam.config.loss import build_objective as build_objective
from textsiam.config.loss import default_loss, loss_section, loss_sections, with_default
from textsiam.config.model import ModelConfig
from textsiam.config.model import build_head as build_head
from textsiam.config.model import build_twin as build_twin
from textsiam.config.sets import SetConfig
from textsiam.config.sets import build_set as build_set
from textsiam.legacy.config import RENAMED, rewrite_config
from textsiam.legacy.names import OldAttribute
from textsiam.training.knobs import check_knobs, share
from textsiam.training.settings import RerankerSettings, Settings
from textsiam.yamlfile import ConfigError, line_of, overrides, put, read_yaml, together


@dataclass(frozen=True)
class DecisionConfig:
    """How the threshold is learned from the calibration pairs.

    Attributes:
        rule: What it maximises.
        precision: A precision that it must reach with 95 % confidence, instead of the rule.
        prior: Share of duplicates where the twin will be used; None takes that of the calibration pairs.
    """

    rule: Literal["f1", "accuracy"] = "f1"
    precision: float | None = share(None)
    prior: float | None = share(None)

    def __post_init__(self) -> None:
        check_knobs(self)


@dataclass(frozen=True)
class Config:
    """Everything that defines a run.

    Attributes:
        output: Folder for the model, the report, checkpoints and logs.
        data: Where pairs come from.
        model: What the twin is made of.
        loss: What is minimised: the losses by name, and `memory` and `matryoshka`; see `textsiam.config.loss`.
        training: Knobs of the loop.
        reranker: A cross-encoder that is asked where the trained twin is in doubt; None does without.
        decision: How the threshold is learned.
        resume: Go on from the newest checkpoint in `output`.
        overwrite: Replace a run that is already in `output`.
    """

    output: str = "runs/quickstart"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: dict[str, Any] = field(default_factory=default_loss)
    training: Settings = field(default_factory=Settings)
    reranker: RerankerSettings | None = None
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    resume: bool = False
    overwrite: bool = False
    verifier = OldAttribute("reranker")

    def to_dict(self) -> dict[str, Any]:
        """Return the config as plain values, for JSON and YAML."""
        return {**asdict(replace(self, training=Settings())), "training": self.training.to_dict()}


def read_config(arguments: Sequence[str]) -> Config:
    """Read a config from command-line arguments: `[FILE] [--key value | --key=value | --flag] ...`.

    Where the file or an argument names a loss, the default one is off; an argument edits a loss that the file names. A
    dotted path below `loss` is imported, so only pass a file that you would run.

    Args:
        arguments: An optional YAML file first, then overrides such as `--training.learning_rate 2e-5`.

    Raises:
        ConfigError: The file is missing or broken, a key is unknown, or a value does not fit; the message names
            file, line, key and value.
    """
    arguments = list(arguments)
    file = Path(arguments.pop(0)) if arguments and not arguments[0].startswith("-") else None
    tree = {} if file is None else read_yaml(file)
    given = list(overrides(arguments))
    for option, value in given:
        put(tree, _path(option, value, tree), value)
    places = _Places(file, [option for option, _ in given])
    places.renamed = rewrite_config(tree, places)
    faults = _Faults()
    losses = _losses(tree.pop("loss", None), "loss", places, faults)
    augment, more = _augment(tree, places, faults), _more(tree, places, faults)
    tree = _checked(_hints(Config), tree, "", places, faults)
    config = _read(Config, tree, "", places, faults, loss=losses)
    if faults:
        raise together(faults)
    data, training = replace(config.data, more=more), replace(config.training, augment=augment)
    return replace(config, data=data, training=training)


class _Faults(list[ValueError]):
    """All that is wrong with a config, in the order in which it is found."""

    def add(self, message: str) -> None:
        self.append(ConfigError(message))


def _losses(given: Any, key: str, places: _Places, faults: _Faults) -> dict[str, Any]:
    """Read the losses below a key, and `memory` and `matryoshka`; the default one where none is named."""
    losses = {} if given is None else given
    if not isinstance(losses, dict):
        raise ConfigError(f"{places(key)}: {key!r} is a section, got the value {losses!r}")
    own = {name: loss_section(name, places(f"{key}.{name}")) for name in losses if "." in str(name)}
    known = {**loss_sections(), **own}
    checked = _checked(known, losses, f"{key}.", places, faults)
    on = with_default({name: checked.get(name) for name in losses if name in known})
    return {name: _read(known[name], value, f"{key}.{name}.", places, faults) for name, value in on.items()}


def _more(tree: dict[str, Any], places: _Places, faults: _Faults) -> list[str | SetConfig] | None:
    """Take the further sets out of a config: sources, and sections with losses of their own."""
    key, data = "data.more", tree.get("data")
    found = data.pop("more", None) if isinstance(data, dict) else None
    if found is not None and not isinstance(found, list):
        faults.add(f"{places(key)}: {key!r} is {found!r}, expected a list of sources, or of sections with a source")
        return None
    return None if found is None else [_set(each, f"{key}.{n}", places, faults) for n, each in enumerate(found)]


def _set(given: Any, key: str, places: _Places, faults: _Faults) -> Any:
    if isinstance(given, dict):
        losses = None if given.get("loss") is None else _losses(given["loss"], f"{key}.loss", places, faults)
        kept = _checked(_hints(SetConfig), {k: v for k, v in given.items() if k != "loss"}, f"{key}.", places, faults)
        return _read(SetConfig, kept, f"{key}.", places, faults, loss=losses)
    if not isinstance(given, str):
        faults.add(f"{places(key)}: {key!r} is {given!r}, expected a source, or a section with one")
    return given


def _augment(tree: dict[str, Any], places: _Places, faults: _Faults) -> Any:
    """Take the augmentations out of a config: their form depends on what they name."""
    key, training, data = "training.augment", tree.get("training"), tree.get("data")
    source = data.get("train") if isinstance(data, dict) else None
    found = training.pop("augment", None) if isinstance(training, dict) else None
    if isinstance(found, dict) and not any("." in str(name) for name in found):
        found = _checked(_hints(augmentation_for(found, source)), found, f"{key}.", places, faults)
    try:
        return None if found is None else read_augment(found, key, source)
    except ConfigError as error:
        faults.add(f"{places(key)}: {error}")


class _Places:
    """Says where a dotted key was given: the option, or its line (or that of the section around it) in the file."""

    def __init__(self, file: Path | None, options: Sequence[str]) -> None:
        self.file, self.options = file, options
        self.renamed: Mapping[str, str] = {}

    def __call__(self, key: str) -> str:
        for new, old in self.renamed.items():
            if f"{key}.".startswith(f"{new}."):
                key = old + key[len(new) :]
        for option in self.options:
            if f"{option}.".startswith(f"{key}.") or f"{key}.".startswith(f"{option}."):
                return f"--{option}"
        while self.file is not None and key:
            if line := line_of(self.file, key):
                return f"{self.file}:{line}"
            key = key.rpartition(".")[0]
        return str(self.file or "config")


def _path(option: str, value: Any, tree: Mapping[str, Any]) -> list[str]:
    """Return the keys that an option names, one below the other; the dotted path of a user's loss is one key.

    That is one that the file names, or else all but the last part, which is a knob of it.
    """
    top, _, rest = option.partition(".")
    first = rest.partition(".")[0]
    if top != "loss" or not rest or f"loss.{first}" in RENAMED or first in loss_sections():
        return option.split(".")
    named = [str(name) for name in tree.get("loss") or () if f"{rest}.".startswith(f"{name}.")]
    whole = value is None or isinstance(value, dict)
    name = max(named, key=len) if named else rest if whole else rest.rpartition(".")[0] or rest
    return ["loss", name, *filter(None, rest[len(name) + 1 :].split("."))]


def _hints(owner: type) -> dict[str, Any]:
    hints = get_type_hints(owner)
    return {f.name: hints[f.name] for f in fields(owner)}


def _section(kind: Any) -> type | None:
    """Return the dataclass of a section, which may be optional; None for a value."""
    return next((t for t in (kind, *get_args(kind)) if isinstance(t, type) and is_dataclass(t)), None)


def _checked(
    hints: Mapping[str, Any], tree: Mapping[str, Any], prefix: str, places: _Places, faults: _Faults
) -> dict[str, Any]:
    """Leave out unknown keys, and what its key cannot hold; an empty section has its defaults."""
    kept: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if name not in hints:
            near = get_close_matches(str(name), hints, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(hints)}"
            faults.add(f"{places(key)}: unknown key {key!r}: {advice}")
            continue
        below = _section(hints[name])
        if value is None and below is hints[name]:
            continue
        if wrong := _misplaced(hints[name], value):
            faults.add(f"{places(key)}: {key!r} {wrong}")
            continue
        if below is not None and isinstance(value, dict):
            value = _checked(_hints(below), value, f"{key}.", places, faults)
        kept[name] = value
    return kept


def _misplaced(kind: Any, value: Any) -> str | None:
    """Return what is wrong with a null, or with a value where a section belongs or the reverse; None where nothing."""
    kinds, below = (kind, *get_args(kind)), _section(kind)
    if value is None:
        return None if any(each in (Any, None, NoneType) for each in kinds) else "must have a value, got null"
    if below is not None and not isinstance(value, dict) and all(each in (below, NoneType) for each in get_args(kind)):
        return f"is a section, got the value {value!r}"
    of_user = any(get_origin(each) is dict for each in kinds)  # the names below are the user's own
    if below is None and isinstance(value, dict) and not of_user:
        return "is a value, nothing lies below it"
    return None


def _read(owner: Any, tree: Mapping[str, Any], prefix: str, places: _Places, faults: _Faults, **read: Any) -> Any:
    """Make the dataclass of a section of its values, and of the sections below; `read` are fields that have been read.

    A value that does not fit is a fault, and left out; None where it cannot be told which one that is.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    sections = {name: _section(kind) for name, kind in _hints(owner).items() if isinstance(tree.get(name), dict)}
    read |= {
        name: _read(kind, tree[name], f"{prefix}{name}.", places, faults)
        for name, kind in sections.items()
        if kind is not None
    }
    tree = {name: value for name, value in tree.items() if name not in read}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(owner, skip=set(read))
    rest, gone = deepcopy(dict(tree)), set[str]()
    while True:
        try:
            return owner(**vars(parser.instantiate(parser.parse_object(deepcopy(rest)))), **read)
        except (ArgumentError, ValueError, TypeError) as error:
            message, key = _explain(error, owner, prefix, places)
            if key in gone or (gone and "are required" in message):  # only for want of what was left out
                return None
            faults.add(message)
            gone.add(key)
            if not _left_out(rest, key.split(".")):
                return None


def _left_out(tree: dict[str, Any], path: list[str]) -> bool:
    """Take a value out of nested keys; False where there is none."""
    *above, name = path
    for key in above:
        tree = tree[key] if isinstance(tree.get(key), dict) else {}
    return tree.pop(name, None) is not None


def _explain(error: Exception, owner: Any, prefix: str, places: _Places) -> tuple[str, str]:
    """Return what is wrong with a section, and the key of the value below it, "" where nothing tells."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    key = ".".join(re.findall(r'Parser key "([\w.]+)":', text))
    problem = re.search(r"Subtypes: \[(.+?)\] Errors: .* Given value: (.*)$", text) or re.search(
        r"Expected an? (.+?)\. Got value: (.*?)(?: - Expected a |$)", text
    )
    if key and problem is not None:
        kinds = problem[1].replace("<class 'NoneType'>", "").removesuffix(", ")
        kinds = re.sub(r"<class '(\w+)'>|typing\.(Literal)?", lambda m: m[1] or ("one of " if m[2] else ""), kinds)
        expected = re.sub(r", (?![^\[]*\])", " or ", kinds)
        return f"{places(prefix + key)}: {prefix + key!r} is {problem[2]!r}, expected {expected}", key
    knob = text.partition(" ")[0]
    if prefix and knob in {f.name for f in fields(owner)}:
        return f"{places(prefix + knob)}: {prefix}{text}", knob
    section = (prefix + key).rstrip(".")
    return f"{places(section)}: {section + ': ' if prefix else ''}{text}", key
