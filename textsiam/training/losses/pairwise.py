"""Losses over the labelled pairs of a batch, and the terms that a config names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu

from textsiam.models.distances import COSINE, Distance
from textsiam.training.knobs import positive
from textsiam.training.losses.functional import Labels, check_positive, duplicates, log_one_plus_sum, mean
from textsiam.training.losses.terms import Embedded, Term

Form = Literal["margin_minus_distance", "squared_margin"]


def contrastive(
    u: Float[Tensor, "n dim"],
    v: Float[Tensor, "n dim"],
    labels: Labels,
    *,
    margin: float = 0.5,
    distance: Distance = COSINE,
    form: Form = "margin_minus_distance",
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
    return mean(torch.where(duplicates(labels), d.square(), _push(d, margin, form)))


def _push(d: Tensor, margin: float, form: str) -> Tensor:
    if form == "margin_minus_distance":
        return relu(margin - d).square()
    if form == "squared_margin":
        return relu(margin**2 - d.square())
    raise ValueError(f"form must be 'margin_minus_distance' or 'squared_margin', got {form!r}")


@dataclass(frozen=True)
class ContrastiveLoss(Term):
    """`contrastive` of the labelled pairs."""

    margin: float = positive(0.5)
    distance: str = "cosine"
    form: Form = "margin_minus_distance"
    contrasts: ClassVar[bool] = True

    def __call__(self, batch: Embedded) -> Tensor:
        """Return the loss of a batch."""
        return contrastive(batch.u, batch.v, batch.labels, **self.knobs())


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
    duplicate = duplicates(labels)
    pull, push = d[duplicate], d[~duplicate]
    closest = (push.min() if len(push) else pull.mean()).detach()
    farthest = (pull.max() if len(pull) else push.mean()).detach()
    hard_pull, hard_push = pull[pull > closest], push[push < farthest]
    return (hard_pull.square().sum() + relu(margin - hard_push).square().sum()) / max(1, len(d))


@dataclass(frozen=True)
class OnlineContrastiveLoss(Term):
    """`online_contrastive` of the labelled pairs."""

    margin: float = positive(0.5)
    distance: str = "cosine"
    contrasts: ClassVar[bool] = True

    def __call__(self, batch: Embedded) -> Tensor:
        """Return the loss of a batch."""
        return online_contrastive(batch.u, batch.v, batch.labels, **self.knobs())


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


@dataclass(frozen=True)
class CoSENTLoss(Term):
    """`cosent` of the labelled pairs, or of graded ones."""

    temperature: float = positive(0.05)
    distance: str = "cosine"
    reads_grades: ClassVar[bool] = True
    contrasts: ClassVar[bool] = True

    def __call__(self, batch: Embedded) -> Tensor:
        """Return the loss of a batch."""
        return cosent(batch.u, batch.v, batch.labels, **self.knobs())
