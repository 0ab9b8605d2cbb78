"""What the page asks is asked, answered and taken back by several people, and no answer is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from textsiam.data.tables.errors import ReadReport
from textsiam.data.texts import Texts
from textsiam.labelling import session as module
from textsiam.labelling.aim import Aim
from textsiam.labelling.candidates import find_candidates
from textsiam.labelling.labels import LabelFile
from textsiam.labelling.session import Session
from textsiam.models.twin import Twin

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from starlette.testclient import TestClient

from textsiam.serving.app import create_app
from textsiam.serving.limits import ServerSettings
from textsiam.serving.page.labelling import Labelling

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def questions(sentences) -> Texts:
    known = {"url": [f"https://example.org/q/{k}" for k in range(len(sentences))], "tags": [""] * len(sentences)}
    return Texts(
        [f"q{k}" for k in range(len(sentences))], sentences, "made", ReadReport("made", 48, 48), metadata=known
    )


@pytest.fixture(scope="module")
def candidates(tower, sentences):
    return find_candidates(Twin(tower), sentences)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.tsv"


@pytest.fixture
def session(candidates, questions, path) -> Session:
    return Session(candidates, questions.ids, questions.texts, path, Aim(0.8, 0.9, 20))


@pytest.fixture
def serve(tower, session, questions):
    """Return what makes a client of a server that asks for labels and does nothing else."""
    clients = []

    def made(**settings) -> TestClient:
        labelling = Labelling(session, questions, command="textsiam flag M F --labels L")
        app = create_app(Twin(tower), labelling=labelling, settings=ServerSettings(**settings))
        clients.append(TestClient(app, raise_server_exceptions=False))
        return clients[-1].__enter__()

    yield made
    for client in clients:
        client.__exit__(None, None, None)


def asked(client, who: str = "anna", route: str = "next", **body) -> dict:
    answer = client.post(f"/ui/api/labels/{route}", json={"labeller": who, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def said(question: dict, answer: str) -> dict:
    return {**{name: question[name] for name in ("draw", "again", "left", "right")}, "answer": answer}


def test_a_pair_is_asked_and_answered_until_the_promise_is_proven(serve, path):
    client = serve()
    found = asked(client)
    question = found["question"]
    assert question["id1"] == f"q{question['left']}"
    assert question["facts1"] == {"url": f"https://example.org/q/{question['left']}"}
    assert "score" not in question
    assert found["progress"] == {
        "answers": 0, "left": None, "pairs": 0, "precision": 0.8, "promised": False, "finished": False, "planned": 20,
        "sentence": "looking where duplicates end",
    }  # fmt: skip
    assert asked(client)["question"] == question  # until it is answered
    count, sentences = 0, set()
    while (question := found["question"]) is not None:
        found, count = asked(client, route="answers", **said(question, "y")), count + 1
        sentences.add(found["progress"]["sentence"])
    assert found["progress"]["finished"]
    assert found["progress"]["answers"] == count >= 20
    assert any(one.endswith("more answers prove 80%") for one in sentences)
    proven = client.get("/ui/api/labels/certificate").json()
    assert proven["certificate"]["pairs"] == found["progress"]["pairs"] > 0
    assert proven["sentences"][0].startswith(f"{found['progress']['pairs']} pairs at or above")
    assert proven["command"] == "textsiam flag M F --labels L"
    assert [line.answer for line in LabelFile(path).read() if line.answer] == ["y"] * count
    assert asked(client)["question"] is None
    assert asked(client, more=True)["question"] is not None


def test_several_people_look_at_different_pairs(serve, session):
    client, people = serve(), ("anna", "bert", "cleo")
    first = [asked(client, who)["question"]["draw"] for who in people]
    assert len(set(first)) == 3
    assert [asked(client, who)["question"]["draw"] for who in people] == first
    for who in people:
        asked(client, who, "answers", **said(asked(client, who)["question"], "n"))
    assert {line.labeller for line in session.lines if line.answer} == set(people)


def test_an_answer_that_comes_twice_counts_once_and_gives_the_same_pair(serve, session):
    client = serve()
    question = asked(client)["question"]
    after = [asked(client, route="answers", **said(question, "y")) for _ in range(2)]
    assert after[0] == after[1]
    assert [line.answer for line in session.lines] == ["", "y", ""]


def test_an_answer_that_comes_late_is_a_second_opinion(serve, session, monkeypatch):
    client = serve()
    question = asked(client)["question"]
    monkeypatch.setattr(module, "_STALE", -module._STALE)  # at once
    assert asked(client, "bert")["question"] == question
    asked(client, "bert", "answers", **said(question, "n"))
    asked(client, "anna", "answers", **said(question, "y"))
    assert session.plan.answers[0] is False
    assert session.disagreements == (1, 1)


def test_one_takes_back_what_one_said_oneself(serve, session):
    client = serve()
    question = asked(client)["question"]
    asked(client, route="answers", **said(question, "y"))
    assert asked(client, "bert", "undo")["question"] is None
    assert asked(client, route="undo")["question"] == question
    assert asked(client, route="undo")["question"] is None
    assert session.plan.answers == {}
    assert asked(client)["question"] == question


def test_what_is_refused_changes_nothing(serve, session):
    client = serve()
    question = asked(client)["question"]
    before = len(session.lines)
    for body in (
        {**said(question, "y"), "answer": "yes"},
        {**said(question, "y"), "draw": -1},
        {**said(question, "y"), "labeller": "  "},
        {**said(question, "y"), "labeller": "a\nb"},
        {**said(question, "y"), "labeller": "a" * 65},
        {**said(question, "y"), "comment": "x"},
    ):
        answer = client.post("/ui/api/labels/answers", json={"labeller": "anna", **body})
        assert answer.status_code == 422, body
        assert set(answer.json()) == {"error", "error_type"}
    for body in ({**said(question, "y"), "draw": 99}, {**said(question, "y"), "left": 0, "right": 1}):
        answer = client.post("/ui/api/labels/answers", json={"labeller": "anna", **body})
        assert (answer.status_code, answer.json()["error"]) == (404, "this pair is not asked about any more")
    assert client.post("/ui/api/labels/undo").status_code == 422  # another site's form has no such body
    assert asked(client)["question"] == question
    assert len(session.lines) == before


def test_a_file_that_cannot_be_written_is_said_and_loses_nothing(serve, session, path, monkeypatch):
    client = serve()
    question = asked(client)["question"]

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LabelFile, "append", full)
        answer = client.post("/ui/api/labels/answers", json={"labeller": "anna", **said(question, "y")})
    assert answer.status_code == 503
    assert answer.json()["error"] == "the file of answers cannot be used at the moment"
    assert int(answer.headers["retry-after"]) >= 5
    asked(client, route="answers", **said(question, "y"))
    path.unlink()
    assert client.post("/ui/api/labels/next", json={"labeller": "anna"}).status_code == 503
    assert asked(client)["question"]["draw"] == 0  # another file is begun


def test_the_page_is_open_and_what_is_behind_it_asks_for_the_token(serve):
    client = serve(token=TOKEN)
    assert client.get("/ui", follow_redirects=False).headers["location"] == "ui/label"
    assert "Do both ask the same?" in client.get("/ui/label").text
    assert "trusted-types" in client.get("/ui/label").headers["content-security-policy"]
    for route in ("next", "undo", "answers"):
        assert client.post(f"/ui/api/labels/{route}", json={"labeller": "anna"}).status_code == 401
    assert client.get("/ui/api/labels/certificate").status_code == 401
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert client.post("/ui/api/labels/next", json={"labeller": "anna"}, headers=bearer).status_code == 200
    assert client.get("/ui/api/queue", headers=bearer).status_code == 404  # there are no reviews


def test_others_are_answered_while_somebody_waits_for_a_pair(serve, session, monkeypatch):
    client, asking, go_on = serve(), threading.Event(), threading.Event()
    draw = session.plan.draw

    def slow():
        asking.set()
        assert go_on.wait(20)
        return draw()

    monkeypatch.setattr(session.plan, "draw", slow)
    waiting = threading.Thread(target=asked, args=(client,))
    waiting.start()
    try:
        assert asking.wait(20)
        assert client.get("/health").status_code == 200
    finally:
        go_on.set()
        waiting.join(20)
    assert not waiting.is_alive()


@pytest.mark.slow
def test_no_answer_is_lost_where_the_server_is_killed(tower, sentences, tmp_path):
    """`textsiam serve --label` is killed with -9 after every acknowledged answer, and goes on."""
    import httpx2

    model, path = Twin(tower).save_pretrained(tmp_path / "twin"), tmp_path / "labels.tsv"
    (tmp_path / "questions.txt").write_text("\n".join(sentences) + "\n")
    command = [sys.executable, "-m", "textsiam.cli", "serve", model, tmp_path / "questions.txt", "--label", path]
    for turn in range(2):
        with subprocess.Popen(
            [*map(str, command), "--port", "0", "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            address = next(line.split('"')[3] for line in lines if '"address"' in line)
            with httpx2.Client(base_url=address, timeout=60) as client:
                for _ in range(5):
                    asked(client, route="answers", **said(asked(client)["question"], "yn"[turn]))
            process.send_signal(signal.SIGKILL)
        answers = [line.answer for line in LabelFile(path).read() if line.answer]
        assert answers == ["y"] * 5 + ["n"] * 5 * turn
