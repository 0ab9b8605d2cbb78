"""Which rows of a matrix have a product at or above a threshold with each other: bf16 products, scanned in cache.

A block is as large as stays in the cache of one core, each core has a block of its own, and what is compared are the
bits of the products: positive floats are ordered as the integers with the same bits, whose largest in a row costs a
thirtieth of the product.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

Found = tuple[np.ndarray, np.ndarray]
"""Row and column of what a block holds, `(k,)` int64 each, in order of row, then column."""
Block = Callable[[int, int, int, int], Found]
"""From the first and last + 1 row, and the first and last + 1 column, to the pairs of the block; row < column."""

# One addition in fp32 loses at most half of this (all of it where a processor truncates).
_UNIT = 2.0**-23
# Numbers cast at once: they stay in the cache, and are too few for torch to have one core wait for another.
_CHUNK = 32_768
_BITS = {torch.bfloat16: (torch.int16, 16), torch.float32: (torch.int32, 0)}


@dataclass(frozen=True, eq=False)
class Reduced:
    """Vectors in the number format of the products, and what that costs.

    Attributes:
        values: `(n, dim)` bfloat16 or float32.
        error: How far a product of two rows may be from that of the vectors as they were, however both are summed.
    """

    values: Tensor
    error: float


def rounding(dim: int) -> float:
    """Return how far an fp32 product of vectors of length ≤ 1 may be from the exact one: g = (dim + 8) · 2⁻²³.

    Twice the bound for sums that round to nearest, in any order (Higham, "Accuracy and Stability of Numerical
    Algorithms", 2002, section 3.1), so that it holds where a processor truncates; 8 more for bringing them to length 1.
    """
    return (dim + 8) * _UNIT


def reduced(points: Tensor, dtype: torch.dtype, device: torch.device | None = None, *, unit: bool = False) -> Reduced:
    """Cast vectors, and bound the error of their products from the rounding errors that were really made.

    With x̂ = x + e, N = max ‖x‖, N̂ = max ‖x̂‖ and E = max ‖e‖:  |x·y − x̂·ŷ| ≤ ‖x‖‖y − ŷ‖ + ‖x − x̂‖‖ŷ‖ ≤ E (N + N̂), and
    summing in fp32 adds at most g N̂² there and g N² where the exact product is taken; see `rounding`.

    Args:
        points: `(n, dim)` float32.
        dtype: bfloat16 or float32.
        device: Where the products are made; None where the points are.
        unit: Bring them to length 1 before.
    """
    values = torch.empty(points.shape, dtype=dtype, device=device or points.device)
    largest = torch.zeros(3, dtype=torch.float64)
    height = max(1, _CHUNK // max(1, points.shape[1]))
    for start in range(0, len(points), height):
        part = points[start : start + height]
        part = normalize(part, dim=1) if unit else part
        cast = part.to(dtype)
        values[start : start + height] = cast
        norms = [x.norm(dim=1).max().double().cpu() for x in (part, cast.float(), part - cast.float())]
        largest = torch.maximum(largest, torch.stack(norms))  # a NaN stays one
    whole, there, lost = (largest * 1.001).tolist()  # the norms are rounded themselves
    return Reduced(values, lost * (whole + there) + rounding(points.shape[1]) * (whole**2 + there**2))


def bf16_candidates(points: Reduced, threshold: float) -> Block | None:
    """Return what finds, in a block of products, all that may be at or above a threshold before the vectors were cast.

    No pair at or above the threshold is left out: its product is at least f = threshold − error, and as rounding to
    bf16 keeps the order, its bf16 product is at least f rounded down.

    Args:
        points: The vectors.
        threshold: Least product.

    Returns:
        None where f is not positive (or no number): then the bits of floats are not ordered as integers are.
    """
    values, integer = points.values, _BITS[points.values.dtype][0]
    least = bits_of(np.array([threshold - points.error]), values.dtype)
    if least is None:
        return None
    bits = int(least[0])
    own = threading.local()

    def on_cpu(top: int, bottom: int, first: int, last: int) -> Found:
        size = (bottom - top) * (last - first)
        if not hasattr(own, "room") or own.room.numel() < size:
            own.room = torch.empty(size, dtype=values.dtype)  # pages that are new to a process cost as much as the scan
        product = own.room[:size].view(bottom - top, last - first)
        torch.mm(values[top:bottom], values[first:last].T, out=product)
        return scan(product.view(integer).numpy(), bits, above=first - top if first < bottom else None)

    return on_cpu if values.device.type == "cpu" else partial(_found_elsewhere, values, integer, bits)


def bits_of(least: np.ndarray, dtype: torch.dtype) -> np.ndarray | None:
    """Return the bits of numbers rounded down to a format, `(n,)` int32, which order positive ones as integers.

    Args:
        least: `(n,)` float64.
        dtype: bfloat16 or float32.

    Returns:
        None where one of them is not positive, or no number.
    """
    down = np.nextafter(least.astype(np.float32), np.float32(-np.inf))
    if not ((down >= np.finfo(np.float32).tiny) & np.isfinite(down)).all():
        return None
    return down.view(np.int32) >> _BITS[dtype][1]  # cutting the last bits off rounds down


def _found_elsewhere(
    values: Tensor, integer: torch.dtype, least: int, top: int, bottom: int, first: int, last: int
) -> Found:
    """Return what a block holds where the vectors are: for an accelerator, which compares as fast as it multiplies."""
    with _full_sums():
        product = torch.mm(values[top:bottom], values[first:last].T)
    if first < bottom:
        product.triu_(top - first + 1)
    row, column = (product.view(integer) >= least).nonzero(as_tuple=True)
    return row.cpu().numpy(), column.cpu().numpy()


@contextmanager
def _full_sums() -> Iterator[None]:
    """Have a GPU sum products in fp32 and multiply fp32 as it is, which the bound of the error rests on."""
    knobs = torch.backends.cuda.matmul
    before = knobs.allow_bf16_reduced_precision_reduction, knobs.allow_tf32
    knobs.allow_bf16_reduced_precision_reduction, knobs.allow_tf32 = False, False
    try:
        yield
    finally:
        knobs.allow_bf16_reduced_precision_reduction, knobs.allow_tf32 = before


def scan(bits: np.ndarray, least: int | np.ndarray, *, above: int | None = None) -> Found:
    """Return where a block of integers is at least `least`.

    Args:
        bits: `(rows, columns)`; overwritten below the diagonal.
        least: What to look for; `(rows,)` where it differs.
        above: Look only where `column + above > row`; None looks everywhere.
    """
    if above is not None:
        rows, columns = np.ogrid[: bits.shape[0], : bits.shape[1]]
        bits[columns + above <= rows] = np.iinfo(bits.dtype).min
    hit = np.flatnonzero(bits.max(axis=1) >= least)  # few rows of a block hold anything
    if not len(hit):
        return hit, hit
    row, column = np.nonzero(bits[hit] >= (least if isinstance(least, int) else least[hit, None]))
    return hit[row], column
