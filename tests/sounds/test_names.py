"""Sounds as strings: all that may stand for one, and what is behind it."""

from __future__ import annotations

import base64
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from textsiam.data.tables.errors import DataError
from textsiam.sounds.decoding import wav_bytes
from textsiam.sounds.names import open_sound, received_sound, seconds_of, sound_name, wav_of

pytest.importorskip("soundfile", reason="needs textsiam[audio]")
pytest.importorskip("soxr", reason="needs textsiam[audio]")

RATE = 8000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE // 2) / RATE)).astype(np.float32)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tone.wav"
    path.write_bytes(wav_bytes(TONE, RATE, exact=True))
    return path


def forms(file):
    rated = {"array": TONE, "sampling_rate": RATE}
    samples = SimpleNamespace(data=torch.from_numpy(TONE)[None], sample_rate=RATE)
    return [
        str(file), file, file.read_bytes(),
        {"bytes": file.read_bytes(), "path": None}, {"bytes": None, "path": str(file)},
        rated, {"array": torch.from_numpy(TONE), "sampling_rate": RATE}, {"audio": rated},
        {"array": np.stack([TONE, TONE]), "sampling_rate": RATE}, {"array": TONE.astype(float), "sampling_rate": RATE},
        SimpleNamespace(get_all_samples=lambda: samples),
    ]  # fmt: skip


def test_every_form_of_a_sound_is_the_same_sound(file):
    for form in forms(file):
        samples, rate = open_sound(sound_name(form))
        assert rate == RATE
        assert np.array_equal(samples, TONE), form


def test_samples_alone_have_the_rate_of_whatever_takes_them():
    name = sound_name(TONE)
    assert open_sound(name, 22_050)[1] == 22_050
    assert np.array_equal(open_sound(name, 22_050)[0], TONE)
    assert seconds_of(name, 4000) == 1.0
    assert np.array_equal(open_sound(sound_name((TONE * 32768).astype(np.int16)), RATE)[0], open_sound(
        sound_name((TONE * 32768).astype(np.int16) / 32768.0), RATE)[0])  # fmt: skip


def test_equal_samples_have_equal_names():
    assert sound_name(TONE) == sound_name(TONE.copy())


def test_a_member_of_a_zip_and_a_data_uri(tmp_path, file):
    with zipfile.ZipFile(tmp_path / "words.zip", "w") as archive:
        archive.write(file, "one/a.wav")
    assert np.array_equal(open_sound(f"{tmp_path / 'words.zip'}#one/a.wav")[0], TONE)
    encoded = base64.b64encode(file.read_bytes()).decode()
    assert np.array_equal(open_sound(received_sound(encoded))[0], TONE)
    assert received_sound(f"data:audio/wav;base64,{encoded}").startswith("data:")


def test_no_file_is_opened_for_what_came_from_outside(file):
    with pytest.raises(DataError):
        received_sound(str(file))


@pytest.mark.parametrize(("value", "error", "problem"), [
    ({"array": TONE}, TypeError, "sound 3: 'sampling_rate' is None"),
    ({"array": TONE, "sampling_rate": 0}, TypeError, "'sampling_rate' is 0"),
    ({"text": "a"}, TypeError, "sound 3: is a dict with 'text'"),
    (5, TypeError, "sound 3 is a int"),
    (TONE.reshape(2, 2, -1), TypeError, "has shape"),
    (TONE.astype(np.int32), TypeError, "array of int32"),
    (100 * TONE, DataError, "full scale at 1"),
    (TONE[:0], DataError, "sound 3: holds no samples"),
    (b"hello", DataError, "sound 3: is no sound"),
])  # fmt: skip
def test_what_is_no_sound_is_named_by_its_position(value, error, problem):
    with pytest.raises(error) as caught:
        sound_name(value, 3)
    assert problem in str(caught.value)


def test_what_is_played_is_short_and_slow_enough(tmp_path):
    path = tmp_path / "long.wav"
    path.write_bytes(wav_bytes(np.tile(TONE, 20), 48_000))
    played, rate = open_sound("data:audio/wav;base64," + base64.b64encode(wav_of(str(path), seconds=1.0)).decode())
    assert (len(played), rate) == (16_000, 16_000)


def test_lengths_of_files_are_remembered_until_they_change_and_bytes_are_not_held(file):
    from textsiam.sounds import names

    before = names._seconds.cache_info().currsize
    assert seconds_of(sound_name(TONE), RATE) == 0.5
    assert names._seconds.cache_info().currsize == before
    assert seconds_of(str(file), RATE) == 0.5
    file.write_bytes(wav_bytes(np.tile(TONE, 2), RATE))
    assert seconds_of(str(file), RATE) == 1.0
