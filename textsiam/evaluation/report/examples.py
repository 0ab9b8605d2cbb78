"""The report's tables of wrong pairs, with the words that differ marked."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from textsiam.evaluation.report.pictures import Thumbnail, picture_pairs, wrong_pairs
from textsiam.evaluation.report.plots import number
from textsiam.evaluation.slices import words

if TYPE_CHECKING:
    from textsiam.evaluation.pairs import PairEvaluation, WrongPair

_LONGEST = 400  # characters of a text that are shown
_KINSHIP = 0.3  # share of common words from which differences are marked


def mistakes(
    evaluation: PairEvaluation, *, count: int, thumbnail: Thumbnail | None = None, played: Thumbnail | None = None
) -> str:
    """Return the pairs wrongly flagged, then the duplicates that were missed: two tables, or two grids of pictures."""
    shown = _table if thumbnail is None else partial(picture_pairs, thumbnail=thumbnail, played=played)
    return shown(
        f"Flagged, but not duplicates: {evaluation.name}",
        evaluation.worst_false_positives(count),
        total=int(((evaluation.labels == 0) & (evaluation.similarities >= evaluation.threshold)).sum()),
        order="the most similar first",
    ) + shown(
        f"Duplicates that were missed: {evaluation.name}",
        evaluation.worst_false_negatives(count),
        total=int(((evaluation.labels == 1) & (evaluation.similarities < evaluation.threshold)).sum()),
        order="the least similar first",
    )


def marked_differences(left: str, right: str) -> tuple[str, str]:
    """Return both texts as HTML in which the words that the other lacks at that place stand in `<mark>`.

    Words are compared without case and punctuation. Texts with little in common stay unmarked, as nearly
    everything would be. Long texts are cut.

    Example:
        >>> marked_differences("How do I start?", "How do I stop?")
        ('How do I <mark>start?</mark>', 'How do I <mark>stop?</mark>')
    """
    a, b = _tokens(left), _tokens(right)
    matcher = SequenceMatcher(None, [_key(token) for token in a], [_key(token) for token in b], autojunk=False)
    if matcher.ratio() < _KINSHIP:
        return _run(a, same=True), _run(b, same=True)
    marked_left, marked_right = [], []
    for operation, a_start, a_end, b_start, b_end in matcher.get_opcodes():
        same = operation == "equal"
        marked_left.append(_run(a[a_start:a_end], same=same))
        marked_right.append(_run(b[b_start:b_end], same=same))
    return " ".join(filter(None, marked_left)), " ".join(filter(None, marked_right))


def _tokens(text: str) -> list[str]:
    cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}\N{HORIZONTAL ELLIPSIS}"
    return cut.split()


def _key(token: str) -> str:
    return " ".join(words(token)) or token


def _run(tokens: Sequence[str], *, same: bool) -> str:
    text = escape(" ".join(tokens))
    return text if same or not text else f"<mark>{text}</mark>"


def _table(title: str, pairs: Sequence[WrongPair], *, total: int, order: str) -> str:
    rows = []
    for pair in pairs:
        left, right = marked_differences(pair.left, pair.right)
        rows.append(
            f'<tr><td class="n">{number(pair.similarity)}</td><td class="n">{number(pair.probability)}</td>'
            f'<td class="texts"><p dir="auto">{left}</p><p dir="auto">{right}</p></td></tr>'
        )
    table = (
        '<table class="mistakes"><thead><tr>'
        '<th class="n" scope="col">similarity</th><th class="n" scope="col">probability</th>'
        f'<th scope="col">texts, differences marked</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )
    return wrong_pairs(title, len(pairs), total, order, table)
