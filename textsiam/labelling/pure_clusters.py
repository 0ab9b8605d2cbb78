"""How many clusters of flagged pairs are wholly right, estimated from answers about some of the pairs.

Most of the pairs being right does not make most of the clusters right: one cluster of twenty questions holds 190
pairs, as many as 190 clusters of two. A cluster is wholly right where all of its questions are the same question. "The
same" is transitive, so one of m questions that is not falls into two parts at least, of a and m - a questions, and
holds a · (m - a) ≥ m - 1 wrong pairs: the wrong pairs expected in it, whatever their dependence, bound the chance that
there are any. Pairs that were judged right tie questions together, and leave fewer ways to fall apart.

Answers that prove a small set tell little of the pairs below it. So P(right | score) is thought over with curves that
may fall again at the top, as where opposites score best: one that only rises says of all pairs what the worst ones are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from textsiam.data.components import connected_components
from textsiam.decision.calibration import from_log_odds, log_odds
from textsiam.decision.curve import ScoreCurve
from textsiam.labelling.plan import expected_and_interval

if TYPE_CHECKING:
    from textsiam.labelling.session import Session

DRAWS = 400
_DIPPED = 0.3  # of the curves
_SIZES = 2, 3, 4, 7  # least questions of the clusters that are thought to be alike
_SHIFTS = np.linspace(-8.0, 8.0, 65)  # of the log odds of the pairs of such clusters
_BEFORE = 1.0 / (1.0 + _SHIFTS**2)  # how likely each is before any answer (Cauchy)


@dataclass(frozen=True)
class PureClusters:
    """How many of so many `clusters` are wholly right: the expectation, and an interval that holds 95 %."""

    clusters: int
    right: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return for example "about 171 (162–175) of 176 clusters are wholly right (estimate)"."""
        about = f"about {self.right:.0f} ({self.low:.0f}–{self.high:.0f})"
        shown = f"{self.right:.0f}" if self.low == self.high else about
        return f"{shown} of {self.clusters:,} clusters are wholly right (estimate)"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def pure_clusters(
    clusters: Sequence[Sequence[int]],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    stratum: NDArray[np.int64],
    answers: NDArray[np.int8],
    probability: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    noise: float = 0.0,
) -> PureClusters:
    """Estimate how many clusters are wholly right.

    Pairs of clusters of two may be right more often, or less, than pairs of larger ones at the same score: the log odds
    of each kind are shifted by what its own answers say. One of m questions that is not wholly right is taken to hold
    anything between the fewest wrong pairs that it can hold and all of its pairs (log-uniform).

    Args:
        clusters: Members of each; one without pairs, of copies of a text, is right.
        left: One end of each flagged pair of distinct texts, `(p,)`.
        right: The other end.
        stratum: Of the pair's score, `(p,)`, in 0..h-1.
        answers: 1 right, 0 wrong, -1 not judged, `(p,)`.
        probability: Draws of the share of right pairs in each stratum, `(draws, h)`.
        rng: Draws the rest.
        noise: Share of the answers that are wrong; then no single one is taken for the truth.
    """
    last = max([int(left.max(initial=0)), int(right.max(initial=0)), *(max(members) for members in clusters)])
    owner = np.full(last + 1, -1)
    for number, members in enumerate(clusters):
        owner[list(members)] = number
    inside = (owner[left] == owner[right]) & (owner[left] >= 0)
    left, right, stratum, answers = left[inside], right[inside], stratum[inside], answers[inside]
    cluster = owner[left]
    parts = _parts(np.r_[left, right], np.r_[cluster, cluster], len(clusters))
    size = np.array([len(part) for part in parts])
    kind = np.searchsorted(_SIZES, size, side="right") - 1
    p = _shifted(probability, kind[cluster], stratum, answers, noise, rng)
    known = np.full(len(answers), -1) if noise else answers
    tied = connected_components(len(owner), left[known == 1], right[known == 1])
    unknown = (known < 0) & (tied[left] != tied[right])
    count = np.zeros((len(clusters), probability.shape[1]))
    np.add.at(count, (cluster[unknown], stratum[unknown]), 1.0)
    fewest = np.array([_fewest_wrong(tied[part]) for part in parts])
    most = np.maximum(count.sum(1), fewest)
    impure = np.zeros((len(probability), len(clusters)))
    for k in range(len(_SIZES)):
        own = kind == k
        between = rng.random((len(probability), 1))
        impure[:, own] = (1.0 - p[:, k]) @ count[own].T / (fewest[own] ** (1.0 - between) * most[own] ** between)
    impure[:, np.unique(cluster[known == 0])] = 1.0
    impure = np.minimum(impure, 1.0)
    expected = float((1.0 - impure).sum(1).mean())  # it may lie beyond a quantile where nearly all draws are one number
    _, low, high = expected_and_interval((rng.random(impure.shape) >= impure).sum(1), 0.95)
    return PureClusters(len(clusters), expected, min(low, expected), max(high, expected))


