"""The store of decisions: in SQLite and in PostgreSQL, and after kill -9."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
from contextlib import closing

import pytest
import sqlalchemy as sql

from textsiam.serving.page.reviews import Reviews, ReviewsError, Suspect

NUMBERS = itertools.count(1)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path):
    if request.param == "sqlite":
        location = tmp_path / "reviews.sqlite"
    else:
        address = request.getfixturevalue("postgres_address")
        name = f"reviews_{next(NUMBERS)}"
        base = sql.make_url(address).set(drivername="postgresql+psycopg")
        engine = sql.create_engine(base, isolation_level="AUTOCOMMIT", poolclass=sql.NullPool)
        with engine.connect() as connection:
            connection.execute(sql.text(f"CREATE DATABASE {name}"))
        location = base.set(database=name, drivername="postgresql").render_as_string(hide_password=False)
    made = Reviews(location)
    yield made
    made.close()


def suspect(a, b, probability=None, **rest):
    return Suspect(text1=a, text2=b, probability=probability, **rest)


THREE = [suspect("a?", "b?", 0.3), suspect("c?", "d?", 0.9, id1="1", id2="2"), suspect("e?", "f?", 0.6)]


def texts(pairs):
    return [(pair.suspect.text1, pair.suspect.text2) for pair in pairs]


def test_the_most_probable_comes_first_and_those_without_a_probability_last(store):
    assert store.add([*THREE, suspect("g?", "h?")]) == 4
    assert texts(store.queue()) == [("c?", "d?"), ("e?", "f?"), ("a?", "b?"), ("g?", "h?")]
    assert texts(store.queue(at_least=0.6)) == [("c?", "d?"), ("e?", "f?")]
    assert texts(store.queue(limit=1, offset=1)) == [("e?", "f?")]
    first = store.queue()[0].suspect
    assert (first.id1, first.id2, first.probability) == ("1", "2", 0.9)


def test_a_pair_is_asked_about_once_whichever_text_stands_first(store):
    assert store.add(THREE) == 3
    assert store.add([suspect("b?", "a?", 0.99), suspect("x?", "x?", 1.0)]) == 0
    number = store.queue()[-1].number
    store.decide(number, duplicate=False)
    assert store.add(THREE) == 0
    assert store.count() == {"waiting": 2, "accepted": 0, "rejected": 1}


def test_decisions_are_undone_last_first_and_only_the_page_undoes_its_own(store):
    store.add(THREE)
    first, second, _ = store.queue()
    store.decide(first.number, duplicate=True)
    store.decide(second.number, duplicate=False)
    store.decide(second.number, duplicate=True)
    store.record(suspect("y?", "z?"), duplicate=True)
    assert store.undo().state == "rejected"
    assert store.undo().state == "waiting"
    assert store.count() == {"waiting": 2, "accepted": 2, "rejected": 0}
    undone = store.undo()
    assert (undone.number, undone.state) == (first.number, "waiting")
    assert store.undo() is None
    assert texts(store.decided()) == [("y?", "z?")]


def test_search_looks_into_both_texts_whatever_the_case_and_knows_no_wildcards(store):
    store.add([suspect("100% Sure?", "b?"), suspect("c?", "one hundred SURE"), suspect("e_f", "g?")])
    assert len(store.queue(search="sure")) == 2
    assert len(store.queue(search="%")) == 1
    assert len(store.queue(search="_")) == 1
    assert store.count(search="sure") == {"waiting": 2, "accepted": 0, "rejected": 0}


def test_a_cluster_hangs_together_through_shared_texts_but_not_through_rejected_pairs(store):
    store.add([suspect("a", "b", 0.9), suspect("b", "c", 0.8), suspect("c", "d", 0.7), suspect("x", "y", 0.95)])
    numbers = {(p.suspect.text1, p.suspect.text2): p.number for p in store.queue()}
    assert texts(store.cluster(numbers["a", "b"])) == [("a", "b"), ("b", "c"), ("c", "d")]
    store.decide(numbers["b", "c"], duplicate=False)
    assert texts(store.cluster(numbers["a", "b"])) == [("a", "b")]
    with pytest.raises(KeyError, match="there is no pair 9999"):
        store.cluster(9999)
    with pytest.raises(KeyError, match="there is no pair 9999"):
        store.decide(9999, duplicate=True)


def test_everything_decided_is_given_back_in_pieces(store):
    for number in range(2100):
        if number % 700 == 0:
            store.record(suspect(f"left {number}", f"right {number}"), duplicate=True)
    store.add(suspect(f"left {number}", f"right {number}") for number in range(2100))
    for pair in store.queue(limit=2100)[:1500]:
        store.decide(pair.number, duplicate=False)
    found = list(store.decided())
    assert len(found) == 1503
    assert [p.number for p in found] == sorted(p.number for p in found)


def test_writers_at_once_lose_nothing(store):
    def write(start):
        for number in range(start, start + 25):
            store.record(suspect(f"left {number}", f"right {number}"), duplicate=True)

    threads = [threading.Thread(target=write, args=(100 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count()["accepted"] == 100


def test_any_text_comes_back_as_it_was(store):
    odd = ["line\nbreak", "quote \" ' ;--", "emoji 🦊", "tab\tand\\", " spaces "]
    store.add(suspect(text, f"other {k}", 0.5) for k, text in enumerate(odd))
    assert sorted(p.suspect.text1 for p in store.queue()) == sorted(odd)


def test_a_store_that_cannot_be_opened_is_named_without_its_password(tmp_path):
    with pytest.raises(ReviewsError, match="nowhere"):
        Reviews(tmp_path / "nowhere" / "reviews.sqlite")
    (tmp_path / "text.sqlite").write_text("no database, but a text that is long enough to look like one " * 40)
    with pytest.raises(ReviewsError, match=r"text.sqlite: file is not a database"):
        Reviews(tmp_path / "text.sqlite")
    with pytest.raises(ReviewsError) as refused:
        Reviews("postgresql://me:hush-hush@127.0.0.1:1/none")
    assert "hush-hush" not in str(refused.value)
    with pytest.raises(ReviewsError, match="mysql://"):
        Reviews("mysql://here")


WORKER = """
import sys
from textsiam.serving.page.reviews import Reviews, Suspect
store = Reviews(sys.argv[1])
for number in range(int(sys.argv[2]), 10**9):
    store.record(Suspect(text1=f"left {number}", text2=f"right {number}"), duplicate=bool(number % 2))
    print(number, flush=True)
