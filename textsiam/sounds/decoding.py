"""The bytes of a sound file → one channel of checked samples at the rate that is asked for."""

from __future__ import annotations

import io
import struct
import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from textsiam.data.tables.errors import DataError
from textsiam.sounds.mpeg import ends_early, stating_length

MAX_SECONDS = 600.0
"""A longer sound is refused by its header."""
LARGEST = 512 << 20
"""Bytes that a file may have."""
_KNOWN = "WAV, FLAC, OGG or MP3"
_LOUDEST = 1e6  # times full scale: whole numbers of 16 bits as floats are below, and their squares are no overflow
_SILENT = 1e-4  # loudest sample of silence: -80 dB
_CLIPPED = 0.01  # share of samples that stay at the loudest value, from which a sound counts as clipped
_VIDEOS = {b"\x1aE\xdf\xa3": "a Matroska or WebM file", b"\x00\x00\x01\xba": "an MPEG video", b"FLV": "a Flash video"}


class SoundFormat(NamedTuple):
    """A format by its name and its media type."""

    name: str
    mime: str


def sound_format(data: bytes, where: str) -> SoundFormat:
    """Tell the format of a sound file by its first bytes.

    Raises:
        DataError: There are none, or they begin no sound that is read here.
    """
    if not data:
        raise DataError(f"{where}: is empty (0 bytes)")
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        return SoundFormat("WAV", "audio/wav")
    if data.startswith(b"fLaC"):
        return SoundFormat("FLAC", "audio/flac")
    if data.startswith(b"OggS"):
        return SoundFormat("OGG", "audio/ogg")
    if data.startswith(b"ID3") or (data[0] == 0xFF and len(data) > 1 and data[1] & 0xE0 == 0xE0):
        return SoundFormat("MP3", "audio/mpeg")
    video = next((name for start, name in _VIDEOS.items() if data.startswith(start)), None)
    if data[4:8] == b"ftyp":
        video = "an MP4 or QuickTime file"
    elif data[:4] == b"RIFF" and data[8:11] == b"AVI":
        video = "an AVI video"
    if video:
        raise DataError(f"{where}: is {video}, expected {_KNOWN}: save its sound by itself (ffmpeg -i FILE sound.wav)")
    raise DataError(f"{where}: is no sound that can be read, expected {_KNOWN}; it starts with {data[:8]!r}")


def sound_seconds(data: bytes, where: str) -> float:
    """Tell by its header how long a sound is.

    Raises:
        DataError: It is no sound, has no samples, or is too long.
    """
    with _opened(data, where) as file:
        return file.frames / file.samplerate


def decode_sound(data: bytes, where: str, rate: int | None = None) -> tuple[np.ndarray, int]:
    """Decode a sound file.

    Args:
        data: The file.
        where: What messages call it.
        rate: Samples a second that are wanted; None keeps those of the file.

    Returns:
        The mean of its channels `(samples,)` float32, full scale at 1, and its rate.

    Raises:
        DataError: The bytes are none, no sound, damaged, too long, silent, or no numbers.
    """
    with _opened(data, where) as file:
        expected, found = file.frames, file.samplerate
        try:
            samples = file.read(dtype="float32", always_2d=True)
        except Exception as error:  # of libsndfile
            raise DataError(f"{where}: is a truncated or damaged sound ({error})") from None
    if len(samples) != expected:
        raise DataError(f"{where}: is a truncated or damaged sound ({len(samples):,} of {expected:,} samples)")
    return resampled(checked_samples(samples.mean(1), where), found, rate), rate or found


