"""Names of images, and every odd or broken image behind a name."""

from __future__ import annotations

import base64
import gzip
import io
import os
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from textsiam.data.pictures import (
    is_picture_name,
    open_picture,
    picture_name,
    shown_name,
)
from textsiam.data.problems import DataError

GREY = np.arange(0, 240, 4, dtype=np.uint8).reshape(6, 10)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def uri(data):
    return "data:;base64," + base64.b64encode(data).decode()


def opened(image, form="PNG", **options):
    return open_picture(uri(encoded(image, form, **options)))


def message(name, **options):
    with pytest.raises(DataError) as caught:
        open_picture(str(name), **options)
    return str(caught.value)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width, height):
    """A PNG that says it is this large, and holds next to nothing."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def idx(values):
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


class TestNames:
    def test_names_and_paths_stay(self):
        assert picture_name("a b.png#3") == "a b.png#3"
        assert picture_name(Path("folder/a.png")) == os.path.join("folder", "a.png")

    def test_equal_pixels_have_equal_names(self):
        import torch

        grey = [
            GREY,
            GREY[..., None],
            GREY.astype(np.float32) / 255,
            np.asfortranarray(GREY),
            torch.from_numpy(GREY),
            torch.from_numpy(GREY)[None].double() / 255,
            Image.fromarray(GREY),
            Image.open(io.BytesIO(encoded(Image.fromarray(GREY), "BMP"))),
            {"bytes": None, "path": picture_name(GREY)},
        ]
        assert len({picture_name(value) for value in grey}) == 1
        colour = [COLOUR, torch.from_numpy(COLOUR).permute(2, 0, 1), Image.fromarray(COLOUR), COLOUR / 255]
        assert len({picture_name(value) for value in colour}) == 1
        assert picture_name(GREY) != picture_name(COLOUR)

    @given(
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([(), (1,), (3,)]), st.integers(0, 2**32 - 1))
    )
    def test_what_is_named_is_opened_without_loss(self, shape):
        height, width, channels, seed = shape
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
        found = np.asarray(open_picture(picture_name(pixels)))
        assert np.array_equal(found, pixels[..., 0] if channels == (1,) else pixels)

    def test_an_alpha_channel_is_laid_over_white(self):
        pixels = np.dstack([COLOUR, np.full((6, 10), 0, np.uint8)])
        assert (np.asarray(open_picture(picture_name(pixels))) == 255).all()

    @pytest.mark.parametrize("form", FORMATS)
    def test_bytes_are_kept(self, form):
        data = encoded(Image.fromarray(GREY), form)
        name = picture_name(data)
        kind = {"PPM": "x-portable-anymap"}.get(form, form.lower())
        assert name == f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        assert picture_name({"bytes": data, "path": "a.png"}) == picture_name(memoryview(data)) == name

    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            (3, "image 7 is a int, expected a path or name, bytes, a PIL image, an array or a tensor"),
            (None, "image 7 is a NoneType, "),
            ([1], "image 7 is a list, "),
            (np.zeros(3, np.uint8), r"image 7 has shape (3,), expected (height, width) or (height, width)"),
            (np.zeros((2, 2, 2), np.uint8), "image 7 has shape (2, 2, 2), expected (height, width) or (height, "),
            (np.zeros((2, 2), np.int64), "image 7 is an array of int64, expected uint8 or floats in 0..1"),
            (np.zeros((2, 2), bool), "image 7 is an array of bool, "),
            ({"bytes": None, "path": None}, "image 7: neither 'bytes' nor 'path' of the dict is set"),
            ({"bytes": b"x", "width": 3}, "image 7 is a dict, "),
        ],
    )  # fmt: skip
    def test_what_is_no_image_is_a_type_error(self, value, problem):
        with pytest.raises(TypeError) as caught:
            picture_name(value, 7)
        assert str(caught.value).startswith(problem)

    def test_tensors_have_their_channels_first(self):
        import torch

        with pytest.raises(TypeError, match=r"\(6, 10, 3\), expected \(height, width\) or \(channels, height, width\)"):
            picture_name(torch.from_numpy(COLOUR))

    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            (np.full((2, 2), 1.5), "the image holds floats from 1.5 to 1.5, expected 0..1"),
            (np.array([[0.5, np.nan]]), "the image holds floats from nan to nan, expected 0..1"),
            (np.zeros((0, 3), np.uint8), "the image: has no pixels, its shape is (0, 3)"),
            (b"", "the image: is empty (0 bytes)"),
            (b"<svg/>", "the image: is no image that can be read, expected PNG, JPEG, WebP, GIF, BMP, TIFF or PPM; "
                        "it starts with b'<svg/>'"),
            (b"\x89PNG\r\n\x1a\nand no more", "the image: is no whole PNG: its header is damaged"),
        ],
    )  # fmt: skip
    def test_damaged_images_in_memory(self, value, problem):
        with pytest.raises(DataError) as caught:
            picture_name(value)
        assert str(caught.value).startswith(problem)

    def test_the_form_of_a_name(self):
        names = ["a.png", "b/C.JPEG", picture_name(GREY), "x.zip#a/1.png", "train-images-idx3-ubyte.gz#12"]
        assert all(map(is_picture_name, names))
        texts = ["Is a PNG better?", "who is number #1", "https://x.org/a.png", "data on cats", "", "C#7"]
        assert not any(map(is_picture_name, texts))

    def test_importing_loads_neither_torch_nor_pillow(self):
        code = "import sys, textsiam.data.images, textsiam.data.augment; print(*({'torch', 'PIL'} & set(sys.modules)))"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout == "\n"


class TestModes:
    @pytest.mark.parametrize("form", FORMATS)
    def test_every_format_is_read(self, form, tmp_path):
        path = tmp_path / "image.dat"  # the content tells the format
        for pixels, mode in ((GREY, "L"), (COLOUR, "RGB")):
            path.write_bytes(encoded(Image.fromarray(pixels), form))
            image = open_picture(str(path))
            assert image.mode == ("RGB" if form in ("WEBP", "GIF") else mode)
            if form not in ("JPEG", "WEBP", "GIF"):
                assert np.array_equal(np.asarray(image), pixels)

    @pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
    @pytest.mark.parametrize("orientation", range(9))
    def test_upright(self, form, orientation):
        pixels = np.zeros((16, 24), np.uint8)
        pixels[:8, :8] = 255  # the upper left corner is white
        exif = Image.Exif()
        exif[0x0112] = orientation
        found = np.asarray(opened(Image.fromarray(pixels), form, exif=exif).convert("L")) > 128
        assert found.shape == ((24, 16) if orientation >= 5 else (16, 24))
        corner = {2: (0, -1), 3: (-1, -1), 4: (-1, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}.get(orientation, (0, 0))
        assert found[corner]
        assert found.sum() == 64

    def test_an_image_in_memory_is_upright_too(self):
        exif = Image.Exif()
        exif[0x0112] = 6
        data = encoded(Image.fromarray(GREY), "PNG", exif=exif)
        image = open_picture(picture_name(Image.open(io.BytesIO(data))))
        assert np.array_equal(np.asarray(image), np.asarray(open_picture(uri(data))))
        assert image.size == (6, 10)

    def test_damaged_notes_of_a_camera_do_no_harm(self):
        data = encoded(Image.fromarray(COLOUR), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffgarbage")
        assert open_picture(uri(data)).size == (10, 6)

    def test_sixteen_bits_are_scaled_not_clipped(self):
        words = np.array([[0, 128, 129, 257, 32896, 65535]], dtype=np.uint16)
        for form in ("PNG", "TIFF"):
            assert np.asarray(opened(Image.fromarray(words), form)).tolist() == [[0, 0, 1, 1, 128, 255]]
        wide = Image.fromarray(words.astype(np.int32))
        assert wide.mode == "I"
        assert np.asarray(opened(wide, "TIFF")).tolist() == [[0, 0, 1, 1, 128, 255]]
        pgm = b"P5 2 1 65535\n" + struct.pack(">2H", 65535, 32896)
        assert np.asarray(open_picture(uri(pgm))).tolist() == [[255, 128]]

    def test_values_of_unknown_range_are_refused(self):
        for values in (np.array([[0, 70_000]], np.int32), np.array([[0.5]], np.float32)):
            with pytest.raises(DataError, match=r"has values of mode '[IF]' beyond 16 bits; save it with 8 or 16 bits"):
                opened(Image.fromarray(values), "TIFF")

    def test_one_bit_becomes_grey(self):
        image = opened(Image.fromarray(GREY > 100))
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), np.where(GREY > 100, 255, 0))

    def test_palettes_become_colour(self):
        image = opened(Image.fromarray(GREY).convert("P"))
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image)[..., 1], GREY)

    def test_transparency_is_laid_over_white(self):
        alpha = np.full_like(GREY, 255)
        alpha[0], alpha[1] = 0, 128
        expected = np.rint(255 - alpha / 255 * (255.0 - GREY))
        for image in (Image.merge("LA", [*map(Image.fromarray, (GREY, alpha))]),
                      Image.merge("RGBA", [*map(Image.fromarray, (GREY, GREY, GREY, alpha))])):  # fmt: skip
            found = opened(image)
            assert found.mode == ("L" if image.mode == "LA" else "RGB")
            flat = np.asarray(found if found.mode == "L" else found.getchannel(0)).astype(int)
            assert np.abs(flat - expected).max() <= 1
        for form in ("PNG", "GIF"):
            indexed = Image.fromarray(GREY).convert("P")
            found = np.asarray(opened(indexed, form, transparency=int(GREY[0, 3])))
            assert found[0, 3].tolist() == [255, 255, 255]
            assert found[0, 4].tolist() == [GREY[0, 4]] * 3

    def test_a_transparent_grey_value_becomes_white(self):
        assert np.asarray(opened(Image.fromarray(GREY), transparency=4))[0, :3].tolist() == [0, 255, 8]
        words = GREY.astype(np.uint16) * 257
        assert np.asarray(opened(Image.fromarray(words), transparency=4 * 257))[0, :3].tolist() == [0, 255, 8]

    @pytest.mark.parametrize(("mode", "form"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF")])
    def test_other_colours_become_rgb(self, mode, form):
        flat = Image.new("RGB", (16, 16), (200, 100, 50))
        image = opened(flat.convert(mode), form)
        assert image.mode == "RGB"
        assert np.abs(np.asarray(image).astype(int) - (200, 100, 50)).max() <= 6

    def test_lab_becomes_rgb(self):
        from PIL import ImageCms

        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        flat = ImageCms.profileToProfile(Image.new("RGB", (16, 16), (200, 100, 50)), srgb, lab, outputMode="LAB")
        image = opened(flat, "TIFF")
        assert image.mode == "RGB"
        assert np.abs(np.asarray(image).astype(int) - (200, 100, 50)).max() <= 6


class TestBroken:
    def test_missing(self, tmp_path):
        assert message(tmp_path / "no.png") == f"{tmp_path}/no.png: no such image file"
        assert message("") == ": is a directory, expected an image"
        assert message(tmp_path) == f"{tmp_path}: is a directory, expected an image"
        assert message("a\0b.png").endswith(": no such image file")
        assert message("x" * 5000).endswith(": no such image file")

    def test_nothing_is_fetched(self):
        for name in ("http://example.org/a.png", "HTTPS://example.org/a.png"):
            assert message(name) == (
                f"{name}: is a web address, and nothing is fetched: download the image and give its path"
            )

    def test_no_regular_file(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.png")
        assert message(tmp_path / "pipe.png") == f"{tmp_path}/pipe.png: is no regular file, expected an image"

    def test_empty_and_no_image(self, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(b"")
        assert message(path) == f"{path}: is empty (0 bytes)"
        path.write_text("Not an image")
        assert message(path) == (
            f"{path}: is no image that can be read, expected PNG, JPEG, WebP, GIF, BMP, TIFF or PPM; "
            "it starts with b'Not an i'"
        )
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")  # Pillow would start a program for it
        assert "is no image that can be read" in message(path)

    @pytest.mark.parametrize("form", FORMATS)
    def test_truncated(self, form):
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        data = encoded(Image.fromarray(noise), form)
        for part in (0.02, 0.1, 0.5, 0.9):
            text = message(uri(data[: max(4, int(len(data) * part))]))
            assert "damaged" in text or "truncated" in text or "is no image" in text

    @given(st.sampled_from(FORMATS), st.data())
    @settings(deadline=None, max_examples=300)
    def test_damaged_bytes_are_read_or_refused(self, form, data):
        content = bytearray(encoded(Image.fromarray(COLOUR), form))
        for at, value in data.draw(
            st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), min_size=1, max_size=6)
        ):
            content[at] = value
        try:
            image = open_picture(uri(bytes(content)), max_pixels=1_000_000)
        except DataError:
            return
        assert image.mode in ("L", "RGB")
        assert 0 < image.width * image.height <= 1_000_000

    def test_a_bomb_is_refused_by_its_header(self, tmp_path):
        path = tmp_path / "bomb.png"
        path.write_bytes(png_header(60_000, 60_000))
        assert message(path) == f"{path}: has 3,600,000,000 pixels (60000×60000), more than 50,000,000"
        wide = encoded(Image.fromarray(GREY), "GIF").replace(
            struct.pack("<4H", 0, 0, 10, 6), struct.pack("<4H", 0, 0, 60_000, 60_000)
        )
        assert "has 3,600,000,000 pixels" in message(uri(wide))

    def test_the_limit_is_a_choice(self):
        name = picture_name(GREY)
        assert open_picture(name, max_pixels=60).size == (10, 6)
        assert message(name, max_pixels=59).endswith(": has 60 pixels (10×6), more than 59")
        with pytest.raises(ValueError, match="max_pixels must be at least 1, got 0"):
            open_picture(name, max_pixels=0)

    def test_more_bytes_than_any_such_image_has(self, tmp_path):
        path = tmp_path / "long.png"
        path.write_bytes(encoded(Image.fromarray(GREY)) + bytes(70_000))
        assert message(path, max_pixels=100).endswith("long.png: holds more than 66,336 bytes")
        assert "bytes, more than 66,336" in message(uri(path.read_bytes()), max_pixels=100)
        with zipfile.ZipFile(tmp_path / "long.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.png", bytes(10_000_000))
        text = message(f"{tmp_path}/long.zip#a.png", max_pixels=100)
        assert text == f"{tmp_path}/long.zip: 'a.png' unpacks to 10,000,000 bytes, more than 66,336"

    @pytest.mark.parametrize("form", ["PNG", "GIF", "BMP", "PPM"])
    def test_no_pixels(self, form):
        data = {
            "PNG": png_header(0, 5),
            "GIF": encoded(Image.fromarray(GREY), "GIF").replace(struct.pack("<2H", 10, 6), bytes(4)),
            "BMP": encoded(Image.fromarray(GREY), "BMP").replace(struct.pack("<2i", 10, 6), bytes(8)),
            "PPM": b"P5 0 4 255\n",
        }[form]
        assert "no pixels" in message(uri(data)) or "damaged" in message(uri(data))

    @pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF", "WEBP"])
    def test_several_frames(self, form, tmp_path):
        frames = [Image.fromarray(GREY), Image.fromarray(GREY[::-1]), Image.fromarray(255 - GREY)]
        path = tmp_path / "moving"
        path.write_bytes(encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50, lossless=True))
        assert message(path) == f"{path}: has 3 frames, expected one image; save the frame that is meant by itself"

    def test_a_phones_picture_with_a_preview_is_one_image(self):
        data = encoded(Image.fromarray(GREY), "MPO", save_all=True, append_images=[Image.fromarray(GREY[:3])])
        assert open_picture(uri(data)).size == (10, 6)

    def test_data_uris(self):
        plain = encoded(Image.fromarray(GREY), "PPM")
        quoted = "data:image/x-portable-graymap," + "".join(f"%{byte:02X}" for byte in plain)
        assert np.array_equal(np.asarray(open_picture(quoted)), GREY)
        assert message("data:image/png;base64") == "data:image/png;base64: is no data URI: it has no comma"
        assert "the data URI cannot be decoded" in message("data:image/png;base64,a+é")
        assert "the data URI cannot be decoded" in message("data:image/png;base64,abc")
        long = "data:image/png;base64," + "A" * 100_000
        assert message(long).startswith("data:image/png;base64,AAAAAAAAAAAAAAAAAA… (100,022 characters): is no image")
        assert shown_name("x" * 200) == "x" * 200


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
