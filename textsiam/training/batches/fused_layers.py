"""Layers of BERT's shape for training on a CPU: forward and backward in fewer passes over memory than autograd makes.

From the library's modules autograd casts each activation and each weight once for each product, and keeps products,
residual sums and dropout apart. Here weights are cast once a step; query, key and value are one product; an activation
is cast once; gradients of weights are summed inside the products; dropout is a mask of bits, and what it multiplies by
is in the weights. All numbers of rows are multiples of one, so that a few kernels serve every chunk.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from textsiam.inference.fast.fused_bert import Product, encoder_of
from textsiam.inference.fast.processor import share_out

# oneDNN makes a kernel for each number of rows, in about a millisecond: idle rows, which are 0, make them few.
_GRAIN = 64
_LEVELS = 1 << 16  # what is dropped is a whole number of such parts: one draw of 64 bits decides about four numbers
_LEAVES = 8  # of a layer: weights and biases of four products
_BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


def dropped(p: float) -> float:
    """Return the share that is dropped where `p` is asked for: a whole number of parts."""
    return round(_LEVELS * p) / _LEVELS


class Share:
    """What one thread has of its own during a step: random numbers, and the gradients of the leaves.

    Args:
        generator: Draws dropout.

    Attributes:
        gradients: Of the leaves that its chunks have reached, by their number.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.gradients: dict[int, Tensor] = {}

    def kept(self, shape: Sequence[int], dtype: torch.dtype, p: float) -> Tensor | None:
        """Draw dropout for numbers of a format: bits, all 1 where one is kept and all 0 where it is dropped.

        None where `p` is 0, so that nothing is dropped.
        """
        if p == 0.0:
            return None
        count = math.prod(shape)
        drawn = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None, generator=self.generator)
        least = round(_LEVELS * p) - _LEVELS // 2  # of the numbers −2¹⁵ … 2¹⁵ − 1, those that are kept
        # Compared into numbers of its own kind, which is seven times as fast as into bool: 1, and −1 is all bits.
        bits = torch.ge(drawn.view(torch.int16)[:count], least, out=torch.empty(count, dtype=torch.int16)).neg_()
        return bits.to(_BITS[dtype]).view(shape)

    def add(self, leaf: int, gradient: Tensor) -> None:
        """Add a gradient to those of a leaf."""
        known = self.gradients.setdefault(leaf, gradient)
        if known is not gradient:
            known.add_(gradient)

    def add_product(self, leaf: int, given: Tensor, inputs: Tensor) -> None:
        """Add the gradient of a weight, `(outputs, inputs)`.

        Args:
            leaf: Its number.
            given: Gradient of the product, `(rows, outputs)`.
            inputs: What was multiplied, `(rows, inputs)`.
        """
        turned = given.t()
        if inputs.shape[1] > given.shape[1]:  # then a copy of the smaller one costs less than it saves
            turned = turned.contiguous()
        known = self.gradients.get(leaf)
        if known is None:
            self.gradients[leaf] = turned @ inputs
        else:
            known.addmm_(turned, inputs)


class Leaf(NamedTuple):
    """A weight as products read it, and the parameters that it was made of.

    Attributes:
        tensor: In the number format of the products.
        parts: The parameters, one below another.
        scales: What each was multiplied by.
    """

    tensor: Tensor
    parts: tuple[Tensor, ...]
    scales: tuple[float, ...]

    @classmethod
    def of(cls, parts: Sequence[Tensor], scales: Sequence[float], dtype: torch.dtype) -> Leaf:
        """Scale and cast parameters, and put them below one another."""
        tensor = torch.empty(sum(map(len, parts)), *parts[0].shape[1:], dtype=dtype)
        for rows, part, scale in zip(tensor.split([*map(len, parts)]), parts, scales, strict=True):
            rows.copy_(part.detach() if scale == 1.0 else part.detach() * scale)
        return cls(tensor, tuple(parts), tuple(scales))

    def give(self, gradient: Tensor) -> None:
        """Add a gradient of the tensor to those of the parameters."""
        pieces = gradient.to(torch.float32).split([len(part) for part in self.parts])
        for part, scale, piece in zip(self.parts, self.scales, pieces, strict=True):
            if scale != 1.0:
                piece.mul_(scale)
            part.grad = piece.clone() if part.grad is None else part.grad.add_(piece)


