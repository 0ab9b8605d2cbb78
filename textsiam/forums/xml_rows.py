"""The rows of a large XML file, one after the other, in bounded memory; a DOCTYPE and its entities are refused."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from textsiam.data.tables.errors import DataError
from textsiam.data.tables.lines import open_plain

LONGEST_ROW = 64 << 20  # bytes: the parser holds an unfinished row in memory
_CHUNK = 1 << 18


def xml_rows(
    path: Path, root: str, *, read: Callable[[int], None] | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Give the line and the attributes of each `<row>` of a file.

    The encoding is that of the byte-order mark or the XML declaration: UTF-8, UTF-16 or any of one byte a character.
    Every document type is refused, so no entity can grow or fetch anything, or be left out unseen.

    Args:
        path: The file, plain or gzipped.
        root: The element that must hold the rows.
        read: Called with the number of bytes of each piece read (unpacked, where the file is gzipped).

    Raises:
        DataError: The file is no such XML, is damaged, ends in the middle, has a DOCTYPE or a row longer than 64 MiB;
            with line and byte.
    """
    rows: list[tuple[int, dict[str, str]]] = []
    parser = expat.ParserCreate()

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "row" and opened:
            rows.append((parser.CurrentLineNumber, attributes))
        elif not opened and name == root:
            opened.append(name)
        else:
            raise DataError(f"{path}:{parser.CurrentLineNumber}: holds <{name[:40]}>, expected {expected}")

    def entity(name: str, *_: object) -> NoReturn:
        raise DataError(
            f"{path}:{parser.CurrentLineNumber}: declares the entity {name[:40]!r} (byte {parser.CurrentByteIndex:,}); "
            "no dump does, and entities can fill the memory: refused"
        )

    def document_type() -> NoReturn:
        raise DataError(
            f"{path}:{parser.CurrentLineNumber}: has a document type, <!DOCTYPE> (byte {parser.CurrentByteIndex:,}); "
            "no dump has, and entities of another file would be missing: refused"
        )

    opened: list[str] = []
    expected = f"<row> inside <{root}>"
    parser.StartElementHandler = start
    parser.EntityDeclHandler = entity
    parser.EndDoctypeDeclHandler = document_type  # at its end, so that an entity in it is named
    done = unfinished = 0
    for piece in _pieces(path):
        _feed(parser, path, piece, done)
        done += len(piece)
        unfinished = 0 if rows else unfinished + len(piece)
        if unfinished > LONGEST_ROW:
            raise DataError(f"{path}:{parser.CurrentLineNumber}: a row is longer than {LONGEST_ROW:,} bytes")
        if read is not None:
            read(len(piece))
        yield from rows
        rows.clear()
    _feed(parser, path, b"", done)
    yield from rows


def _pieces(path: Path) -> Iterator[bytes]:
    done = 0
    try:
        with open_plain(path) as stream:
            while piece := stream.read(_CHUNK):
                yield piece
                done += len(piece)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read after byte {done:,} ({error})") from None


def _feed(parser: expat.XMLParserType, path: Path, piece: bytes, done: int) -> None:
    try:
        parser.Parse(piece, not piece)
    except expat.ExpatError as error:
        where = f"{path}:{error.lineno}"
        if not piece:
            raise DataError(f"{where}: ends in the middle (byte {done:,}): the dump is truncated") from None
        cause, byte = expat.errors.messages[error.code], f"column {error.offset + 1}, byte {parser.ErrorByteIndex:,}"
        raise DataError(f"{where}: is not well-formed XML: {cause} ({byte})") from None
    except (ValueError, LookupError) as error:  # an encoding that expat leaves to Python, which does not take it either
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}:1: is in an encoding that cannot be read ({error}); convert it to UTF-8") from None
