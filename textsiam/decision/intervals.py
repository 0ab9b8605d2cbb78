"""Figures with intervals: of a bootstrap or of shares, and when there is too little for one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textsiam.data.clusters import cluster_ids
from textsiam.data.components import connected_components, group_edges

if TYPE_CHECKING:
    from textsiam.data.pairs import Pairs

FEWEST = 10  # clusters, or identities, below which no interval is given
_CHUNK_CELLS = 2_000_000  # replicates are drawn in chunks of this many counts, which bounds the memory
_LARGEST = 0.1  # share of the pairs in one component from which components are no independent units


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, nan where the interval is not known; `note` says why."""

    value: float
    low: float
    high: float
    note: str = ""

    def __str__(self) -> str:
        """Return for example "0.893 [0.885, 0.901]"."""
        if math.isnan(self.low):
            value = "\N{EN DASH}" if math.isnan(self.value) else f"{self.value:.3f}"
            return value + (f" ({self.note})" if self.note else "")
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def percent(self) -> str:
        """Return for example "89.3 (88.5–90.1)"; "89.3 (no interval: …)" where there is none."""
        if math.isnan(self.low):
            value = "\N{EN DASH}" if math.isnan(self.value) else f"{100 * self.value:.1f}"
            return value + (f" ({self.note})" if self.note else "")
        return f"{100 * self.value:.1f} ({100 * self.low:.1f}\N{EN DASH}{100 * self.high:.1f})"

    def to_dict(self) -> dict[str, float | str | None]:
        """Return what fits in JSON: nan becomes None, and a note stands there where there is one."""
        shown = {name: plain(getattr(self, name)) for name in ("value", "low", "high")}
        return shown | ({"note": self.note} if self.note else {})

    @classmethod
    def restore(cls, facts: Mapping[str, Any]) -> Estimate:
        """Return the estimate that gave these facts; a fact that is no field of it is a TypeError."""
        known: dict[str, Any] = {name: math.nan if fact is None else fact for name, fact in facts.items()}
        return cls(**known)


def plain(value: float) -> float | None:
    """Return a number for JSON, which has neither nan nor infinity."""
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True, eq=False)
class Units:
    """What is drawn with replacement in place of n items that depend on each other.

    Item i belongs to the units `first[i]` and `second[i]`, (n,) from 0 on; to one where these are equal. In a resample
    that draws unit u c(u) times, the item stands c(first) times, or c(first) · c(second) times: the bootstrap of the
    vertices of a graph (Snijders and Borgatti, "Non-parametric Standard Errors and Tests for Network Statistics",
    1999), which for two units leans towards intervals that are too wide.
    """

    first: NDArray[np.int64] = field(repr=False)
    second: NDArray[np.int64] = field(repr=False)
    noun: str = "clusters"

    @classmethod
    def grouped(cls, groups: ArrayLike, *, noun: str = "clusters") -> Units:
        """Return units of one group each, named by anything that sorts."""
        unit = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
        return cls(unit, unit, noun)

    @classmethod
    def alone(cls, count: int, *, noun: str = "clusters") -> Units:
        """Return as many units as items."""
        return cls(np.arange(count), np.arange(count), noun)

    @classmethod
    def of_pairs(cls, pairs: Pairs) -> Units:
        """Return the units of labelled pairs: pairs that share an input, or a cluster, depend on each other.

        Components of the graph of all pairs are units where they are small. Where one of them holds a tenth of the
        pairs, as with few identities each paired with all others, clusters are, and a pair belongs to two of them.
        """
        edges = group_edges(pairs.groups) if pairs.groups is not None else (pairs.left[:0], pairs.right[:0])
        ends = np.r_[pairs.left, edges[0]], np.r_[pairs.right, edges[1]]
        parts = connected_components(len(pairs.texts), *ends)[pairs.left].astype(np.int64)
        if np.bincount(parts).max(initial=0) <= _LARGEST * len(pairs):
            return cls(parts, parts)
        clusters = cluster_ids(pairs).astype(np.int64)
        both = np.unique(np.stack([clusters[pairs.left], clusters[pairs.right]]), return_inverse=True)[1].reshape(2, -1)
        return cls(both[0], both[1], "clusters" if pairs.modality == "text" else "identities")

    def reordered(self, order: NDArray[np.int64]) -> Units:
        """Return the units of the items in another order."""
        return Units(self.first[order], self.second[order], self.noun)

    def weights(self, replicates: int, seed: int) -> Iterator[NDArray[np.int64]]:
        """Yield chunks (r, n) of how often each item stands in each resample."""
        units = int(max(self.first.max(initial=-1), self.second.max(initial=-1))) + 1
        own = np.array_equal(self.first, self.second)
        alone = own and np.array_equal(self.first, np.arange(units))
        rng = np.random.default_rng(seed)
        chunk = max(1, _CHUNK_CELLS // max(self.first.size, units))
        for start in range(0, replicates, chunk):
            rows = min(chunk, replicates - start)
            drawn = rng.integers(0, units, size=(rows, units)) + np.arange(rows)[:, None] * units
            counts = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
            if alone:
                yield counts
            elif own:
                yield counts[:, self.first]
            else:
                yield counts[:, self.first] * np.where(self.first == self.second, 1, counts[:, self.second])

    def too_few(self, *parts: NDArray[np.bool_]) -> str:
        """Say that one of the parts (n,) of the items is of too few units for an interval; "" if none is."""
        for part in parts:
            units = np.union1d(self.first[part], self.second[part]).size
            if units and (note := _too_few(units, self.noun)):
                return note
        return ""


def interval(value: float, replicates: NDArray[np.float64], *, note: str = "") -> Estimate:
    """Return the value with the 2.5 % and 97.5 % quantiles of its replicates, those that are nan left out.

    With a note there is no interval.
    """
    known = replicates[~np.isnan(replicates)]
    if note or not known.size:
        return Estimate(float(value), math.nan, math.nan, note)
    low, high = np.quantile(known, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))


