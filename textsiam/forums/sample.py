"""The packaged forum as one that is imported: its questions, and the few duplicates that somebody linked."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import Any

from textsiam.data.tables.writers import write_table
from textsiam.forums.table import import_table
from textsiam.forums.writing import Progress

_SAMPLES = Path(__file__).parents[1] / "data" / "samples"
# A forum's links are a part of its duplicates: every fourth labelled one here.
_EVERY = 4


def import_sample(output: str | Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Write the packaged sample forum to a forum folder, with a quarter of its labelled duplicates as links.

    Args:
        output: The forum folder; one that is there is replaced once the new one is whole.
        progress: Called with the rows read so far, and again those.

    Returns:
        The provenance, as it is in the folder.
    """
    with (_SAMPLES / "forum_pairs.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        duplicates = [{"id1": row["qid1"], "id2": row["qid2"]} for row in rows if row["is_duplicate"] == "1"]
    with tempfile.TemporaryDirectory() as folder:
        links = Path(folder) / "links.tsv"
        write_table(links, ["id1", "id2"], duplicates[::_EVERY])
        return import_table(_SAMPLES / "forum_questions.tsv", output, text="{question}", links=links, progress=progress)
