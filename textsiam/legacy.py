"""The words of version 0.1 that have changed since, and how they are read today: the only place for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from textsiam.yamlfile import ConfigError


@dataclass(frozen=True)
class Renamed:
    """What a config key of version 0.1 is today.

    Attributes:
        now: The dotted key.
        implied: What the new section holds where the old one says nothing else.
        below: Keys below it that changed too, old → new.
    """

    now: str
    implied: Mapping[str, Any] = field(default_factory=dict)
    below: Mapping[str, str] = field(default_factory=dict)


def _mined(mining: str) -> Renamed:
    return Renamed("loss.batch_triplet", {"mining": mining})


RENAMED: dict[str, Renamed] = {
    "loss.batch_all": _mined("all"),
    "loss.batch_hard": _mined("hard"),
    "loss.batch_semi_hard": _mined("semi_hard"),
    "loss.batch_easy": _mined("easy"),
    "loss.batch_random": _mined("random"),
    "loss.batch_distance_weighted": _mined("distance_weighted"),
    "loss.debiased_triplet": Renamed("loss.batch_triplet", {"mining": "hard", "balance": 1.0}, {"select": "mining"}),
}


def rewrite_config(tree: dict[str, Any], place: Callable[[str], str]) -> dict[str, str]:
    """Give every old key in the tree of a config its new name, with a warning; an old key that is null goes.

    Args:
        tree: Nested keys and values; changed in place.
        place: Says where a dotted key was given, for example `run.yaml:3`.

    Returns:
        new key → old key of all that changed.

    Raises:
        ConfigError: An old key stands beside the new one, or beside another old key that became the same.
    """
    changed: dict[str, str] = {}
    for old, new in RENAMED.items():
        parent, name = _parent(tree, old)
        if parent is None or name not in parent:
            continue
        value = parent.pop(name)
        if value is None:
            continue
        also = ""
        if isinstance(value, dict):
            value = {**new.implied, **{new.below.get(k, k): v for k, v in value.items()}}
            also = f": {{{', '.join(f'{k}: {value[k]}' for k in new.implied)}}}"
        home, name = _parent(tree, new.now)
        assert home is not None
        if home.get(name) is not None:
            twice = changed.get(new.now, new.now)
            raise ConfigError(f"{place(old)}: {old!r} and {twice!r} are one key today: name {new.now!r} alone")
        home[name], changed[new.now] = value, old
        warnings.warn(f"{place(old)}: {old!r} is now '{new.now}{also}'", FutureWarning, stacklevel=3)
    return changed


def _parent(tree: dict[str, Any], key: str) -> tuple[dict[str, Any] | None, str]:
    """Return the section that a dotted key stands in, None where there is none, and the key's own name."""
    *path, name = key.split(".")
    section: Any = tree
    for part in path:
        section = section.get(part) if isinstance(section, dict) else None
    return section if isinstance(section, dict) else None, name
