"""Distillation: a twin learns how similar a teacher finds the texts of a batch, or forgets less of what it knew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from textsiam.training.losses.terms import Embedded, Term


def distillation(
    u: Float[Tensor, "n dim"],
    v: Float[Tensor, "m dim"],
    taught_u: Float[Tensor, "n width"],
    taught_v: Float[Tensor, "m width"],
) -> Float[Tensor, ""]:
    """Find every left text as similar to every right one as the teacher does.

    `mean_ij( (cos(u_i, v_j) − cos(t(u_i), t(v_j)))² )` (similarity-preserving distillation, after Tung & Mori 2019;
    with the tower before training as teacher it is learning without forgetting, after Li & Hoiem 2017).

    Args:
        u: Embeddings of the left texts, `(n, dim)`.
        v: Embeddings of the right texts, `(m, dim)`.
        taught_u: The teacher's vectors of the left texts, of any width, `(n, width)`.
        taught_v: Those of the right texts, `(m, width)`.
    """
    found = normalize(u, dim=-1) @ normalize(v, dim=-1).T
    taught = normalize(taught_u, dim=-1) @ normalize(taught_v, dim=-1).T
    return (found - taught).square().sum() / max(1, found.numel())


@dataclass(frozen=True)
class DistillationLoss(Term):
    """`distillation` of all left texts of the batch with all right ones; no label is read.

    Attributes:
        teacher: Folder or Hub id of a saved model; None: the twin as it is before training.
    """

    teacher: str | None = None
    reads_teacher: ClassVar[bool] = True
    reads_grades: ClassVar[bool] = True

    def __call__(self, batch: Embedded) -> Tensor:
        """Return the loss of a batch.

        Raises:
            ValueError: The batch has no vectors of a teacher.
        """
        if batch.taught is None:
            raise ValueError("the distillation loss needs the vectors of a teacher, but the batch has none")
        taught_u, taught_v = (vectors.to(batch.u.dtype) for vectors in batch.taught)
        return distillation(batch.u, batch.v, taught_u, taught_v)
