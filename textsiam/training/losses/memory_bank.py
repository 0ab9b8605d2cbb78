"""Cross-batch memory: the texts of earlier batches, as further candidates of this one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from textsiam.training.losses.terms import Texts


class Memory(nn.Module):
    """The embeddings of the last pairs, first in, first out, without gradients.

    Embeddings change slowly in training, so yesterday's serve as candidates of today's anchors, and a small batch has
    as many negatives as a large one (Wang et al. 2020, "Cross-Batch Memory for Embedding Learning"). The buffers are
    checkpointed with the objective. They hold what was gathered from all processes, so all of them remember alike.

    Args:
        pairs: How many pairs are remembered.

    Raises:
        ValueError: Fewer than one.
    """

    left: Tensor
    right: Tensor
    clusters: Tensor
    pushed: Tensor

    def __init__(self, pairs: int) -> None:
        super().__init__()
        if pairs < 1:
            raise ValueError(f"a memory holds at least 1 pair, got {pairs}")
        self.pairs = pairs

    def allocate(self, dim: int) -> None:
        """Make room for embeddings of `dim` dimensions, and forget what was there."""
        self.register_buffer("left", torch.zeros(self.pairs, dim))
        self.register_buffer("right", torch.zeros(self.pairs, dim))
        self.register_buffer("clusters", torch.zeros(self.pairs, 2, dtype=torch.long))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long))

    def recall(self) -> tuple[Texts, Texts]:
        """Return the left and the right texts that are remembered, in no particular order."""
        held = min(int(self.pushed), self.pairs)
        left, right = self.clusters[:held].clone().unbind(1)
        return Texts(self.left[:held].clone(), left), Texts(self.right[:held].clone(), right)

    @torch.no_grad()
    def push(self, left: Texts, right: Texts) -> None:
        """Remember the pairs of a batch; the oldest make room."""
        n = len(left.clusters)
        rows = torch.arange(max(0, n - self.pairs), n, device=left.clusters.device)
        places = (self.pushed + rows) % self.pairs
        self.left[places] = left.embeddings[rows].to(self.left.dtype)
        self.right[places] = right.embeddings[rows].to(self.right.dtype)
        self.clusters[places] = torch.stack([left.clusters, right.clusters], dim=1)[rows]
        self.pushed += n
