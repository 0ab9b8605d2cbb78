"""Images as strings: the name of an image, and the image behind a name.

Beside the names of `textsiam.media.names` (paths, members of a zip, data URIs), a row of an idx file, plain or .gz, is
one: `train-images-idx3-ubyte.gz#17`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from textsiam.data.tables.errors import DataError
from textsiam.images.decoding import check_size, decode_raster, plain_raster, raster_format, raster_size
from textsiam.media.archives import archive_kind, idx_array
from textsiam.media.names import data_uri, embedded_bytes, is_data, located, named_bytes
from textsiam.media.names import shown_name as shown_name

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
MAX_PIXELS = 50_000_000
_BYTES_PER_PIXEL = 8  # of the largest raster: four samples of 16 bits
_NAMED = re.compile(
    r"data:image/.+"
    rf"|(?!https?://).+({'|'.join(map(re.escape, PICTURE_SUFFIXES))})"
    r"|.*(idx3-ubyte|\.idx3?)(\.gz)?#\d+",
    re.IGNORECASE | re.DOTALL,
)


def is_picture_name(name: str) -> bool:
    """Tell whether a string has the form of an image's name; no file is looked at.

    Example:
        >>> is_picture_name("photos/cat.PNG"), is_picture_name("Is a PNG better than a JPEG?")
        (True, False)
    """
    return _NAMED.fullmatch(name) is not None


def picture_name(value: Any, position: int | None = None) -> str:
    """Name an image by a string that `open_picture` opens.

    Args:
        value: A name or path (kept as it is); the bytes of an image file; a PIL image; a numpy array
            `(height, width)`, or with 1, 3 or 4 channels last; a torch tensor, with channels first; or the dict
            of `datasets.Image(decode=False)`. Arrays hold uint8 in 0..255 or floats in 0..1.
        position: Where the value stands among others, for messages.

    Returns:
        The name. Images in memory become data URIs: bytes as they are, all others as PNG. Equal pixels give
        equal names.

    Raises:
        TypeError: The value is nothing of this.
        DataError: The bytes are no image, a float is outside 0..1, or there are no pixels.

    Example:
        >>> picture_name(np.zeros((2, 2), dtype=np.uint8))[:22]
        'data:image/png;base64,'
    """
    where = "the image" if position is None else f"image {position}"
    if isinstance(value, str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping) and value and set(value) <= {"bytes", "path"}:
        inner = value.get("path") if value.get("bytes") is None else value["bytes"]
        if isinstance(inner, str | bytes):
            return picture_name(inner, position)
        raise TypeError(f"{where}: neither 'bytes' nor 'path' of the dict is set")
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        return data_uri(data, raster_format(data, where).mime)
    pixels = _pixels(value, where)
    if 0 in pixels.shape:
        raise DataError(f"{where}: has no pixels, its shape is {pixels.shape}")
    return _png_name(pixels)


def received_picture(value: str, *, max_pixels: int = MAX_PIXELS, decode: bool = True) -> str:
    """Name an image that came from outside: base64, or a data URI; never a path, so that no file is opened for it.

    Args:
        value: The bytes of an image file in base64, or a data URI of them.
        max_pixels: As for `open_picture`.
        decode: Try whether the image can be opened; without, only a name is made.

    Raises:
        DataError: The value is neither, or the image cannot be opened.
    """
    name = value if is_data(value) else f"data:image/*;base64,{value}"
    if decode:
        open_picture(name, max_pixels=max_pixels)
    return name


def received_pixels(value: str, *, max_pixels: int = MAX_PIXELS) -> int:
    """Tell by the header how many pixels an image from outside has; see `received_picture`."""
    name = received_picture(value, decode=False)
    where = shown_name(name)
    width, height = raster_size(embedded_bytes(name, where, _largest(max_pixels)), where, max_pixels)
    return width * height


def _largest(max_pixels: int) -> int:
    """Return the bytes that an image of so many pixels may have."""
    return max_pixels * _BYTES_PER_PIXEL + (1 << 16)


def open_picture(name: str, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Open the image behind a name: upright, with 8 bits a sample, in mode "L" or "RGB".

    The orientation noted by a camera (EXIF) is applied; transparency is laid over white; a palette, CMYK, YCbCr
    and LAB become RGB; 1 bit becomes L; 16 bits are scaled to 8 (65535 becomes 255), not clipped, since most
    of such an image would be white otherwise. The content tells the format, not the ending.

    Args:
        name: A path, `FILE#ROW` of an idx file, `FILE.zip#MEMBER`, or a data URI.
        max_pixels: A larger image is refused by its header, before any pixel is decoded.

    Raises:
        DataError: There is no such file, row or member; or it is empty, no image, damaged, too large or
            animated. The message names the image.
        ValueError: `max_pixels` is below 1.
    """
    if max_pixels < 1:
        raise ValueError(f"max_pixels must be at least 1, got {max_pixels}")
    where = shown_name(name)
    if not is_data(name):
        path, inner = located(name, where, "image")
        if inner is not None and archive_kind(path) == "idx":
            return _idx_row(path, inner, where, max_pixels)
    return decode_raster(named_bytes(name, largest=_largest(max_pixels), noun="image"), where, max_pixels)


