"""Pooling that keeps where in the picture something is."""

from __future__ import annotations

from math import isqrt
from typing import Any

from sentence_transformers.base.modules import Module
from torch.nn.functional import adaptive_avg_pool2d


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
