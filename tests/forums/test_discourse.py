from __future__ import annotations

import json

import pytest

from textsiam.data.tables.errors import DataError
from textsiam.forums.discourse import import_discourse
from textsiam.forums.reading import read_links, read_questions

COLUMNS = ("id", "text", "body", "tags", "created", "url", "score")


def topic(key, title, *cooked, **more):
    posts = [{"id": 100 * key + n, "post_number": n, "cooked": html} for n, html in enumerate(cooked, start=1)]
    return {
        "id": key, "title": title, "fancy_title": "x", "slug": "s", "created_at": "2013-02-05T21:29:22.000Z",
        "tags": ["a", {"name": "b", "slug": "b"}], "like_count": 4, "archetype": "regular",
        "post_stream": {"posts": posts, "stream": []}, "suggested_topics": [{"id": 999, "title": "not asked for"}],
    } | more  # fmt: skip


def listed(*topics):
    bare = [{k: v for k, v in each.items() if k not in ("post_stream", "suggested_topics")} for each in topics]
    return {"users": [], "topic_list": {"per_page": 30, "topics": bare}}


@pytest.fixture
def export(tmp_path):
    def write(**files):
        folder = tmp_path / "export"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
        return folder

    return write


def imported(export, tmp_path, **how):
    found = import_discourse(export, tmp_path / "forum", **how)
    links = [(each.id1, each.id2, each.kind) for each in read_links(tmp_path / "forum")]
    return found, list(read_questions(tmp_path / "forum", COLUMNS)), links


def test_topics_of_the_api_arrive_with_their_first_post(export, tmp_path):
    first, second = (
        topic(7, "Why red?", "<p>It was.</p>", "<p>answer</p>", "<p>other</p>"),
        topic(8, "Bare", "<p>b</p>"),
    )
    folder = export(a_json=listed(first, second), b_json=first, c_json=topic(8, "Bare", post_stream={"posts": []}))
    found, rows, _ = imported(folder, tmp_path, site="meta.example.org", text="{title} {body}")
    when = "2013-02-05T21:29:22.000Z"
    assert rows == [
        ("7", "Why red? It was.", "It was.", ["a", "b"], when, "https://meta.example.org/t/7", 4),
        ("8", "Bare", "", ["a", "b"], when, "https://meta.example.org/t/8", 4),
    ]
    assert found["left_out"] == {"answers": 2}


def test_deleted_topics_and_private_messages_are_left_out(export, tmp_path):
    topics = [
        topic(1, "a", "<p>x</p>"), topic(2, "b", "<p>x</p>", deleted_at="2014-01-01"),
        topic(3, "c", "<p>x</p>", archetype="private_message"), topic(4, " ", "<p>x</p>"),
        topic(1, "a", "<p>x</p>"), topic(5, "d", "<p>x</p>", created_at="x"),
    ]  # fmt: skip
    found, rows, _ = imported(export(a_jsonl="\n".join(map(json.dumps, topics))), tmp_path)
    assert [row[0] for row in rows] == ["1", "5"]
    assert found["left_out"] == {"deleted": 1, "private messages": 1, "no title": 1, "topics given again": 1}
    assert found["changed"] == {"without a date, as it cannot be read": 1}
    assert found["examples"] == [f"skipped {tmp_path}/export/a.jsonl:4: a topic without title (id 4)"]


def test_links_between_topics_are_related_and_those_that_say_so_duplicates(export, tmp_path):
    counts = [
        {"url": "https://m.org/t/some-slug/2/5?u=x", "internal": True, "reflection": False},
        {"url": "https://m.org/t/back/3", "internal": True, "reflection": True},
        {"url": "https://elsewhere.org/t/far/3", "internal": False},
        {"url": "https://m.org/u/me", "internal": True},
        {"url": "/t/99", "internal": True},
    ]
    first = topic(1, "a", "<p>see</p>")
    first["post_stream"]["posts"][0]["link_counts"] = counts
    closing = '<p>Closed as a <b>duplicate of</b>: <a class="inline" href="/t/2016-plans/3">x</a></p>'
    topics = [
        first, topic(2, "b", "<p>x</p>", closing, closed=True), topic(3, "c", "<p>no</p>", closing.replace("/3", "/1")),
        topic(4, "d", closing.replace("/t/2016-plans/3", "https://elsewhere.org/t/x/1"), closed=True),
    ]  # fmt: skip
    found, _, links = imported(export(a_json=topics), tmp_path)
    assert links == [("1", "2", "related"), ("2", "3", "duplicate")]
    assert found["left_out"]["links to questions that are not there"] == 1


