"""Made-up images, joined of two, and made-up classes of them: more shapes to learn from than there are classes.

A twin that sees seven classes learns these seven, and little of what makes two images alike. Two of them, one squeezed
above the other or beside it, make up a class that it has never seen, of as many images as both have: n classes give
2 · n · (n − 1) more.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote

import numpy as np

from textsiam.data.augment import border_colour
from textsiam.data.image_sets import LabelledImages
from textsiam.data.problems import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Place = Literal["above", "beside"]

PLACES: tuple[Place, ...] = ("above", "beside")
# Share of the width or height that each of the two fills: they overlap, so that strokes meet.
_SHARE = 0.6
# Images of a made-up class at most: beyond that, pairs drawn of them hardly repeat.
_LARGEST = 500
_NAMED = re.compile(r"(above|beside)\(([^(),]+),([^(),]+)\)")
_ESCAPES = {ord(character): f"%{ord(character):02X}" for character in "%(),"}


def joined_name(first: str, second: str, place: Place) -> str:
    """Name the image that two make up.

    Example:
        >>> joined_name("digits.idx#17", "digits.idx#5", "above")
        'above(digits.idx#17,digits.idx#5)'
    """
    return f"{place}({first.translate(_ESCAPES)},{second.translate(_ESCAPES)})"


def joined_parts(name: str) -> tuple[str, str, Place] | None:
    """Return the two images of a made-up one and how they stand; None where a name is of no made-up image."""
    found = _NAMED.fullmatch(name)
    if found is None:
        return None
    place: Place = "above" if found[1] == "above" else "beside"
    return unquote(found[2]), unquote(found[3]), place


def join_pictures(first: Image, second: Image, place: Place) -> Image:
    """Return two images as one: the first squeezed above the second, or to the left of it.

    Where both reach, the pixel is shown that differs more from the colour of its image's border. The result has the
    size of the first; it is grey where both are, else in colour.
    """
    from PIL import Image as Images

    mode = first.mode if first.mode == second.mode else "RGB"
    width, height = first.size
    squeezed = (max(1, round(_SHARE * width)), height) if place == "beside" else (width, max(1, round(_SHARE * height)))
    corners = ((0, 0), (width - squeezed[0], height - squeezed[1]))
    sheets, strengths = [], []
    for image, (x, y) in zip((first.convert(mode), second.convert(mode)), corners, strict=True):
        small = np.asarray(image.resize(squeezed, Images.Resampling.BILINEAR)).reshape(squeezed[1], squeezed[0], -1)
        inside = np.s_[y : y + squeezed[1], x : x + squeezed[0]]
        sheets.append(np.zeros((height, width, small.shape[2]), np.uint8))
        strengths.append(np.full((height, width, 1), -1))  # where it does not reach, the other one is shown
        sheets[-1][inside] = small
        strengths[-1][inside] = np.abs(small.astype(int) - border_colour(image)).sum(2, keepdims=True)
    shown = np.where(strengths[1] > strengths[0], sheets[1], sheets[0])
    return Images.fromarray(shown[..., 0] if mode == "L" else shown)


def with_joined_classes(images: LabelledImages, count: int, *, seed: int = 0) -> LabelledImages:
    """Add made-up classes: each image of one class joined with an image of another one.

    Args:
        images: Images of two classes or more, none of them made up.
        count: How many classes to add; drawn evenly from all ordered pairs of classes, above and beside.
        seed: Which classes, and which images meet.

    Returns:
        The images and after them the made-up ones; a made-up class has as many images as its smaller class, and at
        most 500.

    Raises:
        ValueError: `count` is negative.
        DataError: There are not so many made-up classes; the message says how many there are.
    """
    if count < 0:
        raise ValueError(f"joined classes must be >= 0, got {count}")
    present = images.present
    most = len(PLACES) * len(present) * (len(present) - 1)
    if count > most:
        raise DataError(f"{images.source}: {count} joined classes are wanted, {len(present)} classes make {most}")
    rng = np.random.default_rng(seed)
    members = {c: np.flatnonzero(images.classes == c) for c in present.tolist()}
    names, classes, class_names = list(images.names), [images.classes], list(images.class_names)
    for drawn in np.sort(rng.choice(most, count, replace=False)).tolist() if count else ():
        place, pair = PLACES[drawn % len(PLACES)], drawn // len(PLACES)
        at, step = divmod(pair, len(present) - 1)
        first, second = int(present[at]), int(present[(at + 1 + step) % len(present)])
        size = min(len(members[first]), len(members[second]), _LARGEST)
        left, right = (rng.permutation(members[c])[:size] for c in (first, second))
        names += [joined_name(images.names[a], images.names[b], place) for a, b in zip(left, right, strict=True)]
        classes.append(np.full(size, len(class_names), np.int32))
        class_names.append(joined_name(images.class_names[first], images.class_names[second], place))
    return replace(images, names=names, classes=np.concatenate(classes), class_names=class_names)
