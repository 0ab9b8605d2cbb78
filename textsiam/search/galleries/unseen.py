"""What a false accept rate among some identities says of identities never seen: upper bounds that count identities.

The comparisons of one identity depend on each other on both sides: one face looks like everybody's, and another one is
looked like by everybody. So thousands of comparisons of twenty people are no more than twenty people.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
_DRAWS = 600  # sets of identities that are drawn
_GROUPS = 48  # of identities, whose sums are formed in each draw
_SWEEPS = 20  # of least squares in turn: nobody is compared with itself, and the table has holes
_SPENT = 0.7  # part of the allowed error that is used; `benchmarks/galleries.py` says what the approximations take
_LEAST = 1e-9  # rate below which nothing is told apart


def independent_pairs(probing: int, enrolled: int, both: int) -> int:
    """Return how many comparisons of two identities no identity of which stands in another one.

    All comparisons fall apart into sets of so many, the rounds of a tournament, as long as no identity is favoured:
    n / 2 where all n identities are enrolled and probe, the smaller number where nobody does both; between, at least
    comparisons / (most comparisons of an identity + 2) (Vizing 1964; in sets of one size by de Werra 1971).

    Args:
        probing: Identities whose inputs were looked up.
        enrolled: Identities that they were compared with.
        both: Identities that are both.
    """
    if not both:
        return min(probing, enrolled)
    if both == probing == enrolled:
        return both // 2
    return (probing * enrolled - both) // (probing + enrolled)


def worst_case_bound(rate: float, pairs: int, *, confidence: float = CONFIDENCE) -> float:
    """Return the largest false accept rate that may have shown at most this one, whatever identities are like.

    The largest p with exp(-m · KL(rate, p)) >= 1 - confidence, for m independent pairs; where nothing was accepted, it
    is 1 - (1 - confidence)^(1/m), the rule of three over identities. Hoeffding, "Probability Inequalities for Sums of
    Bounded Random Variables", 1963, section 5: the mean over all pairs is that of means over independent ones.

    Args:
        rate: The share accepted, each pair of identities counted alike.
        pairs: As `independent_pairs` counts them.
        confidence: Of the bound.
    """
    from scipy.special import rel_entr

    if not pairs or rate >= 1.0:
        return 1.0
    most = -math.log1p(-confidence) / pairs
    low, high = rate, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        apart = float(rel_entr(rate, middle) + rel_entr(1.0 - rate, 1.0 - middle))
        low, high = (middle, high) if apart <= most else (low, middle)
    return high


def identities_needed(far: float, *, confidence: float = CONFIDENCE) -> int:
    """Return how many enrolled identities with a probe each promise a rate, whatever identities are like.

    As few as that are enough if no impostor is accepted: 598 for 0.01 and a confidence of 0.95.
    """
    return 2 * math.ceil(math.log1p(-confidence) / math.log1p(-far) - 1e-9)


def random_effects_bound(
    scores: NDArray[np.float32],
    impostor: NDArray[np.bool_],
    who: NDArray[np.int64],
    own: NDArray[np.int64],
    rate: float,
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> float:
    """Return the largest false accept rate that identities which differ normally may have shown at most this one.

    The normal scores (van der Waerden) of all impostor comparisons are taken as z = a + b + e, with an effect a of the
    enrolled identity, b of the probing one and a rest e, all normal. Whatever the distribution of the scores, a
    threshold of rate p is then z = Φ⁻¹(1 - p). Identities are drawn anew on both sides, those that are both with equal
    effects, as a cosine has it; variances are drawn from what the seen ones say of them, (n - 1) s² / χ². The bound is
    the largest p under which the share accepted is at most `rate` in 1 - confidence of the draws, a little less for
    what is approximated. Comparisons of one pair of identities are worth n / (1 + (n - 1) r), with the correlation r of
    their rests (Kish 1965).

    A bootstrap of the seen identities (Owen, "The Pigeonhole Bootstrap", 2007) would not do: where none of them was
    accepted, none is in any resample.

    Args:
        scores: Similarities (probes, enrolled).
        impostor: (probes, enrolled) whether this compares two identities.
        who: (probes,) the number of the probing identity, from 0 on without a gap.
        own: (probes,) its column, -1 where it is not enrolled.
        rate: The share accepted.
        confidence: Of the bound.
        seed: Of the draws.

    Returns:
        A rate between `rate` and 1; 1 where fewer than two identities are on a side.
    """
    import torch
    from scipy.optimize import brentq
    from scipy.special import betainc, ndtri

    shape = int(who.max(initial=-1)) + 1, scores.shape[1]
    if min(shape) < 2:
        return 1.0
    of_rows, of_columns, within = _effects(scores, impostor, who)
    rng = np.random.default_rng(seed)
    freedom = min(shape) - 1
    wider = freedom / rng.chisquare(freedom, (_DRAWS, 1))
    seen_spread = [part.var(ddof=1) for part in (of_rows, of_columns)]
    rest = max(1.0 - sum(seen_spread), 0.05)
    share = [part * wider / (sum(seen_spread) * wider + rest) for part in seen_spread]
    drawn = [rng.normal(size=(_DRAWS, count)) for count in shape]
    column = np.full(shape[0], -1)
    column[who] = own
    drawn[1][:, column[column >= 0]] = drawn[0][:, column >= 0]
    pairs = shape[0] * shape[1] - int((column >= 0).sum())
    alike = 1.0 if within is None else min(max(1.0 - within / rest, 0.0), 1.0)
    each = int(impostor.sum()) / pairs
    worth = pairs * each / (1.0 + (each - 1.0) * alike)

    left = np.sqrt(1.0 - share[0] - share[1])  # the spread of the rest
    rows, columns = (np.sqrt(part) * _thinned(effects) / left for part, effects in zip(share, drawn, strict=True))
    sums = (rows[:, :, None] + columns[:, None, :]).astype(np.float32)
    if sums.shape[1:] == shape:
        sums[:, column >= 0, column[column >= 0]] = -np.inf  # nobody is compared with itself
    scale = np.isfinite(sums[0]).mean()
    upper = torch.from_numpy(sums).mul_(-math.sqrt(0.5))  # Φ(x) = erfc(-x / √2) / 2, by torch five times as fast

    def chance(p: float) -> float:
        shift = torch.from_numpy((ndtri(p) * math.sqrt(0.5) / left).astype(np.float32))
        accepted = torch.special.erfc(upper - shift[:, :, None]).mean(dim=(1, 2), dtype=torch.float64).numpy() / 2.0
        seen = np.minimum(accepted / scale, 1.0)
        return float(betainc(worth * (1.0 - rate), worth * rate + 1.0, 1.0 - seen).mean())

    least, error = math.log(max(rate, _LEAST)), _SPENT * (1.0 - confidence)
    try:
        found: Any = brentq(lambda log_p: chance(math.exp(log_p)) - error, least, -_LEAST, xtol=1e-3)
    except ValueError:  # under no rate would so little be surprising
        return 1.0
    return math.exp(found)


def _thinned(effects: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return effects (draws, identities), of more than 48 identities the means of 48 groups of like ones."""
    if effects.shape[1] <= _GROUPS:
        return effects
    groups = np.array_split(np.sort(effects, axis=1), _GROUPS, axis=1)
    return np.stack([group.mean(axis=1) for group in groups], axis=1)


