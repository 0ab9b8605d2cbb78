"""Drawings brought to one form before a CNN sees them: handwriting, signatures, sketches, whatever pen and paper.

Two drawings of one character differ in where they stand, how large, wide and slanted they are, how thin the pen was and
whether it was black or white. None of it says which character it is, and all of it can be measured and taken away.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from copy import copy
from math import ceil
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModel, ResNetConfig, ResNetModel

# Standard deviations of the ink of a drawing in its normal form, in halves of its side, and the least part of one of
# them that the other may take: a line stays a line.
_WIDTH, _HEIGHT, _NARROWEST = 0.32, 0.4, 0.5
# Strokes are at least so wide, as a share of the side: of 28 pixels, 2.2.
_STROKE = 0.08
# Ink fainter than this share of the darkest is paper; an image that spans less of its range of 2 is blank.
_PAPER, _BLANK = 0.1, 0.02
_TINY = 1e-6


@torch.no_grad()
def normal_form(pixels: Float[Tensor, "n channels size size"]) -> Float[Tensor, "n 1 half half"]:
    """Return drawings as light ink on black, centred, upright, of one size and with strokes that are not thin.

    What differs from the colour of an image's border is ink. Its first moments are moved to the centre; its slant
    `k = Σ m·x·y / Σ m·y²` is taken away by a shear; width and height are scaled until the standard deviations of the
    ink are those of every other drawing, though neither to less than half of its part. Strokes, `2 · area / outline`
    wide, grow where they are thinner than 8 % of the side. A blank image becomes black.

    Normalising handprinted characters by their moments goes back to Casey 1970; LeCun et al. 1998 centre digits by
    their mass, and take away the slant.

    Args:
        pixels: Square images of one range of values, on ground of any colour.

    Returns:
        Images of half the side, in 0..1, without a gradient.
    """
    return functional.avg_pool2d(_thickened(_straightened(_ink(pixels.float()))), 2)


def _ink(pixels: Tensor) -> Tensor:
    """Return how much each pixel differs from the border, `(n, height, width)` in 0..1."""
    border = torch.cat([pixels[:, :, 0], pixels[:, :, -1], pixels[..., 0], pixels[..., -1]], 2)
    ink = (pixels - border.median(2).values[..., None, None]).abs().mean(1)
    share = ink / ink.amax((1, 2), keepdim=True).clamp(min=_BLANK)
    return ((share - _PAPER) / (1 - _PAPER)).relu()


def _straightened(ink: Tensor) -> Tensor:
    """Return drawings centred, upright and of one size, `(n, 1, height, width)`."""
    size = ink.shape[-1]
    axis = (2 * torch.arange(size, device=ink.device, dtype=ink.dtype) + 1) / size - 1
    total = ink.sum((1, 2)).clamp(min=_TINY)[:, None]
    along, down = ink.sum(1) / total, ink.sum(2) / total
    x, y = along @ axis, down @ axis
    dx, dy = axis - x[:, None], axis - y[:, None]
    xx, yy = (along * dx * dx).sum(1), (down * dy * dy).sum(1).clamp(min=_TINY)
    xy = torch.einsum("nij,ni,nj->n", ink, dy, dx) / total[:, 0]
    slant = (xy / yy).clamp(-1, 1)
    wide = (xx - 2 * slant * xy + slant**2 * yy).clamp(min=_TINY).sqrt() / _WIDTH
    high = yy.sqrt() / _HEIGHT
    wide, high = torch.maximum(wide, _NARROWEST * high), torch.maximum(high, _NARROWEST * wide)
    origin = torch.stack(  # where each pixel of the result comes from
        [torch.stack([wide, slant * high, x], 1), torch.stack([torch.zeros_like(wide), high, y], 1)], 1
    )
    grid = functional.affine_grid(origin, [len(ink), 1, size, size], align_corners=False)
    return functional.grid_sample(ink[:, None], grid, align_corners=False)


def _thickened(ink: Tensor) -> Tensor:
    """Return drawings whose strokes are not much thinner than they should be, `(n, 1, height, width)`."""
    ink = ink / ink.amax((1, 2, 3), keepdim=True).clamp(min=_BLANK)
    down, along = ink[..., 1:, :-1] - ink[..., :-1, :-1], ink[..., :-1, 1:] - ink[..., :-1, :-1]
    outline = (down**2 + along**2).sqrt().sum((1, 2, 3)).clamp(min=_TINY)
    width = _STROKE * ink.shape[-1]
    lacking = (width - 2 * ink.sum((1, 2, 3)) / outline) / 2  # on each side
    for grown in range(ceil(width / 2)):
        ink = torch.lerp(ink, _grown(ink), (lacking - grown).clamp(0, 1)[:, None, None, None])
    return ink


def _grown(ink: Tensor) -> Tensor:
    """Return the largest of each pixel and its eight neighbours: on a CPU, much faster than `max_pool2d`."""
    for axis in (2, 3):
        size = ink.shape[axis]
        upper, lower = ink.narrow(axis, 1, size - 1), ink.narrow(axis, 0, size - 1)
        pairs = torch.maximum(upper, lower)
        inner = torch.maximum(pairs.narrow(axis, 1, size - 2), pairs.narrow(axis, 0, size - 2))
        ink = torch.cat([pairs.narrow(axis, 0, 1), inner, pairs.narrow(axis, size - 2, 1)], axis)
    return ink


@torch.no_grad()
def enclosed(ink: Float[Tensor, "n 1 height width"]) -> Float[Tensor, "n 1 height width"]:
    """Return how far the paper at each pixel is shut in by ink: the holes of an 8 and of a 9, and none of a 7.

    A way from a pixel to the border is barred as much as the most ink on it, and the way that is least barred counts.
    What bars it, less the ink of the pixel itself, is what grey-scale hole filling adds (Vincent 1993): a ring with a
    faint gap has a faint hole. Ways go up, down, left and right.

    Args:
        ink: Ink on paper of 0, in 0..1.

    Returns:
        The same shape, in 0..1, without a gradient.
    """
    ink = ink[:, 0].permute(1, 2, 0).contiguous()  # a line of all drawings lies together
    barred = torch.ones_like(ink)
    for edge in (0, -1):
        barred[edge], barred[:, edge] = ink[edge], ink[:, edge]
    falls = True
    while falls:  # once, and once more for each turn of a way
        before = barred.clone()
        for way, own in ((barred, ink), (barred.transpose(0, 1), ink.transpose(0, 1))):
            for lines in (range(1, len(way)), range(len(way) - 2, -1, -1)):
                for line in lines:
                    torch.maximum(own[line], torch.minimum(way[line], way[line - lines.step]), out=way[line])
        falls = bool((barred < before).any())
    return (barred - ink).permute(2, 0, 1)[:, None]


class DrawingConfig(ResNetConfig):
    """The config of a `DrawingResNet`.

    Attributes:
        enclosures: The CNN sees what is `enclosed` as a second channel.
    """

    model_type = "textsiam_drawing_resnet"
    enclosures: bool = False


class DrawingResNet(ResNetModel):
    """A ResNet that sees the `normal_form` of drawings: of half the side that its processor resizes images to.

    It is a model of transformers like the one it extends, known to it as soon as this module is imported: so textsiam
    and plain sentence-transformers open a tower that holds one, and no code of strangers need be trusted.
    """

    config_class = DrawingConfig

    def __init__(self, config: DrawingConfig) -> None:
        seen = copy(config)
        seen.num_channels = 2 if config.enclosures else config.num_channels
        super().__init__(seen)
        self.config = config

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """Return the feature map of drawings, as ResNetModel does."""
        with torch.autocast(pixel_values.device.type, enabled=False):  # moments need all their digits
            ink = normal_form(pixel_values)
            shown = torch.cat([ink, enclosed(ink)], 1) if self.config.enclosures else ink
        seen = (2 * shown - 1).to(pixel_values.dtype).expand(-1, self.embedder.num_channels, -1, -1)
        seen = seen.contiguous(memory_format=torch.channels_last)
        return super().forward(seen, output_hidden_states, return_dict, **options)


AutoConfig.register(DrawingConfig.model_type, DrawingConfig, exist_ok=True)
AutoModel.register(DrawingConfig, DrawingResNet, exist_ok=True)


def drawing_tower(
    *,
    size: int = 28,
    channels: int = 1,
    widths: Sequence[int] = (32, 64, 128),
    depths: Sequence[int] = (1, 1, 1),
    enclosures: bool = False,
) -> SentenceTransformer:
    """Build a tower of a small ResNet without pretrained weights that sees the normal form of drawings.

    Args:
        size: Side of the normal form, in pixels.
        channels: 1 for grey, 3 for colour.
        widths: Channels of each stage.
        depths: Blocks of each stage.
        enclosures: The CNN sees what is `enclosed` too.
    """
    config = DrawingConfig(
        num_channels=channels,
        embedding_size=widths[0],
        hidden_sizes=list(widths),
        depths=list(depths),
        layer_type="basic",
        downsample_in_first_stage=False,
        enclosures=enclosures,
    )
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": False,
        "do_resize": True,
        "size": {"height": 2 * size, "width": 2 * size},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * channels,
        "image_std": [0.5] * channels,
    }
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        weights = DrawingResNet(config).state_dict()
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(processor))
        backbone = Transformer(folder)
    pooling = Pooling(backbone.get_embedding_dimension(), pooling_mode="mean")
    return SentenceTransformer(modules=[backbone, pooling], device="cpu")
