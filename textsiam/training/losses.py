"""Losses over given pairs, triplets and candidates: pure functions, embeddings and labels in, a scalar out.

Losses that choose pairs or triplets within a batch are in `batch_losses`.

Conventions, the same in every function:

* label 1 = duplicate, 0 = not. Some sources write it the other way round; passing their labels trains the
  opposite of what is wanted, which no code can notice, so the convention is stated wherever labels enter.
* distances: smaller = closer.
* every loss is a mean (CoSENT: the logarithm of a sum), so that the learning rate does not depend on the batch size.
* a mean over nothing is 0, with a gradient of 0: every process must take part in the backward pass.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, normalize, relu, softplus

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


def check_positive(name: str, value: float) -> None:
    """Refuse a knob that is not positive."""
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
    check_positive("margin", margin)
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
    check_positive("margin", margin)
    d = distance(u, v)
    duplicate = _duplicates(labels)
    pull, push = d[duplicate], d[~duplicate]
    closest = (push.min() if len(push) else pull.mean()).detach()
    farthest = (pull.max() if len(pull) else push.mean()).detach()
    hard_pull, hard_push = pull[pull > closest], push[push < farthest]
    return (hard_pull.square().sum() + relu(margin - hard_push).square().sum()) / len(d)


def cosent(
    u: Float[Tensor, "n dim"],
    v: Float[Tensor, "n dim"],
    labels: Labels,
    *,
    temperature: float = 0.05,
    distance: Distance = COSINE,
) -> Float[Tensor, ""]:
    """Rank all pairs: one with a higher label must be closer than one with a lower label.

    `log( 1 + Σ_{i,j: y_i > y_j} exp((d_i − d_j)/τ) )` with `d_i = d(u_i, v_i)` (Huang et al. 2024, "CoSENT: Consistent
    Sentence Embedding via Similarity Ranking"). Only the order of the labels counts. It is no mean: the value grows
    with the logarithm of the batch, the gradient does not.

    Args:
        u: Embeddings of the left texts, `(n, dim)`.
        v: Embeddings of the right texts, `(n, dim)`.
        labels: 1 = duplicate, 0 = not, or any grades of similarity, larger = more similar, `(n,)`.
        temperature: τ; smaller is sharper.
        distance: How far apart two embeddings are.

    Raises:
        ValueError: A label that is no finite number, or a temperature that is not positive.

    Example:
        >>> u = torch.tensor([[1.0, 0.0], [1.0, 0.0]]); v = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> round(cosent(u, v, torch.tensor([1, 0])).item(), 4)  # log(1 + exp(0))
        0.6931
    """
    check_positive("temperature", temperature)
    if not labels.isfinite().all():
        raise ValueError("labels must be finite numbers")
    d = distance(u, v) / temperature
    gaps = (d[:, None] - d[None, :])[labels[:, None] > labels[None, :]]
    return log_one_plus_sum(gaps[None])[0]


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
    return cross_entropy(logits, _duplicates(labels).long())


def ranking_penalty(gap: Tensor, *, margin: float, soft: bool = False) -> Tensor:
    """Return what `gap = d(a, p) − d(a, n)` costs: `max(0, gap + m)`, or `log(1 + exp(gap + m))` when it is soft.

    Raises:
        ValueError: The margin is not positive (when it is soft: negative).
    """
    if not soft:
        check_positive("margin", margin)
        return relu(gap + margin)
    if not margin >= 0:
        raise ValueError(f"margin must be >= 0, got {margin}")
    return softplus(gap + margin)


def triplet(
    anchor: Float[Tensor, "n dim"],
    positive: Float[Tensor, "n dim"],
    negative: Float[Tensor, "n dim"],
    *,
    margin: float = 0.3,
    distance: Distance = COSINE,
    soft: bool = False,
) -> Float[Tensor, ""]:
    """Keep the negative farther from the anchor than the positive, by the margin.

    `mean( max(0, d(a, p) − d(a, n) + m) )` (Schroff, Kalenichenko & Philbin 2015), or with `soft`:
    `mean( log(1 + exp(d(a, p) − d(a, n) + m)) )`, which never stops pulling (Hermans, Beyer & Leibe 2017, with m = 0).

    Args:
        anchor: Embeddings, `(n, dim)`.
        positive: Embeddings of duplicates of the anchors, `(n, dim)`.
        negative: Embeddings of texts from other clusters, `(n, dim)`.
        margin: Required gap, in the unit of `distance`.
        distance: How far apart two embeddings are.
        soft: Fade out beyond the margin instead of stopping there.

    Raises:
        ValueError: The margin is not positive (when it is soft: negative).
    """
    penalty = ranking_penalty(distance(anchor, positive) - distance(anchor, negative), margin=margin, soft=soft)
    return penalty.sum() / max(1, len(penalty))


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
    check_positive("temperature", temperature)
    return pick_target(normalize(anchor, dim=-1) @ normalize(candidates, dim=-1).T / temperature, target, mask)


def symmetric_info_nce(
    u: Float[Tensor, "n dim"],
    v: Float[Tensor, "n dim"],
    *,
    temperature: float = 0.05,
    mask: Bool[Tensor, "n n"] | None = None,
) -> Float[Tensor, ""]:
    """Pick the right text of each left one among all right ones, and the other way round.

    `( info_nce(u → v) + info_nce(v → u) ) / 2` (Radford et al. 2021).

    Args:
        u: Embeddings of the left texts of duplicates, `(n, dim)`.
        v: Embeddings of their right texts, `(n, dim)`.
        temperature: τ; smaller is sharper.
        mask: True at `(i, j)` where left text i and right text j are of one cluster, `(n, n)`.

    Raises:
        ValueError: The temperature is not positive.
    """
    own = torch.arange(len(u), device=u.device)
    forth = info_nce(u, v, own, temperature=temperature, mask=mask)
    back = info_nce(v, u, own, temperature=temperature, mask=None if mask is None else mask.T)
    return (forth + back) / 2


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
