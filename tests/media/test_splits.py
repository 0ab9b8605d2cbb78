"""Splits of labelled images, by class and within every class."""

from __future__ import annotations

import numpy as np
import pytest

from textsiam.data.tables.errors import DataError, ReadReport
from textsiam.images import (
    LabelledImages,
    split_classes,
    split_images,
    split_labelled,
)


def made(sizes, names=None, source="made"):
    """Images of these class sizes, without files."""
    classes = np.repeat(np.arange(len(sizes)), sizes)
    class_names = names or [f"class{i}" for i in range(len(sizes))]
    labelled = [f"{source}/{class_names[c]}/{i}.png" for i, c in enumerate(classes)]
    return LabelledImages(labelled, classes, class_names, source, ReadReport(source, len(labelled), len(labelled)))


class TestSplits:
    def test_classes_are_disjoint(self):
        images = made([3] * 20)
        parts = split_classes(images, validation=0.1, calibration=1, test=0.25, seed=3)
        assert list(parts) == ["train", "validation", "calibration", "test"]
        assert [len(part.present) for part in parts.values()] == [12, 2, 1, 5]
        assert sorted(name for part in parts.values() for name in part.names) == sorted(images.names)
        assert len(set().union(*(part.present.tolist() for part in parts.values()))) == 20
        again = split_classes(images.select(np.arange(60)[::-1]), validation=0.1, calibration=1, test=0.25, seed=3)
        assert {k: set(v.names) for k, v in again.items()} == {k: set(v.names) for k, v in parts.items()}
        assert set(split_classes(images, seed=4)["test"].names) != set(split_classes(images, seed=5)["test"].names)

    def test_a_level_keeps_alphabets_together(self):
        images = made([2] * 9, [f"{a}/{i}" for a in ("Greek", "Latin", "Thai") for i in range(3)])
        parts = split_classes(images, validation=1, test=1, level=1)
        alphabets = [{images.class_names[c].split("/")[0] for c in part.present} for part in parts.values()]
        assert [len(each) for each in alphabets] == [1, 1, 0, 1]
        with pytest.raises(DataError, match="made: has 3 groups of classes at level 1, too few for validation 0, "
                                            "calibration 0, test 3 and train"):  # fmt: skip
            split_classes(images, test=3, level=1)

    def test_images_of_every_class_in_every_part(self):
        images = made([10, 20, 4])
        parts = split_images(images, validation=0.1, calibration=1, test=0.2)
        assert {name: np.bincount(part.classes).tolist() for name, part in parts.items()} == {
            "train": [6, 13, 1],
            "validation": [1, 2, 1],
            "calibration": [1, 1, 1],
            "test": [2, 4, 1],
        }
        assert sorted(name for part in parts.values() for name in part.names) == sorted(images.names)
        with pytest.raises(DataError, match="class 'class2' has 2 images, too few for validation, test and train"):
            split_images(made([9, 9, 2]), validation=0.1, test=0.1)

    @pytest.mark.parametrize("split", [split_classes, split_images])
    def test_sizes_are_checked(self, split):
        for sizes in ({"test": 1.0}, {"test": -1}, {"test": 0.5, "validation": 0.5}):
            with pytest.raises(ValueError, match="must "):
                split(made([5] * 5), **sizes)


class TestSeveralSources:
    def cut(self, **how):
        first, second = made([40] * 10, source="first"), made([20] * 40, source="second")
        knobs = {"pairs": 1000, "validation": 0.1, "calibration": 0.1, "unseen": ["class7", "class8"], "disjoint": True}
        return split_labelled(first, more=[second], **(knobs | how))

    def test_no_pair_is_of_two_sources_and_each_gives_pairs_by_its_classes(self):
        train = self.cut().train
        owners = [[name.split("/")[0] for name in side] for side in (train.left_texts, train.right_texts)]
        assert owners[0] == owners[1]
        shares = [owners[0].count(name) / 1000 for name in ("first", "second")]
        assert shares == pytest.approx([8 / 38, 30 / 38], abs=0.01)
        assert len(train) == 1000
        assert train.positives == 500

    def test_classes_of_one_name_are_two(self):
        train = self.cut(unseen=None).train
        assert train.groups is not None
        groups = {}
        for name, group in zip(train.texts, train.groups.tolist(), strict=True):
            groups.setdefault(tuple(name.split("/")[:2]), set()).add(group)
        assert all(len(each) == 1 for each in groups.values())
        assert len(set().union(*groups.values())) == len(groups)

    def test_every_part_has_classes_of_its_own(self):
        cut = self.cut()
        parts = [cut.train, cut.validation, cut.calibration, cut.test]
        classes = [{tuple(name.split("/")[:2]) for name in part.texts} for part in parts]
        assert sum(map(len, classes)) == len(set().union(*classes))
        assert {name for source, name in classes[3] if source == "first"} == {"class7", "class8"}
        assert {source for source, _ in classes[1] | classes[2]} == {"second"}  # the first has too few to share
        assert len(classes[1]) == len(classes[2]) == 4

    def test_unseen_classes_may_be_of_any_source(self):
        cut = split_labelled(made([9] * 4), more=[made([9] * 4, ["a/x", "a/y", "b", "c"], "other")], unseen=["a"])
        assert {name.split("/")[1] for name in cut.test.texts} == {"a"}
        with pytest.raises(DataError, match=r"first \+ second: has no class 'Latin'"):
            self.cut(unseen=["Latin"])

    def test_an_image_has_one_source(self):
        with pytest.raises(DataError, match=r"made: holds made/class0/0.png, and so does made: give each once"):
            split_labelled(made([5] * 3), more=[made([5] * 3)])

    def test_too_many_pairs_are_refused(self):
        with pytest.raises(DataError, match="pairs of images of one class are wanted, only"):
            self.cut(pairs=100_000)
