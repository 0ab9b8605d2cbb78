"""What a teacher says of the texts that a twin is trained on: its vectors, encoded once, before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from textsiam.inference.cache import weights_digest
from textsiam.models.ensemble import members_of, open_scorer
from textsiam.models.scorer import Scorer
from textsiam.models.twin import Twin


class Taught(NamedTuple):
    """Vectors of m texts by a teacher: as left texts and as right ones, `(m, width)` each."""

    left: np.ndarray
    right: np.ndarray

    @classmethod
    def by(cls, name: str | None, twin: Twin, texts: Sequence[str]) -> Taught:
        """Encode texts, without gradients.

        Args:
            name: Folder or Hub id of a saved model; None: the twin, as it is now.
            twin: The one that is taught.
            texts: m inputs, by name.

        Raises:
            ModelError: The model cannot be found, needs code of its own (none is imported), or has no vectors.
        """
        teacher = _teacher(name, twin)
        left = teacher.encode(texts)
        right = left if teacher.right is None else teacher.encode(texts, side="right")
        return cls(left, right)

    def of(self, left: np.ndarray, right: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the vectors of these left and right texts, by their numbers."""
        return torch.from_numpy(self.left[left]), torch.from_numpy(self.right[right])


def teacher_weights(name: str | None, twin: Twin) -> list[str]:
    """Return the digest of each tower of a teacher, which is named as for `Taught.by`.

    Raises:
        ModelError: The model cannot be found, or needs code of its own.
    """
    return [weights_digest(tower) for each in members_of(_teacher(name, twin)) for tower in each.towers]


def _teacher(name: str | None, twin: Twin) -> Scorer:
    return twin if name is None else open_scorer(name, device=str(twin.device), sides=False)
