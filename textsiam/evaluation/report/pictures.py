"""The report's pictures: the worst pairs side by side, and a map of the vectors."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from textsiam.evaluation.report.plots import figure, number

if TYPE_CHECKING:
    from textsiam.evaluation.pairs import WrongPair

Thumbnail = Callable[[str], "bytes | None"]
"""Returns a small PNG of an input, or None where the input is best shown as it is (a text)."""

_PNG = b"\x89PNG\r\n\x1a\n"
_LONGEST = 120  # characters of an input that are shown
_SHOWN = 300  # inputs on a map
_WIDTH, _HEIGHT, _SIZE = 1000, 640, 34  # of a map, and of a picture on it
_NAMED = 12  # classes that a legend can name
_GOLDEN = 137.508  # degrees: hues of neighbouring classes differ however many there are


@dataclass(frozen=True, eq=False)
class EmbeddingMap:
    """What a map shows: n inputs, their vectors, and their classes where known.

    Attributes:
        inputs: n inputs.
        vectors: (n, dim).
        classes: name of the class of each input, or None.

    Raises:
        ValueError: the shapes do not fit, there are fewer than two inputs, or a vector is not finite.
    """

    inputs: Sequence[str] = field(repr=False)
    vectors: NDArray[np.floating] = field(repr=False)
    classes: Sequence[str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the shapes."""
        n = len(self.inputs)
        if n < 2 or np.ndim(self.vectors) != 2 or len(self.vectors) != n:
            shape = np.shape(self.vectors)
            raise ValueError(f"a map needs two or more inputs and (n, dim) vectors, got {n} inputs and shape {shape}")
        if self.classes is not None and len(self.classes) != n:
            raise ValueError(f"a map needs a class for each of {n} inputs, got {len(self.classes)}")
        if not np.isfinite(self.vectors).all():
            raise ValueError("a vector on the map is not finite")


def picture_pairs(
    title: str,
    pairs: Sequence[WrongPair],
    *,
    total: int,
    order: str,
    thumbnail: Thumbnail,
    played: Thumbnail | None = None,
) -> str:
    """Return the wrong pairs as a grid of pictures side by side, each with a player where `played` gives a WAV.

    Raises:
        ValueError: a thumbnail is no PNG.
    """
    items = "".join(
        f'<li><div class="pair">{_cell(pair.left, thumbnail, played)}{_cell(pair.right, thumbnail, played)}</div>'
        f"<p>similarity <b>{number(pair.similarity)}</b><br>probability <b>{number(pair.probability)}</b></p></li>"
        for pair in pairs
    )
    return wrong_pairs(title, len(pairs), total, order, f'<ul class="pictures">{items}</ul>')


def wrong_pairs(title: str, count: int, total: int, order: str, body: str) -> str:
    """Return so many wrong pairs of all, shown as `body`, under their title."""
    if not count:
        return f"<h3>{escape(title)}</h3><p>None.</p>"
    shown = f"{count} of {total:,}, {order}." if total > count else f"All {total:,}, {order}."
    return f"<h3>{escape(title)}</h3><p>{shown}</p>{body}"


def embedding_figure(points: EmbeddingMap, thumbnail: Thumbnail | None = None) -> str:
    """Return a map of up to 300 inputs, evenly spread over those given: pictures where there are any, else dots.

    Raises:
        ValueError: a thumbnail is no PNG.
    """
    n = len(points.inputs)
    rows = np.unique(np.linspace(0, n - 1, min(n, _SHOWN)).round().astype(np.int64))
    coordinates, shares = project(np.asarray(points.vectors)[rows])
    inputs = [points.inputs[int(i)] for i in rows]
    names = None if points.classes is None else [points.classes[int(i)] for i in rows]
    distinct = sorted(set(names or ()))
    hues = {name: _hue(i, len(distinct)) for i, name in enumerate(distinct)}
    marks = []
    for (x, y), shown, name in zip(_placed(coordinates), inputs, names or [None] * len(inputs), strict=True):
        note = _short(shown) if name is None else f"{name}: {_short(shown)}"
        style = "" if name is None else f' style="--c:{hues[name]}"'
        picture = None if thumbnail is None else _data_uri(shown, thumbnail)
        marks.append(f"<g{style}><title>{escape(note)}</title>{_mark(x, y, picture)}</g>")
    text = (
        f"{len(inputs):,} of {n:,} inputs by the first two principal components of their vectors, which hold "
        f"{100 * float(shares.sum()):.0f} % of the variance. Neighbours here need not be neighbours in all dimensions."
    )
    svg = (
        f'<div class="scroll" tabindex="0" role="group" aria-label="Map">'
        f'<svg class="map" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-labelledby="map-t map-d"><title id="map-t">Map of the vectors</title>'
        f'<desc id="map-d">{escape(text)}</desc>{"".join(marks)}</svg></div>'
    )
    keys = "".join(
        f'<li style="--c:{hues[name]}"><svg class="swatch" viewBox="0 0 22 12" aria-hidden="true">'
        f'<circle class="dot" cx="11" cy="6" r="5"/></svg>{escape(_short(name))}</li>'
        for name in distinct[: _NAMED if len(distinct) <= _NAMED else 0]
    )
    legend = f'<ul class="legend">{keys}</ul>' if keys else ""
    colours = f" Colours tell {len(distinct):,} classes apart." if len(distinct) > _NAMED else ""
    return figure("Map of the vectors", f"{legend}{svg}", note=text + colours)


