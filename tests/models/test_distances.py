from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import distance as scipy_distance

from textsiam.models.distances import (
    ANGULAR,
    COSINE,
    DISTANCES,
    EUCLIDEAN,
    MANHATTAN,
    SQUARED_EUCLIDEAN,
    Distance,
    distance_named,
)

EVERY = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
METRICS = pytest.mark.parametrize("distance", [EUCLIDEAN, MANHATTAN, ANGULAR], ids=lambda d: d.name)
DIRECTIONS = (COSINE, ANGULAR)  # they say nothing about length
# Not so large or small that the square leaves float64's precise range.
coordinates = st.floats(-100, 100).map(lambda x: 0.0 if abs(x) < 1e-3 else x)
vectors = arrays(np.float64, (3, 4), elements=coordinates)


def points(n: int, dim: int = 5, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        (COSINE, 1 - 24 / 25),
        (EUCLIDEAN, math.sqrt(2)),
        (SQUARED_EUCLIDEAN, 2.0),
        (MANHATTAN, 2.0),
        (ANGULAR, math.acos(24 / 25) / math.pi),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_hand_computed(distance: Distance, expected: float) -> None:
    u, v = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    assert distance(u, v).item() == pytest.approx(expected, abs=1e-6)
    assert distance.rowwise(u, v).shape == (1,)
    assert distance.all_pairs(u, v).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("distance", "reference"),
    [
        (COSINE, scipy_distance.cosine),
        (EUCLIDEAN, scipy_distance.euclidean),
        (SQUARED_EUCLIDEAN, scipy_distance.sqeuclidean),
        (MANHATTAN, scipy_distance.cityblock),
        (ANGULAR, lambda a, b: math.acos(1 - scipy_distance.cosine(a, b)) / math.pi),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_agrees_with_scipy(distance: Distance, reference: Callable[..., float]) -> None:
    u, v = points(6), points(6, seed=1)
    expected = [reference(a, b) for a, b in zip(u.numpy(), v.numpy(), strict=True)]
    np.testing.assert_allclose(distance(u, v).numpy(), expected, atol=1e-9)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_pairs_is_rowwise_of_every_pair(distance: Distance, dtype: torch.dtype) -> None:
    u, v = points(30).to(dtype), points(40, seed=1).to(dtype)
    expected = distance(u.repeat_interleave(40, 0), v.repeat(30, 1)).reshape(30, 40)
    found = distance.all_pairs(u, v)
    assert found.shape == (30, 40)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


@EVERY
def test_near_duplicates_keep_their_distance(distance: Distance) -> None:
    u = torch.nn.functional.normalize(points(50, 384), dim=-1).float()
    v = u + 1e-3 * torch.nn.functional.normalize(points(50, 384, seed=1), dim=-1).float()
    exact = distance(u.double(), v.double())
    # The cosine is 1 minus something of size 1, so its float32 error is absolute; the others' is relative.
    tolerance = {"atol": 1e-6, "rtol": 0.0} if distance is COSINE else {"atol": 0.0, "rtol": 1e-4}
    torch.testing.assert_close(distance(u, v).double(), exact, **tolerance)
    torch.testing.assert_close(distance.all_pairs(u, v).diag().double(), exact, **tolerance)


@EVERY
@given(x=vectors)
@settings(max_examples=60, deadline=None)
def test_never_negative_and_symmetric(distance: Distance, x: np.ndarray) -> None:
    u, v = torch.from_numpy(x[:1]), torch.from_numpy(x[1:2])
    d = distance(u, v)
    assert d.item() >= -1e-12
    assert d.item() == pytest.approx(distance(v, u).item(), rel=1e-12, abs=1e-12)
    torch.testing.assert_close(distance.all_pairs(u, v), distance.all_pairs(v, u).T)


@EVERY
@given(x=vectors)
@settings(max_examples=60, deadline=None)
def test_zero_between_equals(distance: Distance, x: np.ndarray) -> None:
    u = torch.from_numpy(x[:1])
    if distance in DIRECTIONS:  # the zero vector has none
        u = torch.where(u.norm() > 0, u, torch.ones_like(u))
    # Euclidean has a floor of 1e-6 where its gradient would be undefined.
    assert distance(u, u).item() <= 1.001e-6
    assert distance.all_pairs(u, u).item() <= 1.001e-6


@pytest.mark.parametrize("distance", [EUCLIDEAN, SQUARED_EUCLIDEAN, MANHATTAN], ids=lambda d: d.name)
@given(x=vectors)
@settings(max_examples=60, deadline=None)
def test_more_than_zero_between_others(distance: Distance, x: np.ndarray) -> None:
    u, v = torch.from_numpy(x[:1]), torch.from_numpy(x[1:2])
    if not torch.equal(u, v):
        assert distance(u, v).item() > 1.001e-6 or distance is SQUARED_EUCLIDEAN
        assert distance(u, v).item() > 0


@pytest.mark.parametrize("distance", DIRECTIONS, ids=lambda d: d.name)
@given(x=vectors, length=st.floats(1e-2, 1e2))
@settings(max_examples=60, deadline=None)
def test_directions_have_no_length(distance: Distance, x: np.ndarray, length: float) -> None:
    u, v = torch.from_numpy(x[:1]), torch.from_numpy(x[1:2])
    assume(u.norm() > 0 and v.norm() > 0)
    # So identity holds on the unit sphere only: a vector and its double are equal here.
    assert distance(u, length * u).item() == pytest.approx(0, abs=1e-7)
    assert distance(u, length * v).item() == pytest.approx(distance(u, v).item(), abs=1e-7)
    apart = (torch.nn.functional.normalize(u, dim=-1) - torch.nn.functional.normalize(v, dim=-1)).norm()
    if apart > 1e-6:
        assert distance(u, v).item() > 0


@METRICS
@given(x=vectors)
@settings(max_examples=100, deadline=None)
def test_triangle_inequality_of_the_metrics(distance: Distance, x: np.ndarray) -> None:
    a, b, c = (torch.from_numpy(row[None]) for row in x)
    assume(distance is not ANGULAR or bool((torch.from_numpy(x).norm(dim=1) > 0).all()))
    direct, first, second = distance(a, c).item(), distance(a, b).item(), distance(b, c).item()
    assert direct <= first + second + 1e-9 * (1 + direct)


@pytest.mark.parametrize("distance", [COSINE, SQUARED_EUCLIDEAN], ids=lambda d: d.name)
def test_the_others_break_the_triangle_inequality(distance: Distance) -> None:
    a, b, c = (
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[1.0, 1.0]]) / math.sqrt(2),
        torch.tensor([[0.0, 1.0]]),
    )
    assert distance(a, c).item() > distance(a, b).item() + distance(b, c).item() + 0.4