def checked_samples(samples: np.ndarray, where: str) -> np.ndarray:
    """Refuse what says nothing; tell of what is clipped.

    Raises:
        DataError: There are no samples, one is no number or far too large, or all are silent.
    """
    if not len(samples):
        raise DataError(f"{where}: holds no samples")
    if not np.isfinite(samples).all():
        at = int(np.flatnonzero(~np.isfinite(samples))[0])
        raise DataError(f"{where}: sample {at:,} is {samples[at]}, expected a number")
    peak = float(np.abs(samples).max())
    if peak > _LOUDEST:
        at = int(np.abs(samples).argmax())
        raise DataError(f"{where}: sample {at:,} is {samples[at]:.3g}, expected about -1 to 1 (at most {_LOUDEST:g})")
    if peak < _SILENT:
        raise DataError(f"{where}: is silent (its loudest sample is {peak:.1g} of full scale)")
    flat = (samples[1:] == samples[:-1]) & (np.abs(samples[1:]) >= 0.99 * peak)
    if (share := float(flat.sum() / len(samples))) > _CLIPPED:
        _tell_clipped(where, round(share, 2))
    return samples


def resampled(samples: np.ndarray, rate: int, wanted: int | None) -> np.ndarray:
    """Bring samples `(n,)` from one rate to another."""
    if wanted in (None, rate):
        return samples
    return np.ascontiguousarray(_library("soxr").resample(samples, rate, wanted), dtype=np.float32)


def wav_bytes(samples: np.ndarray, rate: int, *, exact: bool = False) -> bytes:
    """Write one channel as a WAV file, the same bytes for the same samples.

    Args:
        samples: `(n,)`, full scale at 1.
        rate: Samples a second.
        exact: Keep float32; otherwise 16 bits, which any player knows.
    """
    body = samples.astype("<f4") if exact else np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2")
    data, width = body.tobytes(), body.itemsize
    kind = struct.pack("<HHIIHH", 3 if exact else 1, 1, rate, rate * width, width, 8 * width)
    head = b"WAVEfmt " + struct.pack("<I", len(kind)) + kind + b"data" + struct.pack("<I", len(data))
    return b"RIFF" + struct.pack("<I", len(head) + len(data)) + head + data


def _opened(data: bytes, where: str) -> Any:
    known = sound_format(data, where)
    _check_whole(data, known.name, where)
    if known.name == "MP3":
        data = stating_length(data)
    library = _library("soundfile")
    try:
        file = library.SoundFile(io.BytesIO(data))
    except library.LibsndfileError as error:
        raise DataError(f"{where}: is a truncated or damaged {known.name} ({error.error_string})") from None
    if not file.frames:
        raise DataError(f"{where}: holds no samples")
    if file.frames > MAX_SECONDS * file.samplerate:
        seconds = file.frames / file.samplerate
        raise DataError(
            f"{where}: lasts {seconds:,.0f} seconds, at most {MAX_SECONDS:,.0f} are read: cut out what is meant"
        )
    return file


def _check_whole(data: bytes, name: str, where: str) -> None:
    """Refuse a WAV, OGG or MP3 file that ends early: libsndfile would read what is there without a word."""
    missing = name == "MP3" and ends_early(data)
    if name == "WAV" and data[:4] == b"RIFF":
        declared = int.from_bytes(data[4:8], "little")
        missing = declared not in (0, 2**32 - 1) and declared + 8 > len(data) + 1  # a last odd byte may lack
    elif name == "OGG":
        last = data.rfind(b"OggS")
        missing = not (len(data) > last + 5 and data[last + 5] & 4)  # the page that says it is the last
        if not missing and _is_chained(data):
            raise DataError(f"{where}: holds several OGG streams, one after the other: save it as one, or as WAV")
    if missing:
        raise DataError(f"{where}: is a truncated {name} file")


def _is_chained(data: bytes) -> bool:
    """Whether another stream begins behind the pages of the first one (RFC 3533): libsndfile reads only that."""
    at, begun = 0, False
    while data[at : at + 4] == b"OggS" and len(data) > at + 26:
        begins = bool(data[at + 5] & 2)
        if begins and begun:
            return True
        begun |= not begins
        at += 27 + data[at + 26] + sum(data[at + 27 : at + 27 + data[at + 26]])
    return False


@lru_cache(maxsize=1024)
def _tell_clipped(where: str, share: float) -> None:
    warnings.warn(f"{where}: is clipped: {share:.0%} of its samples are at the limit", stacklevel=2)


def _library(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except (ImportError, OSError) as error:
        raise DataError(f"sounds need {name}: pip install 'textsiam[audio]'") from error
