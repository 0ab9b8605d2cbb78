"""Pairs whose texts have groups, or are names of images: what joins, what is kept, what is never alike."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from textsiam.data.clusters import canonical, cluster_ids, contradictions, text_forms
from textsiam.data.components import group_edges, joined_groups
from textsiam.data.pairs import Pairs
from textsiam.data.splits import data_report, leakage, split_pairs
from textsiam.images.medium import pair_images
from textsiam.images.names import picture_name


def grouped(groups, left=(0, 2), right=(1, 3), labels=(0, 0)):
    texts = [f"text {i}" for i in range(len(groups))]
    made = Pairs.from_texts(texts, texts, [-1] * len(texts))
    return replace(made, left=np.array(left), right=np.array(right), labels=np.array(labels), groups=np.array(groups))


def png(value):
    buffer = io.BytesIO()
    Image.new("L", (3, 2), value).save(buffer, "PNG")
    return buffer.getvalue()


class TestGroups:
    def test_they_are_checked(self):
        assert grouped([0, -1, 3, 3]).groups.dtype == np.int32
        for groups, problem in (
            ([0, 1, 2], "3 groups for 4 texts"),
            ([0, 1, 2, -2], r"groups\[3\] is -2, expected a group's number from 0 on, or -1"),
        ):
            with pytest.raises(ValueError, match=f"memory: {problem}"):
                replace(grouped([0, 0, 0, 0]), groups=np.array(groups))

    def test_clusters_join_duplicates_and_groups(self):
        pairs = grouped([7, -1, 7, -1, -1, 2, 2], left=[1, 0], right=[3, 4], labels=[1, 0])
        assert cluster_ids(pairs).tolist() == [0, 1, 0, 1, 2, 3, 3]
        joined = grouped([7, -1, 7, -1, -1, 2, 2], left=[1, 0], right=[3, 5], labels=[1, 1])
        assert cluster_ids(joined).tolist() == [0, 1, 0, 1, 2, 0, 0]

    def test_a_group_labelled_apart_is_a_contradiction(self):
        pairs = grouped([1, 1, 2, 3])
        assert contradictions(pairs, cluster_ids(pairs)).transitive.tolist() == [0]

    def test_select_keeps_the_groups_of_its_texts(self):
        part = grouped([4, 5, 6, -1]).select([1])
        assert (part.texts, part.groups.tolist()) == (["text 2", "text 3"], [6, -1])

    def test_concat_keeps_groups_apart_unless_a_text_is_shared(self):
        first = Pairs.from_texts(["a"], ["b"], [1])
        second = Pairs.from_texts(["c"], ["a"], [0])
        third = Pairs.from_texts(["d"], ["e"], [0])
        assert Pairs.concat([first, second]).groups is None
        joint = Pairs.concat(
            [
                replace(first, groups=np.array([0, 1])),
                replace(second, groups=np.array([1, 0])),
                third,
                replace(third, groups=np.array([1, -1])),
            ]
        )
        assert joint.texts == list("abcde")
        assert joint.groups.tolist() == [0, 1, 2, 3, -1]
        chained = Pairs.concat([replace(first, groups=np.array([0, 1])), replace(second, groups=np.array([4, 4]))])
        assert dict(zip(chained.texts, chained.groups.tolist(), strict=True)) == {"a": 0, "b": 1, "c": 0}

    @given(
        st.lists(
            st.lists(st.tuples(st.integers(0, 8), st.integers(-1, 3)), max_size=6, unique_by=lambda x: x[0]), max_size=4
        )
    )
    def test_joining_is_the_smallest_equivalence(self, lists):
        places = [np.array([node for node, _ in each], dtype=np.int64) for each in lists]
        groups = [np.array([group for _, group in each], dtype=np.int32) for each in lists]
        found = joined_groups(places, list(groups), 9)
        if not lists:
            assert found is None
            return
        names = {(k, group) for k, each in enumerate(lists) for _, group in each if group >= 0}
        parent = {name: name for name in names}

        def root(name):
            return name if parent[name] == name else root(parent[name])

        owner = {}
        for k, each in enumerate(lists):
            for node, group in each:
                if group >= 0:
                    parent[root((k, group))] = root(owner.setdefault(node, (k, group)))
        for node in range(9):
            assert (found[node] >= 0) == (node in owner)
            for other in owner:
                if node in owner:
                    assert (found[node] == found[other]) == (root(owner[node]) == root(owner[other]))

    def test_edges_connect_each_group(self):
        left, right = group_edges(np.array([3, -1, 0, 3, 0, 3, -1]))
        assert list(zip(left.tolist(), right.tolist(), strict=True)) == [(2, 4), (0, 3), (3, 5)]

    def test_the_fingerprint_tells_what_groups_put_together(self):
        plain = replace(grouped([0, 0, 1, -1]), groups=None)
        assert grouped([0, 0, 1, -1]).fingerprint == grouped([5, 5, 2, -1]).fingerprint
        distinct = [
            plain,
            grouped([0, 0, 1, -1]),
            grouped([0, 0, 0, -1]),
            grouped([-1, -1, -1, -1]),
            grouped([0, 1, 2, 3]),
        ]
        assert len({pairs.fingerprint for pairs in distinct}) == 5
        unused = replace(plain, texts=[*plain.texts, "more"])
        assert unused.fingerprint == plain.fingerprint

    def test_a_split_keeps_a_group_in_one_place(self):
        texts = [f"t{i}" for i in range(400)]
        pairs = Pairs.from_texts(texts[::2], texts[1::2], [0] * 200)
        pairs = replace(pairs, groups=np.arange(400) // 8)
        splits = split_pairs(pairs, test=0.25)
        assert splits.report.leakage.clean
        parts = [set(part.groups.tolist()) for part in splits.named().values()]
        assert sum(map(len, parts)) == len(set().union(*parts)) == 50
        assert sum(len(part) for part in splits.named().values()) == 200


class TestImages:
    NAMES = ("A.png", "a.png", "x-1.png", "x_1.png", "x 1.png")

    def test_names_are_never_near_identical(self):
        others = [f"other{i}.png" for i in range(5)]
        texts = Pairs.from_texts(self.NAMES, others, [0] * 5)
        images = pair_images(self.NAMES, others, [0] * 5)
        assert images.images
        assert images.texts == text_forms(images) == texts.texts
        assert data_report(texts).near_identical == 3
        assert data_report(images).near_identical == 0
        named = {"train": images.select([0, 2]), "test": images.select([1, 3, 4])}
        assert leakage(named).clean
        assert not leakage({"train": texts.select([0, 2]), "test": texts.select([1, 3, 4])}).clean
        sizes = {len(part) for part in split_pairs(images, test=0.6, validation=0, calibration=0).named().values()}
        assert sizes == {2, 0, 3}

    def test_the_length_of_a_name_chooses_nothing(self):
        left, right = ["a long name.png"], ["b.png"]
        for pairs, first in ((pair_images(left, right, [1]), 0), (Pairs.from_texts(left, right, [1]), 1)):
            assert canonical(pairs, cluster_ids(pairs)).tolist() == [first]

    def test_images_in_memory(self):
        dark, light = np.zeros((2, 3), np.uint8), np.full((2, 3), 255, np.uint8)
        pairs = pair_images([dark, "a.png"], [light, Image.fromarray(dark)], [0, 1])
        assert pairs.texts == [picture_name(dark), picture_name(light), "a.png"]
        assert pairs.select([0]).images
        assert pairs.to_dataset().column_names == ["image1", "image2", "is_duplicate"]
        with pytest.raises(TypeError, match="image 1 is a int"):
            pair_images([dark, dark], [light, 3], [0, 1])
        with pytest.raises(ValueError, match=r"of one kind.*: a \(images\), b \(texts\)"):
            Pairs.concat([replace(pairs, source="a"), Pairs.from_texts(["a"], ["b"], [0], "b")])
