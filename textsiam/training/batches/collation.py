"""Batches: tokenised once, each distinct text of a batch encoded once, in chunks of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from sentence_transformers import SentenceTransformer
from torch import Tensor

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.inference.encoders import prepare
from textsiam.inference.inputs import Prepared
from textsiam.inference.tokens import chunk_by_tokens
from textsiam.models.twin import Twin
from textsiam.training.batches.sampling import Sampler, epoch_order
from textsiam.training.batches.teacher import Taught
from textsiam.training.mining.triplets import draw_negatives

Features = dict[str, Any]
Prepare = Callable[[SentenceTransformer, Sequence[str]], Prepared]


@dataclass(frozen=True)
class Batch:
    """The rows of one step on one process.

    Attributes:
        left: Padded chunks of the distinct left texts (of all texts, when the sides share a tower).
        right: Padded chunks of the distinct right texts, when the towers differ; else None.
        left_rows: Where each pair's left embedding stands in what `left` encodes to, `(n,)`.
        right_rows: The same for the right text, in what `right` (or `left`) encodes to, `(n,)`.
        negative_rows: The same for a text of another cluster, `(n,)`; None unless a loss asks for it.
        labels: 1 = duplicate, 0 = not, or the grades of the pairs, `(n,)`.
        left_clusters: Cluster of each left text, `(n,)`.
        right_clusters: Cluster of each right text, `(n,)`.
        negative_clusters: Cluster of each negative, `(n,)`, or None.
        again_rows: Where the left texts stand a second time in what `left` encodes to, `(n,)`; None unless a loss asks
            for it.
        taught: Vectors that a teacher gives the left and the right texts, `(n, width)` each; None without one.
        part: Which of the sets of the run the pairs are of.
    """

    left: list[Features]
    right: list[Features] | None
    left_rows: Tensor
    right_rows: Tensor
    negative_rows: Tensor | None
    labels: Tensor
    left_clusters: Tensor
    right_clusters: Tensor
    negative_clusters: Tensor | None = None
    again_rows: Tensor | None = None
    taught: tuple[Tensor, Tensor] | None = None
    part: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return replace(self, **send_to_device(vars(self), device, non_blocking=True))


def _changed_alike(pairs: Pairs, clusters: np.ndarray) -> np.ndarray:
    """Number what is changed alike, (m,): families where they are known, else clusters."""
    if pairs.families is None:
        return clusters
    return np.where(pairs.families >= 0, pairs.families, pairs.families.max(initial=0) + 1 + clusters)


class TrainingPairs:
    """Pairs made ready for training: tokenised once, clustered, in an order that a seed fixes.

    Args:
        pairs: Labelled pairs.
        twin: Its towers say how texts are tokenised.
        sampler: Which pairs make a batch.
        token_budget: Largest padded size of a chunk, in tokens.
        seed: Fixes the order of the pairs and the drawn negatives.
        negatives: Draw a text of another cluster for each pair (for triplet losses).
        twice: Encode each left text a second time.
        grades: Grades of the pairs, in place of labels, `(n,)`; None where they are labelled.
        rank: Which process this is.
        world: How many processes there are; each takes an equal, contiguous share of every batch.
        threads: How many share the chunks of a batch: it is cut so that each gets about as much.
        prepare: How inputs are made ready for a tower.
        taught: What a teacher says of the texts; None without one.

    Attributes:
        mined: Negatives that were mined for each pair, `(n, k)`, −1 = no more; None before any were.
    """

    def __init__(
        self,
        pairs: Pairs,
        twin: Twin,
        sampler: Sampler,
        *,
        token_budget: int = 1536,
        seed: int = 0,
        negatives: bool = False,
        twice: bool = False,
        grades: np.ndarray | None = None,
        rank: int = 0,
        world: int = 1,
        threads: int = 1,
        prepare: Prepare = prepare,
        taught: Taught | None = None,
    ) -> None:
        self.pairs, self.sampler = pairs, sampler
        self.targets = pairs.labels.astype(np.int64) if grades is None else grades.astype(np.float32)
        self.clusters = cluster_ids(pairs)
        self._alike = _changed_alike(pairs, self.clusters)
        self.left_inputs = prepare(twin.left, pairs.texts)
        self.right_inputs = self.left_inputs if twin.right is None else prepare(twin.right, pairs.texts)
        self.token_budget, self.seed, self.negatives, self.twice = token_budget, seed, negatives, twice
        self.rank, self.world, self.threads = rank, world, threads
        self.mined: np.ndarray | None = None
        self._shared, self.taught = twin.right is None, taught

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield the batches from number `first` on, counted over all epochs, without end."""
        epoch, start = divmod(first, self.sampler.steps)
        while True:
            yield from self.epoch(epoch, start=start)
            epoch, start = epoch + 1, 0

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield this process's batches of an epoch, from batch `start` on; the same on every call."""
        order = epoch_order(self.sampler, epoch, seed=self.seed, mined=self.mined)
        negative = None
        if self.negatives or (order >= len(self.pairs)).any():
            negative = draw_negatives(self.pairs, self.clusters, mined=self.mined, seed=[self.seed, epoch])
        share = order.shape[1] // self.world
        for step in range(start, len(order)):
            rows = order[step, self.rank * share : (self.rank + 1) * share]
            yield self.collate(rows, negative, seed=[self.seed, epoch, step])

    def collate(
        self, rows: np.ndarray, negative: np.ndarray | None = None, *, seed: Sequence[int] | None = None
    ) -> Batch:
        """Return the batch of these pairs.

        Args:
            rows: Indices of pairs; n + i is pair i with its negative on the right, labelled 0.
            negative: The text that each pair is set against, `(n,)`.
            seed: Of what changes the inputs, where something does; None leaves them as they are.
        """
        swapped, rows = rows >= len(self.pairs), rows % len(self.pairs)
        left, right, labels = self.pairs.left[rows], self.pairs.right[rows], self.targets[rows]
        if negative is not None:
            right, labels = np.where(swapped, negative[rows], right), np.where(swapped, 0, labels)
        against = negative[rows] if negative is not None and self.negatives else None
        others = [right] if against is None else [right, against]
        own = [left, left + len(self.pairs.texts)] if self.twice else [left]  # each text a second time, as another one
        n, m = len(rows), len(own) * len(rows)
        if self._shared:
            left_chunks, places = self._chunks(self.left_inputs, [*own, *others], seed)
            right_chunks, at_left, at_right = None, places[:m], places[m:]
        else:
            left_chunks, at_left = self._chunks(self.left_inputs, own, seed)
            right_chunks, at_right = self._chunks(self.right_inputs, others, seed)
        return Batch(
            left=left_chunks,
            right=right_chunks,
            left_rows=at_left[:n],
            right_rows=at_right[:n],
            negative_rows=None if against is None else at_right[n:],
            labels=torch.from_numpy(labels),
            left_clusters=torch.from_numpy(self.clusters[left].astype(np.int64)),
            right_clusters=torch.from_numpy(self.clusters[right].astype(np.int64)),
            negative_clusters=None if against is None else torch.from_numpy(self.clusters[against].astype(np.int64)),
            again_rows=at_left[n:] if self.twice else None,
            taught=None if self.taught is None else self.taught.of(left, right),
        )

    def _chunks(
        self, inputs: Prepared, sides: list[np.ndarray], seed: Sequence[int] | None
    ) -> tuple[list[Features], Tensor]:
        """Return padded chunks of the distinct inputs, and where each of `sides` stands in their concatenation.

        The number of an input plus that of all inputs is the same input once more.
        """
        distinct, inverse = np.unique(np.concatenate(sides), return_inverse=True)
        distinct = distinct % len(self.pairs.texts)
        chunks = self._cut(inputs.lengths_of(distinct))
        place = np.empty(len(distinct), np.int64)
        place[np.concatenate(chunks)] = np.arange(len(distinct))
        rows = [distinct[chunk] for chunk in chunks]
        features = [inputs.collate(each, seed=seed, clusters=self._alike[each]) for each in rows]
        return features, torch.from_numpy(place[inverse])

    def _cut(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Return which inputs make a chunk: as many chunks of about one size for each thread."""
        if self.threads == 1:
            return chunk_by_tokens(lengths, self.token_budget)
        total = int(lengths.sum())
        count = self.threads * -(-total // (self.threads * self.token_budget))
        budget = -(-total // count)
        while len(chunks := chunk_by_tokens(lengths, budget)) > min(count, len(lengths)):
            budget += -(-budget // 64)
        return chunks
