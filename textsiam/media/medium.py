"""What one kind of file is asked: `textsiam.images.medium` answers for images, `textsiam.sounds.medium` for sounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textsiam.data.pairs import Pairs
from textsiam.data.tables.columns import NOUNS, Modality
from textsiam.data.tables.errors import DataError, OnBadRow
from textsiam.data.tables.rows import Cell, Problem
from textsiam.media.names import file_version, is_address, is_data, located, shown_name

if TYPE_CHECKING:
    import numpy as np
    import torch
    from sentence_transformers import SentenceTransformer


class Medium(ABC):
    """How files of one modality are read, made ready for a tower, changed for training, and shown.

    Attributes:
        modality: What towers call it.
        suffixes: The endings of such files, in lower case.
        augmentation: The dataclass whose knobs `training.augment` takes.
        unit: What its size is counted in.
        idx: Whether an idx file holds such inputs too.
        bf16: Whether "auto" may encode in bf16 and keep a cosine of 0.9999 to fp32.
        kept: Inputs after which a long job writes down what it has: some ten seconds of work.
    """

    modality: ClassVar[Modality]
    suffixes: ClassVar[tuple[str, ...]]
    augmentation: ClassVar[type]
    unit: ClassVar[str]
    idx: ClassVar[bool] = False
    bf16: ClassVar[bool] = False
    kept: ClassVar[int] = 2048

    @property
    def nouns(self) -> str:
        """What messages call several."""
        return NOUNS[self.modality]

    @property
    def noun(self) -> str:
        """What messages call one."""
        return self.nouns.removesuffix("s")

    @property
    def some(self) -> str:
        """What messages call one that is expected."""
        return f"{'an' if self.noun[0] in 'aeiou' else 'a'} {self.noun}"

    @property
    def memory_format(self) -> torch.memory_format:
        """How the backbone's weights lie in memory for it to be fast: as they are, unless a medium says otherwise."""
        import torch

        return torch.preserve_format

    @abstractmethod
    def to_key(self, value: Any, position: int | None = None) -> str:
        """Name a value by a string: a path, or its own bytes.

        Raises:
            TypeError: The value is of another kind.
            DataError: It is damaged.
        """

    @abstractmethod
    def check(self, name: str) -> None:
        """Open what is behind a name.

        Raises:
            DataError: It cannot be opened; the message names it.
        """

    @abstractmethod
    def received(self, value: str, *, decode: bool = True) -> str:
        """Return the string that stands for an input from outside, which must not name a file or an address.

        Args:
            value: Base64, or a data URI.
            decode: Try whether it can be opened.

        Raises:
            DataError: It is no such input.
        """

    @abstractmethod
    def received_size(self, value: str) -> int:
        """Tell by its header how many of `unit` an input from outside has.

        Raises:
            DataError: It is no such input, or too large.
        """

    def ready(self, name: str, tower: SentenceTransformer) -> str:
        """Open a large input now, where what a tower takes of it is smaller; otherwise return its name.

        Raises:
            DataError: It cannot be opened.
        """
        self.check(name)
        return name

    @abstractmethod
    def thumbnail(self, name: str) -> bytes:
        """Return a small PNG of it.

        Raises:
            DataError: It cannot be opened.
        """

    def played(self, name: str) -> bytes | None:
        """Return a WAV to be played beside the thumbnail; None where there is nothing to hear."""
        return None

    @abstractmethod
    def prepare(
        self,
        tower: SentenceTransformer,
        names: Sequence[str],
        prompt: str | None = None,
        broken: dict[str, str] | None = None,
    ) -> Any:
        """Make inputs ready for a tower; what cannot be opened goes into `broken`, or raises where that is None."""

    @abstractmethod
    def exhibit(self, name: str, *, side: int) -> tuple[bytes, str]:
        """Return bytes that a browser shows or plays, made anew from the content, and their media type.

        Args:
            name: The input.
            side: Pixels of the longer side of a picture, at most.

        Raises:
            DataError: It cannot be opened.
        """

    @abstractmethod
    def example(self, backbone: Any) -> Any:
        """Return a dummy input as the first module of a tower takes it."""

    @abstractmethod
    def dummy_batch(self, tower: SentenceTransformer, tokens: int) -> dict[str, Any]:
        """Return the features of dummy inputs of so many tokens, to measure with."""

    def of_two_lengths(self, tower: SentenceTransformer) -> Any:
        """Make two inputs ready, one far shorter; None where all inputs have one length."""
        return None

    def to_keys(self, inputs: Iterable[Any], first: int = 0) -> list[str]:
        """Return the strings that stand for inputs.

        Raises:
            TypeError: One is of another kind; the message names its position, counted from `first`.
            DataError: One is damaged.
        """
        return [self.to_key(value, position) for position, value in enumerate(inputs, first)]

    def pairs(self, left: Sequence[Any], right: Sequence[Any], labels: Sequence[int], source: str = "memory") -> Pairs:
        """Make pairs of inputs in memory or by path, row for row.

        Raises:
            DataError: as `Pairs.from_texts`, or a value is damaged.
            TypeError: a value is of another kind; it is named by its position.
        """
        made = Pairs.from_texts(self.to_keys(left), self.to_keys(right), labels, source)
        return replace(made, modality=self.modality)

    def content(self, name: str) -> str:
        """Return what changes when the content of an input does, for a cache."""
        return file_version(name, self.noun)

    def counter(self, tower: SentenceTransformer) -> Callable[[Sequence[str]], np.ndarray]:
        """Return what counts tokens as `prepare` would; it may be called in a thread of its own."""
        return lambda names: self.prepare(tower, list(names)).lengths

    def broken(self, name: str) -> str | None:
        """Say why it cannot be opened; None where it can. It is decoded for that."""
        try:
            self.check(name)
        except DataError as error:
            return str(error).removeprefix(f"{shown_name(name)}: ")
        return None

    def has_ending(self, name: str) -> bool:
        """Tell by its ending whether this is the name of such a file."""
        return name.lower().endswith(self.suffixes)

    def missing(self, name: str) -> str | None:
        """Say why no file can be behind a name; None where one is. It is not opened."""
        try:
            located(name, name, self.noun)
        except DataError as error:
            return str(error)
        return None

    def named(self, column: str, value: object, folder: Path | None) -> str | Problem:
        """Name what is in a cell of a table, or say (reason, problem) of what is none.

        A path is relative to `folder`, the table's; that its file is there is checked, that it can be opened is not.
        """
        if isinstance(value, Mapping) and value.get("bytes") is None and isinstance(value.get("path"), str):
            value = value["path"]
        if isinstance(value, str):
            name = value.strip()
            if not name:
                return "empty text", f"{column!r} is empty, expected {self.some}"
            if folder and not (is_data(name) or is_address(name)):
                name = str(folder / name)
        elif value is None:
            return "empty text", f"{column!r} is missing, expected {self.some}"
        else:
            try:
                name = self.to_key(value)
            except (TypeError, DataError) as error:
                return f"not {self.some}", f"{column!r}: {error}"
        problem = None if is_data(name) else self.missing(name)
        return name if problem is None else (f"missing {self.noun}", f"{column!r}: {problem}")

    def cells(self, folder: Path | None, on_bad_row: OnBadRow = "error") -> Cell:
        """Return the function of (column, value) that names what is in a cell of a table, or says (reason, problem).

        Args:
            folder: What paths are relative to; None for a table that is no file.
            on_bad_row: "skip" decodes each file once, so that one that cannot be opened is a bad row too.
        """
        known: dict[str, str | Problem] = {}  # a file is looked for once

        def looked_at(column: str, value: object) -> str | Problem:
            found = self.named(column, value, folder)
            if on_bad_row == "error" or isinstance(found, tuple) or (problem := self.broken(found)) is None:
                return found
            return f"unreadable {self.noun}", f"{column!r}: {shown_name(found)}: {problem}"

        def cell(column: str, value: object) -> str | Problem:
            if not isinstance(value, str) or len(value) > 4096:
                return looked_at(column, value)
            found = known.get(value)
            if found is None or isinstance(found, tuple):  # a problem names its column
                found = known[value] = looked_at(column, value)
            return found

        return cell
