"""`textsiam label`, `textsiam flag --labels` and `textsiam audit`."""

from __future__ import annotations

import csv
import os
import pty
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import Mock
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest

from textsiam.labelling import candidates
from textsiam.labelling.labels import LabelFile
from textsiam.models.twin import Twin
from textsiam.search import duplicates as search
from textsiam.search import gallery_folder
from textsiam.search.join.pair_files import facts_of_found, read_found, write_found


@pytest.fixture(scope="module")
def model(tower, tmp_path_factory) -> Path:
    return Twin(tower).save_pretrained(tmp_path_factory.mktemp("model") / "twin")


@pytest.fixture
def questions(sentences, tmp_path) -> Path:
    (tmp_path / "questions.txt").write_text("\n".join(sentences) + "\n" + sentences[0] + "\n")  # and a copy
    return tmp_path / "questions.txt"


@pytest.fixture
def truth(question_clusters, tmp_path) -> Path:
    rows = [f"{cluster[0]}\t{other}\t1" for cluster in question_clusters for other in cluster[1:]]
    (tmp_path / "truth.tsv").write_text("question1\tquestion2\tis_duplicate\n" + "\n".join(rows) + "\n")
    return tmp_path / "truth.tsv"


def test_answers_are_typed_and_every_one_is_kept(model, questions, textsiam, tmp_path):
    output = tmp_path / "labels.tsv"
    ask = ("label", model, questions, "--output", output, "--labeller", "anna")
    said = textsiam(*ask, typed="y\nn\ns\nu\nn\nwhat\n\nY\nq\n")
    assert said.status == 0, said.err
    assert said.out == ""
    assert said.err.count("y, n, s, u or q?") == 2
    assert "Do both ask the same?" in said.err
    assert f"answers are in {output}: textsiam flag {model} {questions} --labels {output}" in said.err
    lines = [line for line in LabelFile(output).read() if line.answer]
    assert [(line.draw, line.answer) for line in lines] == [
        (0, "y"), (1, "n"), (2, "skip"), (2, "undo"), (2, "n"), (3, "y"),
    ]  # fmt: skip
    assert {line.labeller for line in lines} == {"anna"}
    said = textsiam(*ask, "--json", typed="n\n")  # the end of the input ends it
    assert said.json["answers"] == 5
    assert said.json["pairs"] == 0
    assert said.json["output"] == str(output)
    assert [line.draw for line in LabelFile(output).read()][-1] == 5  # asked, and open


def test_the_command_that_is_named_can_be_pasted(model, sentences, textsiam, tmp_path):
    folder = tmp_path / "a forum"
    folder.mkdir()
    rows = [f'q{k}\tnothing\t"{text}"' for k, text in enumerate(sentences)]
    (folder / "questions.tsv").write_text("\n".join(["key\ttext\ttitle", *rows, "q99\tnothing\t"]) + "\n")
    reading = ("--column", "title", "--id-column", "key", "--on-bad-row", "skip", "--quoted")
    questions, output = folder / "questions.tsv", folder / "labels.tsv"
    said = textsiam("label", model, questions, *reading, "--labels", "40", "--output", output, typed="y\n" * 500)
    assert said.status == 0, said.err
    program, *words = shlex.split(said.err.splitlines()[-1].partition(": ")[2])
    assert (program, words[0]) == ("textsiam", "flag")
    found = textsiam(*words, "--json")
    assert found.status == 0, found.err
    assert {pair["id1"] for pair in found.json["pairs"]} <= {f"q{k}" for k in range(len(sentences))}


