from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from textsiam.data.tables.errors import DataError
from textsiam.forums import writing
from textsiam.forums.reading import read_links, read_questions
from textsiam.forums.stackexchange import import_stackexchange


def links_of(forum):
    return [(each.id1, each.id2, each.kind) for each in read_links(forum)]


def test_questions_and_links_arrive(dump, post, link, tmp_path):
    folder = dump(
        [post(1, "Why  red?", "<p>It was &lt;b&gt;.</p><p>é</p>"), post(4, "A & B", Tags="|a|b-c|", Score="-2")],
        [link(4, 1, 3)],
    )
    found = import_stackexchange(folder, tmp_path / "forum", site="a.org", text="{title} {body}")
    table = pq.read_table(tmp_path / "forum" / "questions.parquet").to_pylist()
    assert table == [
        {"id": "1", "text": "Why red? It was <b>. é", "title": "Why red?", "body": "It was <b>.\né",
         "tags": ["scope", "style"], "created": "2011-08-17T20:18:56.507Z", "url": "https://a.org/q/1", "score": 3},
        {"id": "4", "text": "A & B", "title": "A & B", "body": "", "tags": ["a", "b-c"],
         "created": "2011-08-17T20:18:56.507Z", "url": "https://a.org/q/4", "score": -2},
    ]  # fmt: skip
    assert (tmp_path / "forum" / "duplicates.tsv").read_text() == "id1\tid2\tkind\n4\t1\tduplicate\n"
    assert found == json.loads((tmp_path / "forum" / "provenance.json").read_text())
    assert (found["questions"], found["links"]) == (2, {"duplicate": 1, "related": 0})
    assert found["source"]["files"] == {name: (folder / name).stat().st_size for name in ("Posts.xml", "PostLinks.xml")}
    assert (found["left_out"], found["changed"], found["examples"]) == ({}, {}, [])


def test_everything_left_out_is_counted_and_the_first_are_named(dump, post, link, tmp_path):
    no_title = post(11, "x")
    del no_title["Title"]
    answer = {"Id": "2", "PostTypeId": "2", "ParentId": "1", "Body": "b"}
    note = "<blockquote><p><strong>Possible Duplicate:</strong><br><a href='x'>Y</a></p></blockquote>"
    posts = [
        post(1, "one", note + "<p>mine</p>"), answer, post(3, "wiki", PostTypeId="5"),
        post(4, "gone", DeletionDate="2012-01-01T00:00:00.000"), post(5, "five", CreationDate="soon", Score="many"),
        post(5, "again"), post(6, "  "), no_title, post("", "y"), post("x7", "z"), {"Title": "t", "Id": "9"},
    ]  # fmt: skip
    links = [
        link(5, 1, 1), link(1, 5, 3), link(1, 1, 1), link(1, 2, 1), link(1, 99, 3), link(1, 5, 4),
        {"PostId": "1", "LinkTypeId": "3"},
    ]  # fmt: skip
    found = import_stackexchange(dump(posts, links), tmp_path / "forum")
    assert found["left_out"] == {
        "answers": 1, "wikis and notices": 1, "deleted": 1, "repeated id": 1, "no Title": 2, "no Id": 1, "bad Id": 1,
        "no PostTypeId": 1, "repeated links": 1, "links to themselves": 1, "links to questions that are not there": 2,
        "links of another type": 1, "no RelatedPostId": 1,
    }  # fmt: skip
    assert found["changed"] == {'without the note "Possible Duplicate"': 1, "without a date, as it cannot be read": 1}
    assert links_of(tmp_path / "forum") == [("1", "5", "duplicate")]
    assert list(read_questions(tmp_path / "forum", ("id", "body", "created", "score"))) == [
        ("1", "mine", "2011-08-17T20:18:56.507Z", 3),
        ("5", "", None, None),
    ]
    said = [example.partition("dump/")[2] for example in found["examples"]]
    assert "Posts.xml:8: Id '5' is taken already, by an earlier question" in said
    assert "Posts.xml:9: Title is empty (post 6)" in said
    assert "Posts.xml:10: Title is missing (post 11)" in said
    assert "Posts.xml:12: Id is 'x7', expected a whole number" in said
    assert "PostLinks.xml:9: RelatedPostId is missing" in said


def test_at_will_the_first_bad_post_stops_and_nothing_is_written(dump, post, tmp_path):
    folder = dump([post(1, "one"), post(2, "")])
    with pytest.raises(DataError, match=r"Posts.xml:4: Title is empty \(post 2\)"):
        import_stackexchange(folder, tmp_path / "forum", on_bad_row="error")
    assert os.listdir(tmp_path) == ["dump"]