def test_the_tables_of_the_data_explorer_arrive(export, tmp_path):
    folder = export(
        a_csv="topic_id,topic_title,raw,post_number,created_at,tags\n"
        '5,Five,**b**,1,2013-02-05 21:29:22 UTC,"a,b"\n5,Five,no,2,,\n',
        b_json={"success": True, "columns": ["id", "title"], "rows": [[6, "Six"], [7, "Seven"]]},
        c_csv="topic_id,link_topic_id\n5,6\n",
        d_csv="id1,id2\n6,7\n",
        e_csv="topic_id,link_topic_id,kind\n5,7,duplicate\n5,,\n5,6,odd\n",
    )
    found, rows, links = imported(folder, tmp_path)
    assert rows[0] == ("5", "Five", "**b**", ["a", "b"], "2013-02-05T21:29:22.000Z", None, None)
    assert [row[0] for row in rows] == ["5", "6", "7"]
    assert links == [("5", "6", "related"), ("6", "7", "duplicate"), ("5", "7", "duplicate")]
    assert found["left_out"] == {"answers": 1, "no id": 1, "bad kind": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": 1,\n "title": "a', r"a.json:2: is not JSON.* \(.*column 11, character 20\)"),
        ("{", r"a.json:1: is not JSON: it ends in the middle"),
        ("[" * 100_000, r"a.json:1: is nested too deeply"),
        ('{"users": []}', r"a.json:1: holds no topics that are known by their keys \(found users\)"),
        ('"text"', r"a.json:1: holds no topics .*\(found str\)"),
        ('{"title": "a", "topic_id": null}', r"a.json:1: a topic without an id"),
    ],
)
def test_damage_is_named_or_counted(export, tmp_path, content, message):
    folder = export(a_json=content, b_json=topic(1, "a", "<p>x</p>"))
    with pytest.raises(DataError, match=message):
        imported(folder, tmp_path, on_bad_row="error")
    found, rows, _ = imported(folder, tmp_path)
    assert len(rows) == 1
    assert sum(found["left_out"].values()) == 1


def test_characters_that_no_store_takes_are_mended(export, tmp_path):
    _, rows, _ = imported(export(a_json='{"id": 1, "title": "a\\u0000b \\ud800", "raw": "\\u0000"}'), tmp_path)
    assert rows[0][:2] == ("1", "ab ?")


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"id": 1, "title": "caf\xe9"}')
    with pytest.raises(DataError, match=r"a.json:1: byte 23 \(0xe9\) is not utf-8"):
        import_discourse(tmp_path / "a.json", tmp_path / "forum", on_bad_row="error")


def test_a_place_without_an_export_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: is not there; expected a file or folder"):
        import_discourse(tmp_path / "nowhere", tmp_path / "forum")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no file that ends in .json, .jsonl, .csv"):
        import_discourse(tmp_path / "empty", tmp_path / "forum")


