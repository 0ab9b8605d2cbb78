"""Sounds as a tower takes them: opened, changed where training asks for it, and made ready by the tower's processor."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from textsiam.data.tables.errors import DataError
from textsiam.media.augmentation import Augmentation
from textsiam.media.ready import Ready
from textsiam.sounds.augmentation import augmented
from textsiam.sounds.names import open_sound, seconds_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TOKENS = 50
"""Tokens that a second counts as, as in wav2vec 2.0 and Whisper: what budgets of tokens mean for sounds."""
_KEPT_BYTES = 256 << 20  # of samples that training remembers
_MANY = 64  # sounds from which headers are read by several threads


def rate_of(backbone: Any) -> int:
    """Return the samples a second that the first module of a tower takes."""
    processor = getattr(backbone, "processor", backbone)
    extractor = getattr(processor, "feature_extractor", processor)
    return int(extractor.sampling_rate)


def fixed_seconds(backbone: Any) -> float | None:
    """Return to how many seconds a processor pads or cuts every sound, as Whisper's does; None where it does not."""
    processor = getattr(backbone, "processor", None)
    extractor = getattr(processor, "feature_extractor", processor)
    length = getattr(extractor, "chunk_length", None)
    return float(length) if isinstance(length, int | float) and hasattr(extractor, "nb_max_frames") else None


@dataclass(frozen=True)
class Waveforms:
    """m named sounds, opened when a batch of them is wanted.

    Attributes:
        names: The sounds; see `textsiam.sounds.names`.
        tower: Its processor makes features of samples.
        augment: What changes the sounds of a training batch.
        broken: Sounds that cannot be opened are put here by name, with the reason, and silence stands in for them; None
            raises.
    """

    names: Sequence[str]
    tower: SentenceTransformer
    augment: Sequence[Augmentation] = ()
    broken: dict[str, str] | None = None
    _memory: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def rate(self) -> int:
        """Samples a second that the tower takes."""
        return rate_of(self.tower[0])

    @cached_property
    def lengths(self) -> np.ndarray:
        """Length of each sound in tokens of 20 ms, `(m,)` int64; no sound is decoded for it."""
        if (fixed := fixed_seconds(self.tower[0])) is not None:
            return np.full(len(self), int(fixed * TOKENS), np.int64)
        if len(self) < _MANY:
            seconds = list(map(self._seconds, self.names))
        else:
            with ThreadPoolExecutor() as pool:
                seconds = list(pool.map(self._seconds, self.names))
        return np.maximum(1, np.ceil(np.array(seconds) * TOKENS)).astype(np.int64)

    def _seconds(self, name: str) -> float:
        if isinstance(name, Ready):
            return 1.0
        try:
            return seconds_of(name, self.rate)
        except DataError:
            if self.broken is None:
                raise
            return 1.0

    def _opened(self, name: Any) -> np.ndarray:
        try:
            return open_sound(name, self.rate)[0]
        except DataError as error:
            if self.broken is None:
                raise
            self.broken[name] = str(error)
            return np.zeros(self.rate, np.float32)

    def lengths_of(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Length of these sounds, in the same unit, `(len(rows),)` int64."""
        return self.lengths[np.asarray(rows)]

    def collate(
        self, rows: np.ndarray | Sequence[int], *, seed: Sequence[int] | None = None, clusters: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Return the features of these sounds.

        Args:
            rows: Which sounds.
            seed: Of the augmentations, with a sound's row or cluster; None changes nothing.
            clusters: Cluster of each sound, `(len(rows),)`.

        Raises:
            DataError: A sound cannot be opened; the message names it.
        """
        numbers = [int(row) for row in rows]
        if seed is None or not self.augment:
            return features_of(self.tower[0], [self._opened(self.names[row]) for row in numbers])
        of = [None] * len(numbers) if clusters is None else clusters.tolist()
        sounds = [
            augmented(self._kept(row), self.augment, seed, row=row, cluster=cluster)
            for row, cluster in zip(numbers, of, strict=True)
        ]
        return features_of(self.tower[0], sounds)

    def _kept(self, row: int) -> np.ndarray:
        """Open a sound that is to be changed, or remember it."""
        found = self._memory.get(row)
        if found is None:
            found = self._opened(self.names[row])
            if (len(self._memory) + 1) * found.nbytes <= _KEPT_BYTES:
                self._memory[row] = found
        return found

    def augmented(self, augment: Sequence[Augmentation]) -> Waveforms:
        """Return the sounds as training shall see them."""
        return replace(self, augment=tuple(augment))


def features_of(backbone: Any, sounds: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return what the first module of a tower makes of samples at its rate."""
    rate = rate_of(backbone)
    return dict(backbone.preprocess([{"array": each, "sampling_rate": rate} for each in sounds]))
