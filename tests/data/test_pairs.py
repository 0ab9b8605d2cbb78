"""Reading pairs, dropping repeats and contradictions, and the Pairs object itself."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textsiam.data.pairs import DataError, Pairs, read_pairs, sample_pairs
from textsiam.data.repeats import find_repeats

HEADER = "question1\tquestion2\tis_duplicate\n"


@pytest.fixture
def write(tmp_path):
    def make(content: str, name: str = "pairs.tsv") -> Path:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return path

    return make


def rows(pairs):
    return list(zip(pairs.left_texts, pairs.right_texts, pairs.labels.tolist(), strict=True))


def test_texts_are_distinct_and_stripped(write):
    pairs = read_pairs(write(HEADER + " a \tb\t1\nc\ta\t0\n"))
    assert pairs.texts == ["a", "b", "c"]
    assert (pairs.left.tolist(), pairs.right.tolist()) == ([0, 2], [1, 0])
    assert (pairs.left.dtype, pairs.right.dtype, pairs.labels.dtype) == (np.int32, np.int32, np.int8)
    assert (len(pairs), pairs.positives) == (2, 1)


def test_repeats_and_contradictions(write):
    lines = [
        "a\tb\t1",
        "b\ta\t1",
        "c\td\t0",
        "c\td\t0",
        "e\tf\t1",
        "f\te\t0",
        "e\tf\t1",
        "g\tg\t1",
        "h\th\t0",
        "a\tc\t0",
    ]
    path = write(HEADER + "\n".join(lines))
    pairs = read_pairs(path)
    assert rows(pairs) == [("a", "b", 1), ("c", "d", 0), ("g", "g", 1), ("a", "c", 0)]
    assert pairs.texts == ["a", "b", "c", "d", "g"]
    report = pairs.report
    assert (report.rows, report.kept, report.duplicate_rows, report.contradictory) == (10, 4, 2, 4)
    assert report.warnings == (
        f"{path}:3: repeats line 2",
        f"{path}:5: repeats line 4",
        f"{path}:6: the same pair has the other label at line 7; left out",
        f"{path}:7: the same pair has the other label at line 6; left out",
        f"{path}:8: the same pair has the other label at line 7; left out",
        f"{path}:10: two equal texts labelled 0; left out",
    )
    assert str(report).splitlines()[0] == f"{path}: 10 rows, 4 kept (2 repeated, 4 contradictory)"
    assert json.loads(json.dumps(report.to_dict()))["warnings"] == list(report.warnings)


def test_warnings_are_capped_and_counts_are_not(write):
    report = read_pairs(write(HEADER + "a\tb\t1\n" * 50)).report
    assert (report.duplicate_rows, len(report.warnings)) == (49, 5)


def test_nothing_left(write):
    path = write(HEADER + "a\tb\t1\nb\ta\t0\n")
    with pytest.raises(DataError, match="no usable row: every pair has contradictory labels"):
        read_pairs(path)
    path = write(HEADER + "a\tb\tmaybe\n")
    with pytest.raises(DataError, match=r"no usable row: skipped .*:2: 'is_duplicate' is 'maybe', expected 0 or 1"):
        read_pairs(path, on_bad_row="skip")


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("maybe", "'is_duplicate' is 'maybe', expected 0 or 1"),
        ("2", "'is_duplicate' is '2', expected 0 or 1"),
        ("", "'is_duplicate' is empty, expected 0 or 1"),
        (
            "-1",
            "'is_duplicate' is -1: a row without a label, as in GLUE's test split; read it with labelled=False",
        ),
        ("x" * 99, f"'is_duplicate' is '{'x' * 58}…, expected 0 or 1"),
    ],
)
def test_bad_labels(write, label, problem):
    path = write(HEADER + f"a\tb\t1\nc\td\t{label}\n")
    with pytest.raises(DataError) as caught:
        read_pairs(path)
    assert str(caught.value) == f"{path}:3: {problem}"


def test_skip_counts_every_reason(write):
    lines = ["a\tb\t1", "\tb\t1", "c\td\tmaybe", "c\td\tperhaps", "c\td", "c\td\t-1", '"c\td\t1', "e\tf\t0"]
    path = write(HEADER + "\n".join(lines) + "\n")
    pairs = read_pairs(path, on_bad_row="skip")
    assert rows(pairs) == [("a", "b", 1), ("e", "f", 0)]
    counts = {"empty text": 1, "bad label": 2, "wrong field count": 1, "no label": 1, "unbalanced quoting": 1}
    assert pairs.report.skipped == counts
    assert pairs.report.rows == len(lines)
    assert pairs.report.warnings[0] == f"skipped {path}:3: 'question1' is empty, expected a text"
    assert str(pairs.report).startswith(f"{path}: 8 rows, 2 kept (1 empty text, 2 bad label, 1 wrong field count")


def test_unlabelled_rows_stay_in_their_place(write):
    path = write(HEADER + "a\tb\t1\na\tb\t0\na\tb\tmaybe\nb\ta\t\n")
    pairs = read_pairs(path, labelled=False)
    assert rows(pairs) == [("a", "b", -1), ("a", "b", -1), ("a", "b", -1), ("b", "a", -1)]


def test_anchor_positive_negative(write):
    path = write("anchor,positive,negative\na,b,c\na,b,d\n", "triplets.csv")
    pairs = read_pairs(path)
    assert rows(pairs) == [("a", "b", 1), ("a", "c", 0), ("a", "d", 0)]
    assert (pairs.report.rows, pairs.report.kept, pairs.report.duplicate_rows) == (2, 3, 1)
    assert read_pairs(path, labelled=False).labels.tolist() == [-1] * 4


def test_mapped_columns(write):
    path = write("x\ty\tsame\na\tb\ttrue\n")
    assert rows(read_pairs(path, columns={"left": "x", "right": "y", "label": "same"})) == [("a", "b", 1)]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0, 1, -1])), max_size=12))
def test_repeats_against_a_naive_reference(triples):
    found = find_repeats(*np.array(triples or np.zeros((0, 3)), dtype=np.int64).reshape(-1, 3).T)
    seen = set()
    for row, (a, b, label) in enumerate(triples):
        others = [y for c, d, y in triples if {c, d} == {a, b}]
        contradictory = label >= 0 and ((0 in others and 1 in others) or (a == b and 0 in others))
        key = (frozenset((a, b)), label)
        assert found.contradictory[row] == contradictory
        assert found.duplicate[row] == (not contradictory and key in seen)
        seen.add(key)
    assert (found.keep == ~(found.duplicate | found.contradictory)).all()


TEXT = st.text("ab é", min_size=1, max_size=3).filter(str.strip)
PAIRS = st.lists(st.tuples(TEXT, TEXT, st.sampled_from([0, 1, -1])), max_size=8)


def make(triples, source="memory"):
    left, right, labels = zip(*triples, strict=True) if triples else ((), (), ())
    return Pairs.from_texts(left, right, labels, source)


@given(PAIRS)
def test_from_texts_keeps_every_row(triples):
    assert rows(make(triples)) == [(a.strip(), b.strip(), y) for a, b, y in triples]


@given(PAIRS, st.data())
def test_select_compacts_and_keeps_order(triples, data):
    pairs = make(triples)
    chosen = data.draw(st.lists(st.integers(0, len(triples) - 1), max_size=9)) if triples else []
    part = pairs.select(np.array(chosen, dtype=int))
    assert rows(part) == [rows(pairs)[row] for row in chosen]
    assert set(part.texts) == {text for row in rows(part) for text in row[:2]}
    mask = np.zeros(len(pairs), dtype=bool)
    mask[chosen] = True
    assert rows(pairs.select(mask)) == [rows(pairs)[row] for row in sorted(set(chosen))]


@given(st.lists(PAIRS, min_size=1, max_size=3))
def test_concat_puts_rows_one_after_the_other(parts):
    joint = Pairs.concat([make(part, f"part {i}") for i, part in enumerate(parts)])
    assert rows(joint) == list(itertools.chain.from_iterable(rows(make(part)) for part in parts))
    assert len(set(joint.texts)) == len(joint.texts)
    assert joint.source == " + ".join(f"part {i}" for i in range(len(parts)))
    assert joint.report.rows == len(joint)


@given(PAIRS, PAIRS)
def test_fingerprint_is_content_in_order(one, two):
    first, second = make(one), make(two, "elsewhere")
    assert (first.fingerprint == second.fingerprint) == (rows(first) == rows(second))
    unused = Pairs(["unused", *first.texts], first.left + 1, first.right + 1, first.labels, "x", first.report)
    assert unused.fingerprint == first.fingerprint


def test_fingerprint_by_hand():
    digest = hashlib.sha256()
    for text in (b"b", "é".encode(), b"a"):  # in the order of first appearance
        digest.update(len(text).to_bytes(8, "little") + text)
    for number in (0, 1, 2, 0):
        digest.update(number.to_bytes(4, "little"))
    digest.update(bytes([1, 0]))
    assert make([("b", "é", 1), ("a", "b", 0)]).fingerprint == digest.hexdigest()


def test_from_texts_errors():
    with pytest.raises(DataError, match="memory: 2 left texts, 1 right texts, 1 labels"):
        Pairs.from_texts(["a", "b"], ["c"], [1])
    with pytest.raises(DataError, match="mine: row 1: 'text' is empty, expected a text"):
        Pairs.from_texts(["a", " "], ["c", "d"], [1, 0], "mine")
    with pytest.raises(DataError, match=r"memory: row 0: 'text' is 3 \(int\), expected a text"):
        Pairs.from_texts(["a"], [3], [1])  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match=r"memory: labels\[1\] is 2, expected 1, 0 or -1"):
        Pairs.from_texts(["a", "b"], ["c", "d"], [1, 2])


def test_pairs_check_themselves():
    pairs = make([("a", "b", 1)])
    with pytest.raises(ValueError, match="left, right and labels differ in length: 2, 1, 1"):
        Pairs(pairs.texts, np.array([0, 1]), pairs.right, pairs.labels, "x", pairs.report)
    for values, problem in (
        ({"left": [2]}, r"x: left\[0\] is 2, expected the index of one of the 2 texts"),
        ({"right": [-1]}, r"x: right\[0\] is -1, expected the index"),
        ({"labels": [2]}, r"x: labels\[0\] is 2, expected 1, 0 or -1"),
        ({"labels": [[1]]}, r"x: labels: expected a list of numbers, got shape \(1, 1\)"),
    ):
        with pytest.raises(ValueError, match=problem):
            replace(pairs, source="x", **values)


@pytest.mark.parametrize(
    ("name", "values", "problem"),
    [
        ("labels", [0.7, 257], r"labels\[0\] is 0.7, expected 1, 0 or -1"),
        ("labels", [1, 257], r"labels\[1\] is 257, expected 1, 0 or -1"),
        ("labels", [1.0, np.nan], r"labels\[1\] is nan, expected 1, 0 or -1"),
        ("left", [0, 0.5], r"left\[1\] is 0.5, expected the index of one of the 3 texts"),
        ("right", [1, 2**32], r"right\[1\] is 4294967296, expected the index of one of the 3 texts"),
        ("groups", [0, 1, 1.5], r"groups\[2\] is 1.5, expected a group's number from 0 on, or -1"),
        ("groups", [0, 2**32, 1], r"groups\[1\] is 4294967296, expected a group's number"),
    ],
)
def test_no_number_is_changed_by_a_cast(name, values, problem):
    pairs = make([("a", "b", 1), ("a", "c", 0)])
    with pytest.raises(ValueError, match=f"^memory: {problem}"):
        replace(pairs, **{name: np.array(values)})


def test_whole_floats_are_numbers():
    pairs = make([("a", "b", 1), ("a", "c", 0)])
    kept = replace(pairs, labels=np.array([1.0, -1.0]), groups=np.array([0.0, -1.0, 3.0]))
    assert kept.labels.tolist() == [1, -1]
    assert kept.labels.dtype == np.int8
    assert kept.groups.tolist() == [0, -1, 3]
    assert pairs.select([]).labels.tolist() == []


def test_rows_are_picked_by_whole_numbers():
    pairs = make([("a", "b", 1), ("a", "c", 0)])
    assert pairs.select(np.array([-1.0])).labels.tolist() == [0]
    for rows, problem in (
        ([0, 0.5], r"rows\[1\] is 0.5"),
        ([2], r"rows\[0\] is 2, expected the index of one of 2 rows"),
    ):
        with pytest.raises(ValueError, match=f"memory: {problem}"):
            pairs.select(rows)


def test_concat_needs_pairs():
    with pytest.raises(ValueError, match="concat needs at least one Pairs"):
        Pairs.concat([])


def test_round_trip_through_datasets_and_parquet(tmp_path):
    pairs = make([("a", "b", 1), ("é\n", "c", 0)])
    dataset = pairs.to_dataset()
    assert dataset.column_names == ["question1", "question2", "is_duplicate"]
    dataset.to_parquet(tmp_path / "pairs.parquet")
    again = read_pairs(tmp_path / "pairs.parquet")
    assert again.fingerprint == pairs.fingerprint


def test_sample():
    pairs = sample_pairs()
    assert pairs.source == "sample:forum"
    assert len(pairs) == pairs.report.rows > 1000
    assert read_pairs("sample:forum").fingerprint == pairs.fingerprint


def test_importing_is_light():
    code = """
        import sys
        import textsiam.data.splits, textsiam.data.texts, textsiam.data.graded
        heavy = {"torch", "transformers", "datasets", "sklearn", "scipy", "pyarrow", "pandas"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_100_000_rows_in_seconds_and_bounded_memory(tmp_path):
    path = tmp_path / "pairs.tsv"
    with path.open("w", encoding="utf-8") as file:
        file.write(HEADER)
        for i in range(100_000):
            a, b = i % 60_000, (i * 7919) % 61_001
            file.write(f'What is question number {a} about?\t"How does one ""answer"" number {b}?"\t{i % 3 == 0:d}\n')
    code = """
        import resource, sys, time
        from textsiam.data.pairs import read_pairs
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        pairs = read_pairs(sys.argv[1])
        print(len(pairs), len(pairs.texts), time.perf_counter() - start)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert (int(out[0]), int(out[1])) == (100_000, 121_001)
    assert float(out[2]) < 8  # seconds; 0.6 on an idle core
    assert float(out[3]) < 120  # MiB over the imports; the file has 8, the distinct texts take 15


def real(name):
    path = Path(os.environ.get("TEXTSIAM_DATA", "../shared/data")) / name
    if not path.exists():
        pytest.skip(f"{path} is not here (set TEXTSIAM_DATA)")
    return path


def test_quora():
    pairs = read_pairs(real("qqp/train.tsv.gz"))
    assert (pairs.report.rows, len(pairs), pairs.positives) == (49_569, 49_568, 37_363)
    held_out = read_pairs(real("qqp/dev.tsv.gz"))
    assert (held_out.report.rows, held_out.report.duplicate_rows) == (15_299, 183)
    assert not set(pairs.texts) & set(held_out.texts)


def test_yahoo():
    pairs = read_pairs(real("yahoo_zhang/Zhang_dataset.csv"))
    assert (pairs.report.rows, pairs.report.duplicate_rows, pairs.report.contradictory) == (24_642, 598, 9)
