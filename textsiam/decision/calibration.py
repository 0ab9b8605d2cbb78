"""From a score to a probability: Platt scaling, isotonic regression, and the shift to another prior."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

logger = logging.getLogger(__name__)

MINIMUM_PER_CLASS = 5
_FOLDS = 5
_LOG_ODDS_LIMIT = 30.0  # probabilities stay in [1e-13, 1 - 1e-13], so every log loss is finite
_REVERSED_AUC = 0.25


def finite_scores(scores: ArrayLike, *, name: str = "similarity") -> NDArray[np.float64]:
    """Return the scores as float64, of any shape, and refuse NaN and infinity by position.

    Raises:
        ValueError: if a score is not finite.
    """
    array = np.asarray(scores, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(
            f"{name}[{bad[0]}] is {array.flat[bad[0]]}, expected a finite number; "
            f"{bad.size} of {array.size} are not finite"
        )
    return array


def binary_labels(labels: ArrayLike, *, count: int) -> NDArray[np.int8]:
    """Return the labels as int8 of shape (count,), each 0 or 1.

    Raises:
        ValueError: if there is another number of labels, or a value other than 0 and 1.
    """
    array = np.asarray(labels)
    if array.shape != (count,):
        raise ValueError(f"expected one label for each of {count} scores, got labels of shape {array.shape}")
    bad = np.flatnonzero((array != 0) & (array != 1))
    if bad.size:
        raise ValueError(
            f"labels[{bad[0]}] is {array[bad[0]]}, expected 0 (not a duplicate) or 1 (duplicate); "
            f"{bad.size} of {count} are neither"
        )
    return array.astype(np.int8)


def check_fraction(value: float, *, name: str) -> float:
    """Return the value as a float and refuse it outside the open interval (0, 1)."""
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must be between 0 and 1, both excluded, got {value}")
    return float(value)


def log_odds(probability: ArrayLike) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) for probabilities strictly between 0 and 1."""
    p = np.asarray(probability, dtype=np.float64)
    return np.log(p / (1.0 - p))


def from_log_odds(value: ArrayLike) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-value)), non-decreasing in value and kept 1e-13 away from 0 and 1."""
    return 1.0 / (1.0 + np.exp(-np.clip(value, -_LOG_ODDS_LIMIT, _LOG_ODDS_LIMIT)))


def prior_shift(old: float, new: float) -> float:
    """Return what a change of the prior adds to the log odds: logit(new) - logit(old).

    Only the share of duplicates may change between the two places, not how the scores of duplicates
    (or of non-duplicates) are spread. Elkan, "The Foundations of Cost-Sensitive Learning", 2001;
    Saerens et al., "Adjusting the Outputs of a Classifier to New a Priori Probabilities", 2002.
    """
    return float(log_odds(new) - log_odds(old))


@dataclass(frozen=True)
class Platt:
    """Logistic calibration: P(duplicate | s) = 1 / (1 + exp(-(slope · s + intercept))), slope ≥ 0.

    Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
    """

    slope: float
    intercept: float

    def log_odds(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log odds of a duplicate, shaped like the scores."""
        return self.slope * scores + self.intercept