def test_a_truncated_dump_leaves_the_old_forum_as_it_was(dump, post, tmp_path):
    folder, forum = dump([post(1, "one"), post(2, "two")]), tmp_path / "forum"
    import_stackexchange(folder, forum)
    before = {path.name: path.read_bytes() for path in forum.iterdir()}
    whole = (folder / "Posts.xml").read_bytes()
    (folder / "Posts.xml").write_bytes(whole[:-40])
    with pytest.raises(DataError, match=r"Posts.xml:4: ends in the middle \(byte \d+\): the dump is truncated"):
        import_stackexchange(folder, forum)
    assert {path.name: path.read_bytes() for path in forum.iterdir()} == before
    assert sorted(os.listdir(tmp_path)) == ["dump", "forum"]


@pytest.mark.parametrize("encoding", ["utf-16", "windows-1252"])
def test_another_encoding_gives_the_same_forum(dump, post, link, tmp_path, encoding):
    given = [post(1, "Où est l\u2019été ?", "<p>ça</p>"), post(2, "two")], [link(2, 1, 3)]
    digests = [import_stackexchange(dump(*given, each), tmp_path / each)["digest"] for each in ("utf-8", encoding)]
    assert digests[0] == digests[1]


def test_the_digest_is_of_questions_and_links(dump, post, link, tmp_path):
    one = [post(1, "a"), post(2, "b")]
    given = [(one, []), (one, [link(1, 2, 3)]), (one, [link(1, 2, 1)]), ([post(1, "a"), post(2, "c")], []), (one, [])]
    digests = [import_stackexchange(dump(*each), tmp_path / "forum")["digest"] for each in given]
    assert Counter(digests).most_common(1) == [(digests[0], 2)]
    assert digests[0] == digests[-1]


def test_what_is_written_in_pieces_is_what_is_written_at_once(dump, post, tmp_path, monkeypatch):
    folder = dump([post(key, f"t{key}", "x" * key) for key in range(1, 50)])
    import_stackexchange(folder, tmp_path / "whole")
    monkeypatch.setattr(writing, "_PENDING", 500)
    import_stackexchange(folder, tmp_path / "pieces")
    assert pq.ParquetFile(tmp_path / "pieces" / "questions.parquet").num_row_groups > 3
    read = [pq.read_table(tmp_path / name / "questions.parquet") for name in ("whole", "pieces")]
    assert read[0].equals(read[1])
    digests = [json.loads((tmp_path / name / "provenance.json").read_text())["digest"] for name in ("whole", "pieces")]
    assert digests[0] == digests[1]


def test_the_host_is_taken_from_the_folder_where_it_is_one(dump, post, tmp_path):
    folder = dump([post(1, "a")])
    assert import_stackexchange(folder, tmp_path / "f")["source"]["site"] is None
    folder = folder.rename(tmp_path / "french.meta.stackexchange.com")
    assert import_stackexchange(folder, tmp_path / "f")["source"]["site"] == "french.meta.stackexchange.com"


def test_progress_ends_at_all_bytes(dump, post, tmp_path):
    steps = []
    found = import_stackexchange(dump([post(1, "a")]), tmp_path / "f", progress=lambda *step: steps.append(step))
    assert steps[-1] == (sum(found["source"]["files"].values()),) * 2


def test_a_dump_without_links_is_no_error(dump, post, tmp_path):
    folder = dump([post(1, "a")])
    (folder / "PostLinks.xml").unlink()
    assert import_stackexchange(folder, tmp_path / "f")["links"] == {"duplicate": 0, "related": 0}


def test_a_folder_that_is_no_dump_is_named(dump, post, tmp_path):
    folder = dump([])
    with pytest.raises(DataError, match="dump: holds no question; found nothing"):
        import_stackexchange(folder, tmp_path / "f")
    (folder / "Posts.xml").rename(folder / "french.7z")
    with pytest.raises(DataError, match=r"holds no Posts.xml; unpack french.7z first: 7z x french.7z"):
        import_stackexchange(folder, tmp_path / "f")
    with pytest.raises(DataError, match=r"nowhere: is no folder, expected the one that holds Posts.xml"):
        import_stackexchange(tmp_path / "nowhere", tmp_path / "f")


def test_another_folder_is_never_replaced(dump, post, tmp_path):
    folder = dump([post(1, "a")])
    with pytest.raises(DataError, match="dump: is there already and is no forum folder"):
        import_stackexchange(folder, folder)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="file: is there already"):
        import_stackexchange(folder, tmp_path / "file")


@pytest.mark.skipif("TEXTSIAM_DATA" not in os.environ, reason="needs real dumps: set TEXTSIAM_DATA")
def test_real_dumps_hold_what_they_are_known_to_hold(tmp_path):
    dumps = Path(os.environ["TEXTSIAM_DATA"], "stackexchange")
    names = ("bicycles.meta", "conlang.meta", "french.meta")
    found = [import_stackexchange(dumps / name, tmp_path / name, on_bad_row="error") for name in names]
    assert [each["questions"] for each in found] == [453, 54, 274]
    assert [each["links"]["duplicate"] for each in found] == [9, 1, 6]
    assert sum(each["left_out"]["answers"] for each in found) == 1573
    assert json.dumps(found).count("expected") == 0
