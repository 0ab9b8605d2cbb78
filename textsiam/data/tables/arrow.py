"""What Arrow holds, as tables: Parquet files, datasets, pandas and polars frames; only columns that are asked for."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textsiam.data.tables.columns import Modality, Row, Table
from textsiam.data.tables.errors import BadRows, DataError
from textsiam.data.tables.lines import open_plain

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_BATCH = 8192
_KINDS: dict[str, Modality] = {"Image": "image", "Audio": "audio"}  # of features
_FILES = 256  # rows of a batch with images or sounds


@dataclass(frozen=True)
class Unreadable:
    """A value that Python cannot hold, such as a date beyond the year 9999 or one of an unknown time zone."""

    kind: str

    def __repr__(self) -> str:
        """Say what it is, for messages."""
        return f"a {self.kind} that cannot be read"


def parquet_table(path: Path, bad: BadRows, folder: Path) -> Table:
    """Give the rows of a Parquet file, plain or .gz.

    Args:
        path: the file.
        bad: what its messages are called.
        folder: what paths of files are relative to.

    Raises:
        DataError: it is no Parquet file, or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_plain(path) as stream:
            packed = isinstance(stream, gzip.GzipFile)
            file = pq.ParquetFile(pa.BufferReader(stream.read()) if packed else path)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        if isinstance(error, PermissionError):
            raise DataError(f"{bad.name}: cannot be read (permission denied)") from None
        raise DataError(f"{bad.name}: is not a Parquet file or is damaged ({error})") from None

    def batches(names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return file.iter_batches(batch_size=_BATCH, columns=list(names))

    return _arrow_table(bad.name, file.schema_arrow, batches, folder)


def dataset_table(name: str, dataset: Dataset) -> Table:
    """Give the rows of a `datasets.Dataset`; images and sounds stay undecoded."""
    schema = dataset.features.arrow_schema

    def batches(names: Sequence[str]) -> Iterator[pa.Table]:
        chosen: Any = dataset.select_columns(list(names)).with_format("arrow")
        return chosen.iter(batch_size=_FILES if _file_columns(schema) else _BATCH)

    return _arrow_table(name, schema, batches, None)


def frame_table(name: str, frame: Any) -> Table:
    """Give the rows of a pandas or polars frame, or of a pyarrow table."""
    if type(frame).__module__.partition(".")[0] == "pandas":
        columns = tuple(map(str, frame.columns))

        def read(names: Sequence[str]) -> Iterator[Row]:
            held = [frame.iloc[:, columns.index(each)] for each in names]
            plain = [column.astype(object).where(column.notna(), None).tolist() for column in held]
            return enumerate(zip(*plain, strict=True), 1)

        return Table(name, columns, read, "row ")
    frame = frame.collect() if hasattr(frame, "collect") else frame  # of a lazy frame
    table: pa.Table = frame.to_arrow() if hasattr(frame, "to_arrow") else frame

    def batches(names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return iter(table.select(list(names)).to_batches(max_chunksize=_BATCH))

    return _arrow_table(name, table.schema, batches, None)


def _arrow_table(
    name: str, schema: pa.Schema, batches: Callable[[Sequence[str]], Iterator[Any]], folder: Path | None
) -> Table:
    import pyarrow as pa

    def read(names: Sequence[str]) -> Iterator[Row]:
        number = 0
        asked = list(dict.fromkeys(names))
        try:
            for batch in batches(asked):
                held = {each: _values(batch.column(each)) for each in asked}
                for values in zip(*(held[each] for each in names), strict=True):
                    number += 1
                    yield number, values
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{name}: is damaged after row {number} ({error})") from None

    classes = {column: feature["names"] for column, feature in _features(schema, "ClassLabel").items()}
    return Table(name, tuple(schema.names), read, "row ", classes, _file_columns(schema), folder)


def _file_columns(schema: pa.Schema) -> dict[str, Modality]:
    return {column: modality for kind, modality in _KINDS.items() for column in _features(schema, kind)}


def _features(schema: pa.Schema, kind: str) -> dict[str, Any]:
    """Return the features of a kind that `datasets` keeps in the schema of what it writes, by column."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {column: one for column, one in features.items() if isinstance(one, dict) and one.get("_type") == kind}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Give the values of a column; a text that is none stays bytes, what else Python cannot hold is `Unreadable`."""
    import pyarrow as pa

    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        plain = [each.dictionary_decode() if isinstance(each, pa.DictionaryArray) else each for each in chunks]
        return [
            _text(each) for each in chain.from_iterable(chunk.cast(pa.large_binary()).to_pylist() for chunk in plain)
        ]
    except (OverflowError, ValueError):
        return [_scalar(each) for each in column]


def _text(value: bytes | None) -> str | bytes | None:
    try:
        return value if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _scalar(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        return Unreadable(str(value.type))
