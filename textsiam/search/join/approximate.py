"""Pairs above a threshold, most of them and sooner: vectors are compared with those of the same neighbourhoods only.

k-means cuts the vectors into shards; each vector is in the two (or more) whose centres are nearest to it, on both sides
of a comparison, so that a pair across a border is found as long as both are near it. How many pairs that loses is
measured, on a sample of vectors that are compared with all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from textsiam.decision.intervals import Estimate, ratio_rate
from textsiam.inference.batching import Progress
from textsiam.inference.fast.fast_tower import fast_dtype
from textsiam.models.scorer import Scorer
from textsiam.search.join.exact import Comparison, FoundPairs, in_order, workers_of

_ROUNDS = 8  # of k-means: the shares of the pairs that it finds change little after
_PER_SHARD = 64  # vectors that k-means looks at, for each centre
_CHUNK = 4096  # vectors whose nearest centres are looked for at once
_OTHERS = 32_768  # vectors that the sample is compared with at once


@dataclass(frozen=True)
class Sharding:
    """How vectors are cut into shards.

    Attributes:
        shards: How many; None takes √n / 4: then assigning the vectors costs about as much as half of comparing them.
        assignments: In how many shards each vector is. The time grows with the square.
        sample: Vectors that are compared with all, to measure the recall; 0 measures none.
        seed: Of k-means and the sample.

    Raises:
        ValueError: A number is out of its range.
    """

    shards: int | None = None
    assignments: int = 2
    sample: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("shards", 1), ("assignments", 1), ("sample", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")

    def shards_of(self, n: int) -> int:
        """Return into how many shards n vectors are cut."""
        return max(1, min(n, round(n**0.5 / 4) if self.shards is None else self.shards))


@dataclass(frozen=True, eq=False)
class MostPairs:
    """Pairs that were found, in order of index, and how many of all pairs these are.

    Attributes:
        pairs: The pairs; each is above the threshold.
        recall: Share of the pairs of the sampled vectors that were found; None where none were sampled.
    """

    pairs: FoundPairs
    recall: Estimate | None


def most_pairs(
    twin: Scorer,
    vectors: np.ndarray,
    threshold: float,
    *,
    sharding: Sharding | None = None,
    progress: Progress | None = None,
) -> MostPairs:
    """Return most pairs i < j whose similarity is at or above the threshold, and the measured share that was found.

    Similarities are those of `textsiam.search.join.exact.pairs_above`.

    Args:
        twin: Its distance is used, and its head.
        vectors: `(n, dim)` float32.
        threshold: Least similarity.
        sharding: How the vectors are cut into shards.
        progress: Called as `progress(done, total)`, in pairs compared inside shards.
    """
    sharding = sharding or Sharding()
    points = torch.from_numpy(vectors)
    centres = find_centres(points, sharding.shards_of(len(points)), seed=sharding.seed)
    nearest = nearest_centres(points, centres, sharding.assignments, dtype=fast_dtype(torch.device("cpu")))
    found = FoundPairs.joined(_inside_shards(twin, points, nearest, threshold, progress)).sorted()
    recall = measured_recall(twin, points, found, threshold, sample=sharding.sample, seed=sharding.seed)
    return MostPairs(found, recall)


def find_centres(points: Tensor, k: int, *, seed: int) -> Tensor:
    """Return the centres of k shards, `(≤ k, dim)` float32: k-means on the directions of a sample of the vectors.

    Lloyd's algorithm, from vectors picked at random; a centre that loses all its vectors stays where it was.

    Args:
        points: `(n, dim)` float32.
        k: How many.
        seed: Of the sample.
    """
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randperm(len(points), generator=generator)[: k * _PER_SHARD]
    sample = torch.nan_to_num(normalize(points[picked], dim=1))
    centres = sample[:k].clone()
    if len(centres) < 2:
        return centres
    for _ in range(_ROUNDS):
        owner = torch.cat([(part @ centres.T).argmax(1) for part in sample.split(_CHUNK)])
        sums = torch.zeros_like(centres).index_add_(0, owner, sample)
        kept = torch.bincount(owner, minlength=len(centres)) > 0
        centres[kept] = normalize(sums[kept], dim=1)
    return centres


def nearest_centres(points: Tensor, centres: Tensor, count: int, *, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """Return the centres with the largest products with each vector, `(n, ≤ count)` int64 in ascending order."""
    count = min(count, len(centres))
    if not count:
        return np.zeros((len(points), 0), np.int64)
    cast = centres.to(dtype)
    parts = [(normalize(part, dim=1).to(dtype) @ cast.T).topk(count, dim=1).indices for part in points.split(_CHUNK)]
    return torch.cat(parts).sort(dim=1).values.numpy() if parts else np.zeros((0, count), np.int64)


def members_of(nearest: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the shards that hold something, each with its vectors in ascending order; see `nearest_centres`."""
    vector, shard = np.repeat(np.arange(len(nearest)), nearest.shape[1]), nearest.ravel()
    order = np.argsort(shard, kind="stable")
    stops = np.cumsum(np.bincount(shard)).tolist()
    for number, (start, stop) in enumerate(zip([0, *stops], stops, strict=False)):
        if stop > start:
            yield number, vector[order[start:stop]]