def project(vectors: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the first two principal components (n, 2) of vectors (n, dim), and their shares (2,) of the variance.

    X - mean = U S Vᵀ, and the coordinates are the first two columns of U S. The sign of a component is free; here
    the entry of V that is largest in absolute value is positive, so that equal vectors give equal maps.
    Pearson, "On Lines and Planes of Closest Fit to Systems of Points in Space", 1901.
    """
    centred = np.asarray(vectors, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    u, s, v = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(v[np.arange(len(v)), np.abs(v).argmax(axis=1)])
    kept = min(2, s.size)
    coordinates, shares = np.zeros((len(centred), 2)), np.zeros(2)
    coordinates[:, :kept] = (u * s * signs)[:, :kept]
    total = float((s**2).sum())
    shares[:kept] = s[:kept] ** 2 / total if total > 0.0 else 0.0
    return coordinates, shares


def _placed(coordinates: NDArray[np.float64]) -> list[list[float]]:
    """Return the centre of each mark on the map, one scale for both directions."""
    middle = (coordinates.max(axis=0) + coordinates.min(axis=0)) / 2.0
    span = np.maximum(np.ptp(coordinates, axis=0), 1e-12)
    room = np.array([_WIDTH, _HEIGHT]) - _SIZE - 8.0
    scale = float((room / span).min()) if np.ptp(coordinates) > 1e-12 else 0.0
    placed = (coordinates - middle) * scale * np.array([1.0, -1.0]) + np.array([_WIDTH, _HEIGHT]) / 2.0
    return placed.tolist()


def _mark(x: float, y: float, picture: str | None) -> str:
    if picture is None:
        return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'
    box = f'x="{x - _SIZE / 2:.1f}" y="{y - _SIZE / 2:.1f}" width="{_SIZE}" height="{_SIZE}"'
    return f'<rect class="sheet" {box}/><image {box} href="{picture}"/><rect class="frame" {box}/>'


def _cell(name: str, thumbnail: Thumbnail, played: Thumbnail | None) -> str:
    picture = _data_uri(name, thumbnail)
    shown = escape(_short(name))
    if picture is None:
        return f'<p dir="auto">{shown}</p>'
    image = f'<img src="{picture}" alt="{shown}" title="{shown}">'
    sound = None if played is None else played(name)
    if sound is None:
        return image
    source = f"data:audio/wav;base64,{base64.b64encode(sound).decode('ascii')}"
    return f'<div>{image}<audio controls preload="none" src="{source}" aria-label="{shown}"></audio></div>'


def _data_uri(name: str, thumbnail: Thumbnail) -> str | None:
    data = thumbnail(name)
    if data is None:
        return None
    if not data.startswith(_PNG):
        raise ValueError(f"the thumbnail of {_short(name)} is no PNG: it begins with {data[:8]!r}")
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}\N{HORIZONTAL ELLIPSIS}"


def _hue(index: int, count: int) -> str:
    hue = 360.0 * index / count if count <= _NAMED else math.fmod(index * _GOLDEN, 360.0)
    return f"hsl({hue:.0f} 70% {42 + 14 * (index % 2)}%)"  # neighbours differ in lightness too
