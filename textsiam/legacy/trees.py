"""Decision trees as plain arrays, which scikit-learn grew for version 0.1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file

_ROWS = 4096  # that go down all trees together
_LEAF = -2  # the mark of a node without a question


class StoredTrees:
    """A random forest, or boosted trees where there is a start; one tree after another in the same arrays.

    Args:
        arrays: `roots`, where each tree begins, `(trees,)`; `feature` that a node asks about, -2 in leaves, `(nodes,)`
            as all that follow; `threshold`: a row goes to the node `left` where its feature is at most this, else to
            `right`; `share`, what a leaf says: the share of label 1; or log-odds, which add up on those of `start`,
            `(1,)`.

    Raises:
        KeyError: An array is missing.
        ValueError: The arrays do not fit together, or lead nowhere.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays, self._start = arrays, arrays.get("start")
        self._roots = roots = arrays["roots"]
        self._nodes = feature, *others = [arrays[name] for name in ("feature", "threshold", "left", "right", "share")]
        count, asking = len(feature), np.flatnonzero(feature != _LEAF)
        if {len(array) for array in others} != {count} or not len(roots) or roots.min() < 0 or roots.max() >= count:
            raise ValueError("the arrays of the forest do not fit together")
        after = np.stack([others[1][asking], others[2][asking]])
        if (after <= asking).any() or (after >= count).any():  # children stand after their parent: no way back
            raise ValueError("a node of the forest leads nowhere")

    def probability(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return P(label 1) of each row of features, `(n,)`."""
        rows = np.asarray(features, np.float32 if self._start is None else np.float64)
        parts = [self._mean(rows[start : start + _ROWS]) for start in range(0, len(rows), _ROWS)]
        mean = np.concatenate([np.zeros(0), *parts])
        if self._start is None:
            return mean
        return 1.0 / (1.0 + np.exp(-np.clip(self._start + len(self._roots) * mean, -30.0, 30.0)))

    def _mean(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        feature, threshold, left, right, share = self._nodes
        node, rows = np.repeat(self._roots[:, None], len(features), axis=1), np.arange(len(features))  # (trees, rows)
        while (asking := feature[node] != _LEAF).any():
            at_most = features[rows, feature[node]] <= threshold[node]
            node = np.where(asking, np.where(at_most, left[node], right[node]), node)
        return share[node].mean(0)


def stored_trees(file: Path) -> tuple[StoredTrees, ...]:
    """Return the trees of a `wording.safetensors`: a forest and boosted trees, or the one forest of older files.

    Raises:
        OSError: There is no such file.
        SafetensorError: It is damaged.
        KeyError: An array is missing.
        ValueError: The arrays do not fit together, or lead nowhere.
    """
    arrays = load_file(file)
    if "roots" in arrays:
        return (StoredTrees(arrays),)
    own = [{n[2:]: a for n, a in arrays.items() if n.startswith(f"{k}.")} for k in range(2)]
    return tuple(StoredTrees(each) for each in own if each)
