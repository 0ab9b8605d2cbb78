"""The lines of a text file, plain or .gz, strictly UTF-8, with their numbers."""

from __future__ import annotations

import gzip
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from textsiam.data.tables.errors import BadRows, DataError

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_UTF32 = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_LONGEST = 1 << 28  # bytes of a line: more is no text, and would fill the memory
_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"


def open_plain(path: Path) -> IO[bytes]:
    """Open a file, unpacked where its first bytes say gzip, whatever its name."""
    with path.open("rb") as stream:
        packed = stream.read(2) == _GZIP
    return cast("IO[bytes]", gzip.open(path, "rb")) if packed else path.open("rb")


@contextmanager
def regular_file(path: Path) -> Iterator[Path]:
    """Give a file that can be opened again and again: itself, or a copy of a pipe or of standard input ("-")."""
    typed = str(path) == "-"
    if not typed and (path.is_file() or path.is_dir()):
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="textsiam-") as copy:
        try:
            if typed:
                shutil.copyfileobj(sys.stdin.buffer, copy)
            else:
                with path.open("rb") as stream:
                    shutil.copyfileobj(stream, copy)
            copy.flush()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error})") from None
        yield Path(copy.name)


_HEAD = 512  # bytes that tell what a file is
_PACKED = {
    b"PK\x03\x04": "a .zip archive or an Excel workbook (unpack it, or save the sheet as .csv)",
    b"\xd0\xcf\x11\xe0": "an Excel workbook (save the sheet as .csv)",
    b"\xfd7zXZ": "packed with xz (unpack it, or pack it with gzip)",
    b"BZh91AY&SY": "packed with bzip2 (unpack it, or pack it with gzip)",
    b"7z\xbc\xaf": "a .7z archive (unpack it)",
    b"\x28\xb5\x2f\xfd": "packed with zstd (unpack it, or pack it with gzip)",
    b"\x1f\x8b": "packed with gzip twice (unpack it once)",
    b"%PDF-": "a PDF",
}


class Lines:
    """The decoded lines of a file, with enough memory to start over after a record that does not close.

    Iterating gives text lines with their ends. `number` is the last line given; `taken` holds the lines of
    the record being read since `begin`, and `undecodable` the first of them that is not UTF-8, as
    (line, problem); `rewind` gives all of them but the first back.
    """

    def __init__(self, path: Path, bad: BadRows) -> None:
        """Open the file and look at its first bytes."""
        self.name = bad.name
        self.number = 0
        self.taken: list[str] = []
        self.undecodable: tuple[int, str] | None = None
        self._undecodable: dict[int, str] = {}  # by line, so that a line given back is still known for it
        self._bad = bad
        self._back: list[str] = []
        self._offset = self._begins = 0
        try:
            self._stream = open_plain(path)
        except OSError as error:
            raise self._broken(error) from None
        try:
            self._start()
        except DataError:
            self.close()
            raise

    def _start(self) -> None:
        try:
            head = self._stream.read(_HEAD)
        except (OSError, EOFError, zlib.error) as error:
            raise self._broken(error) from None
        start = head[:4]
        if head in (b"", _BOM):
            raise DataError(f"{self.name}: is empty")
        if packed := next((what for begins, what in _PACKED.items() if head.startswith(begins)), None):
            raise DataError(f"{self.name}: is {packed}, expected a text file")
        if head[257:262] == b"ustar":
            raise DataError(f"{self.name}: is a .tar archive, expected a text file: unpack it")
        if start in _UTF32:
            raise DataError(f"{self.name}: is UTF-32, expected UTF-8; convert it: iconv -f utf-32 -t utf-8")
        if start.startswith(_UTF16) or 0 in start[:2]:
            raise DataError(f"{self.name}: is UTF-16, expected UTF-8; convert it: iconv -f utf-16 -t utf-8")
        self._begins = len(_BOM) if start.startswith(_BOM) else 0
        self.restart()

    def restart(self, after: int = 0) -> None:
        """Begin again, after so many lines."""
        self.number, self._offset = 0, self._begins
        self._back.clear()
        self._undecodable.clear()
        self._stream.seek(self._offset)
        for _ in zip(range(after), self, strict=False):
            pass
        self.begin()

    def _broken(self, error: Exception) -> DataError:
        if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
            return DataError(f"{self.name}: the .gz is truncated or damaged after line {self.number} ({error})")
        return DataError(f"{self.name}: cannot be read ({error})")

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __iter__(self) -> Lines:
        """Give the lines that are left."""
        return self

    def __next__(self) -> str:
        """Give the next line, with its end."""
        line = self._back.pop() if self._back else self._read()
        self.number += 1
        self.taken.append(line)
        if self.undecodable is None and self.number in self._undecodable:
            self.undecodable = (self.number, self._undecodable[self.number])
        return line

    def _read(self) -> str:
        try:
            raw = self._stream.readline(_LONGEST)
        except (OSError, EOFError, zlib.error) as error:
            raise self._broken(error) from None
        if not raw:
            raise StopIteration
        if len(raw) == _LONGEST:
            raise DataError(f"{self.name}:{self.number + 1}: a line is longer than {_LONGEST:,} bytes")
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            line = raw.decode("utf-8", errors="replace")
            self._undecodable[self.number + 1] = (
                f"byte {self._offset + error.start} (0x{raw[error.start]:02x}) is not UTF-8; "
                "convert the file, for example: iconv -f latin1 -t utf-8"
            )
        self._offset += len(raw)
        return line

    def begin(self) -> None:
        """Forget the record read so far."""
        self.taken.clear()
        self.undecodable = None
        if self._undecodable:
            kept = {line: problem for line, problem in self._undecodable.items() if line > self.number}
            self._undecodable = kept

    def rewind(self, keep: int = 1) -> None:
        """Give back every line of the record but its first, or as many as are kept."""
        self._back.extend(reversed(self.taken[keep:]))
        self.number -= len(self.taken) - keep

    def reject_undecodable(self) -> bool:
        """Reject the record if one of its bytes was not UTF-8, and say whether it was."""
        if self.undecodable is None:
            return False
        line, problem = self.undecodable
        self._bad(line, "wrong encoding", problem)
        return True
