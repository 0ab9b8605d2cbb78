from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from textsiam.data.tables import writers as tables
from textsiam.data.tables.errors import BadRows, DataError
from textsiam.data.tables.readers import open_table
from textsiam.data.tables.writers import write_table

COLUMNS = ["text", "score"]
ROWS = [
    {"text": "plain", "score": 0.5, "more": "left out"},
    {"text": 'tab\there, "quotes"\nand a line', "score": 1},
    {"text": "größer ☃", "score": None},
]


@pytest.mark.parametrize(("ending", "delimiter"), [(".tsv", "\t"), (".csv", ",")])
def test_tables_read_back_as_written(tmp_path: Path, ending: str, delimiter: str) -> None:
    path = write_table(tmp_path / f"out{ending}", COLUMNS, ROWS)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=delimiter))
    assert rows == [
        {"text": "plain", "score": "0.5"},
        {"text": 'tab\there, "quotes"\nand a line', "score": "1"},
        {"text": "größer ☃", "score": ""},
    ]


def test_bytes_of_a_simple_table(tmp_path: Path) -> None:
    path = write_table(str(tmp_path / "out.tsv"), COLUMNS, ROWS[:1])
    assert path.read_bytes() == b"text\tscore\nplain\t0.5\n"
    assert write_table(tmp_path / "none.csv", COLUMNS, []).read_bytes() == b"text,score\n"


def test_json_lines(tmp_path: Path) -> None:
    path = write_table(tmp_path / "out.jsonl", COLUMNS, ROWS)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{c: row[c] for c in COLUMNS} for row in ROWS]
    assert "größer ☃" in lines[2]


def test_folders_are_made_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = write_table(tmp_path / "deep" / "down" / "out.csv", COLUMNS, ROWS)
    assert os.listdir(path.parent) == ["out.csv"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_old_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("old")
    write_table(tmp_path / "out.csv", ["text"], ROWS[:1])
    assert (tmp_path / "out.csv").read_text() == "text\nplain\n"


@pytest.mark.parametrize(
    ("name", "ending"),
    [("out.txt", "'.txt'"), ("out.tsv.gz", "'.gz'"), ("out", "a file without ending")],
)
def test_unknown_endings(tmp_path: Path, name: str, ending: str) -> None:
    with pytest.raises(DataError, match=r"cannot write .*, expected \.tsv, \.csv, \.jsonl or \.parquet") as caught:
        write_table(tmp_path / name, COLUMNS, ROWS)
    assert ending.strip("'") in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_failure_in_the_middle_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("old")
    for rows, error in (([*ROWS, {"text": object(), "score": 1}], TypeError), ([*ROWS, {"text": "a"}], KeyError)):
        with pytest.raises(error):
            write_table(tmp_path / "out.jsonl", COLUMNS, rows)
        assert (tmp_path / "out.jsonl").read_text() == "old"
        assert os.listdir(tmp_path) == ["out.jsonl"]


def test_unwritable_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(DataError, match=r"file/out\.csv: cannot be written: "):
        write_table(tmp_path / "file" / "out.csv", COLUMNS, ROWS)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv: cannot be written: Is a directory"):
        write_table(tmp_path / "folder.csv", COLUMNS, ROWS)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(DataError, match=r"out\.csv: cannot be written: No space left on device"):
        write_table(tmp_path / "out.csv", COLUMNS, ROWS)
    assert (tmp_path / "out.csv").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.csv", "out.csv"]


@pytest.mark.parametrize("group", [1, 2, 65_536])
def test_parquet_in_groups_whose_first_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int
) -> None:
    monkeypatch.setattr(tables, "_GROUP", group)
    rows = [{"text": "a", "score": None, "cluster": None}, {"text": None, "score": 0.5, "cluster": 7}] * 2
    drawn = []

    def lazily() -> Iterator[dict[str, object]]:
        for row in rows:
            drawn.append(row)
            yield row

    path = write_table(tmp_path / "out.parquet", {"text": str, "score": float, "cluster": int}, lazily())
    assert pq.read_table(path).to_pylist() == rows
    assert len(drawn) == 4
    assert os.listdir(tmp_path) == ["out.parquet"]
    assert pq.ParquetFile(path).num_row_groups == -(-4 // group)


def test_parquet_where_nothing_is_said_of_the_columns(tmp_path: Path) -> None:
    rows = [{"a": None, "b": None, "c": 1}, {"a": 0.5, "b": None, "c": 2}]
    path = write_table(tmp_path / "out.parquet", ["a", "b", "c"], rows)
    assert pq.read_table(path).to_pylist() == rows
    assert [str(kind) for kind in pq.read_schema(path).types] == ["double", "string", "int64"]
    assert pq.read_table(write_table(tmp_path / "none.parquet", ["a"], [])).num_rows == 0


@pytest.mark.parametrize("ending", [".parquet", ".tsv"])
def test_interrupted_in_the_middle_leaves_no_file(tmp_path: Path, ending: str) -> None:
    def interrupted() -> Iterator[dict[str, object]]:
        yield ROWS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_table(tmp_path / f"out{ending}", {"text": str, "score": float}, interrupted())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["a\rb", "a\r\nb", "\r", "a\n\rb", "plain\r", '"\r"'])
@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_a_carriage_return_comes_back(tmp_path: Path, ending: str, text: str) -> None:
    path = write_table(tmp_path / f"out{ending}", ["id", "text"], [{"id": "1", "text": text}, {"id": "2", "text": "b"}])
    with open_table(path, BadRows(str(path))) as table:
        assert [list(values) for _, values in table.rows] == [["1", text], ["2", "b"]]
