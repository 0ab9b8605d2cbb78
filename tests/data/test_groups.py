"""Pairs whose texts have groups, or are names of images: what joins, what is kept, what is never alike."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from textsiam.data.clusters import canonical, cluster_ids, contradictions, text_forms
from textsiam.data.components import group_edges, joined_groups
from textsiam.data.images import read_images
from textsiam.data.pairs import DRAWN_PAIRS, DataError, Pairs, read_pairs
from textsiam.data.pictures import open_picture, picture_name
from textsiam.data.splits import data_report, leakage, split_pairs
from textsiam.data.texts import read_texts


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
        for groups in ([0, 1, 2], [0, 1, 2, -2]):
            with pytest.raises(ValueError, match=r"memory: groups must be one a text \(4\), from -1 on, got"):
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
        images = Pairs.from_images(self.NAMES, others, [0] * 5)
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
        for pairs, first in ((Pairs.from_images(left, right, [1]), 0), (Pairs.from_texts(left, right, [1]), 1)):
            assert canonical(pairs, cluster_ids(pairs)).tolist() == [first]

    def test_images_in_memory(self):
        dark, light = np.zeros((2, 3), np.uint8), np.full((2, 3), 255, np.uint8)
        pairs = Pairs.from_images([dark, "a.png"], [light, Image.fromarray(dark)], [0, 1])
        assert pairs.texts == [picture_name(dark), picture_name(light), "a.png"]
        assert pairs.select([0]).images
        assert pairs.to_dataset().column_names == ["image1", "image2", "is_duplicate"]
        with pytest.raises(TypeError, match="image 1 is a int"):
            Pairs.from_images([dark, dark], [light, 3], [0, 1])
        with pytest.raises(ValueError, match=r"not both: a \(images\), b \(texts\)"):
            Pairs.concat([replace(pairs, source="a"), Pairs.from_texts(["a"], ["b"], [0], "b")])


class TestTables:
    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "in").mkdir()
        for i, name in enumerate(("a.png", "b.png", "in/c d.png")):
            (tmp_path / name).write_bytes(png(i))
        with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
            archive.writestr("e.png", png(9))
        return tmp_path

    ROWS = (("a.png", "./b.png", 1), ("a.png", "in/c d.png", 0), ("many.zip#e.png", "b.png", 0))

    def checked(self, path, folder):
        pairs = read_pairs(path)
        names = [str(folder / name) for name in ("a.png", "b.png", "in/c d.png", "many.zip#e.png")]
        assert (pairs.texts, pairs.labels.tolist(), pairs.images, pairs.groups) == (names, [1, 0, 0], True, None)
        assert all(open_picture(name).size == (3, 2) for name in pairs.texts)

    @pytest.mark.parametrize("name", ["pairs.csv", "pairs.tsv", "pairs.jsonl", "pairs.parquet", "pairs.csv.gz"])
    def test_paths_are_relative_to_the_table(self, folder, name):
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = folder / name
        rows = [dict(zip(("image1", "image2", "is_duplicate"), row, strict=True)) for row in self.ROWS]
        between = "\t" if ".tsv" in name else ","
        text = "\n".join([between.join(rows[0]), *(between.join(map(str, row.values())) for row in rows)])
        if name.endswith("parquet"):
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif name.endswith("jsonl"):
            path.write_text("\n".join(map(json.dumps, rows)))
        else:
            path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
        self.checked(path, folder)

    def test_a_missing_file_is_a_bad_row(self, folder):
        path = folder / "pairs.csv"
        path.write_text(
            "image1,image2,label\na.png,b.png,1\na.png,no.png,1\n,b.png,0\nno.png,b.png,0\n"
            f"a.png,https://x.org/a.png,0\nb.png,{picture_name(png(0))},0\n{folder}/a.png,a.png,1\n".replace(
                picture_name(png(0)), f'"{picture_name(png(0))}"'
            )
        )
        with pytest.raises(DataError) as caught:
            read_pairs(path)
        assert str(caught.value) == f"{path}:3: 'image2': {folder}/no.png: no such image file"
        pairs = read_pairs(path, on_bad_row="skip")
        assert pairs.report.skipped == {"missing image": 3, "empty text": 1}
        assert pairs.report.warnings[1] == f"skipped {path}:4: 'image1' is empty, expected an image"
        assert pairs.report.warnings[2] == f"skipped {path}:5: 'image1': {folder}/no.png: no such image file"
        assert "nothing is fetched" in pairs.report.warnings[3]
        assert pairs.texts == [f"{folder}/a.png", f"{folder}/b.png", picture_name(png(0))]

    @pytest.mark.parametrize("names", [("image1", "image2", "label"), ("question1", "question2", "label")])
    def test_datasets_of_images(self, names):
        from datasets import Dataset, Features, Value
        from datasets import Image as ImageFeature

        first, second, label = names
        features = Features({first: ImageFeature(), second: ImageFeature(), label: Value("int64")})
        values = [{"bytes": png(i), "path": None} for i in range(3)]
        dataset = Dataset.from_dict({first: values[:2], second: values[1:], label: [1, 0]}, features)
        pairs = read_pairs("owner/faces", load=lambda name, config, split: dataset)
        assert pairs.texts == [picture_name(png(i)) for i in range(3)]
        assert pairs.images

    def test_a_column_of_images_by_itself(self, folder):
        path = folder / "photos.csv"
        path.write_text("id,image\nx,a.png\ny,in/c d.png\nz,no.png\n")
        with pytest.raises(DataError, match=r"photos\.csv:4: 'image': .*/no\.png: no such image file"):
            read_texts(path)
        texts = read_texts(path, on_bad_row="skip")
        assert (texts.ids, texts.images) == (["x", "y"], True)
        assert texts.texts == [f"{folder}/a.png", f"{folder}/in/c d.png"]
        path.write_text("image1,image2\na.png,b.png\nb.png,a.png\n")
        assert read_texts(path).texts == [f"{folder}/a.png", f"{folder}/b.png"]

    def test_columns_of_images_and_texts(self):
        from datasets import Dataset, Features, Value
        from datasets import Image as ImageFeature

        features = Features({"text1": Value("string"), "text2": ImageFeature(), "label": Value("int64")})
        dataset = Dataset.from_dict(
            {"text1": ["a"], "text2": [{"bytes": png(1), "path": None}], "label": [1]}, features
        )
        with pytest.raises(DataError, match="owner/x: columns 'text1', 'text2' must all hold images, or all texts"):
            read_pairs("owner/x", load=lambda name, config, split: dataset)


class TestFolders:
    @pytest.fixture
    def root(self, tmp_path):
        for i in range(12):
            path = tmp_path / "root" / "abc"[i % 3] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(i))
        (tmp_path / "root" / "b" / "notes.txt").write_text("x")
        return tmp_path / "root"

    def test_pairs_are_drawn_from_class_folders(self, root):
        pairs = read_pairs(root)
        assert (len(pairs), pairs.positives) == (36, 18)  # all that exist of one class
        assert (pairs.groups[pairs.left] == pairs.groups[pairs.right]).tolist() == (pairs.labels == 1).tolist()
        assert pairs.source == str(root)
        assert pairs.fingerprint == read_pairs(root).fingerprint
        assert set(read_pairs(root, labelled=False).labels.tolist()) == {-1}
        assert len(read_images(root)) == 12
        assert DRAWN_PAIRS == 10_000

    def test_a_zip_and_an_idx_file(self, root, tmp_path):
        with zipfile.ZipFile(tmp_path / "root.zip", "w") as archive:
            for path in sorted(root.rglob("*.png")):
                archive.write(path, path.relative_to(tmp_path))
        assert read_pairs(tmp_path / "root.zip").positives == 18
        values = np.zeros((6, 2, 2), np.uint8)
        (tmp_path / "images-idx3-ubyte").write_bytes(
            b"\0\0\x08\x03" + np.array([6, 2, 2], ">u4").tobytes() + values.tobytes()
        )
        (tmp_path / "labels-idx1-ubyte").write_bytes(
            b"\0\0\x08\x01" + np.array([6], ">u4").tobytes() + bytes([0, 0, 0, 1, 1, 1])
        )
        assert len(read_pairs(tmp_path / "images-idx3-ubyte")) == 12

    def test_texts_of_a_folder_are_its_images(self, root, tmp_path):
        texts = read_texts(root)
        assert texts.images
        assert texts.ids == [f"{c}/{i}.png" for c in "abc" for i in sorted(range("abc".index(c), 12, 3))]
        assert texts.texts == [str(root / each) for each in texts.ids]
        assert texts.report.skipped == {"no image (.txt)": 1}
        flat = read_texts(root / "a")
        assert flat.ids == ["0.png", "3.png", "6.png", "9.png"]
        (root / "a" / "0.png").write_bytes(b"")
        with pytest.raises(DataError, match=r"a:0\.png: is empty \(0 bytes\), expected an image"):
            read_texts(root / "a")
        assert len(read_texts(root / "a", on_bad_row="skip")) == 3
        (tmp_path / "none").mkdir()
        for read in (read_texts, read_pairs):
            with pytest.raises(DataError, match="none: is a directory, expected a file; it holds nothing"):
                read(tmp_path / "none")
