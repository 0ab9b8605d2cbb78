"""The tower from scratch: its spectrogram against librosa's, padding that changes nothing, and the saved folder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from textsiam.inference.encoders import ModelError, open_tower
from textsiam.inference.inputs import inputs_of
from textsiam.inference.scratch import scratch_sound_encoder
from textsiam.models.twin import Twin
from textsiam.sounds.encoder import LogMel
from textsiam.sounds.medium import SOUNDS
from textsiam.sounds.names import sound_name
from textsiam.sounds.spectrogram import FLOOR, mel_filters

pytest.importorskip("soundfile", reason="needs textsiam[audio]")
pytest.importorskip("soxr", reason="needs textsiam[audio]")

RATE = 8000


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * RATE)).astype(np.float32)


def test_the_spectrogram_is_that_of_a_naive_loop():
    sound, log_mel = noise(0.3), LogMel(RATE, 20)
    frames = 1 + (len(sound) - 200) // 80
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(200) / 200)
    filters = mel_filters(RATE, 256, 20).astype(np.float64)
    rows = []
    for start in range(0, frames * 80, 80):
        spectrum = np.abs(np.fft.fft(sound[start : start + 200] * hann, 256)[:129]) ** 2
        rows.append([np.log(float((spectrum * one).sum()) + FLOOR) for one in filters])
    found = log_mel.energies(torch.from_numpy(sound)[None])[0].numpy()
    assert found.shape == (frames, 20)
    assert np.abs(found - np.array(rows)).max() < 1e-3


def test_the_filters_are_librosas():
    librosa = pytest.importorskip("librosa", reason="a test-only oracle")
    theirs = librosa.filters.mel(sr=RATE, n_fft=256, n_mels=20, htk=True, norm=None)
    assert np.abs(mel_filters(RATE, 256, 20) - theirs).max() < 1e-5


@pytest.fixture(scope="module")
def tower():
    return scratch_sound_encoder(rate=RATE, bands=20, widths=(8, 16), depths=(1, 2), dim=12)


def test_a_sound_does_not_depend_on_what_stands_beside_it(tower):
    sounds = [noise(s, seed) for seed, s in enumerate((0.01, 0.11, 0.3, 0.55, 1.0))]
    tower.eval()
    with torch.inference_mode():
        together = tower(tower.preprocess(sounds))["sentence_embedding"]
        alone = torch.cat([tower(tower.preprocess([each]))["sentence_embedding"] for each in sounds])
    assert torch.allclose(together, alone, atol=1e-6)


def test_loudness_changes_nothing(tower):
    one, quiet = Twin(tower).encode([sound_name(noise(0.4)), sound_name(0.1 * noise(0.4))])
    assert one @ quiet > 0.9999


def test_saved_and_opened_it_encodes_the_same(tower, tmp_path):
    from sentence_transformers import SentenceTransformer

    twin, sounds = Twin(tower), [noise(0.3, seed) for seed in range(3)]
    vectors = twin.encode(sounds)
    twin.save_pretrained(tmp_path / "twin")
    assert np.array_equal(Twin.from_pretrained(tmp_path / "twin").encode(sounds), vectors)
    plain = SentenceTransformer(str(tmp_path / "twin"), trust_remote_code=True, device="cpu")
    assert np.abs(plain.encode(sounds) - vectors).max() < 1e-6
    assert inputs_of(open_tower(tmp_path / "twin")) is SOUNDS


def test_lengths_are_tokens_of_20_ms_and_batches_are_alike_in_length(tower):
    prepared = SOUNDS.prepare(tower, [sound_name(noise(s)) for s in (0.02, 0.5, 1.0)])
    assert prepared.lengths.tolist() == [1, 25, 50]
    assert prepared.lengths_of([2, 0]).tolist() == [50, 1]
    assert SOUNDS.dummy_batch(tower, 150)["input_values"].shape == (3, RATE)


@pytest.mark.parametrize(
    "knobs", [{"rate": 100}, {"bands": 0}, {"bands": 4000}, {"widths": (8,)}, {"depths": (0, 1, 1)}]
)
def test_sizes_that_do_not_fit_are_refused(knobs):
    with pytest.raises(ModelError):
        scratch_sound_encoder(**knobs)