def _effects(
    scores: NDArray[np.float32], impostor: NDArray[np.bool_], who: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float | None]:
    """Return the effect of each probing and of each enrolled identity on the normal scores, by least squares.

    The third is the variance among the comparisons of two identities; None where there is only one of each.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    normal = np.zeros(scores.shape)
    flat = scores[impostor]
    normal[impostor] = ndtri(rankdata(flat) / (flat.size + 1.0))
    people = int(who.max()) + 1
    totals, counts = np.zeros((people, scores.shape[1])), np.zeros((people, scores.shape[1]))
    np.add.at(totals, who, normal)
    np.add.at(counts, who, impostor)
    cells = totals / np.maximum(counts, 1.0)  # each pair of identities counts alike
    there = (counts > 0).astype(np.float64)
    rows, columns = np.zeros(people), np.zeros(scores.shape[1])
    for _ in range(_SWEEPS):
        rows = (there * (cells - columns)).sum(axis=1) / np.maximum(there.sum(axis=1), 1.0)
        columns = (there * (cells - rows[:, None])).sum(axis=0) / np.maximum(there.sum(axis=0), 1.0)
    more = flat.size - int(there.sum())
    within = float(((normal - cells[who])[impostor] ** 2).sum()) / more if more else None
    return rows, columns, within
