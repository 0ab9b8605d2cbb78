"""Which columns are recognised, and what is said of the others."""

from __future__ import annotations

import pytest

from textsiam.data.tables.columns import PairColumns, find_pair_columns, label_parser
from textsiam.data.tables.errors import DataError


@pytest.mark.parametrize(
    ("found", "texts", "label"),
    [
        (
            ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
            ("question1", "question2"),
            "is_duplicate",
        ),
        (["question1", "question2", "label", "idx"], ("question1", "question2"), "label"),
        (["question1", "question2", "labels", "id"], ("question1", "question2"), "labels"),
        (["sentence1", "sentence2", "label"], ("sentence1", "sentence2"), "label"),
        (["label", "text2", "text1"], ("text1", "text2"), "label"),
        (["anchor", "positive"], ("anchor", "positive"), None),
        (["negative", "anchor", "positive"], ("anchor", "positive", "negative"), None),
    ],
)
def test_recognised(found, texts, label):
    assert find_pair_columns("f", found) == PairColumns(texts, label)


def test_mapping():
    found = ["a", "b", "same", "question1", "question2"]
    every = {"left": "a", "right": "b", "label": "same"}
    assert find_pair_columns("f", found, columns=every) == PairColumns(("a", "b"), "same")
    assert find_pair_columns("f", found, columns={"label": "same"}) == PairColumns(("question1", "question2"), "same")
    half = {"right": "b", "label": "same"}
    assert find_pair_columns("f", found, columns=half) == PairColumns(("question1", "b"), "same")


def test_labels_may_be_absent_where_none_are_needed():
    assert find_pair_columns("f", ["text1", "text2"], labelled=False) == PairColumns(("text1", "text2"), None)
    found = ["text1", "text2", "label"]
    assert find_pair_columns("f", found, labelled=False) == PairColumns(("text1", "text2"), None)


EXPECTED = (
    "question1, question2, is_duplicate (or label); sentence1, sentence2, label; text1, text2, label; "
    "image1, image2, label; audio1, audio2, label; "
    "or anchor, positive[, negative]; name others with "
    "--column left=NAME, right=NAME, label=NAME (columns={'left': …} in Python)"
)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (["a", "b", "c"], f"the texts of a pair: found 'a', 'b', 'c'; expected {EXPECTED}"),
        (["text1", "text2"], f"the label: found 'text1', 'text2'; expected {EXPECTED}"),
        (
            ["sentence1", "sentence2", "score"],
            f"the label: found 'sentence1', 'sentence2', 'score'; expected {EXPECTED}; "
            "a graded 'score' is read by read_graded",
        ),
    ],
)  # fmt: skip
def test_unknown_columns(found, problem):
    with pytest.raises(DataError) as caught:
        find_pair_columns("f.tsv", found)
    assert str(caught.value) == f"f.tsv: cannot tell which column holds {problem}"


def test_long_and_many_column_names_are_cut():
    with pytest.raises(DataError) as caught:
        find_pair_columns("f.tsv", ["x" * 100, *map(str, range(20))])
    assert f"found '{'x' * 39}…', '0', " in str(caught.value)
    assert "'10' and 9 more; expected" in str(caught.value)


def test_wrong_mapping():
    with pytest.raises(ValueError, match=r"unknown key 'lable' in columns: did you mean 'label'\?"):
        find_pair_columns("f", ["a"], columns={"lable": "a"})
    with pytest.raises(ValueError, match="unknown key 'zzz' in columns: expected 'left', 'right', 'label'"):
        find_pair_columns("f", ["a"], columns={"zzz": "a"})
    with pytest.raises(DataError, match=r"f: has no column 'x' \(for 'left'\), found 'a', 'b'"):
        find_pair_columns("f", ["a", "b"], columns={"left": "x"})


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("0", 0), ("1", 1), (" 1 ", 1), (0, 0), (1, 1), (True, 1),
        (False, 0), (1.0, 1), ("TRUE", 1), ("False", 0),
        ("duplicate", 1), ("not_duplicate", 0), ("Not_Duplicate", 0),
        ("2", None), ("-1", None), (-1, None), ("", None), (None, None), ("yes", 1), ("No", 0), ("y", 1),
        ("1.0", 1), ("0.00", 0), ("+1", 1), ("10", None), ("0.5", None), ("1e0", None), (0.5, None), (2**70, None),
        ("Non-Duplicate", 0), ("not a duplicate", None), ("equivalent", 1), ("not_equivalent", 0), ("note", None),
        ("not", None), ("nope", None), (b"1", None),
        ([1], None), (float("nan"), None),
    ],
)  # fmt: skip
def test_labels(value, label):
    assert label_parser()(value) == label
