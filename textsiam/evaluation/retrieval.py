"""Ranked lists and graded pairs: does the twin put the right documents first, in the right order?"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from textsiam.data.pairs import Pairs
from textsiam.decision.intervals import Estimate, Units, interval
from textsiam.evaluation.binary import Report

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from textsiam.data.graded import GradedPairs

Query = TypeVar("Query", bound=Hashable)
Document = TypeVar("Document", bound=Hashable)

_CUTOFF = 10  # nDCG@10 and MRR@10, the cut-off of BEIR and MS MARCO


class SupportsSimilarity(Protocol):
    """What `evaluate_sts` asks of a twin."""

    def similarity(self, left: list[str], right: list[str], /) -> ArrayLike:
        """Return the (n,) similarities of n pairs of texts, larger = closer."""
        ...


@dataclass(frozen=True)
class RetrievalReport(Report):
    """How well ranked lists agree with relevance judgements; every estimate is a mean over `queries`.

    Attributes:
        queries: judged queries with at least one relevant document: the ones averaged.
        without_relevant: queries left out because nothing is judged relevant to them.
        without_ranking: averaged queries that were given no ranking; each counts as a miss.
        repeated_documents: entries dropped because their document already stood higher in the same list.
        ndcg_at_10: normalised discounted cumulative gain of the first 10 documents.
        mrr_at_10: reciprocal rank of the first relevant document, 0 beyond rank 10.
        map: mean average precision over the whole list.
        recall: cut-off k → share of the relevant documents among the first k.
    """

    queries: int
    without_relevant: int
    without_ranking: int
    repeated_documents: int
    ndcg_at_10: Estimate
    mrr_at_10: Estimate
    map: Estimate
    recall: dict[int, Estimate]

    def __str__(self) -> str:
        """Return one line a measure."""
        rows = {"nDCG@10": self.ndcg_at_10, "MRR@10": self.mrr_at_10, "MAP": self.map}
        rows |= {f"recall@{k}": value for k, value in self.recall.items()}
        return "\n".join([f"queries     {self.queries}", *(f"{name:<11} {row}" for name, row in rows.items())])


@dataclass(frozen=True)
class StsReport(Report):
    """Agreement of similarities with human grades on `pairs` pairs of sentences."""

    name: str
    pairs: int
    spearman: Estimate

    def __str__(self) -> str:
        """Return the figure, its interval and the number of pairs."""
        return f"{self.name}: Spearman {self.spearman} over {self.pairs} pairs"


def retrieval_report(
    rankings: Mapping[Query, Sequence[Document] | Mapping[Document, float]],
    relevant: Mapping[Query, Mapping[Document, float] | Collection[Document]],
    *,
    ks: Sequence[int] = (1, 5, 10, 100),
    bootstrap: int = 1000,
    seed: int = 0,
) -> RetrievalReport:
    """Score ranked documents against relevance judgements, as trec_eval does.

    With `g_r` the grade of the document at rank r (0 when it is not judged or its grade is negative):
    DCG@10 = Σ_{r≤10} g_r / log2(r + 1), divided by the DCG of the best possible order. The gain is linear,
    trec_eval's and BEIR's; `2^g - 1` would give other numbers wherever grades above 1 exist. A document is
    relevant when its grade is positive; relevant documents that are missing from a list count as misses.

    Documents with equal scores are ordered worst first, so that neither ids nor input order matter and a
    collapsed twin, which gives one score to everything, earns nothing. Of a repeated document the highest
    place counts. The intervals are 95 % percentile intervals of a bootstrap over queries.

    Args:
        rankings: query → documents, best first, or query → {document: score}, larger = better.
        relevant: query → {document: grade}, or query → a collection of documents of grade 1.
        ks: cut-offs of recall.
        bootstrap: resamples; 0 for no intervals.
        seed: seed of the resampling.

    Returns:
        The means over all queries that have a relevant document, with intervals.

    Raises:
        ValueError: a cut-off below 1, a grade that is not finite, a score that is NaN, or no query with a
            relevant document.

    Example:
        >>> report = retrieval_report({"q": ["b", "a"]}, {"q": {"a": 1}}, bootstrap=0)
        >>> report.mrr_at_10.value
        0.5
    """
    bad = [k for k in ks if k < 1]
    if bad or not ks:
        raise ValueError(f"ks must be cut-offs of at least 1, got {tuple(ks)}")
    rows: list[list[float]] = []
    repeated = without_ranking = 0
    for query, judged in relevant.items():
        grades = _grades(query, judged)
        if not any(grade > 0 for grade in grades.values()):
            continue
        ranking = _best_first(query, rankings.get(query, ()), grades)
        distinct = list(dict.fromkeys(ranking))
        repeated += len(ranking) - len(distinct)
        without_ranking += query not in rankings
        rows.append(_measures(distinct, grades, ks))
    if not rows:
        raise ValueError(f"none of the {len(relevant)} judged queries has a relevant document")
    ndcg, mrr, mean_ap, *recalls = _means(np.array(rows), bootstrap=bootstrap, seed=seed)
    return RetrievalReport(
        queries=len(rows),
        without_relevant=len(rankings.keys() | relevant.keys()) - len(rows),
        without_ranking=without_ranking,
        repeated_documents=repeated,
        ndcg_at_10=ndcg,
        mrr_at_10=mrr,
        map=mean_ap,
        recall=dict(zip(ks, recalls, strict=True)),
    )


def spearman(
    scores: ArrayLike, gold: ArrayLike, *, units: Units | None = None, bootstrap: int = 1000, seed: int = 0
) -> Estimate:
    """Spearman's rank correlation of scores and gold grades; ties share their average rank.

    rho = cov(r, s) / (sd_r · sd_s) with r and s the ranks of the scores and of the grades. The 95 % interval
    is a percentile bootstrap over units; the ranks are taken anew in every resample.

    Args:
        scores: (n,) similarities, larger = closer.
        gold: (n,) grades, larger = closer.
        units: what is drawn; None takes every pair as one, independent of all others.
        bootstrap: resamples; 0 for no interval.
        seed: seed of the resampling.

    Returns:
        rho in [-1, 1]; NaN when all scores or all grades are equal, where it is not defined.

    Raises:
        ValueError: different lengths, fewer than two pairs, or a value that is not finite.
    """
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise ValueError(f"need two equally long rows of at least two values, got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("scores and gold must be finite")
    value = _weighted_spearman(x, y, np.ones((1, len(x))))[0]
    drawn = units or Units.alone(len(x))
    samples = [_weighted_spearman(x, y, counts) for counts in drawn.weights(bootstrap, seed)]
    note = drawn.too_few(np.ones(len(x), bool)) if units is not None and bootstrap else ""
    return interval(value, np.concatenate(samples) if samples else np.zeros(0), note=note)


def evaluate_sts(
    twin: SupportsSimilarity, graded: GradedPairs, *, name: str = "twin", bootstrap: int = 1000, seed: int = 0
) -> StsReport:
    """Compare the similarities of a twin with human grades (semantic textual similarity).

    Args:
        twin: anything with `.similarity(left, right) -> (n,)`.
        graded: sentence pairs with a graded similarity, from `read_graded`.
        name: name of the twin in messages and tables.
        bootstrap: resamples; 0 for no interval.
        seed: seed of the resampling.

    Returns:
        Spearman's rank correlation with its interval.
    """
    similarities = twin.similarity(list(graded.left), list(graded.right))
    # pairs that share a sentence are one unit
    units = Units.of_pairs(Pairs.from_texts(list(graded.left), list(graded.right), [0] * len(graded.scores)))
    estimate = spearman(similarities, graded.scores, units=units, bootstrap=bootstrap, seed=seed)
    return StsReport(name=name, pairs=len(graded.scores), spearman=estimate)


def _grades(query: Hashable, judged: Mapping[Document, float] | Collection[Document]) -> Mapping[Document, float]:
    if not isinstance(judged, Mapping):
        if isinstance(judged, str):
            raise ValueError(f"query {query!r}: the relevant documents must be a collection, got {judged!r}")
        return dict.fromkeys(judged, 1.0)
    for document, grade in judged.items():
        if not math.isfinite(grade):
            raise ValueError(f"query {query!r}, document {document!r}: grade is {grade}, expected a number")
    return judged


def _best_first(
    query: Hashable, ranking: Sequence[Document] | Mapping[Document, float], grades: Mapping[Document, float]
) -> Sequence[Document]:
    if not isinstance(ranking, Mapping):
        if isinstance(ranking, str):
            raise ValueError(f"query {query!r}: the ranking must be a sequence of documents, got {ranking!r}")
        return ranking
    for document, score in ranking.items():
        if math.isnan(score):
            raise ValueError(f"query {query!r}, document {document!r}: score is {score}, expected a number")
    return sorted(ranking, key=lambda document: (-ranking[document], max(grades.get(document, 0), 0)))


def _measures(ranking: list[Document], grades: Mapping[Document, float], ks: Sequence[int]) -> list[float]:
    """Return nDCG@10, reciprocal rank, average precision and recall at every k for one query."""
    gains = np.array([max(grades.get(document, 0), 0) for document in ranking], dtype=np.float64)
    ideal = np.sort([grade for grade in grades.values() if grade > 0])[::-1]
    hits = gains > 0
    ranks = np.flatnonzero(hits) + 1
    first = ranks[0] if len(ranks) else math.inf
    average_precision = (np.arange(1, len(ranks) + 1) / ranks).sum() / len(ideal)
    recalls = [hits[:k].sum() / len(ideal) for k in ks]
    return [_dcg(gains) / _dcg(ideal), 1 / first if first <= _CUTOFF else 0.0, average_precision, *recalls]


def _dcg(gains: np.ndarray) -> float:
    top = gains[:_CUTOFF]
    return float((top / np.log2(np.arange(2, len(top) + 2))).sum())


def _means(values: np.ndarray, *, bootstrap: int, seed: int) -> list[Estimate]:
    """Return the mean of every column of (n, m) values, with its interval over resampled rows."""
    units = Units.alone(len(values), noun="queries")
    samples = [counts @ values / len(values) for counts in units.weights(bootstrap, seed)]
    replicates = np.concatenate(samples) if samples else np.zeros((0, values.shape[1]))
    note = units.too_few(np.ones(len(values), bool)) if bootstrap else ""
    return [interval(mean, sample, note=note) for mean, sample in zip(values.mean(axis=0), replicates.T, strict=True)]


def _weighted_spearman(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return rho for every row of counts (r, n): item i stands there counts[r, i] times."""
    total = counts.sum(axis=1, keepdims=True)
    a, b = (_average_ranks(values, counts) - (total + 1) / 2 for values in (x, y))  # mean rank = (n + 1) / 2
    spread = (counts * a * a).sum(axis=1) * (counts * b * b).sum(axis=1)
    product = (counts * a * b).sum(axis=1)
    return np.divide(product, np.sqrt(spread), out=np.full(len(counts), math.nan), where=spread > 0)


def _average_ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the (r, n) average ranks of (n,) values, each standing counts[r, i] times in row r."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) > 0])
    weight = np.add.reduceat(counts[:, order], starts, axis=1)  # of each distinct value
    rank = np.cumsum(weight, axis=1) - (weight - 1) / 2
    group = np.searchsorted(values[order][starts], values)
    return rank[:, group]
