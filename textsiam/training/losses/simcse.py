"""SimCSE: what a text without any label teaches, encoded twice with other dropout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from textsiam.training.knobs import positive
from textsiam.training.losses.ranking import symmetric_info_nce
from textsiam.training.losses.terms import Embedded, Term


@dataclass(frozen=True)
class SimCSELoss(Term):
    """`symmetric_info_nce` of each left text and itself, encoded a second time with other dropout.

    The two embeddings of a text are a pair of duplicates, those of other clusters are its negatives (Gao, Yao & Chen
    2021, "SimCSE"). No label is read.

    Attributes:
        temperature: τ; smaller is sharper.
    """

    temperature: float = positive(0.05)
    encodes_twice: ClassVar[bool] = True

    def __call__(self, batch: Embedded) -> Tensor:
        """Return the loss of a batch.

        Raises:
            ValueError: The batch has no second embeddings.
        """
        if batch.again is None:
            raise ValueError("the simcse loss needs left texts that are encoded twice, but the batch has none")
        mask = batch.left_clusters[:, None] == batch.left_clusters[None, :]
        return symmetric_info_nce(batch.u, batch.again, mask=mask, temperature=self.temperature)
