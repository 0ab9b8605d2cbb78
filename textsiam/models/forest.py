"""Decision trees that are kept as plain arrays: scikit-learn grows them, no pickle is needed to open them again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textsiam.models.calibration import from_log_odds

_ROWS = 4096  # that go down all trees together
_LEAF = -2  # scikit-learn's mark of a node without a question
_OF_NODES = ("feature", "threshold", "left", "right", "share")

Grown = TypeVar("Grown", bound="Trees")


@dataclass(frozen=True, eq=False)
class Trees(ABC):
    """Decision trees, one after another in the same arrays; a node without a question is a leaf.

    Attributes:
        roots: Where each tree begins, `(trees,)` int32.
        feature: Which feature a node asks about, `(nodes,)` int16; -2 in leaves.
        threshold: A row goes left where its feature is at most this, `(nodes,)` float64.
        left: The node after "at most", `(nodes,)` int32.
        right: The node after "more", `(nodes,)` int32.
        share: What a leaf says, `(nodes,)` float64.
    """

    roots: NDArray[np.int32]
    feature: NDArray[np.int16]
    threshold: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    share: NDArray[np.float64]

    @abstractmethod
    def probability(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return P(label 1) of each row of features, `(n,)`."""

    def _mean(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        parts = [self._descend(features[start : start + _ROWS]) for start in range(0, len(features), _ROWS)]
        return np.concatenate([np.zeros(0), *parts])

    def _descend(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        node = np.repeat(self.roots[:, None], len(features), axis=1)  # (trees, rows)
        rows = np.arange(len(features))
        while (asking := self.feature[node] != _LEAF).any():
            at_most = features[rows, self.feature[node]] <= self.threshold[node]
            node = np.where(asking, np.where(at_most, self.left[node], self.right[node]), node)
        return self.share[node].mean(0)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what a file of it holds, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def of_arrays(cls: type[Grown], arrays: Mapping[str, np.ndarray]) -> Grown:
        """Make one of what `arrays` returned.

        Raises:
            KeyError: An array is missing.
            ValueError: The arrays do not fit together, or lead nowhere.
        """
        forest = cls(**{f.name: arrays[f.name] for f in fields(cls)})
        count = len(forest.feature)
        asking = np.flatnonzero(forest.feature != _LEAF)
        after = np.stack([forest.left[asking], forest.right[asking]]) if len(asking) else np.zeros((2, 0), int)
        inside = len(forest.roots) and forest.roots.min() >= 0 and forest.roots.max() < count
        if {len(getattr(forest, name)) for name in _OF_NODES} != {count} or not inside:
            raise ValueError("the arrays of the forest do not fit together")
        if (after <= asking).any() or (after >= count).any():  # children stand after their parent: no way back
            raise ValueError("a node of the forest leads nowhere")
        return forest


@dataclass(frozen=True, eq=False)
class Forest(Trees):
    """A random forest: leaves hold the share of label 1 among what was learned from."""

    @classmethod
    def grow(
        cls,
        features: ArrayLike,
        labels: ArrayLike,
        *,
        rising: Sequence[int] = (),
        trees: int = 200,
        leaf: int = 20,
        share: float = 0.3,
    ) -> Forest:
        """Grow a forest (Breiman 2001) for labels 0 and 1; the order of the rows does not matter.

        Args:
            features: `(n, k)`; compared in float32.
            labels: `(n,)`, 0 or 1.
            rising: Features that never lower the probability when they rise.
            trees: How many.
            leaf: Fewest rows of a leaf.
            share: Of the features, among which each question is chosen.
        """
        from sklearn.ensemble import RandomForestClassifier

        features, labels, monotonic = _prepared(np.asarray(features, np.float32), labels, rising)
        knobs: Any = {"max_features": share}  # the stubs of scikit-learn know no share
        forest = RandomForestClassifier(
            trees, min_samples_leaf=leaf, monotonic_cst=monotonic, random_state=0, **knobs
        ).fit(features, labels)
        grown = [one.tree_ for one in forest.estimators_]
        roots = _roots([tree.node_count for tree in grown])

        def children(name: str) -> NDArray[np.int32]:
            parts = [getattr(tree, name) + root for tree, root in zip(grown, roots, strict=True)]
            return np.concatenate(parts).astype(np.int32)

        one = int(np.flatnonzero(forest.classes_ == 1)[0])
        return cls(
            roots=roots,
            feature=np.concatenate([tree.feature for tree in grown]).astype(np.int16),
            threshold=np.concatenate([tree.threshold for tree in grown]),
            left=children("children_left"),
            right=children("children_right"),
            share=np.concatenate([tree.value[:, 0, one] / tree.value[:, 0].sum(1) for tree in grown]),
        )

    def probability(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return the mean over the trees of the share of label 1 in the leaf that a row falls into, `(n,)`."""
        return self._mean(np.asarray(features, np.float32))


@dataclass(frozen=True, eq=False)
class BoostedTrees(Trees):
    """Trees that were grown one for the mistakes of another; their leaves hold log-odds, which add up.

    Attributes:
        start: The log-odds without any tree, `(1,)` float64.
    """

    start: NDArray[np.float64]

    @classmethod
    def grow(
        cls,
        features: ArrayLike,
        labels: ArrayLike,
        *,
        rising: Sequence[int] = (),
        trees: int = 400,
        leaf: int = 40,
    ) -> BoostedTrees:
        """Grow trees by gradient boosting (Friedman 2001), until a tenth of the rows is no longer better for it.

        Args:
            features: `(n, k)`; compared in float64.
            labels: `(n,)`, 0 or 1.
            rising: Features that never lower the probability when they rise.
            trees: How many at most.
            leaf: Fewest rows of a leaf.
        """
        from sklearn.ensemble import HistGradientBoostingClassifier

        features, labels, monotonic = _prepared(np.asarray(features, np.float64), labels, rising)
        early: Any = True  # the stubs of scikit-learn know no such value
        boosted: Any = HistGradientBoostingClassifier(
            learning_rate=0.05,
            max_iter=trees,
            max_leaf_nodes=8,
            min_samples_leaf=leaf,
            monotonic_cst=monotonic,
            early_stopping=early,
            random_state=0,
        ).fit(features, labels)
        grown = [one.nodes for (one,) in boosted._predictors]
        roots = _roots([len(nodes) for nodes in grown])
        nodes, root = np.concatenate(grown), np.repeat(roots, [len(nodes) for nodes in grown])
        return cls(
            roots=roots,
            feature=np.where(nodes["is_leaf"], _LEAF, nodes["feature_idx"]).astype(np.int16),
            threshold=nodes["num_threshold"].astype(np.float64),
            left=(nodes["left"] + root).astype(np.int32),
            right=(nodes["right"] + root).astype(np.int32),
            share=nodes["value"].astype(np.float64),
            start=np.asarray(boosted._baseline_prediction, np.float64).reshape(1),
        )

    def probability(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return the logistic function of the sum of log-odds, `(n,)`."""
        return from_log_odds(self.start + len(self.roots) * self._mean(np.asarray(features, np.float64)))


def _prepared(
    features: NDArray[np.floating], labels: ArrayLike, rising: Sequence[int]
) -> tuple[NDArray[np.floating], NDArray[np.integer], NDArray[np.integer]]:
    """Return rows in an order of their own, their labels, and 1 for each feature that shall rise."""
    order = np.lexsort([np.asarray(labels), *features.T])
    monotonic = np.isin(np.arange(features.shape[1]), rising).astype(int)
    return features[order], np.asarray(labels)[order], monotonic


def _roots(counts: Sequence[int]) -> NDArray[np.int32]:
    """Return where each tree begins, of trees of so many nodes."""
    return np.cumsum([0, *counts[:-1]]).astype(np.int32)
