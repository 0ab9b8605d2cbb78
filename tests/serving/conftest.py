"""A server over a tiny twin: in-process for most tests, on a port of the loopback for real clients."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from textsiam.data.texts import sample_questions
from textsiam.labelling.candidates import find_candidates
from textsiam.labelling.session import Session
from textsiam.models.twin import Twin
from textsiam.search.index.memory import MemoryIndex
from textsiam.search.ingest import index_model
from textsiam.serving.app import create_app
from textsiam.serving.limits import ServerSettings
from textsiam.serving.page.labelling import Labelling
from textsiam.serving.page.reviews import Reviews


@pytest.fixture(scope="session")
def decided(tower, pairs) -> Twin:
    """A tiny twin with a decision: do not change it."""
    return Twin(tower).calibrate(pairs)


@pytest.fixture
def index(decided) -> MemoryIndex:
    """An empty index for the tiny twin."""
    return MemoryIndex(index_model(decided))


@pytest.fixture
def reviews(tmp_path) -> Iterator[Reviews]:
    """An empty store of decisions."""
    store = Reviews(tmp_path / "reviews.sqlite")
    yield store
    store.close()


@pytest.fixture
def serve(decided, index, reviews):
    """Return what makes a client of a server with other settings."""
    clients = []

    def made(twin=decided, index=index, reviews=reviews, **settings) -> TestClient:
        app = create_app(twin, index, reviews=reviews, settings=ServerSettings(**settings), name="tiny")
        client = TestClient(app, raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield made
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(serve) -> TestClient:
    """A client of a server with an index and a store of decisions."""
    return serve()


@contextmanager
def running(app) -> Iterator[str]:
    """Serve an application on a free port; yields its address."""
    import uvicorn

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


@pytest.fixture
def at_port():
    """Return what serves an application on a free port, and yields its address."""
    return running


@contextmanager
def process_of(*arguments, **more):
    """Start a server on a free port; yields the process and what it said when it was ready."""
    command = [sys.executable, "-m", "textsiam.cli", "serve", *map(str, arguments), "--port", "0", "--json"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        command, env={k: v for k, v in os.environ.items() if k != "TEXTSIAM_TOKEN"} | more, **options
    ) as process:
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.extend(process.stderr))
        reader.start()
        try:
            said = ""
            for line in process.stdout:
                said += line
                if line == "}\n":
                    break
            assert said, "".join(errors)
            yield process, json.loads(said), errors
        finally:
            process.kill()
            process.wait()
            reader.join()


@pytest.fixture
def served():
    """Return what runs `textsiam serve` as a process of its own, and yields it, what it said, and its errors."""
    return process_of


@pytest.fixture
def address(decided, index, reviews, tmp_path) -> Iterator[str]:
    """The address of a real server."""
    read = sample_questions()
    read = replace(read, ids=read.ids[:60], texts=read.texts[:60])
    session = Session(find_candidates(decided, read.texts), read.ids, read.texts, tmp_path / "labels.tsv")
    labelling = Labelling(session, read)
    with running(create_app(decided, index, reviews=reviews, labelling=labelling, name="tiny")) as url:
        yield url
