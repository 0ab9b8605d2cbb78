"""Distances between embeddings: one sign everywhere, smaller = closer.

A `Distance` is a pair of pure functions with the same meaning: `rowwise(u, v)` compares row i of `u` with
row i of `v`; `all_pairs(u, v)` compares every row of `u` with every row of `v`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

# Added under the square root: the gradient of the Euclidean norm is undefined at zero distance.
_ROOT_FLOOR = 1e-12
# The same for angles, where the two sides of a right triangle may not both be zero.
_SIDE_FLOOR = 1e-30


def _no_product(similarity: float, squared: float) -> float:
    return -math.inf


@dataclass(frozen=True)
class Distance:
    """A named distance between embeddings.

    Attributes:
        name: The word used in configs and saved models.
        rowwise: `(n, dim), (n, dim) → (n,)`.
        all_pairs: `(n, dim), (m, dim) → (n, m)`.
        bounded: The largest value between L2-normalised vectors.
        least_product: From a similarity and the least squared length of two vectors to an inner product that they reach
            where they are at least that similar; for the angles the length counts as 1. Nothing follows by default.
        products: Which inner products are near this lower bound, so that they find near vectors: those of the vectors
            as they are ("plain"), or scaled to length 1 ("unit"); None where the bound is too loose for that.
    """

    name: str
    rowwise: Callable[[Tensor, Tensor], Tensor]
    all_pairs: Callable[[Tensor, Tensor], Tensor]
    bounded: float
    least_product: Callable[[float, float], float] = _no_product
    products: Literal["plain", "unit"] | None = None

    @property
    def is_cosine(self) -> bool:
        """Whether the similarity is the cosine itself."""
        return self.name == "cosine"

    def __call__(self, u: Tensor, v: Tensor) -> Tensor:
        """Return the rowwise distance of `u` and `v`."""
        return self.rowwise(u, v)

    def similarity(self, distance: Tensor) -> Tensor:
        """Turn distances into similarities (larger = closer): `1 − d` for cosine, `−d` for the others."""
        return 1 - distance if self.is_cosine else -distance


def _cosine(u: Float[Tensor, "n dim"], v: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
    return 1 - (normalize(u, dim=-1) * normalize(v, dim=-1)).sum(-1)


def _cosine_pairs(u: Float[Tensor, "n dim"], v: Float[Tensor, "m dim"]) -> Float[Tensor, "n m"]:
    return 1 - normalize(u, dim=-1) @ normalize(v, dim=-1).T


def _squared(u: Float[Tensor, "n dim"], v: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
    return (u - v).square().sum(-1)


def _squared_pairs(u: Float[Tensor, "n dim"], v: Float[Tensor, "m dim"]) -> Float[Tensor, "n m"]:
    # |u|² − 2uv + |v|² cancels badly for near neighbours; the exact mode of cdist does not.
    return torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist").square()


def _euclidean(u: Float[Tensor, "n dim"], v: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
    return (_squared(u, v) + _ROOT_FLOOR).sqrt()


def _euclidean_pairs(u: Float[Tensor, "n dim"], v: Float[Tensor, "m dim"]) -> Float[Tensor, "n m"]:
    return torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist")


def _manhattan(u: Float[Tensor, "n dim"], v: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
    return (u - v).abs().sum(-1)


def _manhattan_pairs(u: Float[Tensor, "n dim"], v: Float[Tensor, "m dim"]) -> Float[Tensor, "n m"]:
    return torch.cdist(u, v, p=1)


def _angle(apart: Tensor, together: Tensor) -> Tensor:
    # Half the angle between unit vectors lies opposite |u − v| and beside |u + v|: unlike the arc cosine, this is
    # exact for small angles and its gradient is bounded.
    return torch.atan2((apart + _SIDE_FLOOR).sqrt(), (together + _SIDE_FLOOR).sqrt()) * (2 / math.pi)


def _angular(u: Float[Tensor, "n dim"], v: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
    u, v = normalize(u, dim=-1), normalize(v, dim=-1)
    return _angle(_squared(u, v), _squared(u, -v))


def _angular_pairs(u: Float[Tensor, "n dim"], v: Float[Tensor, "m dim"]) -> Float[Tensor, "n m"]:
    u, v = normalize(u, dim=-1), normalize(v, dim=-1)
    return _angle(_squared_pairs(u, v), _squared_pairs(u, -v))


def _product_of_cosine(similarity: float, squared: float) -> float:
    return similarity


def _product_of_angle(similarity: float, squared: float) -> float:
    return math.cos(math.pi * min(max(-similarity, 0.0), 1.0))


def _product_of_euclidean(similarity: float, squared: float) -> float:
    apart = max(-similarity, 0.0)
    return squared - apart * apart / 2  # 2 u·v = ‖u‖² + ‖v‖² − ‖u − v‖²


def _product_of_squared(similarity: float, squared: float) -> float:
    return squared - max(-similarity, 0.0) / 2


COSINE = Distance("cosine", _cosine, _cosine_pairs, 2.0, _product_of_cosine, "unit")
"""`1 − u·v / (‖u‖‖v‖)`, in [0, 2]. Not a metric: the triangle inequality fails."""

EUCLIDEAN = Distance("euclidean", _euclidean, _euclidean_pairs, 2.0, _product_of_euclidean, "plain")
"""`‖u − v‖₂`. A metric; between L2-normalised vectors it is `sqrt(2 · cosine distance)`."""

SQUARED_EUCLIDEAN = Distance("squared_euclidean", _squared, _squared_pairs, 4.0, _product_of_squared, "plain")
"""`‖u − v‖₂²`. Not a metric: the triangle inequality fails."""

# No smaller than the Euclidean distance, so that its bound holds.
MANHATTAN = Distance("manhattan", _manhattan, _manhattan_pairs, float("inf"), _product_of_euclidean)
"""`‖u − v‖₁`. A metric."""

ANGULAR = Distance("angular", _angular, _angular_pairs, 1.0, _product_of_angle, "unit")
"""`arccos(u·v / (‖u‖‖v‖)) / π`, in [0, 1]. A metric on the unit sphere; it orders pairs as cosine distance does."""

DISTANCES = {d.name: d for d in (COSINE, EUCLIDEAN, SQUARED_EUCLIDEAN, MANHATTAN, ANGULAR)}


def distance_named(name: str) -> Distance:
    """Return the distance called `name`.

    Raises:
        ValueError: No distance has this name; the message says which ones exist.
    """
    if name in DISTANCES:
        return DISTANCES[name]
    near = get_close_matches(name, DISTANCES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown distance {name!r}, expected one of {', '.join(DISTANCES)}{hint}")
