"""`textsiam index …` and `textsiam check`, from an empty place to verdicts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from textsiam.decision.decision import fit_decision
from textsiam.inference.scratch import scratch_image_encoder
from textsiam.models.twin import Twin


@pytest.fixture(scope="session")
def model(tower, tmp_path_factory):
    duplicate, other = np.linspace(0.7, 1.0, 200), np.linspace(0.0, 0.9, 200)
    scores = np.concatenate([duplicate, other]).astype(np.float32)
    decision = fit_decision(scores, np.repeat(np.array([1, 0], np.int8), 200))
    return Twin(tower, decision=decision).save_pretrained(tmp_path_factory.mktemp("index") / "twin")


@pytest.fixture(scope="session")
def other_model(tower, tmp_path_factory):
    import copy

    changed = copy.deepcopy(tower)
    changed[0].auto_model.embeddings.word_embeddings.weight.data.mul_(1.5)
    return Twin(changed).save_pretrained(tmp_path_factory.mktemp("index") / "other")


@pytest.fixture
def file(sentences, tmp_path):
    path = tmp_path / "questions.tsv"
    path.write_text("id\tquestion\n" + "".join(f"q{i}\t{text}\n" for i, text in enumerate(sentences)))
    return path


@pytest.fixture(params=["folder", "postgres"])
def place(request, tmp_path):
    if request.param == "postgres":
        return f"{request.getfixturevalue('postgres_address')}#cli_{abs(hash(request.node.name)) % 10**9}"
    return str(tmp_path / "index")


def test_a_second_file_without_ids_replaces_nothing_of_the_first(textsiam, model, place, tmp_path):
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("How do I prune roses?\nWhen do tulips bloom?\n")
    second.write_text("How do I prune roses?\nWhich soil do ferns like?\n")
    textsiam("index", "create", model, place)
    assert textsiam("index", "add", model, place, first)[0] == 0
    status, out, err = textsiam("index", "add", model, place, second)
    assert (status, out) == (1, "")
    assert "second.txt: has no ids, and '2', the number of 'Which soil do ferns like?'" in err
    assert "'When do tulips bloom?'" in err
    assert "--prefix" in err
    first.write_text(first.read_text() + "Do bees like mint?\n")  # a file that has grown is no other file
    status, out, err = textsiam("index", "add", model, place, first, "--json")
    assert (json.loads(out)["new"], json.loads(out)["replaced"]) == (1, 0), err
    status, out, err = textsiam("index", "add", model, place, second, "--prefix", "b-", "--json")
    assert json.loads(out)["questions"] == 5, err


def test_what_no_index_can_hold_is_named_before_anything_is_added_or_left_out(textsiam, model, place, tmp_path):
    file = tmp_path / "some.tsv"
    file.write_text(f"id\ttext\na\tone\nb\0d\ttwo\n{'c' * 600}\tthree\n")
    textsiam("index", "create", model, place)
    status, out, err = textsiam("index", "add", model, place, file)
    assert (status, out) == (1, "")
    assert r"some.tsv: question 'b\x00d': the id is 'b\x00d', expected some text" in err
    assert json.loads(textsiam("index", "stats", place, "--json")[1])["questions"] == 0
    status, out, err = textsiam("index", "add", model, place, file, "--on-bad-row", "skip", "--json")
    assert (status, json.loads(out)["new"], json.loads(out)["refused"]) == (0, 1, 2), err
    assert "2 questions that no index can hold are left out, the first one: question" in err
    file.write_text(f"id\ttext\n{'c' * 600}\tthree\n")
    assert "the id has 600 characters, at most 512 are kept" in textsiam("index", "add", model, place, file)[2]


def test_a_key_or_a_limit_that_makes_no_sense_is_refused(textsiam, model, place, file):
    textsiam("index", "create", model, place)
    status, out, err = textsiam("index", "add", model, place, file, "--metadata", "a=1", "--metadata", "a=2")
    assert (status, out) == (2, "")
    assert "'a' stands before already, with 1" in " ".join(err.split())
    status, out, err = textsiam("check", model, place, "why?", "--limit", "-3")
    assert (status, out) == (2, "")
    assert "--limit must be >= 0, got -3" in err


def test_another_model_is_refused_by_its_name(textsiam, model, other_model, place, file):
    textsiam("index", "create", model, place)
    for command in (["add", other_model, place, file], ["search", other_model, place, "why?"]):
        err = textsiam("index", *command)[2]
        assert f"got some of '{Path(other_model).name}'" in err, err


def test_a_model_that_cannot_read_the_questions_begins_no_migration(textsiam, model, place, file, tmp_path):
    textsiam("index", "create", model, place)
    textsiam("index", "add", model, place, file)
    Twin(scratch_image_encoder(size=28, channels=1, dim=16)).save_pretrained(tmp_path / "images")
    status, out, err = textsiam("index", "migrate", tmp_path / "images", place)
    assert (status, out) == (1, ""), err
    found = json.loads(textsiam("index", "stats", place, "--json")[1])
    assert found["migrating_to"] is None


def test_from_an_empty_place_to_a_verdict(textsiam, model, other_model, file, place, sentences):
    status, out, err = textsiam("index", "create", model, place, "--json")
    assert status == 0, err
    assert json.loads(out)["questions"] == 0
    assert json.loads(out)["model"]["name"] == "twin"
    assert textsiam("index", "create", model, place)[0] == 1

    status, out, err = textsiam("index", "add", model, place, file, "--metadata", "forum=garden", "--json")
    added = json.loads(out)
    assert added.pop("read")["kept"] == 48
    assert (status, added) == (0, {"new": 48, "replaced": 0, "unchanged": 0, "refused": 0, "questions": 48}), err
    status, out, err = textsiam("index", "add", model, place, file, "--metadata", "forum=garden", "--json")
    assert json.loads(out)["unchanged"] == 48
    textsiam(
        "index", "add", model, place, file, "--metadata", "forum=other", "--metadata", "year=2024", "--prefix", "x-"
    )

    status, out, err = textsiam("index", "search", model, place, sentences[3], "--top-k", 2, "--json")
    assert status == 0, err
    (found,) = json.loads(out)
    assert [hit["id"] for hit in found["hits"]] == ["q3", "x-q3"]
    assert found["hits"][1]["metadata"] == {"forum": "other", "year": 2024}
    assert found["hits"][0]["similarity"] == pytest.approx(1, abs=1e-4)
    status, out, err = textsiam(
        "index", "search", model, place, sentences[3], "--threshold", -1, "--where", "year=2024", "--json"
    )
    assert len(json.loads(out)[0]["hits"]) == 48

    status, out, err = textsiam("check", model, place, sentences[5], "--where", "forum=garden", "--json")
    assert status == 0, err
    (verdict,) = json.loads(out)
    assert verdict["duplicate"] is True
    assert "q5" in [duplicate["id"] for duplicate in verdict["duplicates"]]
    assert verdict["canonical"] in verdict["duplicates"]
    assert 0.5 < verdict["duplicates"][0]["probability"] <= 1
    assert verdict["duplicates"][0]["similarity"] >= verdict["threshold"]

    status, out, err = textsiam("index", "delete", place, "q5", "x-q5", "nobody", "--json")
    assert json.loads(out) == {"deleted": 2, "questions": 94}
    status, out, err = textsiam("index", "compact", place, "--rebuild", "--json")
    assert json.loads(out)["unmerged"] == 0

    status, out, err = textsiam("index", "search", other_model, place, "a")
    assert status == 1
    assert "holds vectors of 'twin'" in err
    status, out, err = textsiam("index", "migrate", other_model, place, "--json")
    assert status == 0, err
    assert json.loads(out)["model"]["name"] == "other"
    status, out, err = textsiam("index", "search", other_model, place, sentences[4], "--top-k", 1, "--json")
    assert json.loads(out)[0]["hits"][0]["id"] == "q4"


def test_what_people_read(textsiam, model, file, sentences, tmp_path):
    place = tmp_path / "index"
    status, out, err = textsiam("index", "stats", place)
    assert (status, out) == (1, "")
    assert err == f"error: {place}: holds no index: make one with textsiam index create\n"
    assert "an index for vectors of 'twin'" in textsiam("index", "create", model, place)[2]
    assert "48 new, 0 replaced, 0 unchanged; 48 questions" in textsiam("index", "add", model, place, file)[2]
    status, out, err = textsiam("check", model, place, sentences[0], "--threshold", 0.9999, "--limit", 1)
    assert out.splitlines()[0] == sentences[0]
    assert "canonical" in out
    assert "probability" in out
    status, out, err = textsiam("check", model, place, "--file", file, "--threshold", 1.5)
    assert out.count("new: nothing reaches 1.5000") == 48
    status, out, err = textsiam("index", "search", model, place, "Why?", "--top-k", 3)
    assert len(out.splitlines()) == 4
    status, out, err = textsiam("index", "snapshot", place, tmp_path / "copy")
    assert status == 0, err
    assert "48 questions" in textsiam("index", "stats", tmp_path / "copy")[1]
    assert "1 deleted; 47 questions" in textsiam("index", "delete", place, "q1")[2]
    assert "1 changes not merged yet" in textsiam("index", "stats", place)[1]
    assert "48 questions" in textsiam("index", "stats", tmp_path / "copy")[1]
    for wrong, message in (
        (["check", model, place], "name questions, or a --file"),
        (["check", model, place, "a", "--where", "forum"], "expected KEY=VALUE"),
        (["index", "stats", "http://x"], "starts with http://"),
        (["index", "search", model, place, "a", "--top-k", 0], "k must be >= 1"),
    ):
        status, out, err = textsiam(*wrong)
        assert status
        assert message in err


def test_a_password_is_never_shown(textsiam, model):
    pytest.importorskip("psycopg", reason="the extra 'postgres' is not installed (psycopg)")
    for address in ("postgresql://me:s3cret@127.0.0.1:1/db", "postgresql://me:s3cret@127.0.0.1:1/db?nonsense=s3cret"):
        status, out, err = textsiam("index", "stats", address)
        assert status == 1
        assert "s3cret" not in out + err
        assert "postgresql://" in err


def test_commands_without_a_model_load_no_torch():
    load = "import sys, textsiam.commands.indexing, textsiam.search.factory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", load], check=False).returncode == 0
