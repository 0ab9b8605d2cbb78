"""`textsiam serve` as a user starts it: a process, real requests, SIGTERM under load, kill -9, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import httpx2
import pytest

from textsiam.models.twin import Twin
from textsiam.serving.page.reviews import Reviews


@pytest.fixture(scope="module")
def saved(tower, pairs, tmp_path_factory):
    return Twin(tower).calibrate(pairs).save_pretrained(tmp_path_factory.mktemp("models") / "tiny")


def environment(**more):
    return {k: v for k, v in os.environ.items() if k != "TEXTSIAM_TOKEN"} | more


def run(*arguments, **more):
    command = [sys.executable, "-m", "textsiam.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(**more), timeout=120)


@pytest.mark.slow
def test_what_was_acknowledged_is_there_after_kill_9(saved, tmp_path, served):
    place = tmp_path / "index"
    assert run("index", "create", saved, place).returncode == 0
    with served(saved, "--index", place) as (_, ready, _), httpx2.Client(base_url=ready["address"]) as client:
        for k in range(5):
            assert client.put(f"/questions/{k}", json={"text": f"Why is number {k} odd?"}).status_code == 201
        body = {"question1": "a?", "question2": "b?", "duplicate": True}
        assert client.post("/feedback", json=body).status_code == 200
    with (
        served(saved, "--index", place) as (process, ready, errors),
        httpx2.Client(base_url=ready["address"], timeout=60) as client,
    ):
        assert client.get("/info").json()["questions"] == 5
        found = client.post("/duplicates", json={"question": "Why is number 3 odd?", "threshold": 0.99}).json()
        assert "3" in {one["id"] for one in found["duplicates"]}
        counts = client.get("/ui/api/queue").json()["counts"]
        assert counts["accepted"] == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    lines = [json.loads(line) for line in errors if line.startswith("{")]
    assert {"request", "path", "status", "milliseconds"} <= set(next(one for one in lines if one["event"] == "request"))


@pytest.mark.slow
def test_sigterm_under_load_answers_what_was_taken_and_ends_in_peace(saved, served):
    statuses, refused = [], []
    with served(saved) as (process, ready, _):

        def ask(number):
            texts = [f"question {number} {k}, why so?" for k in range(300)]
            try:
                with httpx2.Client(base_url=ready["address"], timeout=60) as client:
                    for _ in range(50):
                        statuses.append(client.post("/embed", json={"inputs": texts}).status_code)
            except httpx2.TransportError as error:
                refused.append(error)

        threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        while len(statuses) < 8:
            threads[0].join(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        for thread in threads:
            thread.join()
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 8
    # A client that had no answer was refused a connection, or its idle one was closed: nothing was cut in the middle.
    assert all(
        isinstance(error, (httpx2.ConnectError, httpx2.RemoteProtocolError, httpx2.ReadError)) for error in refused
    )


@pytest.mark.slow
def test_suspects_of_a_file_wait_for_a_moderator_and_decisions_correct_the_model(saved, tmp_path, sentences, served):
    flagged = tmp_path / "flagged.tsv"
    questions = tmp_path / "questions.txt"
    questions.write_text("\n".join(sentences) + "\n")
    out = run("flag", saved, questions, "--threshold", "0.5", "--output", flagged)
    assert out.returncode == 0, out.stderr
    reviews = tmp_path / "reviews.sqlite"
    with served(saved, "--reviews", reviews, "--suspects", flagged) as (_, ready, _):
        assert ready["queued"] > 20
        with httpx2.Client(base_url=ready["address"]) as client:
            pairs = client.get("/ui/api/queue", params={"limit": 40}).json()["pairs"]
            for k, pair in enumerate(pairs):
                body = {"number": pair["number"], "duplicate": k % 4 == 0}
                assert client.post("/ui/api/decisions", json=body).status_code == 200
            (tmp_path / "feedback.tsv").write_text(client.get("/ui/api/export").text)
    command = ("recalibrate", saved, "--feedback", tmp_path / "feedback.tsv")
    shown = run(*command, "--dry-run")
    assert "threshold" in shown.stdout
    assert "nothing was changed" in shown.stderr
    corrected = run(*command, "--output", tmp_path / "corrected", "--json")
    assert corrected.returncode == 0, corrected.stderr
    facts = json.loads(corrected.stdout)
    assert facts["pairs"] == len(pairs)
    assert facts["threshold"] > facts["threshold_before"]
    twin = Twin.from_pretrained(tmp_path / "corrected")
    assert twin.decision.threshold == facts["threshold"]
    assert twin.decision.rule == "probability"
    assert Twin.from_pretrained(saved).decision.threshold == facts["threshold_before"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "0.0.0.0"), "0.0.0.0 can be reached from other machines: set TEXTSIAM_TOKEN"),
        (("--suspects", "flagged.tsv"), "name one with --reviews"),
        (("--index", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_served_is_one_line_on_stderr(saved, arguments, message):
    out = run("serve", saved, *arguments)
    assert out.returncode != 0
    assert message in " ".join(out.stderr.split())
    assert "Traceback" not in out.stderr


def test_a_bad_row_of_suspects_is_named(tmp_path):
    from textsiam.data.tables.errors import DataError
    from textsiam.serving.page.suspects import read_suspects

    place = tmp_path / "flagged.tsv"
    place.write_text("id1\tquestion1\tquestion2\tprobability\n7\ta?\tb?\t0.5\n8\tc?\td?\t1.5\n")
    found = read_suspects(place)
    first = next(found)
    assert (first.id1, first.id2, first.probability, first.similarity) == ("7", None, 0.5, None)
    assert (first.facts1, first.facts2) == ({}, {})
    with pytest.raises(DataError, match=r"flagged.tsv:3: 'probability' is '1.5', expected a number from 0 to 1"):
        next(found)
    place.write_text("question1\tquestion2\turl1\turl2\ttags1\ta\na?\tb?\thttps://a.org/1\t\tx, y\tz\n")
    (known,) = read_suspects(place)
    assert (known.facts1, known.facts2) == ({"url": "https://a.org/1", "tags": "x, y"}, {})
    place.write_text("left\tright\na\tb\n")
    with pytest.raises(DataError, match="question1, question2"):
        next(read_suspects(place))


@pytest.mark.slow
def test_a_port_in_use_is_named(saved, tmp_path, served):
    with served(saved) as (_, ready, _):
        port = ready["address"].rpartition(":")[2]
        out = run("serve", saved, "--port", port)
    assert out.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in out.stderr


def test_a_full_disk_is_a_503_and_nothing_is_half_decided(client, reviews, monkeypatch):
    """The disk of the store is full: SQLite says so at the commit."""
    from textsiam.serving.page.reviews import Suspect

    reviews.add([Suspect(text1="a?", text2="b?", probability=0.9)])
    (pair,) = reviews.queue()
    with reviews._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    reviews.close()  # the limit is a connection's
    from sqlalchemy.event import listen, remove

    def limit(connection, _):
        connection.execute(f"PRAGMA max_page_count={pages}")

    listen(reviews._engine, "connect", limit)
    refused = None
    for number in range(2000):
        body = {"question1": f"left {number} " + "x" * 2000, "question2": "right", "duplicate": True}
        answer = client.post("/feedback", json=body)
        if answer.status_code != 200:
            refused = answer
            break
    assert refused is not None
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    kept = number
    remove(reviews._engine, "connect", limit)
    reviews.close()
    assert reviews.count()["accepted"] == kept
    assert reviews.queue()[0].number == pair.number
    assert client.post("/feedback", json=body).status_code == 200


def test_decisions_of_a_file_and_of_the_store_are_the_same(tmp_path):
    from textsiam.data.pairs import read_pairs
    from textsiam.serving.page.reviews import Suspect
    from textsiam.serving.page.routes import exported

    store = Reviews(tmp_path / "reviews.sqlite")
    odd = [("tab\there?", 'quote "so"?'), ("plain?", "other, with a comma?"), ("ünïcode 🦊?", "back\\slash?")]
    for k, (a, b) in enumerate(odd):
        store.record(Suspect(text1=a, text2=b), duplicate=k % 2 == 0)
    for form in ("tsv", "csv", "jsonl"):
        place = tmp_path / f"feedback.{form}"
        place.write_text("".join(exported(store, form)), encoding="utf-8")
        pairs = read_pairs(place)
        got = [(pairs.texts[i], pairs.texts[j]) for i, j in zip(pairs.left, pairs.right, strict=True)]
        assert got == odd
        assert pairs.labels.tolist() == [1, 0, 1]
    store.close()
