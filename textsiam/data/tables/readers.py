"""Tables, whatever holds them: TSV, CSV, JSONL, Parquet (plain or .gz), a pipe, a Hub dataset, or memory.

A reader yields `(line, values)` and never guesses: a row that cannot be read is handed to `BadRows`, which
stops with one `file:line: …` message or counts the row by reason and lets the reading go on.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from textsiam.data.tables.arrow import dataset_table, frame_table, parquet_table
from textsiam.data.tables.columns import ID_NAMES, PAIR_COLUMNS, TEXT_NAMES, Row, Table, known_column
from textsiam.data.tables.delimited import LONGEST_RECORD, delimited_table
from textsiam.data.tables.errors import EXAMPLES, BadRows, DataError
from textsiam.data.tables.hub import Loader, load_hub
from textsiam.data.tables.jsonl import json_table, records_table
from textsiam.data.tables.lines import Lines, open_plain, regular_file

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "FORMATS",
    "LONGEST_RECORD",
    "SAMPLES",
    "Loader",
    "Table",
    "dataset_table",
    "file_format",
    "open_parts",
    "open_table",
    "source_name",
]

FORMATS = {
    ".tsv": "\t",
    ".csv": ",",
    ".jsonl": "json",
    ".json": "json",
    ".parquet": "parquet",
    ".txt": "text",
}
SAMPLES = Path(__file__).parents[1] / "samples"
_KNOWN = (*PAIR_COLUMNS, *TEXT_NAMES, *ID_NAMES)


def source_name(source: Any) -> str:
    """Return what messages call a source."""
    if isinstance(source, str | Path):
        return "standard input" if str(source) == "-" else str(source)
    if isinstance(source, list | tuple):
        return " + ".join(dict.fromkeys(map(source_name, source))) if _is_several(source) else "records"
    return source.name if isinstance(source, Table) else type(source).__name__


def _parts(source: Any) -> list[Any]:
    """Give the sources that one stands for: the files of a pattern such as `part-*.parquet`, or of a list.

    Raises:
        DataError: no file is of this pattern, or the list is empty.
    """
    if _is_several(source):
        parts = [part for each in source for part in _parts(each)]
        if not parts:
            raise DataError("no source is given: expected a file, or several")
        return parts
    if not isinstance(source, str | Path) or not glob.has_magic(str(source)) or Path(source).exists():
        return [source]
    found = sorted(each for each in glob.glob(str(source), recursive=True) if not Path(each).is_dir())
    if not found:
        raise DataError(f"{source}: no file is of this pattern")
    return list(found)


def _is_several(source: Any) -> bool:
    return isinstance(source, list | tuple) and not any(isinstance(each, Mapping) for each in source)


class Opening(TypedDict, total=False):
    """How `open_table` opens a source: arguments that those who call it pass on.

    Attributes:
        split: The split of a Hub dataset.
        quoted: False takes `"` of a TSV or CSV file as an ordinary character.
        load: Replaces `datasets.load_dataset`.
    """

    split: str
    quoted: bool | None
    load: Loader | None


@contextmanager
def open_table(
    source: Any,
    bad: BadRows,
    *,
    split: str = "train",
    quoted: bool | None = None,
    load: Loader | None = None,
    known: Collection[str | None] = (),
) -> Iterator[Table]:
    """Open a local file by its extension, a pipe by its content, a Hub dataset by its id, or what is in memory.

    Args:
        source: a path ending in .tsv, .csv, .jsonl, .parquet or .txt, plain or .gz (a .txt is a table of one column,
            "text"); "-" for standard input, or a named pipe; `owner/name[:config]`; a `datasets.Dataset`, a pandas or
            polars frame, a pyarrow table or a list of dicts; or an open table.
        bad: what to do with rows that cannot be read.
        split: the split of a Hub dataset.
        quoted: whether `"` quotes a field of TSV and CSV files; None means yes, except under an
            angle-bracket header (`<question1>`), whose layout has no quoting, and where a quote swallows rows.
        load: replaces `datasets.load_dataset`.
        known: further columns that tell the header of a pipe from a text.

    Raises:
        DataError: no such file, a directory, an unknown extension, an empty, truncated or non-UTF-8 file.
    """
    if not isinstance(source, str | Path):
        yield _memory_table(source, bad.name, split)
        return
    path = Path(source)
    if str(source) != "-" and not path.exists():
        yield dataset_table(str(source), load_hub(str(source), FORMATS, split=split, load=load))
        return
    with regular_file(path) as file:
        piped = file != path or path.parts[:2] == ("/", "dev")
        kind = _pipe_format(path, file, bad, known) if piped else file_format(path)
        if kind == "parquet":
            yield parquet_table(file, bad, path.parent)
            return
        with closing(Lines(file, bad)) as lines:
            if kind == "text":
                table = Table(bad.name, ("text",), lambda _: _text_rows(lines, bad), lines_are_ids=True)
            else:
                table = json_table(lines, bad) if kind == "json" else delimited_table(lines, bad, kind, quoted)
            bad.note(*table.notes)
            yield replace(table, folder=path.parent)


def open_parts(
    source: Any, bad: BadRows, *, sample: str = "", **options: Any
) -> Iterator[AbstractContextManager[tuple[Table, BadRows]]]:
    """Give what opens each part of a source, with what to do with its bad rows.

    Args:
        source: what `open_table` opens; or a pattern of files, or a list of sources.
        bad: what to do with bad rows of all parts.
        sample: the file that "sample:forum" stands for.
        **options: of `open_table`.
    """

    @contextmanager
    def opened(part: Any) -> Iterator[tuple[Table, BadRows]]:
        within = bad.within(source_name(part))
        with open_table(SAMPLES / sample if str(part) == "sample:forum" else part, within, **options) as table:
            yield table, within

    return map(opened, _parts(source))


def file_format(path: Path) -> str:
    """Say what the extension stands for: a delimiter, "json", "parquet" or "text"."""
    if path.is_dir():
        inside = sorted(child.name for child in path.iterdir() if not child.name.startswith("."))
        held = ", ".join(inside[:EXAMPLES]) + (", …" if len(inside) > EXAMPLES else "") or "nothing"
        raise DataError(f"{path}: is a directory, expected a file; it holds {held}")
    suffix = _ending(path)
    try:
        return FORMATS[suffix]
    except KeyError:
        known = ", ".join(FORMATS)
        raise DataError(f"{path}: unknown extension {suffix!r}, expected {known}, each also with .gz") from None


def _ending(path: Path) -> str:
    suffix = path.with_suffix("").suffix if path.suffix.lower() == ".gz" else path.suffix
    return suffix.lower()


def _pipe_format(path: Path, copy: Path, bad: BadRows, known: Collection[str | None]) -> str:
    """Tell by its content what came through a pipe whose name does not: Parquet, JSONL, a known header, or texts."""
    if _ending(path) in FORMATS:
        return FORMATS[_ending(path)]
    with open_plain(copy) as stream:
        first = stream.readline(1 << 16).removeprefix(b"\xef\xbb\xbf")
    if first.startswith(b"PAR1"):
        return "parquet"
    if first.lstrip().startswith(b"{"):
        return "json"
    header = first.decode("utf-8", "replace").strip()
    for delimiter in "\t,;|":
        names = [each.strip().strip('"<>') for each in header.split(delimiter)]
        if known_column(names, _KNOWN) or {*names} & {*known} or header.startswith("sep="):
            return delimiter if len(names) > 1 else ","
    if "\t" in header:
        return "\t"
    bad.note("no known header: one text a line")
    return "text"


def _text_rows(lines: Lines, bad: BadRows) -> Iterator[Row]:
    lines.restart()
    for line in lines:
        if not lines.reject_undecodable():
            if "\r" in (text := line.strip()):
                bad(lines.number, "carriage return", "a carriage return inside a line, expected a line feed at its end")
            elif text:
                yield lines.number, (text,)
            else:
                bad.skipped["blank line"] += 1
        lines.begin()


def _memory_table(source: Any, name: str, split: str) -> Table:
    if isinstance(source, Table):
        return source
    if isinstance(source, Mapping) and all(hasattr(each, "features") for each in source.values()):  # a DatasetDict
        if split not in source:
            raise DataError(f"{name}: has no split {split!r}, found {', '.join(map(repr, source))}")
        return _memory_table(source[split], name, split)
    if hasattr(source, "features") and hasattr(source, "select_columns") and hasattr(source, "num_rows"):
        return dataset_table(name, cast("Dataset", source))
    if type(source).__module__.partition(".")[0] in ("pandas", "polars", "pyarrow") and hasattr(source, "columns"):
        return frame_table(name, source)
    if isinstance(source, Sequence) or hasattr(source, "features"):  # records, or a dataset that streams
        kinds = getattr(source, "features", None) or {}
        names = {column: kind.names for column, kind in kinds.items() if hasattr(kind, "names")}
        return replace(records_table(name, source), class_names=names)
    raise TypeError(
        f"cannot read {type(source).__name__}: expected a path, a Hub id, a datasets.Dataset, a pandas or polars "
        "frame, a pyarrow table or a list of dicts"
    )
