"""Pairs and triplets drawn from labelled images: distinct, true and even."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textsiam.data.clusters import cluster_ids, contradictions
from textsiam.data.tables.errors import DataError, ReadReport
from textsiam.images import (
    LabelledImages,
    class_pairs,
    draw_pairs,
    draw_triplets,
    most_pairs,
)


def made(sizes, names=None):
    """Images of these class sizes, without files."""
    classes = np.repeat(np.arange(len(sizes)), sizes)
    class_names = names or [f"class{i}" for i in range(len(sizes))]
    labelled = [f"{class_names[c]}/{i}.png" for i, c in enumerate(classes)]
    return LabelledImages(labelled, classes, class_names, "made", ReadReport("made", len(labelled), len(labelled)))


def drawn(pairs):
    return {
        frozenset(pair): label
        for *pair, label in zip(pairs.left_texts, pairs.right_texts, pairs.labels.tolist(), strict=True)
    }


def _possible(images, count, share):
    sizes = np.bincount(images.classes)
    same = int((sizes * (sizes - 1) // 2).sum())
    positives = round(count * share)
    return positives <= same and count - positives <= len(images) * (len(images) - 1) // 2 - same


class TestDrawing:
    @given(st.lists(st.integers(1, 7), min_size=1, max_size=7), st.floats(0, 1), st.integers(0, 99), st.data())
    @settings(deadline=None)
    def test_pairs_are_distinct_true_and_balanced(self, sizes, share, seed, data):
        images = made(sizes)
        most = most_pairs(images, duplicate_share=share)
        if not most:
            return
        count = data.draw(st.integers(1, most))
        if not _possible(images, count, share):  # rounding: a smaller count may need a pair more of a kind
            return
        pairs = draw_pairs(images, count, seed=seed, duplicate_share=share)
        assert len(pairs) == count
        assert pairs.positives == round(count * share)
        assert len(drawn(pairs)) == count
        assert (pairs.left != pairs.right).all()
        assert ((pairs.groups[pairs.left] == pairs.groups[pairs.right]) == (pairs.labels == 1)).all()
        class_of = dict(zip(images.names, images.classes.tolist(), strict=True))
        assert [class_of[name] for name in pairs.texts] == pairs.groups.tolist()

    def test_everything_that_exists_can_be_drawn(self):
        images = made([4, 1, 3])
        class_of = dict(zip(images.names, images.classes.tolist(), strict=True))
        same = {frozenset(p): 1 for p in combinations(images.names, 2) if class_of[p[0]] == class_of[p[1]]}
        other = {frozenset(p): 0 for p in combinations(images.names, 2) if class_of[p[0]] != class_of[p[1]]}
        assert drawn(draw_pairs(images, 9, duplicate_share=1)) == same
        assert drawn(draw_pairs(images, 19, duplicate_share=0)) == other
        assert most_pairs(images) == 18
        assert len(draw_pairs(images, 18)) == 18

    def test_more_than_there_are(self):
        with pytest.raises(DataError, match="made: 10 pairs of images of one class are wanted, only 9 exist"):
            draw_pairs(made([4, 1, 3]), 20)
        with pytest.raises(DataError, match="made: 5 pairs of images of two classes are wanted, only 0 exist"):
            draw_pairs(made([9]), 10)
        with pytest.raises(ValueError, match="count must be at least 1, got 0"):
            draw_pairs(made([9]), 0)
        with pytest.raises(ValueError, match=r"duplicate_share must be in 0\.\.1, got 2"):
            draw_pairs(made([9]), 3, duplicate_share=2)

    def test_pairs_are_spread_evenly(self):
        pairs = draw_pairs(made([20] * 12), 1320)
        same = pairs.labels == 1
        classes = pairs.groups[np.stack([pairs.left, pairs.right], axis=1)]
        assert set(Counter(classes[same, 0].tolist()).values()) == {55}
        assert set(Counter(map(tuple, np.sort(classes[~same], axis=1).tolist())).values()) == {10}
        for kind in (same, ~same):
            uses = np.bincount(np.r_[pairs.left[kind], pairs.right[kind]], minlength=240)
            assert uses.max() - uses.min() <= 1

    def test_small_classes_give_what_they_have(self):
        pairs = draw_pairs(made([2, 30, 30]), 101, duplicate_share=1)
        assert Counter(pairs.groups[pairs.left].tolist()) == {0: 1, 1: 50, 2: 50}

    def test_seeds(self):
        images = made([6] * 6)
        first, again, other = (draw_pairs(images, 40, seed=seed).fingerprint for seed in (0, 0, 1))
        assert first == again != other

    def test_groups_make_clusters(self):
        pairs = draw_pairs(made([6] * 6), 40)
        clusters = cluster_ids(pairs)
        assert len(set(zip(clusters.tolist(), pairs.groups.tolist(), strict=True))) == len(set(clusters.tolist())) == 6
        assert not len(contradictions(pairs, clusters).transitive)

    def test_class_pairs_use_each_image_once(self):
        images = made([5, 1, 8])
        pairs = class_pairs(images, seed=2)
        assert (len(pairs), pairs.positives) == (6, 6)
        ends = np.r_[pairs.left, pairs.right]
        assert len(set(ends.tolist())) == len(ends) == 12
        assert (pairs.groups[pairs.left] == pairs.groups[pairs.right]).all()
        assert Counter(class_pairs(images, per_class=3).groups[class_pairs(images, per_class=3).left].tolist()) == {
            0: 2,
            2: 3,
        }
        assert class_pairs(images, seed=3).fingerprint != pairs.fingerprint
        with pytest.raises(DataError, match="made: no class has two images"):
            class_pairs(made([1, 1]))
        with pytest.raises(ValueError, match="per_class must be at least 1, got 0"):
            class_pairs(images, per_class=0)

    def test_triplets(self):
        images = made([3, 1, 5])
        found = draw_triplets(images, 800)
        anchor, positive, negative = images.classes[found].T
        assert found.shape == (800, 3)
        assert (anchor == positive).all()
        assert (anchor != negative).all()
        assert (found[:, 0] != found[:, 1]).all()
        assert np.bincount(found[:, 0], minlength=9).tolist() == [100, 100, 100, 0, 100, 100, 100, 100, 100]
        seen = {tuple(row) for row in found.tolist()}
        assert 110 < len(seen) <= 3 * 2 * 6 + 5 * 4 * 4
        with pytest.raises(DataError, match="triplets need a class of two images, and another class"):
            draw_triplets(made([4]), 3)
        with pytest.raises(ValueError, match="count must be at least 1"):
            draw_triplets(images, 0)
