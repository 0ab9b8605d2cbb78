"""Vectors as bytes: more products a second than with bf16, and half of the memory to read; what that costs is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from textsiam.inference.fast.processor import multiplies_bytes, one_core
from textsiam.search.join.bf16_candidates import Block, Found, bits_of, rounding, scan

_MIDDLE = np.uint8(128)  # the byte that stands for 0
_LARGEST = 127
_FINER = 254  # steps of a query's second digit in one of its first
_QUERIES = 32  # multiplied at once
_FEW = 4  # one core reads all vectors for so few queries sooner than two of which one may have other work
_MOST = 0.75  # share of all vectors, in squares, that their leading components hold
_STEP = 32  # leading components come in multiples of so many
_TINY = 1e-20


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
    """Whole numbers `(n, dim)` int8 and their scales `(n,)`, laid out for products with about so many rows.

    A processor that is not fast with bytes multiplies them as floats, with the same result.
    """

    def __init__(self, whole: np.ndarray, scales: np.ndarray, rows: int) -> None:
        self._bytes = multiplies_bytes()
        self._weights = torch.from_numpy(whole)
        if self._bytes:
            self._weights = torch.ops.onednn.qlinear_prepack(self._weights, [rows, whole.shape[1]])
        self._scales = torch.from_numpy(scales)
        self._zeros = torch.zeros(len(scales), dtype=torch.int64)

    def times(self, digits: Tensor, dtype: torch.dtype) -> Tensor:
        """Return `(m, n)` products of whole numbers, `(m, dim)` bytes above 128, with the scaled vectors.

        Sums are those of integers: exact, but for the last step into the number format.
        """
        if not self._bytes:  # sums of whole numbers below 2²⁴ are exact in floats too, whatever their order
            return ((digits.float() - int(_MIDDLE)) @ self._weights.float().T * self._scales).to(dtype)
        return torch.ops.onednn.qlinear_pointwise(
            digits, 1.0, int(_MIDDLE), self._weights, self._scales, self._zeros, None, 1.0, 0, dtype, "none", [], ""
        )


class Asked(NamedTuple):
    """Queries u ≈ û in a frame, q of them.

    Attributes:
        unit: a of each, where the leading components are about a·(h + l / 254); `(q,)` float32.
        digits: h of `_QUERIES` queries, then their l, as bytes, `(≤ 2 · _QUERIES, leading)`; then of the next ones.
        rest: The other components, `(q, dim - leading)` float32.
        length: ‖rest‖, `(q,)` float32, rounded up.
    """

    unit: np.ndarray
    digits: list[Tensor]
    rest: np.ndarray
    length: np.ndarray


class Frame:
    """Vectors turned so that their leading components hold most of them: those are read for all, the others for few.

    By Cauchy and Schwarz u·x ≤ u₁·x₁ + ‖u₂‖ ‖x₂‖ for leading components u₁ and the rest u₂. Directions are those of the
    principal components of a sample; inside both parts they are mixed at random, so that no component is much larger
    than the others and costs them digits. Queries are turned in double precision, vectors in fp32.

    Args:
        matrix: The turn, `(dim, dim)` float64, orthogonal.
        leading: How many components lead.
    """

    def __init__(self, matrix: Tensor, leading: int) -> None:
        self.matrix, self.leading = matrix, leading
        self._single = matrix.float()
        # Sums of fp32 are wrong by rounding(d)·Σ|xⱼ||Rⱼₖ| each, together by rounding(d)·√d ‖x‖ as ‖|R|‖ ≤ √d.
        self.loss = rounding(len(matrix)) * len(matrix) ** 0.5

    @classmethod
    def fitted(cls, sample: np.ndarray) -> Frame:
        """Return the frame of a sample `(n, dim)` float32.

        The more alike it is to all vectors, the fewer of them have to be looked at twice.
        """
        wide = torch.from_numpy(sample).double()
        power, directions = torch.linalg.eigh(wide.T @ wide)
        power, directions = power.flip(0), directions.flip(1)
        enough = int((power.cumsum(0) < _MOST * power.sum()).sum()) + 1
        leading = min(-(-enough // _STEP) * _STEP, len(power))
        parts = directions[:, :leading], directions[:, leading:]
        return cls(torch.cat([part @ _mixer(part.shape[1]) for part in parts], 1), leading)

    def turned(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the leading components of vectors and the others, `(n, leading)` and `(n, dim - leading)` float32.

        They are wrong by `loss` at most, in length, for vectors of length 1.
        """
        turned = torch.from_numpy(vectors) @ self._single
        return turned[:, : self.leading].numpy(), turned[:, self.leading :].numpy()

    def asked(self, queries: np.ndarray) -> Asked:
        """Return queries `(q, dim)` float32 in this frame."""
        turned = (torch.from_numpy(queries).double() @ self.matrix).numpy()
        leading, rest = turned[:, : self.leading], turned[:, self.leading :]
        unit = np.maximum(np.abs(leading).max(axis=1, initial=0) / _LARGEST, _TINY)
        exact = leading / unit[:, None]
        first = np.rint(exact)
        second = np.rint((exact - first) * _FINER)
        pairs = (np.concatenate([first[k : k + _QUERIES], second[k : k + _QUERIES]])
                 for k in range(0, len(queries), _QUERIES))  # fmt: skip
        digits = [torch.from_numpy((pair + _MIDDLE).astype(np.uint8)) for pair in pairs]
        length = 1.001 * np.linalg.norm(rest, axis=1)
        return Asked(unit.astype(np.float32), digits, rest.astype(np.float32), length.astype(np.float32))


