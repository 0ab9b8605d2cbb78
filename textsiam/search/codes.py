"""Vectors as bytes: more products a second than with bf16, and half of the memory to read; what that costs is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from textsiam.models.encoders import ModelError
from textsiam.models.int8 import check_int8
from textsiam.search.products import Block, Found, bits_of, rounding, scan

_MIDDLE = np.uint8(128)  # the byte that stands for 0
_LARGEST = 127
_FINER = 254  # steps of a query's second digit in one of its first
_QUERIES = 32  # multiplied at once
_TINY = 1e-20


def multiplies_bytes() -> bool:
    """Say whether this processor is faster with bytes than with floats."""
    try:
        check_int8()
    except ModelError:
        return False
    return True


class Coded(NamedTuple):
    """Vectors x ≈ x̂ = s·c with whole numbers |cⱼ| ≤ 127.

    Attributes:
        whole: c, `(n, dim)` int8.
        scales: s, `(n,)` float32.
        lost: ‖x − x̂‖, `(n,)` float64, rounded up.
        length: ‖x̂‖, `(n,)` float64, rounded up.
    """

    whole: np.ndarray
    scales: np.ndarray
    lost: np.ndarray
    length: np.ndarray


def coded(vectors: np.ndarray) -> Coded:
    """Return vectors `(n, dim)` float32 as whole numbers, each with the scale that its largest component asks for."""
    scales = np.maximum(np.abs(vectors).max(axis=1, initial=0) / _LARGEST, _TINY).astype(np.float32)
    whole = np.rint(vectors / scales[:, None])
    back = whole * scales[:, None]
    lost, length = (1.001 * np.linalg.norm(x, axis=1).astype(np.float64) for x in (vectors - back, back))
    return Coded(whole.astype(np.int8), scales, lost, length)


class _Packed:
    """Whole numbers `(n, dim)` int8 and their scales `(n,)`, laid out for products with about so many rows."""

    def __init__(self, whole: np.ndarray, scales: np.ndarray, rows: int) -> None:
        self._weights = torch.ops.onednn.qlinear_prepack(torch.from_numpy(whole), [rows, whole.shape[1]])
        self._scales = torch.from_numpy(scales)
        self._zeros = torch.zeros(len(scales), dtype=torch.int64)

    def times(self, digits: Tensor, dtype: torch.dtype) -> Tensor:
        """Return `(m, n)` products of whole numbers, `(m, dim)` bytes above 128, with the scaled vectors.

        Sums are those of integers: exact, but for the last step into the number format.
        """
        return torch.ops.onednn.qlinear_pointwise(
            digits, 1.0, int(_MIDDLE), self._weights, self._scales, self._zeros, None, 1.0, 0, dtype, "none", [], ""
        )


class Codes:
    """Vectors as bytes that queries are compared with.

    A query u ≈ û has two digits, û = a·(h + l / 254), which cost no more than one, as the time goes into reading the
    vectors. Thus

        |u·x − û·x̂| ≤ ‖u‖ ‖x − x̂‖ + ‖u − û‖ ‖x̂‖ ≤ ‖x − x̂‖ + ‖x̂‖ √d / (2 · 254 · 127),

    where the first term is computed for each vector, and no component of u is above 1. Rounding in fp32 comes on top.

    Args:
        vectors: `(n, dim)` float32, of length 1.

    Attributes:
        errors: By how much each score may be wrong, `(n,)` float32.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        count, dim = vectors.shape
        found = coded(vectors)
        digits = found.length * dim**0.5 / (2 * _FINER * _LARGEST)
        self.errors = (1.001 * (found.lost + digits) + 2 * rounding(dim)).astype(np.float32)
        self._count, self._packed = count, _Packed(found.whole, found.scales, 2)

    def scores(self, queries: np.ndarray) -> np.ndarray:
        """Return the dot products `(q, n)` float32 with queries `(q, dim)`, about; see `errors`."""
        found = np.empty((len(queries), self._count), np.float32)
        for start in range(0, len(queries), _QUERIES):
            part = queries[start : start + _QUERIES]
            unit, digits = _digits(part)
            products = self._packed.times(digits, torch.float32).numpy()
            first, second = products[: len(part)], products[len(part) :]
            np.multiply(second, 1 / _FINER, out=second)
            np.add(first, second, out=first)
            np.multiply(first, unit[:, None], out=found[start : start + _QUERIES])
        return found


