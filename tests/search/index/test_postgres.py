"""What only the index on a server has: HNSW, addresses, a copy in another schema."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("psycopg", reason="the extra 'postgres' is not installed (psycopg)")

import psycopg

from textsiam.search.factory import create_index, open_index
from textsiam.search.index.base import IndexModel, Question, QuestionIndexError
from textsiam.search.index.postgres import PostgresIndex
from textsiam.search.index.postgres_server import Server

DIM = 24
MODEL = IndexModel("first", "a" * 64, DIM)


def unit(count, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def found(index, query, **knobs):
    return [hit.question.id for hit in index.search(query[None], model=MODEL, **knobs)[0]]


@pytest.fixture(scope="module")
def vectors():
    return unit(6000)


@pytest.fixture(scope="module")
def place(postgres_address, vectors):
    """An index of 6,000 questions with HNSW."""
    location = f"{postgres_address}#hnsw"
    index = create_index(location, MODEL)
    rows = [Question(f"q{i}", f"question {i}", {"part": i % 100}) for i in range(6000)]
    index.upsert(rows, vectors, model=MODEL)
    assert index.stats().unmerged == 6000
    index.compact()
    assert index.stats().unmerged == 0
    index.close()
    return location


def scans(place):
    """How often the HNSW index was used."""
    with psycopg.connect(place.partition("#")[0]) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        query = (
            "SELECT sum(idx_scan) FROM pg_stat_user_indexes WHERE indexrelname LIKE '%_hnsw' AND schemaname = 'hnsw'"
        )
        return int(connection.execute(query).fetchone()[0])


def recall(index, exact, queries, **knobs):
    pairs = [(set(found(index, query, **knobs)), set(found(exact, query, **knobs))) for query in queries]
    return sum(len(a & b) for a, b in pairs) / sum(len(b) for _, b in pairs)


def test_hnsw_finds_most_and_more_with_more_candidates(place):
    exact, fine, hasty = (PostgresIndex(place, **knobs) for knobs in ({"exact": True}, {}, {"ef_search": 1}))
    queries = unit(30, seed=1)
    before = scans(place)
    rates = [recall(index, exact, queries, k=10) for index in (hasty, fine)]
    for index in (exact, fine, hasty):
        index.close()
    assert scans(place) > before
    assert rates[0] < rates[1]
    assert rates[1] > 0.95


def test_a_filter_does_not_cut_the_answer_short(place):
    index, exact = PostgresIndex(place), PostgresIndex(place, exact=True)
    for where in ({"part": 7}, {"part": list(range(90))}):
        for query in unit(5, seed=2):
            hits = found(index, query, k=20, where=where)
            assert len(hits) == 20
            allowed = where["part"] if isinstance(where["part"], list) else [where["part"]]
            assert {int(name[1:]) % 100 for name in hits} <= set(allowed)
        assert recall(index, exact, unit(10, seed=3), k=20, where=where) > 0.9
    index.close()
    exact.close()


def test_a_threshold_is_complete_beside_hnsw(place, vectors):
    index = PostgresIndex(place, ef_search=1)
    for query in unit(5, seed=4):
        similarity = (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
        assert set(found(index, query, threshold=0.4)) == {f"q{i}" for i in np.flatnonzero(similarity >= 0.4)}
    index.close()


def test_a_snapshot_is_an_index_of_its_own(place, vectors):
    index = open_index(place)
    copy = open_index(index.snapshot("hnsw_copy"))
    assert copy.count() == 6000
    assert copy.delete(["q7"]) == 1
    copy.upsert([Question("new", "new")], vectors[7:8], model=MODEL)
    copy.compact()
    assert found(copy, vectors[7], k=1) == ["new"]
    assert found(index, vectors[7], k=1) == ["q7"]
    with pytest.raises(QuestionIndexError, match="#hnsw_copy: is there already"):
        index.snapshot("hnsw_copy")
    with pytest.raises(QuestionIndexError, match="index name 'a b'"):
        index.snapshot("a b")
    copy.close()
    index.close()


def test_an_idle_connection_that_the_server_closed_is_replaced(place):
    index = PostgresIndex(place)
    with psycopg.connect(place.partition("#")[0], autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'textsiam'"
        ).fetchall()
    assert ended
    assert index.count() == 6000
    index.close()


def test_a_commit_waits_for_the_disk(postgres_address, place):
    separator = "&" if "?" in postgres_address else "?"
    for option, expected in (("off", "on"), ("local", "local")):
        server = Server(f"{postgres_address}{separator}options=-c%20synchronous_commit%3D{option}#hnsw")
        with server.connection() as connection:
            assert connection.execute("SHOW synchronous_commit").fetchone()[0] == expected
        server.close()


def test_addresses(postgres_address, place):
    with pytest.raises(QuestionIndexError, match="#nothing: holds no index: make one with textsiam index create"):
        open_index(f"{postgres_address}#nothing")
    with pytest.raises(QuestionIndexError, match="#hnsw: is there already"):
        create_index(place, MODEL)
    with pytest.raises(QuestionIndexError, match="index name 'No Name'"):
        open_index(f"{postgres_address}#No Name")
    with pytest.raises(QuestionIndexError, match="no address of a PostgreSQL database") as refused:
        open_index("postgresql://me:s3cret@host/db?nonsense=1")
    assert "s3cret" not in str(refused.value)
    with pytest.raises(QuestionIndexError, match=r"postgresql://me@127.0.0.1:1/db#textsiam: ") as refused:
        open_index("postgresql://me:s3cret@127.0.0.1:1/db")
    assert "s3cret" not in str(refused.value)
    index = open_index(place)
    again = open_index(index.location)  # what is shown can be opened
    assert again.count() == 6000
    again.close()
    index.close()
    with pytest.raises(QuestionIndexError, match="ef_search must be between 1 and 1000"):
        PostgresIndex(place, ef_search=0)