def _mixer(width: int) -> Tensor:
    """Return a random rotation, the same for the same width."""
    seeded = torch.Generator().manual_seed(width)
    return torch.linalg.qr(torch.randn(width, width, generator=seeded, dtype=torch.float64))[0]


class Quantized(NamedTuple):
    """Vectors x in a frame as they are stored; x₁ are the leading components, x₂ the others.

    Attributes:
        leading: Those of x₁ as whole numbers, `(n, leading)` int8.
        scales: Their scales, `(n,)` float32.
        rest: Those of x₂, `(n, dim - leading)` int8.
        rest_scales: Their scales, `(n,)` float32.
        slack: By how much the product of the leading components may be wrong, `(n,)` float32.
        length: ‖x₂‖, `(n,)` float32, rounded up.
        errors: By how much the whole product may be wrong, `(n,)` float32.
    """

    leading: np.ndarray
    scales: np.ndarray
    rest: np.ndarray
    rest_scales: np.ndarray
    slack: np.ndarray
    length: np.ndarray
    errors: np.ndarray

    def taken(self, places: slice | np.ndarray) -> Quantized:
        """Return the vectors at some places."""
        return Quantized(*(column[places] for column in self))


def quantized(vectors: np.ndarray, frame: Frame) -> Quantized:
    """Return vectors `(n, dim)` float32 of length 1 as bytes, and how far off products with them may be.

    The two digits of a query cost no more than one, as the time goes into reading the vectors. For leading components

        |u·x − û·x̂| ≤ ‖u‖ ‖x − x̂‖ + ‖u − û‖ ‖x̂‖ ≤ ‖x − x̂‖ + ‖x̂‖ √leading / (2 · 254 · 127),

    where the first term is computed for each vector, and no component of u is above 1. Of the others only x is rounded.
    """
    leading, rest = frame.turned(vectors)
    first, second = coded(leading), coded(rest)
    digits = first.length * frame.leading**0.5 / (2 * _FINER * _LARGEST)
    slack = 1.001 * (first.lost + digits + frame.loss) + 2 * rounding(vectors.shape[1])
    length = 1.001 * np.linalg.norm(rest, axis=1) + frame.loss
    bounds = (bound.astype(np.float32) for bound in (slack, length, 1.001 * (slack + second.lost)))
    return Quantized(first.whole, first.scales, second.whole, second.scales, *bounds)


class Int8Block:
    """Vectors as bytes, laid out for queries that are compared with them."""

    def __init__(self, vectors: Quantized) -> None:
        self._count, self._packed = len(vectors.scales), _Packed(vectors.leading, vectors.scales, 2)
        self._rest, self._scales = vectors.rest, vectors.rest_scales

    def __len__(self) -> int:
        return self._count

    def leading(self, asked: Asked) -> np.ndarray:
        """Return the products `(q, n)` float32 of the leading components, about; see `Quantized.slack`."""
        found, start = np.empty((len(asked.unit), self._count), np.float32), 0
        for digits in asked.digits:
            end = start + len(digits) // 2
            products = self._packed.times(digits, torch.float32).numpy()
            first, second = products[: end - start], products[end - start :]
            np.multiply(second, 1 / _FINER, out=second)
            np.add(first, second, out=first)
            np.multiply(first, asked.unit[start:end, None], out=found[start:end])
            start = end
        return found

    def others(self, asked: Asked, query: int, places: np.ndarray) -> np.ndarray:
        """Return the products `(m,)` float32 of the other components of one query and the vectors at some places."""
        return (self._rest[places].astype(np.float32) @ asked.rest[query]) * self._scales[places]


def compared(
    queries: np.ndarray, frame: Frame, blocks: Sequence[Int8Block], tail: np.ndarray
) -> tuple[Asked, np.ndarray]:
    """Compare queries `(q, dim)` with blocks of vectors as bytes, and with those after them, `(m, dim)` float32.

    Returns:
        The queries in the frame, and `(q, n)` float32: what leading components of blocks give, then whole products.
    """
    # By the threads that multiply bytes: those of numpy would be in their way, and wait for them.
    points, others = torch.from_numpy(queries), torch.from_numpy(tail)
    with one_core(len(queries) <= _FEW):
        asked = frame.asked(queries)
        leading = [block.leading(asked) for block in blocks]
        # A product with a vector is faster as such.
        last = (others @ points[0])[None] if len(queries) == 1 else points @ others.T
    return asked, np.concatenate([*leading, last.numpy()], 1)


def int8_candidates(points: Tensor, threshold: float, *, width: int, unit: bool = False) -> Block | None:
    """Return what finds, in a block of products, all that may be at or above a threshold; see `bf16_candidates`.

    With E = max ‖x − x̂‖ and N = max ‖x‖ a product with row i is wrong by at most

        |xᵢ·y − x̂ᵢ·ŷ| ≤ ‖xᵢ − x̂ᵢ‖ N + ‖x̂ᵢ‖ E,

    so that every row has a threshold of its own, which is divided by the row's scale instead of multiplying all
    products.

    Args:
        points: `(n, dim)` float32 on the CPU.
        threshold: Least product.
        width: Columns that are packed together; blocks should begin at multiples of it.
        unit: Bring the points to length 1 before.

    Returns:
        None where a row's threshold is not positive (or no number).
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
    least = bits_of((threshold - lost * longest - length * lost.max() - slack) / scales, torch.bfloat16)
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
