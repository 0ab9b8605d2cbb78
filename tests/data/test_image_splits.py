"""Splits of labelled images, by class and within every class."""

from __future__ import annotations

import numpy as np
import pytest

from textsiam.data.images import (
    LabelledImages,
    split_classes,
    split_images,
)
from textsiam.data.problems import DataError, ReadReport


def made(sizes, names=None):
    """Images of these class sizes, without files."""
    classes = np.repeat(np.arange(len(sizes)), sizes)
    class_names = names or [f"class{i}" for i in range(len(sizes))]
    labelled = [f"{class_names[c]}/{i}.png" for i, c in enumerate(classes)]
    return LabelledImages(labelled, classes, class_names, "made", ReadReport("made", len(labelled), len(labelled)))


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