def test_pairs_are_those_that_were_scored_when_the_first_was_asked(model, questions, textsiam, tmp_path):
    """So that another processor, which rounds otherwise, flags what was proven."""
    output, kept = tmp_path / "labels.tsv", tmp_path / "labels.candidates.parquet"
    ask = ("label", model, questions, "--labels", "40", "--output", output, "--json")
    certificate = textsiam(*ask, typed="y\n" * 500).json
    found = read_found(kept)
    elsewhere = found._replace(similarity=found.similarity - np.float32(1e-3))
    write_found(kept, [elsewhere], facts=facts_of_found(kept))
    assert textsiam("flag", model, questions, "--labels", output).status == 0
    pairs = textsiam("flag", model, questions, "--labels", output, "--json").json["pairs"]
    similarity = sorted((pair["similarity"] for pair in pairs if pair["question1"] != pair["question2"]), reverse=True)
    assert similarity == pytest.approx(elsewhere.similarity[: certificate["pairs"]].tolist(), abs=1e-6)
    kept.write_bytes(b"PAR1")
    for words in (ask, ("flag", model, questions, "--labels", output)):
        said = textsiam(*words)
        assert (said.status, said.out) == (1, "")
        assert f"error: {kept}: is missing or damaged" in said.err
    kept.unlink()
    assert textsiam(*ask, typed="q\n").json["pairs"] == certificate["pairs"]
    assert np.array_equal(read_found(kept).similarity, found.similarity)  # found anew


def test_flag_writes_what_is_certified_and_says_so(model, questions, textsiam, tmp_path):
    output, flagged = tmp_path / "labels.tsv", tmp_path / "flagged.tsv"
    said = textsiam("label", model, questions, "--labels", "40", "--output", output, "--json", typed="y\n" * 500)
    certificate = said.json
    assert certificate["pairs"] > 0
    said = textsiam("flag", model, questions, "--labels", output, "--output", flagged)
    assert said.status == 0, said.err
    pairs = certificate["pairs"]
    assert f"{pairs} pairs at or above {certificate['threshold']:.4f}: at least 95% are right (certified on" in said.err
    with flagged.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    copies = [row for row in rows if row["question1"] == row["question2"]]
    assert len(copies) == 1
    distinct = {tuple(sorted((row["question1"], row["question2"]))) for row in rows} - {(copies[0]["question1"],) * 2}
    assert len(distinct) == pairs
    assert "clusters are wholly right (estimate)" in said.err
    found = textsiam("flag", model, questions, "--labels", output, "--json").json
    assert found["certificate"]["pairs"] == pairs
    assert found["certificate"]["source"] == str(questions)
    pure = found["pure_clusters"]
    assert pure["clusters"] == len(found["clusters"])
    assert 0 <= pure["low"] <= pure["right"] <= pure["high"] <= pure["clusters"]
    assert found["certificate"]["right"] >= 0.95 * pairs
    found = textsiam("flag", model, questions, "--labels", output, "--precision", "0.6", "--json").json
    assert found["certificate"]["precision"] == 0.6
    assert found["certificate"]["pairs"] >= pairs


def test_flag_compares_the_texts_and_knows_the_model_once(model, questions, textsiam, tmp_path, monkeypatch):
    output, encoded = tmp_path / "labels.tsv", []
    textsiam("label", model, questions, "--labels", "40", "--output", output, typed="y\n" * 500)
    encode = Twin.encode
    monkeypatch.setattr(
        Twin, "encode", lambda twin, texts, **how: encoded.append(len(texts)) or encode(twin, texts, **how)
    )
    known = Mock(wraps=candidates.scorer_fingerprint)
    monkeypatch.setattr(candidates, "scorer_fingerprint", known)
    monkeypatch.setattr(gallery_folder, "scorer_fingerprint", known)
    assert textsiam("flag", model, questions, "--labels", output).status == 0
    assert encoded == [48]  # without the copy
    assert known.call_count == 1


