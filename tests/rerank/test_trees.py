from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from sklearn.metrics import log_loss

from textsiam.inference.encoders import ModelError
from textsiam.rerank.trees import Trees, grow

Task = tuple[np.ndarray, np.ndarray]


def drawn(seed: int, count: int = 1500) -> Task:
    """Rows of 4 features, the first of which tells most, the second more where the third is small."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 4))
    odds = 2 * features[:, 0] + 2 * features[:, 1] * (features[:, 2] < 0)
    return features, (rng.random(count) < 1 / (1 + np.exp(-odds))).astype(int)


@pytest.fixture(scope="module")
def both() -> tuple[Trees, Trees]:
    return grow(*drawn(0), rising=[0, 1])


@pytest.fixture(params=["forest", "boosted"])
def trees(request, both) -> Trees:
    return both[request.param == "boosted"]


def test_they_know_more_than_the_share_of_duplicates(trees) -> None:
    features, labels = drawn(1, 5000)
    found = trees.probability(features)
    assert log_loss(labels, found) < 0.55 < 0.69 < log_loss(labels, np.full(5000, labels.mean()))
    assert found.min() >= 0
    assert found.max() <= 1
    assert trees.probability(features[:0]).shape == (0,)


def test_a_leaf_of_the_forest_says_the_share_of_duplicates() -> None:
    features, labels = (
        np.repeat([[0.0], [1.0]], 500, axis=0),
        np.r_[np.ones(100), np.zeros(400), np.ones(400), np.zeros(100)],
    )
    np.testing.assert_allclose(grow(features, labels)[0].probability([[0.0], [1.0]]), [0.2, 0.8], atol=0.01)


def test_what_shall_rise_never_falls(trees) -> None:
    rows = np.random.default_rng(2).normal(size=(300, 4))
    for feature in (0, 1):
        higher = rows.copy()
        higher[:, feature] += np.random.default_rng(feature).exponential(size=300)
        assert (trees.probability(higher) >= trees.probability(rows)).all()
        assert (trees.probability(higher) > trees.probability(rows)).any()


def test_the_order_of_the_rows_does_not_matter(both) -> None:
    features, labels = drawn(0)
    again = grow(features[::-1], labels[::-1], rising=[0, 1])
    assert [one.text() for one in again] == [one.text() for one in both]


def test_boosting_stops_where_more_trees_do_no_good(both) -> None:
    assert 5 < both[1].booster.num_trees() < 399


def test_text_comes_back_and_damage_is_refused(trees) -> None:
    rows = np.random.default_rng(3).normal(size=(50, 4))
    again = Trees.of_text(trees.text())
    np.testing.assert_array_equal(again.probability(rows), trees.probability(rows))
    with pytest.raises(ValueError, match="not trees of LightGBM"):
        Trees.of_text("nothing")


def test_without_lightgbm_it_is_said_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr("textsiam.rerank.trees.find_spec", lambda name: None)
    for fails in (lambda: grow(*drawn(0)), lambda: Trees.of_text("tree")):
        with pytest.raises(ModelError, match=r"lightgbm is not installed: pip install 'textsiam\[trees\]'"):
            fails()
    assert importlib.util.find_spec("lightgbm")
