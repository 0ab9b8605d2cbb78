"""The report's figures: score histograms, precision-recall, ROC, reliability and training curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from textsiam.evaluation.binary import BINS, equal_mass_bins
from textsiam.evaluation.report.svg import Axis, Plot, thin

if TYPE_CHECKING:
    from textsiam.evaluation.pairs import PairEvaluation

_BINS = 40  # of a score histogram
_HISTORY_POINTS = 240

_HISTORY = {
    "loss": ("Training loss", "loss"),
    "validation_ap": ("Validation average precision", "average precision"),
    "learning_rate": ("Learning rate", "learning rate"),
    "pairs_per_second": ("Speed", "pairs per second"),
}


@dataclass(frozen=True)
class Curve:
    """How a classifier behaves at each of its t distinct scores, the strictest threshold first."""

    thresholds: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    false_positive_rate: np.ndarray


def series_style(index: int, count: int) -> str:
    """Return the CSS class of one of `count` evaluations: the last has the accent, the others follow."""
    return "s0" if index == count - 1 else f"s{1 + index % 5}"


def threshold_curve(scores: np.ndarray, labels: np.ndarray) -> Curve:
    """Return recall, precision and false positive rate at every distinct score, both classes present."""
    order = np.argsort(-scores, kind="stable")
    found, ranked = labels[order] == 1, scores[order]
    last = np.flatnonzero(np.r_[ranked[:-1] != ranked[1:], True])  # tied scores fall together
    hits = np.cumsum(found)[last].astype(np.float64)
    taken = last + 1.0
    return Curve(ranked[last], hits / found.sum(), hits / taken, (taken - hits) / (~found).sum())


def score_histograms(evaluations: Sequence[PairEvaluation]) -> list[str]:
    """Return one histogram of similarities by class for each evaluation, all over the same range."""
    scores = [np.asarray(evaluation.similarities, dtype=np.float64) for evaluation in evaluations]
    axis = Axis.fitted("similarity", min(s.min() for s in scores), max(s.max() for s in scores), snap=False)
    return [
        _score_histogram(evaluation, s, axis, f"scores-{i}")
        for i, (evaluation, s) in enumerate(zip(evaluations, scores, strict=True))
    ]


def precision_recall_figure(evaluations: Sequence[PairEvaluation]) -> str:
    """Return the precision-recall curves of all evaluations, with a dot where each threshold stands."""
    return _curves_figure(
        evaluations,
        title="Precision and recall",
        axes=(Axis.unit("recall"), Axis.unit("precision")),
        coordinates=lambda curve: (np.r_[0.0, curve.recall], np.r_[curve.precision[:1], curve.precision]),
        area=lambda e: f"average precision {number(e.report.average_precision.value)}",
        ident="pr",
    )


def roc_figure(evaluations: Sequence[PairEvaluation]) -> str:
    """Return the ROC curves of all evaluations, with a dot where each threshold stands."""
    return _curves_figure(
        evaluations,
        title="ROC",
        axes=(Axis.unit("false positive rate"), Axis.unit("recall (true positive rate)")),
        coordinates=lambda curve: (np.r_[0.0, curve.false_positive_rate], np.r_[0.0, curve.recall]),
        area=lambda e: f"area {number(e.report.roc_auc.value)}",
        ident="roc",
        diagonal=True,
    )


def reliability_figure(evaluations: Sequence[PairEvaluation]) -> str:
    """Return predicted probability against the observed share of duplicates, in bins of equal size."""
    measured = [evaluation.report.calibration_error for evaluation in evaluations]
    facts = [
        f"{evaluation.name}, error {number(error.value if error else math.nan)}"
        for evaluation, error in zip(evaluations, measured, strict=True)
    ]
    text = f"Observed share of duplicates by predicted probability: {'; '.join(facts)}."
    axes = Axis.unit("predicted probability"), Axis.unit("share of duplicates")
    plot = Plot(*axes, title="Reliability", description=text, ident="reliability")
    plot.line([0.0, 1.0], [0.0, 1.0], "reference")
    legend = []
    for i, (evaluation, fact) in enumerate(zip(evaluations, facts, strict=True)):
        style = series_style(i, len(evaluations))
        if evaluation.report.calibration_error is None:  # a threshold alone gives no probabilities
            continue
        predicted, observed, sizes = reliability_bins(evaluation.probabilities, evaluation.labels)
        notes = [
            f"{evaluation.name}: predicted {number(p)}, observed {number(o)}, {size:,} pairs"
            for p, o, size in zip(predicted, observed, sizes, strict=True)
        ]
        plot.line(predicted, observed, style)
        plot.dots(predicted, observed, style, notes=notes)
        legend.append((style, "line", fact))
    return figure("Reliability", plot.svg(), legend=[*legend, ("reference", "line", "perfect")])


def training_figures(history: Sequence[Mapping[str, float]]) -> list[str]:
    """Return one figure for each known key of the history that holds values: see `write_report`."""
    figures = []
    for key, (title, label) in _HISTORY.items():
        points = [(float(row["step"]), float(row[key])) for row in history if row.get(key) is not None]
        finite = sorted((p for p in points if math.isfinite(p[1])), key=lambda p: p[0])
        if finite:
            steps, values = (np.array(column) for column in zip(*finite, strict=True))
            figures.append(_training_figure(key, title, label, steps, values, lost=len(points) - len(finite)))
    return figures


def reliability_bins(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean probability, share of duplicates and size of each filled bin of the calibration error."""
    bins = equal_mass_bins(probabilities)
    sizes = np.bincount(bins, minlength=BINS)
    filled = sizes > 0
    predicted, observed = (
        np.bincount(bins, weights=column, minlength=BINS)[filled] / sizes[filled]
        for column in (probabilities, labels == 1)
    )
    return predicted, observed, sizes[filled]