def test_links_in_replies_count_but_not_those_in_deleted_or_private_posts(export, tmp_path):
    says = '<p>Duplicate of <a href="/t/one/1">One</a></p>'
    posts = [
        {"id": 11, "topic_id": 1, "topic_title": "One", "post_number": 1, "cooked": "<p>a</p>"},
        {"id": 12, "topic_id": 2, "topic_title": "Two", "post_number": 1, "cooked": "<p>b</p>"},
        {"id": 13, "topic_id": 2, "topic_title": "Two", "post_number": 2, "moderator": True, "cooked": says},
        {"id": 14, "topic_id": 3, "topic_title": "Three", "post_number": 1, "cooked": "<p>c</p>"},
        {"id": 15, "topic_id": 3, "post_number": 2, "moderator": True, "cooked": says, "deleted_at": "2014-01-01"},
        {"id": 16, "topic_id": 3, "post_number": 3, "moderator": True, "cooked": says, "archetype": "private_message"},
    ]
    found, _, links = imported(export(posts_json={"latest_posts": posts}), tmp_path)
    assert links == [("2", "1", "duplicate")]
    assert found["left_out"] == {"answers": 1, "deleted": 1, "private messages": 1}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (topic(1, "a", "<p>x</p>", tags=5), r"a.jsonl:2: 'tags' is 5 \(int\), expected a list"),
        (topic(1, "a", "<p>x</p>", tags=[["b"]]), r"a.jsonl:2: 'tags' is \['b'\] \(list\), expected a text"),
        (topic(1, {"a": 1}, "<p>x</p>"), r"a.jsonl:2: 'title' is {'a': 1} \(dict\), expected a text"),
        ({"id": [1], "title": "a"}, r"a.jsonl:2: a topic without an id"),
        ('{"title": "a", "id": ' + "1" * 5000 + "}", r"a.jsonl:2: a topic without an id"),
        ({"columns": ["id", "title"], "rows": [[1]]}, r"a.jsonl:2: row 1 has 1 fields, expected 2"),
        ({"columns": ["id", "title"], "rows": [{"id": 1}]}, r"a.jsonl:2: row 1 is a JSON dict, expected a list"),
    ],
)
def test_one_bad_record_is_named_or_counted_and_the_others_stay(export, tmp_path, record, message):
    line = record if isinstance(record, str) else json.dumps(record)
    good = [json.dumps(topic(key, "good", "<p>x</p>")) for key in (8, 9)]
    folder = export(a_jsonl="\n".join([good[0], line, good[1]]))
    with pytest.raises(DataError, match=message):
        imported(folder, tmp_path, on_bad_row="error")
    found, rows, _ = imported(folder, tmp_path)
    assert [row[0] for row in rows] == ["8", "9"]
    assert sum(found["left_out"].values()) == 1


def test_a_number_of_thousands_of_digits_costs_no_more_than_itself(export, tmp_path):
    whole = json.dumps([topic(1, "a", "<p>x</p>", views="long"), topic(2, "b", "<p>x</p>")])
    found, rows, _ = imported(export(a_json=whole.replace('"long"', "9" * 5000)), tmp_path, on_bad_row="error")
    assert [row[:2] for row in rows] == [("1", "a"), ("2", "b")]
    assert found["left_out"] == {}


def test_a_table_says_false_in_words(export, tmp_path):
    said = '"Duplicate of <a href=""/t/b/2"">b</a>"'
    rows = [f"{key},t{key},{said},1,{closed},{moderator}" for key, closed, moderator in
            ((2, "", ""), (3, "false", "f"), (4, "true", "false"), (5, "FALSE", "t"), (6, "0", "no"))]  # fmt: skip
    table = "\n".join(["topic_id,title,cooked,post_number,closed,moderator", *rows])
    _, _, links = imported(export(a_csv=table), tmp_path)
    assert links == [("4", "2", "duplicate"), ("5", "2", "duplicate")]


def test_good_rows_beside_bad_ones_of_the_data_explorer_stay(export, tmp_path):
    table = {"columns": ["id", "title"], "rows": [[1, "a"], 7, [2], [3, "c", "d"], [4, "e"]]}
    found, rows, _ = imported(export(a_json=table), tmp_path)
    assert [row[0] for row in rows] == ["1", "4"]
    assert found["left_out"] == {"bad row of the data explorer": 3}


def test_what_is_no_url_is_no_link(export, tmp_path):
    odd = '<p>Duplicate of <a href="http://[foo/t/a/2">x</a></p>'
    first = topic(1, "a", odd, closed=True)
    first["post_stream"]["posts"][0]["link_counts"] = [{"url": "http://[foo/t/a/2", "internal": True}]
    _, rows, links = imported(export(a_json=[first, topic(2, "b", "<p>x</p>")]), tmp_path, on_bad_row="error")
    assert ([row[0] for row in rows], links) == (["1", "2"], [])


def test_ids_of_tables_that_look_like_one_point_zero_are_whole_numbers(export, tmp_path):
    folder = export(a_csv="topic_id,topic_title,post_number\n5.0,Five,1.0\n6.0,Six,1.0\n",
                    b_csv="topic_id,link_topic_id\n5.0,6.0\n")  # fmt: skip
    found, rows, links = imported(folder, tmp_path)
    assert ([row[0] for row in rows], links) == (["5", "6"], [("5", "6", "related")])
    assert found["changed"] == {"whose id, such as '1.0', is read as '1'": 2}


def test_columns_that_nobody_needs_are_not_looked_at(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"topic_id,topic_title,username,,\n5,Five,caf\xe9,,\n")
    found = import_discourse(tmp_path / "a.csv", tmp_path / "forum", on_bad_row="error")
    assert (found["questions"], found["left_out"]) == (1, {})
