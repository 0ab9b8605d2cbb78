"""The collapse alarm: says when all texts get (nearly) the same vector."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from textsiam.training.losses.objective import Embedded


class CollapseWarning(UserWarning):
    """The vectors of different texts have become (nearly) the same."""


def shuffled_cosine(batch: Embedded) -> Tensor:
    """Return the mean cosine of left texts with right texts of other pairs: near 1 when vectors collapse."""
    with torch.no_grad():
        return cosine_similarity(batch.u, batch.v.roll(1, 0)).mean()


def warn_if_collapsed(record: Mapping[str, float], *, limit: float = 0.95) -> None:
    """Warn when random pairs have a mean cosine above the limit: every text gets (nearly) the same vector."""
    if record["random_pair_cosine"] > limit:
        warnings.warn(
            f"step {record['step']:.0f}: random pairs have a mean cosine of {record['random_pair_cosine']:.3f}; the "
            "twin is collapsing. Lower the learning rate, or train with non-duplicates or info_nce.",
            CollapseWarning,
            stacklevel=2,
        )
