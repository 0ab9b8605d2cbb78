"""What images are asked as one of the media: `textsiam.media.medium` says what."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textsiam.data.pairs import Pairs
from textsiam.images.augmentation import Augment
from textsiam.images.names import (
    PICTURE_SUFFIXES,
    open_picture,
    picture_name,
    picture_thumbnail,
    received_picture,
    received_pixels,
)
from textsiam.media.files import medium_within
from textsiam.media.labelled import LabelledFiles
from textsiam.media.medium import Medium
from textsiam.media.readers import read_labelled

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from PIL.Image import Image
    from sentence_transformers import SentenceTransformer

    from textsiam.images.pixels import Pixels

_LOSSLESS = 1 << 20  # pixels up to which a picture is shown as exact as it was encoded


class Images(Medium):
    """Images; batch norm in bf16 leaves a cosine of 0.999 only."""

    modality = "image"
    suffixes = PICTURE_SUFFIXES
    idx = True
    augmentation = Augment
    unit = "pixels"

    @property
    def memory_format(self) -> torch.memory_format:
        """Convolutions on a CPU are faster where the channels of a pixel lie side by side."""
        import torch

        return torch.channels_last

    def to_key(self, value: Any, position: int | None = None) -> str:
        """Name an image; see `picture_name`."""
        return picture_name(value, position)

    def check(self, name: str) -> None:
        """Decode an image."""
        open_picture(name)

    def received(self, value: str, *, decode: bool = True) -> str:
        """Name an image from outside; see `received_picture`."""
        return received_picture(value, decode=decode)

    def received_size(self, value: str) -> int:
        """Count its pixels."""
        return received_pixels(value)

    def ready(self, name: str, tower: SentenceTransformer) -> str:
        """Make an image of the size that the tower takes."""
        from textsiam.images.pixels import ready_picture

        return ready_picture(name, tower)

    def thumbnail(self, name: str) -> bytes:
        """Return a PNG that fits into a square."""
        return picture_thumbnail(name)

    def exhibit(self, name: str, *, side: int) -> tuple[bytes, str]:
        """Return nothing but pixels: as PNG, or as JPEG where there are more than a million."""
        picture, file = open_picture(name), io.BytesIO()
        picture.thumbnail((side, side))
        if picture.width * picture.height <= _LOSSLESS:
            picture.save(file, format="PNG", compress_level=1)
            return file.getvalue(), "image/png"
        picture.save(file, format="JPEG", quality=92)
        return file.getvalue(), "image/jpeg"

    def prepare(
        self,
        tower: SentenceTransformer,
        names: Sequence[str],
        prompt: str | None = None,
        broken: dict[str, str] | None = None,
    ) -> Pixels:
        """Leave images to be opened when a batch wants them."""
        from textsiam.images.pixels import Pixels

        return Pixels(list(names), tower, broken=broken)

    def example(self, backbone: Any) -> Image:
        """Return a black image."""
        from PIL import Image

        return Image.new("RGB", (64, 64))

    def dummy_batch(self, tower: SentenceTransformer, tokens: int) -> dict[str, Any]:
        """Return the features of black images."""
        from textsiam.images.pixels import dummy_pixels

        return dummy_pixels(tower, tokens)


IMAGES = Images()
"""The medium of images."""


def holds_images(path: str | Path) -> bool:
    """Tell whether this is a folder with an image at any depth, a .zip or an idx file."""
    return medium_within(path, [IMAGES]) is not None


def read_images(source: str | Path | Dataset, **options: Any) -> LabelledFiles:
    """Read images with their classes; `textsiam.media.readers.read_labelled` says how, and takes the same options.

    Raises:
        DataError: the source cannot be read or holds no labelled image, with file and cause.

    Example:
        >>> images = read_images("omniglot.zip")  # doctest: +SKIP
        >>> print(images.report)  # doctest: +SKIP
    """
    return read_labelled(source, IMAGES, **options)


def pair_images(left: Sequence[Any], right: Sequence[Any], labels: Sequence[int], source: str = "memory") -> Pairs:
    """Make pairs of images in memory or by path, row for row; `picture_name` says what an image may be.

    Raises:
        DataError: as `Pairs.from_texts`, or a value is a damaged image.
        TypeError: a value is no image; it is named by its position.
    """
    return IMAGES.pairs(left, right, labels, source)
