"""All pairs of vectors at or above a threshold, found exactly and without a limit for any of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from textsiam.inference.batching import Progress
from textsiam.inference.fast.fast_tower import fast_dtype
from textsiam.models.distances import Distance
from textsiam.models.scorer import Scorer
from textsiam.search.join.bf16_candidates import Block, Found, bf16_candidates, reduced, rounding
from textsiam.search.join.int8_candidates import int8_candidates, multiplies_bytes

# Blocked and rowwise similarities of distances that are no products differ by rounding only; this is far above it.
_ROUNDING = 1e-4
# Pairs scored at once: their vectors stay in the cache, and memory is bounded where almost everything is a candidate.
_SLICE = 4096
# Rows of a block, twice as many columns: the products of a block stay in the cache of one core.
_ROWS = {"cpu": 512, "else": 8192}
_BLOCKS = 16  # blocks of a piece of work


class FoundPairs(NamedTuple):
    """Pairs of vectors.

    Attributes:
        left: Index of the first vector of each pair, `(p,)` int64; smaller than `right`.
        right: Index of the second vector, `(p,)` int64.
        similarity: `(p,)` float32.
    """

    left: np.ndarray
    right: np.ndarray
    similarity: np.ndarray

    @classmethod
    def joined(cls, parts: Iterable[FoundPairs]) -> FoundPairs:
        """Return the pairs of all parts, part after part."""
        none = cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
        return cls(*(np.concatenate(column) for column in zip(none, *parts, strict=True)))

    def sorted(self) -> FoundPairs:
        """Return the pairs in order of left, then right index."""
        order = np.lexsort((self.right, self.left))
        return FoundPairs(*(column[order] for column in self))


def pairs_above(
    twin: Scorer, vectors: np.ndarray, threshold: float, *, block: int | None = None, progress: Progress | None = None
) -> FoundPairs:
    """Return every pair i < j whose similarity is at or above the threshold, in order of index.

    Candidates come from blocks of the similarity matrix (upper triangle only); each is scored again row by row in fp32,
    so that the result does not depend on the block and equals `Twin.similarity`. Where the twin has a head, candidates
    are the pairs whose distance reaches the head's candidate threshold.

    Blocks are products of bytes, or of bf16, where the hardware multiplies these natively, with a margin below the
    threshold that is proved to be wide enough; see `int8_candidates` and `bf16_candidates` beside this file.

    Args:
        twin: Its distance is used, and its head.
        vectors: `(n, dim)` float32.
        threshold: Least similarity.
        block: Rows of a block, which has twice as many columns; None picks it for the device.
        progress: Called as `progress(done, total)`, in pairs compared.
    """
    return FoundPairs.joined(stream_pairs(twin, vectors, threshold, block=block, progress=progress)).sorted()


def stream_pairs(
    twin: Scorer, vectors: np.ndarray, threshold: float, *, block: int | None = None, progress: Progress | None = None
) -> Iterator[FoundPairs]:
    """Yield the pairs of `pairs_above` as they are found, in bounded memory and always in the same order.

    Beside the vectors, memory holds them once more in the format of the products, and for each core the pairs of a few
    pieces of work: stripes of `block` rows by `32 · block` columns.

    Args:
        twin: As for `pairs_above`.
        vectors: As for `pairs_above`; may be mapped into memory (`mmap_mode="c"`).
        threshold: As for `pairs_above`.
        block: As for `pairs_above`.
        progress: As for `pairs_above`.
    """
    compare = Comparison(twin, torch.from_numpy(vectors), threshold, block=block)
    total, done = len(vectors) * (len(vectors) - 1) // 2, 0
    for found, piece in zip(compare.found(), compare.pieces(), strict=True):
        done += compare.size_of(*piece)
        if progress is not None:
            progress(done, total)
        if len(found.left):
            yield found


class Comparison:
    """The upper triangle of a similarity matrix, cut into pieces of work.

    Args:
        twin: Scores pairs.
        points: `(n, dim)` float32.
        threshold: Least similarity.
        block: Rows of a block, which has twice as many columns; None picks it for the device.
        rows: Only pairs whose first vector is among the first so many; None takes all.
        after: Only pairs whose second vector is not among the first so many; 0 or `rows`.
        stop: Once it is set, pieces end early and mean nothing.
    """

    def __init__(
        self,
        twin: Scorer,
        points: Tensor,
        threshold: float,
        *,
        block: int | None = None,
        rows: int | None = None,
        after: int = 0,
        stop: threading.Event | None = None,
    ) -> None:
        self.twin, self.points, self.threshold = twin, points, threshold
        self.block = block or _ROWS["cpu" if twin.device.type == "cpu" else "else"]
        self.rows, self.after = len(points) if rows is None else rows, after
        self.stop = stop or threading.Event()
        self.candidate_threshold = twin.candidate_threshold(threshold)
        by_products = _by_products(twin, points, self.candidate_threshold, self.block)
        self.candidates: Block = by_products or partial(_by_distance, twin.distance, points, self.candidate_threshold)

    def pieces(self) -> Iterator[tuple[int, int, int]]:
        """Yield first row, first column and last + 1 column of stripes that cover the upper triangle."""
        wide = 2 * self.block * _BLOCKS
        for top in range(0, self.rows, self.block):
            for first in range(max(top, self.after), len(self.points), wide):
                yield top, first, min(first + wide, len(self.points))

    def found(self) -> Iterator[FoundPairs]:
        """Yield the pairs of each piece, in order; as many pieces are done at once as there are cores."""
        return in_order((partial(self.piece, *piece) for piece in self.pieces()), workers_of(self.twin), self.stop)

    def size_of(self, top: int, first: int, last: int) -> int:
        """Return how many pairs a piece compares."""
        height = min(top + self.block, self.rows) - top
        return height * (last - first) - (height * (height + 1) // 2 if first == top else 0)

    def piece(self, top: int, first: int, last: int) -> FoundPairs:
        """Return the pairs of a stripe."""
        bottom, parts, held, count = min(top + self.block, self.rows), [], [], 0
        for j in range(first, last, 2 * self.block):
            if self.stop.is_set():
                break
            row, column = self.candidates(top, bottom, j, min(j + 2 * self.block, last))
            held.append((row + top, column + j))
            count += len(row)
            if count >= _SLICE or j + 2 * self.block >= last:
                parts += self._exact(held)
                held, count = [], 0
        return FoundPairs.joined(parts)

    def _exact(self, held: list[Found]) -> Iterator[FoundPairs]:
        """Yield the candidates that reach the threshold, scored row by row."""
        twin, points = self.twin, self.points
        lefts, rights = (np.concatenate(ends) for ends in zip(*held, strict=True))
        for start in range(0, len(lefts), _SLICE):
            left, right = lefts[start : start + _SLICE], rights[start : start + _SLICE]
            u, v = (points.index_select(0, torch.from_numpy(rows)) for rows in (left, right))
            if twin.head is not None:
                near = (twin.distance.similarity(twin.distance(u, v)) >= self.candidate_threshold).nonzero()[:, 0]
                left, right, u, v = left[near.numpy()], right[near.numpy()], u[near], v[near]
            similarity = twin.vector_similarity(u.numpy(), v.numpy())
            keep = similarity.astype(np.float64) >= self.threshold
            yield FoundPairs(left[keep], right[keep], similarity[keep])


def workers_of(twin: Scorer) -> int:
    """Return how many pieces of work with a twin are worth doing at once."""
    return torch.get_num_threads() if twin.device.type == "cpu" else 1


def in_order(works: Iterable[Callable[[], FoundPairs]], workers: int, stop: threading.Event) -> Iterator[FoundPairs]:
    """Yield what pieces of work return, in order; one core each, and a few pieces ahead of what was asked for.

    Args:
        works: Pieces of work.
        workers: How many are done at once.
        stop: Set when no more is wanted: after an error, Ctrl-C, or when the iterator is closed.
    """
    cores = torch.get_num_threads()

    def alone(piece: Callable[[], FoundPairs]) -> FoundPairs:
        with torch.inference_mode():
            return piece()

    try:
        with ThreadPoolExecutor(workers, "join", torch.set_num_threads, (1,) if workers > 1 else (cores,)) as pool:
            waiting = deque()
            try:
                for piece in works:
                    waiting.append(pool.submit(alone, piece))
                    if len(waiting) > 2 * workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(cores)  # a part of the setting is the whole process's


def _by_products(twin: Scorer, points: Tensor, threshold: float, width: int) -> Block | None:
    """Return what finds candidates by products; None where the distance has none, or the threshold is too low."""
    if not len(points) or twin.distance.products is None:
        return None
    slack, unit = rounding(points.shape[1]), twin.distance.products == "unit"
    shortest = 1.0 if unit else float(points.square().sum(1).min()) * (1 - slack)
    # the cosine is a product itself, whose rounding those who compare products know
    similarity = threshold if twin.distance.is_cosine else min(threshold, 0.0) * (1 + slack) - 1e-6
    least = twin.distance.least_product(similarity, shortest)
    if twin.device.type == "cpu" and multiplies_bytes():
        by_bytes = int8_candidates(points, least, width=width, unit=unit)
        if by_bytes is not None:
            return by_bytes
    return bf16_candidates(reduced(points, fast_dtype(twin.device), twin.device, unit=unit), least)


def _by_distance(
    distance: Distance, points: Tensor, threshold: float, top: int, bottom: int, first: int, last: int
) -> Found:
    """Return the candidates of a block by the distances of all its pairs."""
    similarity = distance.similarity(distance.all_pairs(points[top:bottom], points[first:last]))
    row, column = (similarity >= threshold - _ROUNDING).nonzero().numpy().T
    above = row + top < column + first
    return row[above], column[above]
