"""Images as a tower takes them: opened, changed where training asks for it, and made ready by the tower's processor."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from textsiam.data.tables.errors import DataError
from textsiam.images.augmentation import Augmentation, augmented
from textsiam.images.names import open_picture
from textsiam.media.ready import Ready

if TYPE_CHECKING:
    from PIL import Image
    from sentence_transformers import SentenceTransformer

# Images that augmentation changes are shrunk first, to no less than the processor makes of them, and kept while there
# is room. One that cuts the middle out makes an image larger than the tower takes it, though not by more than this.
_CUT = 1.25
_KEPT_BYTES = 256 << 20

_OPEN_PIXELS = 1 << 22  # of a batch's images that are open at once, if they are more than one

# A square of so many pixels counts as a token, as in a vision transformer: what budgets of tokens mean for images.
PATCH = 16 * 16
"""Pixels that count as a token."""


@dataclass(frozen=True)
class Pixels:
    """m named images, opened when a batch of them is wanted.

    Attributes:
        names: The images; see `textsiam.images.names`.
        tower: Its processor resizes and normalises.
        augment: What changes the images of a training batch.
        broken: Images that cannot be opened are put here by name, with the reason, and black ones stand in for them;
            None raises.
    """

    names: Sequence[str]
    tower: SentenceTransformer
    augment: Sequence[Augmentation] = ()
    broken: dict[str, str] | None = None
    _memory: dict[int, Image.Image] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _size(self) -> tuple[int, int]:
        height, width = dummy_pixels(self.tower, 1)["pixel_values"].shape[-2:]
        return height, width

    @cached_property
    def _length(self) -> int:
        height, width = self._size
        return max(1, height * width // PATCH)

    @cached_property
    def _side(self) -> float:
        """Least side of an image that the processor is given, in pixels."""
        backbone: Any = self.tower[0]
        exact = "height" in backbone.processor.to_dict().get("size", {})
        return max(self._size) * (1 if exact else _CUT)

    def _opened(self, row: int) -> Image.Image:
        mode = image_mode(self.tower)
        try:
            image = open_picture(self.names[row])
        except DataError as error:
            if self.broken is None:
                raise
            self.broken[self.names[row]] = str(error)
            image = _blank(mode)
        return image if image.mode == mode else image.convert(mode)

    def _made_ready(self, rows: Sequence[int]) -> dict[str, Any]:
        """Return the features of images, of which few that are large are open at once."""
        parts, group, pixels = [], [], 0

        def close() -> None:
            nonlocal group, pixels
            if group:
                parts.append(_features(self.tower, group))
            group, pixels = [], 0

        for row in rows:
            if isinstance(name := self.names[row], Ready):
                close()
                parts.append(name.features)
                continue
            group.append(self._opened(row))
            pixels += group[-1].width * group[-1].height
            if pixels > _OPEN_PIXELS:
                close()
        close()
        if len(parts) == 1:
            return parts[0]
        return parts[0] | {key: torch.cat([part[key] for part in parts]) for key in _tensors(parts[0])}

    def _kept(self, row: int) -> Image.Image:
        """Open an image that is to be changed, not much larger than the tower takes it, or remember it."""
        from PIL.Image import Resampling

        found = self._memory.get(row)
        if found is None:
            found = self._opened(row)
            scale = self._side / min(found.size)
            if scale < 1:
                size = (round(scale * found.width), round(scale * found.height))
                found = found.resize(size, Resampling.BILINEAR)
            if (len(self._memory) + 1) * found.width * found.height * len(found.mode) <= _KEPT_BYTES:
                self._memory[row] = found
        return found

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
        if seed is None or not self.augment:
            return self._made_ready([int(row) for row in rows])
        of = [None] * len(rows) if clusters is None else clusters.tolist()
        images = [
            augmented(self._kept(row), self.augment, seed, row=row, cluster=cluster)
            for row, cluster in zip(np.asarray(rows).tolist(), of, strict=True)
        ]
        return _features(self.tower, images)

    def augmented(self, augment: Sequence[Augmentation]) -> Pixels:
        """Return the images as training shall see them."""
        return replace(self, augment=tuple(augment))


def ready_picture(name: str, tower: SentenceTransformer) -> Ready:
    """Open an image and make it ready for a tower, so that what waits is as small as what the tower takes.

    Raises:
        DataError: The image cannot be opened.
    """
    key = hashlib.sha256(name.encode()).hexdigest()
    return Ready(key, Pixels([name], tower).collate([0]))


def image_mode(tower: SentenceTransformer) -> str:
    """Return the mode of Pillow that a tower's images have: "L" with one channel, else "RGB"."""
    backbone: Any = tower[0]
    return "L" if getattr(backbone.config, "num_channels", 3) == 1 else "RGB"


def dummy_pixels(tower: SentenceTransformer, tokens: int) -> dict[str, Any]:
    """Return the features of black images, as many as fit into so many tokens, and at least one."""
    features = _features(tower, [_blank(image_mode(tower))])
    pixels = features["pixel_values"]
    count = max(1, tokens * PATCH // (pixels.shape[-2] * pixels.shape[-1]))
    return {**features, "pixel_values": pixels.expand(count, -1, -1, -1).contiguous(memory_format=torch.channels_last)}


def _blank(mode: str) -> Image.Image:
    from PIL import Image

    return Image.new(mode, (64, 64))


def _tensors(features: dict[str, Any]) -> list[str]:
    return [key for key, value in features.items() if isinstance(value, torch.Tensor)]


def _features(tower: SentenceTransformer, images: Sequence[Image.Image]) -> dict[str, Any]:
    backbone: Any = tower[0]
    features = dict(backbone.preprocess(list(images)))
    # Convolutions on a CPU are faster where the channels of a pixel lie side by side.
    features["pixel_values"] = features["pixel_values"].contiguous(memory_format=torch.channels_last)
    return features
