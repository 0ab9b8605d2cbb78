"""Verification: is this input of the claimed identity? False accepts against false rejects, at every threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textsiam.decision.calibration import binary_labels, check_fraction, finite_scores
from textsiam.decision.intervals import Estimate, Units, interval
from textsiam.evaluation.binary import Report, binary_report, lines
from textsiam.evaluation.pairs import PairScorer, evaluate_pairs

if TYPE_CHECKING:
    from textsiam.data.pairs import Pairs
    from textsiam.decision.decision import Decision

FALSE_ACCEPT_RATES = (0.01, 0.001)


@dataclass(frozen=True)
class VerificationReport(Report):
    """How well a score tells pairs of one identity (genuine) from pairs of two (impostors).

    Attributes:
        genuine: pairs of one identity.
        impostors: pairs of two identities.
        roc_auc: chance that a genuine pair outscores an impostor pair, ties counted as one half.
        eer: equal error rate, where false accept rate = false reject rate.
        eer_threshold: the score from which on accepting comes nearest to equal rates.
        tar_at_far: false accept rate → true accept rate there; None where it cannot be measured.
        unmeasured: false accept rate → why there is no figure.
        accuracy: share of pairs judged right at `threshold`.
        false_accept_rate: share of the impostor pairs accepted at `threshold`.
        false_reject_rate: share of the genuine pairs rejected at `threshold`.
        threshold: given, never fitted here.
    """

    genuine: int
    impostors: int
    roc_auc: Estimate
    eer: Estimate
    eer_threshold: float
    tar_at_far: dict[float, Estimate | None]
    unmeasured: dict[float, str]
    accuracy: Estimate
    false_accept_rate: float
    false_reject_rate: float
    threshold: float

    def __str__(self) -> str:
        """Return one line a measure."""
        rows = {
            "pairs": f"{self.genuine} genuine, {self.impostors} impostors",
            "ROC-AUC": self.roc_auc,
            "EER": f"{self.eer} at {self.eer_threshold:.3f}",
        }
        for far, estimate in self.tar_at_far.items():
            rows[f"TAR@FAR {100 * far:g} %"] = self.unmeasured[far] if estimate is None else estimate
        rows["accuracy"] = f"{self.accuracy} at {self.threshold:.3f}"
        return lines(rows)


def verification_report(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    threshold: float,
    false_accept_rates: Sequence[float] = FALSE_ACCEPT_RATES,
    units: Units | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> VerificationReport:
    """Measure a score as a verifier: a pair is accepted when `score >= t`.

    FAR(t) = accepted impostors / impostors, FRR(t) = rejected genuine / genuine, TAR(t) = 1 - FRR(t).

    * The equal error rate is where the ROC, drawn with straight lines between its points, crosses FAR = FRR;
      equal scores are one point. ISO/IEC 19795-1, "Biometric performance testing and reporting".
    * TAR@FAR f is the largest TAR(t) over all t with FAR(t) <= f, without interpolation: at most
      k = ⌊f · impostors⌋ impostors are accepted, so it is the share of the genuine pairs that score above the
      (k + 1)-th highest impostor. Fewer than 1/f impostors cannot show such a rate: then there is no figure.

    ROC-AUC, accuracy and the way intervals are made are those of `textsiam.evaluation.binary.binary_report`.

    Args:
        scores: (n,) similarities, larger is closer.
        labels: (n,) 1 genuine, 0 impostor.
        threshold: fitted on other pairs.
        false_accept_rates: the rates f, each between 0 and 1.
        units: as for `binary_report`.
        bootstrap: number of resamples, 0 for none.
        seed: of the bootstrap.

    Raises:
        ValueError: if a score is not finite, a label is not 0 or 1, a class is missing, or a rate is not
            between 0 and 1.

    Example:
        >>> report = verification_report([0.9, 0.8, 0.3, 0.1], [1, 0, 1, 0], threshold=0.5, bootstrap=0)
        >>> report.eer.value, report.false_accept_rate
        (0.5, 0.5)
    """
    rates = [check_fraction(rate, name="false accept rate") for rate in false_accept_rates]
    pairwise = binary_report(scores, labels, threshold=threshold, units=units, bootstrap=bootstrap, seed=seed)
    s = finite_scores(scores)
    genuine = binary_labels(labels, count=s.size) == 1
    impostors = int(s.size - pairwise.positives)
    measured = [rate for rate in rates if impostors >= 1.0 / rate - 1e-9]
    order = np.argsort(-s, kind="stable")
    drawn = Units.alone(s.size) if units is None else units.reordered(order)
    found = _measure(s[order], genuine[order], measured, drawn, bootstrap=bootstrap, seed=seed)
    values, replicates, eer_threshold = found
    note = "" if units is None or not bootstrap else units.too_few(genuine, ~genuine)
    eer, *tars = (interval(value, sample, note=note) for value, sample in zip(values, replicates.T, strict=True))
    shown = dict(zip(measured, tars, strict=True))
    return VerificationReport(
        genuine=pairwise.positives,
        impostors=impostors,
        roc_auc=pairwise.roc_auc,
        eer=eer,
        eer_threshold=eer_threshold,
        tar_at_far={rate: shown.get(rate) for rate in rates},
        unmeasured={rate: too_few(rate, impostors, "impostor pairs") for rate in rates if rate not in shown},
        accuracy=pairwise.accuracy,
        false_accept_rate=float(np.mean(s[~genuine] >= threshold)),
        false_reject_rate=float(np.mean(s[genuine] < threshold)),
        threshold=pairwise.threshold,
    )


def evaluate_verification(
    twin: PairScorer,
    pairs: Pairs,
    *,
    decision: Decision | None = None,
    false_accept_rates: Sequence[float] = FALSE_ACCEPT_RATES,
    bootstrap: int = 1000,
    seed: int = 0,
) -> VerificationReport:
    """Score the pairs with the twin and measure it as a verifier, at the threshold of its decision.

    Args:
        twin: anything with `pair_similarity(texts, left, right)` and `decision`.
        pairs: labelled pairs that took no part in training or calibration.
        decision: used in place of the twin's own.
        false_accept_rates: as for `verification_report`.
        bootstrap: as for `verification_report`.
        seed: as for `verification_report`.

    Raises:
        ValueError: as for `textsiam.evaluation.pairs.evaluate_pairs` and `verification_report`.
    """
    if decision is None and twin.decision is None:
        raise ValueError("the twin has no decision, so a score has no threshold: calibrate it, or give decision=")
    scored = evaluate_pairs(twin, pairs, decision=decision, bootstrap=0)
    return verification_report(
        scored.similarities,
        scored.labels,
        threshold=scored.threshold,
        false_accept_rates=false_accept_rates,
        units=scored.units,
        bootstrap=bootstrap,
        seed=seed,
    )


def allowed(rate: float, count: int | NDArray[np.int64]) -> Any:
    """Return how many of `count` a rate allows, ⌊rate · count⌋, where 0.07 · 100 is seven."""
    return np.floor(rate * np.asarray(count) + 1e-9).astype(np.int64)


def too_few(rate: float, count: int, what: str) -> str:
    """Return why a rate cannot be measured."""
    needed = math.ceil(1.0 / rate - 1e-9)
    return f"not measured: a rate of {100 * rate:g} % needs at least {needed} {what}, got {count}"


def _measure(
    scores: NDArray[np.float64],
    genuine: NDArray[np.bool_],
    rates: Sequence[float],
    units: Units,
    *,
    bootstrap: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return EER and TARs (1 + rates,), their replicates (bootstrap, 1 + rates), and the threshold of the EER."""
    levels, level = np.unique(-scores, return_inverse=True)
    cells = 2 * level + genuine  # a score and a class: what a drawn pair is counted under

    def points(weights: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        counts = np.bincount(cells, weights, minlength=2 * levels.size).astype(np.int64).reshape(-1, 2)
        return np.concatenate([np.zeros((1, 2), np.int64), counts.cumsum(axis=0)])

    values, at = _rates(points(), rates)
    replicates = np.array([
        _rates(points(row), rates)[0] for chunk in units.weights(bootstrap, seed) for row in chunk
    ])  # fmt: skip
    return values, replicates.reshape(-1, 1 + len(rates)), float(-levels[max(at - 1, 0)])


def _rates(accepted: NDArray[np.int64], rates: Sequence[float]) -> tuple[NDArray[np.float64], int]:
    """Return EER and TARs, and the ROC point nearest to equal rates.

    `accepted` (points, 2) counts the impostor and genuine pairs accepted at each point, the strictest first.
    """
    impostors, genuine = accepted[-1]
    if not impostors or not genuine:
        return np.full(1 + len(rates), np.nan), 0
    # FAR - FRR, times both counts: exact, and it never falls from one point to the next
    gap = accepted[:, 0] * genuine - (genuine - accepted[:, 1]) * impostors
    after = int(np.searchsorted(gap, 0))
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    eer = (accepted[after - 1, 0] + share * (accepted[after, 0] - accepted[after - 1, 0])) / impostors
    last = [np.searchsorted(accepted[:, 0], allowed(rate, impostors), side="right") - 1 for rate in rates]
    return np.array([eer, *(accepted[last, 1] / genuine)]), after if gap[after] < -gap[after - 1] else after - 1
