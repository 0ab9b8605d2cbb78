"""Where a gallery accepts: thresholds at a stated rate of false accepts, and what they reached."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textsiam.decision.calibration import check_fraction
from textsiam.decision.decision import Decision, fit_decision
from textsiam.decision.intervals import Estimate, clustered_rate
from textsiam.decision.thresholds import operating_points

_RATES = ("false_accepts", "true_accepts")
_FITTED = 200_000  # impostor comparisons that the probability is fitted on at most


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """A threshold, and what it reached on the probes that it was chosen on.

    Attributes:
        decision: Threshold and probabilities.
        far: The false accept rate that was asked for, on the calibration probes.
        false_accepts: The share of impostors accepted there, each identity counted alike; its `high` is an upper bound,
            with 95 % confidence, of the rate among identities never seen (`textsiam.search.galleries.unseen`).
        true_accepts: The share of genuine probes accepted there.
        enrolled: How many identities an impostor was compared with: 1 for a claimed identity.
        probes: How many inputs were looked up.
        worst_case: The bound that holds whatever identities are like; None where an older version calibrated.
    """

    decision: Decision
    far: float
    false_accepts: Estimate
    true_accepts: Estimate
    enrolled: int
    probes: int
    worst_case: float | None = None

    def false_accepts_among(self, enrolled: int) -> float:
        """Return the false accept rate to expect among another number of enrolled identities.

        1 - (1 - f)^(n' / n), with the rate f measured among n: the law of the largest of n' draws. It takes the
        similarities of one input to different strangers as independent; families of lookalikes make it too large
        for more identities than were measured. Grother and Phillips, "Models of Large Population Recognition
        Performance", 2004.

        Raises:
            ValueError: `enrolled` is negative.
        """
        if enrolled < 0:
            raise ValueError(f"the number enrolled must be >= 0, got {enrolled}")
        return -math.expm1(enrolled / self.enrolled * math.log1p(-min(self.false_accepts.value, 1.0 - 1e-12)))

    def promised(self) -> dict[str, float | None]:
        """Return what is known of false accepts: their share of the probes, and the two bounds."""
        bound = None if self.worst_case is None else self.false_accepts.high  # an interval of 0.1 bounds nothing
        return {"false_accepts": self.false_accepts.value, "bound": bound, "worst_case": self.worst_case}

    def __str__(self) -> str:
        """Return what is known of false accepts, in words."""
        rate = f"{self.false_accepts.value:.2%} of these impostors accepted"
        if self.worst_case is None:
            return f"{rate}, {self.false_accepts.note or 'no bound'}"
        return f"{rate}, at most {self.false_accepts.high:.1%} of those never seen ({self.worst_case:.1%} at worst)"

    def metadata(self) -> dict[str, Any]:
        """Return what fits in JSON; with the tensors of the decision it restores the point."""
        rates = {name: getattr(self, name).to_dict() for name in _RATES}
        return {**vars(self), "decision": self.decision.metadata(), **rates}

    @classmethod
    def restore(cls, facts: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> OperatingPoint:
        """Return the point that gave these facts and tensors.

        Raises:
            KeyError: A fact is missing.
            ValueError: As for `Decision.restore`.
        """
        decision = Decision.restore(facts["decision"], tensors)
        rates = {name: Estimate.restore(facts[name]) for name in _RATES}
        given = {name: facts[name] for name in ("far", "enrolled", "probes")}
        return cls(decision=decision, **rates, **given, worst_case=facts.get("worst_case"))


def fit_operating_point(
    genuine: NDArray[np.float32],
    impostors: NDArray[np.float32],
    *,
    far: float,
    prior: float,
    enrolled: int,
    found: NDArray[np.bool_] | None = None,
    names: ArrayLike | None = None,
    weights: NDArray[np.float64] | None = None,
) -> OperatingPoint:
    """Choose the lowest threshold whose false accept rate on the impostors is at most `far`; no bound is stated.

    Args:
        genuine: Similarity (probes,) of each probe to its own identity.
        impostors: Similarities of probes to others, of any shape.
        far: The rate asked for.
        prior: Share of genuine inputs where the gallery is used, for the probability.
        enrolled: How many identities stand behind each impostor similarity.
        found: (probes,) whether the own identity is the best one; otherwise a probe is not accepted rightly.
        names: (probes,) whose each probe is: those of one identity depend on each other. None: each of another one.
        weights: How much each impostor counts, shaped like them; None for all alike.

    Raises:
        ValueError: There are fewer than 1 / far impostors, or too few probes for a probability.
    """
    if not genuine.size:
        raise ValueError("none of the calibration inputs is of an enrolled identity, so that nothing can be accepted")
    if impostors.size < 1.0 / far - 1e-9:
        raise ValueError(
            f"a false accept rate of {far:g} needs at least {math.ceil(1.0 / far - 1e-9)} impostor comparisons, got "
            f"{impostors.size}: give more calibration inputs, or a larger far"
        )
    flat = impostors.ravel()
    scores = np.concatenate([genuine, flat])
    labels = np.r_[np.ones(genuine.size, np.int8), np.zeros(flat.size, np.int8)]
    thresholds = operating_points(scores, labels).thresholds
    order = np.argsort(flat, kind="stable")
    weight = np.ones(flat.size) if weights is None else weights.ravel()[order]
    above = np.r_[weight[::-1].cumsum()[::-1], 0.0] / weight.sum()
    rates = above[np.searchsorted(flat[order].astype(np.float64), thresholds)]
    last = int(np.searchsorted(rates, far + 1e-9, side="right")) - 1
    threshold = float(thresholds[last])
    if flat.size > _FITTED:
        fitted = np.random.default_rng(0).choice(flat.size, _FITTED, replace=False)
        kept = np.r_[np.arange(genuine.size), genuine.size + np.sort(fitted)]
        scores, labels = scores[kept], labels[kept]
    accepted = genuine.astype(np.float64) >= threshold
    return OperatingPoint(
        decision=fit_decision(scores, labels, prior=check_fraction(prior, name="prior")).at_threshold(threshold),
        far=far,
        false_accepts=Estimate(float(rates[last]), math.nan, math.nan, "no bound"),
        true_accepts=clustered_rate((accepted if found is None else accepted & found)[:, None], names=names),
        enrolled=enrolled,
        probes=genuine.size,
    )
