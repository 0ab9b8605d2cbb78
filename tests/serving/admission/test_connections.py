"""Slow and half-open connections are closed in time; those in use are not."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx2
import pytest

from textsiam.serving.app import create_app
from textsiam.serving.limits import ServerSettings

PATIENCE = 0.5


@pytest.fixture(scope="module")
def impatient(decided):
    """The address of a server that waits half a second."""
    import uvicorn

    from textsiam.serving.admission.connections import patient

    app = create_app(decided, settings=ServerSettings(patience=PATIENCE))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, ws="none", http=patient(PATIENCE), timeout_keep_alive=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        thread.join(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(30)
    listener.close()


@contextmanager
def connected(address):
    place = urlsplit(address)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        yield connection


def ended(connection) -> bytes:
    """What comes until the server closes."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


@pytest.mark.parametrize("start", [b"", b"GE", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ", b"\r\n"])
def test_a_head_that_does_not_come_in_time_ends_the_connection(impatient, start):
    with connected(impatient) as connection:
        connection.sendall(start)
        begun = time.monotonic()
        assert ended(connection) == b""
        assert time.monotonic() - begun < 10


def test_a_head_that_drips_ends_the_connection_too_also_after_an_answer(impatient):
    with connected(impatient) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in connection.recv(65536)
        begun, closed = time.monotonic(), False
        while not closed and time.monotonic() - begun < 10:
            try:
                connection.sendall(b"\r\n")
                connection.settimeout(0.1)
                closed = connection.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                closed = True
        assert closed


def test_a_head_without_an_end_is_bounded(impatient):
    endless = b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 2_000_000
    with connected(impatient) as connection, pytest.raises(OSError, match=r"reset|[Bb]roken|aborted"):
        connection.sendall(endless)


def test_a_body_that_does_not_come_in_time_is_a_408(impatient):
    with connected(impatient) as connection:
        head = (
            b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        )
        connection.sendall(head + b'{"inputs": ')
        answer = ended(connection)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"the body did not come within 0.5 seconds" in answer


def test_an_answer_that_nobody_takes_ends_the_connection(impatient):
    text = b'"' + b"why " * 28 + b'"'
    body = b'{"inputs": [%s]}' % b",".join([text] * 9000)
    with connected(impatient) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
        connection.sendall(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        begun = connection.recv(1)
        threading.Event().wait(2)
        assert len(begun + ended(connection)) < 12_000_000  # of 18 MB: what lies in the system's buffers


def test_one_that_is_used_stays(impatient):
    with httpx2.Client(base_url=impatient) as client:
        for _ in range(4):
            assert client.get("/health").status_code == 200
            threading.Event().wait(0.3)
        body = {"inputs": ["why?"] * 2000}
        assert client.post("/embed", json=body, timeout=60).status_code == 200
