"""Real clients against a real server, and any request that the schema allows."""

from __future__ import annotations

import numpy as np
import pytest
from huggingface_hub import InferenceClient

openai = pytest.importorskip("openai", reason="the client of OpenAI is not installed")
schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from hypothesis import HealthCheck, given, settings  # noqa: E402


def test_the_client_of_openai_gets_the_vectors_of_the_library(address, decided, sentences):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    answer = client.embeddings.create(model="tiny", input=sentences[:4])
    vectors = np.array([one.embedding for one in answer.data])
    assert (vectors * decided.encode(sentences[:4])).sum(1) == pytest.approx(1, abs=1e-4)
    short = client.embeddings.create(model="tiny", input="why?", dimensions=4, encoding_format="float")
    assert len(short.data[0].embedding) == 4
    with pytest.raises(openai.UnprocessableEntityError, match="dimensions: 999, the vectors have 32"):
        client.embeddings.create(model="tiny", input="why?", dimensions=999)
    client.close()


def test_the_client_of_hugging_face_gets_vectors_and_similarities(address, decided, sentences, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # it is asked for the loopback too
    vectors = InferenceClient(model=f"{address}/embed").feature_extraction(sentences[0], truncate=True)
    assert vectors == pytest.approx(decided.encode([sentences[0]]), abs=2e-2)
    scores = InferenceClient(model=f"{address}/similarity").sentence_similarity(
        sentences[0], other_sentences=sentences[1:4]
    )
    assert scores == pytest.approx(decided.similarity([sentences[0]] * 3, sentences[1:4]).tolist(), abs=2e-2)


@pytest.mark.slow
def test_nothing_that_the_schema_allows_is_an_error_of_the_server(address):
    from schemathesis import checks

    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    wanted = [
        checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    seen = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        seen.add(operation.label)

        @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def check(case):
            answer = case.call()
            case.validate_response(answer, checks=wanted)

        check()
    assert {"POST /duplicates", "PUT /questions/{id}", "POST /v1/embeddings", "POST /ui/api/decisions"} <= seen
    assert "POST /ui/api/labels/answers" in seen
    assert len(seen) >= 21