def test_what_was_certified_travels_with_the_model(model, questions, textsiam, tmp_path, truth, monkeypatch):
    output, twin = tmp_path / "labels.tsv", tmp_path / "twin"
    textsiam("label", model, questions, "--labels", "40", "--output", output, typed="y\n" * 500)
    of = ("--labels", output, "--output", twin)
    made = textsiam("calibrate", model, questions, *of, "--json").json
    assert (made["precision"], made["source"]) == (0.95, str(questions))
    said = textsiam("calibrate", model, questions, *of)
    assert said.status == 0, said.err
    sentence = (
        f"learned from {made['answers']} answers about pairs of {questions}: at least 95% of its {made['pairs']} pairs"
    )
    assert sentence in said.out
    assert sentence in (twin / "README.md").read_text()
    # the same questions: what is flagged is certified, and no file of answers is needed
    said = textsiam("flag", twin, questions)
    assert f"{made['pairs']} pairs at or above {made['threshold']:.4f}: at least 95% are right" in said.err
    assert "nothing is certified" not in said.err
    found = textsiam("flag", twin, questions, "--json").json
    assert sentence in found["decision"]
    assert found["certificate"]["model"] == made["model"]
    assert found["picked_pairs"] is None
    # other pairs, or another threshold: the same answers give probabilities, and certify nothing
    other = tmp_path / "other.txt"
    other.write_text(questions.read_text() + "One more?\n")
    for where, how in ((other, ()), (questions, ("--threshold", "0.99"))):
        said = textsiam("flag", twin, where, *how, "--json")
        assert said.json["certificate"] is None
        assert f"nothing is certified of what is flagged here: the decision was {sentence}" in said.err
        assert all(pair["probability"] > 0 for pair in said.json["pairs"])
    some = search.pairs_above  # a search that misses some pairs finds another set
    monkeypatch.setattr(search, "pairs_above", lambda *a, **k: type(some(*a, **k))(*(c[1:] for c in some(*a, **k))))
    assert textsiam("flag", twin, questions, "--json").json["certificate"] is None
    monkeypatch.undo()
    monkeypatch.setenv("COLUMNS", "200")
    said = textsiam("flag", twin, questions, "--precision", "0.5")
    assert said.status == 1
    assert "drawn unequally" in said.err
    labelled = tmp_path / "pairs.tsv"
    labelled.write_text(truth.read_text() + "Why is the sky blue?\tCan dogs eat apples?\t0\n")
    said = textsiam("evaluate", twin, labelled, "--report", tmp_path / "report.html", "--json")
    assert sentence in said.json["decision"]
    assert sentence in (tmp_path / "report.html").read_text()


def test_calibrate_refuses_answers_with_what_they_say_themselves(model, questions, textsiam, tmp_path):
    output = tmp_path / "labels.tsv"
    of = ("calibrate", model, questions, "--labels", output, "--output", tmp_path / "twin")
    assert textsiam(*of, "--prior", "0.1").status == 2
    said = textsiam(*of)
    assert said.status == 2
    assert "no such file; textsiam label makes it" in " ".join(said.err.replace("│", "").split())
    textsiam("label", model, questions, "--output", output, typed="n\n")
    said = textsiam(*of)
    assert said.status == 1
    assert "nothing is certified yet" in said.err
    assert not (tmp_path / "twin").exists()


def test_nothing_certified_is_one_clear_error(model, questions, textsiam, tmp_path):
    output = tmp_path / "labels.tsv"
    textsiam("label", model, questions, "--output", output, typed="n\nn\n")
    said = textsiam("flag", model, questions, "--labels", output, "--output", tmp_path / "flagged.tsv")
    assert said.status == 1
    assert said.err == (
        f"error: {output}: nothing is certified yet at a precision of 0.95 (2 answers): go on with textsiam label\n"
    )
    assert not (tmp_path / "flagged.tsv").exists()


def test_a_few_questions_are_certified_once_every_pair_is_judged(model, textsiam, tmp_path):
    three, output = tmp_path / "three.txt", tmp_path / "three.tsv"
    three.write_text("water the cactus\nwater a cactus\nwater cactus\n")
    said = textsiam("label", model, three, "--output", output, typed="y\ny\ny\n")
    assert "3 pairs at or above" in said.err
    said = textsiam("flag", model, three, "--labels", output, "--output", tmp_path / "flagged.tsv")
    assert said.status == 0, said.err
    assert "3 pairs at or above" in said.err


