from __future__ import annotations

import pytest

from textsiam.data.tables.errors import DataError
from textsiam.forums.reading import LINKS, QUESTIONS, is_forum, read_links
from textsiam.forums.table import import_table
from textsiam.sources import read_pairs, read_texts


@pytest.fixture
def forum(tmp_path):
    (tmp_path / "q.tsv").write_text("id\ttitle\tbody\ttags\n1\tone\tb\tx,y\n2\ttwo\t\t\n3\tthree\tc\tz\n")
    (tmp_path / "l.tsv").write_text("id1\tid2\tkind\n2\t1\tduplicate\n3\t1\trelated\n")
    import_table(tmp_path / "q.tsv", tmp_path / "forum", links=tmp_path / "l.tsv")
    return tmp_path / "forum"


def test_a_forum_is_read_as_texts_with_what_is_known_of_them(forum):
    read = read_texts(forum)
    assert (read.ids, read.texts, read.images) == (["1", "2", "3"], ["one", "two", "three"], False)
    assert read.metadata == {"tags": ["x, y", "", "z"]}
    assert [read.facts(place) for place in range(3)] == [{"tags": "x, y"}, {}, {"tags": "z"}]


def test_another_column_is_read_with_the_metadata_of_its_rows(forum):
    read = read_texts(forum, column="body", on_bad_row="skip")
    assert (read.texts, read.metadata, read.report.skipped) == (["b", "c"], {"tags": ["x, y", "z"]}, {"empty text": 1})
    with pytest.raises(DataError, match=r"questions.parquet:row 2: 'body' is empty, expected a text"):
        read_texts(forum, column="body")
    with pytest.raises(DataError, match=r"questions.parquet: has no column 'name', found id, text, title"):
        read_texts(forum, column="name")


def test_its_duplicate_links_are_pairs(forum):
    pairs = read_pairs(forum)
    assert (pairs.left_texts, pairs.right_texts, pairs.labels.tolist()) == (["two"], ["one"], [1])
    assert read_pairs(forum, labelled=False).labels.tolist() == [-1]
    assert [each.kind for each in read_links(forum, kind="related")] == ["related"]


def test_a_folder_of_its_files_is_a_forum_and_no_other(forum, tmp_path):
    assert is_forum(forum)
    assert not is_forum(tmp_path)
    assert not is_forum("sample:forum")


def test_damage_is_named(forum):
    (forum / LINKS).write_text("id1\tid2\tkind\n2\t1\tsame\n")
    with pytest.raises(DataError, match=r"duplicates.tsv:2: 'kind' is 'same', expected duplicate or related"):
        list(read_links(forum))
    (forum / LINKS).write_text("id1\tid2\tkind\n2\t9\tduplicate\n")
    with pytest.raises(DataError, match=r"duplicates.tsv: links question '9', which questions.parquet does not hold"):
        read_pairs(forum)
    (forum / LINKS).write_text("a\tb\n")
    with pytest.raises(DataError, match=r"duplicates.tsv:1: has the columns a, b, expected id1, id2, kind"):
        list(read_links(forum))
    (forum / LINKS).write_text("id1\tid2\tkind\n")
    with pytest.raises(DataError, match=r"duplicates.tsv: links no question as a duplicate"):
        read_pairs(forum)
    (forum / QUESTIONS).write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"questions.parquet: is missing or damaged .*import the forum again"):
        read_texts(forum)
