"""Files as strings: the name of an image or a sound, and the bytes behind a name.

Every input of a twin is a string. What is in a file is named by

* its path: `photos/cat.png`;
* a member of a zip: `characters.zip#Balinese/character01/0108_01.png`;
* its own bytes, as a data URI (RFC 2397): `data:image/png;base64,iVBOR…`.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from urllib.parse import unquote_to_bytes

from textsiam.data.tables.errors import DataError
from textsiam.media.archives import archive_kind, zip_member

_SHOWN = 80


def is_data(name: str) -> bool:
    """Tell whether a name holds its own bytes."""
    return name[:5].lower() == "data:"


def is_address(name: str) -> bool:
    """Tell whether a name is an address on the web."""
    return name[:8].lower().startswith(("http://", "https://"))


def data_uri(data: bytes, mime: str) -> str:
    """Name bytes by themselves."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def shown_name(name: str) -> str:
    """Shorten a name for messages: a data URI can be megabytes long."""
    return name if len(name) <= _SHOWN or not is_data(name) else f"{name[:40]}… ({len(name):,} characters)"


def named_bytes(name: str, *, largest: int, noun: str) -> bytes:
    """Return the bytes of the file behind a name.

    Args:
        name: A path, `FILE.zip#MEMBER`, or a data URI.
        largest: Bytes that it may have.
        noun: What messages call such a file: "image".

    Raises:
        DataError: There is no such file or member, or it is too large or cannot be read; the message names it.
    """
    where = shown_name(name)
    if is_data(name):
        return embedded_bytes(name, where, largest)
    path, inner = located(name, where, noun)
    if inner is None:
        return _file_bytes(path, where, largest, noun)
    if archive_kind(path) == "zip":
        return zip_member(path, inner, largest=largest)
    raise DataError(f"{where}: {path.name} is neither a zip nor an idx file, and only those have parts after '#'")


def embedded_bytes(name: str, where: str, largest: int) -> bytes:
    """Return the bytes that a data URI holds.

    Raises:
        DataError: It is none, or holds too many.
    """
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


def located(name: str, where: str, noun: str) -> tuple[Path, str | None]:
    """Find the file of a name, and the part after the '#' that ends the file's path.

    Raises:
        DataError: There is no such file.
    """
    if is_address(name):
        raise DataError(f"{where}: is a web address, and nothing is fetched: download the {noun} and give its path")
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
        raise DataError(f"{where}: no such {noun} file")
    kind, article = "a directory" if directory else "no regular file", "an" if noun[0] in "aeiou" else "a"
    raise DataError(f"{where}: is {kind}, expected {article} {noun}")


def file_version(name: str, noun: str) -> str:
    """Return a string that changes when the file behind a name does: the name with its file's time and size.

    Raises:
        DataError: There is no such file.
    """
    if is_data(name):
        return name
    path, _ = located(name, shown_name(name), noun)
    found = path.stat()
    return f"{name}\0{found.st_mtime_ns}\0{found.st_size}"


def _file_bytes(path: Path, where: str, largest: int, noun: str) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(largest + 1)
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror or error})") from None
    if len(data) > largest:
        raise DataError(f"{where}: holds more than {largest:,} bytes")
    if data.startswith((b"PK\x03\x04", b"\x00\x00\x08", b"\x1f\x8b")) and (kind := archive_kind(path)):
        part = "MEMBER" if kind == "zip" else "ROW"
        raise DataError(f"{where}: is a file of many {noun}s ({kind}); name one of them: {path.name}#{part}")
    return data
