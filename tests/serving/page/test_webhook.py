"""What a forum is told of accepted pairs: signed, in order, at least once, and never twice under another key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

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


def sent(store, forum, count):
    """Send until the forum was told so often; returns headers and bodies."""
    sender = Webhook(store, f"http://127.0.0.1:{forum.server_port}/hook", SECRET, pause=0.01)
    deadline = time.monotonic() + 20
    while len(forum.told) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    sender.close()
    return [(headers, json.loads(body), body) for headers, body in forum.told]


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


def test_undo_tells_and_without_a_webhook_nothing_is_kept(store, forum, reviews):
    store.choose({1: "waiting"}, "accepted")
    store.undo()
    assert [body["type"] for _, body, _ in sent(store, forum, 2)] == ["duplicate.accepted", "duplicate.withdrawn"]
    forum.told.clear()
    reviews.record(Suspect(text1="a?", text2="b?"), duplicate=True)
    assert sent(reviews, forum, 0) == []


@pytest.mark.parametrize("url", ["forum.example", "ftp://forum.example", "https://me:hush@forum.example", "https://"])
def test_an_address_that_cannot_be_sent_to_is_refused(url, monkeypatch):
    monkeypatch.setenv("TEXTSIAM_WEBHOOK_SECRET", SECRET)
    with pytest.raises(ValueError, match="the webhook is"):
        webhook_secret(url)


def test_a_webhook_needs_a_secret(monkeypatch):
    monkeypatch.setenv("TEXTSIAM_WEBHOOK_SECRET", "short")
    with pytest.raises(ValueError, match="TEXTSIAM_WEBHOOK_SECRET must have at least 16 characters, it has 5"):
        webhook_secret("https://forum.example/hook")
