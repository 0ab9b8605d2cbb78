"""Small charts as inline SVG: axes, lines, areas, dots and a marked value; the page's CSS colours them.

Marks carry CSS classes only (`line c-trained`), so that one chart serves light, dark and printed pages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 380, 270
_NARROWEST = 1e-5  # of its values: a narrower axis could not be labelled
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 368, 28, 226


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high` in data units, with labelled ticks."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]

    @staticmethod
    def unit(label: str) -> Axis:
        """Return the axis of a share: 0 to 1."""
        return Axis(label, 0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))

    @staticmethod
    def fitted(label: str, low: float, high: float, *, snap: bool = True, count: int = 5) -> Axis:
        """Return an axis over [low, high] with about `count` round ticks; `snap` ends it on ticks."""
        if not high - low > _NARROWEST * max(abs(low), abs(high)):
            pad = abs(low) / 2 or 0.5
            low, high = low - pad, high + pad
        step = round_step((high - low) / count)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = [float(f"{i * step:.10g}") for i in range(first, last + 1)]
        if snap:
            return Axis(label, ticks[0], ticks[-1], tuple(ticks))
        slack = 1e-9 * (high - low)
        return Axis(label, low, high, tuple(tick for tick in ticks if low - slack <= tick <= high + slack))


class Plot:
    """One chart. Add marks in data units, then take `svg()`; later marks lie on top."""

    def __init__(self, x: Axis, y: Axis, *, title: str, description: str, ident: str) -> None:
        """Make an empty chart.

        Args:
            x: the horizontal axis.
            y: the vertical axis.
            title: what a screen reader says first.
            description: what the chart shows, in a sentence with its figures.
            ident: an id that is unique on the page.
        """
        self.x, self.y = x, y
        self._head = (title, description, ident)
        self._marks: list[str] = []

    def line(self, xs: Sequence[float] | np.ndarray, ys: Sequence[float] | np.ndarray, kind: str) -> None:
        """Draw a line through the points."""
        self._marks.append(f'<path class="line {kind}" d="{_path(self._across(xs), self._up(ys))}"/>')

    def steps(self, edges: np.ndarray, heights: np.ndarray, kind: str) -> None:
        """Fill the outline of a histogram: n + 1 edges, n heights."""
        xs = np.repeat(self._across(edges), 2)
        ys = np.r_[self._up([0.0]), np.repeat(self._up(heights), 2), self._up([0.0])]
        outline = _path(xs, ys)
        self._marks.append(f'<path class="area {kind}" d="{outline}Z"/><path class="line {kind}" d="{outline}"/>')

    def dots(
        self,
        xs: Sequence[float] | np.ndarray,
        ys: Sequence[float] | np.ndarray,
        kind: str,
        *,
        notes: Sequence[str] = (),
        radius: float = 3.0,
    ) -> None:
        """Draw a dot at every point; its note appears under the pointer."""
        for i, (x, y) in enumerate(zip(self._across(xs), self._up(ys), strict=True)):
            note = f"<title>{escape(notes[i])}</title>" if notes else ""
            circle = f'<circle class="dot {kind}" cx="{_short(x)}" cy="{_short(y)}" r="{_short(radius)}"'
            self._marks.append(f"{circle}>{note}</circle>" if note else f"{circle}/>")

    def hover(self, edges: np.ndarray, notes: Sequence[str]) -> None:
        """Lay an invisible column over each bin; its note appears under the pointer."""
        xs = self._across(edges)
        for left, right, note in zip(xs[:-1], xs[1:], notes, strict=True):
            box = f'x="{_short(left)}" y="{_TOP}" width="{_short(right - left)}" height="{_BOTTOM - _TOP}"'
            self._marks.append(f'<rect class="hover" {box}><title>{escape(note)}</title></rect>')

    def rule(self, x: float, label: str) -> None:
        """Mark one value of x by a dashed line with its label; a value outside is held at the edge."""
        at = float(np.clip(self._across([x])[0], _LEFT, _RIGHT))
        right_half = at > (_LEFT + _RIGHT) / 2
        anchor, shift = ("end", -5) if right_half else ("start", 5)
        self._marks.append(
            f'<path class="rule" d="M{_short(at)} {_TOP}V{_BOTTOM}"/>'
            f'<text class="note" x="{_short(at + shift)}" y="{_TOP + 10}" text-anchor="{anchor}">'
            f"{escape(label)}</text>"
        )

    def svg(self) -> str:
        """Return the chart as one `<svg>` element."""
        title, description, ident = self._head
        return (
            f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-labelledby="{ident}-t {ident}-d">'
            f'<title id="{ident}-t">{escape(title)}</title><desc id="{ident}-d">{escape(description)}</desc>'
            f"{self._axes()}{''.join(self._marks)}</svg>"
        )

    def _axes(self) -> str:
        parts = []
        for tick, label in zip(self.y.ticks, tick_labels(self.y.ticks), strict=True):
            at = _short(self._up([tick])[0])
            parts.append(f'<path class="gridline" d="M{_LEFT} {at}H{_RIGHT}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{at}" dy=".35em" text-anchor="end">{label}</text>')
        for tick, label in zip(self.x.ticks, tick_labels(self.x.ticks), strict=True):
            at = _short(self._across([tick])[0])
            parts.append(f'<path class="axis" d="M{at} {_BOTTOM}v4"/>')
            parts.append(f'<text x="{at}" y="{_BOTTOM + 17}" text-anchor="middle">{label}</text>')
        parts.append(f'<path class="axis" d="M{_LEFT} {_BOTTOM}H{_RIGHT}"/>')
        middle = (_LEFT + _RIGHT) // 2
        parts.append(f'<text class="label" x="4" y="14">{escape(self.y.label)}</text>')
        parts.append(
            f'<text class="label" x="{middle}" y="{_BOTTOM + 37}" text-anchor="middle">{escape(self.x.label)}</text>'
        )
        return "".join(parts)

    def _across(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        share = (np.asarray(values, dtype=np.float64) - self.x.low) / (self.x.high - self.x.low)
        return _LEFT + share * (_RIGHT - _LEFT)

    def _up(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        share = (np.asarray(values, dtype=np.float64) - self.y.low) / (self.y.high - self.y.low)
        return _BOTTOM - share * (_BOTTOM - _TOP)


def thin(xs: np.ndarray, ys: np.ndarray, *, limit: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Keep at most `limit` points of a curve, spread evenly along its length, both ends among them."""
    if len(xs) <= limit:
        return xs, ys
    spans = [np.ptp(values) or 1.0 for values in (xs, ys)]
    length = np.r_[0.0, np.cumsum(np.hypot(np.diff(xs) / spans[0], np.diff(ys) / spans[1]))]
    kept = np.searchsorted(length, np.linspace(0.0, length[-1], limit - 1))
    kept = np.unique(np.r_[kept, len(xs) - 1])
    return xs[kept], ys[kept]


