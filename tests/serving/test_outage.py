"""The index or the store of decisions goes away under the server, and PostgreSQL comes back."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from textsiam.search.index.folder import FolderIndex
from textsiam.search.ingest import index_model
from textsiam.serving.page.reviews import Reviews

NAME = "outage"


@pytest.fixture(params=["shut", "killed"])
def database(request):
    """The address of a database of its own, and what takes it away: it takes no connections, or its server is dead."""
    yield from (shut if request.param == "shut" else killed)(request)


def shut(request):
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    address = request.getfixturevalue("postgres_address")
    with psycopg.connect(address, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {NAME}")
        before, _, after = address.rpartition(f"/{conninfo_to_dict(address)['dbname']}")

        @contextmanager
        def away():
            admin.execute(f"ALTER DATABASE {NAME} ALLOW_CONNECTIONS false")
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [NAME])
            yield
            admin.execute(f"ALTER DATABASE {NAME} ALLOW_CONNECTIONS true")

        yield f"{before}/{NAME}{after}", away
        admin.execute(f"DROP DATABASE {NAME} WITH (FORCE)")


def killed(request):
    with request.getfixturevalue("postgres_server")() as server:
        import psutil

        @contextmanager
        def away():
            leader = psutil.Process(server.get_pid())
            processes = [leader, *leader.children(recursive=True)]
            for process in processes:
                process.kill()
            psutil.wait_procs(processes, timeout=30)
            yield
            server.ensure_postgres_running()  # which recovers from its log

        yield server.get_uri(), away


def test_an_outage_is_a_503_and_everything_goes_on_afterwards(serve, decided, database):
    from textsiam.search.index.postgres import PostgresIndex

    address, away = database
    index = PostgresIndex.create(f"{address}#questions", index_model(decided))
    reviews = Reviews(address)
    client = serve(index=index, reviews=reviews)
    assert client.put("/questions/1", json={"text": "Why is it red?"}).status_code == 201
    feedback = {"question1": "a?", "question2": "b?", "duplicate": True}
    assert client.post("/feedback", json=feedback).status_code == 200
    with away():
        for answer in (
            client.post("/duplicates", json={"question": "Why is it red?"}),
            client.put("/questions/2", json={"text": "Why is it blue?"}),
            client.post("/feedback", json=feedback),
            client.get("/ui/api/queue"),
        ):
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert "outage" not in answer.text
            assert "postgres" not in answer.text.lower()
        assert client.post("/embed", json={"inputs": "why?"}).status_code == 200
        assert client.get("/health").status_code == 503
        assert client.get("/ping").status_code == 200
    assert client.get("/health").json() == {"status": "ok", "index": "ok", "reviews": "ok"}
    found = client.post("/duplicates", json={"question": "Why is it red?"}).json()
    assert [one["id"] for one in found["duplicates"]] == ["1"]
    assert client.put("/questions/2", json={"text": "Why is it blue?"}).status_code == 201
    assert client.get("/ui/api/queue").json()["counts"]["accepted"] == 1
    index.close()
    reviews.close()


def test_health_tells_that_the_index_or_the_decisions_are_gone(serve, decided, reviews, tmp_path):
    index = FolderIndex.create(tmp_path / "index", index_model(decided))
    client = serve(index=index)
    assert client.get("/health").status_code == 200
    (tmp_path / "index").rename(tmp_path / "elsewhere")
    answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (
        503, {"error": "the index cannot be used at the moment", "error_type": "Unhealthy"}
    )  # fmt: skip
    assert answer.headers["retry-after"]
    FolderIndex.create(tmp_path / "index", index_model(decided)).close()
    assert client.get("/health").status_code == client.post("/duplicates", json={"question": "why?"}).status_code == 503
    index.close()

    client = serve(index=None)
    assert client.get("/health").json() == {"status": "ok", "reviews": "ok"}
    (tmp_path / "reviews.sqlite").unlink()
    assert client.get("/health").json()["error"] == "the store of decisions cannot be used at the moment"
    assert client.head("/health").status_code == 503
    assert client.get("/ping").json() == {"status": "ok"}
