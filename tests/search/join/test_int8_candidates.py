"""Vectors as bytes: no product is further off than it says, and no block leaves anything out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from textsiam.inference.fast.processor import multiplies_bytes
from textsiam.search.join import int8_candidates as codes_module
from textsiam.search.join.int8_candidates import Frame, Int8Block, coded, int8_candidates, quantized

pytestmark = pytest.mark.skipif(
    not multiplies_bytes(), reason="this processor has no fast products of bytes (avx512_vnni)"
)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def normal(count, dim, seed=0):
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def exact(queries, vectors):
    return queries.astype(np.float64) @ vectors.astype(np.float64).T


def whole(codes, asked):
    """The products of all components."""
    places = np.arange(len(codes))
    rest = np.stack([codes.others(asked, query, places) for query in range(len(asked.unit))])
    return codes.leading(asked) + rest


@pytest.mark.parametrize("dim", [2, 7, 24, 384, 1024])
@pytest.mark.parametrize("kind", ["normal", "one large component", "one component only", "few", "a subspace"])
def test_no_product_is_further_off_than_it_says(dim, kind):
    vectors, queries = normal(200, dim), normal(67, dim, seed=1)
    if kind == "one large component":
        vectors[:, 0], queries[:, -1] = 3, -3
    elif kind == "one component only":
        vectors[:, 1:], queries[:, 1:] = 0, 0
    elif kind == "few":
        vectors, queries = vectors[:3], queries[:1]
    elif kind == "a subspace":
        vectors[:, dim // 2 :] *= 0.1
    vectors, queries = unit(vectors), unit(queries)
    frame = Frame.fitted(vectors[:50])
    stored, asked, truth = quantized(vectors, frame), frame.asked(queries), exact(queries, vectors)
    codes = Int8Block(stored)
    assert (np.abs(whole(codes, asked) - truth) <= stored.errors).all()
    leading = codes.leading(asked)
    assert leading.shape == (len(queries), len(vectors))
    assert (truth <= leading + stored.slack + asked.length[:, None] * stored.length).all()
    if kind == "normal":
        assert stored.errors.max() < 0.02  # a bound that is far too wide would keep everything


def test_leading_components_hold_most():
    wide = np.concatenate([normal(2000, 60) * 0.95, normal(2000, 324, seed=1) * 0.3], 1) @ np.linalg.qr(
        np.random.default_rng(0).standard_normal((384, 384))
    )[0].astype(np.float32)
    frame = Frame.fitted(unit(wide[:500]))
    assert frame.leading == 64  # a multiple of 32
    leading, rest = frame.turned(unit(wide))
    assert (leading**2).sum() > 0.8 * len(wide)
    np.testing.assert_allclose((leading**2).sum(1) + (rest**2).sum(1), 1, atol=1e-6)
    assert frame.loss < 1e-3
    assert np.abs(leading).max() < 0.75  # mixed: none holds nearly all


def test_the_second_digit_of_a_query_matters():
    vectors, queries = normal(500, 384), normal(20, 384, seed=1)
    frame = Frame.fitted(vectors)
    codes, asked = Int8Block(quantized(vectors, frame)), frame.asked(queries)
    (leading, _), (u, _) = frame.turned(vectors), frame.turned(queries)
    scale = np.abs(leading).max(1, keepdims=True) / 127
    assert np.abs(codes.leading(asked) - u @ (np.rint(leading / scale) * scale).T).max() < 3e-5


def test_a_processor_without_products_of_bytes_computes_the_same(monkeypatch):
    vectors, queries = normal(300, 384), normal(40, 384, seed=1)
    frame = Frame.fitted(vectors)
    stored, asked = quantized(vectors, frame), frame.asked(queries)
    fast = Int8Block(stored).leading(asked)
    monkeypatch.setattr(codes_module, "multiplies_bytes", lambda: False)
    np.testing.assert_allclose(Int8Block(stored).leading(asked), fast, rtol=0, atol=2e-7)


def near_each_other(count, dim):
    vectors = np.random.default_rng(7).standard_normal((count, dim))
    vectors[count // 2 :] = vectors[: count - count // 2] + 0.5 * vectors[count // 2 :]
    return unit(vectors)


PARTS = ((0, 64, 0, 128), (0, 64, 128, 200), (64, 200, 64, 200))
ODD_PARTS = ((0, 50, 0, 77), (0, 50, 77, 200), (50, 200, 50, 131), (50, 200, 131, 200))


@pytest.mark.parametrize("parts", [PARTS, ODD_PARTS])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_a_block_leaves_out_nothing_and_little_else_gets_in(parts, threshold, scale, found_in):
    points = near_each_other(200, 64) * np.float32(scale)
    truth = exact(points, points)
    threshold *= scale**2
    block = int8_candidates(torch.from_numpy(points), threshold, width=64)
    found = found_in(block, 200, parts)
    above = np.triu(np.ones((200, 200), bool), 1)
    assert (found | ~(above & (truth >= threshold)))[above].all()
    assert not found[~above].any()
    assert truth[found].min(initial=np.inf) >= threshold - 0.06 * scale**2
    assert (found & (truth >= threshold)).sum() > (10 if threshold < 0.9 * scale**2 else -1)


def test_a_product_just_at_the_floor_is_found_wherever_that_is():
    points = near_each_other(60, 384)
    truth = exact(points, points)
    for i, j in ((0, 30), (5, 35), (7, 37), (20, 50)):
        block = int8_candidates(torch.from_numpy(points), float(truth[i, j]), width=16)
        assert (i, j) in set(zip(*(ends.tolist() for ends in block(0, 60, 0, 60)), strict=True))


def test_points_are_brought_to_length_1():
    points = near_each_other(50, 32) * np.arange(1, 51, dtype=np.float32)[:, None]
    block = int8_candidates(torch.from_numpy(points), 0.8, width=20, unit=True)
    other = int8_candidates(torch.from_numpy(unit(points)), 0.8, width=20)
    for one, two in zip(block(0, 50, 0, 50), other(0, 50, 0, 50), strict=True):
        assert len(one) > 10
        np.testing.assert_array_equal(one, two)


def test_a_vector_of_zeros_is_near_nothing():
    points = near_each_other(20, 8)
    points[[3, 4]] = 0
    row, column = int8_candidates(torch.from_numpy(points), 0.5, width=8)(0, 20, 0, 20)
    assert len(row)
    assert not {3, 4} & {*row.tolist(), *column.tolist()}


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.001, float("nan")])
def test_a_floor_that_bits_do_not_order(threshold):
    assert int8_candidates(torch.from_numpy(normal(5, 4)), threshold, width=2) is None


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_vectors_that_are_no_numbers_are_left_to_others(wrong):
    points = normal(5, 4)
    points[2, 1] = wrong
    assert int8_candidates(torch.from_numpy(points), 0.5, width=2) is None


def test_whole_numbers_and_what_is_lost():
    vectors = normal(30, 12)
    numbers, scales, lost, length = coded(vectors)
    back = numbers.astype(np.float64) * scales[:, None]
    assert np.abs(numbers).max(1).tolist() == [127] * 30
    assert (np.linalg.norm(vectors - back, axis=1) <= lost).all()
    assert (lost < 0.03).all()
    assert (np.linalg.norm(back, axis=1) <= length).all()
