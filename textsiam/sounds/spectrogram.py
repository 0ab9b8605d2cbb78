"""Mel spectrograms: the filters, and a picture of a sound for people to look at."""

from __future__ import annotations

import io

import numpy as np

FLOOR = 1e-10
"""Least energy whose logarithm is taken."""


def mel_filters(rate: int, points: int, bands: int) -> np.ndarray:
    """Return triangular filters that are evenly spaced on the mel scale up to half of the rate.

    The scale is `2595 · log10(1 + f / 700)` (O'Shaughnessy 1987), and each triangle has the height 1.

    Args:
        rate: Samples a second.
        points: Samples of a Fourier transform.
        bands: Number of filters.

    Returns:
        `(bands, points // 2 + 1)` float32.
    """
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, points // 2 + 1)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def spectrogram_png(samples: np.ndarray, rate: int, *, height: int = 72, longest: int = 288) -> bytes:
    """Return a PNG of a sound: time from left to right, frequency upwards, loudness as brightness over 60 dB.

    Args:
        samples: `(n,)`.
        rate: Samples a second.
        height: Bands, a pixel each.
        longest: Most pixels from left to right; a pixel is 10 ms of a short sound.
    """
    from PIL import Image

    window = max(64, rate // 40)
    points = 1 << (window - 1).bit_length()
    padded = np.pad(samples, (0, max(0, window - len(samples))))
    hop = max(1, rate // 100, -(-(len(padded) - window) // (longest - 1)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * np.hanning(window)
    energy = np.abs(np.fft.rfft(frames, points)) ** 2 @ mel_filters(rate, points, height).T
    decibels = 10 * np.log10(energy + FLOOR)
    shade = np.clip((decibels - decibels.max()) / 60 + 1, 0, 1) * 255
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(shade.T[::-1].astype(np.uint8))).save(file, "PNG", optimize=True)
    return file.getvalue()
