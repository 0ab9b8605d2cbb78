"""Triplet losses over all texts of a batch, and the term that a config names.

The conventions are those of `losses`. Texts of one cluster are duplicates, whether a pair says so or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from textsiam.models.distances import COSINE, Distance
from textsiam.training.knobs import not_negative
from textsiam.training.losses.functional import check_margin, check_not_negative, check_positive, ranking_penalty
from textsiam.training.losses.ranking import triplet
from textsiam.training.losses.terms import Embedded, Term, Texts
from textsiam.training.mining import online as miners
from textsiam.training.mining.online import Triplets

Embeddings = Float[Tensor, "n dim"]
Clusters = Int[Tensor, " n"]


class Candidates(NamedTuple):
    """Texts that anchors are compared with.

    Attributes:
        embeddings: `(m, dim)`.
        clusters: Cluster of each, `(m,)`.
        own: Whether the first ones are the anchors themselves, in their order.
    """

    embeddings: Float[Tensor, "m dim"]
    clusters: Int[Tensor, " m"]
    own: bool = True


Miner = Callable[..., Triplets]
"""Any function of `miners`, with its knobs bound."""


def batch_triplet(
    embeddings: Embeddings,
    clusters: Clusters,
    miner: Miner,
    *,
    margin: float = 0.3,
    distance: Distance = COSINE,
    soft: bool = False,
    candidates: Candidates | None = None,
) -> Float[Tensor, ""]:
    """Return the `triplet` loss of the triplets that a miner finds in the batch.

    Args:
        embeddings: Anchors, `(n, dim)`.
        clusters: Cluster of each, `(n,)`.
        miner: A function of `miners`.
        margin: Required gap, in the unit of `distance`.
        distance: How far apart two embeddings are, for the miner and the loss.
        soft: Fade out beyond the margin instead of stopping there.
        candidates: Where positives and negatives come from; None: the batch itself.

    Raises:
        ValueError: The margin is not positive (when it is soft: negative).
    """
    chosen = _mine(embeddings, clusters, miner, distance, candidates)
    return triplet(*_rows(embeddings, chosen, candidates), margin=margin, distance=distance, soft=soft)


def batch_hard(
    embeddings: Embeddings,
    clusters: Clusters,
    *,
    margin: float = 0.3,
    distance: Distance = COSINE,
    soft: bool = False,
    candidates: Candidates | None = None,
) -> Float[Tensor, ""]:
    """Set the farthest positive of each anchor against its closest negative (Hermans, Beyer & Leibe 2017).

    The mean is over the anchors that have both. Arguments and errors are those of `batch_triplet`.

    Example:
        >>> e = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])  # the stranger is closer than the duplicate
        >>> batch_hard(e, torch.tensor([5, 5, 9]), margin=0.5).item()  # (1 − 0 + ½ + 1 − 1 + ½) / 2
        1.0
    """
    knobs = {"margin": margin, "distance": distance, "soft": soft, "candidates": candidates}
    return batch_triplet(embeddings, clusters, miners.hard, **knobs)


def batch_semi_hard(
    embeddings: Embeddings,
    clusters: Clusters,
    *,
    margin: float = 0.3,
    distance: Distance = COSINE,
    soft: bool = False,
    candidates: Candidates | None = None,
) -> Float[Tensor, ""]:
    """Set each positive against the closest negative beyond it, within the margin (Schroff et al. 2015).

    The mean is over the positives that have one; see `miners.semi_hard` for what peers do with the others. Arguments
    and errors are those of `batch_triplet`; the margin must be positive.
    """
    check_positive("margin", margin)
    knobs = {"margin": margin, "distance": distance, "soft": soft, "candidates": candidates}
    return batch_triplet(embeddings, clusters, partial(miners.semi_hard, margin=margin), **knobs)


def batch_distance_weighted(
    embeddings: Embeddings,
    clusters: Clusters,
    *,
    margin: float = 0.3,
    distance: Distance = COSINE,
    soft: bool = False,
    cutoff: float = 0.5,
    far: float = 1.4,
    generator: torch.Generator | None = None,
    candidates: Candidates | None = None,
) -> Float[Tensor, ""]:
    """Set each positive against a negative drawn so that all distances come up alike (Wu et al. 2017).

    `cutoff`, `far` and `generator` are those of `miners.distance_weighted`, which is shown Euclidean distances between
    L2-normalised embeddings, whatever the loss measures. Other arguments and errors are those of `batch_triplet`.
    """
    knobs = {"dim": embeddings.shape[1], "cutoff": cutoff, "far": far, "generator": generator}

    def miner(cosine: Tensor, *relation: Tensor, own: bool) -> Triplets:
        return miners.distance_weighted((2 * cosine).clamp(min=0).sqrt(), *relation, own=own, **knobs)

    chosen = _mine(embeddings, clusters, miner, COSINE, candidates)
    return triplet(*_rows(embeddings, chosen, candidates), margin=margin, distance=distance, soft=soft)


def batch_all(
    embeddings: Embeddings,
    clusters: Clusters,
    *,
    margin: float = 0.3,
    distance: Distance = COSINE,
    soft: bool = False,
    candidates: Candidates | None = None,
) -> Float[Tensor, ""]:
    """Set every positive of each anchor against every negative.

    The mean is over the triplets that cost anything, so that the many easy ones do not drown them (Hermans, Beyer &
    Leibe 2017, "batch all ≠ 0"). Triplets are compared by their distances alone: P positive pairs and m candidates
    take memory of P·m numbers, whatever the dimension. Arguments and errors are those of `batch_triplet`.
    """
    others = candidates or Candidates(embeddings, clusters)
    d = distance.all_pairs(embeddings, others.embeddings)
    positive, negative = miners.relations(clusters, others.clusters, own=others.own)
    a, p = positive.nonzero(as_tuple=True)
    penalty = ranking_penalty(d[a, p][:, None] - d[a], margin=margin, soft=soft)[negative[a]]
    return penalty.sum() / (penalty > 0).sum().clamp(min=1)


def debiased_triplet(
    embeddings: Embeddings,
    clusters: Clusters,
    *,
    margin: float = 0.3,
    distance: Distance = COSINE,
    soft: bool = False,
    select: Literal["hard", "semi_hard"] = "hard",
    balance: float = 1.0,
    candidates: Candidates | None = None,
) -> Float[Tensor, ""]:
    """Learn from selected triplets, but keep their embeddings distributed as those of random triplets.

    `triplet(S) + λ · Σ_{r ∈ {a, p, n}} ‖ mean_S e_r − mean_R e_r ‖²`, where S are the selected triplets and R are all
    triplets of the batch: anchors, positives and negatives of both are matched in their means (maximum mean
    discrepancy with a linear kernel). The means over R are exact, as nothing need be drawn.

    The idea is that of Yu et al. 2018 ("Correcting the Triplet Selection Bias for Triplet Loss"): selecting hard
    triplets shifts the distribution that is learned from, and a term of domain adaptation corrects the shift. This
    matching term is the simplest of that kind, not a transcript of theirs.

    Args:
        embeddings: Anchors, `(n, dim)`.
        clusters: Cluster of each, `(n,)`.
        margin: Required gap, in the unit of `distance`.
        distance: How far apart two embeddings are.
        soft: Fade out beyond the margin instead of stopping there.
        select: The miner that selects.
        balance: λ; 0 leaves the bias as it is.
        candidates: Where positives and negatives come from; None: the batch itself.

    Raises:
        ValueError: A margin or λ out of range, or an unknown miner.
    """
    if select not in ("hard", "semi_hard"):
        raise ValueError(f"select must be 'hard' or 'semi_hard', got {select!r}")
    check_not_negative("balance", balance)
    miner = miners.hard if select == "hard" else partial(miners.semi_hard, margin=margin)
    chosen = _mine(embeddings, clusters, miner, distance, candidates)
    rows = _rows(embeddings, chosen, candidates)
    loss = triplet(*rows, margin=margin, distance=distance, soft=soft)
    if len(chosen[0]) == 0:
        return loss
    means = _means_of_all_triplets(embeddings, clusters, candidates or Candidates(embeddings, clusters))
    shift = torch.stack([(mine.mean(0) - mean).square().sum() for mine, mean in zip(rows, means, strict=True)])
    return loss + balance * shift.sum()


def _mine(e: Tensor, clusters: Tensor, miner: Miner, distance: Distance, candidates: Candidates | None) -> Triplets:
    others = candidates or Candidates(e, clusters)
    if len(e) == 0:
        return clusters, clusters, clusters  # no rows
    with torch.no_grad():
        return miner(distance.all_pairs(e, others.embeddings), clusters, others.clusters, own=others.own)


def _rows(e: Tensor, chosen: Triplets, candidates: Candidates | None) -> tuple[Tensor, Tensor, Tensor]:
    a, p, n = chosen
    others = e if candidates is None else candidates.embeddings
    return e[a], others[p], others[n]


def _means_of_all_triplets(e: Tensor, clusters: Tensor, others: Candidates) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean anchor, positive and negative of all triplets, by how often each text has that part."""
    positive, negative = (x.to(e.dtype) for x in miners.relations(clusters, others.clusters, own=others.own))
    positives, negatives = positive.sum(1), negative.sum(1)
    shares = (positives * negatives, negatives @ positive, positives @ negative)
    return tuple((s / s.sum()) @ x for s, x in zip(shares, (e, others.embeddings, others.embeddings), strict=True))  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class BatchTripletLoss(Term):
    """`triplet` of triplets that are mined among all texts of the batch, the remembered ones included.

    Between different towers it is the mean of both directions, as texts are compared with the other side only.

    Attributes:
        mining: Which triplets: `batch_all`, `batch_hard`, `batch_semi_hard` and `batch_distance_weighted` of this file,
            or `batch_triplet` with the miner of that name.
        margin: Required gap, in the unit of `distance`.
        distance: How far apart two embeddings are.
        soft: Fade out beyond the margin instead of stopping there.
        balance: λ of `debiased_triplet`, with hard and semi-hard mining; None: the plain loss.
        cutoff: See `miners.distance_weighted`, with distance-weighted mining; None: 0.5.
        far: Likewise; None: 1.4.
    """

    mining: Literal["all", "hard", "semi_hard", "easy", "random", "distance_weighted"] = "hard"
    margin: float = 0.3
    distance: str = "cosine"
    soft: bool = False
    balance: float | None = not_negative(None)
    cutoff: float | None = None
    far: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_margin(self.margin, soft=self.soft and self.mining != "semi_hard")
        given = {name: value for name in _ONLY_FOR if (value := getattr(self, name)) is not None}
        for name, value in given.items():
            if self.mining not in _ONLY_FOR[name]:
                raise ValueError(f"{name} is for mining {' or '.join(_ONLY_FOR[name])}, got {value} with {self.mining}")
        if "balance" not in given:
            miners.check_band(**given)

    def __call__(self, batch: Embedded) -> Tensor:
        """Return the loss of a batch."""
        loss = self._loss()
        if batch.shared:
            texts = Texts.joined(batch.left, batch.right)
            known = Texts.joined(texts, batch.left_memory, batch.right_memory)
            return loss(*texts, candidates=Candidates(*known, own=True))
        forth = loss(*batch.left, candidates=Candidates(*batch.candidates(forth=True), own=False))
        back = loss(*batch.right, candidates=Candidates(*batch.candidates(forth=False), own=False))
        return (forth + back) / 2

    def _loss(self) -> Callable[..., Tensor]:
        knobs = {name: value for name, value in self.knobs().items() if value is not None}
        mining = knobs.pop("mining")
        if self.balance is not None:
            return partial(debiased_triplet, select=mining, **knobs)
        return partial(_MINING[mining], **knobs)


_MINING: dict[str, Callable[..., Tensor]] = {
    "all": batch_all,
    "hard": batch_hard,
    "semi_hard": batch_semi_hard,
    "easy": partial(batch_triplet, miner=miners.easy),
    "random": partial(batch_triplet, miner=miners.random_triplets),
    "distance_weighted": batch_distance_weighted,
}
_ONLY_FOR = {"balance": ("hard", "semi_hard"), "cutoff": ("distance_weighted",), "far": ("distance_weighted",)}
