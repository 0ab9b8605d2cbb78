"""Losses that classify each pair with weights of their own, and the terms that a config names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, linear

from textsiam.models.learned import Head
from textsiam.training.losses.functional import Labels, duplicates
from textsiam.training.losses.terms import Embedded, Term


def pair_softmax(
    u: Float[Tensor, "n dim"],
    v: Float[Tensor, "n dim"],
    labels: Labels,
    *,
    weight: Float[Tensor, "2 features"],
    bias: Float[Tensor, 2],
) -> Float[Tensor, ""]:
    """Classify each pair by a linear layer over `(u, v, |u − v|)`.

    `mean( −log softmax(W·[u, v, |u − v|] + b)_y )` (Reimers & Gurevych 2019). The two sides are not treated alike
    unless the layer learns to.

    Args:
        u: Embeddings of the left texts, `(n, dim)`.
        v: Embeddings of the right texts, `(n, dim)`.
        labels: 1 = duplicate, 0 = not, `(n,)`.
        weight: W, `(2, 3·dim)`; row 1 speaks for duplicates.
        bias: b, `(2,)`.

    Raises:
        ValueError: A label other than 0 or 1.
    """
    logits = linear(torch.cat([u, v, (u - v).abs()], dim=-1), weight, bias)
    return cross_entropy(logits, duplicates(labels).long()) if len(labels) else logits.sum()


@dataclass(frozen=True)
class SoftmaxLoss(Term):
    """`pair_softmax` with a linear layer of its own, one for each width of the embeddings.

    Embeddings are multiplied by √dim first: those of a twin have length 1, and a layer over numbers that small would
    hardly learn. Weights start at zero: no verdict before evidence, the same on all processes.
    """

    contrasts: ClassVar[bool] = True

    def build(self, dim: int) -> nn.Linear:
        """Return the layer for embeddings of `dim` dimensions."""
        layer = nn.Linear(3 * dim, 2)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    def __call__(self, batch: Embedded, layer: nn.Linear) -> Tensor:
        """Return the loss of a batch."""
        scale = math.sqrt(batch.u.shape[1])
        return pair_softmax(batch.u * scale, batch.v * scale, batch.labels, weight=layer.weight, bias=layer.bias)


def head_loss(
    head: Head, u: Float[Tensor, "n dim"], v: Float[Tensor, "n dim"], labels: Int[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy of a head's log-odds: `mean( softplus(z) − y·z )`.

    Args:
        head: Gives the log-odds z.
        u: Embeddings of the left texts, `(n, dim)`.
        v: Embeddings of the right texts, `(n, dim)`.
        labels: 1 = duplicate, 0 = not, `(n,)`.
    """
    logits = head(u, v)
    return binary_cross_entropy_with_logits(logits, labels.to(u.dtype)) if len(labels) else logits.sum()


@dataclass(frozen=True)
class HeadLoss(Term):
    """`head_loss` of the twin's head.

    Attributes:
        frozen: The towers do not feel this loss: only the head learns from it.
    """

    frozen: bool = False
    trains_head: ClassVar[bool] = True
    contrasts: ClassVar[bool] = True

    def __call__(self, batch: Embedded, head: Head) -> Tensor:
        """Return the loss of a batch."""
        u, v = (batch.u.detach(), batch.v.detach()) if self.frozen else (batch.u, batch.v)
        return head_loss(head, u, v, batch.labels)
