"""A running mean of the weights: steadier than the last step, at the cost of one more copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of trained parameters (Polyak & Juditsky 1992), bias-corrected by its warm-up.

    After t updates the effective decay is `min(decay, (1 + t) / (10 + t))`.

    Args:
        model: Its trained parameters are followed, wherever they are sharded.
        decay: Share of the old mean that each update keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._live = [p for p in model.parameters() if p.requires_grad]
        self._mean = [p.detach().clone() for p in self._live]
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the mean towards the present weights."""
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for mean, live in zip(self._mean, self._live, strict=True):
            mean.lerp_(live.detach(), 1 - decay)
        self._updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the mean weights inside the block, and its own again after it."""
        own = [p.detach().clone() for p in self._live]
        self._copy(self._mean)
        try:
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, weights: list[Tensor]) -> None:
        for parameter, weight in zip(self._live, weights, strict=True):
            parameter.copy_(weight)

    def state_dict(self) -> dict[str, Any]:
        """Return the mean and the number of updates."""
        return {"mean": self._mean, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for mean, saved in zip(self._mean, state["mean"], strict=True):
            mean.copy_(saved)
        self._updates = state["updates"]
