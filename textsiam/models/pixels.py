"""Images as a tower takes them: opened, changed where training asks for it, and made ready by the tower's processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

from textsiam.data.pictures import open_picture

Augmentation = Callable[[Image.Image, Sequence[int]], Image.Image]
"""From an image and a seed to a changed image; the same seed changes it alike."""

# A square of so many pixels counts as a token, as in a vision transformer: what budgets of tokens mean for images.
_PATCH = 16 * 16


@dataclass(frozen=True)
class Pixels:
    """m named images, opened when a batch of them is wanted.

    Attributes:
        names: The images; see `textsiam.data.pictures`.
        tower: Its processor resizes and normalises.
        own: What changes each image of a training batch.
        shared: What changes all images of a cluster alike.
    """

    names: Sequence[str]
    tower: SentenceTransformer
    own: Augmentation | None = None
    shared: Augmentation | None = None

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _length(self) -> int:
        height, width = made_up_pixels(self.tower, 1)["pixel_values"].shape[-2:]
        return max(1, height * width // _PATCH)

    @property
    def lengths(self) -> np.ndarray:
        """Size of each image in tokens of 16 × 16 pixels, after the processor, `(m,)` int64."""
        return np.full(len(self), self._length, np.int64)

    def lengths_of(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Size of these images, in the same unit, `(len(rows),)` int64."""
        return np.full(len(rows), self._length, np.int64)

    def collate(
        self, rows: np.ndarray | Sequence[int], *, seed: Sequence[int] | None = None, clusters: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Return the features of these images: `pixel_values`, `(len(rows), channels, height, width)` float32.

        Args:
            rows: Which images.
            seed: Of the augmentations, with an image's row or cluster; None changes nothing.
            clusters: Cluster of each image, `(len(rows),)`.

        Raises:
            DataError: An image cannot be opened; the message names it.
        """
        mode = image_mode(self.tower)
        images = [open_picture(self.names[int(row)]).convert(mode) for row in rows]
        if seed is not None and self.shared is not None and clusters is not None:
            images = [self.shared(image, [*seed, 1, int(c)]) for image, c in zip(images, clusters, strict=True)]
        if seed is not None and self.own is not None:
            images = [self.own(image, [*seed, 0, int(row)]) for image, row in zip(images, rows, strict=True)]
        return _features(self.tower, images)

    def augmented(self, own: Augmentation | None, shared: Augmentation | None = None) -> Pixels:
        """Return the images as training shall see them."""
        return replace(self, own=own, shared=shared)


def image_mode(tower: SentenceTransformer) -> str:
    """Return the mode of Pillow that a tower's images have: "L" with one channel, else "RGB"."""
    backbone: Any = tower[0]
    return "L" if getattr(backbone.config, "num_channels", 3) == 1 else "RGB"


def made_up_pixels(tower: SentenceTransformer, tokens: int) -> dict[str, Any]:
    """Return the features of black images, as many as fit into so many tokens, and at least one."""
    blank = Image.new(image_mode(tower), (64, 64))
    features = _features(tower, [blank])
    pixels = features["pixel_values"]
    count = max(1, tokens * _PATCH // (pixels.shape[-2] * pixels.shape[-1]))
    return {**features, "pixel_values": pixels.expand(count, -1, -1, -1).contiguous(memory_format=torch.channels_last)}


def _features(tower: SentenceTransformer, images: Sequence[Image.Image]) -> dict[str, Any]:
    backbone: Any = tower[0]
    features = dict(backbone.preprocess(list(images)))
    # Convolutions on a CPU are faster where the channels of a pixel lie side by side.
    features["pixel_values"] = features["pixel_values"].contiguous(memory_format=torch.channels_last)
    return features
