"""What every request meets first: the token, sizes, rates, ids, and the log."""

from __future__ import annotations

import json
import logging

import pytest

from textsiam.serving import guard
from textsiam.serving.telemetry import JsonLines

TOKEN = "a-secret-of-the-tests"
ROUTES = [
    ("GET", "/info"), ("GET", "/metrics"), ("POST", "/embed"), ("POST", "/similarity"), ("POST", "/rerank"),
    ("POST", "/v1/embeddings"), ("POST", "/duplicates"), ("PUT", "/questions/1"), ("DELETE", "/questions/1"),
    ("GET", "/questions/1"), ("POST", "/questions:batch"), ("POST", "/feedback"), ("GET", "/ui/api/queue"),
    ("POST", "/ui/api/decisions"), ("POST", "/ui/api/undo"), ("GET", "/ui/api/export"), ("GET", "/openapi.json"),
    ("GET", "/nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_wants_the_token(serve, method, path):
    client = serve(token=TOKEN)
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
    ):
        answer = client.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.request(method, path, headers={"authorization": f"Bearer {TOKEN}"}).status_code != 401


def test_health_and_the_page_itself_need_none_but_show_nothing(serve):
    client = serve(token=TOKEN)
    assert client.get("/health").json() == {"status": "ok", "index": "ok", "reviews": "ok"}
    assert client.get("/ping").json() == {"status": "ok"}
    assert client.get("/ui").status_code == 200
    assert client.get("/ui/files/page.js").status_code in (200, 404)
    assert client.get("/ui/files/..%2Fpage.py").status_code == 404


def test_errors_have_the_shape_that_clients_of_the_route_know(serve):
    client = serve(token=TOKEN)
    assert client.post("/embed").json() == {
        "error": "the bearer token is missing or wrong",
        "error_type": "Unauthorized",
    }
    assert client.post("/v1/embeddings").json()["error"] == {
        "message": "the bearer token is missing or wrong", "type": "Unauthorized", "param": None, "code": 401,
    }  # fmt: skip


@pytest.mark.parametrize(
    "path", ["/questions/%ff", "/questions/%fe", "/gallery/%FF", "/questions/a%C3", "/v1/models/%ff"]
)
def test_a_path_that_is_no_utf8_is_refused(client, index, path):
    answer = client.put(path, json={"text": "Why is it red?"})
    assert answer.status_code == 400
    assert "the path is no UTF-8: it has the byte %" in answer.text
    assert index.count() == 0
    assert client.put("/questions/%EF%BF%BD", json={"text": "Why is it red?"}).status_code == 201


def test_a_large_body_is_refused_by_its_head_and_by_what_comes(serve):
    client = serve(max_body=1000)
    announced = client.post("/embed", json={"inputs": "x" * 2000})
    assert announced.status_code == 413
    assert "at most 1,000 are taken" in announced.json()["error"]

    def piecemeal():
        yield b'{"inputs": "'
        for _ in range(20):
            yield b"x" * 100
        yield b'"}'

    streamed = client.post("/embed", content=piecemeal(), headers={"content-type": "application/json"})
    assert streamed.status_code == 413
    assert streamed.json()["error"] == "the body has more than 1,000 bytes"
    assert client.post("/embed", json={"inputs": "fine"}).status_code == 200


def test_a_client_that_asks_too_often_is_told_when_to_come_back(serve):
    client = serve(requests_per_minute=3)
    answers = [client.get("/info") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert 55 <= int(answers[-1].headers["retry-after"]) <= 60  # when the first of the three is a minute old
    assert answers[-1].json()["error"] == "at most 3 requests a minute are taken from one address, testclient"
    assert client.get("/health").status_code == 200


def test_no_minute_holds_more_requests_than_are_taken(monkeypatch):
    now = 1000.0
    monkeypatch.setattr("time.time", lambda: now)
    rate = guard._Rate(3)
    assert [rate.wait("a") for _ in range(2)] == [0, 0]
    now += 50
    assert [rate.wait("a") for _ in range(3)] == [0, 10, 10]
    assert rate.wait("b") == 0
    now += 11  # two of the three are past, and the refused ones never counted
    assert [rate.wait("a") for _ in range(3)] == [0, 0, 49]


def test_a_client_that_obeys_is_admitted(serve, monkeypatch):
    now = 1000.25
    monkeypatch.setattr("time.time", lambda: now)
    client = serve(requests_per_minute=2)
    for _ in range(5):
        while (answer := client.get("/info")).status_code == 200:
            now += 0.4
        assert answer.status_code == 429
        now += int(answer.headers["retry-after"])
        assert client.get("/info").status_code == 200


def test_guesses_at_the_token_count(serve):
    client = serve(token=TOKEN, requests_per_minute=3)
    head = {"authorization": "Bearer wrong"}
    assert [client.get("/info", headers=head).status_code for _ in range(5)] == [401, 401, 401, 429, 429]
    assert client.get("/info", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 429
    assert client.get("/ui").status_code == 200


def test_an_ipv6_client_has_one_network_and_not_one_address():
    def counted(address):
        return guard._counted({"client": (address, 1)})

    assert counted("2001:db8::1") == counted("2001:db8::ffff:2") == "2001:db8::/64"
    assert counted("2001:db8:0:1::1") != counted("2001:db8::1")
    assert counted("10.0.0.1") == counted("::ffff:10.0.0.1") == "10.0.0.1"
    assert guard._counted({"client": None}) == "unknown"


def test_many_clients_are_not_remembered_for_ever(monkeypatch):
    monkeypatch.setattr(guard, "_CLIENTS", 20)
    rate = guard._Rate(1)
    for number in range(500):
        assert rate.wait(f"10.0.0.{number}") == 0
    assert len(rate._clients) == len(rate._storage.events) == 20
    assert rate.wait("10.0.0.499") > 0
    assert rate.wait("10.0.0.1") == 0  # forgotten


def test_a_request_keeps_its_id_and_a_strange_one_is_replaced(client):
    assert client.get("/health", headers={"x-request-id": "forum-17"}).headers["x-request-id"] == "forum-17"
    for strange in ("a b", "x" * 65, "a\tb", ""):
        assert client.get("/health", headers={"x-request-id": strange}).headers["x-request-id"] != strange


def test_requests_are_counted_and_logged_and_writes_leave_a_line_of_their_own(client, caplog):
    with caplog.at_level(logging.INFO, logger="textsiam.serving"):
        client.post("/embed", json={"inputs": "a secret question"}, headers={"x-request-id": "r1"})
        client.put("/questions/7", json={"text": "Why?"}, headers={"x-request-id": "r2"})
    lines = {record.facts["request"]: (record.getMessage(), record.facts) for record in caplog.records}
    assert lines["r1"][0] == "request"
    assert lines["r2"][0] == "write"
    assert lines["r2"][1]["path"] == "/questions/7"
    assert lines["r2"][1]["status"] == 201
    assert lines["r1"][1]["milliseconds"] > 0
    assert "secret question" not in caplog.text
    metrics = client.get("/metrics").text
    assert 'textsiam_requests_total{method="PUT",route="/questions/{id}",status="201"} 1.0' in metrics
    assert 'textsiam_request_seconds_count{route="/embed"} 1.0' in metrics
    assert "textsiam_queue_tokens 0.0" in metrics


def test_unknown_paths_do_not_fill_the_metrics(client):
    for number in range(5):
        assert client.get(f"/nothing/{number}").status_code == 404
    assert 'route="none"' in client.get("/metrics").text
    assert "/nothing" not in client.get("/metrics").text


def test_a_log_line_is_json_on_one_line():
    record = logging.LogRecord("textsiam.serving", logging.INFO, "f", 1, "request", None, None)
    record.facts = {"path": "/a\nb"}
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line)["path"] == "/a\nb"
