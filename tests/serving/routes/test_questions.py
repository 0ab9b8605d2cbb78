"""Verdicts over HTTP, writes, suspects for moderators, and feedback."""

from __future__ import annotations

import numpy as np
import pytest

from textsiam.decision.collection import CollectionDecision
from textsiam.decision.decision import fit_decision
from textsiam.models.learned import PairHead
from textsiam.models.twin import Twin
from textsiam.search.index.base import IndexModel, QuestionIndexError
from textsiam.search.index.memory import MemoryIndex
from textsiam.search.ingest import index_model
from textsiam.serving.app import create_app


@pytest.fixture
def filled(client, sentences):
    """A client of a server whose index holds the 48 wordings, by id 0 to 47."""
    body = {"upsert": [{"id": str(k), "text": text, "metadata": {"k": k}} for k, text in enumerate(sentences)]}
    assert client.post("/questions:batch", json=body).json()["upserted"] == len(sentences)
    return client


def expected(twin, question, texts, threshold):
    """What plain scoring of all texts says."""
    scores = twin.similarity([question] * len(texts), list(texts))
    order = np.argsort(-scores, kind="stable")
    return [(str(k), float(scores[k])) for k in order if scores[k] >= threshold]


def test_duplicates_are_those_of_plain_scoring(filled, decided, sentences):
    for question in (sentences[0], sentences[20], "Why does bread fall flat?"):
        verdict = filled.post("/duplicates", json={"question": question, "limit": 48}).json()
        plain = expected(decided, question, sentences, decided.decision.threshold)
        assert [d["id"] for d in verdict["duplicates"]] == [k for k, _ in plain]
        assert [d["similarity"] for d in verdict["duplicates"]] == pytest.approx([s for _, s in plain], abs=1e-2)
        odds = decided.decision.probability([d["similarity"] for d in verdict["duplicates"]])
        assert [d["probability"] for d in verdict["duplicates"]] == pytest.approx(odds.tolist())
        assert verdict["duplicate"] == bool(plain)
        assert verdict["threshold"] == decided.decision.threshold


def test_many_questions_at_once_are_answered_in_order(filled, sentences):
    answers = filled.post("/duplicates", json={"questions": sentences[:5], "limit": 1}).json()
    assert [answer["question"] for answer in answers] == sentences[:5]
    assert [answer["duplicates"][0]["text"] for answer in answers] == sentences[:5]


def test_a_threshold_and_a_filter_can_be_asked_for(filled, sentences):
    everything = filled.post("/duplicates", json={"question": sentences[0], "threshold": -1, "limit": 100}).json()
    assert len(everything["duplicates"]) == len(sentences)
    some = filled.post(
        "/duplicates", json={"question": sentences[0], "threshold": -1, "limit": 100, "where": {"k": 7}}
    ).json()
    assert [d["id"] for d in some["duplicates"]] == ["7"]
    assert some["duplicates"][0]["metadata"] == {"k": 7}


def test_the_canonical_question_is_one_of_the_duplicates(filled, sentences):
    verdict = filled.post("/duplicates", json={"question": sentences[0], "threshold": -1, "limit": 100}).json()
    assert verdict["canonical"] in verdict["duplicates"]


def test_a_question_is_kept_replaced_and_forgotten(client):
    assert client.put("/questions/a b", json={"text": "Why?", "metadata": {"lang": "en"}}).status_code == 201
    assert client.get("/questions/a b").json() == {"id": "a b", "text": "Why?", "metadata": {"lang": "en"}}
    assert client.put("/questions/a b", json={"text": "Why so?"}).status_code == 200
    assert client.get("/questions/a b").json()["text"] == "Why so?"
    assert client.delete("/questions/a b").json()["deleted"] == 1
    assert client.get("/questions/a b").status_code == 404
    assert client.delete("/questions/a b").status_code == 404


def test_a_batch_with_one_bad_question_keeps_none(client, index):
    good = {"id": "1", "text": "Why?"}
    for bad in (
        {"id": "2", "text": " "},
        {"id": "1", "text": "twice"},
        {"id": "2", "text": "x", "metadata": {"a b": 1}},
    ):
        answer = client.post("/questions:batch", json={"upsert": [good, bad], "delete": ["0"]})
        assert answer.status_code == 422
        assert index.count() == 0
    assert client.post("/questions:batch", json={}).status_code == 422
    assert client.put("/questions/1", json={"text": "x", "metdata": {}}).json()["error"].startswith("metdata: Extra")


def test_new_questions_that_look_like_others_wait_for_a_moderator(filled, reviews, decided, sentences):
    before = reviews.count()["waiting"]
    copy = sentences[0].lower()
    written = filled.put("/questions/new", json={"text": copy}).json()
    assert written["suspects"] >= 1
    assert reviews.count()["waiting"] == before + written["suspects"]
    best = reviews.queue(search=copy)[0].suspect
    assert {best.id1, best.id2} >= {"new"}
    assert all(0 <= pair.suspect.probability <= 1 for pair in reviews.queue())


def test_feedback_is_kept_as_a_labelled_pair(client, reviews, decided):
    body = {"question1": "Why is it red?", "question2": "What makes it red?", "duplicate": True, "id1": "1"}
    assert client.post("/feedback", json=body).json()["state"] == "accepted"
    assert client.post("/feedback", json=body | {"duplicate": False}).json()["state"] == "rejected"
    (pair,) = reviews.decided()
    assert pair.suspect.id1 == "1"
    assert pair.suspect.similarity == pytest.approx(
        float(decided.similarity(["Why is it red?"], ["What makes it red?"])[0]), abs=1e-2
    )
    same = client.post("/feedback", json=body | {"question2": body["question1"]})
    assert same.status_code == 422


