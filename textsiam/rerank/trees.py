"""Decision trees that LightGBM grows: a random forest and boosted trees, monotone where it is known to be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textsiam.inference.encoders import ModelError

if TYPE_CHECKING:
    from lightgbm import Booster

_COMMON = {"verbosity": -1, "seed": 0, "deterministic": True, "force_row_wise": True, "num_threads": 1}
_FOREST = {"boosting": "rf", "objective": "regression", "bagging_freq": 1, "bagging_fraction": 0.632,
           "feature_fraction_bynode": 0.3, "num_leaves": 2**14, "min_data_in_leaf": 20,
           "min_sum_hessian_in_leaf": 0.0}  # fmt: skip
_BOOSTED = {"objective": "binary", "learning_rate": 0.05, "num_leaves": 8, "min_data_in_leaf": 40,
            "monotone_constraints_method": "intermediate"}  # fmt: skip
_MOST = {"forest": 200, "boosted": 400}  # trees


@dataclass(frozen=True, eq=False)
class Trees:
    """Trees of LightGBM whose prediction is a probability."""

    booster: Booster

    def probability(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return P(label 1) of each row of features, `(n,)`."""
        rows = np.asarray(features, np.float64)
        if not len(rows):
            return np.zeros(0)
        return np.clip(np.asarray(self.booster.predict(rows, num_threads=1)), 0.0, 1.0)

    def text(self) -> str:
        """Return LightGBM's own text format."""
        return self.booster.model_to_string()

    @classmethod
    def of_text(cls, text: str) -> Trees:
        """Make trees of what `text` returned.

        Raises:
            ValueError: The text holds none.
            ModelError: LightGBM is not installed.
        """
        require_trees()
        from lightgbm import Booster
        from lightgbm.basic import LightGBMError

        try:
            return cls(Booster(model_str=text))
        except LightGBMError as error:
            raise ValueError(f"not trees of LightGBM: {error}") from error


def require_trees() -> None:
    """Check that LightGBM is there, before hours of work are to end in it.

    Raises:
        ModelError: It is not installed; the message says how to install it.
    """
    if find_spec("lightgbm") is None:
        raise ModelError("lightgbm is not installed: pip install 'textsiam[trees]'")


def grow(
    features: NDArray[np.float64], labels: NDArray[np.integer], *, rising: Sequence[int] = ()
) -> tuple[Trees, Trees]:
    """Grow a random forest (Breiman 2001) and boosted trees (Friedman 2001), which err in other places.

    Boosting goes on until a tenth of the rows is no longer better for it, and is done again with as many trees on all
    rows. The order of the rows does not matter.

    Args:
        features: `(n, k)`.
        labels: `(n,)`, 0 or 1.
        rising: Features that never lower the probability when they rise.

    Raises:
        ModelError: LightGBM is not installed.
    """
    require_trees()
    from lightgbm import Dataset, train

    order = np.lexsort([labels, *features.T])
    rows, truth = features[order], labels[order]
    common = {**_COMMON, "monotone_constraints": np.isin(np.arange(rows.shape[1]), rising).astype(int).tolist()}
    forest = train({**common, **_FOREST}, Dataset(rows, truth), _MOST["forest"])
    held = np.random.default_rng(0).random(len(truth)) < 0.1
    seen = Dataset(rows[~held], truth[~held])
    watched = [seen.create_valid(rows[held], truth[held])]
    first = train({**common, **_BOOSTED, "early_stopping_round": 20}, seen, _MOST["boosted"], valid_sets=watched)
    boosted = train({**common, **_BOOSTED}, Dataset(rows, truth), first.best_iteration)
    return Trees(forest), Trees(boosted)
