"""The pen of another hand: strokes thicker or thinner, and one stroke more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from PIL.Image import Image

from textsiam.images.augmentation import Augment, Change, border_colour

_THINNER = 0.6  # pixels on each side of a stroke, at most
_BROADEST = 0.1  # a stroke that is added, as a share of the shorter side


@dataclass(frozen=True)
class Pen(Augment):
    """Change drawings as `Augment` does, and by what is drawn with another pen or by another hand.

    Attributes:
        thickness: Strokes are drawn thicker by up to this share of the shorter side, or thinner by up to this share
            too, but by no more than about a pixel, since thin ones would vanish. Strokes are what is lighter than the
            border, or what is darker where more of the image is.
        stroke: One stroke more is drawn, by the same pen and one time in two: straight, through some point of what is
            there, and up to this share of the shorter side long. Hands differ by such: the bar of a 7, the foot of a 1.

    Raises:
        ValueError: A knob is out of bounds.
    """

    thickness: float = 0.0
    stroke: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, bound in (("thickness", 0.25), ("stroke", 1.0)):
            if not 0 <= getattr(self, name) <= bound:
                raise ValueError(f"{name} must be from 0 to {bound:g}, got {getattr(self, name)}")

    def drawn(self, seed: Sequence[int]) -> PenChange:
        """Draw what is done to an image, in the order of draws that the published figures come from."""
        change = super().drawn(seed)
        rng = np.random.default_rng(list(seed))
        rng.random(7 + self.flip)  # of the moves and the light
        swelling = rng.uniform(-1, 1) * self.thickness if self.thickness else 0.0
        bends = None if change.bends is None else self.elastic * rng.standard_normal(change.bends.shape)
        stroke = rng.random(4) * (1, self.stroke, math.tau, 1) if self.stroke and rng.random() < 0.5 else None
        moves: dict[str, Any] = {f.name: getattr(change, f.name) for f in fields(Change)} | {"bends": bends}
        return PenChange(**moves, swelling=swelling, stroke=stroke)


@dataclass(frozen=True, eq=False)
class PenChange(Change):
    """What a `Pen` drew for one image.

    Attributes:
        swelling: Share of the shorter side that strokes grow by, or below 0 shrink by.
        stroke: Of the stroke that is added: the pixel of ink that it runs through, as a share of all of them; its
            length, as a share of the shorter side; its direction, in radians; the share of it before that pixel.
    """

    swelling: float
    stroke: np.ndarray | None

    def finish(self, image: Image) -> Image:
        """Change the strokes, then the light."""
        if self.swelling:
            image = _swollen(image, self.swelling * min(image.size) / 2)
        if self.stroke is not None:
            image = _struck(image, *self.stroke.tolist())
        return super().finish(image)


def _swollen(image: Image, pixels: float) -> Image:
    """Grow strokes by so many pixels on each side, or shrink them below 0, by a part of a pixel."""
    from PIL import Image as Images

    shown = np.asarray(image, np.int16)
    sign = 1 if shown.mean() >= np.mean(border_colour(image)) else -1
    if pixels < 0:
        sign, pixels = -sign, min(-pixels, _THINNER)
    shown = sign * shown
    while pixels > 0:
        shown = shown + (min(pixels, 1) * (_grown(shown) - shown)).astype(np.int16)
        pixels -= 1
    return Images.fromarray((sign * shown).astype(np.uint8))


def _struck(image: Image, place: float, length: float, direction: float, before: float) -> Image:
    """Draw a stroke through a pixel of ink, of its colour and as wide as what is there: twice its area by outline."""
    from PIL import ImageDraw

    pixels = np.asarray(image, np.int16).reshape(image.height, image.width, -1)
    contrast = abs(pixels - np.asarray(border_colour(image))).sum(2)
    ink = contrast > contrast.max() / 2
    if not ink.any():
        return image
    outline = ink & _grown(~ink)
    width = min(2 * np.count_nonzero(ink) / max(np.count_nonzero(outline), 1), _BROADEST * min(image.size))
    where = np.flatnonzero(ink)
    down, along = divmod(int(where[int(place * len(where))]), image.width)
    x, y = (length * min(image.size) * turn for turn in (math.cos(direction), math.sin(direction)))
    ends = [(along - share * x, down - share * y) for share in (before, before - 1)]
    image = image.copy()
    colour = pixels[down, along].tolist()
    ImageDraw.Draw(image).line(ends, fill=colour[0] if image.mode == "L" else tuple(colour), width=max(1, round(width)))
    return image


def _grown(values: np.ndarray) -> np.ndarray:
    """Return the largest of each pixel and its eight neighbours."""
    for _ in range(2):
        wide = np.concatenate([values[:1], values, values[-1:]])
        values = np.maximum(np.maximum(wide[:-2], wide[1:-1]), wide[2:]).swapaxes(0, 1)
    return values
