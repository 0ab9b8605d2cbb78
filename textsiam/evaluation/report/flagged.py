"""The report of flagged pairs: how sure they are, what is promised, and their clusters as cards or a contact sheet."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from textsiam.evaluation.report.examples import marked_differences
from textsiam.evaluation.report.page import download, write_page
from textsiam.evaluation.report.pictures import Thumbnail
from textsiam.evaluation.report.plots import figure, number
from textsiam.evaluation.report.svg import Axis, Plot

CLUSTERS = 100
"""Clusters that a page shows at most."""
_MEMBERS = 8  # of a cluster
_SAVED = 10_000  # members that the page's table holds
_BINS = 40


@dataclass(frozen=True)
class ClusterCard:
    """A cluster as a card: its n members, the most central first, and how sure its weakest pair is (NaN is unknown)."""

    ids: Sequence[str]
    inputs: Sequence[str]
    similarity: float
    probability: float


@dataclass(frozen=True, eq=False)
class FlaggedPage:
    """What is shown of flagged pairs.

    Attributes:
        clusters: The surest, at most `CLUSTERS` of them.
        found: How many clusters there are.
        scores: How many pairs have a similarity in each of 40 equal parts from the threshold to `most`, `(40,)`.
        threshold: Least similarity of a pair.
        most: The largest similarity.
        promised: Sentences: what is proven or expected of the pairs, what was left out.
        noun: What the members are called.
        file: Where all pairs stand, if anywhere.
    """

    clusters: Sequence[ClusterCard]
    found: int
    scores: np.ndarray
    threshold: float
    most: float
    promised: Sequence[str]
    noun: str
    file: str | None = None


def score_counts(blocks: Iterable[np.ndarray], threshold: float, most: float) -> np.ndarray:
    """Count similarities `(n,)` of each block in equal parts from the threshold to the largest, `(40,)` int64."""
    edges, counts = _edges(threshold, most), np.zeros(_BINS, np.int64)
    for similarity in blocks:
        counts += np.histogram(np.clip(similarity, edges[0], edges[-1]), edges)[0]
    return counts


def write_flagged_report(
    path: str | os.PathLike[str],
    page: FlaggedPage,
    *,
    facts: Mapping[str, str],
    thumbnail: Thumbnail | None = None,
) -> Path:
    """Write a report of flagged pairs as one self-contained HTML page of bounded size; see `write_page`.

    Args:
        path: The file to write.
        page: What it shows.
        facts: Name → value: model, source, and how many there are.
        thumbnail: Called with a member, returns a small JPEG or PNG of it; None shows members as texts, in which the
            words are marked that the first of their cluster has not.

    Raises:
        OSError: The file cannot be written; what stood there before is untouched.
    """
    sections = [("promised", "What is promised", _promised(page)), ("scores", "Scores", _histogram(page))]
    sections.append(("clusters", "Clusters", _clusters(page, thumbnail)))
    title = f"Which {page.noun} are duplicates?"
    return write_page(path, sections, title=title, kicker="textsiam flag", facts=facts)


def _edges(threshold: float, most: float) -> np.ndarray:
    return np.linspace(threshold, max(most, threshold + 1e-6), _BINS + 1)


def _promised(page: FlaggedPage) -> str:
    said = page.promised or ("Nothing is known of how many of these pairs are right: calibrate the model.",)
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in said)


def _histogram(page: FlaggedPage) -> str:
    if not page.scores.sum():
        return "<p>No pair reaches the threshold.</p>"
    edges, total = _edges(page.threshold, page.most), int(page.scores.sum())
    margin = (edges[-1] - edges[0]) / 12
    x = Axis.fitted("similarity", edges[0] - margin, edges[-1], snap=False)
    y = Axis.fitted("pairs", 0.0, 1.12 * float(page.scores.max()))
    text = (
        f"Similarities of {total:,} flagged pairs, from the threshold {number(page.threshold)} to {number(page.most)}."
    )
    plot = Plot(x, y, title="Scores of the flagged pairs", description=text, ident="flagged-scores")
    plot.steps(edges, page.scores.astype(np.float64), "c-duplicate")
    plot.rule(page.threshold, f"threshold {number(page.threshold)}")
    notes = [
        f"{low:.4f} to {high:.4f}: {n:,} pairs" for low, high, n in zip(edges, edges[1:], page.scores, strict=False)
    ]
    plot.hover(edges, notes)
    note = "Pairs below the threshold are not flagged, and not counted."
    chart = figure("Scores of the flagged pairs", plot.svg(), note=note)
    return f'<div class="grid wide">{chart}</div>'


def _clusters(page: FlaggedPage, thumbnail: Thumbnail | None) -> str:
    if not page.clusters:
        return "<p>None.</p>"
    hidden = page.found - len(page.clusters)
    shown = f"All {page.found:,}, the surest first."
    if hidden:
        where = f" All pairs are in {escape(page.file)}." if page.file else ""
        shown = f"The surest {len(page.clusters):,} of {page.found:,}; {hidden:,} are left out here.{where}"
    cards = "".join(_card(k, card, page.noun, thumbnail) for k, card in enumerate(page.clusters, 1))
    rows = [
        (k, each, "" if thumbnail else text)
        for k, card in enumerate(page.clusters, 1)
        for each, text in zip(card.ids, card.inputs, strict=True)
    ]
    cut = f'<p class="note">The table holds the first {_SAVED:,} members.</p>' if len(rows) > _SAVED else ""
    saved = download("clusters.csv", ("cluster", "id", "text"), rows[:_SAVED])
    return f'<p>{shown}</p>{saved}{cut}<ol class="cards">{cards}</ol>'


def _card(place: int, card: ClusterCard, noun: str, thumbnail: Thumbnail | None) -> str:
    sure = f"similarity of its weakest pair {number(card.similarity)}"
    if card.probability == card.probability:
        sure += f", probability {number(card.probability, 2)}"
    members = list(zip(card.ids, card.inputs, strict=True))[:_MEMBERS]
    if thumbnail is None:
        items, kind = "".join(_text(card.inputs[0], *member) for member in members), "members"
    else:
        items, kind = "".join(_picture(*member, thumbnail) for member in members), "thumbnails"
    more = len(card.ids) - len(members)
    rest = f'<p class="note">and {more:,} more</p>' if more else ""
    return (
        f'<li id="cluster-{place}"><h3>{len(card.ids):,} {escape(noun)}</h3><p class="note">{sure}</p>'
        f'<ul class="{kind}">{items}</ul>{rest}</li>'
    )


def _text(first: str, name: str, text: str) -> str:
    shown = marked_differences(first, text)[1]
    return f'<li><p dir="auto">{shown}</p><small>{escape(name)}</small></li>'


def _picture(name: str, value: str, thumbnail: Thumbnail) -> str:
    data = thumbnail(value)
    if data is None:
        return f"<li><small>{escape(name)}</small></li>"
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return f'<li><img src="{uri}" alt="" loading="lazy"><small>{escape(name)}</small></li>'
