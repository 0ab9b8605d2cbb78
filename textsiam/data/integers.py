"""Whole numbers in arrays: labels, indices and groups, checked before they are cast."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from textsiam.data.tables.errors import DataError


def whole_numbers(values: Any, dtype: type, within: tuple[int, int], name: str, expected: str) -> np.ndarray:
    """Return whole numbers `(n,)` as `dtype`, none of them changed by the cast.

    Args:
        values: Integers, or floats without a fraction.
        dtype: Of the result; it holds all of `within`.
        within: The least and the largest number allowed.
        name: What they are called in a message.
        expected: What the message says should stand there.

    Raises:
        DataError: The values are not a list, or one of them is not such a number; the message names its position and
            value.

    Example:
        >>> whole_numbers([1.0, 0.5], int, (0, 1), "labels", "0 or 1")
        Traceback (most recent call last):
        textsiam.data.tables.errors.DataError: labels[1] is 0.5, expected 0 or 1
    """
    found = np.asarray(values)
    if found.ndim != 1:
        raise DataError(f"{name}: expected a list of numbers, got shape {found.shape}")
    numbers = found
    if found.dtype.kind not in "biuf":  # NaN is never within
        numbers = np.array([each if isinstance(each, Real) else np.nan for each in found.tolist()], dtype=np.float64)
    good = (numbers >= within[0]) & (numbers <= within[1])
    if numbers.dtype.kind == "f":
        good &= numbers == np.floor(numbers)
    if not good.all():
        position = int(np.argmin(good))
        raise DataError(f"{name}[{position}] is {found[position : position + 1].tolist()[0]!r}, expected {expected}")
    return numbers.astype(dtype, copy=False)


def picked_rows(rows: np.ndarray | Sequence[int], count: int, source: str) -> np.ndarray:
    """Return the numbers of the rows that a selection picks, `(k,)` int64.

    Args:
        rows: Indices in the order wanted, negative ones from the end, or a boolean mask `(count,)`.
        count: How many rows there are.
        source: What they are called in a message.

    Raises:
        DataError: An index is none, or lies outside; the message names its position and value.
    """
    kept = np.asarray(rows)
    if kept.dtype == bool:
        return np.flatnonzero(kept)
    return whole_numbers(kept, np.int64, (-count, count - 1), f"{source}: rows", f"the index of one of {count} rows")