"""


@pytest.mark.slow
def test_no_acknowledged_decision_is_lost_when_the_process_is_killed(tmp_path):
    """The process is killed in the middle of its work again and again."""
    place, acknowledged = tmp_path / "reviews.sqlite", []
    for kill in range(12):
        command = [sys.executable, "-c", WORKER, str(place), str(1000 * kill)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
            for line in itertools.islice(worker.stdout, 5 + kill):
                acknowledged.append(int(line))
            worker.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in worker.stdout if line.endswith("\n")]
    assert len(acknowledged) > 100
    store = Reviews(place)
    kept = {pair.suspect.text1: pair for pair in store.decided()}
    for number in acknowledged:
        assert kept[f"left {number}"].state == ("accepted" if number % 2 else "rejected")
    for pair in kept.values():
        assert pair.suspect.text2 == pair.suspect.text1.replace("left", "right")
    store.close()


def test_what_is_known_of_the_questions_is_kept(store):
    given = suspect("a?", "b?", facts1={"url": "https://a.org/q/1", "score": 3})
    store.add([given])
    assert [pair.suspect for pair in store.queue()] == [given]


def test_reviews_of_an_earlier_version_are_opened(store):
    store.add(THREE)
    with store._engine.begin() as connection:
        for name in ("facts1", "facts2"):
            connection.execute(sql.text(f"ALTER TABLE textsiam_pairs DROP COLUMN {name}"))
    url = store._engine.url
    location = url.database if url.drivername == "sqlite" else url.set(drivername="postgresql")
    if not isinstance(location, str):
        location = location.render_as_string(hide_password=False)
    with closing(Reviews(location)) as again:
        assert [pair.suspect.facts1 for pair in again.queue()] == [{}, {}, {}]
        again.add([suspect("g?", "h?", facts2={"tags": "x"})])
        assert again.queue(search="g?")[0].suspect.facts2 == {"tags": "x"}
