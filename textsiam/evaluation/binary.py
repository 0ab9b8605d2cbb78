"""How well a score tells duplicates from other pairs: ranking, decisions at a threshold, calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textsiam.decision.calibration import binary_labels, finite_scores
from textsiam.decision.intervals import Estimate, Units, interval, plain

RECALLS = (0.5, 0.8, 0.9, 0.95)
BINS = 15
_NARROW_SPREAD = 0.05
_RANDOM_LIMIT = 0.9


@dataclass(frozen=True)
class Report:
    """What all dataclasses of figures have in common."""

    def to_dict(self) -> dict[str, Any]:
        """Return what fits in JSON: estimates as dicts, keys as strings, nan as None."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


def lines(rows: Mapping[str, object]) -> str:
    """Lay out measures as text: one a line, the names padded to one width."""
    width = max(map(len, rows)) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in rows.items())


def _plain(value: Any) -> Any:
    if isinstance(value, (Report, Estimate)):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {f"{key:g}" if isinstance(key, float) else str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return plain(value) if isinstance(value, float) else value


@dataclass(frozen=True)
class BinaryReport(Report):
    """The figures of one scorer on n labelled pairs.

    The threshold is given, never fitted here; without one it is nan, and so is whatever needs one. `precision` is nan
    where nothing is flagged;
    `calibration_error`, `log_loss` (nats) and `brier` are None without probabilities. `score_spread` holds
    the 1 %, 50 % and 99 % quantiles of the scores, `random_median` the median score of unrelated pairs.
    """

    n: int
    positives: int
    average_precision: Estimate
    roc_auc: Estimate
    accuracy: Estimate
    f1: Estimate
    precision: float
    recall: float
    threshold: float
    precision_at_recall: dict[float, float]
    calibration_error: Estimate | None
    log_loss: float | None
    brier: float | None
    score_spread: tuple[float, float, float]
    random_median: float | None
    saturated: bool


@dataclass(frozen=True)
class _Sorted:
    """Scores sorted from large to small with what the metrics need, so that a resample is a row of counts."""

    labels: NDArray[np.float64]
    order: NDArray[np.int64]  # of the pairs as they were given
    ends: NDArray[np.int64]  # last position of each group of equal scores
    flagged: int  # how many scores reach the threshold
    gaps: NDArray[np.float64] | None  # (n, BINS)

    def metrics(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (5, replicates): AP, ROC-AUC, accuracy, F1, ECE for counts (replicates, n)."""
        true = np.cumsum(counts * self.labels, axis=1)
        seen = np.cumsum(counts, axis=1)
        tp = true[:, self.flagged - 1] if self.flagged else np.zeros(len(counts))
        called = seen[:, self.flagged - 1] if self.flagged else np.zeros(len(counts))
        true, seen = true[:, self.ends], seen[:, self.ends]
        total, positives = seen[:, -1], true[:, -1]
        negatives = total - positives
        new_true = np.diff(true, axis=1, prepend=0.0)
        precision = true / np.maximum(seen, 1.0)
        false = seen - true
        # a duplicate outranks the negatives that come after it, and half of those with its own score
        outranked = negatives[:, None] - (false + np.concatenate([np.zeros((len(counts), 1)), false[:, :-1]], 1)) / 2.0
        with np.errstate(divide="ignore", invalid="ignore"):
            accuracy = (negatives - (called - tp) + tp) / total
            error = np.full(len(counts), np.nan)
            if self.gaps is not None:
                error = np.abs(counts @ self.gaps).sum(axis=1) / total
            ranking = np.einsum("ij,ij->i", new_true, precision) / positives
            auc = np.einsum("ij,ij->i", new_true, outranked) / (positives * negatives)
            f1 = 2.0 * tp / (called + positives)
        return np.stack([ranking, auc, accuracy, f1, error])


def equal_mass_bins(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bin (n,) of each probability, 0 to 14, equally filled; equal ones share a bin."""
    _, inverse, counts = np.unique(probabilities, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2.0
    return np.minimum((middle * BINS / probabilities.size).astype(np.int64), BINS - 1)[inverse]


def _gaps(probabilities: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (n, BINS): label minus probability in the column of the row's bin, 0 elsewhere."""
    gaps = np.zeros((labels.size, BINS))
    gaps[np.arange(labels.size), equal_mass_bins(probabilities)] = labels - probabilities
    return gaps


def calibration_error(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the expected calibration error in 15 bins of equal mass.

    ECE = Σ_b (n_b / n) · |mean label - mean probability in bin b|. Bins hold equal numbers of pairs (not
    equal widths, which leave bins empty); equal probabilities are never parted.
    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015.
    """
    p = finite_scores(probabilities, name="probability")
    y = binary_labels(labels, count=p.size).astype(np.float64)
    return float(np.abs(_gaps(p, y).sum(axis=0)).sum() / p.size)


def _estimates(data: _Sorted, units: Units | None, *, bootstrap: int, seed: int) -> list[Estimate]:
    """Return the five metrics with their percentile intervals."""
    values = data.metrics(np.ones((1, data.labels.size)))[:, 0]
    if bootstrap == 0:
        return [Estimate(float(v), math.nan, math.nan) for v in values]
    if units is None:
        falling, note = Units.alone(data.labels.size), ""
    else:
        falling = units.reordered(data.order)
        note = falling.too_few(data.labels == 1, data.labels == 0)
    if note:
        return [Estimate(float(v), math.nan, math.nan, note) for v in values]
    chunks = (data.metrics(counts.astype(np.float64)) for counts in falling.weights(bootstrap, seed))
    # a resample of a tiny set may hold one class only, where a ranking has no meaning
    return [interval(v, sample) for v, sample in zip(values, np.concatenate(list(chunks), axis=1), strict=True)]


def _precision_at_recall(data: _Sorted) -> dict[float, float]:
    """Return the precision at the strictest threshold that reaches each of the fixed recalls."""
    true = np.cumsum(data.labels)[data.ends]
    result = {}
    for recall in RECALLS:
        first = int(np.searchsorted(true, recall * true[-1]))
        result[recall] = float(true[first] / (data.ends[first] + 1))
    return result


def _saturation(
    scores: NDArray[np.float64], random_scores: NDArray[np.float64] | None
) -> tuple[tuple[float, float, float], float | None, bool]:
    """Return the 1, 50, 99 % quantiles, the median of the unrelated pairs, and the alarm."""
    low, middle, high = (float(q) for q in np.quantile(scores, [0.01, 0.5, 0.99]))
    saturated = high - low < _NARROW_SPREAD * max(1.0, abs(middle))
    median = None if random_scores is None or random_scores.size == 0 else float(np.median(random_scores))
    if median is not None and np.abs(scores).max() <= 1.001:  # the limit is one of cosines
        saturated = saturated or median > _RANDOM_LIMIT
    return (low, middle, high), median, saturated


def binary_report(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    threshold: float | None,
    probabilities: ArrayLike | None = None,
    random_scores: ArrayLike | None = None,
    units: Units | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> BinaryReport:
    """Measure a score on labelled pairs.

    AP = Σ_k (R_k - R_{k-1}) · P_k over the distinct scores, ROC-AUC counts ties as one half, accuracy and
    F1 are those of `scores >= threshold`. The intervals are percentile intervals of a bootstrap that draws
    units (not stratified: the share of duplicates varies as it would in another sample); where duplicates,
    or others, are of fewer than ten of them, a note stands in the place of the interval. The interval of the
    calibration error leans upwards, as noise can only add to an absolute value.

    Args:
        scores: (n,) similarities, larger is closer.
        labels: (n,) 1 duplicate, 0 not.
        threshold: fitted on other pairs; None measures the ranking alone.
        probabilities: (n,) of being a duplicate, for the calibration error, log loss and Brier score.
        random_scores: scores of unrelated pairs; a median cosine above 0.9 raises the saturation alarm.
        units: what is drawn, `Units.of_pairs(pairs)`; None takes every pair as one, independent of all others.
        bootstrap: number of resamples, 0 for none.
        seed: of the bootstrap.

    Raises:
        ValueError: if a score is not finite, a label is not 0 or 1, a probability is not in [0, 1], or a
            class is missing.

    Example:
        >>> report = binary_report([0.9, 0.8, 0.3, 0.1], [1, 0, 1, 0], threshold=0.5, bootstrap=0)
        >>> round(report.average_precision.value, 4), report.accuracy.value
        (0.8333, 0.5)
    """
    s = finite_scores(scores, name="score")
    if s.ndim != 1:
        raise ValueError(f"scores must be one-dimensional, got shape {s.shape}")
    y = binary_labels(labels, count=s.size)
    positives = int(y.sum())
    if positives == 0 or positives == s.size:
        raise ValueError(
            f"a report needs both classes, got {positives} duplicates and {s.size - positives} non-duplicates"
        )
    if threshold is not None and not math.isfinite(threshold):
        raise ValueError(f"threshold must be a finite number, got {threshold}")
    if bootstrap < 0:
        raise ValueError(f"bootstrap must be >= 0, got {bootstrap}")
    p = None if probabilities is None else _checked_probabilities(probabilities, count=s.size)
    data = _sort(s, y, p, math.inf if threshold is None else threshold)
    ranking, auc, accuracy, f1, error = _estimates(data, units, bootstrap=bootstrap, seed=seed)
    if threshold is None:
        accuracy = f1 = Estimate(math.nan, math.nan, math.nan, "no threshold")
    flagged = s >= (math.inf if threshold is None else threshold)
    hits = int(y[flagged].sum())
    extra = None if random_scores is None else finite_scores(random_scores, name="random score")
    spread, random_median, saturated = _saturation(s, extra)
    return BinaryReport(
        n=s.size,
        positives=positives,
        average_precision=ranking,
        roc_auc=auc,
        accuracy=accuracy,
        f1=f1,
        precision=hits / int(flagged.sum()) if flagged.any() else math.nan,
        recall=math.nan if threshold is None else hits / positives,
        threshold=math.nan if threshold is None else float(threshold),
        precision_at_recall=_precision_at_recall(data),
        calibration_error=None if p is None else error,
        log_loss=None if p is None else _log_loss(p, y),
        brier=None if p is None else float(np.mean((p - y) ** 2)),
        score_spread=spread,
        random_median=random_median,
        saturated=saturated,
    )


def _checked_probabilities(probabilities: ArrayLike, *, count: int) -> NDArray[np.float64]:
    """Return the probabilities as float64 (count,), each in [0, 1]."""
    p = finite_scores(probabilities, name="probability")
    if p.shape != (count,):
        raise ValueError(f"expected one probability for each of {count} scores, got shape {p.shape}")
    bad = np.flatnonzero((p < 0.0) | (p > 1.0))
    if bad.size:
        raise ValueError(f"probability[{bad[0]}] is {p[bad[0]]}, expected a number in [0, 1]")
    return p


def _sort(
    scores: NDArray[np.float64], labels: NDArray[np.int8], p: NDArray[np.float64] | None, threshold: float
) -> _Sorted:
    """Return the data in falling order of score."""
    order = np.argsort(-scores, kind="stable")
    falling, truth = scores[order], labels[order].astype(np.float64)
    return _Sorted(
        labels=truth,
        order=order,
        ends=np.flatnonzero(np.append(falling[1:] != falling[:-1], True)),
        flagged=int((scores >= threshold).sum()),
        gaps=None if p is None else _gaps(p[order], truth),
    )


def _log_loss(p: NDArray[np.float64], labels: NDArray[np.int8]) -> float:
    """Return the mean negative log-likelihood in nats, infinite where a certain probability is wrong."""
    likelihood = np.where(labels == 1, p, 1.0 - p)
    with np.errstate(divide="ignore"):
        return float(-np.mean(np.log(likelihood)))
