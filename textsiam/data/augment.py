"""Random changes of an image that leave what it shows: turned, moved, scaled, bent, drawn otherwise, lit otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

# Each knob's bound, and whether the bound itself is allowed.
_BOUNDS = {
    "rotate": (180.0, True),
    "shift": (1.0, False),
    "scale": (10.0, True),
    "shear": (90.0, False),
    "elastic": (0.25, True),
    "thickness": (0.25, True),
    "stroke": (1.0, True),
    "brightness": (1.0, True),
    "contrast": (1.0, True),
}
_THINNER = 0.6  # pixels on each side of a stroke, at most
_BROADEST = 0.1  # a stroke that is added, as a share of the shorter side
_CELLS = 3  # of the grid that an image is bent with, along each side


@dataclass(frozen=True)
class Augment:
    """Change images at random, the same way for the same seed; with every knob at 0 an image stays itself.

    All changes of place are one transform, affine about the centre and then bent, interpolated once (bilinear); what
    comes in from outside has the median colour of the border. Thickness, brightness and contrast follow.

    Attributes:
        rotate: Turned by up to so many degrees, either way.
        shift: Moved by up to this share of the width and of the height, either way.
        scale: Enlarged or made smaller by a factor of up to 1 + `scale`.
        shear: Slanted by up to so many degrees, either way.
        flip: Mirrored left to right, one time in two.
        elastic: Bent: the nodes of a grid of 3 × 3 cells are moved by a normal distribution of this standard deviation,
            as a share of the width and height, and what lies between them goes along (after Simard et al. 2003).
        thickness: Strokes are drawn thicker by up to this share of the shorter side, or thinner by up to this share
            too, but by no more than about a pixel, since thin ones would vanish. Strokes are what is lighter than the
            border, or what is darker where more of the image is.
        stroke: One stroke more is drawn, by the same pen and one time in two: straight, through some point of what is
            there, and up to this share of the shorter side long. Hands differ by such: the bar of a 7, the foot of a 1.
        brightness: Multiplied by a factor from 1 − `brightness` to 1 + `brightness`.
        contrast: The distance of each pixel from the mean grey is multiplied likewise.

    Raises:
        ValueError: A knob is negative, not finite or too large.

    Example:
        >>> from PIL import Image
        >>> Augment(rotate=10, shift=0.1)(Image.new("L", (28, 28)), [0, 17]).size
        (28, 28)
    """

    rotate: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    flip: bool = False
    elastic: float = 0.0
    thickness: float = 0.0
    stroke: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        """Check the knobs."""
        for name, (bound, allowed) in _BOUNDS.items():
            value = getattr(self, name)
            if not (0 <= value < bound or (allowed and value == bound)):
                raise ValueError(f"{name} must be from 0 to {'' if allowed else 'below '}{bound:g}, got {value}")

    def __call__(self, image: Image, seed: Sequence[int]) -> Image:
        """Change an image of mode "L" or "RGB".

        Args:
            image: The image; it is not changed.
            seed: Numbers from 0 on, such as (seed, epoch, row).

        Raises:
            ValueError: The image is of another mode, or a number of the seed is negative.
        """
        return changed(image, [self.drawn(seed)])

    def drawn(self, seed: Sequence[int]) -> Change:
        """Draw what `changed` does to an image.

        Raises:
            ValueError: A number of the seed is negative.
        """
        rng = np.random.default_rng(list(seed))
        turn, slant, grow, along, down, light, spread = rng.uniform(-1, 1, 7).tolist()
        mirrored = self.flip and rng.random() < 0.5
        swelling = rng.uniform(-1, 1) * self.thickness if self.thickness else 0.0
        bends = self.elastic * rng.standard_normal((_CELLS + 1, _CELLS + 1, 2)) if self.elastic else None
        stroke = rng.random(4) * (1, self.stroke, math.tau, 1) if self.stroke and rng.random() < 0.5 else None
        moves = mirrored or self.rotate or self.shift or self.scale or self.shear
        back = _backwards(
            turn=math.radians(turn * self.rotate),
            slant=math.tan(math.radians(slant * self.shear)),
            grow=(1 + self.scale) ** grow,
            mirrored=mirrored,
        )
        return Change(
            back if moves else None,
            (along * self.shift, down * self.shift),
            bends,
            swelling,
            stroke,
            1 + light * self.brightness,
            1 + spread * self.contrast,
        )


@dataclass(frozen=True, eq=False)
class Change:
    """What an `Augment` drew for one image.

    Attributes:
        back: Where a pixel of the result comes from, about the centre, `(2, 2)`; None moves nothing.
        shift: Shares of the width and height that all is moved by.
        bends: Shares of them that each node of the grid is moved by, `(4, 4, 2)`; None bends nothing.
        swelling: Share of the shorter side that strokes grow by, or below 0 shrink by.
        stroke: Of the stroke that is added: the pixel of ink that it runs through, as a share of all of them; its
            length, as a share of the shorter side; its direction, in radians; the share of it before that pixel.
        brightness: Factor of all values.
        contrast: Factor of their distances from the mean.
    """

    back: np.ndarray | None
    shift: tuple[float, float]
    bends: np.ndarray | None
    swelling: float
    stroke: np.ndarray | None
    brightness: float
    contrast: float


def changed(image: Image, changes: Sequence[Change]) -> Image:
    """Change an image of mode "L" or "RGB", one change after the other; all moves are interpolated at once.

    Raises:
        ValueError: The image is of another mode.
    """
    if image.mode not in ("L", "RGB"):
        raise ValueError(f"the image must be of mode 'L' or 'RGB', got {image.mode!r}")
    if any(change.back is not None or change.bends is not None for change in changes):
        image = _moved(image, changes)
    if swelling := sum(change.swelling for change in changes):
        image = _swollen(image, swelling * min(image.size) / 2)
    for change in changes:
        image = image if change.stroke is None else _struck(image, *change.stroke.tolist())
        image = _lit(image, change.brightness, change.contrast)
    return image


def _backwards(*, turn: float, slant: float, grow: float, mirrored: bool) -> np.ndarray:
    """Return the inverse of `grow · rotation · shear · mirror`, `(2, 2)`."""
    sine, cosine = math.sin(turn) / grow, math.cos(turn) / grow
    sign = -1.0 if mirrored else 1.0
    return np.array([[sign * (cosine + slant * sine), sign * (sine - slant * cosine)], [-sine, cosine]])


def _moved(image: Image, changes: Sequence[Change]) -> Image:
    from PIL.Image import Resampling, Transform

    across, down = ([round(side * i / _CELLS) for i in range(_CELLS + 1)] for side in image.size)
    nodes = np.stack(np.meshgrid(across, down), -1).astype(float)
    bent = any(change.bends is not None for change in changes)
    origin = _origin(nodes if bent else np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), image.size, changes)
    how = {"resample": Resampling.BILINEAR, "fillcolor": border_colour(image)}
    if bent:
        return image.transform(image.size, Transform.MESH, _mesh(across, down, origin), **how)
    (x, y), (right_x, right_y), (below_x, below_y) = origin.tolist()
    data = (right_x - x, below_x - x, x, right_y - y, below_y - y, y)
    return image.transform(image.size, Transform.AFFINE, data, **how)


def _origin(points: np.ndarray, size: tuple[int, int], changes: Sequence[Change]) -> np.ndarray:
    """Return where points of the result come from, in pixels, `(…, 2)`; the points are nodes where something bends."""
    sides = np.array(size, float)
    for change in reversed(changes):
        if change.back is not None:
            points = (points - sides / 2 - change.shift * sides) @ change.back.T + sides / 2
        if change.bends is not None:
            points = points + change.bends * sides
    return points


def _mesh(
    across: list[int], down: list[int], origin: np.ndarray
) -> list[tuple[tuple[int, int, int, int], tuple[float, ...]]]:
    """Return the cells of the grid as Pillow wants them: a box of the result, and the corners that it comes from."""
    corners = np.concatenate([origin[:-1, :-1], origin[1:, :-1], origin[1:, 1:], origin[:-1, 1:]], -1)
    boxes = [(x0, y0, x1, y1) for y0, y1 in pairwise(down) for x0, x1 in pairwise(across)]
    cells = zip(boxes, corners.reshape(-1, 8).tolist(), strict=True)
    return [(box, tuple(cell)) for box, cell in cells if box[0] < box[2] and box[1] < box[3]]


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


def border_colour(image: Image) -> int | tuple[int, ...]:
    """Return the median colour of the outermost pixels of an image of mode "L" or "RGB"."""
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    half = len(border) // 2  # an even number of pixels; np.median takes twice as long
    colour = np.partition(border.astype(int), (half - 1, half), axis=0)[half - 1 : half + 1].sum(0) // 2
    return int(colour) if image.mode == "L" else tuple(colour.tolist())


def _lit(image: Image, brightness: float, contrast: float) -> Image:
    from PIL import ImageEnhance

    if brightness != 1:
        image = ImageEnhance.Brightness(image).enhance(brightness)
    return ImageEnhance.Contrast(image).enhance(contrast) if contrast != 1 else image
