from __future__ import annotations

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textsiam.data.tables.errors import DataError
from textsiam.forums.reading import read_links, read_questions
from textsiam.forums.table import import_table

COLUMNS = ("id", "text", "title", "body", "tags", "created", "url", "score")


def written(folder, name, *lines):
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_and_links_arrive(tmp_path):
    file = written(
        tmp_path, "q.csv", "qid,title,body,tags,created_at,link,score,area",
        'a,Why red?,"It was,\nblue.","x; y",2013-02-05 21:29:22,https://a.b/1,2.0,n', "b,Two,,<p><q>,,,2.5,s",
    )  # fmt: skip
    links = written(tmp_path, "l.tsv", "id1\tid2\tkind", "b\ta\tduplicate", "a\tb\trelated", "a\tz\trelated")
    found = import_table(file, tmp_path / "forum", text="{area}: {title}. {body}", links=links)
    assert list(read_questions(tmp_path / "forum", COLUMNS)) == [
        ("a", "n: Why red?. It was, blue.", "Why red?", "It was,\nblue.", ["x", "y"], "2013-02-05T21:29:22.000Z",
         "https://a.b/1", 2),
        ("b", "s: Two.", "Two", "", ["p", "q"], None, None, None),
    ]  # fmt: skip
    assert [(each.id1, each.id2, each.kind) for each in read_links(tmp_path / "forum")] == [("b", "a", "duplicate")]
    assert found["left_out"] == {"repeated links": 1, "links to questions that are not there": 1}


def test_without_ids_the_row_is_one_and_without_a_template_the_text_is_recognised(tmp_path):
    pq.write_table(pa.table({"sentence": ["one", "two"], "tags": [["a"], None]}), tmp_path / "q.parquet")
    found = import_table(tmp_path / "q.parquet", tmp_path / "forum")
    assert list(read_questions(tmp_path / "forum", ("id", "text", "tags"))) == [("1", "one", ["a"]), ("2", "two", [])]
    assert found["text"] == "{sentence}"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["id\ttitle", "1\ta", "1\tb"], r"q.tsv:3: id '1' is taken already, by an earlier row"),
        (["id\ttitle", "\ta"], r"q.tsv:2: 'id' is empty, expected an id"),
        (["id\ttitle", "1\t "], r"q.tsv:2: question '1' has no text by --text '{title}'"),
        (["id\ttitle", "1"], r"q.tsv:2: has 1 fields, the header has 2"),
        (
            ["id\tname", "1\ta"],
            r"q.tsv: cannot tell which column holds the texts: .*name others with --text '{column}'",
        ),
    ],
)
def test_bad_rows_are_named_or_counted(tmp_path, lines, message):
    file = written(tmp_path, "q.tsv", *lines)
    with pytest.raises(DataError, match=message):
        import_table(file, tmp_path / "forum")
    assert not (tmp_path / "forum").exists()
    if "cannot tell" not in message:
        written(tmp_path, "q.tsv", *lines, "9\tgood")
        found = import_table(file, tmp_path / "forum", on_bad_row="skip")
        assert sum(found["left_out"].values()) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["id1\tid2\tkind", "1\t2\tsame"], r"l.tsv:2: 'kind' is 'same', expected duplicate or related"),
        (["id1\tid2", "1\t"], r"l.tsv:2: 'id2' is empty, expected an id"),
        (["a\tb", "1\t2"], r"l.tsv: cannot tell which column holds the ends of a link"),
    ],
)
def test_bad_links_are_named(tmp_path, lines, message):
    file = written(tmp_path, "q.tsv", "id\ttitle", "1\ta", "2\tb")
    with pytest.raises(DataError, match=message):
        import_table(file, tmp_path / "forum", links=written(tmp_path, "l.tsv", *lines))


def test_a_template_over_columns_that_are_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no column 'body', found 'id', 'title'"):
        import_table(written(tmp_path, "q.tsv", "id\ttitle", "1\ta"), tmp_path / "forum", text="{title} {body}")


def test_the_sample_is_a_forum_with_a_quarter_of_its_links(textsiam, tmp_path):
    from textsiam.data.pairs import sample_pairs
    from textsiam.forums.reading import is_forum

    done = textsiam("import", "sample", "--output", str(tmp_path / "forum"), "--json")
    assert done.status == 0
    assert is_forum(tmp_path / "forum")
    assert done.json["questions"] == 2908
    assert done.json["links"]["duplicate"] == pytest.approx(sample_pairs().positives / 4, rel=0.01)


def parquet(folder, name="q.parquet", **columns):
    pq.write_table(pa.table(columns), folder / name)
    return folder / name


