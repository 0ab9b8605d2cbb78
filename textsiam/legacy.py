"""What version 0.1 wrote and this one does not: the only place that knows old words and formats."""

from __future__ import annotations

import warnings
from typing import Any

# The work on drawings of digits is a project of its own now, which registers the CNN that its twins are made of.
_DRAWINGS = "textsiam_drawing_resnet"
_EXAMPLE = "examples/unseen_digits"
_DRAWING_KEYS = {
    "model.scratch_image.drawings": "model.builder: {unseen_digits.drawing_tower: {…}}",
    "model.scratch_image.enclosures": "model.builder: {unseen_digits.drawing_tower: {enclosures: true}}",
    "training.augment.thickness": "training.augment: {unseen_digits.Pen: {thickness: …}}",
    "training.augment.stroke": "training.augment: {unseen_digits.Pen: {stroke: …}}",
}
_CLUSTERS = "training.augment_clusters"
OLD_KEYS = (*_DRAWING_KEYS, _CLUSTERS)


def drawing_model(problem: str) -> str | None:
    """Return what to do about a tower that cannot be opened, if it is one of drawings that 0.1 saved."""
    if _DRAWINGS not in problem:
        return None
    return f"it is a CNN of drawings: import unseen_digits first, the package in {_EXAMPLE}"


def read_old_image_keys(tree: dict[str, Any]) -> None:
    """Bring the keys of 0.1 for images into today's form, in place; what was off is left out.

    Raises:
        ValueError: A key was on that has no successor in the package; the message starts with the key.
    """
    for key, successor in _DRAWING_KEYS.items():
        if _taken(tree, key):
            raise ValueError(f"{key}: has moved to {_EXAMPLE}: {successor}")
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
    *path, last = key.split(".")
    below: Any = tree
    for part in path:
        below = below.get(part) if isinstance(below, dict) else None
    return below.pop(last, None) if isinstance(below, dict) else None
