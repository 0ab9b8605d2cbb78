"""Pairs and triplets drawn from labelled images or sounds."""

from __future__ import annotations

import numpy as np

from textsiam.data.pairs import Pairs
from textsiam.data.tables.errors import DataError, ReadReport
from textsiam.media.labelled import LabelledFiles

DRAWN_PAIRS = 10_000
"""Pairs that are drawn of labelled files unless somebody says how many: enough to know a share to ±0.01."""


def most_pairs(files: LabelledFiles, *, duplicate_share: float = 0.5) -> int:
    """Count the pairs that `draw_pairs` can draw at most with this share."""
    share = _checked_share(duplicate_share)
    same, other = _existing(files)
    most = int(min([same + other, *(exist / part for exist, part in ((same, share), (other, 1 - share)) if part > 0)]))
    while most and not (round(most * share) <= same and most - round(most * share) <= other):
        most -= 1
    return most


def draw_pairs(files: LabelledFiles, count: int, *, seed: int = 0, duplicate_share: float = 0.5) -> Pairs:
    """Draw labelled pairs: 1 for two files of one class, 0 for files of two classes.

    The pairs are distinct, whatever their order, and none is of a file with itself. Duplicates are spread
    evenly over classes and over the files of each, the others over pairs of classes and files: every class
    (pair of classes) gives the same number, up to one, unless it has no more.

    Args:
        files: at least two classes for label 0, one class of two files for label 1.
        count: how many pairs.
        seed: another seed, another drawing.
        duplicate_share: the share of pairs labelled 1, met exactly up to rounding.

    Returns:
        Pairs of names whose groups are the classes.

    Raises:
        ValueError: `count` is below 1, or `duplicate_share` is not in 0..1.
        DataError: so many pairs do not exist; the message says how many do.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    share = _checked_share(duplicate_share)
    positives = round(count * share)
    for what, wanted, exist in zip(
        ("of one class", "of two classes"), (positives, count - positives), _existing(files), strict=True
    ):
        if wanted > exist:
            raise DataError(
                f"{files.source}: {wanted:,} pairs of {files.nouns} {what} are wanted, only {exist:,} exist"
            )
    rng = np.random.default_rng(seed)
    members, starts, sizes = _by_class(files, rng)
    ends = np.concatenate(
        [
            _same_class(members, starts, sizes, evenly(sizes * (sizes - 1) // 2, positives, rng), rng),
            _two_classes(members, starts, sizes, count - positives, rng),
        ]
    )
    labels = np.repeat([1, 0], [positives, count - positives])
    return _pairs(files, ends, labels, rng)


def draw_up_to(files: LabelledFiles, count: int = DRAWN_PAIRS, *, seed: int = 0) -> Pairs:
    """Draw so many pairs as `draw_pairs` does, or as many as exist."""
    return draw_pairs(files, min(count, most_pairs(files)), seed=seed)


def draw_triplets(files: LabelledFiles, count: int, *, seed: int = 0) -> np.ndarray:
    """Draw (anchor, positive, negative) as rows of `files`, `(count, 3)` int64.

    Each anchor is drawn once before any is drawn again; positive and negative are drawn evenly from the other
    files of its class and from those of all other classes.

    Raises:
        ValueError: `count` is below 1.
        DataError: no class has two {files.nouns}, or there is one class only.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if not all(_existing(files)):
        raise DataError(f"{files.source}: triplets need a class of two {files.nouns}, and another class")
    rng = np.random.default_rng(seed)
    members, starts, sizes = _by_class(files, rng)
    of = np.repeat(np.arange(len(sizes)), sizes)
    anchors = np.flatnonzero(sizes[of] > 1)
    at = np.concatenate([rng.permutation(anchors) for _ in range(-(-count // len(anchors)))])[:count]
    start, size = starts[of[at]], sizes[of[at]]
    positive = start + (at - start + 1 + rng.integers(0, size - 1)) % size
    negative = rng.integers(0, len(members) - size)
    negative += np.where(negative >= start, size, 0)
    return members[np.stack([at, positive, negative], axis=1)]


def class_pairs(files: LabelledFiles, *, per_class: int | None = None, seed: int = 0) -> Pairs:
    """Pair the files of each class, every one in at most one pair: what in-batch losses train on.

    Args:
        files: at least one class of two files; classes of one give no pair.
        per_class: the number of pairs of each class; None, or where there are too few files: all that go.
        seed: another seed, other pairs.

    Returns:
        Pairs labelled 1, in random order, whose groups are the classes.

    Raises:
        ValueError: `per_class` is below 1.
        DataError: no class has two {files.nouns}.
    """
    if per_class is not None and per_class < 1:
        raise ValueError(f"per_class must be at least 1, got {per_class}")
    rng = np.random.default_rng(seed)
    members, starts, sizes = _by_class(files, rng)
    counts = sizes // 2 if per_class is None else np.minimum(sizes // 2, per_class)
    if not counts.sum():
        raise DataError(f"{files.source}: no class has two {files.nouns}")
    first = np.repeat(starts, counts) + 2 * _within(counts)
    ends = members[np.stack([first, first + 1], axis=1)]
    return _pairs(files, ends, np.ones(len(ends), dtype=np.int8), rng)


def _checked_share(share: float) -> float:
    if not 0 <= share <= 1:
        raise ValueError(f"duplicate_share must be in 0..1, got {share}")
    return share


def _existing(files: LabelledFiles) -> tuple[int, int]:
    """Count the pairs of one class, and those of two, that exist."""
    sizes, n = np.bincount(files.classes).astype(np.int64), len(files)
    same = int((sizes * (sizes - 1) // 2).sum())
    return same, n * (n - 1) // 2 - same


def _by_class(files: LabelledFiles, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay out the rows of each class one after the other, classes and rows shuffled: (rows, starts, sizes)."""
    _, numbers = np.unique(files.classes, return_inverse=True)
    numbers = rng.permutation(numbers.max(initial=-1) + 1)[numbers]
    shuffled = rng.permutation(len(files))
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
    lap = step // np.lcm(sizes[a], sizes[b])  # after as many steps the same two would meet again
    first = starts[a] + (offset_a + step) % sizes[a]
    second = starts[b] + (offset_b + step + lap) % sizes[b]
    return rng.permuted(members[np.stack([first, second], axis=1)], axis=1)


def _pairs(files: LabelledFiles, ends: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Pairs:
    order = rng.permutation(len(ends))
    ends = ends[order]
    report = ReadReport(files.source, len(ends), len(ends), warnings=files.report.warnings)
    pairs = Pairs(
        texts=files.names,
        left=ends[:, 0],
        right=ends[:, 1],
        labels=labels[order],
        source=files.source,
        report=report,
        groups=files.classes,
        modality=files.modality,
    )
    return pairs.select(np.arange(len(pairs)))
