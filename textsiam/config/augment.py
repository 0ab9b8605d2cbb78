"""How the augmentations of a run are made of its configuration."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

from textsiam.dotted import dotted, made
from textsiam.images.augmentation import Augment
from textsiam.yamlfile import ConfigError


def read_augment(given: Any, key: str) -> Any:
    """Make an `Augment` of knobs that stand at a config key, and check the form of anything else; nothing is imported.

    Raises:
        ConfigError: A knob is unknown or out of bounds, or the value has another form.
    """
    if isinstance(given, list):
        return [read_augment(each, f"{key}[{place}]") for place, each in enumerate(given)]
    if not isinstance(given, dict) or any("." in str(name) for name in given):
        dotted(given, key)
        return given
    try:
        return Augment(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {error}") from error


def build_augment(given: Any, key: str = "training.augment") -> Any:
    """Import and make the augmentations of the user's own; what is made already stays.

    Raises:
        ConfigError: One cannot be imported or made, or is no dataclass.
    """
    if isinstance(given, list):
        return [build_augment(each, f"{key}[{place}]") for place, each in enumerate(given)]
    if not isinstance(given, (str, dict)):
        return given
    augment = made(given, key)
    if not is_dataclass(augment) or not callable(augment):  # its knobs belong to the identity of a run
        raise ConfigError(f"{key}: {dotted(given, key)[0]} must be a dataclass with __call__: its fields are its knobs")
    return augment
