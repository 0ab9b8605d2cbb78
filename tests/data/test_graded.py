"""Graded pairs: tables with a score, and the header-less STS Benchmark layout."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from textsiam.data.graded import read_graded
from textsiam.data.tables.errors import DataError

STS = (
    "main-captions\tMSRvid\t2012test\t0000\t5.000\tA man is dancing.\tA man dances.\n"
    'main-news\theadlines\t2016\t1492\t0.4\t"We" won\tHe said "no\tsource\tsource\n'
)


@pytest.fixture
def write(tmp_path):
    def make(name, content):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return path

    return make


def message(path, **options):
    with pytest.raises(DataError) as caught:
        read_graded(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", ["sts.csv", "sts.tsv"])
def test_sts_benchmark_layout(write, name):
    graded = read_graded(write(name, STS))
    assert graded.left == ["A man is dancing.", '"We" won']
    assert graded.right == ["A man dances.", 'He said "no']
    assert graded.scores.tolist() == [5.0, 0.4]
    assert (len(graded), graded.report.rows, graded.scores.dtype) == (2, 2, np.float64)


def test_sts_benchmark_problems(write):
    path = write("sts.csv", STS + "a\tb\n" + STS.replace("5.000", "five"))
    assert message(path) == f"{path}:3: has 2 fields, expected 7 or more"
    graded = read_graded(path, on_bad_row="skip")
    assert (len(graded), graded.report.skipped) == (3, {"wrong field count": 1, "bad score": 1})
    assert graded.report.warnings[1] == f"skipped {path}:4: 'score' is 'five', expected a number"


def test_header(write):
    graded = read_graded(write("sts.csv", 'sentence1,sentence2,score\n"a, b",c,0.25\n'))
    assert (graded.left, graded.right, graded.scores.tolist()) == (["a, b"], ["c"], [0.25])
    graded = read_graded(write("sts.jsonl", '{"sentence1": "a", "sentence2": "b", "label": 3}'))
    assert graded.scores.tolist() == [3.0]
    path = write("own.csv", "x,y,s\na,b,1\n")
    assert read_graded(path, columns={"left": "x", "right": "y", "score": "s"}).left == ["a"]
    assert message(path) == (
        f"{path}: cannot tell which column holds the sentences of a pair: found 'x', 'y', 's'; "
        "expected sentence1, sentence2, score; or the header-less STS Benchmark layout; "
        "name others with --column left=NAME, right=NAME, score=NAME (columns={'left': …} in Python)"
    )


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("a,b,high", ":2: 'score' is 'high', expected a number"),
        ("a,b,nan", ":2: 'score' is 'nan', expected a number"),
        ("a,b,", ":2: 'score' is '', expected a number"),
        ("a, ,1", ":2: 'sentence2' is empty, expected a text"),
        ("", ": has no rows"),
    ],
)
def test_broken(write, row, problem):
    path = write("sts.csv", f"sentence1,sentence2,score\n{row}\n")
    assert message(path) == f"{path}{problem}"


def test_hub():
    from datasets import Dataset

    table = Dataset.from_dict({"sentence1": ["a"], "sentence2": ["b"], "score": [0.5]})
    assert read_graded("owner/stsb", load=lambda name, config, split: table).scores.tolist() == [0.5]


@pytest.mark.parametrize(("name", "count"), [("train", 5749), ("dev", 1500), ("test", 1379)])
def test_the_benchmark_itself(name, count):
    path = Path(os.environ.get("TEXTSIAM_DATA", "../shared/data")) / "stsbenchmark" / f"sts-{name}.csv"
    if not path.exists():
        pytest.skip(f"{path} is not here (set TEXTSIAM_DATA)")
    graded = read_graded(path)
    assert len(graded) == count
    assert (graded.scores.min(), graded.scores.max()) == (0, 5)
