"""The fast path from pairs of texts to the logits of a cross-encoder: what encodes texts, for two at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from torch import Tensor
from torch.nn.functional import linear

from textsiam.inference.batching import BLOCK, encode_tokens
from textsiam.inference.fast.fast_tower import DeviceRunner, Weights
from textsiam.inference.fast.fused_bert import FusedBert, fusable
from textsiam.inference.tokens import dummy_tokens, tokenise_pairs


class FastCrossEncoder(DeviceRunner):
    """A cross-encoder of BERT's shape as inference sees it on a CPU: fused, its head in fp32.

    Args:
        model: One that is `readable`. Its weights are copied.
        dtype: Number format of the matrix products.
    """

    def __init__(self, model: CrossEncoder, dtype: torch.dtype) -> None:
        backbone: Any = model[0]
        head = backbone.model
        self.tower, self.dtype = model, dtype
        self.backbone = FusedBert(backbone, dtype)
        self._pool, self._out = (
            (layer.weight.detach().float().clone(), layer.bias.detach().float().clone())
            for layer in (head.bert.pooler.dense, head.classifier)
        )
        self._weights = Weights(model)

    @staticmethod
    def readable(model: CrossEncoder) -> bool:
        """Whether this class computes what the model does: BERT and its head on a CPU, and nothing beside them."""
        backbone: Any = model[0]
        return (
            len(model) == 1
            and type(getattr(backbone, "model", None)).__name__ == "BertForSequenceClassification"
            and fusable(backbone)
            and not model.prompts.get(model.default_prompt_name or "")
        )

    @property
    def stale(self) -> bool:
        """Whether the weights of the model have changed since this copy was made."""
        return self._weights.changed

    @property
    def dim(self) -> int:
        """Outputs of a pair."""
        return len(self._out[1])

    def dummy_batch(self, tokens: int) -> dict[str, Any]:
        """Return the features of dummy texts of so many tokens, read as pairs are."""
        return dummy_tokens(self.tower, tokens)

    def __call__(self, features: dict[str, Any]) -> Tensor:
        """Return the logits of one padded batch, `(batch, outputs)` float32."""
        first = self.backbone(features)["token_embeddings"][:, 0]
        return linear(linear(first, *self._pool).tanh(), *self._out)

    def logits(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return the logits of pairs, `(n, outputs)` float32."""
        blocks = [pairs[start : start + BLOCK] for start in range(0, len(pairs), BLOCK)]
        found = [encode_tokens(self, tokenise_pairs(self.tower, block), None, lambda count: None) for block in blocks]
        return np.concatenate([np.zeros((0, self.dim), np.float32), *found])
