"""Writes are done whole or not at all, and the queue of suspects follows the questions."""

from __future__ import annotations

import shutil
from urllib.parse import quote

import httpx2
import pytest

from textsiam.search.index.base import Question, QuestionIndexError
from textsiam.search.index.folder import FolderIndex
from textsiam.search.index.memory import MemoryIndex
from textsiam.search.ingest import index_model
from textsiam.serving.page.reviews import Reviews, ReviewsError, Suspect


@pytest.fixture(params=["memory", "folder"])
def kept(request, decided, tmp_path):
    """An index for the tiny twin."""
    if request.param == "memory":
        return MemoryIndex(index_model(decided))
    return FolderIndex.create(tmp_path / "index", index_model(decided))


def put(client, **texts):
    return client.post("/questions:batch", json={"upsert": [{"id": k, "text": text} for k, text in texts.items()]})


def test_a_refused_upsert_leaves_what_should_have_been_deleted(serve, kept, decided, monkeypatch):
    client = serve(index=kept)
    put(client, a="Why so?", b="How so?")

    def full(*_, **__):
        raise QuestionIndexError("the disk is full")

    body = {"delete": ["a", "none"], "upsert": [{"id": "c", "text": "What for?"}]}
    with monkeypatch.context() as patch:
        if isinstance(kept, FolderIndex):
            patch.setattr("textsiam.search.index.journal.write_rows", full)
        else:
            patch.setattr("textsiam.search.index.memory.check_questions", full)
        assert client.post("/questions:batch", json=body).status_code == 503
    assert [q is not None for q in kept.get(["a", "b", "c"])] == [True, True, False]
    assert client.post("/questions:batch", json=body).json()["deleted"] == 1
    assert [q is not None for q in kept.get(["a", "b", "c"])] == [False, True, True]


def test_a_question_that_is_deleted_and_kept_again_is_new(serve, kept):
    client = serve(index=kept)
    put(client, a="Why so?", b="Why so!")
    body = {"delete": ["a"], "upsert": [{"id": "a", "text": "Why so?"}]}
    assert client.post("/questions:batch", json=body).json() == {"upserted": 1, "deleted": 1, "suspects": 0}
    found = client.post("/duplicates", json={"question": "Why so?", "threshold": -1}).json()["duplicates"]
    assert {one["id"] for one in found} == {"a", "b"}


