"""Batches: tokenised once, each distinct text of a batch encoded once, in chunks of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.models.encoders import prepare
from textsiam.models.inputs import Prepared
from textsiam.models.tokens import chunk_by_tokens
from textsiam.models.twin import Twin
from textsiam.training.cluster_blocks import ClusterBlocks
from textsiam.training.triplets import draw_negatives

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
        labels: 1 = duplicate, 0 = not, `(n,)`.
        left_clusters: Cluster of each left text, `(n,)`.
        right_clusters: Cluster of each right text, `(n,)`.
        negative_clusters: Cluster of each negative, `(n,)`, or None.
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

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        moved = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        sides = {
            name: None if side is None else [{k: _on(device, v) for k, v in chunk.items()} for chunk in side]
            for name, side in (("left", self.left), ("right", self.right))
        }
        return replace(self, **moved, **sides)


def _on(device: torch.device, feature: Any) -> Any:
    return feature.to(device, non_blocking=True) if isinstance(feature, Tensor) else feature


class TrainingPairs:
    """Pairs made ready for training: tokenised once, clustered, in an order that a seed fixes.

    Args:
        pairs: Labelled pairs.
        twin: Its towers say how texts are tokenised.
        batch_size: Pairs of one batch over all processes.
        token_budget: Largest padded size of a chunk, in tokens.
        seed: Fixes the order of the pairs and the drawn negatives.
        negatives: Draw a text of another cluster for each pair (for triplet losses).
        positives_only: Train on duplicates only (for losses that ignore the others).
        duplicate_share: Share of duplicates in every batch: pairs of the rarer class come up more often. None takes
            the pairs as they are.
        mined_share: Share of every batch that is made of a duplicate's left text and its negative, as a pair labelled
            "no duplicates"; see `mined`.
        per_cluster: Inputs that each cluster of a batch brings, an even number K, from P = 2 · batch_size / K clusters
            (P×K sampling, Hermans et al. 2017): for losses over all inputs of a batch. None takes pairs as they come.
        rank: Which process this is.
        world: How many processes there are; each takes an equal, contiguous share of every batch.
        prepare: How inputs are made ready for a tower.

    Raises:
        ValueError: No pair to train on, or the batch cannot be shared equally, or not divided as the shares say.

    Attributes:
        mined: Negatives that were mined for each pair, `(n, k)`, −1 = no more; None before any were.
    """

    def __init__(
        self,
        pairs: Pairs,
        twin: Twin,
        *,
        batch_size: int,
        token_budget: int = 1536,
        seed: int = 0,
        negatives: bool = False,
        positives_only: bool = False,
        duplicate_share: float | None = None,
        mined_share: float = 0.0,
        per_cluster: int | None = None,
        rank: int = 0,
        world: int = 1,
        prepare: Prepare = prepare,
    ) -> None:
        if batch_size % world:
            raise ValueError(f"batch_size {batch_size} cannot be shared equally by {world} processes")
        if (pairs.labels < 0).any():
            raise ValueError(f"{pairs.source}: training needs labelled pairs")
        self.rows = np.flatnonzero(pairs.labels == 1) if positives_only else np.arange(len(pairs))
        if len(self.rows) == 0:
            raise ValueError(f"{pairs.source}: no pairs to train on")
        if len(self.rows) < world:
            raise ValueError(f"{pairs.source}: {len(self.rows)} pairs cannot be shared by {world} processes")
        self.pairs = pairs
        self.clusters = cluster_ids(pairs)
        self.left_inputs = prepare(twin.left, pairs.texts)
        self.right_inputs = self.left_inputs if twin.right is None else prepare(twin.right, pairs.texts)
        self.batch_size = min(batch_size, len(self.rows) // world * world)
        self.token_budget, self.seed, self.negatives = token_budget, seed, negatives
        self.rank, self.world = rank, world
        self.duplicate_share = None if positives_only else duplicate_share
        if self.duplicate_share is not None and len(np.unique(pairs.labels)) < 2:
            raise ValueError(f"{pairs.source}: duplicate_share needs pairs of both labels")
        self.mined: np.ndarray | None = None
        self._from_mined = round(mined_share * self.batch_size)
        if self._from_mined and (positives_only or not pairs.positives):
            raise ValueError(f"{pairs.source}: mined pairs need duplicates, and a loss that reads others too")
        self._blocks = None
        if per_cluster is not None:
            if negatives or self._from_mined or self.duplicate_share is not None:
                raise ValueError("per_cluster makes batches of duplicates: it goes without negatives and shares")
            self._blocks = ClusterBlocks(pairs, self.clusters, batch_size, per_cluster)
            self.batch_size = batch_size
        if self._from_mined > self.batch_size - max(1, self._duplicates):
            raise ValueError(f"a batch of {self.batch_size} has no room for a share of {mined_share} mined pairs")
        self._shared = twin.right is None

    @property
    def _duplicates(self) -> int:
        """Duplicates of every batch, where their share is fixed."""
        return round((self.duplicate_share or 0) * self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the pairs; an incomplete last batch is left out."""
        if self._blocks is not None:
            return self._blocks.steps
        return len(self.rows) // (self.batch_size - self._from_mined)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield this process's batches of an epoch, from batch `start` on; the same on every call."""
        negative = None
        if self.negatives or self._from_mined:
            negative = draw_negatives(self.pairs, self.clusters, mined=self.mined, seed=[self.seed, epoch])
        order = self._order(epoch)
        share = self.batch_size // self.world
        for step in range(start, self.steps_per_epoch):
            first = step * self.batch_size + self.rank * share
            yield self.collate(order[first : first + share], negative, seed=[self.seed, epoch, step])

    def _order(self, epoch: int) -> np.ndarray:
        """Return the pairs of an epoch, batch after batch; n + i is pair i with its negative on the right."""
        rng = np.random.default_rng([self.seed, epoch])
        if self._blocks is not None:
            return self._blocks.order(rng)
        steps, room = self.steps_per_epoch, self.batch_size - self._from_mined
        if self.duplicate_share is None:
            columns = [rng.permutation(self.rows)[: steps * room].reshape(steps, room)]
        else:
            counts = {1: self._duplicates, 0: room - self._duplicates}
            columns = [
                labelled(self.pairs.labels, label, steps * n, epoch, self.seed).reshape(steps, n)
                for label, n in counts.items()
            ]
        if self._from_mined:
            columns.append(self._with_negatives(rng, steps * self._from_mined).reshape(steps, self._from_mined))
        return (
            rng.permuted(np.concatenate(columns, axis=1), axis=1).reshape(-1)
            if len(columns) > 1
            else columns[0].ravel()
        )

    def _with_negatives(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return so many duplicates that are to have their negative on the right: those with a mined one, if any."""
        rows = np.flatnonzero(self.pairs.labels == 1)
        if self.mined is not None and (self.mined[rows, 0] >= 0).any():
            rows = rows[self.mined[rows, 0] >= 0]
        laps = [rng.permutation(rows) for _ in range(-(-count // len(rows)))]
        return len(self.pairs) + np.concatenate(laps)[:count]

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
        left, right, labels = self.pairs.left[rows], self.pairs.right[rows], self.pairs.labels[rows].astype(np.int64)
        if negative is not None:
            right, labels = np.where(swapped, negative[rows], right), np.where(swapped, 0, labels)
        against = negative[rows] if negative is not None and self.negatives else None
        others = [right] if against is None else [right, against]
        n = len(rows)
        if self._shared:
            chunks, places = _chunks(
                self.left_inputs, np.concatenate([left, *others]), self.token_budget, seed, self.clusters
            )
            left_chunks, right_chunks, at_left, at_right = chunks, None, places[:n], places[n:]
        else:
            left_chunks, at_left = _chunks(self.left_inputs, left, self.token_budget, seed, self.clusters)
            right_chunks, at_right = _chunks(
                self.right_inputs, np.concatenate(others), self.token_budget, seed, self.clusters
            )
        return Batch(
            left=left_chunks,
            right=right_chunks,
            left_rows=at_left,
            right_rows=at_right[:n],
            negative_rows=None if against is None else at_right[n:],
            labels=torch.from_numpy(labels),
            left_clusters=torch.from_numpy(self.clusters[left].astype(np.int64)),
            right_clusters=torch.from_numpy(self.clusters[right].astype(np.int64)),
            negative_clusters=None if against is None else torch.from_numpy(self.clusters[against].astype(np.int64)),
        )


def labelled(labels: np.ndarray, label: int, count: int, epoch: int, seed: int) -> np.ndarray:
    """Return the pairs of one label that an epoch of so many takes of an endless stream: all, shuffled in every lap."""
    rows, start = np.flatnonzero(labels == label), epoch * count
    laps = range(start // len(rows), (start + count) // len(rows) + 1)
    shuffled = [np.random.default_rng([seed, label, lap]).permutation(rows) for lap in laps]
    return np.concatenate(shuffled)[start % len(rows) :][:count]


def _chunks(
    inputs: Prepared, chosen: np.ndarray, budget: int, seed: Sequence[int] | None, clusters: np.ndarray
) -> tuple[list[Features], Tensor]:
    """Return padded chunks of the distinct inputs, and where each of `chosen` stands in their concatenation."""
    distinct, inverse = np.unique(chosen, return_inverse=True)
    chunks = chunk_by_tokens(inputs.lengths_of(distinct), budget)
    place = np.empty(len(distinct), np.int64)
    place[np.concatenate(chunks)] = np.arange(len(distinct))
    rows = [distinct[chunk] for chunk in chunks]
    features = [inputs.collate(each, seed=seed, clusters=clusters[each]) for each in rows]
    return features, torch.from_numpy(place[inverse])
