from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score

from textsiam.decision.intervals import Units
from textsiam.evaluation.retrieval import (
    _weighted_spearman,
    evaluate_sts,
    retrieval_report,
    spearman,
)


def single(ranking, judged, **options):
    return retrieval_report({"q": ranking}, {"q": judged}, bootstrap=0, **options)


def figures(report):
    recalls = [estimate.value for estimate in report.recall.values()]
    return [report.ndcg_at_10.value, report.mrr_at_10.value, report.map.value, *recalls]


def naive(rankings, relevant, k):
    """All measures again, with loops and nothing else."""
    ndcg, mrr, average, recall = [], [], [], []
    for query, grades in relevant.items():
        positive = sorted((g for g in grades.values() if g > 0), reverse=True)
        if not positive:
            continue
        dcg = first = precision_sum = found = found_at_k = 0.0
        for rank, document in enumerate(rankings.get(query, []), start=1):
            grade = grades.get(document, 0)
            if grade <= 0:
                continue
            found += 1
            precision_sum += found / rank
            if rank <= k:
                found_at_k += 1
            if rank <= 10:
                dcg += grade / math.log2(rank + 1)
                first = first or 1 / rank
        ideal = sum(g / math.log2(rank + 1) for rank, g in enumerate(positive[:10], start=1))
        ndcg.append(dcg / ideal)
        mrr.append(first)
        average.append(precision_sum / len(positive))
        recall.append(found_at_k / len(positive))
    return [sum(column) / len(column) for column in (ndcg, mrr, average, recall)]


def test_hand_computed_values():
    report = single(["a", "b", "c", "d"], {"a": 0, "b": 2, "c": 1, "e": 3}, ks=(1, 3))
    dcg = 2 / math.log2(3) + 1 / 2
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert report.ndcg_at_10.value == pytest.approx(dcg / ideal)
    assert report.mrr_at_10.value == pytest.approx(1 / 2)
    assert report.map.value == pytest.approx((1 / 2 + 2 / 3) / 3)
    assert report.recall[1].value == 0
    assert report.recall[3].value == pytest.approx(2 / 3)
    assert math.isnan(report.map.low)


def test_means_run_over_queries():
    report = retrieval_report({"p": ["a", "b"], "q": ["b", "a"]}, {"p": ["a"], "q": ["a"]}, ks=(1,), bootstrap=0)
    assert report.queries == 2
    assert report.mrr_at_10.value == pytest.approx(0.75)
    assert report.recall[1].value == pytest.approx(0.5)


def test_perfect_and_worst_ranking():
    grades = {f"d{i}": 30 - i for i in range(30)}
    documents = list(grades)
    perfect = single(documents, grades)
    assert perfect.ndcg_at_10.value == pytest.approx(1)
    assert perfect.mrr_at_10.value == perfect.map.value == perfect.recall[100].value == 1
    worst = single([f"x{i}" for i in range(10)] + documents, grades)
    assert worst.ndcg_at_10.value == worst.mrr_at_10.value == worst.recall[10].value == 0
    assert worst.map.value > 0
    assert single(documents[::-1], grades).ndcg_at_10.value < 0.5


def test_reciprocal_rank_ends_at_ten():
    tenth = [f"x{i}" for i in range(9)] + ["a"]
    assert single(tenth, ["a"]).mrr_at_10.value == pytest.approx(0.1)
    assert single(["y", *tenth], ["a"]).mrr_at_10.value == 0


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.integers(0, 5),
        st.tuples(
            st.lists(st.integers(0, 14), unique=True),
            st.dictionaries(st.integers(0, 14), st.integers(-1, 3), max_size=15),
        ),
        min_size=1,
    ),
    st.integers(1, 12),
)
def test_naive_reference(cases, k):
    rankings = {query: ranking for query, (ranking, _) in cases.items()}
    relevant = {query: grades for query, (_, grades) in cases.items()}
    if not any(grade > 0 for grades in relevant.values() for grade in grades.values()):
        with pytest.raises(ValueError, match="has a relevant document"):
            retrieval_report(rankings, relevant, ks=(k,), bootstrap=0)
        return
    report = retrieval_report(rankings, relevant, ks=(k,), bootstrap=0)
    assert figures(report) == pytest.approx(naive(rankings, relevant, k))


def test_gain_is_linear_like_the_oracle():
    rng = np.random.default_rng(3)
    for _ in range(20):
        grades, scores = rng.integers(0, 4, 25), rng.permutation(25) / 25
        grades[0] = 1
        report = single(dict(enumerate(scores)), dict(enumerate(grades.tolist())))
        assert report.ndcg_at_10.value == pytest.approx(ndcg_score([grades], [scores], k=10))


def test_scores_rank_documents():
    scored = single({"a": 0.1, "b": 0.9, "c": 0.5}, {"a": 1, "c": 2})
    assert scored.to_dict() == single(["b", "c", "a"], {"a": 1, "c": 2}).to_dict()


def test_ties_help_nobody():
    grades = {"a": 2, "b": 1}
    one_score = dict.fromkeys(["a", "x", "b", "y"], 0.99)
    assert single(one_score, grades).to_dict() == single(["x", "y", "b", "a"], grades).to_dict()


def test_order_and_names_do_not_matter():
    rng = np.random.default_rng(0)
    rankings = {q: dict(enumerate(rng.integers(0, 5, 12) / 5)) for q in range(8)}
    relevant = {q: dict(enumerate(rng.integers(0, 3, 12).tolist())) for q in range(8)}

    def renamed(rows):
        return {f"q{q}": {f"d{99 - d}": rows[q][d] for d in rng.permutation(12)} for q in rng.permutation(8)}

    report = retrieval_report(rankings, relevant, bootstrap=0)
    again = retrieval_report(renamed(rankings), renamed(relevant), bootstrap=0)
    assert figures(again) == pytest.approx(figures(report))