def round_step(width: float) -> float:
    """Return the round number (1, 2, 2.5 or 5 times a power of ten) next above `width`."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= width * (1 - 1e-9))


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Return one short label a tick: all with the same decimals, thousands as `k`, tiny ones as `2e-5`."""
    largest = max((abs(tick) for tick in ticks), default=0.0)
    if 0 < largest < 1e-3:
        parts = [f"{tick:.8e}".split("e") for tick in ticks]
        return [f"{float(digits):.9g}e{int(power)}" if float(digits) else "0" for digits, power in parts]
    scale, suffix = (1000.0, "k") if largest >= 10_000 else (1.0, "")
    decimals = max((_decimals(tick / scale) for tick in ticks), default=0)
    return [f"{tick / scale:.{decimals}f}{suffix if tick else ''}".replace("-", "\N{MINUS SIGN}") for tick in ticks]


def _decimals(value: float) -> int:
    return len(f"{value:.10f}".rstrip("0").partition(".")[2])  # as exact as ticks are


def _path(xs: np.ndarray, ys: np.ndarray) -> str:
    return "M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in zip(xs, ys, strict=True))


def _short(value: float) -> str:
    """Return a coordinate in tenths of a unit, without a needless `.0`."""
    return f"{value:.1f}".removesuffix(".0")