def picture_thumbnail(name: str, *, side: int = 72, format: Literal["PNG", "JPEG"] = "PNG") -> bytes:
    """Return an image that fits into a square, as PNG or, smaller, as JPEG: what a report shows.

    Raises:
        DataError: the image cannot be opened.
    """
    picture, file = open_picture(name), io.BytesIO()
    picture.thumbnail((side, side))
    picture.save(file, format, optimize=True)
    return file.getvalue()


def _png_name(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return data_uri(buffer.getvalue(), "image/png")


def _pixels(value: Any, where: str) -> np.ndarray:
    """Give the pixels of an image in memory as uint8 `(h, w)` or `(h, w, 3)`."""
    from PIL import Image

    if isinstance(value, Image.Image):
        return np.asarray(plain_raster(value, where))
    channels_first = hasattr(value, "detach") and hasattr(value, "cpu")  # a torch tensor, torch not imported
    if channels_first:
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    if not isinstance(value, np.ndarray):
        raise TypeError(
            f"{where} is a {type(value).__name__}, expected a path or name, bytes, a PIL image, an array or a tensor"
        )
    shape, found = "(height, width)", value
    if found.ndim == 3:
        shape = "(channels, height, width)" if channels_first else "(height, width, channels)"
        found = np.moveaxis(found, 0, -1) if channels_first else found
    if found.ndim not in (2, 3) or (found.ndim == 3 and found.shape[-1] not in (1, 3, 4)):
        raise TypeError(f"{where} has shape {value.shape}, expected (height, width) or {shape} with 1, 3 or 4 channels")
    found = _eight_bits(found, where)
    found = found[..., 0] if found.ndim == 3 and found.shape[-1] == 1 else found
    if found.ndim == 3 and found.shape[-1] == 4 and found.size:
        return np.asarray(plain_raster(Image.fromarray(found), where))
    return np.ascontiguousarray(found)


def _eight_bits(values: np.ndarray, where: str) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if not np.issubdtype(values.dtype, np.floating):
        raise TypeError(f"{where} is an array of {values.dtype}, expected uint8 or floats in 0..1")
    if values.size and not (values.min() >= 0 and values.max() <= 1):  # so that NaN is refused too
        raise DataError(f"{where} holds floats from {values.min():g} to {values.max():g}, expected 0..1")
    return np.rint(values.astype(np.float64) * 255).astype(np.uint8)


def _idx_row(path: Path, inner: str, where: str, max_pixels: int) -> Image:
    from PIL import Image

    images = idx_array(path)
    count, height, width = images.shape
    if not (inner.isascii() and inner.isdigit() and int(inner) < count):
        rows = f"it has rows 0 to {count - 1}" if count else "it has no rows"
        raise DataError(f"{where}: no such row in the idx file: {rows}")
    if not height * width:
        raise DataError(f"{where}: has no pixels: the images of the idx file are {width}×{height}")
    check_size((width, height), where, max_pixels)
    return cast("Any", Image).fromarray(np.array(images[int(inner)]))
