"""Pairs and texts that are images: tables of paths, datasets of images, class folders."""

from __future__ import annotations

import gzip
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from textsiam.data.pairs import DataError
from textsiam.images import read_images
from textsiam.images.names import open_picture, picture_name
from textsiam.media.pairs import DRAWN_PAIRS
from textsiam.sources import read_pairs, read_texts


def png(value):
    buffer = io.BytesIO()
    Image.new("L", (3, 2), value).save(buffer, "PNG")
    return buffer.getvalue()


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

    def test_parquet_with_images_as_datasets_write_them(self, folder):
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = folder / "pairs.parquet"
        cells = {"image1": {"bytes": None, "path": "a.png"}, "image2": {"bytes": png(7), "path": "b.png"}, "label": 0}
        pq.write_table(pa.Table.from_pylist([cells]), path)
        assert read_pairs(path).texts == [f"{folder}/a.png", picture_name(png(7))]

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
        with pytest.raises(DataError, match="owner/x: columns 'text1', 'text2' must all hold the same: texts, im"):
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
