"""Images as strings: the name of an image, and the image behind a name.

Every input of a twin is a string. An image is named by

* the path of its file: `photos/cat.png`;
* a row of an idx file, plain or .gz: `train-images-idx3-ubyte.gz#17`;
* a member of a zip: `characters.zip#Balinese/character01/0108_01.png`;
* its own bytes, as a data URI (RFC 2397): `data:image/png;base64,iVBOR…`.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import unquote_to_bytes

import numpy as np

from textsiam.data.tables.errors import DataError
from textsiam.images.archives import archive_kind, idx_array, zip_member
from textsiam.images.decoding import check_size, decode_raster, plain_raster, raster_format, raster_size

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
MAX_PIXELS = 50_000_000
_BYTES_PER_PIXEL = 8  # of the largest raster: four samples of 16 bits
_SHOWN = 80
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
        return _data_uri(data, raster_format(data, where).mime)
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
    name = value if _is_data(value) else f"data:image/*;base64,{value}"
    if decode:
        open_picture(name, max_pixels=max_pixels)
    return name


def received_pixels(value: str, *, max_pixels: int = MAX_PIXELS) -> int:
    """Tell by the header how many pixels an image from outside has; see `received_picture`."""
    name = received_picture(value, decode=False)
    where = shown_name(name)
    width, height = raster_size(_embedded(name, where, _largest(max_pixels)), where, max_pixels)
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
    where, largest = shown_name(name), _largest(max_pixels)
    if _is_data(name):
        return decode_raster(_embedded(name, where, largest), where, max_pixels)
    path, inner = _located(name, where)
    if inner is None:
        return decode_raster(_file_bytes(path, where, largest), where, max_pixels)
    kind = archive_kind(path)
    if kind == "zip":
        return decode_raster(zip_member(path, inner, largest=largest), where, max_pixels)
    if kind == "idx":
        return _idx_row(path, inner, where, max_pixels)
    raise DataError(f"{where}: {path.name} is neither a zip nor an idx file, and only those have parts after '#'")


def picture_cell(column: str, value: object, folder: Path | None) -> str | tuple[str, str]:
    """Name the image in a cell of a table, or say (reason, problem) of what is none.

    A path is relative to `folder`, the table's; that its file is there is checked, that it is an image is not.
    """
    if isinstance(value, Mapping) and value.get("bytes") is None and isinstance(value.get("path"), str):
        value = value["path"]
    if isinstance(value, str):
        name = value.strip()
        if not name:
            return "empty text", f"{column!r} is empty, expected an image"
        if folder and not (_is_data(name) or _is_address(name)):
            name = str(folder / name)
    elif value is None:
        return "empty text", f"{column!r} is missing, expected an image"
    else:
        try:
            name = picture_name(value)
        except (TypeError, DataError) as error:
            return "not an image", f"{column!r}: {error}"
    problem = None if _is_data(name) else missing_picture(name)
    return name if problem is None else ("missing image", f"{column!r}: {problem}")


def missing_picture(name: str) -> str | None:
    """Say why no file can be behind a name; None where one is. It is not opened."""
    try:
        _located(name, name)
    except DataError as error:
        return str(error)
    return None


def broken_picture(name: str) -> str | None:
    """Say why an image cannot be opened; None where it can. It is decoded for that."""
    try:
        open_picture(name)
    except DataError as error:
        return str(error).removeprefix(f"{shown_name(name)}: ")
    return None


def picture_thumbnail(name: str, *, side: int = 72, format: Literal["PNG", "JPEG"] = "PNG") -> bytes:
    """Return an image that fits into a square, as PNG or, smaller, as JPEG: what a report shows.

    Raises:
        DataError: the image cannot be opened.
    """
    picture, file = open_picture(name), io.BytesIO()
    picture.thumbnail((side, side))
    picture.save(file, format, optimize=True)
    return file.getvalue()


def picture_version(name: str) -> str:
    """Return a string that changes when the file behind a name does: the name with its file's time and size.

    Raises:
        DataError: There is no such file.
    """
    if _is_data(name):
        return name
    path, _ = _located(name, shown_name(name))
    found = path.stat()
    return f"{name}\0{found.st_mtime_ns}\0{found.st_size}"


def shown_name(name: str) -> str:
    """Shorten a name for messages: a data URI can be megabytes long."""
    return name if len(name) <= _SHOWN or not _is_data(name) else f"{name[:40]}… ({len(name):,} characters)"


def _is_data(name: str) -> bool:
    return name[:5].lower() == "data:"


def _is_address(name: str) -> bool:
    return name[:8].lower().startswith(("http://", "https://"))


def _data_uri(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def _png_name(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return _data_uri(buffer.getvalue(), "image/png")


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


def _embedded(name: str, where: str, largest: int) -> bytes:
    head, comma, body = name.partition(",")
    if not comma:
        raise DataError(f"{where}: is no data URI: it has no comma")
    if len(body) * 3 // 4 > largest:
        raise DataError(f"{where}: holds about {len(body) * 3 // 4:,} bytes, more than {largest:,}")
    try:
        data = unquote_to_bytes(body) if "%" in body else body.encode("ascii")
        return base64.b64decode(data, validate=True) if head.lower().endswith(";base64") else data
    except (binascii.Error, UnicodeEncodeError) as error:
        raise DataError(f"{where}: the data URI cannot be decoded ({error})") from None


def _located(name: str, where: str) -> tuple[Path, str | None]:
    """Find the file of a name, and the part after the '#' that ends the file's path."""
    if _is_address(name):
        raise DataError(f"{where}: is a web address, and nothing is fetched: download the image and give its path")
    try:
        if Path(name).is_file():
            return Path(name), None
        for at in (i for i, character in enumerate(name) if character == "#"):
            if Path(name[:at]).is_file():
                return Path(name[:at]), name[at + 1 :]
        directory, missing = Path(name).is_dir(), not Path(name).exists()
    except (OSError, ValueError):  # too long for a path, or a NUL inside
        directory, missing = False, True
    if missing:
        raise DataError(f"{where}: no such image file")
    raise DataError(f"{where}: is {'a directory' if directory else 'no regular file'}, expected an image")


def _file_bytes(path: Path, where: str, largest: int) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(largest + 1)
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror or error})") from None
    if len(data) > largest:
        raise DataError(f"{where}: holds more than {largest:,} bytes")
    if data.startswith((b"PK\x03\x04", b"\x00\x00\x08", b"\x1f\x8b")) and (kind := archive_kind(path)):
        part = "MEMBER" if kind == "zip" else "ROW"
        raise DataError(f"{where}: is a file of many images ({kind}); name one of them: {path.name}#{part}")
    return data


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
