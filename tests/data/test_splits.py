"""Splits share nothing, lose nothing without saying so, and do not depend on the order of rows."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textsiam.data.clusters import cluster_ids, normalised
from textsiam.data.pairs import Pairs, read_pairs, sample_pairs
from textsiam.data.splits import NAMES, question_disjoint_parts, split_pairs

WORDS = st.sampled_from([f"{word}{mark}" for word in "abcdefghijkl" for mark in ("", "?", " !")] + ["A", "B ?"])
TRIPLES = st.lists(st.tuples(WORDS, WORDS, st.sampled_from([0, 0, 1, -1])), min_size=1, max_size=40)
FRACTIONS = st.tuples(*[st.sampled_from([0, 0.05, 0.1, 0.25, 0.3])] * 3)


def pairs_of(triples):
    left, right, labels = zip(*triples, strict=True)
    return Pairs.from_texts(left, right, labels)


def rows(pairs):
    return list(zip(pairs.left_texts, pairs.right_texts, pairs.labels.tolist(), strict=True))


def unordered(pairs):
    return sorted((*sorted((a, b)), y) for a, b, y in rows(pairs))


def named(splits):
    return {name: getattr(splits, name) for name in NAMES}


def sizes(splits):
    return {name: len(part) for name, part in named(splits).items()}


@given(TRIPLES, FRACTIONS, st.integers(-3, 3))
@settings(max_examples=150, deadline=None)
def test_splits_share_nothing_and_lose_nothing_unsaid(triples, fractions, seed):
    pairs = pairs_of(triples)
    validation, calibration, test = fractions
    splits = split_pairs(pairs, validation=validation, calibration=calibration, test=test, seed=seed)
    parts = list(named(splits).values())
    clusters = dict(zip(pairs.texts, cluster_ids(pairs).tolist(), strict=True))
    for kind in (str, normalised, clusters.__getitem__):
        kinds = [{kind(text) for text in part.texts} for part in parts]
        assert sum(map(len, kinds)) == len(set.union(*kinds))
    kept = sorted(row for part in parts for row in rows(part))
    assert len(kept) + splits.report.dropped == len(pairs)
    remaining = rows(pairs)
    for row in kept:
        remaining.remove(row)
    assert all(label != 1 for *_, label in remaining)
    assert splits.report.leakage.clean
    assert [size.pairs for size in splits.report.sizes] == [len(part) for part in parts]
    for fraction, part in zip(fractions, parts[1:], strict=True):
        assert len(part) == 0 if fraction == 0 else True


@given(TRIPLES, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_rows_and_sides_may_come_in_any_order(triples, random):
    shuffled = [(b, a, y) if random.random() < 0.5 else (a, b, y) for a, b, y in triples]
    random.shuffle(shuffled)
    one, two = (split_pairs(pairs_of(each), validation=0.1, calibration=0.1, test=0.3) for each in (triples, shuffled))
    for name in NAMES:
        assert unordered(getattr(one, name)) == unordered(getattr(two, name))


def islands(n, positive=3):
    """`n` pairs that have nothing to do with one another, one in `positive` a duplicate."""
    return [(f"left {i}", f"right {i}", int(i % positive == 0)) for i in range(n)]


def test_shares_and_balance_are_met_exactly():
    splits = split_pairs(pairs_of(islands(3000)))
    assert sizes(splits) == {"train": 2400, "validation": 150, "calibration": 150, "test": 300}
    assert [part.positives for part in named(splits).values()] == [800, 50, 50, 100]
    assert (splits.report.dropped, splits.report.cut) == (0, False)


@given(TRIPLES, st.sampled_from([(0.5, 2), (0.25, 3), (0.2, 1)]), st.integers(-3, 3))
@settings(max_examples=100, deadline=None)
def test_no_part_shares_a_text_or_a_cluster_with_another(triples, wanted, seed):
    pairs = pairs_of(triples)
    places = question_disjoint_parts(pairs, *wanted, seed=seed)
    assert places.shape == (len(pairs.texts),)
    assert set(places.tolist()) <= set(range(-1, wanted[1]))
    for group in (cluster_ids(pairs).tolist(), [normalised(text) for text in pairs.texts]):
        assert len(set(zip(group, places.tolist(), strict=True))) == len(set(group))


def test_parts_have_their_share_of_either_label():
    pairs = pairs_of(islands(1200))
    places = question_disjoint_parts(pairs, 0.25, 4)
    assert np.array_equal(places[pairs.left], places[pairs.right])
    for part in range(4):
        inside = places[pairs.left] == part
        assert (inside.sum(), pairs.labels[inside].sum()) == (300, 100)
    assert not np.array_equal(places, question_disjoint_parts(pairs, 0.25, 4, seed=1))


@pytest.mark.parametrize(("share", "count"), [(0.5, 3), (0.0, 2), (1.0, 1), (0.3, 0)])
def test_parts_that_cannot_be_are_refused(share, count):
    with pytest.raises(ValueError, match=f"{count} parts of {share:g} each"):
        question_disjoint_parts(pairs_of(islands(10)), share, count)


def test_rows_keep_their_order():
    triples = islands(200)
    order = {row: i for i, row in enumerate(triples)}
    for part in named(split_pairs(pairs_of(triples))).values():
        places = [order[row] for row in rows(part)]
        assert places == sorted(places)


def test_a_seed_is_repeatable_and_another_is_another_split():
    pairs = pairs_of(islands(300))
    first, again, other = (split_pairs(pairs, seed=seed) for seed in (1, 1, 2))
    assert first.test.fingerprint == again.test.fingerprint
    assert first.test.fingerprint != other.test.fingerprint
    assert sizes(first) == sizes(other)


def test_a_giant_component_stays_in_train():
    chain = [(f"link {i}", f"link {i + 1}", i % 2) for i in range(1000)]
    splits = split_pairs(pairs_of(chain + islands(1000, positive=2)))
    assert sizes(splits) == {"train": 1600, "validation": 100, "calibration": 100, "test": 200}
    assert splits.report.dropped == 0
    assert not any(text.startswith("link") for text in splits.test.texts)


def test_where_one_label_runs_out_splits_are_smaller_and_not_skewed():
    # the three splits want 720 negatives; outside the chain, which is too large for any of them, are 600
    chain = [(f"link {i}", f"link {i + 1}", 0) for i in range(400)]
    free = [(f"left {i}", f"right {i}", int(i >= 600)) for i in range(1600)]
    splits = split_pairs(pairs_of(chain + free), validation=0.24, calibration=0.24, test=0.24)
    assert splits.report.dropped == 0
    for name in NAMES[1:]:
        part = getattr(splits, name)
        assert 0.8 * 480 < len(part) < 0.85 * 480
        assert part.positives / len(part) == pytest.approx(0.5, abs=0.01)


def forum(topics=20, clusters=5):
    """Clusters of two; contrasts within a topic and, in a ring, from a topic to the next."""
    triples = []
    for t in range(topics):
        for c in range(clusters):
            triples.append((f"topic {t} cluster {c} a", f"topic {t} cluster {c} b", 1))
            triples.append((f"topic {t} cluster {c} a", f"topic {t} cluster {(c + 1) % clusters} a", 0))
        triples.append((f"topic {t} cluster 0 b", f"topic {(t + 1) % topics} cluster 0 b", 0))
    return triples


def test_one_component_is_cut_between_clusters():
    pairs = pairs_of(forum())
    splits = split_pairs(pairs, validation=0.1, calibration=0.1, test=0.2)
    report = splits.report
    assert report.cut
    assert sum(sizes(splits).values()) == len(pairs) - report.dropped
    assert sum(part.positives for part in named(splits).values()) == pairs.positives
    for name, fraction in (("validation", 0.1), ("calibration", 0.1), ("test", 0.2)):
        assert 0.8 * fraction * len(pairs) <= sizes(splits)[name] <= fraction * len(pairs)
        assert 0 < getattr(splits, name).positives < len(getattr(splits, name))
    # cutting at random would lose about half of the 120 contrasts: 1 - (0.6² + 0.1² + 0.1² + 0.2²) = 58 %
    assert report.dropped < 40
    assert f"{report.dropped:,} pairs dropped" in str(report)


def test_one_cluster_cannot_be_cut():
    chain = [(f"link {i}", f"link {i + 1}", 1) for i in range(100)]
    assert sizes(split_pairs(pairs_of(chain))) == {"train": 100, "validation": 0, "calibration": 0, "test": 0}


def test_the_sample_forum():
    pairs = sample_pairs()
    splits = split_pairs(pairs)
    assert splits.report.leakage.clean
    assert splits.report.dropped < 0.1 * len(pairs)
    for name, fraction in (("validation", 0.05), ("calibration", 0.05), ("test", 0.1)):
        assert len(getattr(splits, name)) == pytest.approx(fraction * len(pairs), rel=0.25)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_few_pairs(count):
    pairs = pairs_of(islands(7)).select(np.arange(count))
    splits = split_pairs(pairs, validation=0, calibration=0.2, test=0.5)
    assert sum(sizes(splits).values()) == count
    assert len(splits.validation) == 0
    assert len(splits.validation.texts) == 0


def test_wrong_shares():
    pairs = pairs_of(islands(4))
    with pytest.raises(ValueError, match=r"test must be at least 0 and below 1, got -0\.1"):
        split_pairs(pairs, test=-0.1)
    with pytest.raises(ValueError, match=r"validation must be at least 0 and below 1, got 1"):
        split_pairs(pairs, validation=1)
    with pytest.raises(ValueError, match=r"validation \+ calibration \+ test must stay below 1, got 1"):
        split_pairs(pairs, validation=0.5, calibration=0.25, test=0.25)


def test_report_is_json_and_a_table():
    report = split_pairs(pairs_of(islands(200, positive=2))).report
    saved = json.loads(json.dumps(report.to_dict()))
    assert saved["sizes"][3] == {"name": "test", "pairs": 20, "positives": 10, "texts": 40}
    assert saved["leakage"]["clean"] is True
    lines = str(report).splitlines()
    assert lines[0].split() == ["split", "pairs", "duplicates", "texts"]
    assert lines[1].split() == ["train", "160", "50.0%", "320"]
    assert "dropped" not in str(report)


def test_quora_is_fast_and_balanced():
    path = Path(os.environ.get("TEXTSIAM_DATA", "../shared/data")) / "qqp" / "train.tsv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not here (set TEXTSIAM_DATA)")
    pairs = read_pairs(path)
    start = time.perf_counter()
    splits = split_pairs(pairs)
    assert time.perf_counter() - start < 8  # 1 on an idle core
    assert sizes(splits) == {"train": 39_655, "validation": 2_478, "calibration": 2_478, "test": 4_957}
    for part in named(splits).values():
        assert part.positives / len(part) == pytest.approx(pairs.positives / len(pairs), abs=5e-4)


def test_a_split_from_elsewhere_is_measured_for_leakage():
    pairs = Pairs.from_texts(["a", "c", "e", "g"], ["b", "d", "f", "h"], [1, 0, 1, 0])
    splits = split_pairs(pairs, validation=0, calibration=0, test=0.5)
    leaky = Pairs.from_texts([splits.train.texts[0]], ["something else"], [0])
    changed = splits.replacing(test=leaky)
    assert changed.test is leaky
    assert {size.name: size.pairs for size in changed.report.sizes}["test"] == 1
    shared = {(o.first, o.second): o.shared_texts for o in changed.report.leakage.overlaps}
    assert shared["train", "test"] == 1
    assert {(o.first, o.second): o.shared_texts for o in splits.report.leakage.overlaps}["train", "test"] == 0
