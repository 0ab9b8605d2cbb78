"""Random changes of a sound that leave what is heard: moved, faster or slower, with noise, with gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textsiam.media.augmentation import Augmentation, seeded

_BOUNDS = {"shift": 0.5, "speed": 1.0, "noise": 1.0, "time_width": 0.5, "band_width": 0.5}  # knobs, from 0 up to these


@dataclass(frozen=True)
class SoundAugment:
    """Change sounds at random, the same way for the same seed; with every knob at 0 a sound stays itself.

    The gaps are those of SpecAugment (Park et al. 2019), made in the sound itself so that any tower sees them. A gap
    is as loud as the mean of the sound's logarithms, as theirs are.

    Attributes:
        shift: Moved by up to this share of its length, either way; silence comes in.
        speed: Faster or slower by a factor of up to 1 + `speed`, and higher or lower with it.
        flip: Played backwards, one time in two: with `clusters` a new word of an old one.
        noise: White noise is added, of up to this share of the sound's loudness (root mean square).
        time_masks: Gaps in time.
        time_width: Longest gap in time, as a share of the length.
        band_masks: Gaps in frequency.
        band_width: Widest gap in frequency, as a share of all frequencies.
        clusters: All sounds of a cluster are changed alike, anew in every batch.

    Raises:
        ValueError: A knob is negative, not finite or too large.

    Example:
        >>> SoundAugment(shift=0.1)(np.ones(100, np.float32), [0, 17]).shape
        (100,)
    """

    shift: float = 0.0
    speed: float = 0.0
    flip: bool = False
    noise: float = 0.0
    time_masks: int = 0
    time_width: float = 0.1
    band_masks: int = 0
    band_width: float = 0.1
    clusters: bool = False

    def __post_init__(self) -> None:
        """Check the knobs."""
        for name, bound in _BOUNDS.items():
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value <= bound:
                raise ValueError(f"{name} must be from 0 to {bound:g}, got {value}")
        for name in ("time_masks", "band_masks"):
            if not isinstance(value := getattr(self, name), int) or isinstance(value, bool) or not 0 <= value <= 100:
                raise ValueError(f"{name} must be a whole number from 0 to 100, got {value!r}")
        for name in ("flip", "clusters"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")

    def __call__(self, samples: np.ndarray, seed: Sequence[int]) -> np.ndarray:
        """Change samples `(n,)` float32; they are copied.

        Args:
            samples: The sound.
            seed: Numbers from 0 on, such as (seed, epoch, row).
        """
        rng = np.random.default_rng(list(seed))
        faster, along, loud = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0, 1)
        changed = _faster(samples, (1 + self.speed) ** faster) if self.speed else samples.copy()
        if self.flip and rng.uniform() < 0.5:
            changed = changed[::-1].copy()
        if self.shift:
            changed = _moved(changed, round(along * self.shift * len(changed)))
        if self.time_masks or self.band_masks:
            changed = self._masked(changed, rng)
        if self.noise:
            level = loud * self.noise * float(np.sqrt(np.mean(changed**2)))
            changed = changed + level * rng.standard_normal(len(changed)).astype(np.float32)
        return changed.astype(np.float32)

    def _masked(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        spectrum = np.fft.rfft(samples)
        size = np.abs(spectrum) + 1e-9
        plain = np.exp(np.log(size).mean())
        for gap in _gaps(self.band_masks, self.band_width, len(size), rng):
            spectrum[gap] *= plain / size[gap]
        changed = np.fft.irfft(spectrum, len(samples))
        level = np.exp(np.log(np.abs(changed) + 1e-6).mean())
        for gap in _gaps(self.time_masks, self.time_width, len(changed), rng):
            changed[gap] = level * rng.standard_normal(gap.stop - gap.start)
        return changed


def _gaps(count: int, width: float, size: int, rng: np.random.Generator) -> list[slice]:
    """Draw places of up to this share of all."""
    drawn = rng.uniform(0, 1, (count, 2))
    wide = [round(share * width * size) for share in drawn[:, 0].tolist()]
    first = [int(start * (size - gap + 1)) for start, gap in zip(drawn[:, 1].tolist(), wide, strict=True)]
    return [slice(start, start + gap) for start, gap in zip(first, wide, strict=True)]


def augmented(
    samples: np.ndarray, augment: Sequence[Augmentation], seed: Sequence[int], *, row: int, cluster: int | None = None
) -> np.ndarray:
    """Change a sound by one augmentation after the other; see `textsiam.media.augmentation.seeded`."""
    changed: Any = samples
    for each, drawn in seeded(augment, seed, row=row, cluster=cluster):
        changed = each(changed, drawn)
    return changed


def _faster(samples: np.ndarray, factor: float) -> np.ndarray:
    places = np.arange(0, len(samples) - 1 + 1e-9, factor) if len(samples) > 1 else np.zeros(1)
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)


def _moved(samples: np.ndarray, by: int) -> np.ndarray:
    found = np.zeros_like(samples)
    if by >= 0:
        found[by:] = samples[: len(samples) - by]
    else:
        found[:by] = samples[-by:]
    return found
