"""Suspects from a file: the pairs that `textsiam flag` wrote, or any others with the columns of Quora's data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from textsiam.data.tables.columns import checked_text, text_problem, unknown_columns
from textsiam.data.tables.errors import BadRows
from textsiam.data.tables.readers import open_table
from textsiam.serving.page.reviews import Suspect

_TEXTS = ("question1", "question2")
_FACTS = ("url", "tags", "created")


def read_suspects(path: str | Path) -> Iterator[Suspect]:
    """Yield the pairs of a file, one after the other.

    Args:
        path: TSV, CSV, JSONL or Parquet with the columns question1 and question2, and, where they are there, id1, id2,
            similarity and probability; url1, url2, tags1, tags2, created1 and created2 are shown beside the questions.

    Raises:
        DataError: The file cannot be read; the message names file, line and value.
    """
    bad = BadRows(str(path))
    with open_table(path, bad) as table:
        if not set(_TEXTS) <= set(table.columns):
            raise unknown_columns(bad.name, table.columns, "the questions of a pair", ", ".join(_TEXTS), "--suspects")
        for line, values in table.rows:
            where, row = f"{table.unit}{line}", dict(zip(table.columns, values, strict=True))
            texts = [checked_text(row[name]) for name in _TEXTS]
            for name, text in zip(_TEXTS, texts, strict=True):
                if text is None:
                    bad(where, *text_problem(name, row[name]))
            ids = (row.get("id1"), row.get("id2"))
            yield Suspect(
                text1=texts[0] or "",
                text2=texts[1] or "",
                id1=None if ids[0] is None else str(ids[0]),
                id2=None if ids[1] is None else str(ids[1]),
                similarity=_number(bad, where, "similarity", row, -math.inf, math.inf),
                probability=_number(bad, where, "probability", row, 0.0, 1.0),
                facts1=_facts(row, 1),
                facts2=_facts(row, 2),
            )


def _facts(row: dict[str, Any], side: int) -> dict[str, str]:
    return {name: str(row[f"{name}{side}"]) for name in _FACTS if row.get(f"{name}{side}")}


def _number(bad: BadRows, where: str, name: str, row: dict[str, Any], low: float, high: float) -> float | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high or math.isinf(number):
        bounds = "a number" if math.isinf(low) else f"a number from {low:g} to {high:g}"
        bad(where, f"bad {name}", f"{name!r} is {value!r}, expected {bounds}")
    return number