def product(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Multiply floats by the threads that multiply bytes: those of numpy would be in their way, and wait for them."""
    return torch.matmul(torch.from_numpy(one), torch.from_numpy(other)).numpy()


def _digits(queries: np.ndarray) -> tuple[np.ndarray, Tensor]:
    """Return the unit a of each query `(q,)`, and its two digits as bytes `(2q, dim)`."""
    unit = np.maximum(np.abs(queries).max(axis=1, initial=0) / _LARGEST, _TINY)
    exact = queries / unit[:, None]
    first = np.rint(exact)
    second = np.rint((exact - first) * _FINER)
    return unit, torch.from_numpy((np.concatenate([first, second]) + _MIDDLE).astype(np.uint8))


def codes_above(points: Tensor, floor: float, *, width: int, unit: bool = False) -> Block | None:
    """Return what finds, in a block of products, all that may be at or above a floor; see `products_above`.

    With E = max ‖x − x̂‖ and N = max ‖x‖ a product with row i is wrong by at most

        |xᵢ·y − x̂ᵢ·ŷ| ≤ ‖xᵢ − x̂ᵢ‖ N + ‖x̂ᵢ‖ E,

    so that every row has a floor of its own, which is divided by the row's scale instead of multiplying all products.

    Args:
        points: `(n, dim)` float32 on the CPU.
        floor: Least product.
        width: Columns that are packed together; blocks should begin at multiples of it.
        unit: Bring the points to length 1 before.

    Returns:
        None where a row's floor is not positive (or no number).
    """
    rows, parts, longest = np.empty(points.shape, np.uint8), [], 0.0
    for start in range(0, len(points), width):
        # numpy, which has no core wait for another one here, as torch would.
        part = points[start : start + width].numpy()
        norms = np.linalg.norm(part, axis=1)
        if not np.isfinite(norms).all():
            return None
        found = coded(part / np.maximum(norms, _TINY)[:, None] if unit else part)
        rows[start : start + width] = found.whole.view(np.uint8) ^ _MIDDLE
        parts.append(found[1:])
        longest = max(longest, 1.001 * (1.0 if unit else float(norms.max())))
    scales, lost, length = (np.concatenate(column) for column in zip(*parts, strict=True))
    slack = rounding(points.shape[1]) * (longest**2 + length.max() ** 2)
    least = bits_of((floor - lost * longest - length * lost.max() - slack) / scales, torch.bfloat16)
    if least is None:
        return None
    packed: dict[int, _Packed] = {}

    def columns(number: int) -> _Packed:
        """Return a part of the vectors, packed by the first worker that needs it, while others go on."""
        if number not in packed:
            part = np.s_[number * width : (number + 1) * width]
            packed[number] = _Packed((rows[part] ^ _MIDDLE).view(np.int8), scales[part], width)
        return packed[number]

    def block(top: int, bottom: int, first: int, last: int) -> Found:
        found, digits = [], torch.from_numpy(rows[top:bottom])
        for number in range(first // width, -(-last // width)):
            begin = number * width
            products = columns(number).times(digits, torch.bfloat16).view(torch.int16).numpy()
            low, high = max(first, begin), min(last, begin + width)
            above = low - top if low < bottom else None
            row, column = scan(products[:, low - begin : high - begin], least[top:bottom], above=above)
            if len(row):
                found.append((row, column + low - first))
        return _in_order(found)

    return block


def _in_order(found: list[Found]) -> Found:
    """Return what several blocks side by side hold, in order of row, then column."""
    if len(found) == 1:
        return found[0]
    none = np.zeros(0, np.int64)
    row, column = (np.concatenate(ends) for ends in zip((none, none), *found, strict=True))
    order = np.lexsort((column, row))
    return row[order], column[order]