def first_shared(nearest: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the first shard that both vectors of a pair are in, `(p,)`: where the pair counts; −1 where none is."""
    shared = nearest[left][:, :, None] == nearest[right][:, None, :]
    first = shared.any(axis=2).argmax(axis=1)
    return np.where(shared.any(axis=(1, 2)), nearest[left, first], -1)


def _inside_shards(
    twin: Scorer, points: Tensor, nearest: np.ndarray, threshold: float, progress: Progress | None
) -> Iterator[FoundPairs]:
    """Yield the pairs of each shard that are not those of an earlier one."""
    shards, stop = list(members_of(nearest)), threading.Event()

    def work(shard: int, members: np.ndarray) -> FoundPairs:
        compare = Comparison(twin, points[torch.from_numpy(members)], threshold, stop=stop)
        found = FoundPairs.joined(compare.piece(*piece) for piece in compare.pieces())
        left, right = members[found.left], members[found.right]
        new = first_shared(nearest, left, right) == shard
        return FoundPairs(left[new], right[new], found.similarity[new])

    sizes = [len(members) * (len(members) - 1) // 2 for _, members in shards]
    done = 0
    works = (partial(work, *shard) for shard in shards)
    for size, found in zip(sizes, in_order(works, workers_of(twin), stop), strict=True):
        done += size
        if progress is not None:
            progress(done, sum(sizes))
        yield found


def measured_recall(
    twin: Scorer, points: Tensor, found: FoundPairs, threshold: float, *, sample: int, seed: int = 0
) -> Estimate | None:
    """Return the share of the pairs of some vectors that was found, with its 95 % interval.

    Vectors are drawn and not pairs, which the interval knows; see `ratio_rate`.

    Args:
        twin: As for `most_pairs`.
        points: All vectors, `(n, dim)` float32.
        found: What was found among them.
        threshold: As for `most_pairs`.
        sample: Vectors that are compared with all, exactly; 0 gives None.
        seed: Which ones.
    """
    if not sample:
        return None
    generator = torch.Generator().manual_seed(seed + 1)  # others than k-means began with
    picked = torch.randperm(len(points), generator=generator)[:sample]
    counts = np.zeros(len(picked), np.int64)
    for start in range(0, len(points), _OTHERS):
        others = points[start : start + _OTHERS]
        compare = Comparison(twin, torch.cat([points[picked], others]), threshold, rows=len(picked))
        for left, right, _ in compare.found():
            other = right - len(picked) + start
            new = (right >= len(picked)) & (picked.numpy()[left] != other)
            counts += np.bincount(left[new], minlength=len(picked))
    ends = np.bincount(np.concatenate([found.left, found.right]), minlength=len(points))
    return ratio_rate(np.minimum(ends[picked.numpy()], counts), counts)
