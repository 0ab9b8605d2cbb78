"""Labelled images: reading them from everywhere, splitting, and drawing pairs and triplets."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from textsiam.data.clusters import cluster_ids, contradictions
from textsiam.data.images import (
    LabelledImages,
    class_pairs,
    draw_pairs,
    draw_triplets,
    most_pairs,
    read_images,
    split_classes,
    split_images,
)
from textsiam.data.pictures import open_picture, picture_name
from textsiam.data.problems import DataError, ReadReport


def png(value):
    buffer = io.BytesIO()
    Image.new("L", (3, 2), value).save(buffer, "PNG")
    return buffer.getvalue()


def idx(values):
    values = np.asarray(values, dtype=np.uint8)
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def made(sizes, names=None):
    """Images of these class sizes, without files."""
    classes = np.repeat(np.arange(len(sizes)), sizes)
    class_names = names or [f"class{i}" for i in range(len(sizes))]
    labelled = [f"{class_names[c]}/{i}.png" for i, c in enumerate(classes)]
    return LabelledImages(labelled, classes, class_names, "made", ReadReport("made", len(labelled), len(labelled)))


def message(source, **options):
    with pytest.raises(DataError) as caught:
        read_images(source, **options)
    return str(caught.value)


TREE = {
    "Latin/character10/1.png": png(1),
    "Latin/character2/10.png": png(2),
    "Latin/character2/9.PNG": png(3),
    "Greek/character1/a.jpg": png(4),
}
ORDERED = ["Greek/character1/a.jpg", "Latin/character2/9.PNG", "Latin/character2/10.png", "Latin/character10/1.png"]
CLASSES = ["Greek/character1", "Latin/character2", "Latin/character10"]


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    for name, data in TREE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


class TestReading:
    def test_class_folders(self, tree):
        (tree / "notes.txt").write_text("x")
        (tree / "Latin" / "LICENSE").write_text("x")
        (tree / ".hidden.png").write_bytes(b"")
        (tree / ".git").mkdir()
        (tree / ".git" / "a.png").write_bytes(b"")
        images = read_images(tree)
        assert images.names == [str(tree / name) for name in ORDERED]
        assert images.class_names == CLASSES
        assert images.classes.tolist() == [0, 1, 1, 2]
        assert images.classes.dtype == np.int32
        assert len(images) == images.report.kept == 4
        assert images.report.skipped == {"no image (.txt)": 1, "no image (no ending)": 1}
        assert images.report.rows == 6
        assert all(open_picture(name).size == (3, 2) for name in images.names)

    @pytest.mark.parametrize("around", ["", "background/"])
    def test_a_zip_reads_as_its_folders(self, tmp_path, around):
        members = {"__MACOSX/._1.png": b"x", f"{around}.DS_Store": b"x", **{around + k: v for k, v in TREE.items()}}
        path = zipped(tmp_path / "many.zip", members)
        images = read_images(path)
        assert images.names == [f"{path}#{around}{name}" for name in ORDERED]
        assert images.class_names == CLASSES
        assert open_picture(images.names[0]).size == (3, 2)

    def test_the_one_class_of_a_zip_is_no_wrapping(self, tmp_path):
        assert read_images(zipped(tmp_path / "cats.zip", {"cats/1.png": png(1)})).class_names == ["cats"]

    def test_an_image_outside_the_class_folders(self, tree, tmp_path):
        (tree / "loose.png").write_bytes(png(9))
        problem = "lies in no folder that could name its class; put it into one"
        assert message(tree) == f"{tree}:loose.png: {problem}"
        images = read_images(tree, on_bad_row="skip")
        assert (len(images), images.report.skipped) == (4, {"image without class": 1})
        members = {"all/1.png": png(1), "all/cats/2.png": png(2)}
        assert message(zipped(tmp_path / "many.zip", members)).endswith(f"many.zip:all/1.png: {problem}")

    def test_empty_images(self, tree):
        (tree / "Latin" / "character2" / "1.png").write_bytes(b"")
        problem = f"{tree}:Latin/character2/1.png: is empty (0 bytes), expected an image"
        assert message(tree) == problem
        images = read_images(tree, on_bad_row="skip")
        assert images.report.skipped == {"empty image": 1}
        assert images.report.warnings == (f"skipped {problem}",)

    def test_nothing_there(self, tmp_path):
        assert message(tmp_path) == f"{tmp_path}: is a directory, expected a file; it holds nothing"
        assert message(tmp_path / "no") == f"{tmp_path / 'no'}: no such file"
        (tmp_path / "a.csv").write_text("x")
        assert message(tmp_path / "a.csv") == (
            f"{tmp_path}/a.csv: holds no labelled images, expected a folder, a .zip or an idx file"
        )
        (tmp_path / "a.zip").write_text("x")
        assert message(tmp_path / "a.zip").startswith(f"{tmp_path}/a.zip: is no zip or is damaged (")
        empty = zipped(tmp_path / "b.zip", {"a.txt": b"x"})
        assert message(empty) == f"{empty}: no usable image: holds no labelled image"

    @pytest.mark.parametrize(
        ("images", "labels"),
        [
            ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
            ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
            ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"),
            ("t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte.gz"),
        ],
    )
    def test_an_idx_file_has_its_labels_beside_it(self, tmp_path, images, labels):
        for name, values in ((images, np.zeros((4, 2, 3))), (labels, [10, 9, 10, 2])):
            (tmp_path / name).write_bytes(gzip.compress(idx(values)) if name.endswith("gz") else idx(values))
        found = read_images(tmp_path / images)
        assert found.names == [f"{tmp_path / images}#{i}" for i in range(4)]
        assert (found.class_names, found.classes.tolist()) == (["2", "9", "10"], [2, 1, 2, 0])

    def test_idx_labels_that_are_missing_or_too_many(self, tmp_path):
        path = tmp_path / "images-idx3-ubyte.gz"
        path.write_bytes(gzip.compress(idx(np.zeros((4, 2, 3)))))
        assert message(path) == f"{path}: has no labels beside it, expected labels-idx1-ubyte (also .gz)"
        (tmp_path / "labels-idx1-ubyte").write_bytes(idx([1, 2, 3]))
        assert message(path) == f"{path}: holds 4 images, but labels-idx1-ubyte holds 3 labels"
        other = tmp_path / "digits"
        other.write_bytes(idx(np.zeros((4, 2, 3))))
        assert message(other) == f"{other}: has no labels beside it, expected digits (also .gz)"

    def test_sets_are_checked(self):
        report = ReadReport("x", 0, 0)
        for names, classes, class_names, problem in (
            (["a"], [0, 0], ["c"], "x: 1 names, 2 classes"),
            (["a"], [1], ["c"], "x: a class is outside the 1 class names"),
            (["a", "a"], [0, 0], ["c"], "must be distinct"),
        ):
            with pytest.raises(ValueError, match=problem):
                LabelledImages(names, np.array(classes), class_names, "x", report)

    def test_selecting(self):
        images = made([2, 3, 1])
        part = images.of_classes(["class2", "class0"])
        assert (part.names, part.classes.tolist()) == ([images.names[i] for i in (0, 1, 5)], [0, 0, 2])
        assert part.class_names == images.class_names
        assert part.present.tolist() == [0, 2]
        assert images.select([5, 0]).names == [images.names[5], images.names[0]]
        with pytest.raises(DataError, match="made: has no class 'class3'"):
            images.of_classes(["class3"])


class TestDatasets:
    @staticmethod
    def dataset(labels, kind, name="label", values=None):
        from datasets import Dataset, Features
        from datasets import Image as ImageFeature

        values = [{"bytes": png(i), "path": None} for i in range(len(labels))] if values is None else values
        return Dataset.from_dict({"photo": values, name: labels}, Features({"photo": ImageFeature(), name: kind}))

    def test_class_labels(self):
        from datasets import ClassLabel

        dataset = self.dataset([1, 0, 1], ClassLabel(names=["dog", "cat"]), name="animal")
        images = read_images(dataset)
        assert images.names == [picture_name(png(i)) for i in range(3)]
        assert [images.class_names[i] for i in images.classes] == ["cat", "dog", "cat"]
        assert images.source == "dataset"
        calls = []

        def load(name, config, *, split):
            calls.append((name, config, split))
            return dataset

        again = read_images("owner/animals:small", split="test", load=load)
        assert (again.names, again.source) == (images.names, "owner/animals:small")
        assert calls == [("owner/animals", "small", "test")]

    def test_strings_and_bad_rows(self):
        from datasets import Value

        values = [
            {"bytes": png(0), "path": None},
            None,
            {"bytes": b"text", "path": None},
            {"bytes": png(3), "path": ""},
        ]
        dataset = self.dataset(["cat", "cat", "cat", None], Value("string"), values=values)
        assert message(dataset) == "dataset:row 2: 'photo' is missing, expected an image"
        images = read_images(dataset, on_bad_row="skip")
        assert images.report.skipped == {"empty text": 1, "not an image": 1, "no class": 1}
        assert images.report.warnings[1].startswith("skipped dataset:row 3: 'photo': the image: is no image")
        assert images.report.warnings[2] == "skipped dataset:row 4: 'label' is None, expected a class"

    def test_equal_images(self):
        from datasets import Value

        values = [{"bytes": png(i), "path": None} for i in (1, 1, 2, 2, 3)]
        images = read_images(self.dataset(["a", "a", "a", "b", "b"], Value("string"), values=values))
        assert images.names == [picture_name(png(i)) for i in (1, 3)]
        assert (images.report.duplicate_rows, images.report.skipped) == (2, {"image of several classes": 1})
        assert images.report.rows == 5

    def test_columns(self):
        from datasets import Dataset, Value

        assert message(Dataset.from_dict({"a": [1]})) == (
            "dataset: expected one column of images, found none; its columns are 'a'"
        )
        assert message(self.dataset(["x"], Value("string"), name="kind")) == (
            "dataset: has no column of classes, expected a ClassLabel or one of label, labels, class; "
            "its columns are 'photo', 'kind'"
        )


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


def drawn(pairs):
    return {
        frozenset(pair): label
        for *pair, label in zip(pairs.left_texts, pairs.right_texts, pairs.labels.tolist(), strict=True)
    }


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


def _possible(images, count, share):
    sizes = np.bincount(images.classes)
    same = int((sizes * (sizes - 1) // 2).sum())
    positives = round(count * share)
    return positives <= same and count - positives <= len(images) * (len(images) - 1) // 2 - same


@pytest.mark.parametrize(
    ("name", "count", "classes"),
    [("mnist/train-images-idx3-ubyte.gz", 60_000, 10), ("omniglot/images_background_small1.zip", 2_720, 136)],
)
def test_real_data(name, count, classes):
    path = Path(os.environ.get("TEXTSIAM_DATA", "../shared/data")) / name
    if not path.exists():
        pytest.skip(f"{path} is not here (set TEXTSIAM_DATA)")
    images = read_images(path)
    assert (len(images), len(images.present)) == (count, classes)
    pairs = draw_pairs(images, 1_000)
    assert open_picture(pairs.texts[0]).mode == "L"
    assert pairs.positives == 500
