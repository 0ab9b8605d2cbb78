"""What the durable table keeps in memory."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from textsiam.search.index.base import IndexModel, Question
from textsiam.search.index.journal import Journal, read_state, write_rows

PAGES = 2_000_000  # bytes of pages that an idle connection may keep


def kept(table) -> int:
    """Return the bytes of pages that a connection may keep."""
    return -1024 * table.execute("PRAGMA cache_size").fetchone()[0]


def test_connections_of_many_readers_and_of_a_past_writer_keep_little(tmp_path):
    model = IndexModel("first", "a" * 64, 4)
    Journal.create(tmp_path / "questions.sqlite", model)
    journal = Journal(tmp_path / "questions.sqlite")
    with journal.writing() as table:
        assert kept(table) > 10 * PAGES
        write_rows(table, read_state(table), [Question("q", "why")], np.ones((1, 4), np.float32))
    with ExitStack() as readers:
        tables = [readers.enter_context(journal.reading()) for _ in range(4)]
        assert table in tables
        assert max(map(kept, tables)) < 1.1 * PAGES
    journal.close()
