"""`textsiam import`, and the commands that take a forum folder where they take a file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from textsiam.models.twin import Twin

POSTS = """<?xml version="1.0" encoding="utf-8"?>
<posts>
  <row Id="1" PostTypeId="1" CreationDate="2011-08-17T20:18:56.507" Title="Why red?" Tags="|a|b|" />
  <row Id="2" PostTypeId="1" CreationDate="2012-08-17T20:18:56.507" Title="Why red?" Body="c" Tags="" />
  <row Id="3" PostTypeId="1" CreationDate="2013-08-17T20:18:56.507" Title="" Body="c" />
  <row Id="4" PostTypeId="2" Body="d" />
</posts>
"""
LINKS = '<postlinks>\n  <row PostId="2" RelatedPostId="1" LinkTypeId="3" />\n</postlinks>\n'


@pytest.fixture
def dump(tmp_path) -> Path:
    folder = tmp_path / "dump"
    folder.mkdir()
    (folder / "Posts.xml").write_text(POSTS, encoding="utf-8")
    (folder / "PostLinks.xml").write_text(LINKS, encoding="utf-8")
    return folder


@pytest.fixture
def forum(dump, textsiam, tmp_path) -> Path:
    assert not textsiam("import", "stackexchange", dump, "--output", tmp_path / "f", "--site", "a.org").status
    return tmp_path / "f"


@pytest.fixture
def model(tower, tmp_path) -> Path:
    return Twin(tower).save_pretrained(tmp_path / "twin")


def test_a_dump_is_imported_and_what_is_left_out_is_said(dump, textsiam, tmp_path):
    said = textsiam("import", "stackexchange", dump, "--output", tmp_path / "f", "--text", "{title} {tags}")
    assert (said.status, said.out) == (0, "")
    assert said.err.splitlines() == [
        f"warning: skipped {dump}/Posts.xml:5: Title is empty (post 3)",
        "left out: 1 answers, 1 no Title",
        f"2 questions, 1 duplicate and 0 related links written to {tmp_path / 'f'}",
        "no urls: --site HOST gives them",
    ]
    said = textsiam("import", "stackexchange", dump, "--output", tmp_path / "f", "--json")
    assert said.json == json.loads((tmp_path / "f" / "provenance.json").read_text())


def test_discourse_and_tables_are_imported(textsiam, tmp_path):
    (tmp_path / "a.json").write_text('{"id": 1, "title": "Why?", "raw": "b"}')
    said = textsiam("import", "discourse", tmp_path / "a.json", "--output", tmp_path / "f", "--json")
    assert said.json["questions"] == 1
    (tmp_path / "q.tsv").write_text("id\ttitle\tbody\nx\ta\tb\ny\tc\td\n")
    (tmp_path / "l.tsv").write_text("id1\tid2\nx\ty\n")
    how = ("--links", tmp_path / "l.tsv", "--text", "{title}. {body}", "--output", tmp_path / "f", "--json")
    said = textsiam("import", "table", tmp_path / "q.tsv", *how)
    assert (said.json["questions"], said.json["links"]) == (2, {"duplicate": 1, "related": 0})
    assert said.json["text"] == "{title}. {body}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--text", "{name}"), "error: --text '{name}': has no column 'name', found 'id', 'title'"),
        (("--on-bad-row", "error"), "Posts.xml:5: Title is empty (post 3)"),
    ],
)
def test_an_error_is_one_line_and_nothing_is_written(dump, textsiam, tmp_path, arguments, message):
    said = textsiam("import", "stackexchange", dump, "--output", tmp_path / "f", *arguments)
    assert said.status
    assert said.err.count("\n") == 1
    assert message in said.err
    assert not (tmp_path / "f").exists()


def test_flagged_pairs_say_where_the_questions_are(forum, model, textsiam, tmp_path):
    said = textsiam("flag", model, forum, "--threshold", "0.9", "--output", tmp_path / "flagged.tsv", "--json")
    with (tmp_path / "flagged.tsv").open(newline="") as file:
        (row,) = csv.DictReader(file, delimiter="\t")
    known = {
        "url1": "https://a.org/q/1", "url2": "https://a.org/q/2", "tags1": "a, b", "tags2": "",
        "created1": "2011-08-17T20:18:56.507Z", "created2": "2012-08-17T20:18:56.507Z",
    }  # fmt: skip
    assert {name: row[name] for name in known} == known
    assert (row["id1"], row["id2"]) == ("1", "2")
    assert known.items() <= said.json["pairs"][0].items()


def test_an_index_keeps_url_tags_and_date(forum, model, textsiam, tmp_path):
    textsiam("index", "create", model, tmp_path / "index")
    assert (
        textsiam("index", "add", model, tmp_path / "index", forum, "--metadata", "forum=a", "--json").json["new"] == 2
    )
    said = textsiam("index", "search", model, tmp_path / "index", "Why red?", "--where", "tags=a, b", "--json")
    (hit,) = said.json[0]["hits"]
    assert hit["metadata"] == {
        "created": "2011-08-17T20:18:56.507Z", "forum": "a", "tags": "a, b", "url": "https://a.org/q/1",
    }  # fmt: skip
    said = textsiam("check", model, tmp_path / "index", "--file", forum, "--threshold", "0.9", "--json")
    assert [one["id"] for one in said.json] == ["1", "2"]


def test_other_commands_take_a_forum_too(forum, model, textsiam, tmp_path):
    assert textsiam("encode", model, forum, "--output", tmp_path / "v.npy", "--json").json["vectors"] == 2
    said = textsiam("match", model, "--queries", forum, "--documents", forum, "--top-k", "1", "--json")
    assert len(said.json) == 2
    said = textsiam("score", model, "--pairs", forum, "--json")
    assert [row["question1"] for row in said.json] == ["Why red?"]
    assert textsiam("data", "report", forum, "--json").status == 0


def test_what_is_read_is_not_replaced(forum, textsiam, tmp_path):
    before = sorted((path.name, path.read_bytes()) for path in forum.iterdir())
    said = textsiam("import", "table", forum / "questions.parquet", "--output", forum)
    assert said.status == 2
    assert "questions.parquet lies in --output" in said.err
    (forum / "labels.tsv").write_text("answers")
    (tmp_path / "t.tsv").write_text("id\ttitle\n1\tWhy?\n")
    said = textsiam("import", "table", tmp_path / "t.tsv", "--output", forum)
    assert said.status == 1
    assert "holds 'labels.tsv', which would be lost" in said.err
    (forum / "labels.tsv").unlink()
    assert sorted((path.name, path.read_bytes()) for path in forum.iterdir()) == before
    assert not textsiam("import", "table", tmp_path / "t.tsv", "--output", forum).status
