"""New vectors for every question of a durable table, made by another model while the old ones are served."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict

from textsiam.search.index.base import Encode, IndexModel, Progress, QuestionIndexError
from textsiam.search.index.journal import Journal, read_state
from textsiam.search.index.validation import check_vectors

_ENCODED = 1024  # questions encoded at once


def migrate_rows(journal: Journal, model: IndexModel, encode: Encode, progress: Progress | None) -> None:
    """Encode every question into the next generation of vectors, then switch to it; see `QuestionIndex.migrate`."""
    with journal.writing() as table:
        state = read_state(table)
        following = state.generation + 1
        if state.next_model != model:
            table.execute(f"DROP TABLE IF EXISTS vectors_{following}")
            table.execute(f"CREATE TABLE vectors_{following} (row INTEGER PRIMARY KEY, vector BLOB NOT NULL)")
            table.execute("UPDATE state SET next_model = ?", (json.dumps(asdict(model)),))
    while not _switched(journal, following, model):
        last = 0
        while (due := _due(journal, following, last)) is not None:
            rows, texts, clocks, last, done, total = due
            vectors = check_vectors(encode(texts), model.dim, texts)
            blobs = ((row, v.tobytes(), row, clock) for row, v, clock in zip(rows, vectors, clocks, strict=True))
            with journal.writing() as table:
                _same_migration(journal, table, following, model)
                # A question that was changed or deleted meanwhile is left out.
                table.executemany(
                    f"INSERT OR REPLACE INTO vectors_{following} SELECT ?, ? FROM questions"
                    " WHERE row = ? AND clock = ?",
                    blobs,
                )
            if progress is not None:
                progress(min(done + len(rows), total), total)


def _due(journal: Journal, generation: int, last: int) -> tuple[list[int], list[str], list[int], int, int, int] | None:
    with journal.reading() as table:
        found = table.execute(
            "SELECT row, text, clock FROM questions WHERE row > ? AND row NOT IN"
            f" (SELECT row FROM vectors_{generation}) ORDER BY row LIMIT {_ENCODED}",
            (last,),
        ).fetchall()
        done = table.execute(f"SELECT COUNT(*) FROM vectors_{generation}").fetchone()[0]
        total = table.execute("SELECT COUNT(*) FROM questions").fetchone()[0]
    if not found:
        return None
    rows, texts, clocks = (list(column) for column in zip(*found, strict=True))
    return rows, texts, clocks, rows[-1], done, total


def _switched(journal: Journal, following: int, model: IndexModel) -> bool:
    """Serve the next generation, if every question has its vector there."""
    with journal.writing() as table:
        _same_migration(journal, table, following, model)
        missing = f"SELECT 1 FROM questions WHERE row NOT IN (SELECT row FROM vectors_{following}) LIMIT 1"
        if table.execute(missing).fetchone():
            return False
        table.execute(f"DROP TABLE vectors_{following - 1}")
        table.execute("DELETE FROM deleted")
        table.execute(
            "UPDATE state SET model = next_model, next_model = NULL, generation = ?, merged = 0, version = 0,"
            " clock = clock + 1",
            (following,),
        )
    return True


def _same_migration(journal: Journal, table: sqlite3.Connection, following: int, model: IndexModel) -> None:
    state = read_state(table)
    if state.generation + 1 != following or state.next_model != model:
        raise QuestionIndexError(f"{journal.path.parent}: another migration took over; its model is {state.next_model}")