def test_repeated_documents_count_once():
    report = single(["x", "a", "a", "b", "x"], {"a": 1, "b": 1})
    assert report.repeated_documents == 2
    assert report.map.value == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert report.recall[100].value == 1


def test_left_out_and_missed_queries_are_counted():
    report = retrieval_report(
        {"good": ["a"], "unjudged": ["a"], "nothing relevant": ["a"]},
        {"good": ["a"], "nothing relevant": {"a": 0}, "empty": [], "no ranking": ["b"]},
        bootstrap=0,
    )
    assert (report.queries, report.without_relevant, report.without_ranking) == (2, 3, 1)
    assert report.map.value == 0.5


@pytest.mark.parametrize(
    ("rankings", "relevant", "options", "message"),
    [
        ({"q": ["a"]}, {"q": ["a"]}, {"ks": (0, 5)}, "ks must be"),
        ({"q": ["a"]}, {"q": ["a"]}, {"ks": ()}, "ks must be"),
        ({"q": ["a"]}, {"q": {"a": math.nan}}, {}, "query 'q', document 'a': grade is nan"),
        ({"q": {"a": math.nan}}, {"q": ["a"]}, {}, "query 'q', document 'a': score is nan"),
        ({"q": "abc"}, {"q": ["a"]}, {}, "ranking must be a sequence of documents, got 'abc'"),
        ({"q": ["a"]}, {"q": "abc"}, {}, "must be a collection, got 'abc'"),
        ({"q": ["a"]}, {"q": {"a": 0}}, {}, "none of the 1 judged queries"),
    ],
)
def test_errors(rankings, relevant, options, message):
    with pytest.raises(ValueError, match=message):
        retrieval_report(rankings, relevant, **options)


def test_interval_has_the_width_of_the_standard_error():
    rng = np.random.default_rng(1)
    places = rng.integers(1, 11, 400)
    rankings = {q: [f"x{i}" for i in range(place - 1)] + ["a"] for q, place in enumerate(places)}
    relevant = {q: ["a"] for q in rankings}
    report = retrieval_report(rankings, relevant, bootstrap=2000)
    reciprocal = 1 / places
    error = reciprocal.std() / math.sqrt(len(places))
    mrr = report.mrr_at_10
    assert mrr.value == pytest.approx(reciprocal.mean())
    assert mrr.low < mrr.value < mrr.high
    assert (mrr.high - mrr.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)
    assert report == retrieval_report(rankings, relevant, bootstrap=2000)
    assert report != retrieval_report(rankings, relevant, bootstrap=2000, seed=1)


def test_report_is_readable_and_fits_json():
    report = single(["b", "a"], ["a"], ks=(1, 5))
    assert "recall@5    1.000" in str(report)
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["recall"]["5"]["value"] == 1
    assert plain["mrr_at_10"] == {"value": 0.5, "low": None, "high": None}


def test_spearman_by_hand():
    # ranks 1 2.5 2.5 4 against 1 2 3 4: covariance 4.5, variances 4.5 and 5
    assert spearman([0, 5, 5, 9], [1, 2, 3, 4], bootstrap=0).value == pytest.approx(4.5 / math.sqrt(22.5))
    assert spearman([1, 2, 3], [10, 20, 21], bootstrap=0).value == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, -1], bootstrap=0).value == pytest.approx(-1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 5)), min_size=3, max_size=30))
def test_spearman_oracle(rows):
    x, y = np.array(rows).T
    value = spearman(x, y, bootstrap=0).value
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(value)
    else:
        assert value == pytest.approx(spearmanr(x, y).statistic)


def test_resamples_are_ranked_anew():
    rng = np.random.default_rng(5)
    x, y = rng.integers(0, 9, 40) / 9, rng.normal(size=40)
    counts = next(Units.alone(40).weights(20, 0))
    expected = [spearmanr(np.repeat(x, row), np.repeat(y, row)).statistic for row in counts]
    assert _weighted_spearman(x, y, counts) == pytest.approx(expected)


def test_spearman_interval():
    rng = np.random.default_rng(2)
    x = rng.normal(size=300)
    y = x + rng.normal(size=300)
    estimate = spearman(x, y)
    assert estimate.low < estimate.value < estimate.high
    assert 0.05 < estimate.high - estimate.low < 0.25
    order = rng.permutation(300)
    assert spearman(x[order], y[order], bootstrap=0).value == pytest.approx(estimate.value)
    assert spearman(np.exp(x), y).to_dict() == pytest.approx(estimate.to_dict())


@pytest.mark.parametrize(
    ("scores", "gold", "message"),
    [
        ([1], [1], "at least two"),
        ([1, 2], [1, 2, 3], "equally long"),
        ([1, math.nan], [1, 2], "finite"),
        ([[1, 2]], [[1, 2]], r"\(1, 2\)"),
    ],
)
def test_spearman_errors(scores, gold, message):
    with pytest.raises(ValueError, match=message):
        spearman(scores, gold)


class Graded:
    left = ("a", "bb", "ccc")
    right = ("d", "ee", "fff")
    scores = np.array([0.0, 2.5, 5.0])


class LengthTwin:
    def similarity(self, left, right):
        return np.array([len(a) + len(b) for a, b in zip(left, right, strict=True)])


def test_sts_of_a_twin():
    report = evaluate_sts(LengthTwin(), Graded(), name="length", bootstrap=0)
    assert report.spearman.value == pytest.approx(1)
    assert str(report) == "length: Spearman 1.000 over 3 pairs"
    assert report.to_dict()["pairs"] == 3
