"""Every format and mode of an image becomes 8 bits of grey or RGB, upright."""

from __future__ import annotations

import base64
import io
import struct

import numpy as np
import pytest
from PIL import Image

from textsiam.data.tables.errors import DataError
from textsiam.images.names import (
    open_picture,
    picture_name,
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


def opened(image, form="PNG", **options):
    return open_picture(uri(encoded(image, form, **options)))


def test_no_copies_for_further_frames_are_kept():
    """Pillow's reader of WebP keeps the pixels three times more: 600 MB for 50 million of them."""
    image = opened(Image.fromarray(COLOUR), "WEBP", lossless=True)
    assert vars(image).get("_decoder") is vars(image).get("fp") is None
    assert np.array_equal(np.asarray(image), COLOUR)


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
