"""textsiam: twin encoders that know when two texts ask, or two images or sounds hold, the same thing.

Importing this package loads neither torch nor transformers: every public name is imported on first use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

from textsiam.inference.fast.cores import keep_few_kernels, share_cores

if TYPE_CHECKING:
    from textsiam.data.pairs import Pairs
    from textsiam.data.splits import split_pairs
    from textsiam.decision.decision import Decision, Verdict
    from textsiam.evaluation.pairs import evaluate_pairs
    from textsiam.images import read_images
    from textsiam.inference.encoders import image_encoder, text_encoder
    from textsiam.inference.scratch import scratch_image_encoder, scratch_sound_encoder, scratch_text_encoder
    from textsiam.models.ensemble import Ensemble
    from textsiam.models.twin import Twin
    from textsiam.search.duplicates import find_duplicates
    from textsiam.search.factory import create_index, open_index
    from textsiam.search.gallery import Gallery
    from textsiam.search.ingest import add_questions
    from textsiam.search.lookup import check
    from textsiam.sounds import read_sounds
    from textsiam.sources import read_pairs
    from textsiam.training.loop import train
    from textsiam.training.mining.offline import mine

__version__ = "0.2.0"

# Before torch is loaded, if it is not: then its threads wait as they should from the start.
share_cores()
keep_few_kernels()

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
    "read_sounds",
    "scratch_image_encoder",
    "scratch_sound_encoder",
    "scratch_text_encoder",
    "split_pairs",
    "text_encoder",
    "train",
]

_HOME = {
    "Decision": "decision.decision",
    "Ensemble": "models.ensemble",
    "Gallery": "search.gallery",
    "Pairs": "data.pairs",
    "Twin": "models.twin",
    "Verdict": "decision.decision",
    "add_questions": "search.ingest",
    "check": "search.lookup",
    "create_index": "search.factory",
    "evaluate_pairs": "evaluation.pairs",
    "find_duplicates": "search.duplicates",
    "image_encoder": "inference.encoders",
    "mine": "training.mining.offline",
    "open_index": "search.factory",
    "read_images": "images",
    "read_sounds": "sounds",
    "read_pairs": "sources",
    "scratch_image_encoder": "inference.scratch",
    "scratch_sound_encoder": "inference.scratch",
    "scratch_text_encoder": "inference.scratch",
    "split_pairs": "data.splits",
    "text_encoder": "inference.encoders",
    "train": "training.loop",
}


class _OldModules:
    """Asked for what is not in the package: a module of 0.1 is still found under its old name."""

    @staticmethod
    def find_spec(fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith("textsiam.") or fullname.startswith("textsiam.legacy"):
            return None
        from textsiam.legacy.names import OldModules

        return OldModules().find_spec(fullname)


sys.meta_path.append(_OldModules)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'textsiam' has no attribute {name!r}")
    return getattr(import_module(f"textsiam.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
