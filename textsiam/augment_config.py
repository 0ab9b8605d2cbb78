"""How the augmentations of a run are made of its configuration."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from textsiam.data.augment import Augment
from textsiam.dotted import dotted, made_by, named_by
from textsiam.yamlfile import ConfigError


def read_augment(given: Any, key: str) -> Any:
    """Check what stands at a config key and make an `Augment` of knobs; nothing is imported.

    Raises:
        ConfigError: A knob is unknown or out of bounds, or the value has another form.
    """
    if isinstance(given, list):
        return [read_augment(each, f"{key}[{place}]") for place, each in enumerate(given)]
    if isinstance(given, str) or (isinstance(given, dict) and any("." in str(name) for name in given)):
        dotted(given, key)
        return given
    if not isinstance(given, dict):
        raise ConfigError(
            f"{key} is {given!r}, expected knobs, module.name, {{module.name: {{knobs}}}} or a list of these"
        )
    names = [f.name for f in fields(Augment)]
    for name in given:
        if name not in names:
            near = get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names)}"
            raise ConfigError(f"unknown key '{key}.{name}': {hint}")
    try:
        return Augment(**given)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error


def build_augment(given: Any, key: str = "training.augment") -> Any:
    """Import and make the augmentations of the user's own; what is made already stays.

    Raises:
        ConfigError: One cannot be imported or made, or is neither a function nor a dataclass.
    """
    if isinstance(given, list):
        return [build_augment(each, f"{key}[{place}]") for place, each in enumerate(given)]
    if not isinstance(given, (str, dict)):
        return given
    path, knobs = dotted(given, key)
    named = named_by(path, key)
    if not isinstance(named, type):
        if knobs:
            raise ConfigError(f"{key}: {path} is a function, which has no knobs: make it a dataclass with __call__")
        return named
    if not is_dataclass(named):  # its knobs belong to the identity of a run
        raise ConfigError(f"{key}: {path} must be a dataclass: its fields are its knobs")
    return made_by(named, path, knobs, key)
