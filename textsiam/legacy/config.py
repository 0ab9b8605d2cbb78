"""Keys of a config as version 0.1 named them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from textsiam.yamlfile import ConfigError

# The work on drawings of digits is a project of its own now.
_EXAMPLE = "examples/unseen_digits"
_DRAWING_KEYS = {
    "model.scratch_image.drawings": "model.builder: {unseen_digits.drawing_tower: {…}}",
    "model.scratch_image.enclosures": "model.builder: {unseen_digits.drawing_tower: {enclosures: true}}",
    "training.augment.thickness": "training.augment: {unseen_digits.Pen: {thickness: …}}",
    "training.augment.stroke": "training.augment: {unseen_digits.Pen: {stroke: …}}",
    "training.augment_clusters.thickness": "training.augment: {unseen_digits.Pen: {thickness: …, clusters: true}}",
    "training.augment_clusters.stroke": "training.augment: {unseen_digits.Pen: {stroke: …, clusters: true}}",
}
_CLUSTERS = "training.augment_clusters"


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
    "training.accumulation": Renamed("training.gradient_accumulation_steps"),
    "training.average": Renamed("training.ema_decay"),
    "training.runs": Renamed("training.seeds"),
    "training.leave_out": Renamed("training.cross_fit"),
    "verifier": Renamed("reranker", {}, {"wording": "lexical_features"}),
}


def rewrite_config(tree: dict[str, Any], place: Callable[[str], str]) -> dict[str, str]:
    """Give every old key in the tree of a config its new name, with a warning; an old key that is null goes.

    Args:
        tree: Nested keys and values; changed in place.
        place: Says where a dotted key was given, for example `run.yaml:3`.

    Returns:
        new key → old key of all that changed.

    Raises:
        ConfigError: An old key stands beside the new one, or beside another old key that became the same; or it has
            no successor in the package.
    """
    _read_old_image_keys(tree, place)
    changed: dict[str, str] = {}
    for old, new in RENAMED.items():
        parent, name = _parent(tree, old)
        if parent is None or name not in parent:
            continue
        value = parent.pop(name)
        if value is None:
            continue
        says = f"'{new.now}'"
        if isinstance(value, dict):
            says += "".join(f", {k!r} in it {now!r}" for k, now in new.below.items() if k in value)
            value = {**new.implied, **{new.below.get(k, k): v for k, v in value.items()}}
            if new.implied:
                says = f"'{new.now}: {{{', '.join(f'{k}: {value[k]}' for k in new.implied)}}}'"
        home, name = _parent(tree, new.now)
        assert home is not None
        if home.get(name) is not None:
            twice = changed.get(new.now, new.now)
            raise ConfigError(f"{place(old)}: {old!r} and {twice!r} are one key today: name {new.now!r} alone")
        home[name], changed[new.now] = value, old
        warnings.warn(f"{place(old)}: {old!r} is now {says}", FutureWarning, stacklevel=3)
    return changed


def _parent(tree: dict[str, Any], key: str) -> tuple[dict[str, Any] | None, str]:
    """Return the section that a dotted key stands in, None where there is none, and the key's own name."""
    *path, name = key.split(".")
    section: Any = tree
    for part in path:
        section = section.get(part) if isinstance(section, dict) else None
    return section if isinstance(section, dict) else None, name


def without_epochs(epochs: int, *, lexical_features: bool) -> dict[str, Any]:
    """Return what `verifier: {epochs: 0, wording: true}` means now, and warn; nothing for other settings."""
    if epochs or not lexical_features:
        return {}
    warnings.warn("reranker.epochs: 0 is now reranker.model: lexical", FutureWarning, stacklevel=4)
    return {"epochs": 1, "model": "lexical"}


def _read_old_image_keys(tree: dict[str, Any], place: Callable[[str], str]) -> None:
    """Bring the keys of 0.1 for images into today's form, in place; what was off is left out."""
    for key, successor in _DRAWING_KEYS.items():
        where = place(key)
        if _taken(tree, key):
            raise ConfigError(f"{where}: {key}: has moved to {_EXAMPLE}: {successor}")
    if shared := _taken(tree, _CLUSTERS):
        own = tree["training"].get("augment") or []
        own = own if isinstance(own, list) else [own]
        tree["training"]["augment"] = [{**shared, "clusters": True}, *own]
        warnings.warn(
            f"{_CLUSTERS} is now an item of training.augment: {tree['training']['augment']}",
            FutureWarning,
            stacklevel=3,
        )


def _taken(tree: dict[str, Any], key: str) -> Any:
    """Take a dotted key out of nested dictionaries."""
    parent, name = _parent(tree, key)
    return None if parent is None else parent.pop(name, None)
