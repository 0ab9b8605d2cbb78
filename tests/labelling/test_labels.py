"""The file of answers: what is written stays, whatever happens to the one who writes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from textsiam.data.tables.errors import DataError
from textsiam.labelling.aim import Aim
from textsiam.labelling.labels import LabelFile
from textsiam.labelling.session import Session

WRITER = """
import sys
import numpy as np
from itertools import combinations
from textsiam.labelling.candidates import Candidates
from textsiam.labelling.aim import Aim
from textsiam.labelling.session import Session
left, right = (np.array(c) for c in zip(*combinations(range(30), 2)))
scores = np.linspace(0.9, 0.1, len(left)).astype(np.float32)
candidates = Candidates(left, right, scores, "ab" * 32, "cd" * 32)
session = Session(candidates, [str(i) for i in range(30)], ["x" * 2000] * 30, sys.argv[1], Aim(0.95, 0.95, 100))
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    question = session.ask(sys.argv[2])
    session.answer(question, "y" if question.score > 0.5 else "n", sys.argv[2])
    print(question.draw, question.again, flush=True)
"""


def writer(path, who: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), who, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def lines(collection, tmp_path):
    """A file with three answers and an open draw."""
    candidates, ids, texts, _ = collection
    session = Session(candidates, ids, texts, tmp_path / "labels.tsv", Aim())
    for answer in ("y", "n", "skip"):
        session.answer(session.ask("anna"), answer, "anna")
    session.ask("anna")
    return tmp_path / "labels.tsv"


def test_what_is_written_is_read(collection, lines):
    _, _, texts, _ = collection
    found = LabelFile(lines).read()
    assert [line.answer for line in found] == ["", "y", "", "n", "", "skip", ""]
    assert [line.draw for line in found] == [0, 0, 1, 1, 2, 2, 3]
    assert {line.labeller for line in found} == {"anna"}
    assert found[0].text1 in texts  # with its tab and quotes
    assert found[0].model == "ab" * 8
    assert found[0].aim == Aim()
    file = LabelFile(lines)
    file.read()
    assert file.read() == []  # only what was added since


@pytest.mark.parametrize("cut", [2, 30, 200])
def test_a_line_that_was_cut_never_was(lines, cut):
    whole = LabelFile(lines).read()
    lines.write_bytes(lines.read_bytes()[:-cut] if cut < 200 else lines.read_bytes() + b"4\tlook\t0")
    kept = LabelFile(lines).read()
    assert kept == (whole if cut == 200 else whole[:-1])
    file = LabelFile(lines)
    with file.exclusive() as (found, opened):
        assert found == kept
        file.append(opened, whole[-1])
    assert LabelFile(lines).read() == [*kept, whole[-1]]


def test_a_header_that_was_cut_never_was(lines):
    lines.write_bytes(lines.read_bytes()[:20])
    file = LabelFile(lines)
    with file.exclusive() as (found, _):
        assert found == []
    assert lines.read_bytes() == b""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("draw\tstage", "id\tstage", ":1: no file of labels: expected the columns draw, stage"),
        ("\n1\t", "\none\t", ":4: draw is 'one', expected a number"),
        ("\n1\t", "\n-1\t", ":4: draw is -1, expected 0 or more"),
        ("\ty\tanna", "\tyes\tanna", ":3: answer is 'yes', expected y, n, skip or undo"),
        ("0\tlook", "0\tlock", ":2: stage is 'lock', expected look, prove, recall, again"),
        ("0\tlook\t", "0\tlook\t7\t", ":2: 22 columns, expected 21"),
        ("\tanna\t2", "\tanna\tx2", ":2: time is 'x2"),
        ("+00:00", "", ":2: time is '2"),
        ("look", "lo\udcffok", ":2: "),
    ],
)
def test_a_damaged_line_is_named(lines, old, new, message):
    text = lines.read_text(encoding="utf-8")
    assert old in text
    lines.write_text(text.replace(old, new, 1), encoding="utf-8", errors="surrogateescape")
    with pytest.raises(DataError) as raised:
        LabelFile(lines).read()
    assert f"{lines}{message}" in str(raised.value)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (3, "9999999999", "among is 9999999999, expected 0 or more, at most 100000000"),
        (4, "nan", "probability is nan, expected a finite number"),
        (6, "inf", "score is inf, expected a finite number"),
        (-7, "nan", "precision is nan, expected between 0 and 1"),
        (-6, "2", "confidence is 2.0, expected between 0 and 1"),
        (-5, "0", "labels is 0, expected at least 1, at most 100000000"),
        (-4, "nan", "noise is nan, expected in [0, 0.5)"),
        (-4, "-1", "noise is -1.0, expected in [0, 0.5)"),
        (-3, "-1", "seed is -1, expected 0 or more"),
    ],
)
def test_a_number_outside_its_limits_is_named(lines, place, value, message):
    text = lines.read_text(encoding="utf-8").split("\n")
    cells = text[3].split("\t")
    cells[place] = value
    lines.write_text("\n".join([*text[:3], "\t".join(cells), *text[4:]]), encoding="utf-8")
    with pytest.raises(DataError) as raised:
        LabelFile(lines).read()
    assert str(raised.value) == f"{lines}:4: {message}"


def test_a_folder_is_no_file_of_labels(tmp_path):
    with pytest.raises(DataError, match="Is a directory"):
        LabelFile(tmp_path).read()


def test_a_very_long_text_can_be_read_again(collection, tmp_path):
    candidates, ids, texts, _ = collection
    long = ["word " * 60_000 + "\0" + text for text in texts]
    session = Session(candidates, ids, long, tmp_path / "labels.tsv", Aim())
    session.answer(session.ask("anna"), "y", "anna")
    assert Session(candidates, ids, long, tmp_path / "labels.tsv").plan.answers == {0: True}


def test_killed_while_writing_loses_no_answer(tmp_path):
    path = tmp_path / "labels.tsv"
    with writer(path, "anna", 10_000) as process:
        said = [process.stdout.readline() for _ in range(12)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.read().splitlines(keepends=True)
    acknowledged = {int(line.split()[0]) for line in said[1:] if line.endswith("\n")}
    with path.open("ab") as file:
        file.write(path.read_bytes().splitlines()[-1][:50])  # at the worst moment
    found = LabelFile(path).read()
    answered = [line.draw for line in found if line.answer]
    assert len(acknowledged) >= 11
    assert acknowledged <= set(answered)
    with writer(path, "anna", 3) as process:  # goes on: at most the draw that was open is asked again
        said = process.stdout.read().splitlines()[1:]
    first = found[-1].draw + bool(found[-1].answer)
    assert [int(line.split()[0]) for line in said] == [first, first + 1, first + 2]
    assert process.returncode == 0


def test_a_last_line_without_its_end_counts_and_is_ended(collection, tmp_path):
    candidates, ids, texts, _ = collection
    path = tmp_path / "labels.tsv"
    session = Session(candidates, ids, texts, path, Aim())
    for answer in ("y", "n", "y"):
        session.answer(session.ask("anna"), answer, "anna")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])  # as editors save it
    reader = Session(candidates, ids, texts, path)
    assert reader.plan.answers == {0: True, 1: False, 2: True}
    assert path.read_bytes() == whole[:-1]  # reading changes nothing
    reader.answer(reader.ask("anna"), "y", "anna")
    assert path.read_bytes().startswith(whole)
    assert Session(candidates, ids, texts, path).plan.answers == {0: True, 1: False, 2: True, 3: True}
    path.write_bytes(whole[:-1])
    again = Session(candidates, ids, texts, path)
    path.write_bytes(whole)  # somebody else ended it
    again.answer(again.ask("bert"), "n", "bert")
    assert Session(candidates, ids, texts, path).plan.answers == {0: True, 1: False, 2: True, 3: False}


def test_a_file_whose_lines_are_there_twice_is_refused(collection, tmp_path):
    candidates, ids, texts, _ = collection
    path = tmp_path / "labels.tsv"
    session = Session(candidates, ids, texts, path, Aim())
    for answer in ("y", "n"):
        session.answer(session.ask("anna"), answer, "anna")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines + lines[1:]))
    with pytest.raises(DataError, match=r"labels.tsv:6: is line 2 again, to the second"):
        Session(candidates, ids, texts, path)


def test_two_at_once_neither_lose_nor_double_a_draw(tmp_path):
    path = tmp_path / "labels.tsv"
    with writer(path, "anna", 25) as anna, writer(path, "bert", 25) as bert:
        said = [process.communicate(timeout=120)[0].splitlines()[1:] for process in (anna, bert)]
    assert (anna.returncode, bert.returncode) == (0, 0)
    own = [{int(line.split()[0]) for line in lines if line.endswith("False")} for lines in said]
    assert not own[0] & own[1]
    found = LabelFile(path).read()
    drawn = [line.draw for line in found if not line.answer and line.stage != "again"]
    assert drawn == list(range(len(own[0] | own[1])))
    ranks = [line.rank for line in found if not line.answer and line.stage != "again"]
    assert len(ranks) == len(set(ranks))
    assert sorted(line.draw for line in found if line.answer and line.stage != "again") == drawn
    assert sum(line.stage == "again" and bool(line.answer) for line in found) == 50 - len(drawn)


@pytest.mark.parametrize("content", [b'{"my": "only copy"}', b"notes", b"draw;rank", b"\xff\xfe"])
def test_a_foreign_file_without_a_line_end_is_not_cut(tmp_path, content):
    (tmp_path / "mine").write_bytes(content)
    file = LabelFile(tmp_path / "mine")
    with pytest.raises(DataError, match="mine:1: no file of labels"):
        file.read()
    with pytest.raises(DataError, match="mine:1: no file of labels"), file.exclusive():
        pass
    assert (tmp_path / "mine").read_bytes() == content


def test_a_byte_order_mark_before_the_header_is_passed_over(lines):
    written = LabelFile(lines).read()
    lines.write_bytes(b"\xef\xbb\xbf" + lines.read_bytes())
    assert LabelFile(lines).read() == written
