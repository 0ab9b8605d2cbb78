"""Losses of a twin: pure functions, embeddings and labels in, a scalar out.

Conventions, the same in every function:

* label 1 = duplicate, 0 = not. Some sources write it the other way round; passing their labels trains the
  opposite of what is wanted, which no code can notice, so the convention is stated wherever labels enter.
* distances: smaller = closer.
* every loss is a mean, so that the learning rate does not depend on the batch size.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, relu

from textsiam.models.distances import COSINE, Distance

Labels = Int[Tensor, " n"] | Float[Tensor, " n"] | Bool[Tensor, " n"]


def _duplicates(labels: Labels) -> Bool[Tensor, " n"]:
    """Return the labels as booleans, refusing every other convention (−1/+1, class ids, soft labels)."""
    duplicate = labels == 1
    strange = ~(duplicate | (labels == 0))
    if strange.any():
        first = labels[strange][0].item()
        raise ValueError(f"labels must be 1 (duplicate) or 0 (not a duplicate), got {first:g}")
    return duplicate


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be > 0, got {value}")


def contrastive(
    u: Float[Tensor, "n dim"],
    v: Float[Tensor, "n dim"],
    labels: Labels,
    *,
    margin: float = 0.5,
    distance: Distance = COSINE,
    form: Literal["margin_minus_distance", "squared_margin"] = "margin_minus_distance",
) -> Float[Tensor, ""]:
    """Pull duplicates together and push others beyond the margin.

    `mean( y·d² + (1−y)·max(0, m−d)² )` (Hadsell, Chopra & LeCun 2006, without its factor ½), or with
    `form="squared_margin"`: `mean( y·d² + (1−y)·max(0, m²−d²) )`.

    Args:
        u: Embeddings of the left texts, `(n, dim)`.
        v: Embeddings of the right texts, `(n, dim)`.
        labels: 1 = duplicate, 0 = not, `(n,)`.
        margin: Distance beyond which a non-duplicate costs nothing, in the unit of `distance`.
        distance: How far apart two embeddings are.
        form: Which of the two published penalties of a non-duplicate.

    Raises:
        ValueError: A label other than 0 or 1, or a margin that is not positive.

    Example:
        >>> u = torch.tensor([[1.0, 0.0]]); v = torch.tensor([[1.0, 0.0]])
        >>> contrastive(u, v, torch.tensor([0]), margin=0.5).item()
        0.25
    """
    _positive("margin", margin)
    d = distance(u, v)
    return torch.where(_duplicates(labels), d.square(), _push(d, margin, form)).mean()


def _push(d: Tensor, margin: float, form: str) -> Tensor:
    if form == "margin_minus_distance":
        return relu(margin - d).square()
    if form == "squared_margin":
        return relu(margin**2 - d.square())
    raise ValueError(f"form must be 'margin_minus_distance' or 'squared_margin', got {form!r}")


def online_contrastive(
    u: Float[Tensor, "n dim"],
    v: Float[Tensor, "n dim"],
    labels: Labels,
    *,
    margin: float = 0.5,
    distance: Distance = COSINE,
) -> Float[Tensor, ""]:
    """Contrastive loss over the hard pairs of the batch only.

    A duplicate is hard when it is farther apart than the closest non-duplicate; a non-duplicate is hard
    when it is closer than the farthest duplicate. Without a pair of the other class to compare with, the
    mean of its own class stands in for the bound (as sentence-transformers does). The result is the sum
    over the hard pairs divided by the number n of pairs of the batch. (sentence-transformers sums without
    dividing, so that its gradient grows with the batch.)

    Args:
        u: Embeddings of the left texts, `(n, dim)`.
        v: Embeddings of the right texts, `(n, dim)`.
        labels: 1 = duplicate, 0 = not, `(n,)`.
        margin: Distance beyond which a non-duplicate costs nothing, in the unit of `distance`.
        distance: How far apart two embeddings are.

    Raises:
        ValueError: A label other than 0 or 1, or a margin that is not positive.
    """
    _positive("margin", margin)
    d = distance(u, v)
    duplicate = _duplicates(labels)
    pull, push = d[duplicate], d[~duplicate]
    closest = (push.min() if len(push) else pull.mean()).detach()
    farthest = (pull.max() if len(pull) else push.mean()).detach()
    hard_pull, hard_push = pull[pull > closest], push[push < farthest]
    return (hard_pull.square().sum() + relu(margin - hard_push).square().sum()) / len(d)


def triplet(
    anchor: Float[Tensor, "n dim"],
    positive: Float[Tensor, "n dim"],
    negative: Float[Tensor, "n dim"],
    *,
    margin: float = 0.3,
    distance: Distance = COSINE,
) -> Float[Tensor, ""]:
    """Keep the negative farther from the anchor than the positive, by the margin.

    `mean( max(0, d(a, p) − d(a, n) + m) )` (Schroff, Kalenichenko & Philbin 2015).

    Args:
        anchor: Embeddings, `(n, dim)`.
        positive: Embeddings of duplicates of the anchors, `(n, dim)`.
        negative: Embeddings of texts from other clusters, `(n, dim)`.
        margin: Required gap, in the unit of `distance`.
        distance: How far apart two embeddings are.

    Raises:
        ValueError: The margin is not positive.
    """
    _positive("margin", margin)
    return relu(distance(anchor, positive) - distance(anchor, negative) + margin).mean()


def info_nce(
    anchor: Float[Tensor, "n dim"],
    candidates: Float[Tensor, "m dim"],
    target: Int[Tensor, " n"],
    *,
    temperature: float = 0.05,
    mask: Bool[Tensor, "n m"] | None = None,
) -> Float[Tensor, ""]:
    """Pick the duplicate of each anchor out of all candidates of the batch.

    `mean( −log( exp(cos(a_i, c_target)/τ) / Σ_j exp(cos(a_i, c_j)/τ) ) )` over the unmasked candidates j
    (van den Oord, Li & Vinyals 2018; "multiple negatives ranking" in Henderson et al. 2017).

    Args:
        anchor: Embeddings, `(n, dim)`.
        candidates: Embeddings, `(m, dim)`: the positives of all anchors and further negatives.
        target: Index of each anchor's own positive among the candidates, `(n,)`.
        temperature: τ; smaller is sharper.
        mask: True where a candidate must not count as a negative of the anchor (the anchor itself and the
            other members of its cluster), `(n, m)`. The target is never masked.

    Raises:
        ValueError: The temperature is not positive.
    """
    _positive("temperature", temperature)
    if len(anchor) == 0:
        return anchor.sum() * 0
    logits = normalize(anchor, dim=-1) @ normalize(candidates, dim=-1).T / temperature
    if mask is not None:
        own = torch.zeros_like(mask).scatter_(1, target[:, None], True)
        logits = logits.masked_fill(mask & ~own, float("-inf"))
    return cross_entropy(logits, target)
