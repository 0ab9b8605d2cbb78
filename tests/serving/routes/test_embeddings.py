"""The routes of text-embeddings-inference and OpenAI give what the library gives, or say what is wrong."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling

from textsiam.inference.encoders import inputs_of
from textsiam.models.twin import Twin


def test_embed_gives_the_vectors_of_the_library(client, decided, sentences):
    answer = client.post("/embed", json={"inputs": sentences})
    assert answer.status_code == 200
    vectors = np.array(answer.json(), np.float32)
    assert (vectors * decided.encode(sentences)).sum(1) == pytest.approx(1, abs=1e-4)
    one = client.post("/embed", json={"inputs": sentences[3]}).json()
    assert np.array(one) == pytest.approx(vectors[3:4], abs=2e-2)


def test_embed_shortens_to_length_one(client):
    short = np.array(client.post("/embed", json={"inputs": ["why?", "how?"], "dimensions": 8}).json())
    assert short.shape == (2, 8)
    assert np.linalg.norm(short, axis=1) == pytest.approx(1, abs=1e-6)
    refused = client.post("/embed", json={"inputs": "why?", "dimensions": 33})
    assert (refused.status_code, refused.json()["error"]) == (422, "dimensions: 33, the vectors have 32")


def test_openai_floats_and_base64_are_the_same_numbers(client):
    body = {"input": ["why?", "how so?"], "model": "tiny"}
    plain = client.post("/v1/embeddings", json=body).json()
    coded = client.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()
    for a, b in zip(plain["data"], coded["data"], strict=True):
        assert np.frombuffer(base64.b64decode(b["embedding"]), "<f4") == pytest.approx(np.array(a["embedding"]))
    assert [one["index"] for one in plain["data"]] == [0, 1]
    assert plain["usage"]["prompt_tokens"] == plain["usage"]["total_tokens"] > 2
    assert plain["model"] == "tiny"


def test_similarity_is_that_of_the_twin(client, decided, sentences):
    body = {"inputs": {"source_sentence": sentences[0], "sentences": sentences[1:6]}}
    expected = decided.similarity([sentences[0]] * 5, sentences[1:6])
    assert client.post("/similarity", json=body).json() == pytest.approx(expected.tolist(), abs=2e-2)


def test_rerank_orders_by_the_twin_and_gives_probabilities(client, decided, sentences):
    body = {"query": sentences[0], "texts": sentences[:6]}
    ranks = client.post("/rerank", json=body | {"return_text": True}).json()
    assert ranks[0]["text"] == sentences[0]
    assert sorted(rank["index"] for rank in ranks) == list(range(6))
    raw = client.post("/rerank", json=body | {"raw_scores": True}).json()
    scores = [rank["score"] for rank in raw]
    assert scores == sorted(scores, reverse=True)
    assert "text" not in raw[0]
    assert [r["score"] for r in ranks] == pytest.approx(decided.decision.probability(np.float32(scores)).tolist())


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/embed", {"inputs": []}, 422, "inputs: expected at least one input"),
        ("/embed", {"inputs": ["a", 3]}, 422, "inputs[1]: Input should be a valid string"),
        ("/embed", {"inputs": ["a", None]}, 422, "inputs[1]: Input should be a valid string"),
        ("/embed", {}, 422, "inputs: Field required"),
        ("/embed", {"inputs": ["a"] * 51}, 413, "inputs: 51 inputs, at most 50 are taken"),
        ("/embed", {"inputs": ["a", "x" * 501]}, 413, "inputs[1]: 501 characters, at most 500 are taken"),
        ("/embed", {"inputs": ["a", "why so? " * 40]}, 413, "inputs[1]: "),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 422, "inputs.sentences: expected"),
        ("/similarity", {"inputs": {"source_sentence": 1, "sentences": ["a"]}}, 422, "inputs.source_sentence: Input"),
        ("/rerank", {"query": "a", "texts": ["b", 1]}, 422, "texts[1]: Input should be a valid string"),
    ],
)
def test_what_cannot_be_encoded_is_named(serve, path, body, status, message):
    answer = serve(max_batch=50, max_characters=500).post(path, json=body)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(message)


def test_half_a_surrogate_pair_is_named_and_not_an_error_of_the_server(client):
    body = b'{"inputs": ["fine", "bad \\ud800"]}'
    answer = client.post("/embed", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["error"] == "inputs[1]: character 4 is half of a surrogate pair and stands for nothing"


def test_long_inputs_are_cut_when_asked_to(client, serve, decided):
    long = "why so? " * 40
    asked = client.post("/embed", json={"inputs": long, "truncate": True})
    assert np.array(asked.json()) == pytest.approx(decided.encode([long]), abs=2e-2)
    assert serve(truncate=True).post("/embed", json={"inputs": long}).status_code == 200


def test_a_broken_body_is_refused(client):
    for content in (b"", b"{", b"[1, 2", b"\xff\xfe"):
        answer = client.post("/embed", content=content, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422)
        assert set(answer.json()) == {"error", "error_type"}


def test_a_body_nested_too_deep_is_refused_with_the_reason(client):
    content = b'{"inputs": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    answer = client.post("/embed", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (
        400, "the body cannot be read: its lists and objects are nested too deep"
    )  # fmt: skip


def test_json_of_another_content_type_is_refused_by_that_name(client):
    for head, found in (
        ({"content-type": "text/plain"}, "the content type is 'text/plain'"),
        ({}, "the body has no content type"),
    ):
        answer = client.post("/embed", content=b'{"inputs": "why?"}', headers=head)
        assert (answer.status_code, answer.json()["error"]) == (422, f"{found}, expected 'application/json'")
    empty = client.post("/embed", content=b"", headers={"content-type": "application/json"})
    assert "content type" not in empty.json()["error"]


def test_info_tells_the_pooling_and_the_number_format_of_the_twin(serve, fresh_tower, monkeypatch):
    fresh_tower[1] = Pooling(fresh_tower[0].get_embedding_dimension(), pooling_mode="cls")
    twin = Twin(fresh_tower)
    monkeypatch.setattr(type(inputs_of(fresh_tower)), "bf16", False)  # as images are, whatever the hardware can do
    monkeypatch.setattr("textsiam.inference.fast.fast_tower.fast_dtype", fast_on_new_hardware)
    monkeypatch.setattr("textsiam.serving.app.fast_dtype", fast_on_new_hardware, raising=False)
    info = serve(twin=twin, index=None).get("/info").json()
    assert info["model_type"] == {"embedding": {"pooling": "cls"}}
    assert info["model_dtype"] == "float32"


def fast_on_new_hardware(device: torch.device, precision: str = "auto") -> torch.dtype:
    return torch.float32 if precision == "fp32" else torch.bfloat16


def test_info_tells_the_model_and_the_limits(client, decided):
    info = client.get("/info").json()
    assert info["dim"] == decided.dim
    assert info["max_input_length"] == 32
    assert info["threshold"] == decided.decision.threshold
    assert len(info["model_sha"]) == 64
    assert info["questions"] == 0
