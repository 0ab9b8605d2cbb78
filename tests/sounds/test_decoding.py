"""Sound files: every format is read alike, and what cannot be used is refused in one line."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest

from textsiam.data.tables.errors import DataError
from textsiam.sounds.decoding import decode_sound, sound_seconds, wav_bytes
from textsiam.sounds.mpeg import _frames, ends_early, stating_length

soundfile = pytest.importorskip("soundfile", reason="needs textsiam[audio]")
pytest.importorskip("soxr", reason="needs textsiam[audio]")

RATE = 8000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE // 2) / RATE)).astype(np.float32)


def written(samples=TONE, form="WAV", subtype=None, rate=RATE):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize(("form", "subtype", "near"), [
    ("WAV", "PCM_16", 1e-4), ("WAV", "FLOAT", 0), ("WAV", "PCM_U8", 1e-2), ("FLAC", None, 1e-4), ("OGG", None, 0.1),
    ("MP3", None, 0.1),
])  # fmt: skip
def test_every_format_gives_the_samples(form, subtype, near):
    data = written(form=form, subtype=subtype)
    samples, rate = decode_sound(data, "a")
    assert (rate, samples.dtype) == (RATE, np.float32)
    assert abs(sound_seconds(data, "a") - 0.5) < 0.2
    if form in ("WAV", "FLAC"):
        assert np.abs(samples - TONE).max() <= near
    else:  # a lossy format moves phases: the loudness stays
        assert abs(np.sqrt((samples**2).mean()) / np.sqrt((TONE**2).mean()) - 1) < 0.15


def test_channels_become_their_mean_and_the_rate_that_is_wanted():
    both = np.stack([TONE, 0 * TONE], axis=1)
    assert np.abs(decode_sound(written(both), "a")[0] - TONE / 2).max() < 1e-4
    twice, rate = decode_sound(written(), "a", 2 * RATE)
    assert (rate, len(twice)) == (2 * RATE, 2 * len(TONE))
    assert np.abs(twice[200:-200:2] - TONE[100:-100]).max() < 1e-3  # the same sound, by an independent rule


def test_our_own_wav_is_read_by_others_and_back():
    samples, rate = soundfile.read(io.BytesIO(wav_bytes(TONE, RATE)), dtype="float32")
    assert rate == RATE
    assert np.abs(samples - TONE).max() < 1e-4
    assert np.array_equal(decode_sound(wav_bytes(TONE, RATE, exact=True), "a")[0], TONE)


BROKEN = {
    "empty": (b"", "is empty (0 bytes)"),
    "no samples": (wav_bytes(TONE[:0], RATE), "holds no samples"),
    "silence": (wav_bytes(0 * TONE, RATE), "is silent"),
    "no number": (wav_bytes(np.where(np.arange(4000) == 7, np.nan, TONE), RATE, exact=True), "sample 7 is nan"),
    "far too loud": (wav_bytes(1e19 * TONE, RATE, exact=True), "expected about -1 to 1"),
    "truncated wav": (wav_bytes(TONE, RATE)[:-900], "is a truncated WAV file"),
    "mp4": (b"\0\0\0\x18ftypisom" + bytes(40), "is an MP4 or QuickTime file"),
    "webm": (b"\x1aE\xdf\xa3" + bytes(40), "is a Matroska or WebM file"),
    "avi": (b"RIFF\0\0\0\0AVI LIST", "is an AVI video"),
    "text": (b"hello, this is text", "is no sound that can be read"),
    "hour": (wav_bytes(np.zeros(1, np.float32), 1)[:40] + (7200).to_bytes(4, "little") + bytes(7200), "lasts 3,600"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_used_is_refused_in_one_line(kind):
    data, problem = BROKEN[kind]
    if kind == "hour":
        data = data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:]
    with pytest.raises(DataError) as caught:
        decode_sound(data, "folder/a.wav")
    assert str(caught.value).startswith("folder/a.wav: ")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["FLAC", "OGG", "MP3"])
def test_a_packed_file_that_ends_early_is_refused(form):
    noise = np.random.default_rng(0).normal(0, 0.1, 4 * RATE).astype(np.float32)
    data = written(noise, form)
    with pytest.raises(DataError, match="truncated"):
        decode_sound(data[: len(data) * 2 // 3], "a")


def test_streams_of_ogg_one_after_the_other_are_refused():
    """libsndfile reads the first one, without a word of the others."""
    first, second = written(form="OGG"), written(TONE[::-1], form="OGG")
    with pytest.raises(DataError, match="holds several OGG streams"):
        decode_sound(first + second, "a")
    assert len(decode_sound(first, "a")[0]) == len(TONE)


def tagged(data):
    """Put an ID3 tag of 300 bytes before an MP3 file."""
    return b"ID3\x04\0\0" + bytes([0, 0, 300 >> 7, 300 & 127]) + bytes(300) + data


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("before", [bytes, tagged], ids=["plain", "tagged"])
@pytest.mark.parametrize("stated", [True, False])
def test_an_mp3_is_whole_to_its_last_byte_and_not_without_it(rate, channels, before, stated):
    """By what its first frame states; or, where another encoder states nothing, by walking through its frames."""
    noise = np.random.default_rng(0).normal(0, 0.1, (rate // 2, channels)).astype(np.float32)
    quiet_first = np.concatenate([0 * noise, noise])  # the length that the first frame lets one guess is wrong
    data = written(quiet_first, "MP3", rate=rate)
    if not stated:
        data = data.replace(b"Info", bytes(4)).replace(b"Xing", bytes(4))
    whole = before(data)
    for end in (b"", b"TAG" + bytes(125)):
        samples, found = decode_sound(whole + end, "a")
        assert found == rate
        assert len(quiet_first) <= len(samples) <= len(quiet_first) + 4 * 1152
        assert np.abs(samples[-rate // 4 :]).max() > 0.05
    for cut in (1, 20):
        with pytest.raises(DataError, match="a: is a truncated MP3 file"):
            decode_sound(whole[:-cut], "a")


def test_what_lies_between_the_frames_of_an_mp3_is_passed_over():
    data = written(np.tile(TONE, 4), "MP3").replace(b"Info", bytes(4)).replace(b"Xing", bytes(4))
    starts = [at for at, _ in _frames(data, 0)]
    junk = data[: starts[9]] + b"a tag of another program \xff" + data[starts[9] :]
    assert len(list(_frames(junk, 0))) == len(starts)
    assert not ends_early(junk)
    assert stating_length(b"\xff\xfb\xf0 no frames") == b"\xff\xfb\xf0 no frames"


def test_a_clipped_sound_is_told_of_once_and_used():
    clipped = wav_bytes(np.clip(4 * TONE, -1, 1), RATE)
    with pytest.warns(UserWarning, match="clipped.wav: is clipped: [0-9]+% of its samples"):
        decode_sound(clipped, "clipped.wav")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode_sound(clipped, "clipped.wav")
        decode_sound(wav_bytes(TONE, RATE), "not clipped")
