"""Ranks of linked questions against values by hand, and the interval of a difference."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from textsiam.data.pairs import Pairs
from textsiam.evaluation.link_ranks import difference, reciprocal_ranks
from textsiam.models.distances import COSINE


def twin(vectors: dict[str, float]) -> Any:
    """A twin whose texts lie at these angles, in degrees."""
    angle = {text: np.deg2rad(value) for text, value in vectors.items()}
    encode = lambda texts: np.array([[np.cos(angle[t]), np.sin(angle[t])] for t in texts], np.float32)  # noqa: E731
    return SimpleNamespace(encode=encode, distance=COSINE)


def test_ranks_by_hand():
    angles = {"x": 20.0, "a": 0.0, "b": 30.0, "c": 90.0, "d": 91.0}
    links = Pairs.from_texts(["a", "c"], ["b", "d"], [1, 1])
    # a: x is nearer than b; b: x is nearer than a; c and d are each other's nearest
    assert reciprocal_ranks(twin(angles), list(angles), links).tolist() == [0.5, 0.5, 1.0, 1.0]


def test_only_a_link_counts():
    links = Pairs.from_texts(["a", "a"], ["b", "c"], [1, 1])
    angles = {"a": 0.0, "b": 9.0, "c": 9.5, "x": 50.0}
    assert reciprocal_ranks(twin(angles), list("abcx"), links).tolist() == [1, 0.5, 0.5]  # b and c are not linked


def test_a_collapsed_twin_earns_nothing():
    links = Pairs.from_texts(["a"], ["b"], [1])
    assert reciprocal_ranks(twin(dict.fromkeys("abcd", 0.0)), list("abcd"), links).tolist() == pytest.approx(
        [1 / 3] * 2
    )


def test_the_interval_is_over_clusters():
    before, after = np.zeros(40), np.repeat([0.0, 1.0], 20)
    wide = difference(before, after, np.arange(40) // 4)
    narrow = difference(before, after, np.arange(40))
    assert wide is not None
    assert narrow is not None
    assert wide.value == narrow.value == 0.5
    assert wide.high - wide.low > narrow.high - narrow.low > 0
    assert difference(before, after, np.arange(40) // 5) is None