class FusedLayer:
    """One layer of BERT for one step: its weights as products read them.

    Args:
        layer: The library's; its parameters take the gradients.
        dtype: Number format of the products.
        first: Number of its first leaf.
    """

    def __init__(self, layer: Any, dtype: torch.dtype, first: int) -> None:
        own, out, wide, narrow = layer.attention.self, layer.attention.output, layer.intermediate, layer.output
        self.heads, self.first = own.num_attention_heads, first
        self.drops = [m.p if m.training else 0.0 for m in (own.dropout, out.dropout, narrow.dropout)]
        self.norms = [(n.weight, n.bias, n.eps) for n in (out.LayerNorm, narrow.LayerNorm)]
        attention, after, last = (1.0 / (1.0 - dropped(p)) for p in self.drops)
        products = [
            # Scores are divided by √d, and what dropout keeps of the weights of attention grows with the values.
            ([own.query, own.key, own.value], [1.0 / math.sqrt(own.attention_head_size), 1.0, attention]),
            ([out.dense], [after]),
            ([wide.dense], [1.0]),
            ([narrow.dense], [last]),
        ]
        self.leaves: list[Leaf] = []
        for modules, scales in products:
            self.leaves += [Leaf.of([m.weight for m in modules], scales, dtype)]
            self.leaves += [Leaf.of([m.bias for m in modules], scales, dtype)]
        weights, biases = ([leaf.tensor for leaf in self.leaves[start::2]] for start in (0, 1))
        self.weights = weights
        self.times = [Product.of(weight, bias).times for weight, bias in zip(weights, biases, strict=True)]

    def __call__(self, x: Tensor, mask: Tensor | None, share: Share) -> Tensor:
        """Return what the layer makes of the stream, `(batch, longest, hidden)` float32.

        Args:
            x: The stream.
            mask: Which keys each query sees, bool, or what is added to their scores, `(batch, 1, 1 or longest,
                longest)`; None: all.
            share: Of this thread.
        """
        (w1, b1, _), (w2, b2, _) = self.norms
        return _Through.apply(x, mask, self, share, w1, b1, w2, b2)  # pyright: ignore[reportReturnType]