def test_bytes_are_decoded_and_tags_may_be_a_list_of_anything_with_a_name(tmp_path):
    file = parquet(
        tmp_path, id=[b"a", b"b"], title=["caf\xe9".encode(), b"x"], created=[b"2011-08-17", None],
        tags=[[b"p", None], None],
    )  # fmt: skip
    import_table(file, tmp_path / "forum", text="{title} {tags}")
    assert list(read_questions(tmp_path / "forum", ("id", "text", "tags", "created"))) == [
        ("a", "café p", ["p"], "2011-08-17T00:00:00.000Z"), ("b", "x", [], None),
    ]  # fmt: skip
    named = parquet(tmp_path, title=["x"], tags=[[{"name": "t", "slug": "s"}]])
    import_table(named, tmp_path / "forum")
    assert list(read_questions(tmp_path / "forum", ("tags",))) == [(["t"],)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["1"], "title": [{"a": 1}]}, r"row 1: 'title' is {'a': 1} \(dict\), expected a text"),
        ({"id": ["1"], "title": [["a"]]}, r"row 1: 'title' is \['a'\] \(list\), expected a text"),
        ({"id": ["1"], "title": [b"\xe9"]}, r"row 1: 'title' is b'\\xe9', which is not UTF-8"),
        ({"id": [[1]], "title": ["a"]}, r"row 1: 'id' is \[1\] \(list\), expected an id"),
        ({"id": ["1"], "title": ["a"], "tags": [[{"slug": "s"}]]}, r"row 1: 'tags' is {'slug': 's'} \(dict\)"),
    ],
)
def test_cells_that_are_no_texts_are_named(tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        import_table(parquet(tmp_path, **columns), tmp_path / "forum")


def test_ids_that_all_look_like_one_point_zero_are_whole_numbers_and_others_stay(tmp_path):
    file = parquet(tmp_path, id=[1.0, 2.0, None], title=["a", "b", "c"])
    links = written(tmp_path, "l.csv", "id1,id2", " 1.0 ,2.0")
    found = import_table(file, tmp_path / "forum", links=links, on_bad_row="skip")
    assert [row[0] for row in read_questions(tmp_path / "forum", ("id",))] == ["1", "2"]
    assert (found["links"]["duplicate"], found["left_out"]) == (1, {"no id": 1})
    assert found["changed"]["whose id, such as '1.0', is read as '1'"] == 2
    file = written(tmp_path, "q.tsv", "id\ttitle", "1.0\ta", "1\tb", "1.5\tc")
    import_table(file, tmp_path / "forum")
    assert [row[0] for row in read_questions(tmp_path / "forum", ("id",))] == ["1.0", "1", "1.5"]


def test_characters_that_no_store_takes_are_gone_before_ids_are_compared(tmp_path):
    lines = [r'{"id": "1", "title": "a"}', r'{"id": "1\u0000", "title": "b"}', r'{"id": "\u0000", "title": "c"}',
             r'{"id": "3", "title": "\u0000"}', r'{"id": "2\u0000", "title": "d\u0000"}']  # fmt: skip
    links = written(tmp_path, "l.jsonl", r'{"id1": "1", "id2": "2\u0000"}')
    file = written(tmp_path, "q.jsonl", *lines)
    found = import_table(file, tmp_path / "forum", links=links, on_bad_row="skip")
    assert list(read_questions(tmp_path / "forum", ("id", "text"))) == [("1", "a"), ("2", "d")]
    assert found["left_out"] == {"repeated id": 1, "no id": 1, "empty text": 1}
    assert found["changed"] == {"without characters that cannot be stored": 1}
    assert found["links"]["duplicate"] == 1


def test_dates_that_python_cannot_hold_are_counted(tmp_path):
    for kind, moment in ((pa.timestamp("s"), 10**15), (pa.timestamp("us", tz="Nowhere/Zone"), 10**15)):
        created = pa.array([moment, None], pa.int64()).cast(kind)
        file = parquet(tmp_path, id=["1", "2"], title=["a", "b"], created=created)
        found = import_table(file, tmp_path / "forum", text="{title}{created}")
        assert list(read_questions(tmp_path / "forum", ("text", "created"))) == [("a", None), ("b", None)]
        assert found["changed"] == {"without a date, as it cannot be read": 1}


def test_columns_that_nobody_needs_are_not_looked_at(tmp_path):
    (tmp_path / "q.csv").write_bytes(b"id,title,note,,\n1,a,caf\xe9,,\n2,b,,,\n")
    (tmp_path / "l.csv").write_bytes(b"id1,id2,note,,\n1,2,caf\xe9,,\n")
    found = import_table(tmp_path / "q.csv", tmp_path / "forum", links=tmp_path / "l.csv")
    assert (found["questions"], found["links"]["duplicate"], found["left_out"]) == (2, 1, {})
    with pytest.raises(DataError, match=r"q.csv:2: byte \d+ \(0xe9\) is not UTF-8"):
        import_table(tmp_path / "q.csv", tmp_path / "forum", text="{note}")


def test_a_file_whose_name_is_not_utf8_is_imported(tmp_path):
    file = tmp_path / os.fsdecode(b"caf\xe9.tsv")
    file.write_text("id\ttitle\n1\ta\n")
    import_table(file, tmp_path / "forum")
    assert json.loads((tmp_path / "forum" / "provenance.json").read_text("utf-8"))["source"]["name"] == file.name
