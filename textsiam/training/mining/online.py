"""Miners: which triplets of a batch to learn from. Pure functions, distances and clusters in, indices out.

Every miner takes the distances of n anchors (rows) to m candidates (columns) and the clusters of both, and returns
`(anchors, positives, negatives)`: rows, columns and columns, `(t,)` each. A positive is another text of the anchor's
cluster, a negative one of another cluster, so that two duplicates are never set against each other, even where no pair
says that they are duplicates. Anchors without a positive or without a negative are left out.

Without `columns`, the candidates are the anchors themselves. With them, the first n candidates are still the anchors
themselves, and further ones follow, unless `own` is False.

Draws depend on the clusters of the batch alone, unless a generator is given: processes that share a batch draw alike,
and so does a run that resumes.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Triplets = tuple[Int[Tensor, " t"], Int[Tensor, " t"], Int[Tensor, " t"]]
Distances = Float[Tensor, "n m"]
Rows = Int[Tensor, " n"]
Columns = Int[Tensor, " m"] | None


def relations(
    clusters: Rows, columns: Columns = None, *, own: bool = True
) -> tuple[Bool[Tensor, "n m"], Bool[Tensor, "n m"]]:
    """Return which candidates are positives of each anchor, and which are negatives.

    Args:
        clusters: Cluster of each anchor, `(n,)`.
        columns: Cluster of each candidate, `(m,)`; None: the anchors are the candidates.
        own: Whether candidate i is anchor i itself, which is neither, for i < n.
    """
    same = clusters[:, None] == (clusters if columns is None else columns)[None, :]
    return (same.clone().fill_diagonal_(False) if own else same), ~same


def hard(distances: Distances, clusters: Rows, columns: Columns = None, *, own: bool = True) -> Triplets:
    """Set the farthest positive of each anchor against its closest negative (Hermans, Beyer & Leibe 2017)."""
    return _one_for_each(distances, *relations(clusters, columns, own=own))


def easy(distances: Distances, clusters: Rows, columns: Columns = None, *, own: bool = True) -> Triplets:
    """Set the closest positive of each anchor against its farthest negative."""
    return _one_for_each(-distances, *relations(clusters, columns, own=own))


def semi_hard(
    distances: Distances, clusters: Rows, columns: Columns = None, *, margin: float = 0.3, own: bool = True
) -> Triplets:
    """Set each positive against the closest negative that is farther away, by less than the margin.

    `d(a, p) < d(a, n) < d(a, p) + m` (Schroff, Kalenichenko & Philbin 2015). Positives without such a negative are left
    out. (sentence-transformers looks for one beyond the margin too, and takes the farthest where there is none;
    pytorch-metric-learning takes all that lie within.)
    """
    positive, negative = relations(clusters, columns, own=own)
    a, p = positive.nonzero(as_tuple=True)
    reach, rows = distances[a, p][:, None], distances[a]
    within = negative[a] & (rows > reach) & (rows < reach + margin)
    found = within.any(1)
    return a[found], p[found], rows[found].masked_fill(~within[found], float("inf")).argmin(1)


def all_triplets(distances: Distances, clusters: Rows, columns: Columns = None, *, own: bool = True) -> Triplets:
    """Set every positive against every negative; the distances do not matter."""
    positive, negative = relations(clusters, columns, own=own)
    a, p = positive.nonzero(as_tuple=True)
    pair, n = negative[a].nonzero(as_tuple=True)
    return a[pair], p[pair], n


def random_triplets(
    distances: Distances,
    clusters: Rows,
    columns: Columns = None,
    *,
    generator: torch.Generator | None = None,
    own: bool = True,
) -> Triplets:
    """Set every positive against a negative drawn at random; the distances do not matter."""
    positive, negative = relations(clusters, columns, own=own)
    return _draw(positive, negative.to(distances.dtype), clusters, generator)


def distance_weighted(
    distances: Distances,
    clusters: Rows,
    columns: Columns = None,
    *,
    dim: int,
    cutoff: float = 0.5,
    far: float = 1.4,
    generator: torch.Generator | None = None,
    own: bool = True,
) -> Triplets:
    """Set every positive against a negative drawn so that all distances come up alike (Wu et al. 2017).

    Distances between random points of the unit sphere are distributed as `q(d) ∝ d^(dim−2) · (1 − d²/4)^((dim−3)/2)`;
    a negative at distance d is drawn with probability proportional to `1 / q(max(d, cutoff))`, and never beyond `far`.

    Args:
        distances: Euclidean distances between L2-normalised embeddings, `(n, m)`.
        clusters: Cluster of each anchor, `(n,)`.
        columns: Cluster of each candidate, `(m,)`.
        dim: Dimensions of the embeddings.
        cutoff: Negatives closer than this count as if they were this far: mislabelled ones would be drawn too often.
        far: Negatives beyond this teach nothing.
        generator: Draws; None: the batch says how.
        own: Whether candidate i is anchor i itself, for i < n.

    Raises:
        ValueError: Not `0 < cutoff < far < 2`.
    """
    check_band(cutoff, far)
    positive, negative = relations(clusters, columns, own=own)
    d = distances.clamp(cutoff, far)
    rarity = (2 - dim) * d.log() - (dim - 3) / 2 * (1 - d.square() / 4).log()
    rarity = rarity.masked_fill(~negative | (distances >= far), float("-inf"))
    return _draw(positive, (rarity - rarity.amax(1, keepdim=True)).exp().nan_to_num(), clusters, generator)


def check_band(cutoff: float = 0.5, far: float = 1.4) -> None:
    """Refuse distances that `distance_weighted` cannot draw between."""
    if not 0 < cutoff < far < 2:
        raise ValueError(f"expected 0 < cutoff < far < 2, got cutoff {cutoff} and far {far}")


def _one_for_each(distances: Tensor, positive: Tensor, negative: Tensor) -> Triplets:
    a = (positive.any(1) & negative.any(1)).nonzero()[:, 0]
    p = distances[a].masked_fill(~positive[a], float("-inf")).argmax(1)
    return a, p, distances[a].masked_fill(~negative[a], float("inf")).argmin(1)


def _draw(positive: Tensor, weights: Tensor, clusters: Tensor, generator: torch.Generator | None) -> Triplets:
    a, p = (positive & (weights > 0).any(1, keepdim=True)).nonzero(as_tuple=True)
    if len(a) == 0:
        return a, p, p
    return a, p, torch.multinomial(weights[a], 1, generator=generator or _repeatable(clusters))[:, 0]


def _repeatable(clusters: Tensor) -> torch.Generator:
    places = torch.arange(1, len(clusters) + 1, device=clusters.device)
    seed = int((clusters * places * 2654435761).sum()) % 2**63  # any odd multiplier spreads the bits
    return torch.Generator(clusters.device).manual_seed(seed)
