"""Candidates for negatives: the texts that an anchor may be set against, found exactly, a block at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from textsiam.data.pairs import Pairs
from textsiam.models.distances import Distance
from textsiam.search.nearest import nearest
from textsiam.training.settings import Mining

OWN_CLUSTER, TOO_SIMILAR = "own cluster", "too similar"
"""Why a text of the right distance was dropped."""

# Candidates that are looked at for each negative, where some of them may turn out to be none.
SPARE = 16


@dataclass(frozen=True)
class _Anchors:
    """Some anchors, and what a negative of theirs must be like: `low < distance < high`, `similarity <= limit`.

    All but `vectors` `(r, dim)` and `positive` `(r,)` are columns `(r, 1)`.
    """

    vectors: Tensor
    positive: Tensor
    low: Tensor
    high: Tensor
    limit: Tensor | None
    left: Tensor
    right: Tensor
    clusters: Tensor


class Candidates:
    """The texts that are looked through, and how many of the right distance were dropped.

    Args:
        mining: Which negatives.
        distance: What is near.
        pairs: Labelled pairs over m texts.
        left: Vectors of the texts as left ones, `(m, dim)` float32.
        right: Vectors of the texts as right ones, `(m, dim)` float32.
        texts: Indices of the texts that may be negatives, ascending; None takes all.
        clusters: Cluster of each text, `(m,)`.
        rng: What is drawn from.
        block: Candidates compared with all anchors at once.
        device: Where they are compared.

    Attributes:
        dropped: Texts of the right distance that are no negatives, counted by reason.
    """

    def __init__(
        self,
        mining: Mining,
        distance: Distance,
        pairs: Pairs,
        left: np.ndarray,
        right: np.ndarray,
        *,
        texts: np.ndarray | None,
        clusters: np.ndarray,
        rng: np.random.Generator,
        block: int,
        device: torch.device | str,
    ) -> None:
        self.mining, self.distance, self.pairs, self.left, self.right = mining, distance, pairs, left, right
        self.clusters, self.rng, self.block, self.device = clusters, rng, block, device
        self.texts = self._to(np.arange(len(pairs.texts)) if texts is None else texts)
        self.own = self._to(clusters if texts is None else clusters[texts])
        self.documents = self._to(right if texts is None else right[texts])
        self.dropped: Counter[str] = Counter({OWN_CLUSTER: 0, TOO_SIMILAR: 0})

    def window(self, rows: np.ndarray, *, spare: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return candidates for some pairs, the preferred first.

        Args:
            rows: r pairs of duplicates.
            spare: Whether more than the wanted negatives are to be found.

        Returns:
            Indices of texts `(r, w)`; their distances from the anchor `(r, w)`, infinite where a text is no
            negative; the distances of the positives `(r,)`.
        """
        anchors = self._anchors(rows)
        if self.mining.rank_from is not None and self.mining.rank_to is not None:
            columns, distance = self._ranked(anchors, self.mining.rank_from, self.mining.rank_to)
        elif self.mining.category == "random":
            columns, distance = self._drawn(anchors, self.mining.negatives * SPARE)
        else:
            k = self.mining.negatives * (SPARE if spare else 1)
            columns, distance = self._nearest(anchors, k, self._drop_unfit)
        return self.texts[columns].cpu().numpy(), distance.cpu().numpy(), anchors.positive.cpu().numpy()

    def _to(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _anchors(self, rows: np.ndarray) -> _Anchors:
        mining, left, right = self.mining, self.pairs.left[rows], self.pairs.right[rows]
        vectors = self._to(self.left[left])
        positive = self.distance(vectors, self._to(self.right[right]))
        infinite = torch.full_like(positive, float("inf"))
        low, high = {
            "random": (-infinite, infinite),
            "easy": (positive + mining.margin, infinite),
            "semi-hard": (positive, positive + mining.margin),
            "hard": (-infinite, positive),
        }[mining.category]
        ends = (self._to(end)[:, None] for end in (left, right, self.clusters[left]))
        return _Anchors(vectors, positive, low[:, None], high[:, None], self._limit(positive[:, None]), *ends)

    def _limit(self, positive: Tensor) -> Tensor | None:
        """Return the similarity above which a text is too similar, for each distance of a positive."""
        mining, limit = self.mining, None
        if mining.max_similarity is not None:
            limit = torch.full_like(positive, mining.max_similarity)
        if mining.positive_share is not None:
            similarity = self.distance.similarity(positive)
            # Less by a part of its size, whatever its sign: a share of a negative similarity lies above it.
            share = similarity - (1 - mining.positive_share) * similarity.abs()
            limit = share if limit is None else torch.minimum(share, limit)
        return limit

    def _nearest(self, anchors: _Anchors, k: int, drop: Callable[[_Anchors, Tensor], None]) -> tuple[Tensor, Tensor]:
        """Return the k nearest texts of other clusters that `drop` leaves, nearest first."""

        def hide(distance: Tensor, first: int) -> None:
            columns = torch.arange(first, first + distance.shape[1], device=distance.device)
            self._drop_own(anchors, distance, columns)
            drop(anchors, distance)

        k = min(k, len(self.documents))
        return nearest(self.distance, anchors.vectors, self.documents, k, block=self.block, hide=hide)

    def _ranked(self, anchors: _Anchors, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Return the texts of these ranks, in random order."""
        columns, distance = (t[:, first - 1 :] for t in self._nearest(anchors, last, lambda *_: None))
        self._drop_unfit(anchors, distance)
        order = self._to(self.rng.random(distance.shape)).argsort(1)
        return columns.gather(1, order), distance.gather(1, order)

    def _drawn(self, anchors: _Anchors, count: int) -> tuple[Tensor, Tensor]:
        """Return so many texts drawn with equal chances; all in random order, where there are no more."""
        shape = (len(anchors.vectors), count)
        if len(self.documents) <= count:
            columns = self._to(self.rng.permuted(np.tile(np.arange(len(self.documents)), (shape[0], 1)), axis=1))
        else:
            columns = self._to(self.rng.integers(len(self.documents), size=shape))
        # One column after the other: together, their vectors would not fit.
        distance = torch.stack([self.distance(anchors.vectors, self.documents[column]) for column in columns.T], 1)
        ordered, order = columns.sort(dim=1, stable=True)
        again = torch.zeros_like(columns, dtype=torch.bool)
        again.scatter_(1, order[:, 1:], ordered[:, 1:] == ordered[:, :-1])
        distance.masked_fill_(again, float("inf"))
        self._drop_own(anchors, distance, columns)
        self._drop_unfit(anchors, distance)
        return columns, distance

    def _drop_own(self, anchors: _Anchors, distance: Tensor, columns: Tensor) -> None:
        """Drop members of the anchor's cluster; those beside anchor and positive are counted."""
        at = row, _ = (self.own[columns] == anchors.clusters).nonzero(as_tuple=True)
        text, found = self.texts[columns.expand_as(distance)[at]], distance[at]
        third = (text != anchors.left[row, 0]) & (text != anchors.right[row, 0])
        right = (found > anchors.low[row, 0]) & (found < anchors.high[row, 0])
        self.dropped[OWN_CLUSTER] += int((third & right).sum())
        distance[at] = float("inf")

    def _drop_unfit(self, anchors: _Anchors, distance: Tensor) -> None:
        """Drop what is not of the category, and what is too similar."""
        fits = (distance > anchors.low) & (distance < anchors.high)
        if anchors.limit is not None:
            similar = fits & (self.distance.similarity(distance) > anchors.limit)
            self.dropped[TOO_SIMILAR] += int(similar.sum())
            fits &= ~similar
        distance.masked_fill_(~fits, float("inf"))