def clustered_rate(events: NDArray[np.bool_], *, names: ArrayLike | None = None, confidence: float = 0.95) -> Estimate:
    """Return the share of events (probes, k), with an interval that takes those of one probe as dependent.

    The interval of Clopper and Pearson for n* independent trials, n* = p (1 - p) / (s² / n) with the variance s² of the
    shares of the n probes; at most all trials, and n where nothing or everything happened. Korn and Graubard,
    "Confidence Intervals for Proportions with Small Expected Number of Positive Counts", 1998.

    Args:
        events: What happened.
        names: (probes,) whose each probe is: then those of one identity are dependent, too.
        confidence: Of the interval.
    """
    hits, counts = events.sum(axis=1), np.full(len(events), events.shape[1])
    if names is None:
        return ratio_rate(hits, counts, noun="probes", confidence=confidence)
    _, who = np.unique(np.asarray(names), return_inverse=True)
    hits, counts = (np.bincount(who, part).astype(np.int64) for part in (hits, counts))
    return ratio_rate(hits, counts, noun="identities", confidence=confidence)


def ratio_rate(
    hits: NDArray[np.int64], counts: NDArray[np.int64], *, noun: str = "texts", confidence: float = 0.95
) -> Estimate:
    """Return the share of events, hits out of counts `(units,)`, that of one unit being dependent.

    As `clustered_rate`, where units have different numbers of events: s² is the variance of `hits - p · counts`, in
    units of the mean count (the linearised ratio; Cochran, "Sampling Techniques", 1977, section 6.3). Without any event
    the share is 1, of no trials. Fewer than ten units give no interval.
    """
    from scipy.special import betaincinv

    hits, counts = hits[counts > 0], counts[counts > 0]
    if not counts.size:
        return Estimate(1.0, 0.0, 1.0)
    n, p = counts.size, float(hits.sum() / counts.sum())
    if note := _too_few(n, noun):
        return Estimate(p, math.nan, math.nan, note)
    variance = float(((hits - p * counts) / counts.mean()).var(ddof=1)) / n if n > 1 else 0.0
    trials = min(p * (1.0 - p) / variance, float(counts.sum())) if variance > 0.0 and 0.0 < p < 1.0 else float(n)
    seen, error = p * trials, (1.0 - confidence) / 2.0
    low = float(betaincinv(seen, trials - seen + 1.0, error)) if seen > 0.0 else 0.0
    high = float(betaincinv(seen + 1.0, trials - seen, 1.0 - error)) if seen < trials else 1.0
    return Estimate(p, low, high)


def _too_few(units: int, noun: str) -> str:
    return f"no interval: {units} {noun} are too few for one" if units < FEWEST else ""
