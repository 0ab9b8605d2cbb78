"""What a forum is told of accepted pairs: signed, in order, at least once, and never twice under another key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

import httpx2

from textsiam.models.twin import Twin
from textsiam.serving.page import webhook
from textsiam.serving.page.reviews import Reviews, Suspect
from textsiam.serving.page.webhook import Webhook, signed_headers, webhook_secret

SECRET = "a-secret-of-some-length"


@pytest.fixture
def forum():
    """A forum that keeps what it is told; the statuses in `answers` come first, None loses the answer."""

    class Told(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            status = server.answers.pop(0) if server.answers else 200
            server.told.append(({name.lower(): value for name, value in self.headers.items()}, body))
            if status is not None:
                self.send_response(status)
                self.send_header("location", "/elsewhere")
                self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Told)
    server.answers, server.told = [], []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def store(tmp_path):
    with closing(Reviews(tmp_path / "reviews.sqlite", announce=True)) as made:
        made.add([Suspect(text1="a?", text2="b?", id1="7", id2="9", facts1={"url": "https://forum.example/t/7"}),
                  Suspect(text1="c?", text2="d?")])  # fmt: skip
        yield made


def wait_until_told(forum, count, patience=20):
    """Wait until the forum was told so often; returns headers, what was said, and its bytes."""
    deadline = time.monotonic() + patience
    while len(forum.told) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return [(headers, json.loads(body), body) for headers, body in forum.told]


def sent(store, forum, count):
    """Send until the forum was told so often."""
    sender = Webhook(store, f"http://127.0.0.1:{forum.server_port}/hook", SECRET, pause=0.01)
    told = wait_until_told(forum, count)
    sender.close()
    return told


def test_an_accepted_pair_is_told_signed(store, forum):
    store.choose({1: "waiting"}, "accepted", moderator="Anna", note="n", canonical="a?")
    store.choose({2: "waiting"}, "rejected")
    ((headers, told, body),) = sent(store, forum, 1)
    assert (told["type"], told["data"]["moderator"], told["data"]["number"]) == ("duplicate.accepted", "Anna", 1)
    assert told["data"]["canonical"] == {"text": "a?", "id": "7", "url": "https://forum.example/t/7"}
    assert (told["data"]["suspect"]["id1"], told["data"]["suspect"]["id2"]) == ("7", "9")
    assert headers["idempotency-key"] == headers["webhook-id"] == told["id"]
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    signed = f"{told['id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_the_signature_is_that_of_the_standard():
    """The example of the Standard Webhooks specification."""
    body = b'{"test": 2432232314}'
    headers = signed_headers("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", body, 1614265330)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("failure", [500, 302, None])
def test_what_was_not_taken_is_sent_again_under_the_same_key(store, forum, failure):
    forum.answers = [failure, 503]
    store.choose({1: "waiting"}, "accepted")
    told = sent(store, forum, 3)
    assert len({headers["webhook-id"] for headers, _, _ in told}) == 1
    assert len(told) == 3
    forum.told.clear()
    assert sent(store, forum, 0) == []


def test_what_was_taken_back_is_told_after_it_and_survives_a_restart(store, forum):
    store.choose({1: "waiting", 2: "waiting"}, "accepted")
    store.choose({1: "accepted"}, "rejected", moderator="Bert")
    forum.answers = [500]  # of pair 1: pair 2 does not wait for it
    with closing(Reviews(store.location.removeprefix("sqlite:///"))) as again:
        told = [(body["type"], body["data"]["number"]) for _, body, _ in sent(again, forum, 4)]
    assert told[1] == ("duplicate.accepted", 2)
    assert [kind for kind, number in told if number == 1] == [
        "duplicate.accepted", "duplicate.accepted", "duplicate.withdrawn",
    ]  # fmt: skip


def test_what_was_begun_to_be_sent_when_the_process_died_is_sent_under_the_same_key(store, forum, monkeypatch):
    monkeypatch.setattr(webhook, "_LEASE", 0.2)
    store.choose({1: "waiting"}, "accepted")
    with monkeypatch.context() as patch:
        patch.setattr(Webhook, "_run", lambda _: None)
        entry = Webhook(store, "http://127.0.0.1:9/", SECRET)._claim()  # and no more is heard of it
    assert [headers["webhook-id"] for headers, _, _ in sent(store, forum, 1)] == [entry.key]


@pytest.mark.slow
def test_a_served_decision_reaches_a_forum_that_refuses_it_first_and_after_kill_9(tower, tmp_path, forum, served):
    model, path = Twin(tower).save_pretrained(tmp_path / "twin"), tmp_path / "flagged.tsv"
    path.write_text("question1\tquestion2\n" + "".join(f"left {k}\tright {k}\n" for k in range(12)))
    arguments = (model, "--reviews", tmp_path / "reviews.sqlite", "--suspects", path,
                 "--webhook", f"http://127.0.0.1:{forum.server_port}/hook")  # fmt: skip

    def accept(address, numbers):
        for number in numbers:
            body = {"number": number, "choice": "accepted", "was": "waiting"}
            assert httpx2.post(f"{address}/ui/api/decisions", json=body, timeout=60).status_code == 200

    with served(*arguments, TEXTSIAM_WEBHOOK_SECRET=SECRET) as (process, ready, _):
        forum.answers = [500, 500]
        accept(ready["address"], [1])
        first = wait_until_told(forum, 3, 60)
        assert [said["data"]["number"] for _, said, _ in first] == [1, 1, 1]
        assert len({headers["idempotency-key"] for headers, _, _ in first}) == 1
        assert len(first) == 3
        forum.answers = [500] * 10_000
        accept(ready["address"], range(2, 12))
        process.kill()
        process.wait()
    forum.answers.clear()
    refused = [(headers["idempotency-key"], said["data"]["number"]) for headers, said, _ in wait_until_told(forum, 0)][
        3:
    ]
    forum.told.clear()
    with served(*arguments, TEXTSIAM_WEBHOOK_SECRET=SECRET):
        # what was being sent when the process died is sent a minute later
        taken = [
            (headers["idempotency-key"], said["data"]["number"]) for headers, said, _ in wait_until_told(forum, 10, 90)
        ]
    assert sorted(number for _, number in taken) == list(range(2, 12))
    assert len({key for key, _ in taken}) == 10
    assert set(refused) <= set(taken)  # under the same keys


def test_undo_tells_and_without_a_webhook_nothing_is_kept(store, forum, reviews):
    store.choose({1: "waiting"}, "accepted")
    store.undo()
    assert [body["type"] for _, body, _ in sent(store, forum, 2)] == ["duplicate.accepted", "duplicate.withdrawn"]
    forum.told.clear()
    reviews.record(Suspect(text1="a?", text2="b?"), duplicate=True)
    assert sent(reviews, forum, 0) == []


@pytest.mark.parametrize(
    "url",
    ["forum.example", "ftp://forum.example", "https://me:hush@forum.example", "https://", "http://h:99999/",
     "http://h:0/", "http://h:x/", "http://a b/", "http://h/a b", "http://h/\n", "http://h/\x07", "http://[::1",
     "http://a..b/", "http://h/é"],
)  # fmt: skip
def test_an_address_that_cannot_be_sent_to_is_refused(url, monkeypatch):
    monkeypatch.setenv("TEXTSIAM_WEBHOOK_SECRET", SECRET)
    with pytest.raises(ValueError, match="expected one such as") as caught:
        webhook_secret(url)
    assert str(caught.value).startswith(f"the webhook is {url!r}, ")


@pytest.mark.parametrize("url", ["http://forum.example:8080/a?b=c", "https://[::1]:9/hook", "https://bücher.example/"])
def test_an_address_that_can_be_sent_to_is_taken(url, monkeypatch):
    monkeypatch.setenv("TEXTSIAM_WEBHOOK_SECRET", SECRET)
    assert webhook_secret(url) == SECRET


def test_a_webhook_needs_a_secret(monkeypatch):
    monkeypatch.setenv("TEXTSIAM_WEBHOOK_SECRET", "short")
    with pytest.raises(ValueError, match="TEXTSIAM_WEBHOOK_SECRET must have at least 16 characters, it has 5"):
        webhook_secret("https://forum.example/hook")


def test_the_bridge_of_the_docs_takes_what_is_signed_and_closes_a_topic_once(monkeypatch):
    page = (Path(__file__).resolve().parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    monkeypatch.setenv("TEXTSIAM_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("DISCOURSE_KEY", "k")
    names, called = {}, []
    exec(compile(block.replace("HTTPServer((", "SERVER = HTTPServer((").replace(").serve_forever()", ")")
                 .replace("9000", "0"), "serving.md", "exec"), names)  # fmt: skip
    server = names["SERVER"]
    names["discourse"] = lambda *call: called.append(call)
    names["Bridge"].log_message = lambda *_: None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        event = {"type": "duplicate.accepted", "data": {"suspect": {"id1": "7", "id2": "9"}, "canonical": None}}
        body = json.dumps(event).encode()
        good = signed_headers(SECRET, "one", body, time.time())
        forged = {**good, "webhook-signature": "v1,AAAA"}
        statuses = [httpx2.post(url, content=body, headers=headers).status_code for headers in (good, good, forged)]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert statuses == [204, 204, 401]
    assert [call[:2] for call in called] == [("POST", "/posts.json"), ("PUT", "/t/9/status.json")]
