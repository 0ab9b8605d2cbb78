"""Calibrating a gallery: the thresholds of claims and of searches, and what they promise of identities never seen."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from textsiam.decision.intervals import Estimate
from textsiam.search.galleries.unseen import independent_pairs, random_effects_bound, worst_case_bound
from textsiam.search.operating_point import OperatingPoint, fit_operating_point


def fit_verification(
    scores: NDArray[np.float32], own: NDArray[np.int64], who: NDArray[np.int64], *, far: float, prior: float
) -> OperatingPoint:
    """Choose when a claim is accepted, and bound the false accept rate among identities never seen.

    Args:
        scores: Similarities (probes, enrolled).
        own: (probes,) the column of the probe's own identity, -1 where it is not enrolled: all of it are impostors.
        who: (probes,) the number of the probe's identity, from 0 on without a gap.
        far: As for `fit_operating_point`.
        prior: As for `fit_operating_point`.

    Raises:
        ValueError: As for `fit_operating_point`.
    """
    known = np.flatnonzero(own >= 0)
    impostor = np.ones(scores.shape, bool)
    impostor[known, own[known]] = False
    weights = np.broadcast_to(_alike(who)[:, None], scores.shape)[impostor]
    genuine = scores[known, own[known]]
    point = fit_operating_point(
        genuine, scores[impostor], far=far, prior=prior, enrolled=1, names=who[known], weights=weights
    )
    both = np.unique(who[known]).size
    pairs = independent_pairs(np.unique(who).size, scores.shape[1], both)
    # at the rate asked for and not at the one reached: the threshold was searched, and so the bound still holds
    bound = random_effects_bound(scores, impostor, who, own, far)
    stated = Estimate(point.false_accepts.value, 0.0, bound)
    return replace(point, false_accepts=stated, worst_case=worst_case_bound(far, pairs), probes=len(scores))


def fit_identification(
    scores: NDArray[np.float32], own: NDArray[np.int64], who: NDArray[np.int64], *, far: float, prior: float
) -> OperatingPoint:
    """Choose when the best identity is named; impostors are the best similarities to others than the own identity.

    Strangers, who are not enrolled, are drawn independently for this gallery, and so bound how many of those never seen
    are named. Those enrolled, taken out in turn, do not: each looks for itself in a gallery of its own.

    Args:
        scores: As for `fit_verification`; so are the others.
        own: (probes,)
        who: (probes,)
        far: The share of strangers that is named at most.
        prior: As for `fit_operating_point`.

    Raises:
        ValueError: As for `fit_operating_point`.
    """
    known, strangers = np.flatnonzero(own >= 0), own < 0
    others = scores.copy()
    others[known, own[known]] = -np.inf
    best, genuine = others.max(axis=1), scores[known, own[known]]
    rates = {"far": far, "prior": prior, "enrolled": scores.shape[1] - 1}
    found = genuine > best[known]
    point = fit_operating_point(genuine, best, **rates, found=found, names=who[known], weights=_alike(who))
    note = "no bound: that takes probes of identities that are not enrolled"
    stated, bound = Estimate(point.false_accepts.value, math.nan, math.nan, note), None
    if strangers.any():
        named = best[strangers].astype(np.float64) >= point.decision.threshold
        rate = float(np.average(named, weights=_alike(who)[strangers]))
        bound = worst_case_bound(rate, np.unique(who[strangers]).size)
        stated = Estimate(point.false_accepts.value, 0.0, max(bound, point.false_accepts.value))
    return replace(point, false_accepts=stated, worst_case=bound, probes=len(scores))


def _alike(who: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the weight of each probe with which all identities count alike."""
    return 1.0 / np.bincount(who)[who]
