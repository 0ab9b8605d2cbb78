"""Export a twin to a CPU runtime, and refuse to when the export scores worse than the twin."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from timeit import timeit
from typing import Any, get_args

import numpy as np

from textsiam.inference.encoders import ModelError
from textsiam.inference.fast.export_graph import check_exportable, write_graph
from textsiam.inference.fast.fast_tower import Precision
from textsiam.inference.fast.runtimes import GraphFormat, open_graphs
from textsiam.models.twin import Twin

_ROUNDS, _TIMED_TEXTS = 3, 400


class ExportError(ModelError):
    """An export that was refused; nothing was written."""


@dataclass(frozen=True)
class ExportReport:
    """How an exported twin compares with the twin it was made of, on labelled pairs.

    Attributes:
        output: The folder of the exported twin.
        graph_format: "onnx", "openvino" or "torch".
        int8: Whether it is quantised.
        pairs: Pairs that were scored.
        texts: Distinct texts in them.
        cosine_min: Least cosine of a text's exported vector to its fp32 one.
        cosine_mean: Mean of these cosines.
        average_precision: Of the twin in fp32, 0 to 1.
        exported_average_precision: Of the exported twin, 0 to 1.
        texts_per_second: Of the twin in torch, in the number format that `encode` picks; the best of three rounds.
        exported_texts_per_second: Of the exported twin.
    """

    output: str
    graph_format: GraphFormat
    int8: bool
    pairs: int
    texts: int
    cosine_min: float
    cosine_mean: float
    average_precision: float
    exported_average_precision: float
    texts_per_second: float
    exported_texts_per_second: float

    @property
    def points_lost(self) -> float:
        """Average precision lost, in points of 100; negative when the exported twin is better."""
        return 100 * (self.average_precision - self.exported_average_precision)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as what fits in JSON."""
        return {**asdict(self), "points_lost": self.points_lost}

    def __str__(self) -> str:
        """Return the figures as four lines of text."""
        return (
            f"{self.graph_format}{' int8' if self.int8 else ''}, {self.pairs:,} pairs, {self.texts:,} texts\n"
            f"cosine to fp32   mean {self.cosine_mean:.5f}, least {self.cosine_min:.5f}\n"
            f"AP               {100 * self.average_precision:.2f} % in fp32, "
            f"{100 * self.exported_average_precision:.2f} % exported\n"
            f"texts/s          {self.texts_per_second:,.0f} in torch, {self.exported_texts_per_second:,.0f} exported"
        )


def export_twin(
    twin: Twin,
    output: str | Path,
    pairs: Any,
    *,
    graph_format: GraphFormat,
    int8: bool = False,
    max_points_lost: float = 0.3,
    max_pairs: int = 2000,
) -> ExportReport:
    """Save a twin with its backbones exported; `Twin.from_pretrained(output)` then encodes with them on a CPU.

    The folder is that of `Twin.save_pretrained`, with a graph beside each tower's weights, so everything that opens
    the twin opens the export too. Training it goes on with the torch weights, and leaves the graphs behind.

    Args:
        twin: The twin; it stays as it is.
        output: Folder to write, whole or not at all.
        pairs: Labelled pairs that the export is judged by: a `textsiam.data.pairs.Pairs` (anything with texts, left,
            right, labels). OpenVINO and torch in int8 also take the ranges of activations from some of their texts.
        graph_format: "onnx", "openvino" or "torch"; the last one for int8 only.
        int8: Quantise.
        max_points_lost: Average precision, in points of 100, that the export may lose.
        max_pairs: Pairs to judge by at most; a sample of them is drawn where there are more.

    Returns:
        What was measured.

    Raises:
        ExportError: The export loses more average precision than that.
        ModelError: A package is missing, the tower cannot be exported, or there are no pairs of both labels.
        SaveError: The folder cannot be written.

    Example:
        >>> export_twin(twin, "fast", read_pairs("sample:forum"), graph_format="openvino")  # doctest: +SKIP
    """
    if graph_format not in get_args(GraphFormat):
        raise ModelError(f"format must be 'onnx', 'openvino' or 'torch', got {graph_format!r}")
    for tower in twin.towers:
        check_exportable(tower, graph_format, int8=int8)
    chosen = _chosen(pairs, max_pairs)
    lefts, rights = ([pairs.texts[int(i)] for i in side[chosen]] for side in (pairs.left, pairs.right))
    with tempfile.TemporaryDirectory() as folder:
        exported = _with_graphs(twin, Path(folder), graph_format, int8, sides=[lefts, rights])
        report = compare_export(twin, exported, lefts, rights, np.asarray(pairs.labels)[chosen], output=str(output))
        if not report.points_lost <= max_points_lost:
            raise ExportError(
                f"the export loses {report.points_lost:.3f} points of AP on {report.pairs:,} pairs, more than "
                f"{max_points_lost:g}: nothing was written" + ("; export without int8" if int8 else "")
            )
        exported.save_pretrained(output)
    return report


