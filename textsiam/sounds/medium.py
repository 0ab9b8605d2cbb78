"""What sounds are asked as one of the media: `textsiam.media.medium` says what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from textsiam.data.pairs import Pairs
from textsiam.media.files import medium_within
from textsiam.media.labelled import LabelledFiles
from textsiam.media.medium import Medium
from textsiam.media.readers import read_labelled
from textsiam.sounds.augmentation import SoundAugment
from textsiam.sounds.names import SOUND_SUFFIXES, open_sound, received_seconds, received_sound, sound_name, wav_of
from textsiam.sounds.spectrogram import spectrogram_png

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

    from textsiam.sounds.waveforms import Waveforms

_PLAYED = 5.0  # seconds of a sound in a report


class Sounds(Medium):
    """Sounds."""

    modality = "audio"
    suffixes = SOUND_SUFFIXES
    augmentation = SoundAugment
    unit = "samples"

    def to_key(self, value: Any, position: int | None = None) -> str:
        """Name a sound; see `sound_name`."""
        return sound_name(value, position)

    def check(self, name: str) -> None:
        """Decode a sound."""
        open_sound(name)

    def received(self, value: str, *, decode: bool = True) -> str:
        """Name a sound from outside; see `received_sound`."""
        return received_sound(value, decode=decode)

    def received_size(self, value: str) -> int:
        """Count its samples, as if there were 16,000 a second."""
        return int(received_seconds(value) * 16_000)

    def thumbnail(self, name: str) -> bytes:
        """Return a PNG of its spectrogram."""
        return spectrogram_png(*open_sound(name))

    def played(self, name: str) -> bytes | None:
        """Return a WAV of its first seconds."""
        return wav_of(name, seconds=_PLAYED)

    def exhibit(self, name: str, *, side: int) -> tuple[bytes, str]:
        """Return its first seconds as WAV."""
        return wav_of(name), "audio/wav"

    def prepare(
        self,
        tower: SentenceTransformer,
        names: Sequence[str],
        prompt: str | None = None,
        broken: dict[str, str] | None = None,
    ) -> Waveforms:
        """Leave sounds to be opened when a batch wants them."""
        from textsiam.sounds.waveforms import Waveforms

        return Waveforms(list(names), tower, broken=broken)

    def example(self, backbone: Any) -> dict[str, Any]:
        """Return a second of noise."""
        from textsiam.sounds.waveforms import rate_of

        rate = rate_of(backbone)
        return {"array": _noise(rate), "sampling_rate": rate}

    def dummy_batch(self, tower: SentenceTransformer, tokens: int) -> dict[str, Any]:
        """Return the features of seconds of noise."""
        from textsiam.sounds.waveforms import TOKENS, features_of, fixed_seconds, rate_of

        each = TOKENS * (fixed_seconds(tower[0]) or 1.0)
        return features_of(tower[0], [_noise(rate_of(tower[0]))] * max(1, int(tokens // each)))

    def of_two_lengths(self, tower: SentenceTransformer) -> Waveforms:
        """Make a second of noise ready, and a quarter of it."""
        from textsiam.sounds.waveforms import rate_of

        noise = _noise(rate_of(tower[0]))
        return self.prepare(tower, [sound_name(noise[: len(noise) // 4]), sound_name(noise)])


SOUNDS = Sounds()
"""The medium of sounds."""


def holds_sounds(path: str | Path) -> bool:
    """Tell whether this is a folder with a sound at any depth, or a .zip."""
    return medium_within(path, [SOUNDS]) is not None


def read_sounds(source: str | Path | Dataset, **options: Any) -> LabelledFiles:
    """Read sounds with their classes; `textsiam.media.readers.read_labelled` says how, and takes the same options.

    Raises:
        DataError: the source cannot be read or holds no labelled sound, with file and cause.

    Example:
        >>> sounds = read_sounds("words.zip")  # doctest: +SKIP
    """
    return read_labelled(source, SOUNDS, **options)


def pair_sounds(left: Sequence[Any], right: Sequence[Any], labels: Sequence[int], source: str = "memory") -> Pairs:
    """Make pairs of sounds in memory or by path, row for row; `sound_name` says what a sound may be.

    Raises:
        DataError: as `Pairs.from_texts`, or a value is a damaged sound.
        TypeError: a value is no sound; it is named by its position.
    """
    return SOUNDS.pairs(left, right, labels, source)


def _noise(rate: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, rate).astype(np.float32)
