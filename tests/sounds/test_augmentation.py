"""Random changes of sounds: seeded, bounded, and each does what it says."""

from __future__ import annotations

import numpy as np
import pytest

from textsiam.modality import described
from textsiam.sounds.augmentation import SoundAugment, augmented

TONE = np.sin(2 * np.pi * 0.1 * np.arange(4000)).astype(np.float32)
KNOBS = {"shift": 0.2, "speed": 0.2, "noise": 0.5, "time_masks": 2, "band_masks": 2}


def test_nothing_changes_a_sound_with_every_knob_at_0():
    assert np.array_equal(SoundAugment()(TONE, [0, 1]), TONE)


@pytest.mark.parametrize("knob", KNOBS)
def test_each_knob_changes_the_same_way_for_the_same_seed(knob):
    augment = SoundAugment(**{knob: KNOBS[knob]})
    once, again, other = augment(TONE, [0, 1]), augment(TONE, [0, 1]), augment(TONE, [0, 2])
    assert np.array_equal(once, again)
    assert once.dtype == np.float32
    assert len(once) != len(other) or not np.array_equal(once, other)


def test_speed_stays_within_its_factor_and_moves_the_pitch_with_it():
    for seed in range(20):
        found = SoundAugment(speed=0.25)(TONE, [seed])
        assert 1 / 1.26 <= len(found) / len(TONE) <= 1.26
        peak = np.abs(np.fft.rfft(found)).argmax() / len(found)
        assert peak == pytest.approx(0.1 * len(TONE) / len(found), abs=2e-3)


def test_shift_moves_samples_and_lets_silence_in():
    found = SoundAugment(shift=0.5)(TONE, [3])
    lag = int(np.correlate(found, TONE, "full").argmax()) - len(TONE) + 1
    moved = np.zeros_like(TONE)
    moved[max(0, lag) : len(TONE) + min(0, lag)] = TONE[max(0, -lag) : len(TONE) - max(0, lag)]
    assert 0 < abs(lag) <= 2000
    assert np.array_equal(found, moved)


def test_a_flip_plays_it_backwards_one_time_in_two():
    ramp = np.arange(100, dtype=np.float32)
    found = [SoundAugment(flip=True)(ramp, [seed]) for seed in range(200)]
    backwards = [bool(each[0] == 99) for each in found]
    assert 70 < sum(backwards) < 130
    assert all(np.array_equal(each, ramp[::-1] if back else ramp) for each, back in zip(found, backwards, strict=True))


def test_noise_has_at_most_its_loudness():
    added = [SoundAugment(noise=0.3)(TONE, [seed]) - TONE for seed in range(20)]
    loudness = [np.sqrt((each**2).mean()) / np.sqrt((TONE**2).mean()) for each in added]
    assert 0.15 < max(loudness) < 0.32


def test_gaps_take_the_tone_out_of_its_band():
    energies = [np.abs(np.fft.rfft(SoundAugment(band_masks=8, band_width=0.5)(TONE, [seed])))[400] for seed in range(8)]
    assert min(energies) < 0.1 * np.abs(np.fft.rfft(TONE))[400] < max(energies) * 1.01


def test_one_after_the_other_each_with_a_seed_of_its_own():
    two = augmented(TONE, [SoundAugment(noise=0.1), SoundAugment(noise=0.1)], [7], row=5)
    first = SoundAugment(noise=0.1)(TONE, [7, 0, 5])
    assert np.array_equal(two, SoundAugment(noise=0.1)(first, [7, 2, 5]))
    shared = SoundAugment(noise=0.1, clusters=True)
    assert np.array_equal(
        augmented(TONE, [shared], [7], row=1, cluster=9), augmented(TONE, [shared], [7], row=2, cluster=9)
    )
    assert np.array_equal(augmented(TONE, [shared], [7], row=1), TONE)


@pytest.mark.parametrize("knobs", [{"shift": -1}, {"speed": float("nan")}, {"time_masks": 1.5}, {"noise": 2},
                                   {"clusters": 1}, {"flip": 1}, {"band_masks": True}])  # fmt: skip
def test_a_knob_out_of_bounds_is_refused(knobs):
    with pytest.raises(ValueError, match=next(iter(knobs))):
        SoundAugment(**knobs)


def test_a_config_says_its_knobs():
    assert described([SoundAugment(shift=0.1)])[0]["shift"] == 0.1
