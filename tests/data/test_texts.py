"""Texts with ids, from any file."""

from __future__ import annotations

import gzip
import time

import pytest

from textsiam.data.tables.errors import DataError
from textsiam.data.texts import read_texts, sample_questions


@pytest.fixture
def write(tmp_path):
    def make(name, content):
        path = tmp_path / name
        data = content.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return make


def message(path, **options):
    with pytest.raises(DataError) as caught:
        read_texts(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", ["forum.txt", "forum.txt.gz"])
def test_txt_is_one_a_line(write, name):
    texts = read_texts(write(name, 'Who?\n\n  "What"?\t\r\nWho?'))
    assert texts.ids == ["1", "3", "4"]
    assert texts.texts == ["Who?", '"What"?', "Who?"]
    assert len(texts) == texts.report.kept == 3
    assert (texts.report.rows, texts.report.skipped) == (4, {"blank line": 1})


def test_ids_of_a_table(write):
    texts = read_texts(write("forum.csv", "id,topic,question\nx1,cooking,How?\nx2,travel,Where?\n"))
    assert (texts.ids, texts.texts) == (["x1", "x2"], ["How?", "Where?"])
    texts = read_texts(write("forum.jsonl", '{"id": 7, "text": "How?"}\n\n{"id": 8, "text": "How?"}\n'))
    assert (texts.ids, texts.texts) == (["7", "8"], ["How?", "How?"])


def test_lines_are_ids_where_there_are_none(write):
    texts = read_texts(write("forum.tsv", 'question\n"two\nlines"\nlast\n'))
    assert (texts.ids, texts.texts) == (["2", "4"], ["two\nlines", "last"])


def test_column_option(write):
    path = write("forum.csv", "id,frage\n1,Wie?\n")
    assert read_texts(path, column="frage").texts == ["Wie?"]
    assert message(path) == (
        f"{path}: cannot tell which column holds the texts: found 'id', 'frage'; expected one of "
        "text, question, query, sentence, document, title, body, image, audio, or the columns of a pair; "
        "name others with --column NAME (column= in Python)"
    )
    assert message(path, column="fragen") == f"{path}: has no column 'fragen' (for 'column'), found 'id', 'frage'"


def test_pairs_give_their_distinct_texts(write):
    path = write("pairs.tsv", "id\tquestion1\tquestion2\tis_duplicate\n9\ta\tb\t1\n8\tb\tc\t0\n")
    texts = read_texts(path)
    assert (texts.ids, texts.texts) == (["1", "2", "3"], ["a", "b", "c"])


def test_bad_rows(write):
    content = "id,text\n1,a\n1,b\n,c\n4,\n5\n6,d\n"
    path = write("forum.csv", content)
    assert message(path) == f"{path}:3: id '1' is taken already, by line 2"
    texts = read_texts(path, on_bad_row="skip")
    assert (texts.ids, texts.texts) == (["1", "line 4", "6"], ["a", "c", "d"])
    assert texts.report.skipped == {"repeated id": 1, "empty text": 1, "wrong field count": 1}
    assert texts.report.rows == 6
    assert texts.report.decided == (f"{path}: line numbers stand in for ids: 'id' is empty in 1 row",)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", "", ": is empty"),
        ("a.txt", " \n\n", ": holds no text"),
        ("a.csv", "text\n", ": holds no text"),
        ("a.csv", "id,text\n1, \n", ":2: 'text' is empty, expected a text"),
        ("a.jsonl", '{"text": 3}', ":1: 'text' is 3 (int), expected a text"),
    ],
)
def test_broken(write, name, content, problem):
    path = write(name, content)
    assert message(path) == f"{path}{problem}"


def test_wrong_encoding_in_txt(tmp_path):
    path = tmp_path / "forum.txt"
    path.write_bytes(b"fine\ncaf\xe9\nfine too\n")
    assert message(path).startswith(f"{path}:2: byte 8 (0xe9) is not UTF-8")
    texts = read_texts(path, on_bad_row="skip")
    assert (texts.ids, texts.report.skipped) == (["1", "3"], {"wrong encoding": 1})


def test_lines_of_old_macintoshes_are_no_single_text(write):
    problem = "a carriage return inside a line, expected a line feed at its end"
    assert message(write("a.txt", "one\rtwo\r")).endswith(f"a.txt:1: {problem}")


def test_one_column_is_not_split(write):
    texts = read_texts(write("a.csv", "question\nHow are you, then?\nFine; thanks\n"))
    assert texts.texts == ["How are you, then?", "Fine; thanks"]
    assert "has one column, so that commas separate nothing" in texts.report.decided[0]


def test_missing(tmp_path):
    path = tmp_path / "forum.txt"
    assert message(path) == f"{path}: no such file"


def test_hub():
    from datasets import Dataset

    texts = read_texts("owner/questions", load=lambda name, config, split: Dataset.from_dict({"text": ["a", "b"]}))
    assert (texts.ids, texts.texts, texts.source) == (["1", "2"], ["a", "b"], "owner/questions")


def test_sample():
    texts = sample_questions()
    assert texts.source == "sample:forum"
    assert len(set(texts.ids)) == len(texts) > 900


def test_thousands_of_repeated_ids_cost_what_they_are(tmp_path):
    """Each names where the id was taken first, without looking through all of them again."""
    rows = "".join(f"{n % 20_000}\ttext {n}\n" for n in range(40_000))
    (tmp_path / "rows.tsv").write_text("id\ttext\n" + rows)
    start = time.process_time()
    found = read_texts(tmp_path / "rows.tsv", on_bad_row="skip")
    assert time.process_time() - start < 4  # 0.3 on an idle core, 8 where all are looked through
    assert found.report.skipped == {"repeated id": 20_000}
    assert found.report.warnings[0].endswith("id '0' is taken already, by line 2")
