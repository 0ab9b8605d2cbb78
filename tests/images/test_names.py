"""Names of images, and every broken image behind a name."""

from __future__ import annotations

import base64
import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from textsiam.data.tables.errors import DataError
from textsiam.images.names import (
    is_picture_name,
    open_picture,
    picture_name,
    shown_name,
)

GREY = np.arange(0, 240, 4, dtype=np.uint8).reshape(6, 10)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def uri(data):
    return "data:;base64," + base64.b64encode(data).decode()


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
        code = (
            "import sys, textsiam.images, textsiam.images.augmentation; print(*({'torch', 'PIL'} & set(sys.modules)))"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout == "\n"


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
