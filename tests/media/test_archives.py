"""Images in idx files and zips: found, kept open, and refused where damaged."""

from __future__ import annotations

import gzip
import io
import os
import struct
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textsiam.data.tables.errors import DataError
from textsiam.images.names import (
    open_picture,
)

GREY = np.arange(0, 240, 4, dtype=np.uint8).reshape(6, 10)


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def message(name, **options):
    with pytest.raises(DataError) as caught:
        open_picture(str(name), **options)
    return str(caught.value)


def idx(values):
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


class TestArchives:
    @pytest.fixture
    def rows(self):
        return np.random.default_rng(1).integers(0, 256, (7, 5, 4), dtype=np.uint8)

    @pytest.mark.parametrize("packed", [False, True])
    def test_rows_of_an_idx_file(self, tmp_path, rows, packed):
        path = tmp_path / "some#images-idx3-ubyte"
        path.write_bytes(gzip.compress(idx(rows)) if packed else idx(rows))
        for row in range(7):
            assert np.array_equal(np.asarray(open_picture(f"{path}#{row}")), rows[row])
        for row in ("7", "-1", "x", "", "1.0", "²"):
            assert message(f"{path}#{row}") == f"{path}#{row}: no such row in the idx file: it has rows 0 to 6"
        assert message(path) == f"{path}: is a file of many images (idx); name one of them: {path.name}#ROW"
        assert message(f"{path}#0", max_pixels=19).endswith("#0: has 20 pixels (4×5), more than 19")

    def test_a_changed_file_is_read_again(self, tmp_path, rows):
        path = tmp_path / "images-idx3-ubyte.gz"
        path.write_bytes(gzip.compress(idx(rows)))
        assert open_picture(f"{path}#0").size == (4, 5)
        path.write_bytes(gzip.compress(idx(rows[:, :3])))
        os.utime(path, ns=(1, 1))
        assert open_picture(f"{path}#0").size == (4, 3)

    @pytest.mark.parametrize("packed", [False, True])
    def test_broken_idx_files(self, tmp_path, rows, packed):
        path = tmp_path / "images-idx3-ubyte"

        def broken(data):
            path.unlink(missing_ok=True)
            path.write_bytes(gzip.compress(data) if packed else data)
            return message(f"{path}#0").removeprefix(f"{path}: ")

        whole = idx(rows)
        assert broken(whole[:-1]) == "the idx file is truncated: expected 140 bytes of values, found 139"
        longer = "the idx file is longer than its header says: expected 140 bytes of values, found 141"
        assert broken(whole + b"x") == longer
        assert broken(whole[:9]) == "the idx file ends inside its header"
        assert broken(idx(rows[0, 0])) == "is an idx file of 1 dimensions, expected 3"
        assert broken(idx(rows[:0])).endswith("no such row in the idx file: it has no rows")
        assert broken(idx(rows[:, :, :0])).endswith("has no pixels: the images of the idx file are 0×5")
        assert broken(b"plain text").endswith("only those have parts after '#'")

    def test_a_packed_bomb_and_a_damaged_gz(self, tmp_path, rows):
        path = tmp_path / "images-idx3-ubyte.gz"
        path.write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", 60_000, 1000, 1000) + bytes(1000)))
        assert message(f"{path}#0") == (
            f"{path}: unpacks to 60,000,000,000 bytes, more than 1,073,741,824; unpack the file on disk"
        )
        path.write_bytes(gzip.compress(idx(rows))[:-20])
        assert message(f"{path}#0").startswith(f"{path}: the idx file cannot be read (")

    def test_members_of_a_zip(self, tmp_path):
        path = tmp_path / "many.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/b#1.png", encoded(Image.fromarray(GREY)))
            archive.writestr("a/no.png", b"")
        assert np.array_equal(np.asarray(open_picture(f"{path}#a/b#1.png")), GREY)
        assert message(f"{path}#a/b.png") == f"{path}: no such member in the zip: 'a/b.png'"
        assert message(f"{path}#a/no.png") == f"{path}#a/no.png: is empty (0 bytes)"
        assert message(path) == f"{path}: is a file of many images (zip); name one of them: many.zip#MEMBER"

    def test_damaged_zips(self, tmp_path):
        path = tmp_path / "many.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.png", encoded(Image.fromarray(GREY)))
        data = bytearray(path.read_bytes())
        data[60] ^= 255
        path.write_bytes(data)
        assert message(f"{path}#a.png").startswith(f"{path}: 'a.png' cannot be unpacked (Bad CRC-32")
        path.write_bytes(data[:50])
        assert message(f"{path}#a.png").startswith(f"{path}: is no zip or is damaged (")

    def test_threads_share_what_is_open(self, tmp_path, rows):
        path = tmp_path / "many.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for i, row in enumerate(rows):
                archive.writestr(f"{i}.png", encoded(Image.fromarray(row)))
        (tmp_path / "images.gz").write_bytes(gzip.compress(idx(rows)))
        wrong = []

        def read(first):
            for i in range(200):
                row = (first + i) % 7
                for name in (f"{path}#{row}.png", f"{tmp_path}/images.gz#{row}"):
                    if not np.array_equal(np.asarray(open_picture(name)), rows[row]):
                        wrong.append(name)

        threads = [threading.Thread(target=read, args=(k,)) for k in range(6)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert not wrong


@pytest.mark.parametrize("name", ["mnist/t10k-images-idx3-ubyte.gz#9999", "omniglot/images_background_small1.zip"])
def test_real_data(name):
    path = Path(os.environ.get("TEXTSIAM_DATA", "../shared/data")) / name
    if not Path(str(path).partition("#")[0]).exists():
        pytest.skip(f"{path} is not here (set TEXTSIAM_DATA)")
    if path.suffix == ".zip":
        image = open_picture(f"{path}#images_background_small1/Balinese/character01/0108_01.png")
        assert (image.mode, image.size, image.getextrema()) == ("L", (105, 105), (0, 255))
    else:
        assert open_picture(str(path)).size == (28, 28)
