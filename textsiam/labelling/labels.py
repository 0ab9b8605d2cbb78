"""The file of answers: a plain TSV to which every draw and every answer is appended, so that none is lost.

A draw is a line whose answer is empty. An answer repeats the line and fills it in; the last one counts, and `undo`
opens the draw again. Several people may write at once: whoever draws locks the file and reads first what others have
added.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import IO

from textsiam.data.tables.errors import DataError
from textsiam.labelling.aim import LIMITS, MOST_PAIRS, Aim
from textsiam.whole_file import locked

ANSWERS = ("y", "n", "skip", "undo", "")
STAGES = ("look", "prove", "recall", "again")
_LONGEST = 100_000  # characters of a text that are written: more than anybody reads, less than a reader of TSV refuses


@dataclass(frozen=True)
class Label:
    """A line: a draw, and what was said of it.

    Attributes:
        draw: Number of the draw, from 0.
        stage: "look", "prove", "recall"; or "again" where a second person is asked about an answered draw.
        stratum: Number of the stratum that the pair is in, best first.
        among: The pair was drawn uniformly from what was left of so many candidates; 0 for a draw by strata.
        probability: With which the pair was drawn.
        rank: Place among the candidates, 0 for the best.
        score: Similarity of the pair.
        id1: Of the first question; the text beside it is for whoever reads the file.
        id2: Of the second question.
        text1: The first question.
        text2: The second question.
        answer: "y", "n", "skip", "undo", or empty while the draw is open.
        labeller: Who was asked.
        time: When, ISO 8601 in UTC.
        precision: As in `Aim`, like the five that follow.
        model: Digest of the model, 16 hexadecimal digits.
        collection: Digest of the collection.
    """

    draw: int
    stage: str
    stratum: int
    among: int
    probability: float
    rank: int
    score: float
    id1: str
    id2: str
    text1: str
    text2: str
    answer: str
    labeller: str
    time: str
    precision: float
    confidence: float
    labels: int
    noise: float
    seed: int
    model: str
    collection: str

    @property
    def aim(self) -> Aim:
        """What was wished when it was drawn."""
        return Aim(self.precision, self.confidence, self.labels, self.noise, self.seed)


_COUNT = (lambda value: 0 <= value <= MOST_PAIRS), f"0 or more, at most {MOST_PAIRS}"
_LIMITS = {
    **dict.fromkeys(("draw", "stratum", "among", "rank"), _COUNT),
    **dict.fromkeys(("probability", "score"), (isfinite, "a finite number")),
    **LIMITS,
}
_KINDS = {field.name: {"int": int, "float": float, "str": str}[str(field.type)] for field in fields(Label)}


class LabelFile:
    """A file of labels that grows at its end.

    Args:
        path: Where it is, or will be.

    Raises:
        DataError: It holds something else; the message names file, line and value.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self._read_to, self._lines = Path(path), 0, 1
        self._last = ""  # column of the last line
        self._unended = False  # the last line that was read lacks its end, as editors may leave it

    def read(self) -> list[Label]:
        """Return the lines that were added since the last call, by anybody."""
        if not self.path.exists():
            return []
        with self._opened("rb") as file:
            return self._read(file)

    @contextmanager
    def exclusive(self) -> Iterator[tuple[list[Label], IO[bytes]]]:
        """Lock the file and give the lines that others added, and the file to append to."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._opened("a+b") as file, locked(file):
            yield self._read(file), file

    def append(self, file: IO[bytes], label: Label) -> None:
        """Write a line, and see it on the disk before anything else happens."""
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t", lineterminator="\n")
        if file.seek(0, os.SEEK_END) == 0:
            writer.writerow(_KINDS)
        cells = (str(value)[:_LONGEST] for value in asdict(label).values())
        writer.writerow([cell.replace("\n", " ").replace("\r", " ").replace("\0", " ") for cell in cells])
        file.write(text.getvalue().encode("utf-8", "surrogatepass"))
        file.flush()
        os.fsync(file.fileno())
        self._read_to, self._lines = file.tell(), self._lines + text.getvalue().count("\n")

    def _opened(self, mode: str) -> IO[bytes]:
        try:
            return self.path.open(mode)  # pyright: ignore[reportReturnType]
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror}") from error

    def _read(self, file: IO[bytes]) -> list[Label]:
        if file.seek(0, os.SEEK_END) < self._read_to:
            raise DataError(f"{self.path}: lines that were there are gone: it is another file by now")
        file.seek(self._read_to)
        found = file.read()
        if self._unended and (found or file.writable()):
            if not found:
                file.write(b"\n")
            self._read_to, self._unended, found = self._read_to + 1, False, found.removeprefix(b"\n")
        whole = found[: found.rfind(b"\n") + 1]
        if self._lines == 1 and not whole and not "\t".join(_KINDS).encode().startswith(found):
            raise self._foreign()
        labels = [self._line(line) for line in whole.split(b"\n")[:-1]]
        rest = found[len(whole) :]
        if rest and self._is_whole(rest):
            labels.append(self._line(rest))
            whole, self._unended = found + b"\n", not file.writable()
            if not self._unended:
                file.write(b"\n")
        elif rest and file.writable():  # somebody was killed while writing: that line never was
            file.truncate(self._read_to + len(whole))
        self._read_to += len(whole) - self._unended
        return [label for label in labels if label is not None]

    def _line(self, line: bytes) -> Label | None:
        """Return what a line says; None for the first one, which names the columns."""
        cells, label = self._cells(line), None
        if self._lines > 1:
            label = self._label(cells)
            self._last = cells[-1]
        elif cells != list(_KINDS):
            raise self._foreign()
        self._lines += 1
        return label

    def _is_whole(self, line: bytes) -> bool:
        """Whether nothing but its end lacks of a line: it holds all of the last column, which is the same in all."""
        try:
            cells = self._cells(line)
        except DataError:
            return False
        return len(cells) == len(_KINDS) and cells[-1] == self._last

    def _foreign(self) -> DataError:
        return DataError(f"{self.path}:1: no file of labels: expected the columns {', '.join(_KINDS)}")

    def _cells(self, line: bytes) -> list[str]:
        try:
            text = line.decode("utf-8", "surrogatepass")
            return next(csv.reader([text.removeprefix("\ufeff")], delimiter="\t"), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{self.path}:{self._lines}: {line[:40]!r} cannot be read: {error}") from None

    def _label(self, cells: list[str]) -> Label:
        if len(cells) != len(_KINDS):
            raise DataError(f"{self.path}:{self._lines}: {len(cells)} columns, expected {len(_KINDS)}")
        values = {}
        for (name, kind), cell in zip(_KINDS.items(), cells, strict=True):
            try:
                values[name] = kind(cell)
            except ValueError:
                raise self._damaged(name, cell, "a number") from None
        for name, (allowed, expected) in _LIMITS.items():
            if not allowed(values[name]):
                raise self._damaged(name, values[name], expected)
        if values["answer"] not in ANSWERS:
            raise self._damaged("answer", values["answer"], "y, n, skip or undo")
        if values["stage"] not in STAGES:
            raise self._damaged("stage", values["stage"], ", ".join(STAGES))
        try:
            aware = datetime.fromisoformat(values["time"]).tzinfo is not None
        except ValueError:
            aware = False
        if not aware:
            raise self._damaged("time", values["time"], "ISO 8601 with a time zone")
        return Label(**values)

    def _damaged(self, name: str, value: object, expected: str) -> DataError:
        return DataError(f"{self.path}:{self._lines}: {name} is {value!r}, expected {expected}")
