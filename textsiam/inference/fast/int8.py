"""The fused pass of a BERT-shaped backbone with products of 8-bit integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from textsiam.inference.encoders import ModelError
from textsiam.inference.fast.activation_ranges import LayerRanges, Range
from textsiam.inference.fast.fused_bert import FusedBert, Layer, encoder_of, joined, norm_of
from textsiam.inference.fast.processor import multiplies_bytes

if TYPE_CHECKING:
    from sentence_transformers.sentence_transformer.modules import Transformer

# Rows that weights are packed for: a batch of the usual budget. Any other number works too.
_ROWS = 1024
_MIDDLE, _LEVELS = 128, 255
# 1.5 · 2^23: a float32 of this size has no fraction, so adding it rounds (half to even), and the lowest byte of the sum
# is that of the whole number. That is two passes over memory fewer than rounding and converting to bytes without sign.
_ROUNDING = 12_582_912.0
# How much of the difference between channels goes from activations into weights: 0 none, 1 all of it.
_SMOOTHING = 0.7
# GELU is -0.17 at least; from the knee on it is as good as linear.
_LEAST_GELU, _LEAST_KNEE = 0.17, 4.0
# Share of the wide units that may be doubled because of what they give beyond the knee.
_DOUBLED = 1 / 96


class Scales(NamedTuple):
    """How the input of a product becomes bytes: channel j stands for (byte - zero) · unit[j]."""

    unit: Tensor
    zero: int


def check_int8() -> None:
    """Check that this processor multiplies 8-bit integers fast.

    Raises:
        ModelError: It does not; the message says so.
    """
    if not multiplies_bytes():
        raise ModelError("int8 in torch needs a processor with avx512_vnni, which this one lacks: take another format")


class Int8Bert(FusedBert):
    """The forward pass of a BERT encoder with weights and activations in 8 bits, the latter in ranges fixed beforehand.

    Weights have one scale for each output, activations one for each input, most of which is folded into the weights
    (Xiao et al. 2023, "SmoothQuant"). Products give what the next operation wants: attention in its own number format
    and in the unit of the product after it, GELU in bytes, the residual stream in fp32. Units of the wide product
    that go far beyond the others are doubled, see `doubled`. Sums of products are sums of integers, and so exact.

    Args:
        backbone: One that is `fusable`. Its weights are copied.
        ranges: Ranges of what goes into the products of each layer.
        dtype: Number format of attention.

    Raises:
        ValueError: The ranges are those of another backbone.
        ModelError: This processor has no fast products of integers.
    """

    def __init__(self, backbone: Transformer, ranges: Sequence[LayerRanges], dtype: torch.dtype) -> None:
        check_int8()
        model = encoder_of(backbone)
        if len(ranges) != (layers := len(model.encoder.layer)):
            raise ValueError(f"ranges of {len(ranges)} layers, the backbone has {layers}")
        self.ranges = list(ranges)
        super().__init__(backbone, dtype)
        self.stream = torch.float32

    def _prepared(self, layer: Any, number: int) -> Layer:
        own = self.ranges[number]
        first = self._query_key_value(layer)
        out, wide = joined(layer.attention.output.dense), joined(layer.intermediate.dense)
        narrow = joined(layer.output.dense)
        for (weight, _), one in zip((first, out, wide, narrow), own, strict=True):
            if one.low.shape[0] != weight.shape[1]:
                raise ValueError(
                    f"layer {number}: a range of {one.low.shape[0]} channels, {weight.shape[1]} are needed"
                )
        # Attention is linear in the values: in the unit of the next product they come out in that unit.
        attended = scales_of(own.out, out[0], symmetric=True)
        unit = torch.cat([torch.ones(2 * len(attended.unit)), attended.unit])
        wide, narrow, gelu = doubled(wide, narrow, own.narrow)
        return Layer(
            _product(first, scales_of(own.query_key_value, first[0]), unit, self.dtype),
            _added(out, attended),
            norm_of(layer.attention.output.LayerNorm),
            _gelu_product(wide, scales_of(own.wide, wide[0]), gelu),
            _added(narrow, gelu),
            norm_of(layer.output.LayerNorm),
        )

    def _through(self, layer: Layer, x: Tensor, shape: tuple[int, ...], bias: Tensor | None) -> Tensor:
        hidden = (x.shape[1],)
        attended = self._attended(layer.query_key_value(x), shape, bias)
        x = layer_norm(layer.out(_bytes(attended.float().add_(_ROUNDING + _MIDDLE)), x), hidden, *layer.norm_attention)
        return layer_norm(layer.narrow(layer.wide(x), x), hidden, *layer.norm_out)


def scales_of(given: Range, weight: Tensor, *, symmetric: bool = False) -> Scales:
    """Return how the input of a product becomes bytes.

    Channel j is divided by dⱼ = max|xⱼ|^α / max|W·ⱼ|^(1-α), α = 0.7, and its weights are multiplied by it, so that one
    scale for all channels does not lose the small ones.

    Args:
        given: Range of the input.
        weight: `(outputs, inputs)`.
        symmetric: Whether 0 has to be the middle byte.
    """
    tiny = 1e-5
    d = given.largest.clamp_min(tiny) ** _SMOOTHING / weight.float().abs().amax(0).clamp_min(tiny) ** (1 - _SMOOTHING)
    low, high = float((given.low / d).min()), float((given.high / d).max())
    if symmetric:
        return Scales(d * max(-low, high, tiny) / (_MIDDLE - 1), _MIDDLE)
    scale = max(high - low, tiny) / _LEVELS
    return Scales(d * scale, round(-low / scale))


def doubled(
    wide: tuple[Tensor, Tensor], narrow: tuple[Tensor, Tensor], given: Range
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Scales]:
    """Return the two products of the feed-forward part with the few units doubled that give much more than the others.

    One scale for all units has to reach the greatest one, at the cost of all. So bytes end at a knee k, and a unit that
    goes beyond is followed by another one, of k less: GELU(z) ≈ min(GELU(z), k) + GELU(z-k), which is exact but for
    0.17 about the knee; and so on in steps of k. Their weights in the narrow product are the same.

    Args:
        wide: Weights `(units, hidden)` and biases `(units,)`.
        narrow: Weights `(hidden, units)` and biases `(hidden,)`.
        given: Range of the units after GELU.

    Returns:
        Both products, and the scales of what is between them.
    """
    top = max(float(given.high.max()), 1e-3)
    knee = top
    for candidate in torch.linspace(top, _LEAST_KNEE, 100).tolist() if top > _LEAST_KNEE else ():
        if int(_steps(given.high, candidate).sum()) <= len(given.high) * _DOUBLED:
            knee = candidate
    scale = (knee + _LEAST_GELU) / _LEVELS
    zero = round(_LEAST_GELU / scale)
    steps = _steps(given.high, knee)
    again = torch.arange(len(steps)).repeat_interleave(steps)
    starts = steps.cumsum(0) - steps
    lower = (_LEVELS - zero) * scale * (torch.arange(len(again)) - starts[again] + 1)
    (weight, bias), (back, back_bias) = wide, narrow
    wide = torch.cat([weight, weight[again]]), torch.cat([bias, bias[again] - lower.to(bias.dtype)])
    narrow = torch.cat([back, back[:, again]], 1), back_bias
    return wide, narrow, Scales(torch.full((narrow[0].shape[1],), scale), zero)


def _steps(high: Tensor, knee: float) -> Tensor:
    """Return how many more units it takes to reach as high as each unit does, `(units,)` int64."""
    return (high / knee - 1e-6).ceil().sub(1).clamp_min(0).long()


def _bytes(x: Tensor) -> Tensor:
    """Return the whole numbers 0 … 255 to which `_ROUNDING` was added, and whatever is beyond, as bytes; x is lost."""
    return x.clamp_(_ROUNDING, _ROUNDING + _LEVELS).view(torch.int32).to(torch.int8).view(torch.uint8)


def _quantised(given: Scales) -> Callable[[Tensor], Tensor]:
    """Return x ↦ its bytes."""
    per_unit, offset = 1 / given.unit, torch.tensor(_ROUNDING + given.zero)
    return lambda x: _bytes(torch.addcmul(offset, x, per_unit))


def _packed(weight: Tensor, given: Scales) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights as packed bytes, with the scale and the zero point of each output, `(outputs,)`."""
    weight = weight.float() * given.unit
    scales = weight.abs().amax(1).clamp_min(1e-30) / 127
    whole = (weight / scales[:, None]).round_().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(whole, [_ROWS, weight.shape[1]])
    return packed, scales, torch.zeros(len(scales), dtype=torch.int64)


