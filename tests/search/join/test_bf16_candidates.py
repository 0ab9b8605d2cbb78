from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textsiam.search.join.bf16_candidates import Reduced, _found_elsewhere, bf16_candidates, reduced, rounding, scan

FORMATS = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])


def unit(n: int, dim: int, *, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, dim)).astype(np.float32)
    vectors[n // 2 :] = vectors[: n - n // 2] + 0.6 * vectors[n // 2 :]
    return torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def exact(points: torch.Tensor) -> np.ndarray:
    wide = points.double().numpy()
    return wide @ wide.T


@FORMATS
@pytest.mark.parametrize("dim", [3, 384])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_no_product_is_further_off_than_the_bound(dtype: torch.dtype, dim: int, scale: float) -> None:
    points = unit(300, dim) * scale
    cast = reduced(points, dtype)
    off = np.abs((cast.values.float() @ cast.values.float().T).double().numpy() - exact(points))
    assert off.max() <= cast.error
    # Not so wide as to be useless: the bits that bf16 drops lose up to 2⁻⁸ of a number.
    assert cast.error <= (2**-7 if dtype == torch.bfloat16 else 4 * rounding(dim)) * scale**2


def test_vectors_are_brought_to_length_1_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    points = unit(50, 8) * torch.arange(1, 51)[:, None]
    whole = reduced(points, torch.float32, unit=True)
    monkeypatch.setattr("textsiam.search.join.bf16_candidates._CHUNK", 7 * 8)
    parts = reduced(points, torch.float32, unit=True)
    torch.testing.assert_close(whole.values.norm(dim=1), torch.ones(50))
    torch.testing.assert_close(whole.values, parts.values, rtol=0, atol=0)
    assert whole.error == pytest.approx(parts.error)


@FORMATS
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9, 0.999999])
def test_a_block_leaves_out_nothing_and_little_else_gets_in(dtype: torch.dtype, threshold: float, found_in) -> None:
    points = unit(200, 64)
    cast, truth = reduced(points, dtype), exact(points)
    block = bf16_candidates(cast, threshold)
    assert block is not None
    found = found_in(block, 200, ((0, 64, 0, 128), (0, 64, 128, 200), (64, 200, 64, 200)))
    above = np.triu(np.ones((200, 200), bool), 1)
    assert (found | ~(above & (truth >= threshold)))[above].all()
    assert not found[~above].any()
    # What gets in was rounded up at most: by the bound, and by the last bits of a product in bf16.
    assert truth[found].min(initial=1.0) >= threshold * (1 - 2**-7) - 2 * cast.error - 1e-6
    assert found.sum() > (0 if threshold < 0.99 else -1)


@FORMATS
def test_a_product_just_at_the_floor_is_found_wherever_that_is(dtype: torch.dtype) -> None:
    points = unit(60, 384)
    cast, truth = reduced(points, dtype), exact(points)
    for i, j in ((0, 30), (5, 35), (7, 37), (20, 50)):
        block = bf16_candidates(cast, float(truth[i, j]))
        assert block is not None
        assert (i, j) in set(zip(*(ends.tolist() for ends in block(0, 60, 0, 60)), strict=True))


@pytest.mark.parametrize("threshold", [-0.5, 0.0, float("nan"), -float("inf")])
def test_a_floor_that_bits_do_not_order(threshold: float) -> None:
    assert bf16_candidates(reduced(unit(5, 4), torch.float32), threshold) is None


def test_vectors_that_are_no_numbers_are_left_to_others() -> None:
    points = unit(5, 4)
    points[2, 1] = float("nan")
    assert bf16_candidates(reduced(points, torch.float32), 0.5) is None


@FORMATS
def test_an_accelerator_finds_the_same(dtype: torch.dtype) -> None:
    cast = reduced(unit(90, 32), dtype)
    on_cpu = bf16_candidates(cast, 0.4)
    assert on_cpu is not None
    least = np.nextafter(np.float32(0.4 - cast.error), np.float32(-np.inf)).view(np.int32)
    integer, shift = (torch.int16, 16) if dtype == torch.bfloat16 else (torch.int32, 0)
    knobs = torch.backends.cuda.matmul
    before = knobs.allow_bf16_reduced_precision_reduction, knobs.allow_tf32
    for where in ((0, 50, 0, 90), (50, 90, 50, 90), (0, 20, 30, 70)):
        expected = on_cpu(*where)
        found = _found_elsewhere(cast.values, integer, int(least) >> shift, *where)
        assert len(expected[0])
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    assert (knobs.allow_bf16_reduced_precision_reduction, knobs.allow_tf32) == before


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(-20, 20), st.integers(0, 2**32 - 1))
def test_scan_against_a_comparison(rows: int, columns: int, least: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(-20, 20, (rows, columns)).astype(np.int16)
    for above in (None, -3, 0, 2):
        wanted = values >= least
        if above is not None:
            wanted &= np.arange(columns) + above > np.arange(rows)[:, None]
        found = scan(values.copy(), least, above=above)
        np.testing.assert_array_equal(np.stack(found), np.stack(np.nonzero(wanted)))


def test_the_bits_of_positive_floats_are_ordered() -> None:
    # Why integers can be compared: the premise of the module, over all numbers of bf16.
    bits = torch.arange(2**15 - 128, dtype=torch.int32).to(torch.int16)  # up to infinity
    assert (bits.view(torch.bfloat16).float().diff() > 0).all()
    assert isinstance(reduced(unit(3, 2), torch.bfloat16), Reduced)
