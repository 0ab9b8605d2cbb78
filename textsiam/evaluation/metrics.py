"""The package's measures as `evaluate` metrics, defined here: nothing is downloaded, nothing is cached.

Importing this module imports `evaluate` and `datasets`, so nothing else in the package imports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import evaluate
from datasets import Features, List, Value

from textsiam.decision.intervals import Units
from textsiam.evaluation.binary import binary_report
from textsiam.evaluation.retrieval import retrieval_report, spearman


class _InMemoryMetric(evaluate.Metric):
    """A metric that keeps its rows in memory and leaves no folder behind.

    `evaluate` makes a folder in the user's cache even when the rows stay in memory. With
    `keep_in_memory=False`, which several processes need, it does so as usual: give a shared `cache_dir`.
    """

    def __init__(self, config_name: str | None = None, *, keep_in_memory: bool = True, **options: Any) -> None:
        super().__init__(config_name, keep_in_memory=keep_in_memory, **options)

    def _build_data_dir(self) -> str:
        return "" if self.keep_in_memory else super()._build_data_dir()

    def _finalize(self) -> None:
        if self.keep_in_memory and self.writer is None:
            raise ValueError(f"{self.name}: nothing to compute, give predictions and references first")
        super()._finalize()


def _flat(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a report one by one, as loggers and `evaluate.combine` expect them.

    An estimate gives `name`, and with an interval `name_low` and `name_high`; a dict gives `name@key`; what
    is unknown or no number is left out.
    """
    flat: dict[str, float] = {}
    for name, value in report.items():
        if isinstance(value, dict) and "value" in value:
            flat |= _flat({name: value["value"], f"{name}_low": value["low"], f"{name}_high": value["high"]})
        elif isinstance(value, dict):
            flat |= _flat({f"{name}@{key}": part for key, part in value.items()})
        elif isinstance(value, (int, float)):
            flat[name] = value
    return flat


class PairMetrics(_InMemoryMetric):
    """Figures of pair similarities against labels: see `binary_report`.

    `compute(predictions=similarities, references=labels, threshold=..., probabilities=None, bootstrap=0,
    seed=0, groups=None)` returns the numbers of the `BinaryReport`: `average_precision`, with a bootstrap also
    `average_precision_low` and `_high`, and so on.

    Example:
        >>> result = PairMetrics().compute(predictions=[0.9, 0.2], references=[1, 0], threshold=0.5)
        >>> result["accuracy"]
        1.0
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Average precision, ROC-AUC, accuracy, F1 and calibration of pair similarities.",
            citation="",
            inputs_description=(
                "predictions: similarities, larger = closer. references: 1 duplicate, 0 not.\n"
                "threshold: a pair is a duplicate from this similarity on; fit it on other pairs.\n"
                "probabilities: one a row, for the calibration figures. bootstrap: resamples, 0 for none.\n"
                "groups: one a row, what it depends on (cluster, identity): intervals draw these, not rows."
            ),
            features=Features({"predictions": Value("float64"), "references": Value("int64")}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride]  # no **kwargs: a typo is an error
        self,
        *,
        predictions: Sequence[float],
        references: Sequence[int],
        threshold: float | None = None,
        probabilities: Sequence[float] | None = None,
        bootstrap: int = 0,
        seed: int = 0,
        groups: Sequence[Any] | None = None,
    ) -> dict[str, float]:
        if threshold is None:
            raise ValueError("give threshold=: it is fitted on other pairs, never on those it is measured with")
        report = binary_report(
            predictions,
            references,
            threshold=threshold,
            probabilities=probabilities,
            units=None if groups is None else Units.grouped(groups),
            bootstrap=bootstrap,
            seed=seed,
        )
        return _flat(report.to_dict())


class RetrievalMetrics(_InMemoryMetric):
    """Figures of ranked documents against relevance judgements, a row a query: see `retrieval_report`.

    `compute(predictions=rankings, references=judgements, ks=(1, 5, 10, 100), bootstrap=0, seed=0)` returns
    the numbers of the `RetrievalReport`: `ndcg_at_10`, `recall@5` and so on. Document ids are strings.

    Example:
        >>> judged = [{"documents": ["a"], "grades": [1.0]}]
        >>> RetrievalMetrics().compute(predictions=[["b", "a"]], references=judged)["mrr_at_10"]
        0.5
    """

    def _info(self) -> evaluate.MetricInfo:
        judged = {"documents": List(Value("string")), "grades": List(Value("float64"))}
        return evaluate.MetricInfo(
            description="nDCG@10, MRR@10, MAP and recall of ranked documents.",
            citation="",
            inputs_description=(
                "predictions: for each query its document ids, best first.\n"
                'references: for each query {"documents": ids, "grades": relevance, 0 = not relevant}.\n'
                "ks: cut-offs of recall. bootstrap: resamples of queries, 0 for none."
            ),
            features=Features({"predictions": List(Value("string")), "references": judged}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride]  # no **kwargs: a typo is an error
        self,
        *,
        predictions: Sequence[Sequence[str]],
        references: Sequence[dict[str, Any]],
        ks: Sequence[int] = (1, 5, 10, 100),
        bootstrap: int = 0,
        seed: int = 0,
    ) -> dict[str, float]:
        judged = [dict(zip(row["documents"], row["grades"], strict=True)) for row in references]
        report = retrieval_report(
            dict(enumerate(predictions)), dict(enumerate(judged)), ks=ks, bootstrap=bootstrap, seed=seed
        )
        return _flat(report.to_dict())


class StsSpearman(_InMemoryMetric):
    """Spearman's rank correlation of similarities and human grades: see `spearman`.

    `compute(predictions=similarities, references=grades, bootstrap=0, seed=0, groups=None)` returns
    `spearman`, with a bootstrap also `spearman_low` and `spearman_high`.

    Example:
        >>> StsSpearman().compute(predictions=[0.1, 0.5, 0.9], references=[1, 2, 5])["spearman"]
        1.0
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Spearman's rank correlation of similarities and graded references (STS).",
            citation="",
            inputs_description=(
                "predictions: similarities, larger = closer. references: grades, larger = closer.\n"
                "bootstrap: resamples, 0 for none. groups: one a row, what it depends on: intervals draw these."
            ),
            features=Features({"predictions": Value("float64"), "references": Value("float64")}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride]  # no **kwargs: a typo is an error
        self,
        *,
        predictions: Sequence[float],
        references: Sequence[float],
        bootstrap: int = 0,
        seed: int = 0,
        groups: Sequence[Any] | None = None,
    ) -> dict[str, float]:
        units = None if groups is None else Units.grouped(groups)
        estimate = spearman(predictions, references, units=units, bootstrap=bootstrap, seed=seed)
        return _flat({"spearman": estimate.to_dict()})
