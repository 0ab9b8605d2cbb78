"""Cutting pairs that all hang together, with few pairs lost."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import numpy as np

from textsiam.data.pairs import Pairs

REGIONS = 4  # a split is taken from this many places, so that it is not about one topic only


def cut_regions(
    pairs: Pairs, blocks: np.ndarray, order: np.ndarray, places: np.ndarray, missing: np.ndarray
) -> np.ndarray:
    """Fill held-out splits with regions of blocks taken out of train.

    A region starts at the first free block of `order` and takes in, one after the other, the neighbour with
    the largest share of its pairs inside the region, until the region holds its part of the missing pairs
    (Farhat's greedy partition). Pairs between two splits are the price; blocks are never cut.

    Args:
        pairs: the pairs.
        blocks: the block of each text (m,), numbered from 0.
        order: all blocks (b,), in the order in which regions start.
        places: the split of each block (b,), -1 for train.
        missing: how many pairs each held-out split lacks (s,).

    Returns:
        The split of each block (b,), -1 for train.
    """
    map_ = _BlockMap(pairs, blocks, order)
    places = places.copy()
    for place, lack in enumerate(missing.tolist()):
        ties: dict[int, int] = {}  # pairs between a free block and this split
        starts = iter(order.tolist())
        for region in range(REGIONS):
            share, held = round(lack / (REGIONS - region)), 0
            while held < share:
                start = next((block for block in starts if places[block] == -1), None)
                if start is None:
                    break
                held += _grow(map_, places, place, start, ties, share - held, limit=lack - held)
            lack -= held
    return places


class _BlockMap:
    """Pairs inside each block, and each block's neighbours with the number of pairs between."""

    def __init__(self, pairs: Pairs, blocks: np.ndarray, order: np.ndarray) -> None:
        from scipy.sparse import coo_matrix

        count = len(order)
        left, right = blocks[pairs.left], blocks[pairs.right]
        inner = left == right
        self.inner: list[int] = np.bincount(left[inner], minlength=count).tolist()
        rank = np.empty(count, dtype=np.int64)
        rank[order] = np.arange(count)
        self.rank: list[int] = rank.tolist()
        ends = (np.r_[left[~inner], right[~inner]], np.r_[right[~inner], left[~inner]])
        ties: Any = coo_matrix((np.ones(len(ends[0]), dtype=np.int64), ends), shape=(count, count)).tocsr()
        self.outer: list[int] = np.bincount(ends[0], minlength=count).tolist()
        self._bounds: list[int] = ties.indptr.tolist()
        self._neighbours: list[int] = ties.indices.tolist()
        self._weights: list[int] = ties.data.tolist()

    def neighbours(self, block: int) -> Iterator[tuple[int, int]]:
        bounds = slice(self._bounds[block], self._bounds[block + 1])
        return zip(self._neighbours[bounds], self._weights[bounds], strict=True)


def _grow(
    map_: _BlockMap,
    places: np.ndarray,
    place: int,
    start: int,
    ties: dict[int, int],
    share: int,
    *,
    limit: int,
) -> int:
    """Grow a region from `start` to `share` pairs, never beyond `limit`, and say how many it brought.

    Where it brings none, because each neighbour would bring too many, `start` is given back.
    """
    held = 0
    block: int | None = start
    heap: list[tuple[float, int, int]] = []
    while block is not None and held < share:
        gain = map_.inner[block] + ties.get(block, 0)
        if held + gain <= limit:
            places[block] = place
            held += gain
            for other, weight in map_.neighbours(block):
                ties[other] = ties.get(other, 0) + weight
                # equal shares go by the order of blocks, which does not depend on how texts are numbered
                heapq.heappush(heap, (-ties[other] / map_.outer[other], map_.rank[other], other))
        block = _strongest(heap, places)
    if not held and places[start] == place:
        places[start] = -1
        for other, weight in map_.neighbours(start):
            ties[other] -= weight
    return held


def _strongest(heap: list[tuple[float, int, int]], places: np.ndarray) -> int | None:
    while heap:
        _, _, block = heapq.heappop(heap)
        if places[block] == -1:
            return block
    return None
