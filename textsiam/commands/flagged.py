"""What `flag` found, as rows of a table, as JSON and at the terminal: never all of it in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from textsiam.commands.options import tell_shift
from textsiam.commands.verdicts import expected_share
from textsiam.data.tables.errors import BadRows, DataError
from textsiam.images.names import picture_thumbnail
from textsiam.media.names import shown_name
from textsiam.modality import MEDIA
from textsiam.terminal import LazyList, bold, dim, print_json, rounded, say

if TYPE_CHECKING:
    from textsiam.commands.verdicts import Told
    from textsiam.data.tables.columns import Modality
    from textsiam.data.texts import Texts
    from textsiam.decision.decision import Decision
    from textsiam.decision.domain import DomainShift
    from textsiam.inference.unread import Unread
    from textsiam.search.duplicates import Duplicates

# The columns of a flagged pair; of a forum also those of its metadata, such as url1, url2.
_PAIR: dict[str, type] = {
    **dict.fromkeys(("id1", "id2", "question1", "question2"), str),
    **dict.fromkeys(("similarity", "probability"), float),
    "cluster": int,
}
_SHOWN = 20  # clusters at the terminal
_NAMED = 100  # inputs that could not be opened that a report names
_ALIKE = 5  # equal texts of a cluster that are shown


@dataclass(frozen=True)
class Places:
    """Where the pairs are written as a table, and as a report; None is nowhere."""

    output: Path | None
    report: Path | None


def tell_found(
    found: Duplicates,
    read: Texts,
    told: Told,
    model: str,
    decision: Decision | None,
    places: Places,
    *,
    expand_exact: bool,
    limit: int | None,
    unread: Unread | None,
    as_json: bool,
) -> None:
    """Write what was found to where it is wanted, and say it."""
    learned = None if decision is None else decision.learned_from
    if places.output is not None:
        from textsiam.data.tables.writers import write_table

        also = {f"{name}{side}": str for name in read.metadata for side in (1, 2)}
        write_table(places.output, _PAIR | also, _flagged_rows(found, read))
    expected = expected_share(found, told.shift, told.estimate)
    sentences = [*_left_out(found, read, 0 if expand_exact else found.copies), *told.sentences()]
    if places.report is not None:
        promised = [*_promises(expected, learned, told.shift), *sentences, *_unreadable(found, read)]
        _write_report(places.report, found, read, model, promised, places.output)
    shift = tell_shift(told.shift)
    if as_json:
        facts = {**_found_facts(found, read, limit), "exact_copies": found.copies, **_unread_facts(unread, found)}
        print_json({**facts, **told.facts(), "decision": learned, "domain_shift": shift})
        return
    _print_found(found, read, expected, limit)
    if places.output is not None:
        say(f"{len(found):,} pairs written to {places.output}")
    if places.report is not None:
        say(f"report written to {places.report}")
    for sentence in sentences:
        say(sentence)


def _found_facts(found: Duplicates, read: Texts, limit: int | None) -> dict[str, Any]:
    """Return for JSON what was found: all pairs and clusters, or so many, and then also how many there are."""
    recall = {} if found.recall is None else {"recall": found.recall.to_dict()}
    facts = {"questions": read.report.kept, "threshold": found.threshold, "read": read.report.to_dict(), **recall}
    if read.modality != "text":
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
        bad(
            read.ids[row],
            f"unreadable {MEDIA[read.modality].noun}",
            why.removeprefix(f"{shown_name(read.texts[row])}: "),
        )
    kept, skipped = report.kept - len(found.broken), {**report.skipped, **bad.skipped}
    warnings = (*report.warnings, *bad.examples)
    return replace(read, report=replace(report, kept=kept, skipped=skipped, warnings=warnings))


def _unreadable(found: Duplicates, read: Texts) -> Iterator[str]:
    """Name what could not be opened."""
    if found.broken:
        names = [read.ids[row] for row in islice(found.broken, _NAMED)]
        more = " …" if len(found.broken) > _NAMED else ""
        yield f"{len(found.broken):,} {read.noun} could not be opened, and are in no pair: {', '.join(names)}{more}"


def _unread_facts(unread: Unread | None, found: Duplicates) -> dict[str, Any]:
    """Return for JSON what was not read."""
    if unread is None:
        return {}
    return {"unread": {"unknown": int(unread.nothing.sum()), "cut": int(unread.cut.sum()), "pairs": found.unread}}


def _left_out(found: Duplicates, read: Texts, copies: int) -> Iterator[str]:
    """Say which pairs are not among the flagged ones."""
    if found.unread:
        yield f"{found.unread:,} pairs differ in nothing that is read, and are not flagged; --include-unread does"
    if copies:
        yield f"{copies:,} {read.noun} are copies, each a pair with the first like it; --expand-exact gives all pairs"
    if found.recall is not None:
        yield f"approximate: {found.recall} of all pairs are expected to be found"


def _promises(expected: str, learned: str | None, shift: DomainShift | None) -> list[str]:
    """Return what a report says of how sure flagged pairs are, sentence by sentence."""
    share = expected.removeprefix("; ")
    said = [] if not share else [f"{share[0].upper()}{share[1:]}."]
    said += [] if learned is None else [f"The decision was {learned}."]
    return said + ([] if shift is None else [str(shift)])


def _print_found(found: Duplicates, read: Texts, expected: str, limit: int | None) -> None:
    """Print clusters, the surest first, and how many there are."""
    limit = _SHOWN if limit is None else limit
    for c, _, probability in _surest(found, len(read), limit):
        _print_cluster(found.clusters[c], probability, read.ids, read.texts)
    hidden = f" ({len(found.clusters) - limit} more not shown)" if len(found.clusters) > limit else ""
    print(
        f"{read.report.kept:,} {read.noun}: {len(found):,} duplicate pairs in {len(found.clusters):,} clusters"
        f"{hidden}, similarity ≥ {found.threshold:.4f}{expected}"
    )


def _write_report(
    path: Path, found: Duplicates, read: Texts, model: str, promised: Sequence[str], output: Path | None
) -> None:
    """Write the report of what was found; of images, it is a contact sheet."""
    from textsiam.evaluation.report.flagged import (
        CLUSTERS,
        ClusterCard,
        FlaggedPage,
        score_counts,
        write_flagged_report,
    )

    surest = _surest(found, len(read), CLUSTERS)
    cards = [
        ClusterCard([read.ids[m] for m in members], [read.texts[m] for m in members], similarity, probability)
        for members, similarity, probability in ((found.clusters[c], s, p) for c, s, p in surest)
    ]
    most = max((float(block[2].max()) for block in found.blocks() if len(block[2])), default=found.threshold)
    scores = score_counts((block[2] for block in found.blocks()), found.threshold, most)
    file = None if output is None else output.name
    page = FlaggedPage(cards, len(found.clusters), scores, found.threshold, most, promised, read.noun, file)
    facts = {"model": model, "source": read.source, read.noun: f"{read.report.kept:,}"}
    facts |= {"duplicate pairs": f"{len(found):,}", "clusters": f"{len(found.clusters):,}"}
    facts |= {"threshold": f"{found.threshold:.4f}"}
    write_flagged_report(path, page, facts=facts, thumbnail=_thumbnail(read.modality))


def _thumbnail(modality: Modality) -> Callable[[str], bytes | None] | None:
    """Return what draws a member of a cluster: an image small, a sound as its spectrogram; None where it is read."""
    if modality == "text":
        return None
    draw = partial(picture_thumbnail, side=160, format="JPEG") if modality == "image" else MEDIA[modality].thumbnail

    def thumbnail(name: str) -> bytes | None:
        try:
            return draw(name)
        except DataError:  # it was there when it was encoded
            return None

    return thumbnail


def _surest(found: Duplicates, texts: int, limit: int) -> list[tuple[int, float, float]]:
    """Return the clusters whose weakest pair is the most similar, with similarity and probability of that pair.

    A probability that is not known is NaN.
    """
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
    return [(c, float(similarity[c]), float(probability[c])) for c in order]


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
