"""The twin that is validated, saved and handed back: whole weights, never sharded nor wrapped."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

from accelerate import Accelerator
from torch import nn

from textsiam.inference.lora import add_adapters, merged, remove_adapters
from textsiam.models.twin import Twin
from textsiam.training.weights.averaging import WeightAverage, between


class ServedTwin:
    """A copy of a twin that gets the trained weights when they are asked for.

    Args:
        twin: The twin that is trained; its head is taken off until `hand_back`, as the objective trains it, and its
            towers have adapters until then, where it asks for them.
        trained_share: Share of the trained weights of the towers in those of the copy; the rest are those that `twin`
            has now. None takes the trained ones alone. (A head starts from nothing worth keeping, and is as trained.)

    Attributes:
        twin: The copy; it has no reranker, which was combined with the weights before.
        head: The head that was taken off.
    """

    def __init__(self, twin: Twin, *, trained_share: float | None = None) -> None:
        self.twin = copy.deepcopy(twin)
        self.twin.reranker = None
        self.head, twin.head = twin.head, None
        if twin.lora is not None:
            for tower in twin.towers:
                add_adapters(tower, twin.lora)
        self._trained, self._share = twin, trained_share
        self._start = {} if trained_share is None else copy.deepcopy(dict(self.twin.state_dict()))

    def update(self, accelerator: Accelerator, model: nn.Module, average: WeightAverage | None) -> None:
        """Take the present weights of the prepared model, or their running mean, in their share, and the head's."""
        with nullcontext() if average is None else average.applied():
            weights = accelerator.get_state_dict(model)  # the live tensors: copy them before they change back
            if accelerator.is_main_process or weights:
                whole: dict[str, Any] = {k.removeprefix("_orig_mod."): v for k, v in weights.items()}
                whole = whole if self._trained.lora is None else merged(self._trained, whole)
                if self._share is not None:
                    whole = between(self._start, whole, self._share)
                if self.head is not None:
                    whole |= {f"head.{k}": v for k, v in self.head.state_dict().items()}
                self.twin.load_state_dict(whole)

    def hand_back(self, trained: Twin, *, sharded: bool) -> None:
        """Give the trained twin its head, and the weights that are served."""
        trained.head = self.head
        remove_adapters(trained)
        if sharded:  # whole weights do not fit into shards: the twin becomes what is served
            vars(trained).clear()
            trained.__class__ = type(self.twin)
            vars(trained).update(vars(self.twin))
        else:
            trained.load_state_dict(self.twin.state_dict())
