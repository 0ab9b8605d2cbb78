"""Sounds as strings: the name of a sound, and the samples behind a name; see `textsiam.media.names`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from textsiam.data.tables.errors import DataError
from textsiam.media.names import data_uri, file_version, is_data, named_bytes, shown_name
from textsiam.sounds.decoding import (
    LARGEST,
    checked_samples,
    decode_sound,
    resampled,
    sound_format,
    sound_seconds,
    wav_bytes,
)

SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")
_UNRATED = "audio/wav;rate=none"  # of an array without a rate: it has that of whatever tower takes it
_RATE = 16_000  # that stands in a header where none is known


def sound_name(value: Any, position: int | None = None) -> str:
    """Name a sound by a string that `open_sound` opens.

    Args:
        value: A name or path (kept as it is); the bytes of a sound file; `{"array", "sampling_rate"}`; `{"bytes",
            "path"}` of `datasets.Audio(decode=False)`; a decoder of `datasets.Audio`; `{"audio": …}` of any of them; or
            samples alone, an array or tensor, at the rate of the tower. Two dimensions are samples and channels, and
            the shorter one is that of the channels. Samples are floats with full scale at 1, or int16.
        position: Where the value stands among others, for messages.

    Raises:
        TypeError: The value is nothing of this.
        DataError: The bytes are no sound, or samples are silent or no numbers.

    Example:
        >>> sound_name({"array": np.ones(8, np.float32), "sampling_rate": 8000})[:21]
        'data:audio/wav;base64'
    """
    where = "the sound" if position is None else f"sound {position}"
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        return data_uri(data, sound_format(data, where).mime)
    if isinstance(value, Mapping):
        return _of_mapping(value, position, where)
    if hasattr(value, "get_all_samples"):  # torchcodec's, which `datasets` gives
        found = value.get_all_samples()
        return sound_name({"array": found.data, "sampling_rate": found.sample_rate}, position)
    return data_uri(wav_bytes(_samples(value, where), _RATE, exact=True), _UNRATED)


def open_sound(name: str, rate: int | None = None) -> tuple[np.ndarray, int]:
    """Open the sound behind a name.

    Args:
        name: A path, `FILE.zip#MEMBER`, or a data URI.
        rate: Samples a second that are wanted; None keeps its own.

    Returns:
        The mean of its channels `(samples,)` float32, full scale at 1, and its rate.

    Raises:
        DataError: There is no such file or member; or it is empty, no sound, damaged, too long, silent or no numbers.
            The message names the sound.
    """
    samples, found = decode_sound(_bytes(name), shown_name(name), None if _unrated(name) else rate)
    return samples, rate if _unrated(name) and rate else found


def seconds_of(name: str, rate: int) -> float:
    """Tell by its header how long a sound is; one without a rate has this one.

    Raises:
        DataError: There is none, or it is too long.
    """
    header = _seconds.__wrapped__ if is_data(name) else _seconds  # a cache of data URIs would hold their bytes
    seconds = header(file_version(name, "sound"), name)
    return seconds * _RATE / rate if _unrated(name) else seconds


def wav_of(name: str, *, seconds: float = 30.0, rate: int = 16_000) -> bytes:
    """Return the beginning of a sound as a WAV of 16 bits and one channel, for a player.

    Args:
        name: The sound.
        seconds: Longest part.
        rate: Most samples a second: a sound of fewer keeps its own.

    Raises:
        DataError: It cannot be opened.
    """
    samples, own = open_sound(name)
    wanted = min(rate, own)
    return wav_bytes(resampled(samples[: int(seconds * own)], own, wanted), wanted)


def received_sound(value: str, *, decode: bool = True) -> str:
    """Name a sound that came from outside: base64, or a data URI; never a path, so that no file is opened for it.

    Args:
        value: The bytes of a sound file in base64, or a data URI of them.
        decode: Try whether the sound can be opened; without, only a name is made.

    Raises:
        DataError: The value is neither, or the sound cannot be opened.
    """
    name = value if is_data(value) else f"data:audio/*;base64,{value}"
    if decode:
        open_sound(name)
    return name


def received_seconds(value: str) -> float:
    """Tell by its header how long a sound from outside is; see `received_sound`."""
    name = received_sound(value, decode=False)
    return sound_seconds(_bytes(name), shown_name(name))


def _bytes(name: str) -> bytes:
    return named_bytes(name, largest=LARGEST, noun="sound")


@lru_cache(maxsize=65_536)
def _seconds(version: str, name: str) -> float:
    return sound_seconds(_bytes(name), shown_name(name))


def _unrated(name: str) -> bool:
    return name.startswith(f"data:{_UNRATED}")


def _of_mapping(value: Mapping[str, Any], position: int | None, where: str) -> str:
    if set(value) == {"audio"}:
        return sound_name(value["audio"], position)
    if "array" in value:
        rate = value.get("sampling_rate")
        if not isinstance(rate, int | np.integer) or rate < 1:
            raise TypeError(f"{where}: 'sampling_rate' is {rate!r}, expected samples a second")
        return data_uri(wav_bytes(_samples(value["array"], where), int(rate), exact=True), "audio/wav")
    inner = value.get("path") if value.get("bytes") is None else value["bytes"]
    if set(value) <= {"bytes", "path"} and isinstance(inner, str | bytes):
        return sound_name(inner, position)
    raise TypeError(f"{where}: is a dict with {', '.join(map(repr, value)) or 'nothing'}, expected 'array' and "
                    "'sampling_rate', or 'bytes' or 'path'")  # fmt: skip


def _samples(value: Any, where: str) -> np.ndarray:
    """Give samples in memory as `(n,)` float32."""
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # a torch tensor, torch not imported
        value = value.detach().cpu().float().numpy()
    if isinstance(value, list):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{where} is a {type(value).__name__}, expected a path or name, bytes, an array or a tensor")
    if value.ndim not in (1, 2):
        raise TypeError(f"{where} has shape {value.shape}, expected (samples,), or samples and channels")
    if value.dtype == np.int16:
        value = value / 32768
    if value.ndim == 2:
        value = value.mean(int(np.argmin(value.shape))) if value.size else value.reshape(-1)
    if not np.issubdtype(value.dtype, np.floating):
        raise TypeError(f"{where} is an array of {value.dtype}, expected floats or int16")
    if value.size and float(np.abs(np.nan_to_num(value)).max()) > 8:
        raise DataError(f"{where} holds floats up to {np.abs(value).max():g}, expected full scale at 1")
    return checked_samples(value.astype(np.float32), where)
