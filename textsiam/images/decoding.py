"""The bytes of an image file → a checked image, and any image → 8 bits of grey or RGB."""

from __future__ import annotations

import io
import struct
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from textsiam.data.tables.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 0x0112
_WORDS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_STRIP = 1 << 20  # pixels
_KNOWN = "PNG, JPEG, WebP, GIF, BMP, TIFF or PPM"


class RasterFormat(NamedTuple):
    """A format by its name, its media type, the first bytes of its files, and its module and class in Pillow."""

    name: str
    mime: str
    magic: tuple[bytes, ...]
    plugin: str


_FORMATS = (
    RasterFormat("PNG", "image/png", (b"\x89PNG\r\n\x1a\n",), "Png"),
    RasterFormat("JPEG", "image/jpeg", (b"\xff\xd8\xff",), "Jpeg"),  # of a phone's "MPO" the photo, not its previews
    RasterFormat("WebP", "image/webp", (b"RIFF",), "WebP"),
    RasterFormat("GIF", "image/gif", (b"GIF87a", b"GIF89a"), "Gif"),
    RasterFormat("BMP", "image/bmp", (b"BM",), "Bmp"),
    RasterFormat("TIFF", "image/tiff", (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"), "Tiff"),
    RasterFormat("PPM", "image/x-portable-anymap", (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"), "Ppm"),
)


def raster_format(data: bytes, where: str) -> RasterFormat:
    """Tell the format of an image file and check its header.

    Raises:
        DataError: No bytes, none of the formats that are read here, or a header that cannot be read.
    """
    found = _by_magic(data, where)
    _opened(data, found, where)
    return found


def decode_raster(data: bytes, where: str, max_pixels: int) -> Image:
    """Decode an image file to mode "L" or "RGB", upright; see `open_picture`.

    Raises:
        DataError: The bytes are none, no image, damaged, too large, or several frames.
    """
    image, kind = _sized(data, where, max_pixels)
    return plain_raster(image, where, kind)


def _sized(data: bytes, where: str, max_pixels: int) -> tuple[Image, str]:
    """Read the header of an image that is not too large; returns it with the name of its format."""
    found = _by_magic(data, where)
    if found.name == "GIF":
        check_size(_gif_extent(data, where), where, max_pixels)
    image = _opened(data, found, where)
    check_size(image.size, where, max_pixels)
    check_size(getattr(image, "_tile_size", image.size), where, max_pixels)  # what Pillow sets aside for a TIFF
    return image, found.name


def plain_raster(image: Image, where: str, kind: str = "image") -> Image:
    """Bring an opened image to mode "L" or "RGB" of 8 bits, upright, transparency laid over white.

    Raises:
        DataError: The image cannot be decoded, has several frames, or pixels of unknown meaning.
    """
    plain = None
    try:
        frames = getattr(image, "n_frames", 1)
        if frames == 1:
            if held := "_decoder" in vars(image):  # of a WebP: it and `fp` hold the pixels three times more
                vars(image).update(_decoder=_OneFrame(vars(image)["_decoder"]))
            image.load()
            if held:
                vars(image).update(_decoder=None, fp=None)
            plain = _plain_by_strips(_upright(image))
    except Exception as error:  # damaged content makes Pillow raise errors of every type
        raise DataError(f"{where}: is a truncated or damaged {kind} ({_cause(error)})") from None
    if frames != 1:
        raise DataError(f"{where}: has {frames} frames, expected one image; save the frame that is meant by itself")
    if plain is None:
        raise DataError(f"{where}: has values of mode {image.mode!r} beyond 16 bits; save it with 8 or 16 bits")
    return plain


class _OneFrame:
    """A decoder of Pillow that is let go of once it has given its only frame."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def get_next(self) -> Any:
        decoder, self._decoder = self._decoder, None
        return None if decoder is None else decoder.get_next()

    def reset(self) -> None:
        """Go back to no other frame."""


def _by_magic(data: bytes, where: str) -> RasterFormat:
    if not data:
        raise DataError(f"{where}: is empty (0 bytes)")
    for each in _FORMATS:
        if data.startswith(each.magic) and (each.name != "WebP" or data[8:12] == b"WEBP"):
            return each
    raise DataError(f"{where}: is no image that can be read, expected {_KNOWN}; it starts with {data[:8]!r}")


def _opened(data: bytes, found: RasterFormat, where: str) -> Image:
    """Read the header. `Image.open` is not used: it warns of large images, and would try other formats."""
    from PIL.Image import DecompressionBombError

    plugin = getattr(import_module(f"PIL.{found.plugin}ImagePlugin"), f"{found.plugin}ImageFile")
    try:
        try:
            return plugin(io.BytesIO(data))
        except Warning:  # where warnings are errors: damaged notes of a camera are worth one, no refusal
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return plugin(io.BytesIO(data))
    except DecompressionBombError as error:
        raise DataError(f"{where}: has too many pixels ({_cause(error)})") from None
    except Exception as error:  # damaged content makes Pillow raise errors of every type
        cause = f"its header is damaged, or says no pixels ({_cause(error)})"
        raise DataError(f"{where}: is no whole {found.name}: {cause}") from None


def _cause(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def raster_size(data: bytes, where: str, max_pixels: int) -> tuple[int, int]:
    """Tell width and height of an image file by its header; no pixel is decoded.

    Raises:
        DataError: As for `decode_raster`, as far as a header shows it.
    """
    return _sized(data, where, max_pixels)[0].size


def check_size(size: tuple[int, int], where: str, max_pixels: int) -> None:
    """Refuse an image by its width and height.

    Raises:
        DataError: It has no pixels, or more than `max_pixels`.
    """
    width, height = size
    if not width * height:
        raise DataError(f"{where}: has no pixels: it is {width}×{height}")
    if width * height > max_pixels:
        raise DataError(f"{where}: has {width * height:,} pixels ({width}×{height}), more than {max_pixels:,}")


def _gif_extent(data: bytes, where: str) -> tuple[int, int]:
    """Give the size of a GIF with its first frame, which may reach beyond the screen its header tells of."""
    try:
        width, height, flags = struct.unpack_from("<HHB", data, 6)
        at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        while data[at] == 0x21:
            at += 2
            while data[at]:
                at += data[at] + 1
            at += 1
        if data[at] != 0x2C:
            return width, height
        left, top, wide, high = struct.unpack_from("<4H", data, at + 1)
    except (struct.error, IndexError):
        raise DataError(f"{where}: is a truncated GIF: it ends before its first frame") from None
    return max(width, left + wide), max(height, top + high)


def _upright(image: Image) -> Image:
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # the notes of the camera are damaged: the pixels are not
        return image
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _plain_by_strips(image: Image) -> Image | None:
    """Convert to L or RGB strip by strip: what is made on the way takes several times the room of an image."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    high = max(1, _STRIP // image.width)
    if image.height <= high:
        return _plain(image)
    whole: Image | None = None
    for top in range(0, image.height, high):
        box = (0, top, image.width, min(top + high, image.height))
        strip = _plain(image.crop(box))
        if strip is None:
            return None
        whole = whole or _empty(strip.mode, image.size)
        whole.paste(strip, box)
    return whole


def _empty(mode: str, size: tuple[int, int]) -> Image:
    from PIL import Image as Images

    return Images.new(mode, size)


def _plain(image: Image) -> Image | None:
    """Convert to L or RGB; None where the values have no known range."""
    mode = image.mode
    if mode in _WORDS:
        return _scaled(image)
    if mode == "F":
        return None
    if "A" in mode.upper().removeprefix("LAB") or "transparency" in image.info:
        over = _over_white(image)
        return over.convert("L") if mode in ("1", "L", "LA", "La") else over
    if mode == "1":
        return image.convert("L")
    if mode == "LAB":
        return _lab_to_rgb(image)
    return image if mode in ("L", "RGB") else image.convert("RGB")


def _scaled(image: Image) -> Image | None:
    from PIL import Image as Images

    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        return None
    grey = ((values + 128) // 257).astype(np.uint8)
    key = image.info.get("transparency")
    return Images.fromarray(np.where(values == key, 255, grey).astype(np.uint8) if isinstance(key, int) else grey)


def _over_white(image: Image) -> Image:
    from PIL import Image as Images

    if image.mode in ("La", "PA"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    clear = image.convert("RGBA")
    return Images.alpha_composite(Images.new("RGBA", clear.size, "white"), clear).convert("RGB")


def _lab_to_rgb(image: Image) -> Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    turned = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    if turned is None:
        raise ValueError("LAB could not be converted")
    return turned