def _parts(values: NDArray[np.int64], number: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """Return the distinct values that go with each of so many numbers."""
    ordered = values[np.argsort(number, kind="stable")]
    ends = np.cumsum(np.bincount(number, minlength=count))[:-1]
    return [np.unique(part) for part in np.split(ordered, ends)] if count else []


def _fewest_wrong(tied: NDArray[np.integer]) -> float:
    """Return how many pairs of a cluster are wrong if any is: a · (m - a), with its smallest part a tied together."""
    sizes = np.unique(tied, return_counts=True)[1]
    return float(sizes.min() * (sizes.sum() - sizes.min())) if len(sizes) > 1 else 1.0


def _shifted(
    probability: NDArray[np.float64],
    kind: NDArray[np.int64],
    stratum: NDArray[np.int64],
    answers: NDArray[np.int8],
    noise: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return draws of the share of right pairs by kind of cluster and stratum, `(draws, kinds, h)`."""
    draws, strata = probability.shape
    odds = log_odds(np.clip(probability, 1e-4, 1 - 1e-4))
    found = np.empty((draws, len(_SIZES), strata))
    for k in range(len(_SIZES)):
        yes, no = (np.bincount(stratum[(kind == k) & (answers == said)], minlength=strata) for said in (1, 0))
        used = np.flatnonzero(yes + no)
        p = from_log_odds(odds[:, None, used] + _SHIFTS[:, None])  # (draws, shifts, strata)
        p = p + noise * (1.0 - 2.0 * p)
        weight = np.log(p) @ yes[used] + np.log1p(-p) @ no[used] + np.log(_BEFORE)
        weight = np.exp(weight - weight.max(1, keepdims=True)).cumsum(1)
        chosen = (weight < rng.random((draws, 1)) * weight[:, -1:]).sum(1)
        found[:, k] = from_log_odds(odds + _SHIFTS[chosen][:, None])
    return found


def pure_clusters_of(session: Session, clusters: Sequence[Sequence[int]], threshold: float) -> PureClusters:
    """Estimate it for the clusters that a threshold gives among the candidates of a session.

    Args:
        session: Candidates, and answers about some.
        clusters: Members of each, as places in the collection.
        threshold: Least similarity of a flagged pair.
    """
    plan, candidates = session.plan, session.candidates
    curve = ScoreCurve(plan.strata, plan.scores, noise=session.aim.noise, dipped=_DIPPED)
    for draw, right in plan.judged():
        curve.add(float(plan.scores[draw.rank]), plan.strata.of(draw.rank), right)
    count = int((candidates.scores.astype(np.float64) >= threshold).sum())
    rng = np.random.default_rng([session.aim.seed, 3])
    strata = np.searchsorted(plan.strata.ends, np.arange(count), side="right")
    ends = candidates.left[:count], candidates.right[:count]
    return pure_clusters(
        clusters, *ends, strata, judged(session)[:count], curve.draws(DRAWS, rng), rng, noise=session.aim.noise
    )


def judged(session: Session) -> NDArray[np.int8]:
    """Return what is known of each candidate: 1 right, 0 wrong, -1 not judged."""
    found = np.full(len(session.candidates), -1, np.int8)
    for draw, right in session.plan.judged():
        found[draw.rank] = right
    return found
