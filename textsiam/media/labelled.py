"""Images or sounds with a class each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from textsiam.data.integers import picked_rows, whole_numbers
from textsiam.data.tables.columns import NOUNS, Modality
from textsiam.data.tables.errors import DataError, ReadReport


@dataclass(frozen=True, eq=False)
class LabelledFiles:
    """`m` images, or sounds, by name, each of one class.

    `names` are distinct (see `textsiam.media.names`); `classes` (m,) int32 point into `class_names`, which
    may hold classes without a file: parts of one set number their classes alike.

    Raises:
        ValueError: the lengths differ, a class is outside `class_names`, or a name occurs twice.
    """

    names: list[str]
    classes: np.ndarray
    class_names: list[str]
    source: str
    report: ReadReport
    modality: Modality = "image"

    def __post_init__(self) -> None:
        """Bring the classes to their type and check them."""
        count = len(self.class_names)
        expected = f"the index of one of {count} class names"
        checked = whole_numbers(self.classes, np.int32, (0, count - 1), f"{self.source}: classes", expected)
        object.__setattr__(self, "classes", checked)
        if len(self.names) != len(self.classes):
            raise ValueError(f"{self.source}: {len(self.names)} names, {len(self.classes)} classes")
        if len(set(self.names)) != len(self.names) or len(set(self.class_names)) != len(self.class_names):
            raise ValueError(f"{self.source}: the names of {self.nouns}, and those of classes, must be distinct")

    def __len__(self) -> int:
        """Count the files."""
        return len(self.names)

    @property
    def nouns(self) -> str:
        """What messages call them."""
        return NOUNS[self.modality]

    def select(self, rows: np.ndarray | Sequence[int]) -> LabelledFiles:
        """Keep these rows (indices in the order given, or a boolean mask); classes keep their numbers."""
        kept = picked_rows(rows, len(self), self.source)
        return replace(self, names=[self.names[i] for i in kept], classes=self.classes[kept])

    def of_classes(self, names: Sequence[str]) -> LabelledFiles:
        """Keep the files of these classes; classes keep their numbers.

        Raises:
            DataError: there is no such class.
        """
        known = {name: number for number, name in enumerate(self.class_names)}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise DataError(f"{self.source}: has no class {unknown[0]!r}")
        return self.select(np.isin(self.classes, [known[name] for name in names]))

    def named(self, names: Sequence[str]) -> np.ndarray:
        """Tell of each class (of `class_names`) whether it is one of these, or in one of these folders of classes."""
        of_name = [[each == name or each.startswith(f"{name}/") for each in self.class_names] for name in names]
        return np.any(np.array(of_name, dtype=bool).reshape(-1, len(self.class_names)), axis=0)

    def has(self, name: str) -> bool:
        """Say whether there is a class, or a folder of classes, of this name."""
        return bool(self.named([name]).any())

    def check_named(self, names: Sequence[str], *others: LabelledFiles) -> None:
        """Refuse names that neither these files nor the others have.

        Raises:
            DataError: there is no such class and no such folder of classes.
        """
        sources = (self, *others)
        for name in names:
            if not any(source.has(name) for source in sources):
                where = " + ".join(source.source for source in sources)
                raise DataError(f"{where}: has no class {name!r}, nor a folder of classes of this name")

    @property
    def present(self) -> np.ndarray:
        """The classes that have a file (k,), ascending."""
        return np.unique(self.classes)
