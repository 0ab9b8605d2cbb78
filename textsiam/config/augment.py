"""How the augmentations of a run are made of its configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any

from textsiam.dotted import dotted, made
from textsiam.modality import MEDIA, modality_of
from textsiam.yamlfile import ConfigError


def augmentation_for(knobs: Iterable[str], source: Any) -> type:
    """Return whose knobs these are: those of what a source holds, or, where it is not there, of what has them all."""
    if (medium := MEDIA.get(modality_of(source))) is not None:
        return medium.augmentation
    kinds = [each.augmentation for each in MEDIA.values()]
    return next((kind for kind in kinds if set(knobs) <= {each.name for each in fields(kind)}), kinds[0])


def read_augment(given: Any, key: str, source: Any = None) -> Any:
    """Make an augmentation of knobs that stand at a config key, and check the form of others; nothing is imported.

    Args:
        given: The value.
        key: Where it stands.
        source: What is trained on, which says whose knobs they are.

    Raises:
        ConfigError: A knob is unknown or out of bounds, or the value has another form.
    """
    if isinstance(given, list):
        return [read_augment(each, f"{key}[{place}]", source) for place, each in enumerate(given)]
    if not isinstance(given, dict) or any("." in str(name) for name in given):
        dotted(given, key)
        return given
    try:
        return augmentation_for(given, source)(**given)
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