def _product(
    product: tuple[Tensor, Tensor], given: Scales, unit: Tensor, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """Return x ↦ (x·Wᵀ + b) / unit, in a number format."""
    packed, scales, zeros = _packed(product[0], given)
    run, quantised = torch.ops.onednn.qlinear_pointwise, _quantised(given)
    fixed = (1.0, given.zero, packed, scales / unit, zeros, product[1].float() / unit, 1.0, 0, dtype, "none", [], "")
    return lambda x: run(quantised(x), *fixed)


def _gelu_product(product: tuple[Tensor, Tensor], given: Scales, gelu: Scales) -> Callable[[Tensor], Tensor]:
    """Return x ↦ the bytes of GELU(x·Wᵀ + b)."""
    packed, scales, zeros = _packed(product[0], given)
    run, quantised = torch.ops.onednn.qlinear_pointwise, _quantised(given)
    out = (float(gelu.unit[0]), gelu.zero, torch.uint8, "gelu", [], "none")  # "none": exact GELU
    fixed = (1.0, given.zero, packed, scales, zeros, product[1].float(), *out)
    return lambda x: run(quantised(x), *fixed)


def _added(product: tuple[Tensor, Tensor], given: Scales) -> Callable[[Tensor, Tensor], Tensor]:
    """Return bytes x, y ↦ y + x·Wᵀ + b, written over y."""
    packed, scales, zeros = _packed(product[0], given)
    run, bias, zero = torch.ops.onednn.qlinear_pointwise.binary, product[1].float(), given.zero
    fixed = (bias, 1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, "none", [], "")
    return lambda x, y: run(x, 1.0, zero, packed, scales, zeros, y, *fixed)
