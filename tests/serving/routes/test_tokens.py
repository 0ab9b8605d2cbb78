"""What text-embeddings-inference 1.7 answers beside vectors: tokens, their texts, verdicts; prompts and cuts."""

from __future__ import annotations

import numpy as np
import pytest

from textsiam.models.ensemble import Ensemble
from textsiam.models.twin import Twin

LONG = "why so, bread or cactus? " * 40


@pytest.fixture
def prompted(serve, fresh_tower):
    fresh_tower.prompts = {"query": "why does ", "document": "what is "}
    return serve(twin=Twin(fresh_tower), index=None)


def embed(client, inputs, **more):
    answer = client.post("/embed", json={"inputs": inputs, **more})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json(), np.float32)


def test_tokens_are_those_of_the_tokenizer(client, tower, sentences):
    rows = client.post("/tokenize", json={"inputs": sentences[:3]}).json()
    for text, row in zip(sentences[:3], rows, strict=True):
        assert [token["id"] for token in row] == tower.tokenizer(text)["input_ids"]
        assert [token["special"] for token in row] == [True, *[False] * (len(row) - 2), True]
        assert all(text[token["start"] : token["stop"]] == token["text"] for token in row[1:-1])
        assert (row[0]["start"], row[0]["stop"]) == (None, None)
    bare = client.post("/tokenize", json={"inputs": sentences[0], "add_special_tokens": False}).json()
    assert bare == [rows[0][1:-1]]
    assert len(client.post("/tokenize", json={"inputs": LONG}).json()[0]) > 32  # nothing is cut


def test_tokens_become_texts_again(client, tower, sentences):
    ids = tower.tokenizer(sentences[:2])["input_ids"]
    texts = client.post("/decode", json={"ids": ids}).json()
    assert texts == [tower.tokenizer.decode(one, skip_special_tokens=True) for one in ids]
    assert client.post("/decode", json={"ids": ids[0]}).json() == texts[:1]
    whole = client.post("/decode", json={"ids": ids[0], "skip_special_tokens": False}).json()[0]
    assert len(whole) > len(texts[0])
    for wrong in ([999_999], [[1], [999_999]], [], [[]], [1, [2]], [-1], ["a"]):
        assert client.post("/decode", json={"ids": wrong}).status_code == 422


def test_token_ids_are_encoded_as_their_text(client, tower, sentences):
    ids = tower.tokenizer(sentences[:3])["input_ids"]
    expected = embed(client, sentences[:3])
    assert embed(client, ids) == pytest.approx(expected, abs=2e-2)
    assert embed(client, ids[0]) == pytest.approx(expected[:1], abs=2e-2)
    assert embed(client, [one[1:-1] for one in ids]) == pytest.approx(expected, abs=2e-2)  # special ones are added
    mixed = embed(client, [sentences[0], ids[1]])
    assert mixed == pytest.approx(expected[:2], abs=2e-2)
    openai = client.post("/v1/embeddings", json={"input": ids}).json()
    assert np.array([one["embedding"] for one in openai["data"]]) == pytest.approx(expected, abs=2e-2)
    unknown = client.post("/embed", json={"inputs": [[1, 999_999]]})
    assert (unknown.status_code, unknown.json()["error"][:10]) == (422, "inputs[0]:")
    assert client.post("/embed", json={"inputs": [[]]}).status_code == 422
    long = client.post("/embed", json={"inputs": [7] * 100})
    assert long.status_code == 413
    assert embed(client, [7] * 100, truncate=True) == pytest.approx(embed(client, [7] * 30), abs=2e-2)


def test_vectors_before_they_have_length_one(client, decided, sentences):
    raw = embed(client, sentences[:4], normalize=False)
    lengths = np.linalg.norm(raw, axis=1)
    assert not np.allclose(lengths, 1, atol=1e-2)
    assert raw / lengths[:, None] == pytest.approx(decided.encode(sentences[:4]), abs=2e-2)
    assert embed(client, sentences[:4], normalize=False, dimensions=5) == pytest.approx(raw[:, :5], abs=1e-4)


def test_each_token_has_a_vector_whose_mean_is_the_raw_one(client, tower, sentences):
    rows = client.post("/embed_all", json={"inputs": sentences[:5]}).json()
    assert [len(row) for row in rows] == [len(ids) for ids in tower.tokenizer(sentences[:5])["input_ids"]]
    means = np.array([np.mean(row, axis=0) for row in rows])
    assert means == pytest.approx(embed(client, sentences[:5], normalize=False), abs=1e-4)


