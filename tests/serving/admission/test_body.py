"""Bodies are bounded before they are parsed: what is counted, what is refused, and how soon."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx2
import pytest

from textsiam.serving.admission.body import ValueCounter

MIB_15 = 15_000_000
ATTACKS = {
    "numbers": (b'{"inputs":[' + b"1," * (MIB_15 // 2) + b"1]}", 413),
    "empty strings": (b'{"inputs":[' + b'"",' * (MIB_15 // 3) + b'""]}', 413),
    "open brackets": (b'{"inputs":' + b"[" * MIB_15, 413),
    "keys": (b"{" + b",".join(b'"k%d":1' % k for k in range(1_000_000)) + b"}", 413),
    "one text": (b'{"inputs":"' + b"\\u0041" * (MIB_15 // 6) + b'"}', 413),
    "one number": (b'{"inputs":' + b"1" * MIB_15 + b"}", 400),
    "UTF-16": (('{"inputs":[' + "1," * (MIB_15 // 4) + "1]}").encode("utf-16-le"), 400),
}


def naive(value) -> int:
    """Commas and openings of a value as JSON."""
    if isinstance(value, dict):
        return 1 + max(len(value) - 1, 0) + sum(map(naive, value.values()))
    if isinstance(value, list):
        return 1 + max(len(value) - 1, 0) + sum(map(naive, value))
    return 0


def strange(rng: random.Random, depth: int = 0):
    kind = rng.random()
    if depth < 4 and kind < 0.3:
        return [strange(rng, depth + 1) for _ in range(rng.randrange(5))]
    if depth < 4 and kind < 0.5:
        return {word(rng): strange(rng, depth + 1) for _ in range(rng.randrange(4))}
    return rng.choice([None, True, 1.5, word(rng), word(rng)])


def word(rng: random.Random) -> str:
    return "".join(rng.choice('a,[{"\\\n🦊é]}:') for _ in range(rng.randrange(12)))


def test_values_are_counted_as_they_are_wherever_a_body_is_cut():
    rng = random.Random(0)
    for _ in range(300):
        value = strange(rng)
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode()
        for _ in range(10):
            cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(6)))
            counter = ValueCounter()
            for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
                counter.add(text[start:end])
            assert counter.count == naive(value), text


@pytest.mark.parametrize("part", [b'\\"' * 500_000, b'"' + b"\\" * 1_000_001, b'"' * 1_000_000, b'"a\\' * 300_000])
def test_counting_takes_as_long_as_the_body_is(part):
    started = time.perf_counter()
    ValueCounter().add(b'"' + part)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_body_is_refused_at_once_and_others_are_answered(address, name):
    body, status = ATTACKS[name]
    place, waits, asked, done = urlsplit(address), [], threading.Event(), threading.Event()

    def watch():
        with httpx2.Client(base_url=address) as client:
            while not done.is_set():
                begun = time.perf_counter()
                assert client.get("/health").status_code == 200
                waits.append(time.perf_counter() - begun)
                asked.set()
                done.wait(0.01)

    watching = threading.Thread(target=watch)
    watching.start()
    assert asked.wait(10)
    waits.clear()
    with socket.create_connection((place.hostname, place.port)) as connection:
        head = f"POST /embed HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        sent = time.perf_counter()
        answer = connection.recv(65536)
        taken = time.perf_counter() - sent
    done.set()
    watching.join()
    assert int(answer.split(b" ")[1]) == status
    assert taken < 0.5  # 0.1 on a machine that does nothing else
    assert max(waits, default=0) < 0.5


def test_lists_are_bounded_by_the_batch_whatever_they_hold(serve, index):
    client = serve(max_batch=50)
    for body in ({"delete": [str(k) for k in range(51)]}, {"upsert": [{"id": str(k), "text": "a"} for k in range(51)]}):
        answer = client.post("/questions:batch", json=body)
        assert answer.status_code == 413
        assert "at most 50 are taken" in answer.json()["error"]
    assert client.post("/duplicates", json={"questions": ["a"] * 51}).status_code == 413
    many = client.post("/questions:batch", json={"delete": ["0"] * 1_000_000})
    assert (many.status_code, many.json()["error"]) == (413, "the body has more than 300,000 values")


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/embed", {"inputs": [True] * 1000}, "inputs[0]: Input should be a valid string"),
        ("/questions:batch", {"delete": [1] * 1000}, "delete[0]: Input should be a valid string"),
        ("/questions:batch", {"upsert": [{}] * 1000}, "upsert[0].text: Field required"),
        ("/questions:batch", {f"k{n}": 1 for n in range(1000)}, "1,000 keys, at most 100 are taken"),
        ("/duplicates", {"question": "a", "where": {f"k{n}": 1 for n in range(101)}}, "where: 101 keys, at most 100"),
    ],
)
def test_the_first_thing_that_is_wrong_is_told(client, path, body, message):
    answer = client.post(path, json=body)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(message)


def test_broken_json_is_a_400_that_says_where(client):
    head = {"content-type": "application/json"}
    answer = client.post("/embed", content=b'{"inputs": ', headers=head)
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "the body is no JSON: Expecting value at character 11",
        "error_type": "Validation",
    }
    for content in (b"[1, 2", b"\xff\xfe", b'{"a": ' + b"1" * 5000 + b"}", b"[" * 100_000, b'{"inputs": "a\0"}'):
        answer = client.post("/embed", content=content, headers=head)
        assert answer.status_code == 400
        assert answer.json()["error_type"] == "Validation"
    assert client.post("/v1/embeddings", content=b"{", headers=head).json()["error"]["code"] == 400