@EVERY
def test_bound_is_reached_by_opposite_unit_vectors_and_never_passed(distance: Distance) -> None:
    u = torch.nn.functional.normalize(points(200), dim=-1)
    assert distance.all_pairs(u, u).max().item() <= distance.bounded + 1e-9
    if math.isfinite(distance.bounded):
        assert distance(u[:1], -u[:1]).item() == pytest.approx(distance.bounded, abs=1e-9)


@EVERY
def test_larger_similarity_is_closer(distance: Distance) -> None:
    d = torch.tensor([0.0, 0.25, 2.0])
    expected = [1.0, 0.75, -1.0] if distance is COSINE else [0.0, -0.25, -2.0]
    assert distance.similarity(d).tolist() == expected


@EVERY
def test_gradients(distance: Distance) -> None:
    u, v = points(4).requires_grad_(), points(4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(distance.rowwise, (u, v))
    assert torch.autograd.gradcheck(distance.all_pairs, (u, v))


@EVERY
def test_gradients_at_zero_distance_and_at_the_origin_are_finite(distance: Distance) -> None:
    for start in (torch.ones(2, 3), torch.zeros(2, 3)):
        for function in (distance.rowwise, distance.all_pairs):
            u, v = start.clone().requires_grad_(), start.clone().requires_grad_()
            function(u, v).sum().backward()
            assert torch.isfinite(u.grad).all()
            assert torch.isfinite(v.grad).all()


@EVERY
def test_found_by_name(distance: Distance) -> None:
    assert distance_named(distance.name) is distance


def test_unknown_name_says_which_exist() -> None:
    expected = (
        "unknown distance 'euclidian', expected one of cosine, euclidean, squared_euclidean, manhattan, angular; "
        "did you mean 'euclidean'?"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        distance_named("euclidian")
    with pytest.raises(ValueError, match=r"angular$"):
        distance_named("zzz")


def test_angles_are_exact_where_an_arc_cosine_is_not() -> None:
    angles = torch.tensor([1e-12, 1e-9, 1e-6, 1e-3, 1.0, math.pi - 1e-6], dtype=torch.float64)
    u = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(6, 2)
    v = torch.stack([angles.cos(), angles.sin()], dim=1)
    torch.testing.assert_close(ANGULAR(u, v), angles / math.pi, rtol=1e-6, atol=1e-16)
    torch.testing.assert_close(ANGULAR.all_pairs(u[:1], v)[0], angles / math.pi, rtol=1e-6, atol=1e-16)


def test_the_gradient_of_an_angle_does_not_explode_between_near_duplicates() -> None:
    for apart in (0.0, 1e-6, 1e-3, 1.0):
        v = torch.tensor([[math.cos(apart), math.sin(apart)]], requires_grad=True)
        ANGULAR(torch.tensor([[1.0, 0.0]]), v).sum().backward()
        assert v.grad.norm() <= 1.001 / math.pi


def test_angular_and_cosine_order_pairs_alike() -> None:
    u, v = points(40), points(40, seed=1)
    assert torch.equal(ANGULAR(u, v).argsort(), COSINE(u, v).argsort())
