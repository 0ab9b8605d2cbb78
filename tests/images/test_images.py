"""Labelled images, read from folders, zips, idx files and datasets."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textsiam.data.tables.errors import DataError, ReadReport
from textsiam.images import (
    LabelledImages,
    draw_pairs,
    read_images,
)
from textsiam.images.names import open_picture, picture_name
from textsiam.sources import read_texts


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

    def test_members_of_a_zip_may_lie_beside_its_root(self, tmp_path):
        path = zipped(
            tmp_path / "many.zip", {"../photos/K.png": png(1), "./photos/L.png": png(2), "photos/M.png": png(3)}
        )
        texts = read_texts(path)
        assert sorted(texts.ids) == ["../photos/K.png", "./photos/L.png", "photos/M.png"]
        assert open_picture(f"{path}#../photos/K.png").size == (3, 2)
        assert read_images(path).class_names == ["photos"]

    def test_what_is_left_out_of_a_folder_or_zip_is_counted_and_named(self, tree, tmp_path):
        (tree / "Latin" / "more").symlink_to(tree / "Greek", target_is_directory=True)
        (tree / "Latin" / "gone.png").symlink_to(tmp_path / "nothing.png")
        report = read_images(tree).report
        assert (report.kept, report.skipped) == (4, {"link to a folder": 1, "link to nothing": 1})
        assert report.warnings == (
            f"left out {tree}:Latin/more: link to a folder", f"left out {tree}:Latin/gone.png: link to nothing"
        )  # fmt: skip
        path = zipped(tmp_path / "twice.zip", {"a/1.png": png(1)})
        with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a/1.png", png(2))
        texts = read_texts(path)
        assert (len(texts), texts.report.rows) == (1, 2)
        assert texts.report.skipped == {"replaced by a later member of the same name": 1}

    def test_a_zip_of_nothing_holds_none_of_what_was_looked_for(self, tmp_path):
        empty = zipped(tmp_path / "b.zip", {})
        with pytest.raises(DataError, match=r"b\.zip: holds no image; tables in a \.zip are not read: unpack it$"):
            read_texts(empty)

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
            (["a"], [0.5], ["c"], r"x: classes\[0\] is 0.5, expected the index"),
            (["a"], [1], ["c"], r"x: classes\[0\] is 1, expected the index of one of 1 class names"),
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
