"""Labelled sounds: reading, augmenting, and making ready for a tower."""

from __future__ import annotations

from textsiam.sounds.augmentation import SoundAugment
from textsiam.sounds.medium import holds_sounds, pair_sounds, read_sounds
from textsiam.sounds.names import open_sound, sound_name, wav_of

__all__ = ["SoundAugment", "holds_sounds", "open_sound", "pair_sounds", "read_sounds", "sound_name", "wav_of"]
