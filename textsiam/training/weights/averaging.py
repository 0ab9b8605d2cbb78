"""Means of weights: a running one, steadier than the last step, and one with the weights that training started from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn


class WeightAverage(AveragedModel):
    """Exponential moving average of trained parameters (Polyak & Juditsky 1992), bias-corrected by its warm-up.

    After t updates the effective decay is `min(decay, (1 + t) / (10 + t))`.

    Args:
        model: Its trained parameters are followed.
        decay: Share of the old mean that each update keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        live = [p for p in model.parameters() if p.requires_grad]

        def warmed(mean: PARAM_LIST, now: PARAM_LIST, averaged: Tensor | int) -> None:
            count = int(averaged)  # the weights before any update are the first of them
            get_ema_multi_avg_fn(min(decay, count / (9 + count)))(mean, now, averaged)

        super().__init__(nn.ParameterList(live), multi_avg_fn=warmed)
        self._live = live  # in a plain list: they are no part of the state
        self.update()

    def update(self) -> None:
        """Move the mean towards the present weights."""
        self.update_parameters(nn.ParameterList(self._live))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the mean weights inside the block, and its own again after it."""
        own = [p.detach().clone() for p in self._live]
        self._copy(self.module.parameters())
        try:
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, weights: Iterable[Tensor]) -> None:
        for parameter, weight in zip(self._live, weights, strict=True):
            parameter.copy_(weight)


def between(start: Mapping[str, Tensor], trained: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return `(1 − share) · start + share · trained`, taken in double precision (WiSE-FT, Wortsman et al. 2022).

    Args:
        start: Weights by name; those of other names than `trained` has are left out.
        trained: Weights by name. What is no floating-point number stays as it is here.
        share: That of the trained ones.
    """

    def mixed(name: str, weight: Tensor) -> Tensor:
        first = start[name].to(weight.device, torch.float64)
        return torch.lerp(first, weight.double(), share).to(weight.dtype)

    return {name: mixed(name, w) if w.is_floating_point() else w for name, w in trained.items()}
