"""Random changes of an image that leave what it shows: turned, moved, scaled, bent, lit otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from textsiam.media.augmentation import Augmentation as Augmentation
from textsiam.media.augmentation import seeded

if TYPE_CHECKING:
    from PIL.Image import Image

# Each knob's bound, and whether the bound itself is allowed.
_BOUNDS = {
    "rotate": (180.0, True),
    "shift": (1.0, False),
    "scale": (10.0, True),
    "shear": (90.0, False),
    "elastic": (0.25, True),
    "brightness": (1.0, True),
    "contrast": (1.0, True),
}
_CELLS = 3  # of the grid that an image is bent with, along each side


@dataclass(frozen=True)
class Augment:
    """Change images at random, the same way for the same seed; with every knob at 0 an image stays itself.

    All changes of place are one transform, affine about the centre and then bent, interpolated once (bilinear); what
    comes in from outside has the median colour of the border. Brightness and contrast follow.

    Attributes:
        rotate: Turned by up to so many degrees, either way.
        shift: Moved by up to this share of the width and of the height, either way.
        scale: Enlarged or made smaller by a factor of up to 1 + `scale`.
        shear: Slanted by up to so many degrees, either way.
        flip: Mirrored left to right, one time in two.
        elastic: Bent: the nodes of a grid of 3 × 3 cells are moved by a normal distribution of this standard deviation,
            as a share of the width and height, and what lies between them goes along (after Simard et al. 2003).
        brightness: Multiplied by a factor from 1 − `brightness` to 1 + `brightness`.
        contrast: The distance of each pixel from the mean grey is multiplied likewise.
        clusters: All images of a cluster are changed alike, anew in every batch: strong changes, such as a turn by any
            angle, make new classes of the old ones.

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
    brightness: float = 0.0
    contrast: float = 0.0
    clusters: bool = False

    def __post_init__(self) -> None:
        """Check the knobs."""
        for name, (bound, allowed) in _BOUNDS.items():
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not (0 <= value < bound or (allowed and value == bound)):
                raise ValueError(f"{name} must be from 0 to {'' if allowed else 'below '}{bound:g}, got {value}")
        for name in ("flip", "clusters"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")

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
        bends = self.elastic * rng.standard_normal((_CELLS + 1, _CELLS + 1, 2)) if self.elastic else None
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
        brightness: Factor of all values.
        contrast: Factor of their distances from the mean.
    """

    back: np.ndarray | None
    shift: tuple[float, float]
    bends: np.ndarray | None
    brightness: float
    contrast: float

    def finish(self, image: Image) -> Image:
        """Do what is no move."""
        from PIL import ImageEnhance

        if self.brightness != 1:
            image = ImageEnhance.Brightness(image).enhance(self.brightness)
        return ImageEnhance.Contrast(image).enhance(self.contrast) if self.contrast != 1 else image


def augmented(
    image: Image, augment: Sequence[Augmentation], seed: Sequence[int], *, row: int, cluster: int | None = None
) -> Image:
    """Change an image by one augmentation after the other; the moves of `Augment`s in a row are interpolated at once.

    Args:
        image: The image, of mode "L" or "RGB".
        augment: What changes it.
        seed: Of the batch.
        row: Number of the image, which its own changes depend on.
        cluster: Number of its cluster; None leaves out what changes clusters alike.
    """
    changes: list[Change] = []
    for each, drawn in seeded(augment, seed, row=row, cluster=cluster):
        if isinstance(each, Augment):
            changes.append(each.drawn(drawn))
        else:
            image, changes = each(changed(image, changes), drawn), []
    return changed(image, changes)


def changed(image: Image, changes: Sequence[Change]) -> Image:
    """Change an image of mode "L" or "RGB", one change after the other; all moves are interpolated at once.

    Raises:
        ValueError: The image is of another mode.
    """
    if image.mode not in ("L", "RGB"):
        raise ValueError(f"the image must be of mode 'L' or 'RGB', got {image.mode!r}")
    if any(change.back is not None or change.bends is not None for change in changes):
        image = _moved(image, changes)
    for change in changes:
        image = change.finish(image)
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


def border_colour(image: Image) -> int | tuple[int, ...]:
    """Return the median colour of the outermost pixels of an image of mode "L" or "RGB"."""
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    half = len(border) // 2  # an even number of pixels; np.median takes twice as long
    colour = np.partition(border.astype(int), (half - 1, half), axis=0)[half - 1 : half + 1].sum(0) // 2
    return int(colour) if image.mode == "L" else tuple(colour.tolist())
