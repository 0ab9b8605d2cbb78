"""What several losses are made of: checks, penalties, and a mean that is 0 over nothing."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, relu, softplus

Labels = Int[Tensor, " n"] | Float[Tensor, " n"] | Bool[Tensor, " n"]


def duplicates(labels: Labels) -> Bool[Tensor, " n"]:
    """Return the labels as booleans, refusing every other convention (−1/+1, class ids, soft labels)."""
    duplicate = labels == 1
    strange = ~(duplicate | (labels == 0))
    if strange.any():
        first = labels[strange][0].item()
        raise ValueError(f"labels must be 1 (duplicate) or 0 (not a duplicate), got {first:g}")
    return duplicate


def check_positive(name: str, value: float) -> None:
    """Refuse a knob that is not positive."""
    if not value > 0:
        raise ValueError(f"{name} must be > 0, got {value}")


def check_not_negative(name: str, value: float) -> None:
    """Refuse a knob that is negative."""
    if not value >= 0:
        raise ValueError(f"{name} must be >= 0, got {value}")


def check_margin(margin: float, *, soft: bool = False) -> None:
    """Refuse a margin that is not positive; when the loss is soft, one that is negative."""
    (check_not_negative if soft else check_positive)("margin", margin)


def mean(values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Return the mean; that of nothing is 0, with a gradient of 0."""
    return values.mean() if len(values) else values.sum()


def ranking_penalty(gap: Tensor, *, margin: float, soft: bool = False) -> Tensor:
    """Return what `gap = d(a, p) − d(a, n)` costs: `max(0, gap + m)`, or `log(1 + exp(gap + m))` when it is soft.

    Raises:
        ValueError: The margin is not positive (when it is soft: negative).
    """
    check_margin(margin, soft=soft)
    return (softplus if soft else relu)(gap + margin)


def pick_target(
    logits: Float[Tensor, "n m"], target: Int[Tensor, " n"], mask: Bool[Tensor, "n m"] | None = None
) -> Float[Tensor, ""]:
    """Return the mean cross entropy of the target among the candidates that are not masked, itself included."""
    if mask is not None:
        own = torch.zeros_like(mask).scatter_(1, target[:, None], True)
        logits = logits.masked_fill(mask & ~own, float("-inf"))
    return cross_entropy(logits, target, reduction="sum") / max(1, len(logits))


def log_one_plus_sum(exponents: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """Return `log(1 + Σ_j exp(x_ij))` of each row, without overflow."""
    return torch.logsumexp(torch.cat([exponents.new_zeros(len(exponents), 1), exponents], dim=1), dim=1)
