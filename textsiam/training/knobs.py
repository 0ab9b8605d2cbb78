"""Knobs that say themselves which values they take: fields of a dataclass, with bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field, fields
from typing import Any


def knob(default: float | None, what: str, holds: Callable[[Any], bool]) -> Any:
    """Return a field whose values must be `what`, that is, hold; None is left alone."""
    return field(default=default, metadata={"what": what, "holds": holds})


def positive(default: float | None) -> Any:
    """Return a field whose values must be > 0."""
    return knob(default, "> 0", lambda x: x > 0)


def not_negative(default: float | None) -> Any:
    """Return a field whose values must be >= 0."""
    return knob(default, ">= 0", lambda x: x >= 0)


def at_least_one(default: int | None) -> Any:
    """Return a field whose values must be >= 1."""
    return knob(default, ">= 1", lambda x: x >= 1)


def below_one(default: float | None) -> Any:
    """Return a field whose values must be in [0, 1)."""
    return knob(default, "in [0, 1)", lambda x: 0 <= x < 1)


def share(default: float | None) -> Any:
    """Return a field whose values must lie between 0 and 1."""
    return knob(default, "between 0 and 1", lambda x: 0 < x < 1)


def check_knobs(owner: Any) -> None:
    """Refuse values out of the bounds of the fields of a dataclass, and numbers that are not finite.

    Raises:
        ValueError: One is; the message names it.
    """
    for f in fields(owner):
        value = getattr(owner, f.name)
        if value is not None and "holds" in f.metadata and not f.metadata["holds"](value):
            raise ValueError(f"{f.name} must be {f.metadata['what']}, got {value}")
        if "holds" in f.metadata and isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{f.name} must be a finite number, got {value}")
