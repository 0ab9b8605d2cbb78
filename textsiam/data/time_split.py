"""Splits by time: training is from the past, the test is the newest, and still no question is in two splits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textsiam.data.clusters import connected_components, inseparable
from textsiam.data.leakage import leakage
from textsiam.data.pairs import Pairs
from textsiam.data.splits import NAMES, SplitReport, Splits, split_sizes


def split_pairs_by_time(
    pairs: Pairs,
    created: Sequence[str],
    *,
    validation: float = 0.05,
    calibration: float = 0.05,
    test: float = 0.1,
) -> Splits:
    """Split pairs by date: train, validation, calibration, test, from the oldest to the newest.

    A pair is as old as the newer of its texts. Texts that are paired, near-identical or of one group hang together in
    components, and a component is in the split of its newest pair; its pairs from before that split began are dropped,
    and counted in the report. So every pair of a split is newer than all pairs, and all texts, of the splits before it,
    and nothing is in two. Pairs of one moment stay together.

    Args:
        pairs: What to split.
        created: When each text was written, `(m,)`: ISO 8601 in one form and zone, which sorts as time does.
        validation: Share of the pairs that tells when to stop training, before what is dropped.
        calibration: Share that fits threshold and probability.
        test: Share that is measured at the end.

    Raises:
        ValueError: A share is negative, a text has no date, or nothing is left for train.

    Example:
        >>> pairs = Pairs.from_texts(["a", "c", "e"], ["b", "d", "f"], [1, 1, 1])
        >>> splits = split_pairs_by_time(pairs, ["2011", "2012", "2019", "2010", "2015", "2016"], test=0.3)
        >>> splits.test.left_texts
        ['c']
    """
    fractions = {"validation": validation, "calibration": calibration, "test": test}
    if min(fractions.values()) < 0 or sum(fractions.values()) >= 1:
        raise ValueError(f"validation, calibration and test must be at least 0 and stay below 1 together, "
                         f"got {validation:g}, {calibration:g} and {test:g}")  # fmt: skip
    if len(created) != len(pairs.texts):
        raise ValueError(f"{pairs.source}: {len(created)} dates for {len(pairs.texts)} texts")
    if missing := [text for text, date in zip(pairs.texts, created, strict=True) if not date]:
        raise ValueError(f"{pairs.source}: a split by time needs the date of every text, {missing[0]!r} has none")
    moments, moment = np.unique(np.array(created), return_inverse=True)
    age = np.maximum(moment[pairs.left], moment[pairs.right])
    left, right = inseparable(pairs)
    component = connected_components(len(pairs.texts), np.r_[pairs.left, left], np.r_[pairs.right, right])
    newest = np.zeros(len(pairs.texts), np.int64)
    np.maximum.at(newest, component, moment)
    place = newest[component][pairs.left]  # the newest moment of each pair's component
    held_out = np.cumsum([test, calibration, validation])[::-1]  # from the beginning of each split to the end
    first = len(pairs) - np.round(held_out * len(pairs)).astype(np.int64)
    beyond = len(moments)  # where a split without a share begins
    begins = np.array([*np.sort(place), beyond])[first]
    split = np.searchsorted(begins, place, side="right")
    in_time = age >= np.array([0, *begins])[split]
    parts = [pairs.select((split == k) & in_time) for k in range(len(NAMES))]
    if not len(parts[0]):
        raise ValueError(f"{pairs.source}: nothing is left for train: {(split > 0).sum():,} of {len(pairs):,} pairs "
                         "hang together with the newest ones, or are as new")  # fmt: skip
    named: dict[str, Pairs] = dict(zip(NAMES, parts, strict=True))
    report = SplitReport(
        seed=0,
        fractions=fractions,
        sizes=split_sizes(named),
        dropped=int((~in_time).sum()),
        cut=False,
        leakage=leakage(named),
        begins={name: str(moments[b]) for name, b in zip(NAMES[1:], begins, strict=True) if len(named[name])},
    )
    return Splits(*parts, report=report)
