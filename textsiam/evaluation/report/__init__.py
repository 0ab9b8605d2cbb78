"""The evaluation report: one HTML file with figures, tables and examples that needs nothing else."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from textsiam.decision.intervals import Estimate
from textsiam.evaluation.binary import BinaryReport
from textsiam.evaluation.report.examples import mistakes
from textsiam.evaluation.report.page import download, write_page
from textsiam.evaluation.report.pictures import EmbeddingMap, Thumbnail, embedding_figure
from textsiam.evaluation.report.plots import (
    number,
    precision_recall_figure,
    reliability_figure,
    roc_figure,
    score_histograms,
    training_figures,
)

if TYPE_CHECKING:
    from textsiam.evaluation.pairs import PairEvaluation
    from textsiam.evaluation.slices import SliceReport

_EXAMPLES = 12
_SMALL_SLICE = 30  # pairs below which a slice is not called the weakest

# name, value, and whether a larger (+1) or a smaller (-1) figure is better
_MEASURES: tuple[tuple[str, Callable[[BinaryReport], Estimate | float | None], int], ...] = (
    ("Average precision", lambda report: report.average_precision, 1),
    ("ROC-AUC", lambda report: report.roc_auc, 1),
    ("Accuracy", lambda report: report.accuracy, 1),
    ("F1", lambda report: report.f1, 1),
    ("Precision", lambda report: report.precision, 1),
    ("Recall", lambda report: report.recall, 1),
    ("Calibration error", lambda report: report.calibration_error, -1),
    ("Log loss", lambda report: report.log_loss, -1),
    ("Brier score", lambda report: report.brier, -1),
)
_SLICE_MEASURES: tuple[tuple[str, Callable[[SliceReport], float]], ...] = (
    ("average precision", lambda part: part.average_precision),
    ("accuracy", lambda part: part.accuracy),
    ("F1", lambda part: part.f1),
)
_SLICE_NAMES = tuple(name for name, _ in _SLICE_MEASURES)


def write_report(
    path: str | os.PathLike[str],
    evaluations: Sequence[PairEvaluation],
    *,
    history: Sequence[Mapping[str, float]] | None = None,
    facts: Mapping[str, str] | None = None,
    title: str = "How well does the twin find duplicates?",
    thumbnail: Thumbnail | None = None,
    played: Thumbnail | None = None,
    embedding: EmbeddingMap | None = None,
) -> Path:
    """Write one self-contained HTML page: no request, light, dark and printable; see `write_page`.

    It shows the facts, the measures side by side with their intervals, score histograms, precision-recall,
    ROC and reliability curves, training curves, slices that can be sorted, and the worst mistakes; measures and slices
    can be saved as CSV. The last evaluation is the
    one under examination: the others are what it is compared with, and the mistakes are its own. Equal
    input gives equal bytes. The file appears whole or not at all.

    Args:
        path: the file to write; missing folders are made.
        evaluations: at least one, for example zero-shot, then trained.
        history: rows of a training run with `step` and any of `loss`, `validation_ap`, `learning_rate` and
            `pairs_per_second`.
        facts: name → value, for example model, data, versions and fingerprint.
        title: the heading.
        thumbnail: called with an input, returns a small PNG of it, or None to show the input itself:
            `textsiam.modality.shown_by` what the pairs hold.
        played: called likewise, returns a WAV of it to be played, or None.
        embedding: inputs and vectors to show as a map, with thumbnails where there are any.

    Returns:
        The path of the page.

    Raises:
        ValueError: no evaluation, two of one name, a history row without `step`, or a thumbnail that is no PNG.
        OSError: the file cannot be written; what stood there before is untouched.
    """
    names = [evaluation.name for evaluation in evaluations]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"a report needs at least one evaluation and distinct names, got {names}")
    for i, row in enumerate(history or ()):
        if "step" not in row:
            raise ValueError(f"history row {i} has no 'step', only {sorted(row)}")
    sections = _sections(evaluations, history or (), thumbnail, played, embedding)
    return write_page(path, sections, title=title, kicker="textsiam evaluation", facts=facts or {})


def _sections(
    evaluations: Sequence[PairEvaluation],
    history: Sequence[Mapping[str, float]],
    thumbnail: Thumbnail | None,
    played: Thumbnail | None,
    embedding: EmbeddingMap | None,
) -> list[tuple[str, str, str]]:
    """Return (id, heading, HTML) of every section that has something to show."""
    last = evaluations[-1]
    curves = [precision_recall_figure(evaluations), roc_figure(evaluations), reliability_figure(evaluations)]
    histograms = score_histograms(evaluations)
    sections = [
        ("measures", "Measures", _measures(evaluations)),
        ("scores", "Scores", _grid(histograms, "wide")),
        ("curves", "Curves", _grid(curves, "narrow")),
    ]
    if training := training_figures(history):
        sections.append(("training", "Training", _grid(training, "wide")))
    if any(evaluation.slices for evaluation in evaluations):
        sections.append(("slices", "Slices", _slices(evaluations)))
    sections.append(("mistakes", "Worst mistakes", mistakes(last, count=_EXAMPLES, thumbnail=thumbnail, played=played)))
    if embedding is not None:
        sections.append(("map", "Map", embedding_figure(embedding, thumbnail)))
    return sections


def _grid(figures: Sequence[str], kind: str) -> str:
    return f'<div class="grid {kind}">{"".join(figures)}</div>'


def _measures(evaluations: Sequence[PairEvaluation]) -> str:
    reports = [evaluation.report for evaluation in evaluations]
    compared = len(reports) > 1
    head = "".join(f'<th scope="col">{escape(evaluation.name)}</th>' for evaluation in evaluations)
    rows = [
        _measure_row(name, [value(report) for report in reports], sign, compared=compared)
        for name, value, sign in _MEASURES
    ]
    for recall in reports[-1].precision_at_recall:
        values = [report.precision_at_recall.get(recall, math.nan) for report in reports]
        rows.append(_measure_row(f"Precision at recall {recall:g}", values, 1, compared=compared))
    rows.append(_plain_row("Threshold", [number(report.threshold) for report in reports], compared=compared))
    rows.append(_plain_row("Pairs", [f"{report.n:,}" for report in reports], compared=compared))
    shares = [_percent(report.positives / report.n) for report in reports]
    rows.append(_plain_row("Duplicates", shares, compared=compared))
    change = '<th scope="col">change</th>' if compared else ""
    legend = "Bars: the intervals on a common scale. Change: the last against the first." if compared else ""
    return (
        f"{_headline(evaluations)}{_alarms(evaluations)}"
        '<div class="scroll" tabindex="0" role="group" aria-label="Measures">'
        '<table class="measures"><thead><tr><th scope="col">measure</th>'
        f"{head}{change}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="note">Brackets: 95 % bootstrap intervals. Accuracy, F1, precision and recall hold at the '
        f"threshold, which was fitted on other pairs. {legend}</p>"
        f"{download('measures.csv', ('measure', 'model', 'value', 'low', 'high'), _measured(evaluations))}"
    )


def _measured(evaluations: Sequence[PairEvaluation]) -> Iterator[tuple[object, ...]]:
    for name, value, _ in _MEASURES:
        for evaluation in evaluations:
            found = value(evaluation.report)
            known = _as_estimate(found)
            yield name, evaluation.name, *("" if math.isnan(x) else x for x in (known.value, known.low, known.high))


def _headline(evaluations: Sequence[PairEvaluation]) -> str:
    first, last = evaluations[0], evaluations[-1]
    a, b = first.report.average_precision, last.report.average_precision
    text = (
        f"<b>{escape(last.name)}</b> reaches an average precision of <b>{number(b.value)}</b> and judges "
        f"<b>{_percent(last.report.accuracy.value)}</b> of the pairs right"
    )
    if first is not last:
        accuracy = _percent(first.report.accuracy.value)
        text += f", against {number(a.value)} and {accuracy} for {escape(first.name)}"
        if not (math.isnan(a.low) or math.isnan(b.low)):
            apart = a.high < b.low or b.high < a.low
            text += f"; their intervals of average precision {'do not ' if apart else ''}overlap"
    return f'<p class="headline">{text}.</p>'


def _alarms(evaluations: Sequence[PairEvaluation]) -> str:
    alarms = []
    for evaluation in evaluations:
        report = evaluation.report
        low, _, high = report.score_spread
        unrelated = report.random_median
        aside = "" if unrelated is None else f", and unrelated texts score {number(unrelated)}"
        if report.saturated:
            alarms.append(
                f'<p class="alarm"><b>{escape(evaluation.name)}: the scores are saturated.</b> 98 % of them '
                f"lie between {number(low)} and {number(high)}{aside}: the twin hardly tells texts apart.</p>"
            )
    last = evaluations[-1]
    for evaluation in evaluations[:-1]:
        other, own = (each.report.average_precision.value for each in (evaluation, last))
        if other > own:
            alarms.append(
                f'<p class="alarm"><b>{escape(evaluation.name)}: better than {escape(last.name)}.</b> The average '
                f"precision is {number(other)} against {number(own)}.</p>"
            )
    return "".join(alarms)


def _as_estimate(value: Estimate | float | None) -> Estimate:
    return value if isinstance(value, Estimate) else Estimate(math.nan if value is None else value, math.nan, math.nan)


def _measure_row(name: str, values: Sequence[Estimate | float | None], sign: int, *, compared: bool) -> str:
    estimates = [*map(_as_estimate, values)]
    ends = [x for e in estimates for x in (e.value, e.low, e.high) if compared and math.isfinite(x)]
    low, high = min(ends, default=0.0), max(ends, default=0.0)
    cells = "".join(f"<td>{_estimate(e, low, high)}</td>" for e in estimates)
    arrow = "" if sign > 0 else '&nbsp;<small title="smaller is better">\N{DOWNWARDS ARROW}</small>'
    return f'<tr><th scope="row">{name}{arrow}</th>{cells}{_change(estimates, sign) if compared else ""}</tr>'


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _plain_row(name: str, values: Sequence[str], *, compared: bool) -> str:
    cells = "".join(f"<td>{value}</td>" for value in values)
    return f'<tr><th scope="row">{name}</th>{cells}{"<td></td>" if compared else ""}</tr>'


def _estimate(estimate: Estimate, low: float, high: float) -> str:
    """Return the figure, with its interval where known and a bar where the row has a scale."""
    text = f"<b>{number(estimate.value)}</b>"
    if math.isnan(estimate.low):
        return text + (f" <small>{escape(estimate.note)}</small>" if estimate.note else "")
    text += f" <small>[{number(estimate.low)}\N{EN DASH}{number(estimate.high)}]</small>"
    if not high > low:
        return text
    start, end, at = (100 * (x - low) / (high - low) for x in (estimate.low, estimate.high, estimate.value))
    bar = f'<i style="left:{start:.1f}%;width:{end - start:.1f}%"></i><i class="at" style="left:{at:.1f}%"></i>'
    return f'{text}<span class="bar" aria-hidden="true">{bar}</span>'


def _change(estimates: Sequence[Estimate], sign: int) -> str:
    change = estimates[-1].value - estimates[0].value
    if not math.isfinite(change):
        return "<td>\N{EN DASH}</td>"
    kind = "same" if abs(change) < 5e-4 else "better" if change * sign > 0 else "worse"
    text = number(change)
    return f'<td class="{kind}">{"+" if change > 0 else ""}{text}<span class="word"> {kind}</span></td>'


def _slices(evaluations: Sequence[PairEvaluation]) -> str:
    tables = [{part.name: part for part in evaluation.slices} for evaluation in evaluations]
    names = dict.fromkeys(name for table in reversed(tables) for name in table)
    firsts, measures = [" group" if i == 0 else "" for i in range(len(evaluations))], len(_SLICE_MEASURES)
    groups = "".join(
        f'<th class="group" colspan="{len(evaluations)}" scope="colgroup">{measure}</th>'
        for measure, _ in _SLICE_MEASURES
    )
    heads = "".join(
        f'<th class="n{first}" scope="col" data-column="{3 + i}">{escape(evaluation.name)}</th>'
        for i, (first, evaluation) in enumerate(zip(firsts * measures, [*evaluations] * measures, strict=True))
    )
    rows = []
    for name in names:
        some = next(table[name] for table in reversed(tables) if name in table)
        cells = "".join(
            f'<td class="n{first}">{number(value(table[name])) if name in table else ""}</td>'
            for _, value in _SLICE_MEASURES
            for first, table in zip(firsts, tables, strict=True)
        )
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th><td class="n">{some.n:,}</td>'
            f'<td class="n">{100 * some.positives / some.n:.0f} %</td>{cells}</tr>'
        )
    return (
        f'{_weakest(evaluations[-1])}<div class="scroll" tabindex="0" role="group" aria-label="Slices">'
        '<table class="slices sortable"><thead><tr>'
        '<th rowspan="2" scope="col" data-column="0">slice</th>'
        '<th class="n" rowspan="2" scope="col" data-column="1">pairs</th>'
        f'<th class="n" rowspan="2" scope="col" data-column="2">duplicates</th>{groups}</tr>'
        f"<tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"{download('slices.csv', ('slice', 'model', 'pairs', 'duplicates', *_SLICE_NAMES), _sliced(evaluations))}"
    )


def _sliced(evaluations: Sequence[PairEvaluation]) -> Iterator[tuple[object, ...]]:
    for evaluation in evaluations:
        for part in evaluation.slices:
            yield part.name, evaluation.name, part.n, part.positives, *(value(part) for _, value in _SLICE_MEASURES)


def _weakest(evaluation: PairEvaluation) -> str:
    large = [part for part in evaluation.slices if part.n >= _SMALL_SLICE]
    if not large:
        return ""
    part = min(large, key=lambda part: part.accuracy)
    return (
        f"<p>Weakest for {escape(evaluation.name)}: <b>{escape(part.name)}</b>, "
        f"{_percent(part.accuracy)} right over {part.n:,} pairs.</p>"
    )
