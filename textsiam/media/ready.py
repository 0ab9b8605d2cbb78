"""A string that stands for an input of which what a tower takes is known already."""

from __future__ import annotations

from typing import Any


class Ready(str):
    """A string that stands for an input which was made ready for a tower already, whatever name it had."""

    features: Any

    def __new__(cls, key: str, features: Any) -> Ready:
        """Return a string that equals no input's own: no text and no name has half of a surrogate pair."""
        made = super().__new__(cls, f"\ud800{key}")
        made.features = features
        return made
