from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from textsiam.models.forest import BoostedTrees, Forest


@pytest.fixture(scope="module")
def task() -> tuple[np.ndarray, np.ndarray]:
    """600 rows of 4 features, the first of which tells most, the second more where the third is small."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(600, 4)).astype(np.float32)
    odds = 2 * features[:, 0] + 2 * features[:, 1] * (features[:, 2] < 0)
    return features, (rng.random(600) < 1 / (1 + np.exp(-odds))).astype(int)


@pytest.fixture(scope="module")
def forest(task) -> Forest:
    return Forest.grow(*task, rising=[0, 1], trees=30, leaf=10, share=0.5)


def test_the_arrays_say_what_scikit_learn_says(task, forest) -> None:
    features, labels = task
    order = np.lexsort([labels, *features.T])
    theirs = RandomForestClassifier(
        30, min_samples_leaf=10, max_features=0.5, monotonic_cst=[1, 1, 0, 0], random_state=0
    ).fit(features[order], labels[order])
    fresh = np.random.default_rng(1).normal(size=(5000, 4))  # more rows than go down together
    np.testing.assert_allclose(forest.probability(fresh), theirs.predict_proba(fresh)[:, 1], atol=1e-12)
    assert forest.probability(fresh[:0]).shape == (0,)


@pytest.fixture(scope="module")
def boosted(task) -> BoostedTrees:
    return BoostedTrees.grow(*task, rising=[0, 1], trees=60, leaf=10)


def test_the_arrays_of_boosted_trees_say_what_scikit_learn_says(task, boosted) -> None:
    features, labels = task
    order = np.lexsort([labels, *features.T])
    theirs = HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=60, max_leaf_nodes=8, min_samples_leaf=10, monotonic_cst=[1, 1, 0, 0],
        early_stopping=True, random_state=0,
    ).fit(features[order], labels[order])  # fmt: skip
    assert len(boosted.roots) == theirs.n_iter_ > 5
    fresh = np.random.default_rng(1).normal(size=(5000, 4))
    np.testing.assert_allclose(boosted.probability(fresh), theirs.predict_proba(fresh)[:, 1], atol=1e-9)
    assert boosted.probability(fresh[:0]).shape == (0,)


@pytest.mark.parametrize("name", ["forest", "boosted"])
def test_what_shall_rise_never_falls(name, request) -> None:
    forest = request.getfixturevalue(name)
    rows = np.random.default_rng(2).normal(size=(300, 4))
    for feature in (0, 1):
        higher = rows.copy()
        higher[:, feature] += np.random.default_rng(feature).exponential(size=300)
        assert (forest.probability(higher) >= forest.probability(rows)).all()
        assert (forest.probability(higher) > forest.probability(rows)).any()


def test_the_order_of_the_rows_does_not_matter(task, forest, boosted) -> None:
    turned = [part[::-1] for part in task]
    others = (
        Forest.grow(*turned, rising=[0, 1], trees=30, leaf=10, share=0.5),
        BoostedTrees.grow(*turned, rising=[0, 1], trees=60, leaf=10),
    )
    for one, other in zip((forest, boosted), others, strict=True):
        for name, array in one.arrays().items():
            np.testing.assert_array_equal(array, other.arrays()[name])


@pytest.mark.parametrize("name", ["forest", "boosted"])
def test_arrays_come_back_and_damage_is_refused(name, request) -> None:
    forest = request.getfixturevalue(name)
    rows = np.random.default_rng(3).normal(size=(50, 4))
    again = type(forest).of_arrays(forest.arrays())
    np.testing.assert_array_equal(again.probability(rows), forest.probability(rows))
    with pytest.raises(KeyError):
        Forest.of_arrays({n: a for n, a in forest.arrays().items() if n != "left"})
    inner = int(np.flatnonzero(forest.feature >= 0)[3])
    for name, value in (("left", inner), ("right", 0), ("right", len(forest.feature))):  # a circle, or past the end
        broken = {n: a.copy() for n, a in forest.arrays().items()}
        broken[name][inner] = value
        with pytest.raises(ValueError, match="leads nowhere"):
            Forest.of_arrays(broken)
    with pytest.raises(ValueError, match="do not fit together"):
        Forest.of_arrays({**forest.arrays(), "share": forest.share[:-1]})
    with pytest.raises(ValueError, match="do not fit together"):
        Forest.of_arrays({**forest.arrays(), "roots": forest.roots + len(forest.feature)})
