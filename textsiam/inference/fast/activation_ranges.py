"""Ranges of activations: looked up on sample texts, for products of integers that are scaled once and for all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from textsiam.inference.fast.fused_bert import FusedBert


@dataclass(frozen=True, eq=False)
class Range:
    """Between which numbers each channel of an activation lies; 0 is always among them.

    Attributes:
        low: The least ones, `(channels,)` float32, none above 0.
        high: The greatest ones, `(channels,)` float32, none below 0.

    Raises:
        ValueError: They are not that.
    """

    low: Tensor
    high: Tensor

    def __post_init__(self) -> None:
        """Refuse what is no range."""
        if self.low.ndim != 1 or self.low.shape != self.high.shape:
            raise ValueError(f"a range is two vectors of one width, got {[*self.low.shape]} and {[*self.high.shape]}")
        if not bool((self.high - self.low).isfinite().all()):
            raise ValueError("a range must be finite")
        if bool((self.low > 0).any() or (self.high < 0).any()):
            raise ValueError("0 must lie within a range")

    @property
    def largest(self) -> Tensor:
        """The greatest absolute number of each channel, `(channels,)`."""
        return torch.maximum(-self.low, self.high)


class LayerRanges(NamedTuple):
    """Ranges of what goes into the four products of one layer of an encoder."""

    query_key_value: Range
    out: Range
    wide: Range
    narrow: Range


def observe(fused: FusedBert, batches: Iterable[dict[str, Tensor]]) -> list[LayerRanges]:
    """Return the ranges that the inputs of every product have on sample texts; padding is not looked at.

    Args:
        fused: The backbone, in fp32.
        batches: Padded batches of `input_ids` and `attention_mask`.

    Raises:
        ValueError: There are no batches, or an activation is infinite or not a number.
    """
    seen: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
    for features in batches:
        real = features["attention_mask"].flatten().bool()

        def watch(number: int, name: str, x: Tensor, real: Tensor = real) -> None:
            low, high = torch.aminmax(x[real].float(), dim=0)
            before = seen.get((number, name), (torch.zeros_like(low), torch.zeros_like(high)))
            seen[number, name] = torch.minimum(before[0], low), torch.maximum(before[1], high)

        with torch.inference_mode():
            _watched(fused, watch)(features)
    if not seen:
        raise ValueError("there are no texts to look up ranges on")
    names = LayerRanges._fields
    return [LayerRanges(**{name: Range(*seen[n, name]) for name in names}) for n in range(len(fused.layers))]


def _watched(fused: FusedBert, watch: Callable[[int, str, Tensor], None]) -> FusedBert:
    """Return a backbone that shows what goes into its products, as `watch(layer, product, input)`."""

    def shown(number: int, name: str, product: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(x: Tensor, *stream: Tensor) -> Tensor:
            watch(number, name, x)
            return product(x, *stream)

        return run

    watched = copy.copy(fused)
    watched.layers = [
        layer._replace(**{name: shown(n, name, getattr(layer, name)) for name in LayerRanges._fields})
        for n, layer in enumerate(fused.layers)
    ]
    return watched


def write_ranges(file: Path, ranges: Sequence[LayerRanges]) -> None:
    """Write ranges as safetensors, named `layers.0.wide.low` and so on."""
    tensors = {
        f"layers.{n}.{name}.{end}": getattr(one, end).clone()
        for n, layer in enumerate(ranges)
        for name, one in layer._asdict().items()
        for end in ("low", "high")
    }
    save_file(tensors, file)


def read_ranges(file: Path) -> list[LayerRanges]:
    """Read ranges that `write_ranges` wrote.

    Raises:
        ValueError: The file holds something else.
        OSError: It cannot be read.
        safetensors.SafetensorError: It is not safetensors.
    """
    tensors, names = load_file(file), LayerRanges._fields
    layers = len(tensors) // (2 * len(names))
    wanted = {f"layers.{n}.{name}.{end}" for n in range(layers) for name in names for end in ("low", "high")}
    if not wanted or wanted != set(tensors):
        raise ValueError("these are not the ranges of a backbone")
    return [
        LayerRanges(*(Range(*(tensors[f"layers.{n}.{name}.{end}"] for end in ("low", "high"))) for name in names))
        for n in range(layers)
    ]