def test_a_closed_input_is_its_end(model, questions, tmp_path):
    output = tmp_path / "labels.tsv"
    command = [sys.executable, "-m", "textsiam.cli", "label", str(model), str(questions), "--output", str(output)]
    said = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *command], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert f"answers are in {output}" in said.stderr
    assert [line.answer for line in LabelFile(output).read()] == [""]


def test_labelled_pairs_answer_in_place_of_a_person(model, questions, truth, textsiam, tmp_path):
    output = tmp_path / "labels.tsv"
    how = ("--answers", truth, "--labels", 30, "--precision", 0.1, "--output", output, "--json")
    said = textsiam("label", model, questions, *how)
    assert said.status == 0, said.err
    assert said.json["answers"] >= 30
    known = {frozenset(row.split("\t")[:2]) for row in truth.read_text().splitlines()}
    lines = [line for line in LabelFile(output).read() if line.answer]
    assert {line.answer for line in lines} == {"y", "n"}
    assert all(line.answer == "y" for line in lines if frozenset((line.text1, line.text2)) in known)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--precision", "1.5"), "--precision must be between 0 and 1, got 1.5"),
        (("--noise", "0.5"), "--noise must be in [0, 0.5)"),
        (("--labels", "0"), "--labels must be at least 1"),
        (("--seed", "-1"), "--seed must be 0 or more, got -1"),
        (("--precision", "nan"), "--precision must be between 0 and 1, got nan"),
        (("--output", "labels.csv"), "--output labels.csv: answers are a .tsv file"),
    ],
)
def test_options_are_checked(model, questions, textsiam, tmp_path, options, message, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERMINAL_WIDTH", "300")
    said = textsiam("label", model, questions, "--output", tmp_path / "labels.tsv", *options)
    assert said.status == 2
    assert message in " ".join(said.err.replace("│", " ").split())
    assert not (tmp_path / "labels.tsv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--label", "labels.tsv"), "QUESTIONS and --label FILE go together: the file is for answers about them"),
        (("questions.txt",), "QUESTIONS and --label FILE go together: the file is for answers about them"),
        (("questions.txt", "--label", "labels.csv"), "--label labels.csv: answers are a .tsv file"),
        (("questions.txt", "--label", "l.tsv", "--precision", "1"), "--precision must be between 0 and 1, got 1.0"),
        (("questions.txt", "--label", "l.tsv", "--seed", "-1"), "--seed must be 0 or more, got -1"),
        (("--labels", "300"), "--labels goes with --label"),
        (("--on-bad-row", "skip"), "--on-bad-row goes with --label"),
        (("--id-column", "Nr"), "--id-column goes with --label"),
    ],
)
def test_options_of_a_server_that_asks_are_checked(textsiam, options, message, monkeypatch):
    pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERMINAL_WIDTH", "300")
    said = textsiam("serve", "all-MiniLM-L6-v2", *options)
    assert said.status == 2
    assert message in " ".join(said.err.replace("│", " ").split())


def test_a_server_that_asks_reads_as_label_does_and_says_the_same(model, sentences, textsiam, tmp_path, monkeypatch):
    pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
    monkeypatch.setattr("textsiam.serving.runner.run_server", lambda *_, **__: None)
    table = tmp_path / "questions.tsv"
    rows = [f'{k}\t"{sentence}' for k, sentence in enumerate(sentences)]  # a quote that is a sign
    table.write_text("\n".join(["Nr\tTitle", *rows, "99\t"]) + "\n")
    named = ("--column", "Title", "--no-quoted", "--on-bad-row", "skip")
    for options, first in ((named, "2"), ((*named, "--id-column", "Nr"), "0")):
        answers = [tmp_path / f"{command}-{first}.tsv" for command in ("label", "serve")]
        asked = textsiam("label", model, table, "--output", answers[0], *options, typed="q\n")
        served = textsiam("serve", model, table, "--label", answers[1], *options)
        assert (asked.status, served.status) == (0, 0), asked.err + served.err
        notes = [line for line in asked.err.splitlines() if line.startswith(("note: ", "warning: "))]
        assert any("1 of 49 left out" in line for line in notes)
        assert any("line" in line and "ids" in line for line in notes) == (first == "2")
        assert notes == [line for line in served.err.splitlines() if line.startswith(("note: ", "warning: "))]