def test_a_queue_that_cannot_be_written_leaves_the_index_as_it_was(serve, kept, reviews, sentences, monkeypatch):
    client = serve(index=kept)
    put(client, **{f"q{k}": text for k, text in enumerate(sentences[:6])})
    before, vectors = kept.get(["q0", "q1", "q2", "new"]), kept.vectors(["q0", "q1", "q2"])

    def full(*_, **__):
        raise ReviewsError("reviews.sqlite: database or disk is full")

    writes = [
        ("PUT", "/questions/new", {"text": sentences[0].lower()}),
        ("PUT", "/questions/q0", {"text": sentences[1].lower(), "metadata": {"k": 1}}),
        ("DELETE", "/questions/q1", None),
        ("POST", "/questions:batch", {"delete": ["q2"], "upsert": [{"id": "new", "text": sentences[3].lower()}]}),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(reviews, "_put", full)
        patch.setattr(reviews, "follow", full)
        for method, path, body in writes:
            answer = client.request(method, path, json=body)
            assert answer.status_code == 503
            assert kept.get(["q0", "q1", "q2", "new"]) == before
            assert (kept.vectors(["q0", "q1", "q2"]) == vectors).all()
    for method, path, body in writes:
        assert client.request(method, path, json=body).status_code in (200, 201)


def test_a_folder_that_was_deleted_under_the_server_acknowledges_nothing(serve, decided, tmp_path):
    place = tmp_path / "index"
    client = serve(index=FolderIndex.create(place, index_model(decided)))
    assert client.put("/questions/1", json={"text": "Why?"}).status_code == 201
    shutil.rmtree(place)
    for _ in range(2):
        assert client.put("/questions/2", json={"text": "How?"}).status_code == 503
        assert client.get("/questions/1").status_code == 503
        assert client.post("/duplicates", json={"question": "How?"}).status_code == 503
    FolderIndex.create(place, index_model(decided)).close()
    assert client.put("/questions/2", json={"text": "How?"}).status_code == 503  # it is another index


def test_a_store_that_was_deleted_under_the_server_acknowledges_nothing(serve, tmp_path):
    store = Reviews(tmp_path / "other.sqlite")
    client = serve(reviews=store)
    body = {"question1": "a?", "question2": "b?", "duplicate": True}
    assert client.post("/feedback", json=body).status_code == 200
    (tmp_path / "other.sqlite").unlink()
    assert client.post("/feedback", json=body | {"duplicate": False}).status_code == 503
    assert client.get("/ui/api/queue").status_code == 503
    assert not (tmp_path / "other.sqlite").exists()
    store.close()


@pytest.mark.parametrize("name", ["a/b", "/a", "a/", "//", "a/b/c", "..%2Fx", "a%2Fb", "ü/🦊", "a?b#c", "a\nb", "%"])
def test_an_id_may_be_anything(address, index, name):
    path, client = f"{address}/questions/{quote(name, safe='')}", httpx2
    assert client.put(path, json={"text": "Why?"}).status_code == 201
    assert index.get([name]) == [Question(name, "Why?")]
    assert client.get(path).json()["id"] == name
    assert client.delete(path).json()["deleted"] == 1
    assert 'route="/questions/{id}"' in client.get(f"{address}/metrics").text


def test_suspects_follow_their_questions(client, reviews, sentences):
    def waiting():
        return {frozenset((p.suspect.id1, p.suspect.id2)) for p in reviews.queue(limit=500)}

    def pairs_of(name):
        return {pair for pair in waiting() if name in pair}

    put(client, **{f"q{k}": text for k, text in enumerate(sentences[:9])})
    client.put("/questions/new", json={"text": sentences[0].lower()})
    assert frozenset(("new", "q0")) in waiting()
    others = waiting() - pairs_of("new")
    client.put("/questions/new", json={"text": "zebra crossing"})
    texts = {text for pair in reviews.queue(limit=500) for text in (pair.suspect.text1, pair.suspect.text2)}
    assert sentences[0].lower() not in texts
    assert others <= waiting()
    client.put("/questions/new", json={"text": sentences[0].lower()})
    assert frozenset(("new", "q0")) in waiting()  # and back again
    client.put("/questions/new", json={"text": sentences[0].lower(), "metadata": {"url": "https://a.example"}})
    (pair,) = [p for p in reviews.queue(limit=500) if {p.suspect.id1, p.suspect.id2} == {"new", "q0"}]
    assert {"url": "https://a.example"} in (pair.suspect.facts1, pair.suspect.facts2)
    counted = reviews.count()["waiting"]
    gone = len(pairs_of("new"))
    assert client.delete("/questions/new").status_code == 200
    assert pairs_of("new") == set()
    assert reviews.count()["waiting"] == counted - gone
    late = client.post("/ui/api/decisions", json={"number": pair.number, "duplicate": True})
    assert late.status_code == 404
    assert client.get(f"/ui/api/clusters/{pair.number}").status_code == 404


def test_decisions_and_suspects_of_a_file_stay(client, reviews):
    put(client, a="Why is it red?", b="How is it red?")
    pairs = [Suspect(text1="Why is it red?", text2="How is it red?", id1="a", id2="b", probability=0.9),
             Suspect(text1="x?", text2="y?", probability=0.9)]  # fmt: skip
    reviews.add(pairs)
    number = next(p.number for p in reviews.queue(limit=500) if p.suspect.id1 == "a" or p.suspect.id2 == "a")
    client.post("/ui/api/decisions", json={"number": number, "duplicate": True})
    client.delete("/questions/a")
    assert [p.number for p in reviews.decided()] == [number]
    assert "x?" in {p.suspect.text1 for p in reviews.queue()}
    assert reviews.follow(["b"], {}, pairs[:1]) == 0  # decided pairs do not come back
