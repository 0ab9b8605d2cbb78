from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from textsiam.evaluation.slices import SliceReport, is_negated, overlap, slice_reports, words

PAIRS = [
    # left, right, score, label
    ("How do I boil an egg?", "How do I boil an egg", 0.9, 1),
    ("Is it safe to fly?", "Is it not safe to fly?", 0.8, 0),
    ("Why don\u2019t cats swim?", "Why do cats swim?", 0.7, 0),
    ("Flights from Rome to Paris", "Flights from Paris to Rome", 0.9, 0),
    ("Is 1,000 mg too much?", "Is 1000 mg too much?", 0.6, 1),
    ("Is 500 mg too much?", "Is 200 mg too much?", 0.7, 0),
    ("Best phone?", "Which is the best phone to buy this year?", 0.4, 1),
    ("Why is the sky blue?", "Can dogs eat grapes?", 0.1, 0),
]


def reports(seen: set[str] | None = None, threshold: float = 0.5) -> dict[str, SliceReport]:
    left, right, scores, labels = zip(*PAIRS, strict=True)
    return {r.name: r for r in slice_reports(left, right, scores, labels, threshold=threshold, seen=seen)}


def test_words_are_folded_and_keep_their_apostrophes() -> None:
    assert words("Don\u2019t PANIC, it's C-3PO… Straße 東京!") == [
        "don't",
        "panic",
        "it's",
        "c",
        "3po",
        "strasse",
        "東京",
    ]
    assert words("?!") == []


def test_overlap_by_hand() -> None:
    assert overlap(["a", "b", "b"], ["b", "c"]) == pytest.approx(1 / 3)
    assert overlap(["a"], ["a"]) == 1.0
    assert overlap([], []) == 1.0
    assert overlap(["a"], []) == 0.0


@pytest.mark.parametrize(
    "text", ["It is NOT so", "I can't", "I don\u2019t", "you do n't", "cannot go", "i dont", "never"]
)
def test_negations_are_found(text: str) -> None:
    assert is_negated(words(text))


@pytest.mark.parametrize("text", ["a knot", "notes on nothingness", "north", "the want ad", "Noah"])
def test_words_that_only_look_negative_are_not(text: str) -> None:
    assert not is_negated(words(text))


def test_the_slices_hold_the_right_pairs() -> None:
    found = reports()
    assert found["negation on one side"].n == 2
    assert found["numbers differ"].n == 1  # 1,000 and 1000 are one number
    assert found["length ratio above 1.5"].n == 1
    assert found["same words, other order"].n == 1
    assert sum(r.n for name, r in found.items() if name.startswith("word overlap")) == len(PAIRS)


def test_the_figures_of_a_slice() -> None:
    found = reports()
    negation = found["negation on one side"]
    assert (negation.positives, negation.accuracy, negation.precision, negation.f1) == (0, 0.0, 0.0, 0.0)
    assert np.isnan(negation.recall)
    assert np.isnan(negation.average_precision)
    gap = found["length ratio above 1.5"]
    assert (gap.positives, gap.accuracy, gap.recall, gap.f1) == (1, 0.0, 0.0, 0.0)
    assert np.isnan(gap.precision)
    read = json.loads(json.dumps(gap.to_dict(), allow_nan=False))
    assert read["precision"] is None
    assert read["name"] == "length ratio above 1.5"


def test_seen_and_unseen_questions_part_the_pairs() -> None:
    assert "both questions unseen" not in reports()
    found = reports(seen={"Best phone?", "Can dogs eat grapes?"})
    assert found["a question seen in training"].n == 2
    assert found["both questions unseen"].n == len(PAIRS) - 2
    assert "a question seen in training" not in reports(seen=set())


def test_overlap_quintiles_are_fifths() -> None:
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"w{i}" for i in range(30)])
    left = [" ".join(rng.choice(vocabulary, 12, replace=False)) for _ in range(1000)]
    right = [" ".join(rng.choice(vocabulary, 12, replace=False)) for _ in range(1000)]
    scores, labels = rng.random(1000), rng.integers(0, 2, 1000)
    parts = [r for r in slice_reports(left, right, scores, labels, threshold=0.5) if r.name.startswith("word overlap")]
    assert 3 <= len(parts) <= 5
    assert sum(r.n for r in parts) == 1000
    assert [r.name for r in parts] == sorted(r.name for r in parts)
    overlaps = np.array([overlap(a.split(), b.split()) for a, b in zip(left, right, strict=True)])
    lowest = overlaps <= float(parts[0].name.split()[-1]) + 0.005
    assert parts[0].n == lowest.sum()
    assert parts[0].average_precision == pytest.approx(average_precision_score(labels[lowest], scores[lowest]))


def test_overlap_quintiles_by_hand() -> None:
    left = ["a b c d"] * 10
    right = [
        "w x y z",
        "w x y z",
        "a x y z",
        "a x y z",
        "a b y z",
        "a b y z",
        "a b c z",
        "a b c z",
        *left[:2],
    ]
    found = slice_reports(left, right, np.linspace(0, 1, 10), [0, 1] * 5, threshold=0.5)
    parts = [(r.name, r.n) for r in found if r.name.startswith("word overlap")]
    ranges = ["0.00 to 0.00", "0.14 to 0.14", "0.33 to 0.33", "0.60 to 0.60", "1.00 to 1.00"]
    assert parts == [(f"word overlap {r}", 2) for r in ranges]


def test_equal_overlaps_are_one_slice() -> None:
    found = slice_reports(["a"] * 10, ["a"] * 10, np.linspace(0, 1, 10), [0, 1] * 5, threshold=0.5)
    assert [r.name for r in found] == ["word overlap 1.00 to 1.00"]


def test_no_pairs_have_no_slices() -> None:
    assert slice_reports([], [], [], [], threshold=0.5) == ()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="got 1 left texts, 2 right texts and 2 scores"):
        slice_reports(["a"], ["a", "b"], [0.1, 0.2], [0, 1], threshold=0.5)
    with pytest.raises(ValueError, match=r"labels\[1\] is -1"):
        slice_reports(["a", "b"], ["a", "b"], [0.1, 0.2], [0, -1], threshold=0.5)