@dataclass(frozen=True, eq=False)
class Isotonic:
    """Non-decreasing calibration, linear between its knots and flat outside them.

    `knots` (k,) are increasing scores, `probabilities` (k,) their values, both float64.
    Zadrozny and Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates", 2002.
    """

    knots: NDArray[np.float64] = field(repr=False)
    probabilities: NDArray[np.float64] = field(repr=False)

    def log_odds(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log odds of a duplicate, shaped like the scores."""
        if self.knots.size == 1:
            return np.full(scores.shape, log_odds(self.probabilities[0]))
        inside = np.clip(scores, self.knots[0], self.knots[-1])
        right = np.clip(np.searchsorted(self.knots, inside, side="right"), 1, self.knots.size - 1)
        low, high = self.probabilities[right - 1], self.probabilities[right]
        start = self.knots[right - 1]
        weight = (inside - start) / (self.knots[right] - start)
        # the minimum keeps rounding from stepping over the next knot, which would break monotonicity
        return log_odds(np.minimum(low + (high - low) * weight, high))


Calibrator = Platt | Isotonic


def _smoothed(positives: int, negatives: int) -> tuple[float, float]:
    """Return Platt's targets for a non-duplicate and a duplicate: Laplace's rule for each class."""
    return 1.0 / (negatives + 2.0), (positives + 1.0) / (positives + 2.0)


def fit_logistic(
    design: NDArray[np.float64],
    targets: NDArray[np.float64],
    *,
    centre: NDArray[np.float64],
    width: float = np.inf,
    offset: float | NDArray[np.float64] = 0.0,
) -> NDArray[np.float64]:
    """Minimise the logistic loss of z = design · w + offset by Newton steps with halving (Armijo's rule).

    loss(w) = Σ [log(1 + exp(zᵢ)) - tᵢ zᵢ] + ‖w - centre‖² / (2 width²), which is convex.

    Args:
        design: (n, k).
        targets: (n,) in [0, 1].
        centre: (k,) where w starts, and what it is shrunk towards.
        width: standard deviation of the Gaussian prior around the centre; infinite for none.
        offset: added to z, (n,) or one number.

    Returns:
        w (k,), where the gradient is below 1e-10 n, or below what float64 resolves.
    """

    def loss(w: NDArray[np.float64]) -> float:
        z = design @ w + offset
        return float(np.sum(np.logaddexp(0.0, z) - targets * z) + np.sum((w - centre) ** 2) / (2.0 * width**2))

    weights = centre.astype(np.float64)
    current = loss(weights)
    for _ in range(100):
        p = from_log_odds(design @ weights + offset)
        gradient = design.T @ (p - targets) + (weights - centre) / width**2
        hessian = design.T @ (design * (p * (1.0 - p))[:, None]) + (1e-12 + width**-2.0) * np.eye(centre.size)
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while scale > 1e-10 and loss(weights - scale * step) > current - 1e-4 * scale * float(gradient @ step):
            scale /= 2.0
        if scale <= 1e-10:
            break
        weights = weights - scale * step
        current = loss(weights)
        if np.max(np.abs(gradient)) < 1e-10 * targets.size:
            break
    return weights


def fit_platt(scores: NDArray[np.float64], labels: NDArray[np.int8]) -> Platt:
    """Fit Platt scaling to scores (n,) and labels (n,), with smoothed targets and no penalty.

    The targets are (N₊ + 1) / (N₊ + 2) and 1 / (N₋ + 2), so separable scores have a finite fit. A slope
    that would be negative becomes 0: a larger similarity never lowers the probability.
    Lin, Lin and Weng, "A Note on Platt's Probabilistic Outputs for Support Vector Machines", 2007.
    """
    positives = int(labels.sum())
    low, high = _smoothed(positives, labels.size - positives)
    targets = np.where(labels == 1, high, low)
    centre, spread = float(scores.mean()), float(scores.std())
    # equal scores have a spread of rounding errors only
    if spread > 1e-12 * max(1.0, abs(centre)):
        design = np.stack([(scores - centre) / spread, np.ones_like(scores)], axis=1)
        slope, intercept = fit_logistic(
            design, targets, centre=np.array([0.0, float(log_odds(targets.mean()))])
        ).tolist()
        if slope > 0.0:
            return Platt(slope=slope / spread, intercept=intercept - slope * centre / spread)
    return Platt(slope=0.0, intercept=float(log_odds(targets.mean())))


def fit_isotonic(scores: NDArray[np.float64], labels: NDArray[np.int8]) -> Isotonic:
    """Fit isotonic regression to scores (n,) and labels (n,), bounded by Platt's smoothed targets."""
    from sklearn.isotonic import IsotonicRegression

    positives = int(labels.sum())
    low, high = _smoothed(positives, labels.size - positives)
    fitted = IsotonicRegression(out_of_bounds="clip").fit(scores, labels.astype(np.float64))
    return Isotonic(
        knots=np.asarray(fitted.X_thresholds_, dtype=np.float64),
        probabilities=np.clip(np.asarray(fitted.y_thresholds_, dtype=np.float64), low, high),
    )


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the mean negative log-likelihood of labels (n,) by probabilities of a duplicate (n,), in nats."""
    from sklearn import metrics

    return float(metrics.log_loss(labels, probabilities))


def stratified_folds(labels: NDArray[np.int8], seed: int) -> NDArray[np.int64]:
    """Return a fold number for each row, every class spread evenly over the folds.

    Scikit-learn's `StratifiedKFold` draws others: decisions that are learned again from the same pairs would change.
    """
    rng = np.random.default_rng(seed)
    fold = np.empty(labels.size, dtype=np.int64)
    for value in (0, 1):
        rows = rng.permutation(np.flatnonzero(labels == value))
        fold[rows] = np.arange(rows.size) % _FOLDS
    return fold


def _check_direction(scores: NDArray[np.float64], labels: NDArray[np.int8]) -> None:
    """Refuse scores that rank the classes upside down, as distances or swapped labels do."""
    from sklearn.metrics import roc_auc_score

    positives = int(labels.sum())
    auc = float(roc_auc_score(labels, scores))
    noise = np.sqrt((labels.size + 1) / (12.0 * positives * (labels.size - positives)))
    if auc < _REVERSED_AUC and auc < 0.5 - 4.0 * noise:
        raise ValueError(
            f"duplicates score lower than non-duplicates (ROC-AUC {auc:.3f} on {labels.size} calibration "
            "pairs): give similarities (minus the distance), and labels with 1 = duplicate"
        )
    if auc < 0.5 - 2.0 * noise:
        logger.warning("duplicates score lower than non-duplicates (ROC-AUC %.3f): the score decides nothing", auc)


def fit_calibrator(scores: NDArray[np.float64], labels: NDArray[np.int8], *, seed: int = 0) -> Calibrator:
    """Fit Platt scaling and isotonic regression and keep the one with the smaller log loss.

    The log loss is that of five stratified folds, seeded; the one kept is then fitted to all the rows.
    Platt scaling wins ties. Scores and labels are (n,).

    Raises:
        ValueError: if a class has fewer than five pairs, or the scores rank the classes upside down.
    """
    positives = int(labels.sum())
    negatives = labels.size - positives
    if min(positives, negatives) < MINIMUM_PER_CLASS:
        raise ValueError(
            f"calibration needs at least {MINIMUM_PER_CLASS} duplicates and as many non-duplicates, "
            f"got {positives} and {negatives}: give more calibration pairs"
        )
    _check_direction(scores, labels)
    fold = stratified_folds(labels, seed)
    platt, isotonic = np.empty(labels.size), np.empty(labels.size)
    for k in range(_FOLDS):
        fit, held = fold != k, fold == k
        platt[held] = fit_platt(scores[fit], labels[fit]).log_odds(scores[held])
        isotonic[held] = fit_isotonic(scores[fit], labels[fit]).log_odds(scores[held])
    if log_loss(labels, from_log_odds(isotonic)) < log_loss(labels, from_log_odds(platt)):
        return fit_isotonic(scores, labels)
    return fit_platt(scores, labels)
