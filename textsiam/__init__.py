"""textsiam: twin encoders that know when two texts ask, or two images show, the same thing.

Importing this package loads neither torch nor transformers: every public name is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textsiam.data.images import read_images
    from textsiam.data.pairs import Pairs
    from textsiam.data.splits import split_pairs
    from textsiam.evaluation.pairs import evaluate_pairs
    from textsiam.models.decision import Decision, Verdict
    from textsiam.models.encoders import image_encoder, text_encoder
    from textsiam.models.ensemble import Ensemble
    from textsiam.models.scratch import scratch_image_encoder, scratch_text_encoder
    from textsiam.models.twin import Twin
    from textsiam.search.check import check
    from textsiam.search.duplicates import find_duplicates
    from textsiam.search.feeding import add_questions
    from textsiam.search.gallery import Gallery
    from textsiam.search.opening import create_index, open_index
    from textsiam.sources import read_pairs
    from textsiam.training.loop import train
    from textsiam.training.mining import mine

__version__ = "0.1.0"

__all__ = [
    "Decision",
    "Ensemble",
    "Gallery",
    "Pairs",
    "Twin",
    "Verdict",
    "add_questions",
    "check",
    "create_index",
    "evaluate_pairs",
    "find_duplicates",
    "image_encoder",
    "mine",
    "open_index",
    "read_images",
    "read_pairs",
    "scratch_image_encoder",
    "scratch_text_encoder",
    "split_pairs",
    "text_encoder",
    "train",
]

_HOME = {
    "Decision": "models.decision",
    "Ensemble": "models.ensemble",
    "Gallery": "search.gallery",
    "Pairs": "data.pairs",
    "Twin": "models.twin",
    "Verdict": "models.decision",
    "add_questions": "search.feeding",
    "check": "search.check",
    "create_index": "search.opening",
    "evaluate_pairs": "evaluation.pairs",
    "find_duplicates": "search.duplicates",
    "image_encoder": "models.encoders",
    "mine": "training.mining",
    "open_index": "search.opening",
    "read_images": "data.images",
    "read_pairs": "sources",
    "scratch_image_encoder": "models.scratch",
    "scratch_text_encoder": "models.scratch",
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
