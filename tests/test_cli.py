from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textsiam import cli
from textsiam.commands import scoring
from textsiam.decision.decision import fit_decision
from textsiam.models.twin import Twin

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def model(tower, tmp_path_factory) -> Path:
    """A saved twin with a decision, learned from made-up scores that part the classes well but not quite."""
    duplicate, other = np.linspace(0.8, 1.0, 200), np.linspace(0.0, 0.9, 200)
    labels = np.repeat(np.array([1, 0], np.int8), 200)
    decision = fit_decision(np.concatenate([duplicate, other]).astype(np.float32), labels)
    return Twin(tower, decision=decision).save_pretrained(tmp_path_factory.mktemp("cli") / "twin")


@pytest.fixture(scope="session")
def undecided(tower, tmp_path_factory) -> Path:
    return Twin(tower).save_pretrained(tmp_path_factory.mktemp("cli") / "undecided")


@pytest.fixture(scope="session")
def twin_saved(model) -> Twin:
    return Twin.from_pretrained(model, device="cpu")


@pytest.fixture(scope="session")
def pair_file(pairs, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("cli") / "pairs.tsv"
    rows = zip(pairs.left_texts, pairs.right_texts, pairs.labels, strict=True)
    file.write_text("question1\tquestion2\tis_duplicate\n" + "".join(f"{a}\t{b}\t{y}\n" for a, b, y in rows))
    return file


@pytest.fixture
def question_file(sentences, tmp_path) -> Path:
    """Nine questions, of which lines 2 and 5 and lines 3, 7 and 9 are the same."""
    file = tmp_path / "questions.txt"
    a, b, *rest = sentences[:6:2] + sentences[20:24]
    file.write_text("\n".join([rest[0], a, b, rest[1], a, rest[2], b, rest[3], b]) + "\n")
    return file


def assert_one_line(said: Any, *words: str, status: int = 1) -> None:
    assert said.status == status
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith("error: ")
    assert not [word for word in words if word not in said.err], said.err


# score


def test_score_two_texts(textsiam, model, twin_saved):
    a, b = "How old are you?", "What is your age?"
    verdict = twin_saved.compare(a, b)
    said = textsiam("score", model, a, b, "--json")
    assert said.status == 0
    assert said.json == {
        "question1": a,
        "question2": b,
        "similarity": pytest.approx(verdict.similarity, abs=1e-6),
        "probability": pytest.approx(verdict.probability, abs=1e-6),
        "duplicate": verdict.duplicate,
        "threshold": pytest.approx(verdict.threshold, abs=1e-6),
        "unread": False,
        "domain_shift": None,
    }
    plain = textsiam("score", model, a, b)
    assert plain.status == 0
    assert plain.err == ""
    assert f"similarity {verdict.similarity:.4f}" in plain.out
    assert ("not a duplicate" in plain.out) != verdict.duplicate
    same = textsiam("score", model, a, a, "--json").json
    assert same["similarity"] == pytest.approx(1.0, abs=1e-5)
    assert same["duplicate"]


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl"])
def test_score_a_file_into_a_file(textsiam, model, twin_saved, pair_file, pairs, tmp_path, ending):
    output = tmp_path / "out" / f"scored{ending}"
    said = textsiam("score", model, "--pairs", pair_file, "--output", output)
    assert (said.status, said.out) == (0, "")
    assert f"96 scored pairs written to {output}" in said.err
    with output.open(newline="") as file:
        if ending == ".jsonl":
            rows = [json.loads(line) for line in file]
        else:
            rows = list(csv.DictReader(file, delimiter="\t" if ending == ".tsv" else ","))
    assert [(r["question1"], r["question2"]) for r in rows] == list(
        zip(pairs.left_texts, pairs.right_texts, strict=True)
    )
    expected = twin_saved.pair_similarity(pairs.texts, pairs.left, pairs.right)
    np.testing.assert_allclose([float(r["similarity"]) for r in rows], expected, atol=2e-6)
    threshold = twin_saved.require_decision().threshold
    assert [str(r["duplicate"]) for r in rows] == [str(bool(s >= threshold)) for s in expected]


def test_score_says_what_is_not_read(textsiam, undecided, tmp_path):
    """Two texts that differ behind the cut have similarity 1; so have two of unknown tokens."""
    long = "why is the sky blue " * 20
    said = textsiam("score", undecided, f"{long} in Rome", f"{long} at night", "--json")
    assert (said.json["similarity"], said.json["unread"]) == (pytest.approx(1, abs=1e-5), True)
    assert said.err.splitlines() == [
        "warning: 2 of 2 texts are cut after 32 tokens, the most that is read: pair 1",
        "warning: 1 of 1 pairs differ in nothing that the model reads: pair 1",
    ]
    rows = [("why", "is"), (f"{long} one", f"{long} two"), (long, long), (f"blue {long}", f"sky {long}")]
    file = tmp_path / "pairs.tsv"
    file.write_text("question1\tquestion2\n" + "".join(f"{a}\t{b}\n" for a, b in rows))
    output = tmp_path / "scored.jsonl"
    said = textsiam("score", undecided, "--pairs", file, "--json", "--output", output)
    assert [row["unread"] for row in said.json] == [False, True, False, False]
    assert [json.loads(line)["unread"] for line in output.read_text().splitlines()] == [False, True, False, False]
    assert "warning: 5 of 7 texts are cut after 32 tokens, the most that is read: pair 2, pair 3, pair 4" in said.err
    assert "warning: 1 of 4 pairs differ in nothing that the model reads: pair 2" in said.err


def test_a_pair_of_a_text_that_is_read_and_one_that_is_not_differs(textsiam, undecided):
    said = textsiam("score", undecided, "\U0001f600", "why is the sky blue", "--json")
    assert said.json["unread"]
    assert said.err.splitlines()[-1] == "warning: 1 of 1 pairs hold a text of which the model reads nothing: pair 1"
    said = textsiam("score", undecided, "\U0001f600", "\U0001f601", "--json")
    assert said.err.splitlines()[-1] == "warning: 1 of 1 pairs differ in nothing that the model reads: pair 1"


def test_score_a_file_on_the_screen(textsiam, model, pair_file, pairs):
    said = textsiam("score", model, "--pairs", pair_file)
    assert said.status == 0
    assert len(said.out.splitlines()) == len(pairs)
    assert f"{pairs.left_texts[0]} | {pairs.right_texts[0]}" in said.out.splitlines()[0]
    assert len(textsiam("score", model, "--pairs", pair_file, "--json").json) == len(pairs)


def test_score_without_a_decision(textsiam, undecided):
    assert textsiam("score", undecided, "a", "b", "--json").json["duplicate"] is None
    given = textsiam("score", undecided, "dogs", "dogs", "--threshold", "0.9", "--json")
    assert given.status == 0, given.err
    assert given.json["duplicate"] is True
    assert given.json["threshold"] == 0.9
    assert_one_line(textsiam("score", undecided, "a", "b", "--precision", "0.9"), "no decision yet", "calibrate")


def test_score_with_another_threshold_or_prior(textsiam, model):
    strict = textsiam("score", model, "Why do cats purr?", "Is the sky blue?", "--threshold", "0.9999", "--json").json
    assert (strict["duplicate"], strict["threshold"]) == (False, 0.9999)
    rare = textsiam("score", model, "Why do cats purr?", "Is the sky blue?", "--prior", "0.001", "--json").json
    assert rare["probability"] < strict["probability"]
    precise = textsiam("score", model, "a", "b", "--precision", "0.9", "--json")
    assert precise.status == 0, precise.err
    both = textsiam("score", model, "a", "b", "--precision", "0.9", "--threshold", "0.5")
    assert both.status == 2
    assert "exclude each other" in both.err


@pytest.mark.parametrize("texts", [[], ["one"], ["one", "two", "three"]])
def test_score_wants_two_texts(textsiam, model, texts):
    said = textsiam("score", model, *texts)
    assert said.status == 2
    assert said.out == ""
    assert "two texts" in said.err
    assert "Traceback" not in said.err


# evaluate


def test_evaluate(textsiam, model, twin_saved, pair_file, pairs, tmp_path):
    from sklearn.metrics import average_precision_score

    report = tmp_path / "report.html"
    said = textsiam("evaluate", model, pair_file, "--json", "--report", report)
    assert said.status == 0, said.err
    scores = twin_saved.pair_similarity(pairs.texts, pairs.left, pairs.right)
    measured = said.json["report"]
    assert measured["n"] == 96
    assert measured["average_precision"]["value"] == pytest.approx(average_precision_score(pairs.labels, scores))
    assert report.read_text().startswith("<!DOCTYPE html>")
    plain = textsiam("evaluate", model, pair_file)
    assert plain.status == 0
    assert "96 test pairs, 48 duplicates" in plain.out
    assert f"{100 * measured['average_precision']['value']:.1f} (" in plain.out


def test_evaluate_graded_pairs(textsiam, model, twin_saved, tmp_path):
    from scipy.stats import spearmanr

    rows = [("Why do cats purr?", "Cats purr, but why?", 4.5), ("Why is the sky blue?", "Can dogs eat apples?", 0.2),
            ("How do I swim?", "How do I sleep?", 1.5), ("I need a visa", "Do I need a visa?", 3.9)]  # fmt: skip
    file = tmp_path / "graded.tsv"
    file.write_text("sentence1\tsentence2\tscore\n" + "".join(f"{a}\t{b}\t{s}\n" for a, b, s in rows))
    said = textsiam("evaluate", model, file, "--json")
    assert said.status == 0, said.err
    expected = spearmanr(twin_saved.similarity([r[0] for r in rows], [r[1] for r in rows]), [r[2] for r in rows])
    assert said.json["spearman"]["value"] == pytest.approx(expected.statistic, abs=1e-9)
    assert "pearman" in textsiam("evaluate", model, file).out


def test_evaluate_without_a_decision_measures_the_ranking(textsiam, undecided, pair_file, tmp_path):
    said = textsiam("evaluate", undecided, pair_file, "--json")
    assert said.status == 0, said.err
    assert "no decision, so its ranking alone is measured" in said.err
    report = said.json["report"]
    assert report["average_precision"]["value"] > 0
    assert report["accuracy"]["value"] is report["recall"] is said.json["threshold"] is None
    page = tmp_path / "page.html"
    said = textsiam("evaluate", undecided, pair_file, "--threshold", "0.5", "--report", page, "--json")
    assert said.json["report"]["accuracy"]["value"] > 0
    assert said.json["report"]["calibration_error"] is None
    assert "Reliability" in page.read_text()
    said = textsiam("evaluate", undecided, pair_file, "--report", page)
    assert (said.status, "needs a --threshold" in " ".join(said.err.replace("│", " ").split())) == (2, True)


# flag


def test_flag_finds_the_repeated_questions(textsiam, model, question_file):
    said = textsiam("flag", model, question_file, "--threshold", "0.99999", "--json")
    assert said.status == 0, said.err
    found = said.json
    assert found["questions"] == 9
    assert found["threshold"] == 0.99999
    assert {(p["id1"], p["id2"]) for p in found["pairs"]} == {("2", "5"), ("3", "7"), ("3", "9")}
    assert found["exact_copies"] == 3
    assert sorted(sorted(cluster) for cluster in found["clusters"]) == [["2", "5"], ["3", "7", "9"]]
    for pair in found["pairs"]:
        assert pair["similarity"] == pytest.approx(1, abs=1e-5)
        assert {pair["id1"], pair["id2"]} <= set(found["clusters"][pair["cluster"]])
    plain = textsiam("flag", model, question_file, "--threshold", "0.99999")
    assert "9 questions: 3 duplicate pairs in 2 clusters, similarity ≥ 1.0000" in plain.out
    every = textsiam("flag", model, question_file, "--threshold", "0.99999", "--expand-exact", "--json").json
    assert {(p["id1"], p["id2"]) for p in every["pairs"]} == {("2", "5"), ("3", "7"), ("3", "9"), ("7", "9")}
    assert every["clusters"] == found["clusters"]
    assert plain.out.count(", probability ≥ ") == 2
    one = textsiam("flag", model, question_file, "--threshold", "0.99999", "--limit", "1")
    assert "(1 more not shown)" in one.out
    assert one.out.count(", probability ≥ ") == 1


@pytest.mark.parametrize("ending", ["tsv", "jsonl"])
def test_flag_a_table_into_a_file(textsiam, model, tmp_path, ending):
    questions = tmp_path / "questions.tsv"
    questions.write_text("id\tquestion\nq7\tWhy do cats purr?\nq8\tIs tap water safe?\nq9\tWhy do cats purr?\n")
    output = tmp_path / f"flagged.{ending}"
    said = textsiam("flag", model, questions, "--threshold", "0.99999", "--output", output)
    assert said.status == 0, said.err
    assert f"1 pairs written to {output}" in said.err
    text = output.read_text()
    row = json.loads(text) if ending == "jsonl" else next(csv.DictReader(text.splitlines(), delimiter="\t"))
    assert (row["id1"], row["id2"], row["question1"]) == ("q7", "q9", "Why do cats purr?")
    assert 0 < float(row["probability"]) <= 1


def test_flag_into_parquet_and_approximately(textsiam, model, tmp_path, sentences):
    questions = tmp_path / "questions.txt"
    questions.write_text("\n".join(sentences) + "\n")
    exact = textsiam("flag", model, questions, "--threshold", "0.5", "--output", tmp_path / "exact.parquet", "--json")
    rows = pq.read_table(tmp_path / "exact.parquet").to_pylist()
    assert [{k: v for k, v in row.items() if k != "cluster"} for row in rows] == [
        {k: v for k, v in pair.items() if k != "cluster"} for pair in exact.json["pairs"]
    ]
    assert "recall" not in exact.json
    most = textsiam("flag", model, questions, "--threshold", "0.5", "--approximate", "--json")
    assert most.json["recall"]["low"] <= most.json["recall"]["value"] <= most.json["recall"]["high"]
    assert len(most.json["pairs"]) >= 0.5 * len(rows) > 5
    assert "of all pairs are expected to be found" in textsiam("flag", model, questions, "--approximate").err


def test_flag_in_parts_is_the_same_command(textsiam, model, tmp_path, sentences):
    questions = tmp_path / "questions.txt"
    questions.write_text("\n".join(sentences) + "\n")
    whole = textsiam("flag", model, questions, "--threshold", "0.5", "--json").json
    for _ in range(2):  # the second time everything is there
        parted = textsiam("flag", model, questions, "--threshold", "0.5", "--work", tmp_path / "work", "--json").json
        assert len(whole["pairs"]) > 5
        assert parted == whole
    assert (tmp_path / "work" / "job.json").exists()
    other = tmp_path / "other.txt"
    other.write_text("a\nb\n")
    said = textsiam("flag", model, other, "--threshold", "0.5", "--work", tmp_path / "work")
    assert_one_line(said, "holds a job with another list of inputs: remove it, or name another folder")


def test_flag_in_parts_from_parquet_keeps_nothing_but_the_partitions(textsiam, model, tmp_path, sentences):
    texts = [*sentences, *sentences[:5], sentences[0]]
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), tmp_path / "questions.parquet")
    command = ("flag", model, tmp_path / "questions.parquet", "--threshold", "0.5")
    whole = textsiam(*command, "--output", tmp_path / "whole.parquet")
    parted = textsiam(*command, "--output", tmp_path / "parted.parquet", "--work", tmp_path / "work")
    assert parted.out == whole.out
    assert "6 questions are copies" in parted.err
    tables = [pq.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "parted")]
    assert tables[0].equals(tables[1])
    assert not (tmp_path / "work" / ".scratch").exists()
    assert textsiam(*command, "--work", tmp_path / "work", "--json").json == textsiam(*command, "--json").json
    with (tmp_path / "work" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = textsiam(*command, "--work", tmp_path / "work")
    assert_one_line(said, "work: another process is at work there: wait for it, or name another folder")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert_one_line(textsiam(*command, "--work", tmp_path / "mine"), "mine is not empty and holds no job")
    assert os.listdir(tmp_path / "mine") == ["letter.txt"]


def test_a_limit_holds_for_json_too_and_says_how_many_there_are(textsiam, model, question_file):
    command = ("flag", model, question_file, "--threshold", "0.5", "--json")
    whole, few = textsiam(*command).json, textsiam(*command, "--limit", "2").json
    assert few["pairs"] == whole["pairs"][:2]
    assert few["clusters"] == whole["clusters"][:2]
    assert few["found"] == {"pairs": len(whole["pairs"]), "clusters": len(whole["clusters"])}
    assert few["found"]["pairs"] > 2
    assert "found" not in whole
    none = textsiam(*command, "--limit", "0").json
    assert none["pairs"] == none["clusters"] == []
    assert "--limit must be >= 0, got -1" in textsiam(*command, "--limit", "-1").err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ray", "auto"], "--ray needs --output or --work"),
        (["--work", "x", "--approximate"], "--approximate excludes --ray and --work"),
    ],
)
def test_flag_refuses_what_does_not_go_together(textsiam, question_file, options, words):
    said = textsiam("flag", "no/model", question_file, *options)
    assert said.status == 2
    assert words in " ".join(said.err.replace("│", " ").split())