def figure(title: str, svg: str, *, legend: Sequence[tuple[str, str, str]] = (), note: str = "") -> str:
    """Return a framed chart; the legend's entries are (CSS class, "line" or "area", text)."""
    shapes = {"line": "M1 6H21", "area": "M1 1H21V11H1Z"}
    items = "".join(
        f'<li><svg class="swatch" viewBox="0 0 22 12" aria-hidden="true"><path class="{shape} {style}" '
        f'd="{shapes[shape]}"/></svg>{escape(text)}</li>'
        for style, shape, text in legend
    )
    keys = f'<ul class="legend">{items}</ul>' if items else ""
    tail = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<figure><figcaption><h3>{escape(title)}</h3>{keys}</figcaption>{svg}{tail}</figure>"


def number(value: float, digits: int = 3) -> str:
    """Return a figure with a fixed number of decimals, a dash where there is none."""
    if math.isnan(value):
        return "\N{EN DASH}"
    if math.isinf(value):
        return "\N{INFINITY}"
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _score_histogram(evaluation: PairEvaluation, scores: np.ndarray, axis: Axis, ident: str) -> str:
    duplicate = np.asarray(evaluation.labels) == 1
    edges = np.linspace(axis.low, axis.high, _BINS + 1)
    counts = [np.histogram(scores[rows], bins=edges)[0] for rows in (duplicate, ~duplicate)]
    shares = [100.0 * part / max(part.sum(), 1) for part in counts]
    tallest = max(share.max() for share in shares)
    text = (
        f"{evaluation.name}: similarities of {duplicate.sum():,} duplicates (median "
        f"{_median(scores[duplicate])}) and {(~duplicate).sum():,} other pairs (median "
        f"{_median(scores[~duplicate])}); the threshold is {number(evaluation.threshold)}."
    )
    y = Axis.fitted("% of the class", 0.0, min(1.12 * tallest, 100.0))
    plot = Plot(axis, y, title=f"Scores of {evaluation.name}", description=text, ident=ident)
    plot.steps(edges, shares[1], "c-other")
    plot.steps(edges, shares[0], "c-duplicate")
    plot.rule(evaluation.threshold, f"threshold {number(evaluation.threshold)}")
    notes = [
        f"{number(low, 2)} to {number(high, 2)}: {a:,} duplicates, {b:,} others"
        for low, high, a, b in zip(edges[:-1], edges[1:], *counts, strict=True)
    ]
    plot.hover(edges, notes)
    legend = [("c-duplicate", "area", "duplicates"), ("c-other", "area", "not duplicates")]
    return figure(evaluation.name, plot.svg(), legend=legend)


def _curves_figure(
    evaluations: Sequence[PairEvaluation],
    *,
    title: str,
    axes: tuple[Axis, Axis],
    coordinates: Callable[[Curve], tuple[np.ndarray, np.ndarray]],
    area: Callable[[PairEvaluation], str],
    ident: str,
    diagonal: bool = False,
) -> str:
    facts = [f"{evaluation.name}, {area(evaluation)}" for evaluation in evaluations]
    text = f"{title} at every threshold: {'; '.join(facts)}. A dot marks the threshold in use."
    plot = Plot(*axes, title=title, description=text, ident=ident)
    if diagonal:
        plot.line([0.0, 1.0], [0.0, 1.0], "reference")
    styles = [series_style(i, len(evaluations)) for i in range(len(evaluations))]
    for evaluation, style in zip(evaluations, styles, strict=True):
        curve = threshold_curve(evaluation.similarities, evaluation.labels)
        xs, ys = coordinates(curve)
        plot.line(*thin(xs, ys), style)
        at = int((curve.thresholds >= evaluation.threshold).sum())  # the first point stands before all scores
        note = f"{evaluation.name} at its threshold: {number(xs[at])}, {number(ys[at])}"
        plot.dots(xs[at : at + 1], ys[at : at + 1], style, notes=[note], radius=4.5)
    return figure(title, plot.svg(), legend=[(s, "line", fact) for s, fact in zip(styles, facts, strict=True)])


def _training_figure(key: str, title: str, label: str, steps: np.ndarray, values: np.ndarray, *, lost: int) -> str:
    pooled = -(-len(steps) // _HISTORY_POINTS)  # neighbours averaged into one point
    cuts = np.arange(0, len(steps), pooled)
    sizes = np.diff(np.r_[cuts, len(steps)])
    xs, ys = (np.add.reduceat(column, cuts) / sizes for column in (steps, values))
    x = Axis.fitted("step", xs.min(), xs.max(), snap=False, count=6)
    low = 0.0 if key in ("learning_rate", "pairs_per_second") else ys.min()
    ends = [f"{value:.4g} at step {step:,.0f}" for step, value in ((steps[0], values[0]), (steps[-1], values[-1]))]
    text = f"{title}: from {ends[0]} to {ends[1]}."
    plot = Plot(x, Axis.fitted(label, low, ys.max()), title=title, description=text, ident=f"history-{key}")
    plot.line(xs, ys, "s0")
    if len(xs) <= 40:
        plot.dots(xs, ys, "s0", notes=[f"step {a:,.0f}: {b:.4g}" for a, b in zip(xs, ys, strict=True)], radius=2.5)
    if key == "validation_ap":
        best = int(np.argmax(values))
        plot.rule(steps[best], f"best {number(values[best])}")
    remarks = [f"Each point is the mean of {pooled} steps."] if pooled > 1 else []
    remarks += [f"Left out: {lost} that were not finite."] if lost else []
    return figure(title, plot.svg(), note=" ".join(remarks))


def _median(values: np.ndarray) -> str:
    return number(float(np.median(values))) if len(values) else "none"
