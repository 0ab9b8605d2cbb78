"""Score normalization (CSLS): a score less how crowded it is around both inputs, by inputs of other classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

NEAREST = 10
"""Members that tell how near everything is to an input."""
_AT_ONCE = 2**24  # cosines that are held


class ScoreNormalization(nn.Module):
    """The cosine of two embeddings, less what each of them has with its nearest others.

    `s(u, v) = cos(u, v) - (r(u) + r(v)) / 2`, where r is the mean cosine of an embedding and the `nearest`
    members that are closest to it. Some inputs are near to everything, as a plain character is. Their scores fall,
    those of inputs that stand alone rise, and one threshold fits both. It is the cross-domain similarity local scaling
    of Conneau et al. 2018, and speaker verification's normalisation of scores by a cohort (Auckenthaler et al. 2000)
    without dividing by a deviation.

    It learns nothing, so it needs no labels; members must not be of the classes that are told apart with it, or
    everything of those is taken for crowded. It does not help everywhere: where near neighbours are a sign of a
    duplicate, as among the questions of a forum, it does harm. Measure it.

    Args:
        dim: Width of the embeddings.
        size: Members.
        nearest: How many of them count; all, where there are fewer.

    Raises:
        ValueError: No member, or nobody counts.

    Example:
        >>> normalized = ScoreNormalization.of(np.eye(3, dtype=np.float32)[:2], nearest=1)
        >>> u, v = torch.eye(3)[[0, 2]], torch.eye(3)[[0, 2]]
        >>> normalized(u, v)  # the same twice, once where members are and once where nobody is
        tensor([0., 1.])
    """

    kind = "score_normalization"
    candidate_threshold: Tensor
    members: Tensor

    def __init__(self, dim: int, *, size: int, nearest: int = NEAREST) -> None:
        super().__init__()
        if size < 1 or nearest < 1:
            raise ValueError(f"score normalization needs members, and some that count: got {size} and {nearest}")
        self.dim, self.size, self.nearest = dim, size, nearest
        self.register_buffer("members", torch.zeros(size, dim))
        self.register_buffer("candidate_threshold", torch.tensor(float("-inf")))

    @classmethod
    def of(cls, vectors: np.ndarray, *, nearest: int = NEAREST) -> ScoreNormalization:
        """Make it of the vectors of its members, `(size, dim)`: `ScoreNormalization.of(twin.encode(inputs))`."""
        made = cls(vectors.shape[1], size=len(vectors), nearest=nearest)
        made.members.copy_(normalize(torch.from_numpy(np.asarray(vectors, np.float32)), dim=-1))
        return made

    def crowding(self, u: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
        """Return r of each row: its mean cosine with the members nearest to it."""
        count = min(self.nearest, self.size)
        parts = normalize(u, dim=-1).split(max(1, _AT_ONCE // self.size))
        return torch.cat([(part @ self.members.T).topk(count, dim=-1).values.mean(-1) for part in parts])

    def forward(self, u: Float[Tensor, "n dim"], v: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
        """Return the score of each pair of rows, in -2 to 2."""
        cosine = (normalize(u, dim=-1) * normalize(v, dim=-1)).sum(-1)
        return cosine - (self.crowding(u) + self.crowding(v)) / 2

    def knobs(self) -> dict[str, Any]:
        """Return what builds such a head again, members aside."""
        return {"kind": self.kind, "dim": self.dim, "size": self.size, "nearest": self.nearest}