def test_flag_refuses_an_ending_before_the_model_is_opened(textsiam, question_file, tmp_path):
    said = textsiam("flag", "no/model", question_file, "--output", tmp_path / "out.xlsx")
    assert_one_line(said, "expected .tsv, .csv, .jsonl or .parquet")


def test_a_flagged_pair_may_lie_between_clusters(textsiam, model, tmp_path, sentences):
    file = tmp_path / "questions.txt"
    file.write_text("\n".join(sentences) + "\n")
    everything = textsiam("flag", model, file, "--threshold", "-1", "--json").json["pairs"]
    middle = sorted(pair["similarity"] for pair in everything)[len(everything) // 2]
    found = textsiam("flag", model, file, "--threshold", str(middle), "--json")
    assert found.status == 0, found.err
    pairs, clusters = found.json["pairs"], found.json["clusters"]
    assert any(pair["cluster"] is None for pair in pairs)
    flagged = {frozenset((pair["id1"], pair["id2"])) for pair in pairs}
    for pair in pairs:
        together = [c for c, members in enumerate(clusters) if {pair["id1"], pair["id2"]} <= set(members)]
        assert together == ([] if pair["cluster"] is None else [pair["cluster"]])
    shown = textsiam("flag", model, file, "--threshold", str(middle), "--limit", "1000").out
    least = [float(x) for x in re.findall(r", probability ≥ (\d\.\d+)", shown)]
    assert len(least) == len(clusters)
    assert least == sorted(least, reverse=True)  # the surest clusters first
    for members in clusters:  # complete linkage: every two members were flagged
        assert all(frozenset((a, b)) in flagged for a in members for b in members if a != b)


def test_flag_without_duplicates(textsiam, model, tmp_path):
    file = tmp_path / "questions.txt"
    file.write_text("Why do cats purr?\nIs tap water safe?\n")
    output = tmp_path / "none.tsv"
    said = textsiam("flag", model, file, "--threshold", "0.999999", "--output", output)
    assert said.status == 0, said.err
    assert "2 questions: 0 duplicate pairs in 0 clusters" in said.out
    assert len(output.read_text().splitlines()) == 1
    assert textsiam("flag", model, file, "--threshold", "0.999999", "--json").json["clusters"] == []


def test_flag_with_the_learned_threshold_and_a_precision(textsiam, model, undecided, twin_saved, question_file):
    learned = textsiam("flag", model, question_file, "--json")
    assert learned.json["threshold"] == pytest.approx(twin_saved.require_decision().threshold)
    precise = textsiam("flag", model, question_file, "--precision", "0.9", "--json")
    assert precise.status == 0, precise.err
    assert precise.json["threshold"] == pytest.approx(twin_saved.require_decision().at_precision(0.9).threshold)
    assert_one_line(textsiam("flag", undecided, question_file), "no decision yet")


# encode


def test_encode(textsiam, model, tmp_path, sentences):
    texts, output = tmp_path / "texts.txt", tmp_path / "vectors.npy"
    texts.write_text("\n".join([*sentences, sentences[0]]) + "\n")
    said = textsiam("encode", model, texts, "--output", output, "--json")
    assert said.status == 0, said.err
    assert said.json["vectors"] == 49
    vectors = np.load(output, mmap_mode="r")
    assert vectors.shape == (49, said.json["dim"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[48])
    assert "49 vectors" in textsiam("encode", model, texts, "--output", output, "--precision", "fp32").err
    assert_one_line(textsiam("encode", model, texts, "--output", tmp_path / "no" / "x.npy"), "cannot write")


# match


def test_match(textsiam, model, tmp_path, sentences):
    documents = tmp_path / "documents.tsv"
    documents.write_text("id\ttext\n" + "".join(f"d{i}\t{text}\n" for i, text in enumerate(sentences)))
    queries = tmp_path / "queries.txt"
    queries.write_text(f"{sentences[4]}\n{sentences[30]}\n")
    asked = ["match", model, "--queries", queries, "--documents", documents]
    said = textsiam(*asked, "--top-k", "3", "--json")
    assert said.status == 0, said.err
    rows = said.json
    assert [(r["query_id"], r["rank"]) for r in rows] == [("1", 1), ("1", 2), ("1", 3), ("2", 1), ("2", 2), ("2", 3)]
    assert [r["document_id"] for r in rows if r["rank"] == 1] == ["d4", "d30"]
    assert rows[0]["similarity"] >= rows[1]["similarity"] >= rows[2]["similarity"]
    plain = textsiam(*asked, "--top-k", "1").out
    assert sentences[4] in plain
    assert "d30" in plain
    output = tmp_path / "matches.tsv"
    assert textsiam(*asked, "--output", output).status == 0
    assert len(output.read_text().splitlines()) == 1 + 2 * 10
    assert_one_line(textsiam(*asked, "--top-k", "0"), "top-k must be >= 1, got 0")


# data


def test_data_report(textsiam, pair_file):
    said = textsiam("data", "report", pair_file, "--json")
    assert said.status == 0, said.err
    assert said.json["read"]["kept"] == 96
    assert said.json.keys() == {"read", "data", "split"}
    plain = textsiam("data", "report", pair_file)
    assert plain.status == 0
    assert "96" in plain.out
    assert "duplicates" in plain.out


def test_data_report_with_named_columns_and_bad_rows(textsiam, tmp_path):
    file = tmp_path / "odd.csv"
    rows = [f"text {i},text {i + 1},{i % 2}" for i in range(40)]
    file.write_text("\n".join(["one,two,same", *rows[:3], "text,,1", *rows[3:]]) + "\n")
    columns = ["--column", "left=one", "--column", "right=two", "--column", "label=same"]
    assert_one_line(textsiam("data", "report", file, *columns), "odd.csv:5")
    said = textsiam("data", "report", file, *columns, "--on-bad-row", "skip", "--json")
    assert said.status == 0, said.err
    assert sum(said.json["read"]["skipped"].values()) == 1
    wrong = textsiam("data", "report", file, "--column", "first=one")
    assert wrong.status == 2
    assert "expected left=NAME" in wrong.err


# train


@pytest.mark.slow
def test_train_with_overrides(textsiam, pair_file, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        f"""
        data: {{train: {pair_file}, validation_share: 0.15, calibration_share: 0.25, test_share: 0.2}}
        model: {{scratch: {{hidden: 16, layers: 1, vocabulary: 200}}, max_tokens: 16}}
        loss: {{contrastive: {{}}}}
        training: {{batch_size: 8, tracker: none, precision: fp32}}
        """
    )
    output = tmp_path / "run"
    asked = ["train", file, "--output", output, "--training.max_steps=2", "--training.learning_rate", "1e-3"]
    said = textsiam(*asked, "--json")
    assert said.status == 0, said.err
    assert said.json["steps"] == 2
    assert said.json["model"] == str(output / "model")
    assert_one_line(textsiam(*asked), "holds a finished run")
    again = textsiam(*asked, "--overwrite")
    assert again.status == 0, again.err
    assert "trained" in again.out
    assert f"everything is in {output}" in again.err
    scored = textsiam("score", output / "model", "a", "b", "--json")
    assert scored.json["probability"] is not None


def test_train_without_a_file_takes_overrides(textsiam, tmp_path):
    said = textsiam("train", "--output", tmp_path / "run", "--data.train", tmp_path / "missing.tsv")
    assert_one_line(said, "missing.tsv")
    assert_one_line(textsiam("train", "--training.epocs", "3"), "did you mean 'epochs'?")


# errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "{tmp}/nowhere", "a", "b"], ["nowhere", "no such folder"]),
        (["score", "{tmp}/file.txt", "a", "b"], ["is a file, expected the folder"]),
        (["score", "{model}", "--pairs", "{tmp}/missing.tsv"], ["missing.tsv"]),
        (["score", "{model}", "--pairs", "{pairs}", "--output", "{tmp}/out.xlsx"], [".xlsx", "expected .tsv, .csv"]),
        (["score", "{model}", "--pairs", "{pairs}", "--output", "{tmp}/file.txt/out.tsv"], ["out.tsv", "written"]),
        (["evaluate", "{model}", "{tmp}/file.txt"], ["file.txt"]),
        (["evaluate", "{model}", "{tmp}/missing.tsv"], ["missing.tsv"]),
        (["flag", "{model}", "{tmp}/missing.txt"], ["missing.txt"]),
        (["flag", "{model}", "{tmp}/empty.txt"], ["empty.txt"]),
        (["match", "{model}", "--queries", "{tmp}/missing.txt", "--documents", "{pairs}"], ["missing.txt"]),
        (["data", "report", "{tmp}/bad.tsv"], ["bad.tsv:3", "maybe"]),
        (["train", "{tmp}/missing.yaml"], ["missing.yaml: no such file"]),
        (["train", "{tmp}/broken.yaml"], ["broken.yaml:2: not valid YAML"]),
        (["score", "{model}", "a", "b", "--prior", "1.5"], ["prior", "1.5"]),
        (["score", "{model}", "a", "b", "--precision", "1.5"], ["precision", "1.5"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_an_error_is_one_line_on_stderr(textsiam, model, pair_file, tmp_path, arguments, words):
    (tmp_path / "file.txt").write_text("words\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bad.tsv").write_text("question1\tquestion2\tis_duplicate\na\tb\t1\nc\td\tmaybe\n")
    (tmp_path / "broken.yaml").write_text("output: [1\n")
    places = {"tmp": tmp_path, "model": model, "pairs": pair_file}
    assert_one_line(textsiam(*(a.format(**places) for a in arguments)), *words)


def test_an_error_of_the_program_keeps_its_traceback():
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.main(broken)


def test_an_interrupt_ends_with_status_130(textsiam, monkeypatch, model):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "open_twin", interrupted)
    assert textsiam("score", model, "a", "b").status == 130


def test_help_of_every_command(textsiam):
    for command in (["score"], ["evaluate"], ["flag"], ["match"], ["train"], ["data", "report"]):
        said = textsiam(*command, "--help")
        assert (said.status, said.err) == (0, "")
        assert f" {command[-1]} [OPTIONS]" in said.out


# as a user runs it


def shell(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=120, env={**os.environ}
    )


@pytest.mark.slow
def test_in_a_process_of_its_own(model, tmp_path):
    said = shell("-m", "textsiam.cli", "score", model, "How old are you?", "What is your age?", "--json")
    assert said.returncode == 0
    assert said.stderr == ""
    assert json.loads(said.stdout).keys() >= {"similarity", "probability", "duplicate", "threshold"}


def test_an_error_in_a_process_of_its_own(tmp_path):
    said = shell("-m", "textsiam.cli", "data", "report", tmp_path / "missing.tsv")
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.startswith("error: ")
    assert said.stderr.count("\n") == 1
    said = shell(ROOT / "scripts" / "train.py", tmp_path / "missing.yaml")
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr == f"error: {tmp_path}/missing.yaml: no such file\n"
    said = shell(ROOT / "scripts" / "train.py", "--traning.epochs", "1")  # configs/quickstart.yaml
    assert said.stderr == "error: --traning.epochs: unknown key 'traning': did you mean 'training'?\n"


def test_a_closed_pipe_is_no_error(pair_file):
    command = f"'{sys.executable}' -m textsiam.cli data report '{pair_file}' | head -n 1; echo ${{PIPESTATUS[0]}}"
    said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in said.stderr
    assert "BrokenPipe" not in said.stderr


# mine


def test_mine_writes_triplets_that_can_be_read(textsiam, model, twin_saved, pair_file, tmp_path):
    from textsiam.data.pairs import read_pairs
    from textsiam.training.mining.offline import mine
    from textsiam.training.settings import Mining

    output = tmp_path / "out" / "triplets.tsv"
    options = ("--category", "hard", "--negatives", "2", "--max-similarity", "0.99")
    said = textsiam("mine", model, pair_file, *options, "--output", output)
    assert (said.status, said.out) == (0, "")
    expected = mine(twin_saved, read_pairs(pair_file), Mining("hard", negatives=2, max_similarity=0.99))
    found, written = said.err.splitlines()
    assert found.startswith(f"{expected.found} of 48 pairs of duplicates have a hard negative")
    assert written == f"{len(expected)} triplets written to {output}"
    assert output.read_text().startswith("anchor\tpositive\tnegative\n")
    assert output.read_text().count("\n") == len(expected) + 1
    made = read_pairs(output)
    assert made.positives == len(np.unique(expected.row))
    said = textsiam("mine", model, pair_file, *options, "--output", output, "--json")
    assert said.json == expected.summary()
    assert said.json["triplets"] == len(expected) > 0


def test_mine_knows_the_duplicates_of_other_files(textsiam, model, tmp_path):
    pairs, known = tmp_path / "pairs.tsv", tmp_path / "known.tsv"
    pairs.write_text("question1\tquestion2\tis_duplicate\na\tp\t1\nx\ty\t0\n")
    known.write_text("question1\tquestion2\tis_duplicate\na\tx\t1\n")
    output = tmp_path / "triplets.jsonl"
    options = ("--category", "random", "--negatives", "5", "--output", output)
    for more, expected in (((), {"x", "y"}), (("--known", known), {"y"})):
        assert textsiam("mine", model, pairs, *options, *more).status == 0
        assert {json.loads(line)["negative"] for line in output.read_text().splitlines()} == expected


def test_mine_asks_a_cross_encoder(textsiam, model, pair_file, tmp_path, monkeypatch):
    from textsiam.training.mining import offline as mining

    monkeypatch.setattr(mining, "cross_encoder_check", lambda name: lambda left, right: np.ones(len(left)))
    output = tmp_path / "out.csv"
    said = textsiam("mine", model, pair_file, "--category", "hard", "--check", "some/model", "--output", output)
    assert said.status == 0
    assert "0 of 48 pairs of duplicates have a hard negative; " in said.err
    assert "dropped: called a duplicate by the check" in said.err
    assert output.read_text() == "anchor,positive,negative\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--margin", "0"), ["margin must be > 0, got 0.0"]),
        (("--rank-from", "3"), ["rank_from and rank_to go together"]),
        (("--check", "no/such-model"), ["no/such-model: cannot be opened as a cross-encoder"]),
    ],
)
def test_mine_errors_are_one_line(textsiam, model, pair_file, tmp_path, options, words):
    said = textsiam("mine", model, pair_file, "--output", tmp_path / "triplets.tsv", *options)
    assert_one_line(said, *words)
    assert not (tmp_path / "triplets.tsv").exists()


def test_mine_refuses_an_ending_and_a_file_without_duplicates(textsiam, model, pair_file, tmp_path):
    said = textsiam("mine", "no/model", pair_file, "--output", tmp_path / "out.xlsx")  # before the model is opened
    assert_one_line(said, "expected .tsv, .csv, .jsonl or .parquet")
    pairs = tmp_path / "others.tsv"
    pairs.write_text("question1\tquestion2\tis_duplicate\na\tb\t0\n")
    said = textsiam("mine", model, pairs, "--output", tmp_path / "out.tsv")
    assert_one_line(said, "others.tsv: no pair of duplicates to mine negatives for")