def test_a_precision_is_not_rounded_up(model, questions, textsiam, tmp_path):
    output = tmp_path / "labels.tsv"
    typed = "y\n" * 2000
    said = textsiam(
        "label", model, questions, "--precision", "0.996", "--labels", "40", "--output", output, typed=typed
    )
    assert said.status == 0, said.err
    assert "at least 99.6% are right" in said.err
    assert "100% right" not in said.err


def test_labels_that_do_not_fit_are_refused(model, questions, textsiam, tmp_path):
    output = tmp_path / "labels.tsv"
    textsiam("label", model, questions, "--output", output, typed="y\n")
    questions.write_text(questions.read_text() + "One more?\n")
    for command in (("label", "--output", output), ("flag", "--labels", output)):
        said = textsiam(command[0], model, questions, *command[1:], typed="y\n")
        assert said.status == 1
        assert said.err.startswith(f"error: {output}: the answers are about another collection")
        assert said.err.count("\n") == 1
    assert textsiam("flag", model, questions, "--labels", tmp_path / "none.tsv").status == 2
    for more in (("--threshold", "0.5"), ("--prior", "0.1"), ("--approximate",), ("--work", tmp_path / "work")):
        said = textsiam("flag", model, questions, "--labels", output, *more)
        assert said.status == 2
        assert "--labels excludes" in said.err
    said = textsiam("label", model, "--output", tmp_path / "other.tsv")
    assert said.status == 2
    assert "expected MODEL QUESTIONS, or --flagged FILE and QUESTIONS" in " ".join(said.err.replace("│", "").split())
    output.write_text(output.read_text().replace("\ty\t", "\tyes\t"))
    said = textsiam("label", model, questions, "--output", output)
    assert said.err == f"error: {output}:3: answer is 'yes', expected y, n, skip or undo\n"


def test_ctrl_c_loses_nothing_and_the_next_run_goes_on(model, questions, textsiam, tmp_path):
    output = tmp_path / "labels.tsv"
    with at_a_terminal("label", model, questions, "--output", output) as terminal:
        shown = terminal.type(None, "y", "n")
        os.write(terminal.master, b"\x03")
        shown += terminal.until("goes on\r\n")
        assert terminal.process.wait(timeout=60) == 130, shown
    assert "Do both ask the same?" in shown
    lines = LabelFile(output).read()
    assert [line.answer for line in lines if line.answer] == ["y", "n"]
    textsiam("label", model, questions, "--output", output, "--labeller", lines[0].labeller, typed="y\n")
    assert [line.draw for line in LabelFile(output).read() if line.answer] == [0, 1, 2]


