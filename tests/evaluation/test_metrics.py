from __future__ import annotations

import socket

import evaluate
import numpy as np
import pytest

from textsiam.evaluation.binary import binary_report
from textsiam.evaluation.metrics import PairMetrics, RetrievalMetrics, StsSpearman
from textsiam.evaluation.retrieval import retrieval_report, spearman

SCORES = [0.9, 0.8, 0.35, 0.3, 0.1]
LABELS = [1, 0, 1, 0, 0]
RANKINGS = [["b", "a"], ["c"], []]
JUDGED = [
    {"documents": ["a", "b"], "grades": [2.0, 0.0]},
    {"documents": ["c"], "grades": [1.0]},
    {"documents": ["d"], "grades": [1.0]},
]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """No network, and a cache folder in which every write shows."""

    def refuse(*_):
        raise AssertionError("a metric went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    folder = tmp_path / "cache"
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", folder)
    return folder


def test_pair_metrics_are_those_of_the_report():
    result = PairMetrics().compute(predictions=SCORES, references=LABELS, threshold=0.5)
    report = binary_report(SCORES, LABELS, threshold=0.5, bootstrap=0)
    assert result["average_precision"] == report.average_precision.value == pytest.approx((1 + 2 / 3) / 2)
    assert result["accuracy"] == pytest.approx(3 / 5)
    assert result["precision_at_recall@0.8"] == report.precision_at_recall[0.8]
    assert all(isinstance(value, (int, float)) for value in result.values())
    assert "average_precision_low" not in result
    assert "calibration_error" not in result


def test_pair_metrics_with_probabilities_and_intervals():
    result = PairMetrics().compute(
        predictions=SCORES, references=LABELS, threshold=0.5, probabilities=SCORES, bootstrap=50
    )
    assert result["accuracy_low"] <= result["accuracy"] <= result["accuracy_high"]
    assert result["brier"] == pytest.approx(np.mean((np.array(SCORES) - LABELS) ** 2))


def test_intervals_draw_groups_where_they_are_given():
    rng = np.random.default_rng(0)
    good = rng.permutation(np.repeat([0, 1], 10))
    rows = [(label, 0.9 if bool(label) == bool(right) else 0.1) for right in good for label in (0, 1) * 5]
    labels, scores = zip(*rows, strict=True)
    asked = {"predictions": scores, "references": labels, "bootstrap": 300}
    width = {}
    for name, groups in (("rows", None), ("groups", np.repeat(np.arange(20), 10)), ("few", np.repeat([0, 1], 100))):
        found = PairMetrics().compute(**asked, threshold=0.5, groups=groups)
        graded = StsSpearman().compute(**asked, groups=groups)
        if name == "few":  # no interval of two groups
            assert not {"accuracy_low", "average_precision_low"} & {*found}
            assert "spearman_low" not in graded
            continue
        width[name] = [found["accuracy_high"] - found["accuracy_low"], graded["spearman_high"] - graded["spearman_low"]]
    assert (np.array(width["groups"]) > 2 * np.array(width["rows"])).all()


def test_retrieval_metrics_are_those_of_the_report():
    result = RetrievalMetrics().compute(predictions=RANKINGS, references=JUDGED, ks=(1, 2))
    report = retrieval_report(
        dict(enumerate(RANKINGS)), {0: {"a": 2, "b": 0}, 1: ["c"], 2: ["d"]}, ks=(1, 2), bootstrap=0
    )
    assert result["ndcg_at_10"] == report.ndcg_at_10.value
    assert result["mrr_at_10"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert result["recall@2"] == pytest.approx(2 / 3)
    assert "recall@5" not in result


def test_spearman_metric_is_the_function():
    gold = [5, 1, 4, 2, 2]
    result = StsSpearman().compute(predictions=SCORES, references=gold, bootstrap=100)
    estimate = spearman(SCORES, gold, bootstrap=100)
    assert result == {
        "spearman": estimate.value,
        "spearman_low": estimate.low,
        "spearman_high": estimate.high,
    }


@pytest.mark.parametrize(
    ("metric", "predictions", "references", "options"),
    [
        (PairMetrics, SCORES, LABELS, {"threshold": 0.5}),
        (RetrievalMetrics, RANKINGS, JUDGED, {}),
        (StsSpearman, SCORES, LABELS, {}),
    ],
)
class TestEveryMetric:
    def test_batches_give_the_whole(self, metric, predictions, references, options):
        whole = metric().compute(predictions=predictions, references=references, **options)
        module = metric()
        module.add_batch(predictions=predictions[:2], references=references[:2])
        for prediction, reference in zip(predictions[2:], references[2:], strict=True):
            module.add(prediction=prediction, reference=reference)
        assert module.compute(**options) == whole
        # and it is ready for the next run
        assert module.compute(predictions=predictions, references=references, **options) == whole

    def test_nothing_is_written(self, metric, predictions, references, options, cache, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        metric().compute(predictions=predictions, references=references, **options)
        assert not cache.exists()
        assert list(tmp_path.iterdir()) == []

    def test_rows_may_go_through_a_folder(self, metric, predictions, references, options, tmp_path):
        module = metric(keep_in_memory=False, cache_dir=str(tmp_path / "shared"))
        module.compute(predictions=predictions, references=references, **options)
        assert (tmp_path / "shared").is_dir()

    def test_info_is_complete(self, metric, predictions, references, options):
        module = metric()
        assert isinstance(module, evaluate.EvaluationModule)
        assert module.description
        assert module.inputs_description
        assert module.citation == ""
        assert set(module.features) == {"predictions", "references"}

    def test_no_rows_is_an_error(self, metric, predictions, references, options):
        with pytest.raises(ValueError, match="nothing to compute"):
            metric().compute(**options)

    def test_unknown_option_is_an_error(self, metric, predictions, references, options):
        with pytest.raises(TypeError, match="treshold"):
            metric().compute(predictions=predictions, references=references, treshold=0.5)


def test_threshold_must_be_given():
    with pytest.raises(ValueError, match="threshold"):
        PairMetrics().compute(predictions=SCORES, references=LABELS)


def test_scores_keep_their_precision():
    # these differ beyond the seventh digit: as float32 they would tie
    close = [0.5, 0.5 + 1e-12]
    assert PairMetrics().compute(predictions=close, references=[0, 1], threshold=0.4)["roc_auc"] == 1.0
