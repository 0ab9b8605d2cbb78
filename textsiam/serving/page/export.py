"""What was decided, as labelled pairs in Quora's columns, with who decided and when."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from typing import Any

from textsiam.serving.page.pairs import Pair
from textsiam.serving.page.reviews import Reviews

_COLUMNS: tuple[str, ...] = (
    "question1", "question2", "is_duplicate", "id1", "id2", "similarity", "probability", "decision", "moderator",
    "decided", "note", "canonical",
)  # fmt: skip


def exported(reviews: Reviews, form: str) -> Iterator[str]:
    """Yield the decided pairs as the lines of a TSV, CSV or JSONL file that `read_pairs` reads."""
    rows = map(_row, reviews.decided())
    if form == "jsonl":
        yield from (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return
    writer = csv.DictWriter(_Line(), _COLUMNS, delimiter="," if form == "csv" else "\t", lineterminator="\n")
    yield writer.writeheader()
    yield from map(writer.writerow, rows)


def _row(pair: Pair) -> dict[str, Any]:
    suspect, known = pair.suspect, pair.canonical or {}
    when = None if pair.decided is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(pair.decided))
    return {
        "question1": suspect.text1,
        "question2": suspect.text2,
        "is_duplicate": int(pair.state == "accepted"),
        **{name: getattr(suspect, name) for name in _COLUMNS[3:7]},
        "decision": pair.choice or pair.state,
        "moderator": pair.moderator,
        "decided": when,
        "note": pair.note,
        "canonical": known.get("id", known.get("text")),
    }


class _Line:
    """A file that gives each line back: `csv` returns what its `write` does."""

    def write(self, line: str) -> str:
        """Return the line."""
        return line
