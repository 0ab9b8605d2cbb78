"""PostgreSQL goes away under the server, and comes back."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from textsiam.search.feeding import index_model
from textsiam.serving.reviews import Reviews

NAME = "outage"


@pytest.fixture
def database(postgres_address):
    """The address of a database of its own, and what shuts it: all connections end, and no new ones are taken."""
    psycopg = pytest.importorskip("psycopg", reason="the extra 'postgres' is not installed (psycopg)")
    from psycopg.conninfo import conninfo_to_dict

    with psycopg.connect(postgres_address, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {NAME}")
        before, _, after = postgres_address.rpartition(f"/{conninfo_to_dict(postgres_address)['dbname']}")

        @contextmanager
        def shut():
            admin.execute(f"ALTER DATABASE {NAME} ALLOW_CONNECTIONS false")
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [NAME])
            yield
            admin.execute(f"ALTER DATABASE {NAME} ALLOW_CONNECTIONS true")

        yield f"{before}/{NAME}{after}", shut
        admin.execute(f"DROP DATABASE {NAME} WITH (FORCE)")


def test_an_outage_is_a_503_and_everything_goes_on_afterwards(serve, decided, database):
    from textsiam.search.postgres import PostgresIndex

    address, shut = database
    index = PostgresIndex.create(f"{address}#questions", index_model(decided))
    reviews = Reviews(address)
    client = serve(index=index, reviews=reviews)
    assert client.put("/questions/1", json={"text": "Why is it red?"}).status_code == 201
    feedback = {"question1": "a?", "question2": "b?", "duplicate": True}
    assert client.post("/feedback", json=feedback).status_code == 200
    with shut():
        for answer in (
            client.post("/duplicates", json={"question": "Why is it red?"}),
            client.put("/questions/2", json={"text": "Why is it blue?"}),
            client.post("/feedback", json=feedback),
            client.get("/ui/api/queue"),
        ):
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert "outage" not in answer.text
        assert client.post("/embed", json={"inputs": "why?"}).status_code == 200
        assert client.get("/health").status_code == 200
    found = client.post("/duplicates", json={"question": "Why is it red?"}).json()
    assert [one["id"] for one in found["duplicates"]] == ["1"]
    assert client.put("/questions/2", json={"text": "Why is it blue?"}).status_code == 201
    assert client.get("/ui/api/queue").json()["counts"]["accepted"] == 1
    index.close()
    reviews.close()