def compare_export(
    twin: Twin, exported: Twin, lefts: list[str], rights: list[str], labels: np.ndarray, *, output: str = ""
) -> ExportReport:
    """Measure an exported twin against the twin it was made of, on the pairs `lefts[i]`, `rights[i]`.

    Args:
        twin: The twin in torch.
        exported: The twin with a backend.
        lefts: n texts.
        rights: n texts.
        labels: 1 for a duplicate, 0 for not, `(n,)`.
        output: The folder to name in the report.
    """
    from sklearn.metrics import average_precision_score

    if exported.backend is None:
        raise ModelError("this twin has no exported graphs")
    before, after = _encoded(twin, lefts, rights, "fp32"), _encoded(exported, lefts, rights, "auto")
    cosines = np.concatenate([(u * v).sum(1) for u, v in zip(before, after, strict=True)])
    texts = list(dict.fromkeys([*lefts, *rights]))
    timed, plain = texts[:_TIMED_TEXTS], _in_torch(twin)
    jobs = (lambda: plain.encode(timed)), (lambda: exported.encode(timed))
    seconds = [[timeit(job, number=1) for job in jobs] for _ in range(_ROUNDS)]
    torch_seconds, exported_seconds = (min(column) for column in zip(*seconds, strict=True))
    return ExportReport(
        output=output,
        graph_format=exported.backend.graph_format,
        int8=exported.backend.int8,
        pairs=len(lefts),
        texts=len(texts),
        cosine_min=float(cosines.min()),
        cosine_mean=float(cosines.mean()),
        average_precision=float(average_precision_score(labels, twin.vector_similarity(*before))),
        exported_average_precision=float(average_precision_score(labels, exported.vector_similarity(*after))),
        texts_per_second=len(timed) / torch_seconds,
        exported_texts_per_second=len(timed) / exported_seconds,
    )


def _with_graphs(
    twin: Twin, folder: Path, graph_format: GraphFormat, int8: bool, *, sides: Sequence[Sequence[str]]
) -> Twin:
    """Return a twin on the same weights that encodes with graphs in `folder`."""
    places = ["."] if twin.right is None else ["left", "right"]
    texts = [[text for pair in zip(*sides, strict=True) for text in pair]] if twin.right is None else sides
    for place, tower, own in zip(places, twin.towers, texts, strict=True):
        write_graph(tower, folder / place, graph_format, int8=int8, texts=list(dict.fromkeys(own)))
    exported = _in_torch(twin)
    exported.backend = open_graphs(folder, graph_format, int8=int8, places=places, towers=twin.towers)
    return exported


def _in_torch(twin: Twin) -> Twin:
    return Twin.from_parts(replace(twin.parts, backend=None, reranker=None))


def _chosen(pairs: Any, limit: int) -> np.ndarray:
    labels = np.asarray(pairs.labels)
    rows = np.flatnonzero(labels >= 0)
    if len(rows) > limit:
        rows = np.sort(np.random.default_rng(0).choice(rows, limit, replace=False))
    if set(labels[rows].tolist()) != {0, 1}:
        raise ModelError("an export is judged by labelled pairs, some of them duplicates and some not: give such pairs")
    return rows


def _encoded(twin: Twin, lefts: list[str], rights: list[str], precision: Precision) -> tuple[np.ndarray, np.ndarray]:
    u, v = twin.encode(lefts, side="left", precision=precision), twin.encode(rights, side="right", precision=precision)
    return u, v
