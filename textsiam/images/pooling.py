"""Pooling of feature maps: by cells, which keeps where in the picture something is, or by how much channels vary."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any

import torch
from sentence_transformers.base.modules import Module
from torch.nn.functional import adaptive_avg_pool2d, normalize


class GridPooling(Module):
    """The mean of a feature map over each cell of a grid, one after the other: layout counts, a small shift does not.

    One level of a spatial pyramid (Lazebnik, Schmid and Ponce 2006); with one cell it is mean pooling. Neighbouring
    cells share what lies on the line between them.

    Args:
        width: Channels of the feature map.
        rows: Cells from top to bottom.
        columns: Cells from left to right.
    """

    config_keys: list[str] = ["width", "rows", "columns"]  # noqa: RUF012

    def __init__(self, width: int, rows: int, columns: int) -> None:
        super().__init__()
        self.width, self.rows, self.columns = width, rows, columns

    def get_embedding_dimension(self) -> int:
        """Return the width of the vectors, `rows · columns · width`."""
        return self.rows * self.columns * self.width

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add `sentence_embedding` `(batch, rows · columns · width)` to features with `token_embeddings`.

        These are the positions of a square feature map, `(batch, side², width)`, row by row.

        Raises:
            ValueError: Their number is no square: a backbone with further tokens.
        """
        found = features["token_embeddings"]
        batch, positions, width = found.shape
        side = isqrt(positions)
        if side * side != positions:
            raise ValueError(f"a grid needs a square feature map, got {positions} positions")
        planes = found.transpose(1, 2).reshape(batch, width, side, side)
        cells = adaptive_avg_pool2d(planes, (self.rows, self.columns))
        features["sentence_embedding"] = cells.flatten(2).transpose(1, 2).flatten(1)
        return features

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the config; there are no weights."""
        self.save_config(output_path)


class StatisticsPooling(Module):
    """The standard deviation of each channel over the feature maps of several layers: texture counts, layout does not.

    Of statistics pooling (Snyder et al. 2018), the part that does not depend on how much of the picture is empty; early
    layers tell how strokes and surfaces are made, as in the style of a picture (Gatys, Ecker and Bethge 2016). Each
    layer's numbers are brought to length 1, so that none drowns the others.

    Args:
        widths: Channels of each layer, as many as the backbone gives: its config says `output_hidden_states: true`.
    """

    config_keys: list[str] = ["widths"]  # noqa: RUF012

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = list(widths)

    def get_embedding_dimension(self) -> int:
        """Return the width of the vectors, the sum of `widths`."""
        return sum(self.widths)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add `sentence_embedding` `(batch, Σ widths)` to features with `all_layer_embeddings`.

        These are the layers' feature maps, each `(batch, width, height, width)`.

        Raises:
            ValueError: The layers have other widths, or are no feature maps.
        """
        maps = features.get("all_layer_embeddings", ())
        shapes = [tuple(each.shape[1:]) for each in maps]
        if [shape[0] for shape in shapes if len(shape) == 3] != self.widths or len(shapes) != len(self.widths):
            raise ValueError(f"expected feature maps of {self.widths} channels, got the shapes {shapes}")
        flat = (each.float().flatten(2) for each in maps)
        deviations = [normalize(each.var(2, correction=0).clamp(min=1e-12).sqrt(), dim=1) for each in flat]
        features["sentence_embedding"] = torch.cat(deviations, dim=1)
        return features

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the config; there are no weights."""
        self.save_config(output_path)
