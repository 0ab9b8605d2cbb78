"""Random changes of an image that leave what it shows: turned, moved, scaled, sheared, mirrored, lit otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
    "brightness": (1.0, True),
    "contrast": (1.0, True),
}


@dataclass(frozen=True)
class Augment:
    """Change images at random, the same way for the same seed; with every knob at 0 an image stays itself.

    All changes of place are one affine transform about the centre, interpolated once (bilinear); what comes in
    from outside has the median colour of the border. Brightness and contrast follow.

    Attributes:
        rotate: Turned by up to so many degrees, either way.
        shift: Moved by up to this share of the width and of the height, either way.
        scale: Enlarged or made smaller by a factor of up to 1 + `scale`.
        shear: Slanted by up to so many degrees, either way.
        flip: Mirrored left to right, one time in two.
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
        if image.mode not in ("L", "RGB"):
            raise ValueError(f"the image must be of mode 'L' or 'RGB', got {image.mode!r}")
        rng = np.random.default_rng(list(seed))
        turn, slant, grow, along, down, light, spread = rng.uniform(-1, 1, 7).tolist()
        mirrored = self.flip and rng.random() < 0.5
        if mirrored or self.rotate or self.shift or self.scale or self.shear:
            image = _moved(
                image,
                turn=math.radians(turn * self.rotate),
                slant=math.tan(math.radians(slant * self.shear)),
                grow=(1 + self.scale) ** grow,
                shift=(along * self.shift, down * self.shift),
                mirrored=mirrored,
            )
        return _lit(image, 1 + light * self.brightness, 1 + spread * self.contrast)


def _moved(
    image: Image, *, turn: float, slant: float, grow: float, shift: tuple[float, float], mirrored: bool
) -> Image:
    from PIL.Image import Resampling, Transform

    width, height = image.size
    linear = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    linear = grow * linear @ np.array([[1.0, slant], [0.0, 1.0]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    back = np.linalg.inv(linear)  # Pillow asks where each pixel of the result comes from
    centre = np.array([width, height]) / 2
    origin = centre - back @ (centre + np.array(shift) * [width, height])
    data = (*back[0].tolist(), float(origin[0]), *back[1].tolist(), float(origin[1]))
    return image.transform(
        image.size, Transform.AFFINE, data, resample=Resampling.BILINEAR, fillcolor=border_colour(image)
    )


def border_colour(image: Image) -> int | tuple[int, ...]:
    """Return the median colour of the outermost pixels of an image of mode "L" or "RGB"."""
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = np.median(border, axis=0).astype(int)
    return int(colour) if image.mode == "L" else tuple(colour.tolist())


def _lit(image: Image, brightness: float, contrast: float) -> Image:
    from PIL import ImageEnhance

    if brightness != 1:
        image = ImageEnhance.Brightness(image).enhance(brightness)
    return ImageEnhance.Contrast(image).enhance(contrast) if contrast != 1 else image