def test_a_server_without_an_index_or_a_store_says_how_to_get_one(serve):
    client = serve(index=None, reviews=None)
    for answer in (client.post("/duplicates", json={"question": "a"}), client.put("/questions/1", json={"text": "a"})):
        assert answer.status_code == 409
        assert "--index" in answer.json()["error"]
    body = {"question1": "a", "question2": "b", "duplicate": True}
    assert "--reviews" in client.post("/feedback", json=body).json()["error"]
    page = client.get("/")
    assert (page.status_code, page.url.path) == (409, "/ui")
    assert "--reviews" in page.json()["error"]


def test_a_twin_without_a_decision_gives_verdicts_at_a_threshold_only(serve, tower):
    twin = Twin(tower)
    client = serve(twin=twin, index=MemoryIndex(index_model(twin)))
    client.put("/questions/1", json={"text": "Why?"})
    assert client.post("/duplicates", json={"question": "Why?"}).status_code == 409
    verdict = client.post("/duplicates", json={"question": "Why?", "threshold": 0.9}).json()
    assert verdict["duplicates"][0]["probability"] is None
    assert verdict["duplicate"]


def test_an_index_that_outgrows_a_promised_precision_is_served_and_the_log_says_so_once(
    serve, fresh_tower, pairs, sentences, caplog
):
    twin = Twin(fresh_tower).calibrate(pairs)
    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.5).astype(np.int8)
    precise = fit_decision(rng.normal(0.3, 0.05, 400) + 0.4 * labels, labels).at_precision(0.9)
    twin.collection = CollectionDecision(precise, 2)
    with pytest.raises(ValueError, match="precision of 0"):
        precise.with_prior(precise.base_rate * 2 / 49)
    client = serve(twin=twin, index=MemoryIndex(index_model(twin)))
    with caplog.at_level("WARNING", logger="textsiam.serving"):
        body = {"upsert": [{"id": str(k), "text": text} for k, text in enumerate(sentences)]}
        assert client.post("/questions:batch", json=body).status_code == 200
        assert client.put("/questions/new", json={"text": "Why blue?"}).status_code == 201
        verdicts = [client.post("/duplicates", json={"question": text}) for text in sentences[:3]]
    assert [verdict.status_code for verdict in verdicts] == [200] * 3
    assert verdicts[0].json()["threshold"] == twin.collection.among(50, tell=print).threshold
    (record,) = [one for one in caplog.records if one.name == "textsiam.serving" and one.levelname == "WARNING"]
    assert record.message == "precision out of reach"
    assert "a precision of 0.9 cannot be promised among" in record.facts["reason"]


def test_a_learned_metric_scores_what_the_cosine_finds(serve, fresh_tower, pairs, sentences):
    twin = Twin(fresh_tower, head=PairHead(fresh_tower.get_embedding_dimension())).calibrate(pairs)
    client = serve(twin=twin, index=MemoryIndex(index_model(twin)))
    body = {"upsert": [{"id": str(k), "text": text} for k, text in enumerate(sentences)]}
    client.post("/questions:batch", json=body)
    verdict = client.post("/duplicates", json={"question": sentences[4], "threshold": -100, "limit": 100}).json()
    found = {d["id"]: d["similarity"] for d in verdict["duplicates"]}
    scores = twin.similarity([sentences[4]] * len(found), [sentences[int(k)] for k in found])
    assert list(found.values()) == pytest.approx(scores.tolist(), abs=5e-2)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_an_index_of_another_model_is_refused_before_it_is_served(decided):
    other = MemoryIndex(IndexModel("other", "f" * 64, decided.dim))
    with pytest.raises(ValueError, match=r"memory: holds vectors of 'other' \(ffffffffffff"):
        create_app(decided, other)


def test_another_distance_finds_what_plain_scoring_finds(serve, tower, pairs, sentences):
    twin = Twin(tower, distance="euclidean").calibrate(pairs)
    client = serve(twin=twin, index=MemoryIndex(index_model(twin)))
    client.post("/questions:batch", json={"upsert": [{"id": str(k), "text": t} for k, t in enumerate(sentences)]})
    threshold = float(np.median(twin.similarity([sentences[0]] * 48, sentences)))
    verdict = client.post("/duplicates", json={"question": sentences[0], "threshold": threshold, "limit": 48}).json()
    found = {d["id"] for d in verdict["duplicates"]}
    assert found ^ {k for k, _ in expected(twin, sentences[0], sentences, threshold)} == set()


def test_an_asymmetric_twin_has_no_duplicates_to_serve(tower):
    twin = Twin(tower, tower)
    with pytest.raises(ValueError, match="the towers of this twin differ"):
        create_app(twin, MemoryIndex(index_model(twin)))


def test_an_index_that_cannot_be_reached_is_a_503_and_comes_back(client, index, monkeypatch):
    client.put("/questions/1", json={"text": "Why?"})

    def broken(*_, **__):
        raise QuestionIndexError("/secret/place: the server closed the connection")

    with monkeypatch.context() as patch:
        patch.setattr(index, "search", broken)
        answer = client.post("/duplicates", json={"question": "Why?"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "secret" not in answer.text
    assert client.post("/duplicates", json={"question": "Why?"}).status_code == 200
