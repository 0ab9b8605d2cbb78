"""BERT-shaped backbones in fewer, larger operations: what inference runs on a CPU instead of the library's modules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, layer_norm, linear, pad, scaled_dot_product_attention

from textsiam.inference.fast.processor import multiplies_tiles

if TYPE_CHECKING:
    from sentence_transformers.sentence_transformer.modules import Transformer

# Up to so many tokens softmax over keys that stand before queries is fastest: in fp32, in bf16, and in bf16 where the
# processor multiplies tiles.
_SHORT, _SHORT_HALF, _SHORT_TILED = 48, 64, 31
# Backbones of so many layers keep the residual stream in bf16 with their products: each layer adds to what is lost.
_SHALLOW = 6
# Bytes of scores that are computed at once for longer texts: they stay in the cache.
_SCORES = 1 << 20
# Softmax over the middle axis is vectorised where the last one is a multiple of this, in fp32.
_LANES = 16
# Rows that weights are packed for: a batch of the usual budget. Any other number works too.
_ROWS = 1024
# oneDNN makes a kernel for each number of rows, in 0.3 ms, and keeps the latest ones. The rows of its products are a
# multiple of this, so that a batch of any size finds its kernels among a few; where rows are few, idle ones cost most,
# and a multiple of less will do.
_GRAIN, _FEW, _FINE = 16, 64, 8


def fusable(backbone: nn.Module) -> bool:
    """Whether `FusedBert` computes what this backbone does: an encoder of BERT's shape on a CPU, with exact GELU."""
    from sentence_transformers.sentence_transformer.modules import Transformer

    if not isinstance(backbone, Transformer):
        return False
    model: Any = encoder_of(backbone)
    config = getattr(model, "config", None)
    return (
        type(model).__name__ == "BertModel"
        and not getattr(config, "is_decoder", False)
        and not getattr(config, "add_cross_attention", False)
        and getattr(config, "hidden_act", None) == "gelu"
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and all(p.device.type == "cpu" for p in model.parameters())
        and "peft" not in type(model).__module__
        and not any(type(m).__module__.startswith("peft") for m in model.modules())
    )


def encoder_of(backbone: Transformer) -> Any:
    """Return the model of transformers in a backbone, without what stands on top of it for a task."""
    model: Any = backbone.model
    return getattr(model, "base_model", model)


Norm = tuple[Tensor, Tensor, float]
"""Weight, bias and epsilon of a layer norm."""


class Layer(NamedTuple):
    """One layer of the encoder: its products and its layer norms, in the order in which they are computed.

    `out` and `narrow` take the residual stream beside what they multiply, and give the sum, written over the stream.
    """

    query_key_value: Callable[[Tensor], Tensor]
    out: Callable[[Tensor, Tensor], Tensor]
    norm_attention: Norm
    wide: Callable[[Tensor], Tensor]
    narrow: Callable[[Tensor, Tensor], Tensor]
    norm_out: Norm


