"""Random changes for training, of images and of sounds: which seed each of them gets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol


class Augmentation(Protocol):
    """What changes inputs for training: `textsiam.images.augmentation.Augment`, or a dataclass of the user's own.

    One with an attribute `clusters` that is true changes all inputs of a cluster alike in a batch: they get one seed.
    """

    def __call__(self, value: Any, seed: Sequence[int], /) -> Any:
        """Return a changed input of the same kind; the same for the same seed."""
        ...


def seeded(
    augment: Sequence[Augmentation], seed: Sequence[int], *, row: int, cluster: int | None = None
) -> Iterator[tuple[Augmentation, list[int]]]:
    """Yield what changes an input, one after the other, each with its seed.

    Args:
        augment: What changes it.
        seed: Of the batch.
        row: Number of the input, which its own changes depend on.
        cluster: Number of its cluster; None leaves out what changes clusters alike.
    """
    before = [0, 0]  # augmentations of inputs, and of clusters
    for each in augment:
        shared = bool(getattr(each, "clusters", False))
        drawn = [*seed, 2 * before[shared] + shared, (cluster or 0) if shared else row]
        before[shared] += 1
        if not shared or cluster is not None:
            yield each, drawn
