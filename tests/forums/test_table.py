from __future__ import annotations

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
