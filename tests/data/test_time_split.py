"""A split by time: the past trains, the newest tests, and no question is in two splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from textsiam.data.clusters import cluster_ids, normalised
from textsiam.data.pairs import Pairs
from textsiam.data.splits import NAMES
from textsiam.data.time_split import split_pairs_by_time

TEXTS = st.sampled_from([f"{word}{mark}" for word in "abcdefghijklmnop" for mark in ("", "?")])
ROWS = st.lists(st.tuples(TEXTS, TEXTS, st.sampled_from([0, 1, 1])), min_size=1, max_size=30)
SHARES = st.tuples(*[st.sampled_from([0.0, 0.1, 0.3])] * 3)


def cut(left, right, dates, labels=None, **shares):
    pairs = Pairs.from_texts(left, right, labels or [1] * len(left))
    return split_pairs_by_time(pairs, [dates[text] for text in pairs.texts], **shares)


def test_the_newest_pairs_are_the_test():
    years = {"a": "2010", "b": "2011", "c": "2012", "d": "2018", "e": "2013", "f": "2014", "g": "2009", "h": "2020"}
    splits = cut(["a", "c", "e", "g"], ["b", "d", "f", "h"], years, validation=0, calibration=0.25, test=0.25)
    found = {name: part.left_texts for name, part in splits.named().items()}
    assert found == {"train": ["a", "e"], "validation": [], "calibration": ["c"], "test": ["g"]}
    assert splits.report.begins == {"calibration": "2018", "test": "2020"}
    assert "by time: calibration from 2018 on, test from 2020 on; 0 pairs dropped" in str(splits.report)
    assert splits.report.to_dict()["begins"] == {"calibration": "2018", "test": "2020"}


def test_an_old_pair_whose_question_comes_up_again_is_dropped():
    years = {"a": "2010", "b": "2011", "new": "2020", "c": "2012", "d": "2013", "e": "2014", "f": "2015"}
    splits = cut(["a", "a", "c", "e"], ["b", "new", "d", "f"], years, validation=0, calibration=0, test=0.25)
    assert (splits.test.left_texts, splits.test.right_texts) == (["a"], ["new"])
    assert splits.train.left_texts == ["c", "e"]
    assert splits.report.dropped == 1  # a = b is of 2011: known in training's time, but of a question of the test


def test_near_identical_texts_are_in_one_split():
    years = {"a": "2010", "b": "2011", "A?": "2020", "c": "2021", "d": "2012", "e": "2013"}
    splits = cut(["a", "A?", "d"], ["b", "c", "e"], years, validation=0, calibration=0, test=0.3)
    assert splits.train.texts == ["d", "e"]
    assert set(splits.test.texts) == {"A?", "c"}


def test_pairs_of_one_moment_stay_together():
    years = dict.fromkeys("abcdefgh", "2020") | {"a": "2010", "b": "2010"}
    splits = cut(["a", "c", "e", "g"], ["b", "d", "f", "h"], years, validation=0, calibration=0, test=0.25)
    assert (len(splits.train), len(splits.test)) == (1, 3)


@pytest.mark.parametrize(
    ("years", "shares", "message"),
    [
        ({"a": "2010", "b": ""}, {}, "memory: a split by time needs the date of every text, 'b' has none"),
        ({"a": "2010", "b": "2011"}, {"test": 0.8}, "memory: nothing is left for train: 1 of 1 pairs hang together"),
        (
            {"a": "2010", "b": "2011"},
            {"test": -0.1},
            "must be at least 0 and stay below 1 together, got 0.05, 0.05 and",
        ),
        ({"a": "2010", "b": "2011"}, {"test": 0.9, "validation": 0.1}, "got 0.1, 0.05 and 0.9"),
    ],
)
def test_what_cannot_be_split_is_said(years, shares, message):
    with pytest.raises(ValueError, match=message):
        cut(["a"], ["b"], years, **shares)
    pairs = Pairs.from_texts(["a"], ["b"], [1])
    with pytest.raises(ValueError, match="memory: 1 dates for 2 texts"):
        split_pairs_by_time(pairs, ["2010"])


@given(ROWS, SHARES, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_splits_follow_each_other_and_share_nothing(rows, shares, random):
    left, right, labels = map(list, zip(*rows, strict=True))
    pairs = Pairs.from_texts(left, right, labels)
    dates = {text: f"20{random.randrange(30):02}-01-01T00:00:00.000Z" for text in pairs.texts}
    try:
        splits = cut(left, right, dates, labels, **dict(zip(NAMES[1:], shares, strict=True)))
    except ValueError:  # nothing is left for train
        assume(False)
    parts = [part for part in splits.named().values() if len(part)]
    ages = [[max(dates[a], dates[b]) for a, b in zip(p.left_texts, p.right_texts, strict=True)] for p in parts]
    for k in range(1, len(parts)):
        assert max(ages[k - 1]) < min(ages[k])
    assert splits.report.leakage.clean
    clusters = dict(zip(pairs.texts, cluster_ids(pairs).tolist(), strict=True))
    for kind in (str, normalised, clusters.__getitem__):
        kinds = [{kind(text) for text in part.texts} for part in parts]
        assert sum(map(len, kinds)) == len(set.union(*kinds))
    assert sum(map(len, parts)) + splits.report.dropped == len(pairs)
    assert np.all(
        [size.pairs == len(part) for size, part in zip(splits.report.sizes, splits.named().values(), strict=True)]
    )
