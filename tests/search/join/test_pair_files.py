from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sentence_transformers import SentenceTransformer

from textsiam.models.twin import Twin
from textsiam.saving import SaveError
from textsiam.search.join.exact import FoundPairs, pairs_above, stream_pairs
from textsiam.search.join.pair_files import read_found, write_found


def test_what_is_streamed_reads_back(tower: SentenceTransformer, tmp_path: Path) -> None:
    twin, vectors = Twin(tower), np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    expected = pairs_above(twin, vectors, 0.5)
    path = tmp_path / "deep" / "pairs.parquet"
    assert write_found(path, stream_pairs(twin, vectors, 0.5, block=32)) == len(expected.left) > 1000
    assert pq.ParquetFile(path).num_row_groups > 5  # bounded memory: never all at once
    found = read_found(path)
    for a, b in zip(found.sorted(), expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert os.listdir(path.parent) == ["pairs.parquet"]


def test_no_pairs(tmp_path: Path) -> None:
    assert write_found(tmp_path / "none.parquet", []) == 0
    assert [column.dtype for column in read_found(tmp_path / "none.parquet")] == [np.int64, np.int64, np.float32]


def test_an_interruption_leaves_the_old_file_and_a_full_place_is_an_error(tmp_path: Path) -> None:
    one = FoundPairs(np.array([0]), np.array([1]), np.array([0.5], np.float32))

    def interrupted() -> Iterator[FoundPairs]:
        yield one
        raise KeyboardInterrupt

    write_found(tmp_path / "pairs.parquet", [one])
    before = (tmp_path / "pairs.parquet").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_found(tmp_path / "pairs.parquet", interrupted())
    assert (tmp_path / "pairs.parquet").read_bytes() == before
    assert os.listdir(tmp_path) == ["pairs.parquet"]
    with pytest.raises(SaveError, match="cannot write"):
        write_found(tmp_path / "pairs.parquet" / "in-a-file.parquet", [one])
