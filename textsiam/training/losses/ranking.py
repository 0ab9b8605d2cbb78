"""Losses that rank a duplicate before other texts, and the terms that a config names."""

from __future__ import annotations

from dataclasses import dataclass
from math import radians, tan
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from textsiam.models.distances import COSINE, Distance
from textsiam.training.knobs import knob, not_negative, positive
from textsiam.training.losses.functional import (
    check_margin,
    check_not_negative,
    check_positive,
    log_one_plus_sum,
    pick_target,
    ranking_penalty,
)
from textsiam.training.losses.terms import Embedded, Term, Texts


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
        anchor: Float[Tensor, "n dim"], `(n, dim)`.
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


@dataclass(frozen=True)
class TripletLoss(Term):
    """`triplet` of the duplicates, anchor and positive, and the negative that is drawn for each."""

    margin: float = 0.3
    distance: str = "cosine"
    soft: bool = False
    needs_negatives: ClassVar[bool] = True
    positives_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_margin(self.margin, soft=self.soft)

    def __call__(self, batch: Embedded) -> Tensor:
        """Return the loss of a batch."""
        keep, negative = batch.labels == 1, batch.drawn("triplet").embeddings
        return triplet(batch.u[keep], batch.v[keep], negative[keep], **self.knobs())


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
        anchor: Float[Tensor, "n dim"], `(n, dim)`.
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


@dataclass(frozen=True)
class InfoNCELoss(Term):
    """`info_nce` of the duplicates, with every text of the batch as a candidate.

    Members of the anchor's own cluster never count as negatives. Between different towers the candidates are those of
    the other side only.

    Attributes:
        temperature: τ; smaller is sharper.
        symmetric: Take the texts of both sides as anchors; else the left ones only.
        hard_negatives: Draw a text of another cluster for each left text too; it joins the candidates.
    """

    temperature: float = positive(0.05)
    symmetric: bool = True
    hard_negatives: bool = False

    @property
    def needs_negatives(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether a negative is drawn for each left text."""
        return self.hard_negatives

    def __call__(self, batch: Embedded) -> Tensor:
        """Return the loss of a batch."""
        forth = self._one_way(batch, forth=True)
        return (forth + self._one_way(batch, forth=False)) / 2 if self.symmetric else forth

    def _one_way(self, batch: Embedded, *, forth: bool) -> Tensor:
        anchors, candidates = batch.left if forth else batch.right, batch.candidates(forth=forth)
        if self.hard_negatives and (forth or batch.shared):  # the right tower encodes them
            candidates = Texts.joined(candidates, batch.drawn("info_nce"))
        keep = torch.nonzero(batch.labels == 1)[:, 0]  # pair i's other text is candidate i
        mask = anchors.clusters[keep, None] == candidates.clusters[None, :]
        chosen = anchors.embeddings[keep]
        return info_nce(chosen, candidates.embeddings, keep, temperature=self.temperature, mask=mask)


def n_pair(
    anchor: Float[Tensor, "n dim"],
    positive: Float[Tensor, "n dim"],
    *,
    temperature: float = 1.0,
    l2: float = 0.0,
    mask: Bool[Tensor, "n n"] | None = None,
) -> Float[Tensor, ""]:
    """Set each anchor's positive against the positives of all other anchors.

    `mean_i log( 1 + Σ_{j≠i} exp((a_i·p_j − a_i·p_i)/τ) ) + l2 · mean ‖e‖²` (Sohn 2016, with τ = 1), where the last mean
    is over all anchors and positives. Embeddings are taken with their lengths; where the tower normalises them, this
    is `info_nce` over the positives alone, and wants its temperature.

    Args:
        anchor: Float[Tensor, "n dim"], `(n, dim)`.
        positive: Embeddings of duplicates of the anchors, `(n, dim)`.
        temperature: τ; smaller is sharper.
        l2: Keeps embeddings short.
        mask: True at `(i, j)` where anchor i and positive j are of one cluster, `(n, n)`.

    Raises:
        ValueError: A temperature that is not positive, or a negative `l2`.
    """
    check_positive("temperature", temperature)
    check_not_negative("l2", l2)
    own = torch.arange(len(anchor), device=anchor.device)
    squares = torch.cat([anchor, positive]).square().sum() / max(1, 2 * len(anchor))
    return pick_target(anchor @ positive.T / temperature, own, mask) + l2 * squares


@dataclass(frozen=True)
class NPairLoss(Term):
    """`n_pair` of the duplicates: left texts are anchors, right ones positives."""

    temperature: float = positive(1.0)
    l2: float = not_negative(0.0)
    positives_only: ClassVar[bool] = True

    def __call__(self, batch: Embedded) -> Tensor:
        """Return the loss of a batch."""
        keep = batch.labels == 1
        mask = batch.left_clusters[keep, None] == batch.right_clusters[None, keep]
        return n_pair(batch.u[keep], batch.v[keep], mask=mask, **self.knobs())


def angular(
    anchor: Float[Tensor, "n dim"],
    positive: Float[Tensor, "n dim"],
    candidates: Float[Tensor, "m dim"],
    *,
    degrees: float = 45.0,
    mask: Bool[Tensor, "n m"] | None = None,
) -> Float[Tensor, ""]:
    """Keep the angle at each negative, over the line from anchor to positive, below a limit.

    `mean_i log( 1 + Σ_j exp(4 tan²α · (a_i + p_i)·n_j − 2 (1 + tan²α) · a_i·p_i) )` of L2-normalised embeddings
    (Wang et al. 2017). Angles do not change when all distances are scaled, so there is no margin to fit.

    Args:
        anchor: Float[Tensor, "n dim"], `(n, dim)`.
        positive: Embeddings of duplicates of the anchors, `(n, dim)`.
        candidates: Embeddings of negatives, `(m, dim)`.
        degrees: α, between 0 and 90.
        mask: True where a candidate must not count as a negative of the pair: it is of the same cluster, `(n, m)`.

    Raises:
        ValueError: An angle that is not between 0 and 90 degrees.
    """
    if not 0 < degrees < 90:
        raise ValueError(f"degrees must be between 0 and 90, got {degrees}")
    anchor, positive, candidates = (normalize(x, dim=-1) for x in (anchor, positive, candidates))
    square = tan(radians(degrees)) ** 2
    exponents = 4 * square * (anchor + positive) @ candidates.T
    exponents = exponents - 2 * (1 + square) * (anchor * positive).sum(-1, keepdim=True)
    if mask is not None:
        exponents = exponents.masked_fill(mask, float("-inf"))
    return log_one_plus_sum(exponents).sum() / max(1, len(anchor))


@dataclass(frozen=True)
class AngularLoss(Term):
    """`angular` of the duplicates, against every text of another cluster."""

    degrees: float = knob(45.0, "between 0 and 90", lambda x: 0 < x < 90)

    def __call__(self, batch: Embedded) -> Tensor:
        """Return the loss of a batch."""
        keep, candidates = batch.labels == 1, batch.candidates(forth=True)
        mask = batch.left_clusters[keep, None] == candidates.clusters[None, :]
        return angular(batch.u[keep], batch.v[keep], candidates.embeddings, mask=mask, **self.knobs())
