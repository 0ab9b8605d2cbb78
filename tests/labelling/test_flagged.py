"""Files of flagged pairs: what ids may be, and which columns are looked at."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textsiam.data.tables.errors import DataError
from textsiam.labelling.flagged import read_flagged


@pytest.mark.parametrize(
    ("rows", "pairs"),
    [
        (["1.0,2.0", "2.0,3.0"], [("1", "2"), ("2", "3")]),
        (["1.0,2.0", "2.0,3.5"], [("1.0", "2.0"), ("2.0", "3.5")]),
        ([" a ,b", "b,a"], [("a", "b")]),
    ],
)
def test_ids_are_read_as_those_of_questions(tmp_path, rows, pairs):
    (tmp_path / "flagged.csv").write_text("\n".join(["id1,id2", *rows]) + "\n")
    assert read_flagged(tmp_path / "flagged.csv").pairs == pairs


def test_bytes_are_decoded_and_what_is_no_id_is_named(tmp_path):
    path = tmp_path / "flagged.parquet"
    pq.write_table(pa.table({"id1": ["café".encode()], "id2": [b"b"]}), path)
    assert read_flagged(path).pairs == [("café", "b")]
    pq.write_table(pa.table({"id1": ["a"], "id2": [[1]]}), path)
    with pytest.raises(DataError, match=r"flagged.parquet:1: 'id2' is \[1\] \(list\), expected an id"):
        read_flagged(path)


def test_columns_that_nobody_needs_are_not_looked_at(tmp_path):
    (tmp_path / "flagged.csv").write_bytes(b"id1,id2,note,,\na,b,caf\xe9,,\n")
    assert read_flagged(tmp_path / "flagged.csv").pairs == [("a", "b")]
