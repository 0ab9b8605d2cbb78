"""Routes of text-embeddings-inference and OpenAI, with their shapes."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from textsiam.decision.decision import Decision
from textsiam.serving.engine import Engine
from textsiam.serving.problem_details import Refused
from textsiam.serving.wire import (
    EmbedRequest,
    OpenAIProblem,
    OpenAIRequest,
    OpenAIResponse,
    Problem,
    Rank,
    RerankRequest,
    SimilarityRequest,
)

Problems = dict[int | str, dict[str, Any]]
# What every route may answer beside its result.
PROBLEMS: Problems = {
    status: {"model": Problem, "description": why}
    for status, why in {
        400: "The body is no JSON.",
        401: "The bearer token is missing or wrong.",
        413: "Too many inputs, or one is too large.",
        422: "An input cannot be read; the message says which.",
        424: "The model failed.",
        429: "The queue is full, or the client asks too often; Retry-After says when to come back.",
        503: "The server is shutting down, or its index cannot be reached.",
    }.items()
}

_OPENAI_PROBLEMS: Problems = {status: facts | {"model": OpenAIProblem} for status, facts in PROBLEMS.items()}


def embedding_routes(engine: Engine, name: str) -> APIRouter:
    """Return `/embed`, `/similarity`, `/rerank` and `/v1/embeddings`.

    Args:
        engine: Encodes and scores.
        name: What the model is called.
    """
    routes = APIRouter(responses=PROBLEMS)

    @routes.post("/embed", response_model=list[list[float]])
    async def embed(body: EmbedRequest, request: Request) -> Response:
        """Encode inputs into vectors of length 1."""
        if not body.normalize:
            raise Refused(422, "normalize: the vectors of this model have length 1, there are no others", "Validation")
        vectors, _ = await engine.encode(body.inputs, request.is_disconnected, field="inputs", truncate=body.truncate)
        return _plain_json(shortened(vectors, body.dimensions))

    @routes.post("/similarity")
    async def similarity(body: SimilarityRequest, request: Request) -> list[float]:
        """Score a sentence against others: the twin's similarity, larger is closer."""
        scores = await engine.scores(
            body.inputs.source_sentence,
            body.inputs.sentences,
            request.is_disconnected,
            fields=("inputs.source_sentence", "inputs.sentences"),
            truncate=body.parameters.truncate if body.parameters else None,
        )
        return scores.tolist()

    @routes.post("/rerank", response_model_exclude_none=True)
    async def rerank(body: RerankRequest, request: Request) -> list[Rank]:
        """Order texts by how well they match a query, best first.

        The score is the calibrated probability where the model has a decision, else the similarity.
        """
        fields = ("query", "texts")
        scores = await engine.scores(
            body.query, body.texts, request.is_disconnected, fields=fields, truncate=body.truncate
        )
        order = np.argsort(-scores, kind="stable").tolist()
        decision: Decision | None = engine.twin.decision
        shown = scores if body.raw_scores or decision is None else decision.probability(scores)
        return [Rank(index=k, score=float(shown[k]), text=body.texts[k] if body.return_text else None) for k in order]

    @routes.post("/v1/embeddings", response_model=OpenAIResponse, responses=_OPENAI_PROBLEMS)
    async def openai(body: OpenAIRequest, request: Request) -> Response:
        """Encode inputs, in the shape of OpenAI's API."""
        vectors, tokens = await engine.encode(body.input, request.is_disconnected, field="input")
        vectors = shortened(vectors, body.dimensions)
        coded = vectors if body.encoding_format == "float" else [base64.b64encode(row).decode() for row in vectors]
        data = [{"object": "embedding", "index": k, "embedding": one} for k, one in enumerate(coded)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return _plain_json({"object": "list", "data": data, "model": name, "usage": usage})

    return routes


def _plain_json(value: Any) -> Response:
    """Answer with a value as it is: checking and copying every number of a vector takes longer than encoding a text."""
    return Response(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def shortened(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """Keep the first numbers of each vector, scaled to length 1 again (as Matryoshka losses train them).

    Raises:
        Refused: More are asked for than there are.
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    if dimensions > vectors.shape[1]:
        raise Refused(422, f"dimensions: {dimensions}, the vectors have {vectors.shape[1]}", "Validation")
    first = vectors[:, :dimensions]
    return np.ascontiguousarray(first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12))
