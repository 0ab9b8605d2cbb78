"""textsiam: twin encoders that know when two texts ask the same thing.

Importing this package loads neither torch nor transformers: every public name is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textsiam.data.pairs import Pairs, read_pairs
    from textsiam.data.splits import split_pairs
    from textsiam.evaluation.pairs import evaluate_pairs
    from textsiam.models.decision import Decision, Verdict
    from textsiam.models.encoders import text_encoder
    from textsiam.models.twin import Twin
    from textsiam.search.join import find_duplicates
    from textsiam.training.loop import train

__version__ = "0.1.0"

__all__ = [
    "Decision",
    "Pairs",
    "Twin",
    "Verdict",
    "evaluate_pairs",
    "find_duplicates",
    "read_pairs",
    "split_pairs",
    "text_encoder",
    "train",
]

_HOME = {
    "Decision": "models.decision",
    "Pairs": "data.pairs",
    "Twin": "models.twin",
    "Verdict": "models.decision",
    "evaluate_pairs": "evaluation.pairs",
    "find_duplicates": "search.join",
    "read_pairs": "data.pairs",
    "split_pairs": "data.splits",
    "text_encoder": "models.encoders",
    "train": "training.loop",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'textsiam' has no attribute {name!r}")
    return getattr(import_module(f"textsiam.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