@pytest.mark.slow
def test_the_whole_way_at_a_terminal(model, question_clusters, tmp_path):
    """From a dump to flagged pairs: import, adapt, label with an undo and Ctrl-C, go on, flag."""
    dump, forum, twin, output = (tmp_path / name for name in ("dump", "forum", "twin", "labels.tsv"))
    dump.mkdir()
    texts = [text for cluster in question_clusters for text in cluster]
    rows = [
        f'<row Id="{n}" PostTypeId="1" CreationDate="2020-01-01T00:{n:02}:00" Score="1" Tags="&lt;made&gt;" '
        f'Title={quoteattr(text)} Body="&lt;p&gt;More on {text.lower()[:-1]}.&lt;/p&gt;" />'
        for n, text in enumerate(texts, 1)
    ]
    links = [
        f'<row Id="{n}" PostId="{3 * n}" RelatedPostId="{3 * n - 1}" LinkTypeId="{3 if n < 3 else 1}" />'
        for n in range(1, 6)
    ]
    (dump / "Posts.xml").write_text("<posts>" + "".join(rows) + "</posts>")
    (dump / "PostLinks.xml").write_text("<postlinks>" + "".join(links) + "</postlinks>")

    def shown_by(*arguments: object) -> str:
        with at_a_terminal(*arguments) as terminal:
            shown = terminal.until(None)
            assert terminal.process.wait(timeout=60) == 0, shown
        return shown

    shown = shown_by("import", "stackexchange", dump, "--site", "made.example.org", "--output", forum)
    assert "48 questions, 2 duplicate and 3 related links written to" in shown
    assert "twin written to" in shown_by("adapt", model, forum, "--pairs", 40, "--output", twin)
    ask = ("label", twin, forum, "--precision", 0.6, "--labels", 12, "--output", output)
    with at_a_terminal(*ask) as terminal:
        shown = terminal.type(None, "y", "n", "s", "u", "y", "what")
        os.write(terminal.master, b"\x03")
        shown += terminal.until("goes on\r\n")
        assert terminal.process.wait(timeout=60) == 130, shown
    assert "y, n, s, u or q?" in shown
    assert [line.answer for line in LabelFile(output).read() if line.answer] == ["y", "n", "skip", "undo", "y"]
    with at_a_terminal(*ask) as terminal:
        assert "[3] looking where duplicates end" in terminal.type(None)
        os.write(terminal.master, b"y\n" * 200)
        shown = terminal.until(None)
        assert terminal.process.wait(timeout=60) == 0, shown
    assert "pairs at or above" in shown
    shown = shown_by("flag", twin, forum, "--labels", output, "--output", tmp_path / "flagged.tsv")
    assert "at least 60% are right (certified on" in " ".join(shown.split())
    with (tmp_path / "flagged.tsv").open(newline="") as file:
        flagged = list(csv.DictReader(file, delimiter="\t"))
    assert flagged[0]["url1"].startswith("https://made.example.org/q/")
    assert flagged[0]["tags2"] == "made"


@dataclass
class Terminal:
    """A command, and the terminal that it runs at."""

    process: subprocess.Popen
    master: int

    def until(self, end: str | None) -> str:
        """Read what is shown until this is among it; None reads to the end."""
        shown, limit = "", time.monotonic() + 120
        while end is None or end not in shown:
            assert time.monotonic() < limit, shown
            if select.select([self.master], [], [], 1.0)[0]:
                try:
                    part = os.read(self.master, 4096)
                except OSError:  # as Linux says that nobody writes there any more
                    part = b""
                if not part:
                    assert end is None, shown
                    break
                shown += part.decode(errors="replace")
        return shown

    def type(self, *lines: str | None) -> str:
        """Type lines, each once the one before was taken (None types nothing); return what is shown."""
        shown = ""
        for line in lines:
            if line is not None:
                os.write(self.master, f"{line}\n".encode())
            shown += self.until("> ")
        return shown


