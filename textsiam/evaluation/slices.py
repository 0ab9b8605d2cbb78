"""The same figures on parts of the pairs where twins are known to fail or to have it easy."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textsiam.decision.calibration import binary_labels, finite_scores
from textsiam.evaluation.binary import binary_report
from textsiam.evaluation.intervals import plain

_LENGTH_RATIO = 1.5
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NEGATIONS = frozenset(
    {"no", "not", "never", "none", "nobody", "nothing", "neither", "nor", "nowhere", "cannot", "without"}
    # without the apostrophe, as people type
    | {
        "cant",
        "dont",
        "doesnt",
        "didnt",
        "isnt",
        "arent",
        "wasnt",
        "werent",
        "wouldnt",
        "shouldnt",
        "couldnt",
    }
)


@dataclass(frozen=True)
class SliceReport:
    """The figures of one slice; nan where they are not defined (one class only, or nothing flagged)."""

    name: str
    n: int
    positives: int
    average_precision: float
    accuracy: float
    f1: float
    precision: float
    recall: float

    def to_dict(self) -> dict[str, Any]:
        """Return what fits in JSON: nan becomes None."""
        result: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: plain(value) if isinstance(value, float) else value for name, value in result.items()}


def words(text: str) -> list[str]:
    """Return the words of a text, case-folded; an apostrophe inside a word belongs to it.

    Example:
        >>> words("Don't panic: it's 3.5 km!")
        ["don't", 'panic', "it's", '3', '5', 'km']
    """
    return [word.replace("\u2019", "'") for word in _WORD.findall(text.casefold())]


def overlap(left: Sequence[str], right: Sequence[str]) -> float:
    """Return the Jaccard index of two word sets, |A and B| / |A or B|; 1 where both are empty."""
    a, b = set(left), set(right)
    return len(a & b) / len(a | b) if a or b else 1.0


def is_negated(text_words: Sequence[str]) -> bool:
    """Return whether an English negation is among the words."""
    return any(word in _NEGATIONS or word.endswith("n't") for word in text_words)


def _numbers(text: str) -> Counter[str]:
    """Return the numbers of a text, without thousands commas."""
    return Counter(number.replace(",", "") for number in _NUMBER.findall(text))


def _length_gap(left: Sequence[str], right: Sequence[str]) -> bool:
    return max(len(left), len(right)) > _LENGTH_RATIO * max(1, min(len(left), len(right)))


def _reordered(left: Sequence[str], right: Sequence[str]) -> bool:
    return left != right and sorted(left) == sorted(right)


def _quintiles(values: NDArray[np.float64]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield a name and a mask for each fifth of the values; equal values are never parted."""
    edges = np.unique(np.quantile(values, [0.2, 0.4, 0.6, 0.8], method="higher"))
    part = np.searchsorted(edges, values, side="right")
    for k in range(edges.size + 1):
        rows = part == k
        if rows.any():
            yield f"word overlap {values[rows].min():.2f} to {values[rows].max():.2f}", rows


def _slices(
    left: Sequence[str], right: Sequence[str], seen: AbstractSet[str] | None
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield every slice by name with the mask of its rows."""
    memory = {text: words(text) for text in {*left, *right}}
    pairs = [(memory[a], memory[b]) for a, b in zip(left, right, strict=True)]

    def rows(test: Callable[[list[str], list[str]], bool]) -> NDArray[np.bool_]:
        return np.fromiter((test(a, b) for a, b in pairs), dtype=np.bool_, count=len(pairs))

    yield from _quintiles(np.array([overlap(a, b) for a, b in pairs]))
    yield "negation on one side", rows(lambda a, b: is_negated(a) != is_negated(b))
    numbers = (_numbers(a) != _numbers(b) for a, b in zip(left, right, strict=True))
    yield "numbers differ", np.fromiter(numbers, dtype=np.bool_, count=len(pairs))
    yield f"length ratio above {_LENGTH_RATIO}", rows(_length_gap)
    yield "same words, other order", rows(_reordered)
    if seen is not None:
        known = np.array([a in seen or b in seen for a, b in zip(left, right, strict=True)], dtype=np.bool_)
        yield "a question seen in training", known
        yield "both questions unseen", ~known


def _report(name: str, scores: NDArray[np.float64], labels: NDArray[np.int8], threshold: float) -> SliceReport:
    """Return the figures of one slice."""
    flagged = scores >= threshold
    positives, called = int(labels.sum()), int(flagged.sum())
    hits = int(labels[flagged].sum())
    ranking = math.nan
    if 0 < positives < labels.size:
        ranking = binary_report(scores, labels, threshold=threshold, bootstrap=0).average_precision.value
    return SliceReport(
        name=name,
        n=labels.size,
        positives=positives,
        average_precision=ranking,
        accuracy=float(np.mean(flagged == labels)),
        f1=2.0 * hits / (called + positives) if called + positives else math.nan,
        precision=hits / called if called else math.nan,
        recall=hits / positives if positives else math.nan,
    )


def slice_reports(
    left: Sequence[str],
    right: Sequence[str],
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    threshold: float,
    seen: AbstractSet[str] | None = None,
) -> tuple[SliceReport, ...]:
    """Measure the scores on slices of the pairs; slices without a pair are left out.

    The slices: fifths of the lexical overlap (Jaccard index of the word sets), a negation on exactly one
    side (English), different numbers, word counts that differ by a ratio above 1.5, the same words in
    another order, and with `seen` the pairs with and without a training question.

    Args:
        left: (n,) texts.
        right: (n,) texts.
        scores: (n,) similarities, larger is closer.
        labels: (n,) 1 duplicate, 0 not.
        threshold: a pair is flagged from this score on.
        seen: the training questions.

    Raises:
        ValueError: if the lengths differ, a score is not finite, or a label is not 0 or 1.
    """
    values = finite_scores(scores, name="score")
    if not len(left) == len(right) == values.size:
        raise ValueError(f"got {len(left)} left texts, {len(right)} right texts and {values.size} scores")
    truth = binary_labels(labels, count=values.size)
    if values.size == 0:
        return ()
    parts = _slices(left, right, seen)
    return tuple(_report(name, values[rows], truth[rows], threshold) for name, rows in parts if rows.any())