class _Through(torch.autograd.Function):
    """Attention, sum and norm, two products with GELU between them, sum and norm (Vaswani et al. 2017).

    Gradients of the products' weights go to the share, those of the norms to autograd.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Tensor | None, layer: FusedLayer, share: Share, *norms: Tensor
    ) -> Tensor:  # fmt: skip
        w1, b1, w2, b2 = norms
        mix, out, wide, narrow = layer.times
        (batch, longest, hidden), dtype = x.shape, layer.weights[0].dtype
        shape, stream = (batch, layer.heads, longest, -1), x.reshape(-1, hidden)
        count = len(stream)
        with torch.autocast("cpu", enabled=False):
            rows = _rows(stream, dtype)
            mixed = mix(rows)[:count].view(batch, longest, 3, layer.heads, -1)
            qkv = mixed.permute(2, 0, 3, 1, 4).reshape(3, batch * layer.heads, longest, -1)
            scores = torch.bmm(qkv[0], qkv[1].transpose(1, 2)).float()  # whose softmax is four times as fast
            if mask is not None:
                bias = torch.zeros(mask.shape).masked_fill_(~mask, -1e9) if mask.dtype == torch.bool else mask
                scores.view(shape).add_(bias)
            weights = scores.softmax(-1).to(dtype)
            kept = share.kept(weights.shape, dtype, layer.drops[0])
            attended = torch.bmm(what_is_kept(weights, kept), qkv[2]).view(shape).transpose(1, 2).reshape(count, hidden)
            attended = _rows(attended, dtype)
            kept_out = share.kept(stream.shape, dtype, layer.drops[1])
            first = what_is_kept(out(attended)[:count], kept_out).float().add_(stream)
            middle, *stats1 = torch.native_layer_norm(first, [hidden], w1, b1, layer.norms[0][2])
            rows_middle = _rows(middle, dtype)
            before = wide(rows_middle)
            after = nn.functional.gelu(before)
            kept_narrow = share.kept(stream.shape, dtype, layer.drops[2])
            second = what_is_kept(narrow(after)[:count], kept_narrow).float().add_(middle)
            found, *stats2 = torch.native_layer_norm(second, [hidden], w2, b2, layer.norms[1][2])
        ctx.layer, ctx.share, ctx.shape = layer, share, x.shape
        ctx.save_for_backward(
            rows, qkv, weights, kept, attended, kept_out, first, *stats1, rows_middle, before, after, kept_narrow,
            second, *stats2, *norms,
        )  # fmt: skip
        return found.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (rows, qkv, weights, kept, attended, kept_out, first, mean1, deviation1, rows_middle, before, after,
         kept_narrow, second, mean2, deviation2, w1, b1, w2, b2) = ctx.saved_tensors  # fmt: skip
        layer, share, (batch, longest, hidden) = ctx.layer, ctx.share, ctx.shape
        in_w, out_w, wide_w, narrow_w = layer.weights
        dtype, count, of_norm = rows.dtype, batch * longest, torch.ops.aten.native_layer_norm_backward

        def learn(number: int, given: Tensor, inputs: Tensor) -> None:
            share.add_product(layer.first + 2 * number, given, inputs)
            share.add(layer.first + 2 * number + 1, given.sum(0))

        given = gradients[0].reshape(count, hidden)
        stream, w2_, b2_ = of_norm(given, second, [hidden], mean2, deviation2, w2, b2, [True] * 3)
        narrow = _rows(stream, dtype, kept_narrow)
        learn(3, narrow, after)
        wide = torch.ops.aten.gelu_backward(narrow @ narrow_w, before)
        learn(2, wide, rows_middle)
        stream.add_((wide @ wide_w)[:count].float())
        stream, w1_, b1_ = of_norm(stream, first, [hidden], mean1, deviation1, w1, b1, [True] * 3)
        out = _rows(stream, dtype, kept_out)
        learn(1, out, attended)
        heads = (out @ out_w)[:count].view(batch, longest, layer.heads, -1).transpose(1, 2).reshape(qkv[0].shape)
        mixed = torch.empty_like(qkv)
        torch.bmm(what_is_kept(weights, kept).transpose(1, 2), heads, out=mixed[2])
        scores = what_is_kept(torch.bmm(heads, qkv[2].transpose(1, 2)), kept)
        scores = torch.ops.aten._softmax_backward_data(scores, weights, -1, dtype)
        torch.bmm(scores, qkv[1], out=mixed[0])
        torch.bmm(scores.transpose(1, 2), qkv[0], out=mixed[1])
        mixed = mixed.view(3, batch, layer.heads, longest, -1).permute(1, 3, 0, 2, 4).reshape(count, 3 * hidden)
        mixed = _rows(mixed, dtype)
        learn(0, mixed, rows)
        stream.add_((mixed @ in_w)[:count].float())
        return stream.view(ctx.shape), None, None, None, w1_, b1_, w2_, b2_


def _rows(x: Tensor, dtype: torch.dtype, kept: Tensor | None = None) -> Tensor:
    """Return what is kept of rows, in a number format, with idle ones below."""
    idle = -len(x) % _GRAIN
    found = torch.empty(len(x) + idle, x.shape[1], dtype=dtype)
    found[: len(x)] = x
    if kept is not None:
        found[: len(x)].view(kept.dtype).bitwise_and_(kept)
    found[len(x) :] = 0
    return found


def what_is_kept(x: Tensor, kept: Tensor | None) -> Tensor:
    """Return what dropout keeps of numbers, and 0 for the others; `kept` is what `Share.kept` drew."""
    return x if kept is None else (x.view(kept.dtype) & kept).view(x.dtype)


class FusedLayers:
    """The layers of a backbone for one step, in place of the library's.

    Args:
        backbone: One that `fusable` takes.
        dtype: Number format of the products.
        threads: How many cast the weights.
    """

    def __init__(self, backbone: Any, dtype: torch.dtype, threads: int = 1) -> None:
        self._replaced = [layer for layer in encoder_of(backbone).encoder.layer if _replaceable(layer)]
        self._layers: list[Any] = [None] * len(self._replaced)

        def cast(first: int) -> None:
            for k in range(first, len(self._replaced), threads):
                self._layers[k] = FusedLayer(self._replaced[k], dtype, k * _LEAVES)

        share_out([partial(cast, first) for first in range(threads)], lambda: None, alone=True)
        self.leaves = [leaf for layer in self._layers for leaf in layer.leaves]
        self._own = threading.local()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the library's layers compute as these do, in every thread that has called `of_this_thread`."""
        for layer, fused in zip(self._replaced, self._layers, strict=True):
            layer.forward = partial(self._forward, fused)
        try:
            yield
        finally:
            for layer in self._replaced:
                del layer.forward

    def of_this_thread(self, share: Share) -> None:
        """Take a share for this thread."""
        self._own.share = share

    def _forward(self, fused: FusedLayer, x: Tensor, mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        return fused(x, mask, self._own.share)

    def give(self, shares: Sequence[Share], part: slice) -> None:
        """Add what shares have found for some leaves to the gradients of the parameters, in order."""
        for number in range(len(self.leaves))[part]:
            for share in shares:
                if (gradient := share.gradients.pop(number, None)) is not None:
                    self.leaves[number].give(gradient)


def _replaceable(layer: Any) -> bool:
    """Whether a layer does what `_Through` does, and learns whole."""
    hooked = any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in layer.modules())
    plain = not (hooked or getattr(layer, "chunk_size_feed_forward", 0) or "forward" in vars(layer))
    return plain and all(p.requires_grad for p in layer.parameters())