@contextmanager
def at_a_terminal(*arguments: object) -> Iterator[Terminal]:
    """Run a command in a session of its own, whose terminal this is."""
    master, slave = pty.openpty()
    begin = (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = [sys.executable, "-c", begin, sys.executable, "-m", "textsiam.cli", *map(str, arguments)]
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        try:
            yield Terminal(process, master)
        finally:
            process.kill()
            os.close(master)


@pytest.fixture
def flagged(tmp_path) -> Path:
    """The ids of a .txt file are its lines: pairs of one cluster, pairs of two, and a copy."""
    rows = [(3 * i + 1, 3 * i + 2) for i in range(15)] + [(3 * i + 1, 3 * i + 5) for i in range(5)] + [(1, 49)]
    (tmp_path / "flagged.csv").write_text("id1,id2\n" + "\n".join(f"{a},{b}" for a, b in rows) + "\n")
    return tmp_path / "flagged.csv"


def test_flagged_pairs_are_audited(questions, truth, flagged, textsiam, tmp_path):
    output = tmp_path / "audit.tsv"
    ask = ("label", "--flagged", flagged, questions, "--output", output)
    said = textsiam(*ask, typed="y\nn\nu\ns\nq\n")
    assert said.status == 0, said.err
    assert "precision 100.0%" in said.err
    assert f"answers are in {output}: textsiam audit {flagged} --labels {output}" in said.err
    said = textsiam("audit", flagged, "--labels", output, "--json")
    assert (said.json["right"], said.json["wrong"], said.json["unknown"], said.json["pairs"]) == (1, 0, 2, 20)
    output.unlink()
    said = textsiam(*ask, "--answers", truth, "--labels", 12, "--json")
    assert said.json["right"] + said.json["wrong"] == 12
    assert said.json["low"] < 0.75 < said.json["high"]
    textsiam(*ask, "--answers", truth)
    said = textsiam("audit", flagged, "--labels", output)
    assert said.out.splitlines() == [
        "precision 75.0%: all 20 pairs are judged, 15 are right",
        "recall is not known: `textsiam label MODEL QUESTIONS --flagged …` asks about missed pairs, too",
        "9 of 10 clusters are wholly right (estimate)",
        "1 rows are left out: their texts are equal, or the pair is there twice",
    ]


def test_with_a_model_an_audit_asks_what_is_missed(model, questions, truth, flagged, textsiam, tmp_path):
    output = tmp_path / "audit.tsv"
    ask = ("label", model, questions, "--flagged", flagged, "--output", output, "--answers", truth)
    said = textsiam(*ask, "--labels", 60, "--json")
    assert said.status == 0, said.err
    lines = [line for line in LabelFile(output).read() if line.answer]
    assert [line.stage for line in lines[:6]] == ["recall", "prove"] * 3
    flags = {frozenset(row.split(",")) for row in flagged.read_text().split()[1:]}
    assert all((frozenset((line.id1, line.id2)) in flags) == (line.stage == "prove") for line in lines)
    recall = said.json["recall"]
    assert 0 < recall["low"] <= recall["share"] <= recall["high"] < 1  # 15 of 48
    assert recall["low"] <= 15 / 48 <= recall["high"]
    assert said.json["right"] + said.json["wrong"] == 20
    found = textsiam("audit", flagged, "--labels", output, "--json").json
    assert found == {name: said.json[name] for name in found}
    said = textsiam("audit", flagged, "--labels", output)
    assert (
        f"of the duplicates among these and {found['missed']} other candidates; below those nobody looked" in said.out
    )
    said = textsiam("label", "--flagged", flagged, questions, "--output", output, typed="y\n")
    assert said.err == (
        f"error: {output}: was begun with these candidates of a model: go on like that, or begin a new file\n"
    )


def test_an_audit_of_something_else_is_one_clear_error(questions, flagged, textsiam, tmp_path):
    output = tmp_path / "audit.tsv"
    said = textsiam("audit", flagged, "--labels", output)
    assert said.status == 1
    assert said.err == f"error: {output}: no such file, or no answers in it: textsiam label --flagged makes it\n"
    textsiam("label", "--flagged", flagged, questions, "--output", output, typed="y\n")
    flagged.write_text(flagged.read_text() + "40,999\n")
    said = textsiam("audit", flagged, "--labels", output)
    assert said.err == f"error: {output}: the answers are not about the pairs of {flagged} as they are now\n"
    said = textsiam("label", "--flagged", flagged, questions, "--output", output, typed="y\n")
    assert said.err == f"error: {flagged}:23: id2 is '999', which is no question of {questions}\n"
    assert textsiam("audit", flagged, "--labels", output, "--confidence", "95").status == 2
