"""Pairs of indices in Parquet files: written as they are found, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from textsiam.data.tables.errors import DataError
from textsiam.saving import SaveError
from textsiam.search.join.exact import FoundPairs
from textsiam.search.join.sorted_pairs import BLOCK
from textsiam.whole_file import said_by_system, whole_file

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile


def write_found(path: str | Path, parts: Iterable[FoundPairs], *, facts: Mapping[str, str] | None = None) -> int:
    """Write pairs into a Parquet file with the columns left, right (int64) and similarity (float32), part after part.

    With `textsiam.search.join.exact.stream_pairs`, memory is bounded however many pairs there are.

    Args:
        path: The file; one that was there before stays as it is until the new one is whole.
        parts: The pairs, in any number of parts; each is a row group.
        facts: About the pairs, kept beside them; `facts_of_found` reads them.

    Returns:
        How many pairs were written.

    Raises:
        SaveError: The disk is full or the place cannot be written to.

    Example:
        >>> write_found("pairs.parquet", stream_pairs(twin, vectors, 0.8))  # doctest: +SKIP
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, count = Path(path), 0
    kinds = (pa.int64(), pa.int64(), pa.float32())
    schema = pa.schema(list(zip(FoundPairs._fields, kinds, strict=True)), metadata=facts and dict(facts))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as aside, pq.ParquetWriter(aside, schema) as writer:
            for part in parts:
                if len(part.left):
                    writer.write_table(pa.table(part._asdict(), schema=schema))
                count += len(part.left)
    except OSError as error:
        raise SaveError(f"cannot write {path}: {said_by_system(error)}") from error
    return count


def gathered(parts: Iterable[FoundPairs]) -> Iterator[FoundPairs]:
    """Yield the pairs of as many parts together as make a row group of 65,536 and more."""
    held, count = [], 0
    for part in parts:
        held.append(part)
        count += len(part.left)
        if count >= BLOCK:
            yield FoundPairs.joined(held)
            held, count = [], 0
    if count:
        yield FoundPairs.joined(held)


def read_found(path: str | Path) -> FoundPairs:
    """Read the pairs of a file that `write_found` wrote.

    Raises:
        DataError: The file is missing or damaged.
    """
    return FoundPairs.joined(stream_found(path))


def stream_found(path: str | Path) -> Iterator[FoundPairs]:
    """Read the pairs of a file that `write_found` wrote, block by block.

    Raises:
        DataError: The file is missing or damaged.
    """
    with _opened(path) as file:
        for batch in file.iter_batches(BLOCK, columns=list(FoundPairs._fields)):
            yield FoundPairs(*(batch.column(name).to_numpy() for name in FoundPairs._fields))


def facts_of_found(path: str | Path) -> dict[str, str]:
    """Read what is kept beside the pairs of a file that `write_found` wrote.

    Raises:
        DataError: The file is missing or damaged.
    """
    with _opened(path) as file:
        facts = file.schema_arrow.metadata or {}
    return {key.decode(): value.decode() for key, value in facts.items()}


@contextmanager
def _opened(path: str | Path) -> Iterator[ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, KeyError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DataError(f"{path}: is missing or damaged ({error})") from None
