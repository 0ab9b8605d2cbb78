"""One table gives one answer, whatever its format; and what was decided is said."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
import threading
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textsiam.data.graded import GradedPairs, read_judged
from textsiam.data.pairs import DataError, read_pairs
from textsiam.data.tables.delimited import LONGEST_RECORD
from textsiam.data.texts import read_texts

FORMATS = ("csv", "tsv", "jsonl", "parquet", "dataset", "pandas", "records")


@pytest.fixture
def made(tmp_path):
    """Make a table of records in a format."""

    def make(records, kind):
        columns = list(dict.fromkeys(key for record in records for key in record))
        path = tmp_path / f"table.{kind}"
        if kind == "records":
            return records
        if kind in ("csv", "tsv"):
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, columns, delimiter={"csv": ",", "tsv": "\t"}[kind])
                writer.writeheader()
                writer.writerows(records)
        elif kind == "jsonl":
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
        else:
            rows = {name: [record.get(name) for record in records] for name in columns}
            if kind == "parquet":
                pq.write_table(pa.table(rows), path)
            elif kind == "dataset":
                from datasets import Dataset

                return Dataset.from_dict(rows)
            else:
                pandas = pytest.importorskip("pandas")
                return pandas.DataFrame(rows)
        return path

    return make


def pairs_of(source, **options):
    try:
        pairs = read_pairs(source, on_bad_row="skip", **options)
    except DataError as error:
        return str(error).partition(": ")[2]
    rows = list(zip(pairs.left_texts, pairs.right_texts, pairs.labels.tolist(), strict=True))
    return rows, pairs.report.skipped, [note.partition(": ")[2] for note in pairs.report.decided]


def texts_of(source, **options):
    texts = read_texts(source, **options)
    return dict(zip(texts.ids, texts.texts, strict=True)), [note.partition(": ")[2] for note in texts.report.decided]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("labels", "kept", "skipped", "said"),
    [
        ([1, 0, 1], [1, 0, 1], {}, []),
        ([1.0, None, 0.0], [1, 0], {"no label": 1}, []),
        ([True, False, True], [1, 0, 1], {}, []),
        (["yes", "No", ""], [1, 0], {"no label": 1}, ["labels of 'label': 'yes' is 1, 'No' is 0"]),
        (["1 ", "0.00", "2"], [1, 0], {"bad label": 1}, []),
        (
            ["duplicate", "not duplicate", "maybe"],
            [1, 0],
            {"bad label": 1},
            ["labels of 'label': 'duplicate' is 1, 'not duplicate' is 0"],
        ),
    ],
)  # fmt: skip
def test_labels_are_read_alike(made, kind, labels, kept, skipped, said):
    records = [{"question1": f"a{n}", "question2": f"b{n}", "label": label} for n, label in enumerate(labels)]
    rows, left_out, notes = pairs_of(made(records, kind))
    assert ([label for *_, label in rows], left_out, notes) == (kept, skipped, said)


@pytest.mark.parametrize("kind", FORMATS)
def test_ids_and_spellings_are_read_alike(made, kind):
    records = [{"Question ID": "x7", "Title": "Who?"}, {"Question ID": "x8", "Title": "What?"}]
    found, notes = texts_of(made(records, kind))
    assert found == {"x7": "Who?", "x8": "What?"}
    assert notes == ["texts of 'Title', ids of 'Question ID'"]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_missing_id_turns_no_other_into_a_float(made, kind):
    records = [{"id": 5.0, "text": "a"}, {"id": None, "text": "b"}, {"id": 7.0, "text": "c"}]
    found, notes = texts_of(made(records, kind))
    unit, place = ("line", 3 if kind in ("csv", "tsv") else 2) if kind in ("csv", "tsv", "jsonl") else ("row", 2)
    assert found == {"5": "a", f"{unit} {place}": "b", "7": "c"}
    assert notes == [f"{unit} numbers stand in for ids: 'id' is empty in 1 row", "ids such as '1.0' are read as '1'"]


def test_class_names_decide_in_parquet_and_in_a_stream_too(tmp_path):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    names = ["same question", "equivalent", "not_equivalent"]
    features = Features(sentence1=Value("string"), sentence2=Value("string"), label=ClassLabel(names=names))
    dataset = Dataset.from_dict(
        {"sentence1": ["a", "c", "e"], "sentence2": ["b", "d", "f"], "label": [1, 2, 0]}, features
    )
    dataset.to_parquet(tmp_path / "own.parquet")
    rows = [("a", "b", 1), ("c", "d", 0)]
    said = ["labels of 'label': 'equivalent' is 1, 'not_equivalent' is 0"]
    for source in (dataset, tmp_path / "own.parquet", dataset.to_iterable_dataset(), DatasetDict({"train": dataset})):
        assert pairs_of(source) == (rows, {"bad label": 1}, said)
    strange = dataset.cast(Features({**features, "label": ClassLabel(names=["A", "B", "C"])}))
    with pytest.raises(DataError, match=r"the classes of 'label' are 'A' \(0\), 'B' \(1\), 'C' \(2\): cannot tell"):
        read_pairs(strange)
    with pytest.raises(DataError, match=r"DatasetDict: has no split 'test', found 'train'"):
        read_pairs(DatasetDict({"train": dataset}), split="test")


def test_keys_that_the_first_record_lacks(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"sentence1": "a", "sentence2": "b"}\n{"label": "yes", "sentence1": "c", "sentence2": "d"}\n')
    assert pairs_of(path)[:2] == ([("c", "d", 1)], {"no label": 1})
    path.write_text('{"text": "a"}\n{"text": "b", "PostId": 9}\n')
    assert texts_of(path)[0] == {"line 1": "a", "9": "b"}


def strings(*values):
    """Make an Arrow array of strings, whether they are UTF-8 or not."""
    held = pa.array(values, pa.binary())
    return pa.StringArray.from_buffers(len(values), held.buffers()[1], held.buffers()[2])


def test_only_what_is_asked_for_is_read(tmp_path):
    path = tmp_path / "questions.parquet"
    table = {"text": ["a", "b"], "seen": pa.array([0, 9_999_999], pa.date32()), "note": strings(b"fine", b"\xe9")}
    pq.write_table(pa.table(table), path)
    assert texts_of(path)[0] == {"1": "a", "2": "b"}
    path = tmp_path / "questions.csv"
    body = "many, many words\n" * 20_000
    path.write_bytes(b'text,note\na,"' + body.encode() + b'"\nb,\xe9\nc,' + b"x" * 200_000 + b"\n")
    assert list(texts_of(path)[0].values()) == ["a", "b", "c"]
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b'{"text": "a", "note": "\xe9"}\n{"text": "b", "note": "\\ud83d"}\n')
    assert list(texts_of(path)[0].values()) == ["a", "b"]


def test_what_is_not_utf8_in_parquet_has_a_row(tmp_path):
    path = tmp_path / "questions.parquet"
    for column in (strings(b"fine", b"caf\xe9", b"too"), pa.array([b"fine", b"caf\xe9", b"too"], pa.binary())):
        pq.write_table(pa.table({"id": [1, 2, 3], "text": column}), path)
        with pytest.raises(DataError, match=r"questions\.parquet:row 2: 'text' is b'caf\\xe9', which is not UTF-8"):
            read_texts(path)
        assert read_texts(path, on_bad_row="skip").ids == ["1", "3"]
    pq.write_table(pa.table({"id": strings(b"1", b"\xe9"), "text": ["a", "b"]}), path)
    with pytest.raises(DataError, match=r"row 2: 'id' is b'\\xe9' \(bytes\), expected an id"):
        read_texts(path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "pandas"])
def test_a_nul_is_refused_by_row(made, kind):
    source = made([{"text": "a\0b", "id": 1}, {"text": "c", "id": 2}], kind)
    with pytest.raises(DataError, match="'text' holds a NUL character"):
        read_texts(source)
    assert read_texts(source, on_bad_row="skip").texts == ["c"]


@pytest.mark.parametrize(
    ("content", "found", "said"),
    [
        ("Question1;Question2;Same (0, 1)\na, b;c, d, e;1\n", [("a, b", "c, d, e", 1)], "separated by semicolons"),
        ("question1|question2|Same (0, 1)\na, b|c|1\n", [("a, b", "c", 1)], "separated by '|'"),
        ("sep=;\r\nquestion1;question2;Same (0, 1)\r\na;b;1\r\n", [("a", "b", 1)], ""),
        ('\ufeff"sep=|"\nquestion1|question2|Same (0, 1)\na|b|1\n', [("a", "b", 1)], ""),
        ('"question1",question2,"Same (0, 1)",,\na,b;c;d,1,,\n', [("a", "b;c;d", 1)], ""),
        ('question1,question2,"Same (0, 1)","remarks\n(if any)"\na,b,1,"x\ny"\n', [("a", "b", 1)], ""),
        ("question1\tquestion2\tSame (0, 1)\na, b\tc\t1\n", [("a, b", "c", 1)], "separated by tabs"),
    ],
)
def test_the_delimiter_is_decided_once(tmp_path, content, found, said):
    path = tmp_path / "pairs.csv"
    path.write_text(content, encoding="utf-8", newline="")
    rows, skipped, notes = pairs_of(path, columns={"label": "Same (0, 1)"})
    assert (rows, skipped, said in " ".join(notes)) == (found, {}, True)


@pytest.mark.parametrize(
    "text",
    [
        "Which is larger, 3, 2\nor 1?",
        "Sum 1,000,20\nin a sheet",
        "yes, no\n\n, maybe",
        "one\ttwo, 1\r\nthree",
        "a,0,12\nb",
    ],
)
def test_a_quoted_text_of_several_lines_is_no_stray_quote(tmp_path, text):
    path = tmp_path / "pairs.csv"
    rows = [(text, "Sort 5, 4, 1", 1), ("plain", "text", 0)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("question1", "question2", "is_duplicate"), *rows])
    assert pairs_of(path) == (rows, {}, [])


def test_quoted_settles_a_doubt(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text('question1,question2,label\n"open,c,1\nd",e,0\n')
    with pytest.raises(DataError, match=r"pairs\.csv:2: .*--no-quoted .*--quoted"):
        read_pairs(path)
    assert read_pairs(path, quoted=True).left_texts == ["open,c,1\nd"]
    assert read_pairs(path, quoted=False).left_texts == ['"open', 'd"']


def test_a_long_text_of_many_lines_is_no_open_quote(tmp_path):
    path = tmp_path / "questions.csv"
    text = "a line, or two\n" * (3 * LONGEST_RECORD // 15)
    path.write_text(f'id,topic,text\n1,x,"{text}"\n2,y,b\n')
    assert list(map(len, read_texts(path).texts)) == [len(text.strip()), 1]


# judged pairs


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("column", "values", "graded"),
    [
        ("label", ["1", "0", "0"], False),
        ("label", ["1", "0", None], False),
        ("label", ["1", "0", "7"], False),
        ("Labels", ["yes", "no", ""], False),
        ("label", ["-1", "0", "1"], False),
        ("label", ["4.5", "1", "2.5"], True),
        ("label", ["3.5", "x", None], True),
        ("label", ["3", "1", "5"], True),
        ("label", ["1", "2", "2"], False),
        ("label", ["-1", "1", "x"], False),
        ("is_duplicate", ["3", "4", "1"], False),
        ("score", ["1", "0", "n/a"], True),
        ("Similarity Score", ["1", "0", "0.5"], True),
    ],
)  # fmt: skip
def test_header_and_values_tell_labels_from_scores(made, kind, column, values, graded):
    records = [{"sentence1": f"a{n}", "sentence2": f"b{n}", column: value} for n, value in enumerate(values)]
    read = read_judged(made(records, kind), on_bad_row="skip")
    assert isinstance(read, GradedPairs) is graded
    assert len(read) + sum(read.report.skipped.values()) == 3


def test_a_bad_score_names_file_line_and_value(tmp_path):
    path = tmp_path / "sts.tsv"
    path.write_text("sentence1\tsentence2\tscore\na\tb\t4\nc\td\tunknown\n")
    with pytest.raises(DataError, match=r"sts\.tsv:3: 'score' is 'unknown', expected a number"):
        read_judged(path)
    assert read_judged(path, on_bad_row="skip").report.skipped == {"bad score": 1}
    other = tmp_path / "labels.tsv"
    other.write_text("sentence1\tsentence2\tlabel\na\tb\t1\n")
    with pytest.raises(DataError, match="some hold labels, and some scores"):
        read_judged([path, other])
    assert not isinstance(read_judged(other, columns={"label": "label"}), GradedPairs)


# several files, pipes


def test_a_pattern_is_read_as_one_file(tmp_path):
    (tmp_path / "part-1.tsv").write_text("question1\tquestion2\tlabel\na\tb\t1\n")
    (tmp_path / "part-2.csv").write_text("sentence1,sentence2,label\nb,a,yes\nc,d,?\n")
    pairs = read_pairs(tmp_path / "part-*", on_bad_row="skip")
    assert (len(pairs), pairs.report.rows, pairs.report.duplicate_rows) == (1, 3, 1)
    assert f"{tmp_path}/part-2.csv:2: repeats {tmp_path}/part-1.tsv:2" in pairs.report.warnings
    assert f"skipped {tmp_path}/part-2.csv:3: 'label' is '?', expected 0 or 1" in pairs.report.warnings
    with pytest.raises(DataError, match=r"none-\*: no file is of this pattern"):
        read_pairs(tmp_path / "none-*")
    texts = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path in texts:
        path.write_text("text\nx\n")
    assert read_texts(texts).ids == ["a.csv:2", "b.csv:2"]
    for path in texts:
        path.write_text("id,text\n1,x\n")
    with pytest.raises(DataError, match=r"b\.csv:2: id '1' is taken already, by .*a\.csv:2"):
        read_texts(texts)


@contextmanager
def piped(path, content):
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(content))
    writer.start()
    yield path
    writer.join()


ROW = b"a\tb\t1\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pairs.tsv", b"question1\tquestion2\tlabel\n" + ROW),
        ("unnamed", b"question1\tquestion2\tlabel\n" + ROW),
        ("unnamed", gzip.compress(b"Sentence1;Sentence2;label\na;b;1\n", mtime=0)),
        ("unnamed", b'{"sentence1": "a", "sentence2": "b", "label": 1}\n'),
    ],
)
def test_a_pipe_is_read_like_a_file(tmp_path, monkeypatch, name, content):
    for read in (read_pairs, read_judged):
        with piped(tmp_path / f"{read.__name__}-{name}", content) as path:
            assert list(read(path).left_texts) == ["a"]  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    pairs = read_pairs("-")
    assert (pairs.left_texts, pairs.source) == (["a"], "standard input")


def test_a_header_of_unknown_names_is_told_by_those_that_are_asked_for(tmp_path):
    with piped(tmp_path / "unnamed", b"nr,frage\n7,Wie?\n") as path:
        assert read_texts(path, column="frage", id_column="nr").ids == ["7"]
    with piped(tmp_path / "other", b"eins;zwei;gleich\na;b;1\n") as path:
        roles = {"left": "eins", "right": "zwei", "label": "gleich"}
        assert len(read_judged(path, columns=roles)) == 1


def test_texts_through_a_pipe(tmp_path):
    with piped(tmp_path / "unnamed", b"How are you, then?\nFine.\n") as path:
        assert texts_of(path) == ({"1": "How are you, then?", "2": "Fine."}, ["no known header: one text a line"])


def test_what_is_no_table_is_refused():
    with pytest.raises(TypeError, match=r"cannot read float: expected a path, .*or a list of dicts"):
        read_pairs(0.5)
    with pytest.raises(DataError, match="no source is given"):
        read_pairs([])
