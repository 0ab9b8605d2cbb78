"""Files of all kinds at the terminal: what is decided about them is said, and what does not apply is refused."""

from __future__ import annotations

import io
import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from textsiam.decision.decision import fit_decision
from textsiam.models.twin import Twin


@pytest.fixture(scope="session")
def model(tower, tmp_path_factory):
    scores = np.concatenate([np.linspace(0.8, 1.0, 200), np.linspace(0.0, 0.9, 200)]).astype(np.float32)
    decision = fit_decision(scores, np.repeat(np.array([1, 0], np.int8), 200))
    return Twin(tower, decision=decision).save_pretrained(tmp_path_factory.mktemp("reading") / "twin")


def written(path, *rows, between="\t"):
    path.write_text("".join(between.join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    return path


def unboxed(said):
    return " ".join(said.err.replace("│", " ").split())


LABELLED = [
    ("Why do cats purr?", "What makes cats purr?", 1),
    ("Why is the sky blue?", "Can dogs eat apples?", 0),
    ("How do I swim?", "How can I swim?", 1),
    ("Do I need a visa?", "How long do eggs keep?", 0),
]


def test_labels_are_measured_as_labels_whatever_their_column_is_called(textsiam, model, tmp_path):
    measured = []
    for header in ("label", "Labels", "is_duplicate", "Is Duplicate"):
        file = written(tmp_path / "pairs.tsv", ("sentence1", "sentence2", header), *LABELLED, ("A cat", "A dog", ""))
        options = ("--on-bad-row", "skip", "--json", "--threshold", "0.5", "--report", tmp_path / "page.html")
        said = textsiam("evaluate", model, file, "--verification", *options)
        assert said.status == 0, said.err
        assert (said.json["threshold"], said.json["read"]["skipped"]) == (0.5, {"no label": 1})
        assert ("holds labels, by its values" in said.err) is (header.lower() in ("label", "labels"))
        assert said.json["verification"]
        (tmp_path / "page.html").unlink()
        measured.append(said.json["report"])
    assert measured == measured[:1] * 4


def test_options_of_labels_do_not_apply_to_scores(textsiam, model, tmp_path):
    rows = [(a, b, 4 * y + 0.5) for a, b, y in LABELLED]
    file = written(tmp_path / "sts.csv", ("Sentence 1", "Sentence 2", "label"), *rows, ("a", "b", "?"), between=",")
    said = textsiam("evaluate", model, file)
    assert (said.status, said.err.splitlines()[-1]) == (1, f"error: {file}:6: 'label' is '?', expected a number")
    said = textsiam("evaluate", model, file, "--on-bad-row", "skip", "--json")
    assert (said.status, said.json["pairs"]) == (0, 4)
    assert said.json["read"]["decided"] == [f"{file}: 'label' holds scores, by its values"]
    assert said.err.splitlines() == [
        f"note: {file}: 'label' holds scores, by its values",
        f"warning: skipped {file}:6: 'label' is '?', expected a number",
        f"note: {file}: 1 of 5 left out: 1 bad score",
    ]
    report = ("--report", tmp_path / "page.html")
    for option in (report, ("--verification",), ("--threshold", "0.5"), ("--precision", "0.9"), ("--prior", "0.1")):
        said = textsiam("evaluate", model, file, "--on-bad-row", "skip", *option)
        assert said.status == 2
        assert f"{option[0]} applies to labels, and" in unboxed(said)
    said = textsiam("evaluate", model, file, "--column", "label=label")
    assert said.err == f"error: {file}:2: 'label' is '4.5', expected 0 or 1\n"
    for option in (("--shot", "2"), ("--episodes", "3")):
        assert "applies to --way only" in unboxed(textsiam("evaluate", model, file, *option))
    assert "--report does not apply to --way" in unboxed(textsiam("evaluate", model, tmp_path, "--way", "2", *report))


def test_ids_are_found_named_or_said_to_be_missing(textsiam, model, tmp_path):
    rows = [("p5", "Why?", "n1"), ("p2", "Why?", "n2")]
    output = tmp_path / "found.jsonl"

    def ids(header, *options):
        file = written(tmp_path / "posts.csv", header, *rows, between=",")
        said = textsiam("flag", model, file, "--threshold", "0.9", "--output", output, *options)
        assert said.status == 0, said.err
        (pair,) = map(json.loads, output.read_text().splitlines())
        return [pair["id1"], pair["id2"]], said.err

    assert ids(("Id", "Title", "Nr"))[0] == ["p5", "p2"]
    assert ids(("PostId", "QUESTION", "id_of_user"))[0] == ["p5", "p2"]
    found, told = ids(("Post", "Title", "Nr"))
    assert found == ["2", "3"]
    assert "posts.csv: line numbers stand in for ids: no column holds them, --id-column names one" in told
    assert ids(("Post", "Title", "Nr"), "--id-column", "Nr")[0] == ["n1", "n2"]
    assert ids(("Id", "a", "Nr"), "--column", "a", "--id-column", "Nr")[0] == ["n1", "n2"]
    file = written(tmp_path / "posts.csv", ("Post", "Title", "Nr"), *rows, between=",")
    said = textsiam("flag", model, file, "--id-column", "no")
    assert said.err == f"error: {file}: has no column 'no' (for 'id_column'), found 'Post', 'Title', 'Nr'\n"
    pairs = written(tmp_path / "pairs.tsv", ("question1", "question2"), ("a", "b"))
    assert "have no ids of their own" in textsiam("flag", model, pairs, "--id-column", "question1").err


@pytest.mark.parametrize("kind", ["files", "pattern", "standard input"])
def test_several_files_and_pipes_where_one_is_taken(textsiam, model, tmp_path, monkeypatch, kind):
    header = ("id", "text")
    one = written(tmp_path / "part-1.tsv", header, ("x", "Why?"), ("y", "How?"))
    two = written(tmp_path / "part-2.tsv", header, ("z", "Why?"))
    sources = {"files": (one, two), "pattern": (tmp_path / "part-*.tsv",), "standard input": ("-",)}[kind]
    typed = "id\ttext\nx\tWhy?\ny\tHow?\nz\tWhy?\n"
    monkeypatch.setattr(io, "StringIO", lambda text: io.TextIOWrapper(io.BytesIO(typed.encode())))
    said = textsiam("flag", model, *sources, "--threshold", "0.999", "--json")
    assert (said.status, said.json["clusters"]) == (0, [["x", "z"]])
    said = textsiam("encode", model, *sources, "--output", tmp_path / "v.npy", "--json")
    assert (said.status, said.json["vectors"]) == (0, 3)
    options = [option for source in sources for option in ("--queries", source)]
    said = textsiam("match", model, *options, "--documents", one, "--top-k", "1", "--json")
    assert [row["document_id"] for row in said.json] == ["x", "y", "x"]
    index = tmp_path / "index"
    assert textsiam("index", "create", model, index).status == 0
    assert textsiam("index", "add", model, index, *sources, "--json").json["new"] == 3


def test_quotes_that_are_signs(textsiam, model, tmp_path):
    rows = [('"Ring" is a song?', "Who sang it?", 1), ('Is 5" large?', 'How "large" is it?', 0), ('"x', '"y', 0)]
    file = written(tmp_path / "glue.tsv", ("question1", "question2", "is_duplicate"), *rows)
    said = textsiam("data", "report", file)
    assert "if '\"' is an ordinary character here, pass --no-quoted" in said.err
    for command in (["data", "report", file], ["evaluate", model, file], ["score", model, "--pairs", file]):
        said = textsiam(*command, "--no-quoted", "--json")
        assert said.status == 0, said.err
    assert [row["question1"] for row in said.json] == [row[0] for row in rows]
    assert textsiam("flag", model, file, "--no-quoted", "--json").json["questions"] == 6


def test_train_takes_the_options_of_columns(textsiam, tmp_path, monkeypatch):
    from textsiam import recipe

    seen = []
    monkeypatch.setattr(recipe, "run", lambda config, console: seen.append(config.data))
    name = 'one, "or" {two}: é'
    said = textsiam(
        "train", "--column", f"left={name}", "--column", "label=same", "--no-quoted", "--data.train", "x.tsv"
    )
    assert said.status == 0, said.err
    assert (seen[0].columns, seen[0].quoted, seen[0].train) == ({"left": name, "label": "same"}, False, "x.tsv")
    assert textsiam("train", "--data.train", "[a.tsv, b.tsv]").status == 0
    assert (seen[1].columns, seen[1].quoted, seen[1].train) == (None, None, ["a.tsv", "b.tsv"])


def test_a_list_of_files_is_trained_on_as_one(pairs, tmp_path):
    from textsiam.config.run import build_pairs, read_config

    rows = list(zip(pairs.left_texts, pairs.right_texts, pairs.labels.tolist(), strict=True))
    header = ("question1", "question2", "label")
    one = written(tmp_path / "one.tsv", header, *rows[:50])
    two = written(tmp_path / "two.csv", header, *(map(json.dumps, row) for row in rows[50:]), between=",")
    whole = written(tmp_path / "whole.tsv", header, *rows)
    shares = ["--data.calibration_share", "0.2", "--data.test_share", "0.2"]
    prints = [
        build_pairs(read_config(["--data.train", source, *shares]).data).train.fingerprint
        for source in (f"[{one}, {two}]", str(whole))
    ]
    assert prints[0] == prints[1]


# what is not UTF-8


def test_a_file_name_that_is_not_utf8(textsiam, tmp_path):
    from PIL import Image

    from textsiam.inference.scratch import scratch_image_encoder

    folder = tmp_path / "images"
    folder.mkdir()
    odd = folder / os.fsdecode(b"caf\xe9.png")
    try:
        odd.touch()
    except OSError:
        pytest.skip("this file system takes no such name")
    for path in (odd, folder / "plain.png"):
        with path.open("wb") as file:
            Image.radial_gradient("L").convert("RGB").save(file, "PNG")
    model = Twin(scratch_image_encoder(size=32, channels=3, dim=16)).save_pretrained(tmp_path / "twin")
    for ending in (".tsv", ".csv", ".jsonl", ".parquet"):
        output = tmp_path / f"found{ending}"
        said = textsiam("flag", model, folder, "--threshold", "0.9", "--output", output)
        assert said.status == 0, said.err
        assert b"\\udce9" in output.read_bytes() or ending == ".parquet"
    assert json.loads((tmp_path / "found.jsonl").read_text(encoding="utf-8"))["id1"] == odd.name
    from textsiam.data.tables.errors import BadRows
    from textsiam.data.tables.readers import open_table

    with open_table(tmp_path / "found.parquet", BadRows("found")) as table:
        assert next(iter(table.values(["id1"])))[1] == ("caf\\udce9.png",)


@pytest.mark.parametrize("command", ["score", "check", "index search"])
def test_an_argument_that_is_not_utf8(textsiam, model, tmp_path, command):
    index = tmp_path / "index"
    assert textsiam("index", "create", model, index).status == 0
    arguments = ["a"] if command == "score" else [index]
    said = textsiam(*command.split(), model, *arguments, os.fsdecode(b"caf\xe9"))
    assert said.status == 1
    assert "('caf\\udce9') is not UTF-8: character 3 is half of a surrogate pair" in said.err


def test_what_is_printed_is_utf8(monkeypatch):
    from textsiam import cli
    from textsiam.terminal import print_json

    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="utf-8", errors="surrogateescape"))
    cli.main(lambda: print_json({"id": "caf\udce9 é"}))
    sys.stdout.flush()
    assert json.loads(out.getvalue().decode()) == {"id": "caf\udce9 é"}


def test_nothing_is_copied_where_a_file_can_be_read_again(tmp_path, monkeypatch):
    from textsiam.data.tables import lines
    from textsiam.data.texts import read_texts

    monkeypatch.setattr(lines, "tempfile", SimpleNamespace())
    assert read_texts(written(tmp_path / "a.csv", ("text",), ("a",))).texts == ["a"]
