"""The losses as terms of an `Objective`: which texts of a batch each of them sees."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from textsiam.models.distances import COSINE, Distance
from textsiam.training import batch_losses, losses
from textsiam.training.batch_losses import Candidates
from textsiam.training.objective import Embedded, Sized, Term, Texts


def contrastive_term(*, margin: float = 0.5, distance: Distance = COSINE, form: str = "margin_minus_distance") -> Term:
    """Return `losses.contrastive` as a term."""
    return Term(lambda b: losses.contrastive(b.u, b.v, b.labels, margin=margin, distance=distance, form=form))  # pyright: ignore[reportArgumentType]


def online_contrastive_term(*, margin: float = 0.5, distance: Distance = COSINE) -> Term:
    """Return `losses.online_contrastive` as a term."""
    return Term(lambda b: losses.online_contrastive(b.u, b.v, b.labels, margin=margin, distance=distance))


def cosent_term(*, temperature: float = 0.05, distance: Distance = COSINE) -> Term:
    """Return `losses.cosent` as a term."""
    return Term(lambda b: losses.cosent(b.u, b.v, b.labels, temperature=temperature, distance=distance))


class SoftmaxTerm(Sized):
    """`losses.pair_softmax` with the linear layer that it trains, one for each width of the embeddings.

    Embeddings are multiplied by √dim first: those of a twin have length 1, and a layer over numbers that small would
    hardly learn. Weights start at zero: no verdict before evidence, the same on all processes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict()

    def allocate(self, dim: int) -> None:
        """Make the layer for embeddings of `dim` dimensions."""
        self.heads[str(dim)] = head = nn.Linear(3 * dim, 2)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)

    def forward(self, b: Embedded) -> Tensor:
        """Return the loss of a batch."""
        dim = b.u.shape[1]
        head: Any = self.heads[str(dim)]
        u, v = b.u * math.sqrt(dim), b.v * math.sqrt(dim)
        return losses.pair_softmax(u, v, b.labels, weight=head.weight, bias=head.bias)


def triplet_term(*, margin: float = 0.3, distance: Distance = COSINE, soft: bool = False) -> Term:
    """Return `losses.triplet` as a term: duplicates are anchor and positive, set against the drawn negative."""

    def term(b: Embedded) -> Tensor:
        keep = b.labels == 1
        negative = _drawn(b, "triplet")
        knobs = {"margin": margin, "distance": distance, "soft": soft}
        return losses.triplet(b.u[keep], b.v[keep], negative.embeddings[keep], **knobs)

    return Term(term, needs_negatives=True, positives_only=True)


def info_nce_term(*, temperature: float = 0.05, symmetric: bool = True, hard_negatives: bool = False) -> Term:
    """Return `losses.info_nce` as a term, with every text of the batch as a candidate.

    Anchors are the texts of the duplicates: in both directions, or the left ones only. Members of the anchor's own
    cluster never count as negatives. With hard negatives, a text of another cluster is drawn for each left text and
    joins the candidates. Between different towers the candidates are those of the other side only.
    """

    def one_way(b: Embedded, *, forth: bool) -> Tensor:
        anchors, candidates = b.left if forth else b.right, _candidates(b, forth=forth)
        if hard_negatives and (forth or b.shared):  # the right tower encodes them
            candidates = _join(candidates, _drawn(b, "info_nce"))
        keep = torch.nonzero(b.labels == 1)[:, 0]  # pair i's other text is candidate i
        mask = anchors.clusters[keep, None] == candidates.clusters[None, :]
        knobs = {"temperature": temperature, "mask": mask}
        return losses.info_nce(anchors.embeddings[keep], candidates.embeddings, keep, **knobs)

    def term(b: Embedded) -> Tensor:
        if not symmetric:
            return one_way(b, forth=True)
        return (one_way(b, forth=True) + one_way(b, forth=False)) / 2

    return Term(term, needs_negatives=hard_negatives)


def n_pair_term(*, temperature: float = 1.0, l2: float = 0.0) -> Term:
    """Return `batch_losses.n_pair` as a term: left texts of duplicates are anchors, right ones positives."""

    def term(b: Embedded) -> Tensor:
        keep = b.labels == 1
        mask = b.left_clusters[keep, None] == b.right_clusters[None, keep]
        return batch_losses.n_pair(b.u[keep], b.v[keep], temperature=temperature, l2=l2, mask=mask)

    return Term(term, positives_only=True)


def angular_term(*, degrees: float = 45.0) -> Term:
    """Return `batch_losses.angular` as a term: duplicates against every text of another cluster."""

    def term(b: Embedded) -> Tensor:
        keep = b.labels == 1
        candidates = _candidates(b, forth=True)
        mask = b.left_clusters[keep, None] == candidates.clusters[None, :]
        return batch_losses.angular(b.u[keep], b.v[keep], candidates.embeddings, degrees=degrees, mask=mask)

    return Term(term)


def in_batch_term(loss: Callable[..., Tensor]) -> Term:
    """Return a loss of `(embeddings, clusters, candidates=…)`, its knobs bound, as a term over all texts of the batch.

    Between different towers it is the mean of both directions, as texts are compared with the other side only.

    Example:
        >>> from functools import partial
        >>> term = in_batch_term(partial(batch_losses.batch_hard, margin=0.2))
    """

    def term(b: Embedded) -> Tensor:
        if b.shared:
            anchors = _join(b.left, b.right)
            remembered = [t for t in (b.left_memory, b.right_memory) if t is not None]
            return loss(*anchors, candidates=Candidates(*_join(anchors, *remembered), own=True))
        forth = loss(*b.left, candidates=Candidates(*_candidates(b, forth=True), own=False))
        back = loss(*b.right, candidates=Candidates(*_candidates(b, forth=False), own=False))
        return (forth + back) / 2

    return Term(term)


def _candidates(b: Embedded, *, forth: bool) -> Texts:
    """Return what left texts (`forth`) or right ones may be compared with: the other side of the batch comes first."""
    near, far = (b.left, b.right) if forth else (b.right, b.left)
    near_memory, far_memory = (b.left_memory, b.right_memory) if forth else (b.right_memory, b.left_memory)
    texts = (far, near, far_memory, near_memory) if b.shared else (far, far_memory)
    return _join(*(t for t in texts if t is not None))


def _drawn(b: Embedded, name: str) -> Texts:
    if b.negative is None or b.negative_clusters is None:
        raise ValueError(f"the {name} loss needs negatives, but the batch has none")
    return Texts(b.negative, b.negative_clusters)


def _join(*texts: Texts) -> Texts:
    dtype = texts[0].embeddings.dtype
    return Texts(torch.cat([t.embeddings.to(dtype) for t in texts]), torch.cat([t.clusters for t in texts]))
