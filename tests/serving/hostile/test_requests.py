"""Requests that nobody would send in good faith: none is an error of the server's own, and the server lives on."""

from __future__ import annotations

import base64
import io
import json
import random
from collections import Counter

import httpx2
import numpy as np
import pytest
from PIL import Image

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402

REQUESTS = 10_000
FINE = {200, 201, 204, 307, 400, 403, 404, 405, 408, 409, 413, 415, 421, 422, 424, 429, 431}
PATHS = ["/embed", "/embed_all", "/embed_sparse", "/tokenize", "/decode", "/predict", "/similarity", "/rerank",
         "/v1/embeddings", "/v1/models", "/duplicates", "/questions:batch", "/questions/1", "/questions/a%2Fb",
         "/feedback", "/ui", "/ui/api/queue", "/ui/api/decisions", "/ui/api/undo", "/ui/api/clusters/1",
         "/ui/api/export", "/health", "/info", "/metrics", "/", "/nothing", "/questions/%00",
         "/questions/%ff"]  # fmt: skip
METHODS = ["POST", "GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]
KEYS = ["inputs", "input", "question", "questions", "text", "texts", "query", "ids", "id", "upsert", "delete", "where",
        "metadata", "truncate", "dimensions", "normalize", "threshold", "limit", "prompt_name", "truncation_direction",
        "question1", "question2", "duplicate", "number", "parameters", "source_sentence", "sentences"]  # fmt: skip
TEXTS = ["why?", "", " ", "\0", "\ud800", "🦊" * 50, "\u202ewhy", "a/b", "[CLS]", "x" * 3000, "NaN", "left"]
NUMBERS = [0, -1, 1, 2**31, 2**63, -(2**63), 10**40, 0.5, 1e308, -0.0, float("nan"), float("inf"), True, None]


def strange(rng: random.Random, depth: int = 0):
    kind = rng.random()
    if depth < 4 and kind < 0.35:
        return [strange(rng, depth + 1) for _ in range(rng.choice([0, 1, 2, 3, 20]))]
    if depth < 4 and kind < 0.6:
        return {rng.choice(KEYS): strange(rng, depth + 1) for _ in range(rng.randrange(5))}
    return rng.choice(TEXTS) if kind < 0.85 else rng.choice(NUMBERS)


def mangled(rng: random.Random, body: bytes) -> bytes:
    """Change some bytes, cut, or repeat."""
    kind = rng.random()
    if kind < 0.6 or not body:
        return body
    at = rng.randrange(len(body))
    if kind < 0.75:
        return body[:at]
    if kind < 0.9:
        return body[:at] + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 8))) + body[at:]
    return body * rng.randrange(2, 5)


def test_no_request_is_an_error_of_the_server(address, tries, result):
    rng, statuses = random.Random(22), Counter()
    with httpx2.Client(base_url=address, timeout=60) as client:
        for number in range(tries(REQUESTS)):
            value = {rng.choice(KEYS): strange(rng, 1) for _ in range(rng.randrange(1, 5))}
            body = mangled(rng, json.dumps(value).encode())
            path, method = (
                rng.choice(PATHS),
                rng.choice(["POST"] * 5 + ["GET", "PUT", "PUT", "DELETE", "HEAD", "OPTIONS"]),
            )
            head = {"content-type": rng.choice(["application/json"] * 9 + ["text/plain"])}
            answer = client.request(method, path, content=body, headers=head)
            statuses[answer.status_code] += 1
            assert answer.status_code in FINE, (number, method, path, body[:300], answer.text[:300])
        assert client.get("/health").status_code == 200
    result(requests=sum(statuses.values()), statuses={str(k): n for k, n in sorted(statuses.items())})


@pytest.mark.slow
def test_no_request_of_the_schema_is_an_error_of_the_server(address, tries, result):
    from schemathesis import checks

    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    wanted = [checks.not_a_server_error, checks.status_code_conformance, checks.response_schema_conformance]
    asked = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()

        @seed(22)
        @settings(max_examples=tries(200), deadline=None, database=None, phases=(Phase.generate,),
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=operation.as_strategy())
        def check(case):
            asked[case.operation.label] += 1
            case.validate_response(case.call(), checks=wanted)

        check()
    assert {"POST /duplicates", "PUT /questions/{id}", "POST /tokenize", "POST /predict"} <= set(asked)
    result(operations=len(asked), requests=sum(asked.values()))


def test_no_image_is_an_error_of_the_server(serve, tries, result):
    from textsiam.inference.scratch import scratch_image_encoder
    from textsiam.models.twin import Twin

    twin = Twin(scratch_image_encoder(size=28, channels=1, widths=(8, 16), depths=(1, 1), dim=16, device="cpu")).eval()
    client, rng, statuses = serve(twin=twin, index=None), random.Random(22), Counter()
    whole = []
    for kind, mode in (("PNG", "RGBA"), ("PNG", "1"), ("PNG", "I;16"), ("JPEG", "CMYK"), ("GIF", "P"), ("BMP", "RGB"),
                       ("TIFF", "LAB"), ("WEBP", "RGB"), ("PPM", "L")):  # fmt: skip
        buffer = io.BytesIO()
        shape = np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)
        image = Image.fromarray(shape.astype(np.uint16)) if mode == "I;16" else Image.fromarray(shape).convert(
            "RGB" if mode == "LAB" else mode)  # fmt: skip
        image.save(buffer, kind)
        whole.append(buffer.getvalue())
    for number in range(tries(3000)):
        images = [base64.b64encode(mangled(rng, rng.choice(whole))).decode() for _ in range(rng.randrange(1, 4))]
        answer = client.post("/embed", json={"inputs": images})
        statuses[answer.status_code] += 1
        assert answer.status_code in (200, 413, 422), (number, answer.text[:300])
    assert min(statuses[200], statuses[422]) > 0
    result(requests=sum(statuses.values()), statuses={str(k): n for k, n in sorted(statuses.items())})