def test_pairs_get_a_verdict(client, decided, sentences):
    pairs = [[sentences[0], sentences[1]], [sentences[0], sentences[9]]]
    odds = decided.decision.probability(decided.similarity(*map(list, zip(*pairs, strict=True))))
    rows = client.post("/predict", json={"inputs": pairs}).json()
    for row, probability in zip(rows, odds, strict=True):
        assert row[0]["score"] >= row[1]["score"]
        assert {one["label"]: one["score"] for one in row} == pytest.approx(
            {"duplicate": probability, "different": 1 - probability}, abs=2e-2
        )
    assert client.post("/predict", json={"inputs": pairs[0]}).json() == rows[0]
    raw = client.post("/predict", json={"inputs": pairs[0], "raw_scores": True}).json()
    assert raw[0]["score"] == pytest.approx(abs(float(decided.similarity(*[[t] for t in pairs[0]])[0])), abs=2e-2)
    for alone in ("a", ["a"], [["a"]]):
        assert client.post("/predict", json={"inputs": alone}).status_code == 424
    for wrong in (["a", "b", "c"], [["a", "b", "c"]], [], [["a", "b"], "c"], [[]], ["a", ["b"]]):
        assert client.post("/predict", json={"inputs": wrong}).status_code in (422, 424)


def test_a_prompt_is_put_before_each_text(prompted):
    plain = embed(prompted, ["why does bread collapse", "what is bread collapse"])
    named = [embed(prompted, "bread collapse", prompt_name=name)[0] for name in ("query", "document")]
    assert np.array(named) == pytest.approx(plain, abs=2e-2)
    unknown = prompted.post("/embed", json={"inputs": "a", "prompt_name": "none"})
    assert unknown.status_code == 422
    assert unknown.json()["error"] == "prompt_name: there is no prompt 'none'; the model has: 'query', 'document'"


def test_a_prompt_stands_instead_of_the_one_that_the_model_puts(serve, fresh_tower):
    plain = embed(serve(twin=Twin(fresh_tower), index=None), ["why does bread collapse", "what is bread collapse"])
    fresh_tower.prompts, fresh_tower.default_prompt_name = {"query": "why does ", "document": "what is "}, "query"
    client = serve(twin=Twin(fresh_tower), index=None)
    given = [embed(client, "bread collapse", **more)[0] for more in ({}, {"prompt_name": "document"})]
    assert np.array(given) == pytest.approx(plain, abs=2e-2)


def test_texts_are_cut_at_the_end_that_was_asked_for(client, tower):
    ids = tower.tokenizer(LONG, add_special_tokens=False)["input_ids"]
    for end, kept in (("right", ids[:30]), ("left", ids[-30:]), ("Left", ids[-30:])):
        cut = embed(client, [LONG, "why?"], truncate=True, truncation_direction=end)
        assert cut[0] == pytest.approx(embed(client, [kept])[0], abs=2e-2)
    assert client.post("/embed", json={"inputs": LONG, "truncation_direction": "left"}).status_code == 413
    assert client.post("/embed", json={"inputs": "a", "truncation_direction": "up"}).status_code == 422


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {"inputs": LONG}),
        ("/similarity", {"inputs": {"source_sentence": LONG, "sentences": [LONG]}}),
        ("/rerank", {"query": LONG, "texts": [LONG]}),
        ("/predict", {"inputs": [LONG, LONG]}),
        ("/v1/embeddings", {"input": LONG}),
        ("/embed_all", {"inputs": LONG}),
        ("/embed", {"inputs": "x " * 40_000}),
    ],
)
def test_what_the_hint_says_helps(client, path, body):
    refused = client.post(path, json=body)
    assert refused.status_code == 413
    assert '"truncate": true' in refused.text.replace("\\", "")
    assert client.post(path, json=body | {"truncate": True}).status_code == 200


def test_a_model_that_cannot_says_so(serve, tower, decided):
    ensemble = serve(twin=Ensemble([Twin(tower), Twin(tower)]), index=None)
    for path, body in (("/embed", {"inputs": [[1, 2]]}), ("/embed", {"inputs": "a", "normalize": False}),
                       ("/embed_all", {"inputs": "a"}), ("/embed_sparse", {"inputs": "a"}),
                       ("/predict", {"inputs": ["a", "b"]})):  # fmt: skip
        answer = ensemble.post(path, json=body)
        assert (answer.status_code, answer.json()["error_type"]) == (424, "Backend"), path


def test_the_model_is_listed_as_openai_lists_it(client):
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert (model["id"], model["object"]) == ("tiny", "model")
    assert client.get("/v1/models/tiny").json() == model
    assert client.get("/v1/models/other").json()["error"]["code"] == 404


def test_info_has_the_fields_of_text_embeddings_inference(client):
    fields = {"model_id", "model_sha", "model_dtype", "served_model_name", "model_type", "max_concurrent_requests",
              "max_input_length", "max_batch_tokens", "max_batch_requests", "max_client_batch_size", "auto_truncate",
              "tokenization_workers", "version", "sha", "docker_label"}  # fmt: skip
    assert fields <= set(client.get("/info").json())


def test_machines_may_ask_with_head_and_a_person_is_led_to_the_page(client, serve):
    for path in ("/health", "/ping", "/ui"):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
    guarded = serve(token="a-secret-of-the-tests")
    page = guarded.get("/")
    assert (page.status_code, page.url.path) == (200, "/ui")
    assert guarded.get("/info").status_code == 401
