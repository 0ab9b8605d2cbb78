"""Pairs and triplets drawn from labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from textsiam.data.pairs import Pairs
from textsiam.data.tables.errors import DataError, ReadReport
from textsiam.images.labelled import LabelledImages
from textsiam.images.names import picture_name, picture_thumbnail

DRAWN_PAIRS = 10_000
"""Pairs that are drawn of labelled images unless somebody says how many: enough to know a share to ±0.01."""


def pair_images(left: Sequence[Any], right: Sequence[Any], labels: Sequence[int], source: str = "memory") -> Pairs:
    """Make pairs of images in memory or by path, row for row; `picture_name` says what an image may be.

    Raises:
        DataError: as `Pairs.from_texts`, or a value is a damaged image.
        TypeError: a value is no image; it is named by its position.
    """
    first, second = ([picture_name(value, row) for row, value in enumerate(side)] for side in (left, right))
    return replace(Pairs.from_texts(first, second, labels, source), images=True)


def thumbnail_of(pairs: Pairs) -> Callable[[str], bytes] | None:
    """Return what makes a small PNG of one of the texts; None where they are to be read."""
    return picture_thumbnail if pairs.images else None


def most_pairs(images: LabelledImages, *, duplicate_share: float = 0.5) -> int:
    """Count the pairs that `draw_pairs` can draw at most with this share."""
    share = _checked_share(duplicate_share)
    same, other = _existing(images)
    most = int(min([same + other, *(exist / part for exist, part in ((same, share), (other, 1 - share)) if part > 0)]))
    while most and not (round(most * share) <= same and most - round(most * share) <= other):
        most -= 1
    return most


def draw_pairs(images: LabelledImages, count: int, *, seed: int = 0, duplicate_share: float = 0.5) -> Pairs:
    """Draw labelled pairs: 1 for two images of one class, 0 for images of two classes.

    The pairs are distinct, whatever their order, and none is of an image with itself. Duplicates are spread
    evenly over classes and over the images of each, the others over pairs of classes and images: every class
    (pair of classes) gives the same number, up to one, unless it has no more.

    Args:
        images: at least two classes for label 0, one class of two images for label 1.
        count: how many pairs.
        seed: another seed, another drawing.
        duplicate_share: the share of pairs labelled 1, met exactly up to rounding.

    Returns:
        Pairs of images whose groups are the classes.

    Raises:
        ValueError: `count` is below 1, or `duplicate_share` is not in 0..1.
        DataError: so many pairs do not exist; the message says how many do.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    share = _checked_share(duplicate_share)
    positives = round(count * share)
    for what, wanted, exist in zip(
        ("of one class", "of two classes"), (positives, count - positives), _existing(images), strict=True
    ):
        if wanted > exist:
            raise DataError(f"{images.source}: {wanted:,} pairs of images {what} are wanted, only {exist:,} exist")
    rng = np.random.default_rng(seed)
    members, starts, sizes = _by_class(images, rng)
    ends = np.concatenate(
        [
            _same_class(members, starts, sizes, evenly(sizes * (sizes - 1) // 2, positives, rng), rng),
            _two_classes(members, starts, sizes, count - positives, rng),
        ]
    )
    labels = np.repeat([1, 0], [positives, count - positives])
    return _pairs(images, ends, labels, rng)


def draw_up_to(images: LabelledImages, count: int = DRAWN_PAIRS, *, seed: int = 0) -> Pairs:
    """Draw so many pairs as `draw_pairs` does, or as many as exist."""
    return draw_pairs(images, min(count, most_pairs(images)), seed=seed)


def draw_triplets(images: LabelledImages, count: int, *, seed: int = 0) -> np.ndarray:
    """Draw (anchor, positive, negative) as rows of `images`, `(count, 3)` int64.

    Each anchor is drawn once before any is drawn again; positive and negative are drawn evenly from the other
    images of its class and from those of all other classes.

    Raises:
        ValueError: `count` is below 1.
        DataError: no class has two images, or there is one class only.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if not all(_existing(images)):
        raise DataError(f"{images.source}: triplets need a class of two images, and another class")
    rng = np.random.default_rng(seed)
    members, starts, sizes = _by_class(images, rng)
    of = np.repeat(np.arange(len(sizes)), sizes)
    anchors = np.flatnonzero(sizes[of] > 1)
    at = np.concatenate([rng.permutation(anchors) for _ in range(-(-count // len(anchors)))])[:count]
    start, size = starts[of[at]], sizes[of[at]]
    positive = start + (at - start + 1 + rng.integers(0, size - 1)) % size
    negative = rng.integers(0, len(members) - size)
    negative += np.where(negative >= start, size, 0)
    return members[np.stack([at, positive, negative], axis=1)]


def class_pairs(images: LabelledImages, *, per_class: int | None = None, seed: int = 0) -> Pairs:
    """Pair the images of each class, every image in at most one pair: what in-batch losses train on.

    Args:
        images: at least one class of two images; classes of one give no pair.
        per_class: the number of pairs of each class; None, or where there are too few images: all that go.
        seed: another seed, other pairs.

    Returns:
        Pairs labelled 1, in random order, whose groups are the classes.

    Raises:
        ValueError: `per_class` is below 1.
        DataError: no class has two images.
    """
    if per_class is not None and per_class < 1:
        raise ValueError(f"per_class must be at least 1, got {per_class}")
    rng = np.random.default_rng(seed)
    members, starts, sizes = _by_class(images, rng)
    counts = sizes // 2 if per_class is None else np.minimum(sizes // 2, per_class)
    if not counts.sum():
        raise DataError(f"{images.source}: no class has two images")
    first = np.repeat(starts, counts) + 2 * _within(counts)
    ends = members[np.stack([first, first + 1], axis=1)]
    return _pairs(images, ends, np.ones(len(ends), dtype=np.int8), rng)


def _checked_share(share: float) -> float:
    if not 0 <= share <= 1:
        raise ValueError(f"duplicate_share must be in 0..1, got {share}")
    return share


def _existing(images: LabelledImages) -> tuple[int, int]:
    """Count the pairs of one class, and those of two, that exist."""
    sizes, n = np.bincount(images.classes).astype(np.int64), len(images)
    same = int((sizes * (sizes - 1) // 2).sum())
    return same, n * (n - 1) // 2 - same


def _by_class(images: LabelledImages, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay out the rows of each class one after the other, classes and rows shuffled: (rows, starts, sizes)."""
    _, numbers = np.unique(images.classes, return_inverse=True)
    numbers = rng.permutation(numbers.max(initial=-1) + 1)[numbers]
    shuffled = rng.permutation(len(images))
    members = shuffled[np.argsort(numbers[shuffled], kind="stable")]
    sizes = np.bincount(numbers).astype(np.int64)
    return members, np.cumsum(sizes) - sizes, sizes


def evenly(capacities: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Share out `total` as evenly as the capacities allow, the remainder at random."""
    given = np.zeros_like(capacities)
    while total:
        free = np.flatnonzero(given < capacities)
        if total < len(free):
            given[rng.permutation(free)[:total]] += 1
            break
        level = min(total // len(free), int((capacities - given)[free].min()))
        given[free] += level
        total -= level * len(free)
    return given


def _within(counts: np.ndarray) -> np.ndarray:
    """Count 0, 1, … anew inside each of the consecutive groups of these sizes."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _rounds(n: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the k-th pairing of a tournament of n: rounds in which each plays once at most (the circle method)."""
    odd = n - 1 + n % 2
    turn, game = k // (n // 2), k % (n // 2) + n % 2
    first, second = (turn + game) % odd, (turn - game) % odd
    return first, np.where(game == 0, n - 1, second)


def _same_class(
    members: np.ndarray, starts: np.ndarray, sizes: np.ndarray, counts: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    of = np.repeat(np.arange(len(sizes)), counts)
    first, second = _rounds(sizes[of], _within(counts))
    ends = members[np.stack([starts[of] + first, starts[of] + second], axis=1)]
    return rng.permuted(ends, axis=1)


def _two_classes(
    members: np.ndarray, starts: np.ndarray, sizes: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    if not count:
        return np.zeros((0, 2), dtype=np.int64)
    n = len(sizes)
    games = np.arange(min(n * (n - 1) // 2, count))
    a, b = _rounds(np.full(len(games), n), games)
    counts = np.ones(len(games), dtype=np.int64) if len(games) == count else evenly(sizes[a] * sizes[b], count, rng)
    # Where two classes meet, go through both in step; each class goes on where its last meeting ended.
    uses = np.stack([a, b], axis=1).reshape(-1)
    order = np.argsort(uses, kind="stable")
    taken = np.repeat(counts, 2)[order]
    before = np.cumsum(taken) - taken
    before -= np.repeat(before[np.searchsorted(uses[order], np.arange(n))], np.bincount(uses, minlength=n))
    offsets = np.empty_like(before)
    offsets[order] = before
    offset_a, offset_b = np.repeat(offsets[::2], counts), np.repeat(offsets[1::2], counts)
    step = _within(counts)
    a, b = np.repeat(a, counts), np.repeat(b, counts)
    lap = step // np.lcm(sizes[a], sizes[b])  # after as many steps the same images would meet again
    first = starts[a] + (offset_a + step) % sizes[a]
    second = starts[b] + (offset_b + step + lap) % sizes[b]
    return rng.permuted(members[np.stack([first, second], axis=1)], axis=1)


def _pairs(images: LabelledImages, ends: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Pairs:
    order = rng.permutation(len(ends))
    ends = ends[order]
    report = ReadReport(images.source, len(ends), len(ends), warnings=images.report.warnings)
    pairs = Pairs(
        texts=images.names,
        left=ends[:, 0],
        right=ends[:, 1],
        labels=labels[order],
        source=images.source,
        report=report,
        groups=images.classes,
        images=True,
    )
    return pairs.select(np.arange(len(pairs)))
