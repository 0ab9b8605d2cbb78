"""What training minimises: a weighted sum of losses over the embeddings of a batch, gathered from all processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from textsiam.models.distances import COSINE, Distance
from textsiam.training import losses


@dataclass(frozen=True)
class Embedded:
    """A batch after the towers: row i of every field belongs to pair i.

    Attributes:
        u: Embeddings of the left texts, `(n, dim)`.
        v: Embeddings of the right texts, `(n, dim)`.
        negative: Embeddings of texts of other clusters than the left ones, `(n, dim)`, or None.
        labels: 1 = duplicate, 0 = not, `(n,)`.
        left_clusters: Cluster of each left text, `(n,)`.
        right_clusters: Cluster of each right text, `(n,)`.
        shared: Whether both sides come from one tower, so that left embeddings may be compared with left ones.
    """

    u: Tensor
    v: Tensor
    negative: Tensor | None
    labels: Tensor
    left_clusters: Tensor
    right_clusters: Tensor
    shared: bool = True


Term = Callable[[Embedded], Tensor]


class Objective(nn.Module):
    """A weighted sum of loss terms.

    Terms that own weights are `nn.Module`s: they are optimised and checkpointed with the twin.

    Args:
        terms: name → (weight, term); a term maps an `Embedded` batch to a scalar.
        needs_negatives: Whether a term reads `Embedded.negative`.
        positives_only: Whether every term ignores pairs that are no duplicates.

    Raises:
        ValueError: No term, or a weight that is not positive.
    """

    def __init__(
        self, terms: Mapping[str, tuple[float, Term]], *, needs_negatives: bool = False, positives_only: bool = False
    ) -> None:
        super().__init__()
        if not terms:
            raise ValueError("the objective has no loss: name at least one")
        for name, (weight, _) in terms.items():
            if not weight > 0:
                raise ValueError(f"weight of {name} must be > 0, got {weight}")
        self.terms = dict(terms)
        self.owners = nn.ModuleDict({n: t for n, (_, t) in terms.items() if isinstance(t, nn.Module)})
        self.needs_negatives = needs_negatives
        self.positives_only = positives_only

    def forward(self, batch: Embedded) -> Tensor:
        """Return the weighted sum of the terms, a scalar."""
        return torch.stack([weight * term(batch) for weight, term in self.terms.values()]).sum()


def contrastive_term(*, margin: float = 0.5, distance: Distance = COSINE, form: str = "margin_minus_distance") -> Term:
    """Return `losses.contrastive` as a term."""
    return lambda b: losses.contrastive(b.u, b.v, b.labels, margin=margin, distance=distance, form=form)  # pyright: ignore[reportArgumentType]


def online_contrastive_term(*, margin: float = 0.5, distance: Distance = COSINE) -> Term:
    """Return `losses.online_contrastive` as a term."""
    return lambda b: losses.online_contrastive(b.u, b.v, b.labels, margin=margin, distance=distance)


def triplet_term(*, margin: float = 0.3, distance: Distance = COSINE) -> Term:
    """Return `losses.triplet` as a term: duplicates are anchor and positive, set against the drawn negative."""

    def term(b: Embedded) -> Tensor:
        if b.negative is None:
            raise ValueError("the triplet loss needs negatives, but the batch has none")
        keep = b.labels == 1
        if not keep.any():
            return b.u.sum() * 0
        return losses.triplet(b.u[keep], b.v[keep], b.negative[keep], margin=margin, distance=distance)

    return term


def info_nce_term(*, temperature: float = 0.05) -> Term:
    """Return `losses.info_nce` as a term, in both directions, with every text of the batch as a candidate.

    Anchors are the texts of the duplicates; members of the anchor's own cluster never count as negatives. Between
    different towers the candidates are those of the other side only.
    """

    def one_way(anchor: Tensor, positive: Tensor, own: Tensor, across: Tensor, same: Tensor, b: Embedded) -> Tensor:
        keep = torch.nonzero(b.labels == 1).flatten()
        candidates = torch.cat([positive, anchor]) if b.shared else positive
        clusters = torch.cat([across, same]) if b.shared else across
        mask = own[keep, None] == clusters[None, :]
        return losses.info_nce(anchor[keep], candidates, keep, temperature=temperature, mask=mask)

    def term(b: Embedded) -> Tensor:
        forth = one_way(b.u, b.v, b.left_clusters, b.right_clusters, b.left_clusters, b)
        back = one_way(b.v, b.u, b.right_clusters, b.left_clusters, b.right_clusters, b)
        return (forth + back) / 2

    return term
