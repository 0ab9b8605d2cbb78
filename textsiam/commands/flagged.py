"""What `flag` found, as rows of a table, as JSON and at the terminal: never all of it in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from textsiam.data.tables.errors import BadRows
from textsiam.images.names import shown_name
from textsiam.terminal import LazyList, bold, dim, rounded

if TYPE_CHECKING:
    from textsiam.data.texts import Texts
    from textsiam.inference.unread import Unread
    from textsiam.search.duplicates import Duplicates

# The columns of a flagged pair; of a forum also those of its metadata, such as url1, url2.
_PAIR: dict[str, type] = {
    **dict.fromkeys(("id1", "id2", "question1", "question2"), str),
    **dict.fromkeys(("similarity", "probability"), float),
    "cluster": int,
}
_SHOWN = 20  # clusters at the terminal
_ALIKE = 5  # equal texts of a cluster that are shown


def write_pairs(output: Path | None, found: Duplicates, read: Texts) -> None:
    """Write the flagged pairs into a table, best first."""
    if output is not None:
        from textsiam.data.tables.writers import write_table

        also = {f"{name}{side}": str for name in read.metadata for side in (1, 2)}
        write_table(output, _PAIR | also, _flagged_rows(found, read))


def found_facts(found: Duplicates, read: Texts, limit: int | None) -> dict[str, Any]:
    """Return for JSON what was found: all pairs and clusters, or so many, and then also how many there are."""
    recall = {} if found.recall is None else {"recall": found.recall.to_dict()}
    facts = {"questions": read.report.kept, "threshold": found.threshold, "read": read.report.to_dict(), **recall}
    if found.broken:
        facts["unreadable"] = [read.ids[row] for row in found.broken]
    clusters = ([read.ids[m] for m in members] for members in found.clusters)
    listed = {"pairs": (_flagged_rows(found, read), len(found)), "clusters": (clusters, len(found.clusters))}
    if limit is not None:
        facts["found"] = {name: count for name, (_, count) in listed.items()}
    return facts | {name: LazyList(islice(rows, limit), count if limit is None else min(count, limit))
                    for name, (rows, count) in listed.items()}  # fmt: skip


def with_broken(read: Texts, found: Duplicates) -> Texts:
    """Return the same inputs, whose report tells of those that could not be opened."""
    bad, report = BadRows(read.source, on_bad_row="skip"), read.report
    for row, why in found.broken.items():
        bad(read.ids[row], "unreadable image", why.removeprefix(f"{shown_name(read.texts[row])}: "))
    kept, skipped = report.kept - len(found.broken), {**report.skipped, **bad.skipped}
    warnings = (*report.warnings, *bad.examples)
    return replace(read, report=replace(report, kept=kept, skipped=skipped, warnings=warnings))


def unread_facts(unread: Unread | None, found: Duplicates) -> dict[str, Any]:
    """Return for JSON what was not read."""
    if unread is None:
        return {}
    return {"unread": {"unknown": int(unread.nothing.sum()), "cut": int(unread.cut.sum()), "pairs": found.unread}}


def left_out(found: Duplicates, read: Texts, copies: int) -> Iterator[str]:
    """Say which pairs are not among the flagged ones."""
    if found.unread:
        yield f"{found.unread:,} pairs differ in nothing that is read, and are not flagged; --include-unread does"
    if copies:
        yield f"{copies:,} {read.noun} are copies, each a pair with the first like it; --expand-exact gives all pairs"
    if found.recall is not None:
        yield f"approximate: {found.recall} of all pairs are expected to be found"


def print_found(found: Duplicates, read: Texts, expected: str, limit: int | None) -> None:
    """Print clusters, the surest first, and how many there are."""
    limit = _SHOWN if limit is None else limit
    for c, probability in _surest(found, len(read), limit):
        _print_cluster(found.clusters[c], probability, read.ids, read.texts)
    hidden = f" ({len(found.clusters) - limit} more not shown)" if len(found.clusters) > limit else ""
    print(
        f"{read.report.kept:,} {read.noun}: {len(found):,} duplicate pairs in {len(found.clusters):,} clusters"
        f"{hidden}, similarity ≥ {found.threshold:.4f}{expected}"
    )


def _surest(found: Duplicates, texts: int, limit: int) -> list[tuple[int, float]]:
    """Return the clusters whose weakest pair is the most similar, and the probability of that pair; NaN is unknown."""
    cluster_of = _cluster_of(found, texts)
    similarity, probability = (np.full(len(found.clusters), np.nan) for _ in range(2))
    first, done = np.zeros(len(found.clusters), np.int64), 0
    for left, right, scores, chances in found.blocks():
        rows = np.flatnonzero((cluster_of[left] >= 0) & (cluster_of[left] == cluster_of[right]))
        own = cluster_of[left[rows]]
        new = np.isnan(similarity[own])
        first[own[new][::-1]] = rows[new][::-1] + done  # of equal ones, the first
        similarity[own], probability[own] = scores[rows], chances[rows]  # of equal ones, the last: the weakest pair
        done += len(left)
    order = np.lexsort((first, -np.round(similarity, 6)))[:limit].tolist()
    return [(c, float(probability[c])) for c in order]


def _print_cluster(members: Sequence[int], probability: float, ids: Sequence[str], texts: Sequence[str]) -> None:
    """Print a cluster, its central text first, and no text more often than can be looked at."""
    first, *others = members
    sure = "" if probability != probability else f", probability ≥ {rounded(probability):.2f}"
    print(f"{bold(texts[first])}  {dim(ids[first] + sure)}")
    seen = Counter((texts[first],))
    for member in others:
        text = texts[member]
        seen[text] += 1
        if seen[text] <= _ALIKE:
            print(f"   = {text}  {dim(ids[member])}")
    for text, count in seen.items():
        if count > _ALIKE:
            print(f"   = {text}  {dim(f'{count - _ALIKE:,} more like it')}")


def _cluster_of(found: Duplicates, texts: int) -> np.ndarray:
    """Return the cluster of each text, `(texts,)` int32; -1 of those that are in none."""
    cluster_of = np.full(texts, -1, np.int32)
    for c, members in enumerate(found.clusters):
        cluster_of[members] = c
    return cluster_of


def _flagged_rows(found: Duplicates, read: Texts) -> Iterator[dict[str, Any]]:
    """Yield a row for each flagged pair, best first."""
    cluster_of = _cluster_of(found, len(read))
    columns = {"id": read.ids, "question": read.texts}
    for left, right, similarity, probability in found.blocks():
        # A chain of lookalikes is no cluster: both texts of a flagged pair need not be in the same one.
        cluster = np.where(cluster_of[left] == cluster_of[right], cluster_of[left], -1)
        block = (column.tolist() for column in (left, right, similarity, probability, cluster))
        for a, b, s, p, c in zip(*block, strict=True):
            yield {
                **_of_both(columns, a, b),
                "similarity": rounded(s),
                "probability": None if p != p else rounded(p),
                "cluster": None if c < 0 else c,
                **_of_both(read.metadata, a, b),
            }


def _of_both(columns: Mapping[str, Sequence[str]], a: int, b: int) -> dict[str, str]:
    return {f"{name}{side}": values[at] for name, values in columns.items() for side, at in ((1, a), (2, b))}