class FusedBert:
    """The forward pass of a BERT encoder (Devlin et al. 2019) for inference.

    It computes what `transformers` computes, in other pieces: query, key and value in one product; attention of short
    texts as two batched products; embeddings and layer norms in fp32 whatever the format of the products, and the
    residual stream of deep backbones too, so that bf16 loses less; no mask where nothing is padded; nothing that only
    training needs.

    Args:
        backbone: One that is `fusable`. Its weights are copied.
        dtype: Number format of the matrix products.
    """

    def __init__(self, backbone: Transformer, dtype: torch.dtype) -> None:
        model: Any = encoder_of(backbone)
        first = model.embeddings
        self.dtype, self.heads = dtype, model.config.num_attention_heads
        self.rounds = dtype == torch.bfloat16
        self.words = first.word_embeddings.weight.detach().float()
        kinds = first.token_type_embeddings.weight.detach().float()
        self.places = first.position_embeddings.weight.detach().float() + kinds[0]
        self.kinds = kinds - kinds[0]
        self.norm = norm_of(first.LayerNorm)
        self.stream = dtype if len(model.encoder.layer) <= _SHALLOW else torch.float32
        self.layers = [self._prepared(layer, number) for number, layer in enumerate(model.encoder.layer)]

    def _prepared(self, layer: Any, number: int) -> Layer:
        def product(weight: Tensor, bias: Tensor) -> Product:
            return Product.of(weight.to(self.dtype).contiguous(), bias.to(self.dtype))

        wide = product(*joined(layer.intermediate.dense)).times
        return Layer(
            product(*self._query_key_value(layer)).times,
            product(*joined(layer.attention.output.dense)).plus,
            norm_of(layer.attention.output.LayerNorm),
            lambda x: torch.ops.aten.gelu_(wide(x)),
            product(*joined(layer.output.dense)).plus,
            norm_of(layer.output.LayerNorm),
        )

    def _query_key_value(self, layer: Any) -> tuple[Tensor, Tensor]:
        """Return weights and biases of query, key and value; queries come out divided by √d, as `attend` wants them."""
        own = layer.attention.self
        weight, bias = joined(own.query, own.key, own.value)
        scale = torch.ones_like(bias)
        scale[: len(bias) // 3] = math.sqrt(self.heads / (len(bias) // 3))
        return weight * scale[:, None], bias * scale

    def __call__(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the features with `token_embeddings`, `(batch, longest, hidden)` float32."""
        ids, mask = features["input_ids"], features["attention_mask"]
        batch, longest = ids.shape
        hidden = self.words.shape[1]
        # 0 where a key is a token, the least number where it is padding.
        bias = None if bool(mask.all()) else torch.zeros(mask.shape).masked_fill_(mask == 0, -1e9)[:, None, None]
        x = embedding(ids, self.words) + self.places[:longest]
        if "token_type_ids" in features:
            x += embedding(features["token_type_ids"], self.kinds)
        x = self._rounded(layer_norm(x.view(-1, hidden), (hidden,), *self.norm).to(self.stream))
        for layer in self.layers:
            x = self._through(layer, x, (batch, longest, 3, self.heads, -1), bias)
        return {**features, "token_embeddings": x[: batch * longest].float().view(batch, longest, hidden)}

    def _rounded(self, x: Tensor) -> Tensor:
        """Return rows with idle ones below, as many as share a kernel."""
        idle = -len(x) % (_FINE if len(x) <= _FEW else _GRAIN) if self.rounds else 0
        return pad(x, (0, 0, 0, idle)) if idle else x

    def _attended(self, mixed: Tensor, shape: tuple[int, ...], bias: Tensor | None) -> Tensor:
        """Return attention to queries, keys and values, `(rows, 3 · hidden)`, as `(rows, hidden)`."""
        tokens = shape[0] * shape[1]
        return self._rounded(attend(mixed[:tokens].view(shape), bias).reshape(tokens, -1))

    def _through(self, layer: Layer, x: Tensor, shape: tuple[int, ...], bias: Tensor | None) -> Tensor:
        """Return what one layer makes of the stream, `(rows, hidden)`: the tokens of the batch, then idle rows."""
        hidden = (x.shape[1],)
        attended = self._attended(layer.query_key_value(x.to(self.dtype)), shape, bias)
        x = layer_norm(layer.out(attended, x), hidden, *layer.norm_attention)
        return layer_norm(layer.narrow(layer.wide(x.to(self.dtype)), x), hidden, *layer.norm_out)


def norm_of(module: nn.LayerNorm) -> Norm:
    """Return weight, bias and epsilon of a layer norm, in float32."""
    return module.weight.detach().float(), module.bias.detach().float(), module.eps


def joined(*modules: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return weights `(outputs, inputs)` and biases `(outputs,)` of products of one input, one below another."""
    weight, bias = (torch.cat([getattr(m, name).detach() for m in modules]) for name in ("weight", "bias"))
    return weight, bias


def attend(mixed: Tensor, bias: Tensor | None) -> Tensor:
    """Return softmax(QKᵀ + bias)·V of `(batch, longest, 3, heads, d)`, as `(batch, longest, heads·d)`."""
    batch, longest, _, heads, width = mixed.shape
    lanes = _lanes(longest)
    if mixed.dtype != torch.bfloat16:
        short, attend_long = _SHORT, _attend_fused
    elif multiplies_tiles():
        short, attend_long = _SHORT_TILED, _attend_fused
    else:
        short, attend_long = _SHORT_HALF, _attend_in_parts
    if longest > short:
        return attend_long(mixed, bias).transpose(1, 2).reshape(batch, longest, heads * width)
    # Keys before queries, and idle queries up to a multiple of the lanes: so softmax is vectorised at any length.
    queries = -(-longest // lanes) * lanes
    q = mixed.new_zeros(batch, heads, queries, width)
    q[:, :, :longest] = mixed[:, :, 0].transpose(1, 2)
    k, v = mixed[:, :, 1:].permute(2, 0, 3, 1, 4).reshape(2, batch * heads, longest, width)
    scores = torch.bmm(k, q.view(-1, queries, width).transpose(1, 2))
    scores = scores.float() if lanes == _LANES else scores
    if bias is not None:
        scores.view(batch, heads, longest, queries).add_(bias.transpose(2, 3).to(scores.dtype))
    weights = scores.softmax(1).to(mixed.dtype).transpose(1, 2)
    attended = torch.bmm(weights, v).view(batch, heads, queries, width)[:, :, :longest]
    return attended.transpose(1, 2).reshape(batch, longest, heads * width)


def _attend_fused(mixed: Tensor, bias: Tensor | None) -> Tensor:
    """Return attention by torch's kernel, `(batch, heads, longest, d)`.

    In bf16 its softmax takes numbers one by one behind the last multiple of the lanes: idle tokens fill them up.
    """
    batch, longest = mixed.shape[:2]
    if idle := -longest % _LANES if mixed.dtype == torch.bfloat16 else 0:
        bias = pad(mixed.new_zeros(batch, 1, 1, longest) if bias is None else bias, (0, idle), value=-1e9)
        mixed = pad(mixed, (0, 0, 0, 0, 0, 0, 0, idle))
    q, k, v = mixed.permute(2, 0, 3, 1, 4)
    bias = None if bias is None else bias.to(mixed.dtype).expand(batch, 1, longest + idle, longest + idle)
    return scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)[:, :, :longest]


def _attend_in_parts(mixed: Tensor, bias: Tensor | None) -> Tensor:
    """Return attention by two batched products for a few heads at a time, `(batch, heads, longest, d)`.

    The scores of all heads would leave the cache between the products, and be new memory each time.
    """
    batch, longest, _, heads, width = mixed.shape
    q, k, v = mixed.permute(2, 0, 3, 1, 4).reshape(3, batch * heads, longest, width)
    bias = None if bias is None else bias.to(q.dtype).expand(batch, heads, 1, longest).reshape(-1, 1, longest)
    attended, keys = torch.empty_like(q), k.transpose(1, 2)
    step = max(1, _SCORES // (q.element_size() * longest**2))
    for part in (slice(start, start + step) for start in range(0, batch * heads, step)):
        scores = torch.bmm(q[part], keys[part])
        if bias is not None:
            scores += bias[part]
        torch.bmm(scores.softmax(-1), v[part], out=attended[part])
    return attended.view(batch, heads, longest, width)


def _lanes(longest: int) -> int:
    """Return what the number of queries is rounded up to: softmax takes 16 numbers at once in fp32, and 32 in bf16.

    In bf16 two passes over memory are saved, where that costs no more idle queries. Either way the scores come from a
    product that gives bf16, and softmax adds in fp32.
    """
    if longest <= _SHORT and 0 < longest % (2 * _LANES) <= _LANES:
        return _LANES
    return 2 * _LANES if longest <= 2 * _LANES else 4 * _LANES


class Product(NamedTuple):
    """A product of activations with weights; what it closes over is shared by all copies of a backbone.

    Attributes:
        times: x ↦ x·Wᵀ + b.
        plus: x, y ↦ y + x·Wᵀ + b; y is lost, and may have more digits than the product.
    """

    times: Callable[[Tensor], Tensor]
    plus: Callable[[Tensor, Tensor], Tensor]

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> Product:
        """Return the product with weights `(outputs, inputs)` and biases `(outputs,)`; in bf16 they are packed once."""
        kernels: Any = torch.ops.mkldnn
        if weight.dtype != torch.bfloat16 or not kernels._is_mkldnn_bf16_supported():
            return cls(lambda x: linear(x, weight, bias), lambda x, y: y.add_(linear(x, weight, bias)))
        packed = kernels._reorder_linear_weight(weight, _ROWS)

        def times(x: Tensor) -> Tensor:
            return kernels._linear_pointwise(x, packed, bias, "none", [], "")

        def plus(x: Tensor, y: Tensor) -> Tensor:
            if y.dtype != x.dtype:
                return y.add_(times(x).to(y.dtype))
            return kernels._linear_pointwise.binary(x, y, packed, bias, "add")  # added before the sum is rounded

        return cls(times, plus)
