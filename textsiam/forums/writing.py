"""Writing a forum folder, whole or not at all, in bounded memory."""

from __future__ import annotations

import hashlib
import json
import platform
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from textsiam.data.tables.errors import BadRows, DataError, OnBadRow
from textsiam.data.tables.writers import write_table
from textsiam.forums.questions import COLUMNS, KINDS, Question, QuestionIds, shown, storable
from textsiam.forums.reading import LINKS, PROVENANCE, QUESTIONS, is_forum
from textsiam.saving import whole_folder

Progress = Callable[[int, int], None]  # called with the bytes done and the bytes in all
_PENDING = 8 << 20  # characters that are held before they are written


class ForumWriter:
    """Takes questions and links, and counts what is left out and why."""

    def __init__(self, folder: Path, on_bad_row: OnBadRow) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {"tags": pa.list_(pa.string()), "score": pa.int64()}
        self._schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
        self._file = pq.ParquetWriter(folder / QUESTIONS, self._schema, compression="zstd")
        self._folder = folder
        self._on_bad_row: OnBadRow = on_bad_row
        self._bad: list[BadRows] = []
        self._pending: list[tuple[Any, ...]] = []
        self._size = 0
        self._ends = (array("q"), array("q"))
        self._kinds = array("b")
        self._digest = hashlib.sha256()
        self.ids = QuestionIds()
        self.left_out: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()  # questions that stay, but not as they were

    def bad_rows(self, name: str) -> BadRows:
        """Return what takes the bad rows of a file: an error or a count, which the provenance then holds."""
        self._bad.append(BadRows(name, on_bad_row=self._on_bad_row))
        return self._bad[-1]

    def add(self, question: Question) -> bool:
        """Write a question; says False where its id is taken, and leaves it out."""
        values = given = tuple(getattr(question, name) for name in COLUMNS)
        packed = _packed(values)
        if packed.count(b"\0") >= len(COLUMNS) or b"\xed" in packed:
            values = tuple(map(storable, values))
            packed = _packed(values)
        if not self.ids.add(values[0]):
            return False
        self.changed["without characters that cannot be stored"] += values != given
        self._digest.update(packed + b"\0")
        self._pending.append(values)
        self._size += len(packed)
        if self._size > _PENDING:
            self._flush()
        return True

    def link(self, id1: str, id2: str, kind: str) -> None:
        """Take a link between questions that are there; one to another question is counted and left out."""
        ends = self.ids.find(storable(id1)), self.ids.find(storable(id2))
        if ends[0] is None or ends[1] is None:
            self.left_out["links to questions that are not there"] += 1
            return
        self._ends[0].append(ends[0])
        self._ends[1].append(ends[1])
        self._kinds.append(KINDS.index(kind))

    def finish(self, source: Mapping[str, Any], template: str) -> dict[str, Any]:
        """Write the links and the provenance, and return the latter.

        Raises:
            DataError: There is no question.
        """
        self._flush()
        self._file.close()
        for bad in self._bad:
            self.left_out.update(bad.skipped)
        left, right, kinds = self._distinct_links()
        if not len(self.ids):
            found = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items() if count)
            raise DataError(f"{source['name']}: holds no question; found {found or 'nothing'}")
        for array_ in (left, right, kinds):
            self._digest.update(array_.tobytes())
        name = self.ids.name
        rows = ({"id1": name(a), "id2": name(b), "kind": KINDS[k]} for a, b, k in zip(left, right, kinds, strict=True))
        write_table(self._folder / LINKS, ("id1", "id2", "kind"), rows)
        versions = {name: version(name) for name in ("textsiam", "pyarrow")}
        provenance = {
            "format": 1,
            "source": source,
            "text": template,
            "questions": len(self.ids),
            "links": {kind: int((kinds == k).sum()) for k, kind in enumerate(KINDS)},
            "left_out": {reason: count for reason, count in self.left_out.most_common() if count},
            "changed": {change: count for change, count in self.changed.most_common() if count},
            "examples": [example for bad in self._bad for example in bad.examples],
            "digest": self._digest.hexdigest(),
            "versions": {"python": platform.python_version(), **versions},
        }
        # A file name that is not UTF-8 holds halves of characters: written as \\udce9, which JSON reads back.
        text = json.dumps(provenance, indent=2, ensure_ascii=False) + "\n"
        (self._folder / PROVENANCE).write_text(text, encoding="utf-8", errors="backslashreplace")
        return provenance

    def close(self) -> None:
        """Close the file of questions, finished or not."""
        self._file.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._pending:
            columns = zip(*self._pending, strict=True)
            arrays = [pa.array(values, type=field.type) for values, field in zip(columns, self._schema, strict=True)]
            self._file.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._pending.clear()
        self._size = 0

    def _distinct_links(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return left, right and kind of each unordered pair once, as a duplicate where it is linked as both."""
        left, right, kinds = np.array(self._ends[0]), np.array(self._ends[1]), np.array(self._kinds)
        low, high = np.minimum(left, right), np.maximum(left, right)
        order = np.lexsort((kinds, high, low))
        fresh = np.ones(len(order), bool)
        fresh[1:] = (np.diff(low[order]) != 0) | (np.diff(high[order]) != 0)
        kept = np.sort(order[fresh])
        selves = left[kept] == right[kept]
        self.left_out.update({"repeated links": len(order) - len(kept), "links to themselves": int(selves.sum())})
        kept = kept[~selves]
        return left[kept], right[kept], kinds[kept]


@contextmanager
def forum_writer(output: str | Path, on_bad_row: OnBadRow) -> Iterator[ForumWriter]:
    """Yield the writer of a forum folder, which appears under its name when the block ends without an error.

    Raises:
        DataError: Something else is there already.
        SaveError: The folder cannot be written.
    """
    output = Path(output)
    if output.exists() and not is_forum(output) and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output}: is there already and is no forum folder; name another --output")
    with whole_folder(output, (QUESTIONS, LINKS, PROVENANCE)) as folder:
        writer = ForumWriter(folder, on_bad_row)
        try:
            yield writer
        finally:
            writer.close()


def _packed(values: tuple[Any, ...]) -> bytes:
    return "\0".join(map(shown, values)).encode("utf-8", "surrogatepass")
