"""P×K batches: each of P clusters brings K inputs, as K/2 pairs of duplicates."""

from __future__ import annotations

import numpy as np

from textsiam.data.pairs import Pairs


class ClusterBlocks:
    """Pairs of duplicates, cut into blocks of one cluster, of which every batch holds as many as it has room for.

    A round takes one block of every cluster that has one left, in random order, and is cut into batches: so no cluster
    comes twice in a batch, and clusters with many pairs come up more often over an epoch.

    Args:
        pairs: Their duplicates are used.
        clusters: Cluster of each input, `(m,)`.
        batch_size: Pairs of a batch.
        per_cluster: Inputs that each cluster brings, K; even.

    Raises:
        ValueError: K is odd or does not divide a batch, or there are not P clusters of K/2 pairs.

    Attributes:
        steps: Batches of an epoch.
    """

    def __init__(self, pairs: Pairs, clusters: np.ndarray, batch_size: int, per_cluster: int) -> None:
        if per_cluster < 2 or per_cluster % 2:
            raise ValueError(f"per_cluster must be an even number >= 2, got {per_cluster}")
        self.size = per_cluster // 2
        if batch_size % self.size:
            raise ValueError(f"batch_size {batch_size} is not a multiple of {self.size}, the pairs of a cluster")
        rows = np.flatnonzero(pairs.labels == 1)
        owner = clusters[pairs.left[rows]]
        order = np.argsort(owner, kind="stable")
        _, counts = np.unique(owner, return_counts=True)
        members = np.split(rows[order], np.cumsum(counts)[:-1]) if len(rows) else []
        self.members = [each for each in members if len(each) >= self.size]
        self.clusters_of_batch = batch_size // self.size
        blocks = np.array([len(each) // self.size for each in self.members], np.int64)
        rounds = [int((blocks > turn).sum()) for turn in range(blocks.max(initial=0))]
        self.steps = sum(count // self.clusters_of_batch for count in rounds)
        if not self.steps:
            raise ValueError(
                f"{pairs.source}: a batch of {batch_size} pairs needs {self.clusters_of_batch} clusters of "
                f"{self.size} or more pairs each, there are {len(self.members)}: lower batch_size, or raise per_cluster"
            )

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Return the pairs of an epoch, batch after batch, `(steps · batch_size,)`."""
        cut = [self._cut(rng.permutation(each)) for each in self.members]
        batches = []
        for turn in range(max(map(len, cut))):
            blocks = np.stack([each[turn] for each in cut if len(each) > turn])
            full = len(blocks) // self.clusters_of_batch * self.clusters_of_batch
            batches.append(rng.permutation(blocks)[:full].reshape(-1))
        return np.concatenate(batches)

    def _cut(self, rows: np.ndarray) -> np.ndarray:
        return rows[: len(rows) // self.size * self.size].reshape(-1, self.size)
