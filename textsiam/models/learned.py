"""Learned metrics: heads that score two embeddings, with weights of their own; symmetric by construction.

A `Head` maps `(n, dim), (n, dim) → (n,)`: how close row i of `u` and row i of `v` are, larger is closer, as for every
similarity. Those of this file learn the log-odds of a duplicate; a `ScoreNormalization` needs no labels. A twin finds
candidates by its distance and scores them with its head; a pair whose similarity by that distance is below the head's
`candidate_threshold` is no candidate. `calibrate` sets it.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from textsiam.models.distances import EUCLIDEAN, Distance
from textsiam.models.score_normalization import ScoreNormalization


class PairHead(nn.Module):
    """A multi-layer perceptron on what two embeddings share and what sets them apart.

    `z(u, v) = a·cos(u, v) + b + MLP(√dim·|u − v|, dim·u⊙v)`, u and v scaled to length 1. Both inputs of the perceptron
    are the same for (u, v) and (v, u), so z is symmetric whatever the weights. (The features are those of Conneau et
    al. 2017 without u and v themselves, which are not symmetric.) The last layer starts at 0: an untrained head ranks
    pairs as their cosine does.

    Args:
        dim: Width of the embeddings.
        hidden: Width of the hidden layer.
        dropout: Share of the hidden units that training leaves out.

    Example:
        >>> head = PairHead(4).eval()
        >>> u, v = torch.eye(4), torch.eye(4).flip(0)
        >>> torch.equal(head(u, v), head(v, u))
        True
    """

    kind = "mlp"
    candidate_threshold: Tensor

    def __init__(self, dim: int, *, hidden: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.dim, self.hidden, self.dropout = dim, hidden, dropout
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.tensor(-7.0))
        self.register_buffer("candidate_threshold", torch.tensor(float("-inf")))
        self.mlp = nn.Sequential(nn.Linear(2 * dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, 1))
        nn.init.zeros_(self.mlp[-1].weight)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.mlp[-1].bias)  # pyright: ignore[reportArgumentType]

    def forward(self, u: Float[Tensor, "n dim"], v: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
        """Return the log-odds of each pair of rows."""
        u, v = normalize(u, dim=-1), normalize(v, dim=-1)
        shared = u * v
        features = torch.cat([(u - v).abs() * math.sqrt(self.dim), shared * self.dim], dim=-1)
        return self.scale * shared.sum(-1) + self.bias + self.mlp(features).squeeze(-1)

    def knobs(self) -> dict[str, Any]:
        """Return what builds such a head again, weights aside."""
        return {"kind": self.kind, "dim": self.dim, "hidden": self.hidden, "dropout": self.dropout}


class Mahalanobis(nn.Module):
    """A learned Mahalanobis distance, and the log-odds that follow from it.

    `d(u, v) = ‖Lᵀ(u − v)‖₂`, that is `√((u − v)ᵀ M (u − v))` with `M = L·Lᵀ`, positive semi-definite by construction
    (Xing et al. 2003); `z(u, v) = b − d²` (the logistic form of Guillaumin, Verbeek & Schmid 2009). d is a
    pseudo-metric: symmetric, `d(u, u) = 0`, and the triangle inequality holds; with a rank below `dim` two different
    embeddings may be at distance 0. It starts at a multiple of the Euclidean distance.

    Args:
        dim: Width of the embeddings.
        rank: Columns of L; None takes `dim`.
        diagonal: Learn one weight for each dimension instead.

    Raises:
        ValueError: A rank that is not between 1 and `dim`, or one together with `diagonal`.
    """

    kind = "mahalanobis"
    candidate_threshold: Tensor

    def __init__(self, dim: int, *, rank: int | None = None, diagonal: bool = False) -> None:
        super().__init__()
        if rank is not None and diagonal:
            raise ValueError(f"a diagonal Mahalanobis distance has no rank, got rank {rank}")
        if rank is not None and not 1 <= rank <= dim:
            raise ValueError(f"rank must be between 1 and {dim}, got {rank}")
        self.dim, self.rank, self.diagonal = dim, rank, diagonal
        # Between unit vectors d² = scale²·2(1 − cos): 10·cos − 7 at the start, like the other head.
        scale = math.sqrt(5.0)
        shape = torch.ones(dim) if diagonal else _orthogonal(dim, rank or dim)
        self.factor = nn.Parameter(scale * shape)
        self.bias = nn.Parameter(torch.tensor(3.0))
        self.register_buffer("candidate_threshold", torch.tensor(float("-inf")))

    def project(self, u: Float[Tensor, "n dim"]) -> Float[Tensor, "n rank"]:
        """Return `Lᵀu` of each row: between these, d is the Euclidean distance."""
        return u * self.factor if self.diagonal else u @ self.factor

    @property
    def matrix(self) -> Float[Tensor, "dim dim"]:
        """The matrix M."""
        return torch.diag(self.factor.square()) if self.diagonal else self.factor @ self.factor.T

    def forward(self, u: Float[Tensor, "n dim"], v: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
        """Return the log-odds of each pair of rows."""
        return self.bias - self.project(u - v).square().sum(-1)

    def distance(self) -> Distance:
        """Return d as a distance that losses, miners and twins take; it follows the weights as they are trained."""
        return Distance(
            self.kind,
            lambda u, v: EUCLIDEAN.rowwise(self.project(u), self.project(v)),
            lambda u, v: EUCLIDEAN.all_pairs(self.project(u), self.project(v)),
            float("inf"),
        )

    def knobs(self) -> dict[str, Any]:
        """Return what builds such a head again, weights aside."""
        return {"kind": self.kind, "dim": self.dim, "rank": self.rank, "diagonal": self.diagonal}


Head = PairHead | Mahalanobis | ScoreNormalization
HeadKind = Literal["mlp", "mahalanobis", "score_normalization"]


def build_head(kind: HeadKind, **knobs: Any) -> Head:
    """Build the head of a kind, with the knobs of its class.

    Raises:
        ValueError: No head has this kind.
    """
    kinds = {head.kind: head for head in (PairHead, Mahalanobis, ScoreNormalization)}
    if kind not in kinds:
        raise ValueError(f"head is {kind!r}, expected one of {', '.join(kinds)}")
    return kinds[kind](**knobs)


def _orthogonal(dim: int, rank: int) -> Tensor:
    if rank == dim:
        return torch.eye(dim)
    return nn.init.orthogonal_(torch.empty(dim, rank)) * math.sqrt(dim / rank)
