"""Routes of text-embeddings-inference and OpenAI, with their shapes."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from textsiam.decision.decision import Decision
from textsiam.serving.admission.texts import Reading, cannot
from textsiam.serving.engine import Engine
from textsiam.serving.problem_details import Refused, unfit
from textsiam.serving.wire import (
    EmbedRequest,
    OpenAIModel,
    OpenAIModels,
    OpenAIProblem,
    OpenAIRequest,
    OpenAIResponse,
    Prediction,
    PredictRequest,
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
        400: "The body is no JSON, or the path no UTF-8.",
        401: "The bearer token is missing or wrong.",
        403: "A page of another site may not write.",
        408: "The body did not come in time.",
        413: "Too many inputs, or one is too large.",
        421: "The host is not this server's.",
        422: "An input cannot be read; the message says which.",
        424: "The model failed, or is not made for this.",
        429: "The queue is full, or the client asks too often; Retry-After says when to come back.",
        503: "The server is shutting down, or its index cannot be reached.",
    }.items()
}

_OPENAI_PROBLEMS: Problems = {status: facts | {"model": OpenAIProblem} for status, facts in PROBLEMS.items()}


_NO_MODEL: Problems = {404: {"model": OpenAIProblem, "description": "There is no such model."}}
_FEW = 64  # rows of an answer that are written without handing them to another thread


def embedding_routes(engine: Engine, name: str) -> APIRouter:
    """Return `/embed`, `/similarity`, `/rerank`, `/predict`, `/v1/embeddings` and `/v1/models`.

    Args:
        engine: Encodes and scores.
        name: What the model is called.
    """
    routes = APIRouter(responses=PROBLEMS)
    served = OpenAIModel(id=name, created=int(time.time()))

    @routes.post("/embed", response_model=list[list[float]])
    async def embed(body: EmbedRequest, request: Request) -> Response:
        """Encode inputs into vectors of length 1, or as they are before that."""
        vectors, _ = await engine.encode(
            body.inputs,
            request.is_disconnected,
            field="inputs",
            reading=body.reading,
            stage="vectors" if body.normalize else "raw",
        )
        return await in_parts(shortened(vectors, body.dimensions, normalize=body.normalize))

    @routes.post("/predict")
    async def predict(body: PredictRequest, request: Request) -> list[Prediction] | list[list[Prediction]]:
        """Say how likely the inputs of a pair are the same, and how likely they differ; the likelier label first."""
        pairs, several = _pairs_of(body)
        decision: Decision | None = engine.twin.decision
        if decision is None and not body.raw_scores:
            raise cannot("this model has no decision: it gives raw_scores only")
        scores = await engine.scores(
            [left for left, _ in pairs],
            [right for _, right in pairs],
            request.is_disconnected,
            fields=("inputs", "inputs"),
            reading=Reading(body.truncate, body.truncation_direction),
        )
        same = scores if body.raw_scores or decision is None else decision.probability(scores)
        other = -same if body.raw_scores else 1 - same
        rows = [_ranked(float(a), float(b)) for a, b in zip(same, other, strict=True)]
        return rows if several else rows[0]

    @routes.post("/similarity")
    async def similarity(body: SimilarityRequest, request: Request) -> list[float]:
        """Score a sentence against others: the twin's similarity, larger is closer."""
        scores = await engine.scores(
            body.inputs.source_sentence,
            body.inputs.sentences,
            request.is_disconnected,
            fields=("inputs.source_sentence", "inputs.sentences"),
            reading=body.reading,
        )
        return scores.tolist()

    @routes.post("/rerank", response_model_exclude_none=True)
    async def rerank(body: RerankRequest, request: Request) -> list[Rank]:
        """Order texts by how well they match a query, best first.

        The score is the calibrated probability where the model has a decision, else the similarity.
        """
        fields = ("query", "texts")
        scores = await engine.scores(
            body.query,
            body.texts,
            request.is_disconnected,
            fields=fields,
            reading=Reading(body.truncate, body.truncation_direction),
        )
        order = np.argsort(-scores, kind="stable").tolist()
        decision: Decision | None = engine.twin.decision
        shown = scores if body.raw_scores or decision is None else decision.probability(scores)
        return [Rank(index=k, score=float(shown[k]), text=body.texts[k] if body.return_text else None) for k in order]

    @routes.get("/v1/models", responses=_OPENAI_PROBLEMS)
    async def models() -> OpenAIModels:
        """Tell the one model that is served."""
        return OpenAIModels(data=[served])

    @routes.get("/v1/models/{id:path}", responses=_OPENAI_PROBLEMS | _NO_MODEL)
    async def model(id: str) -> OpenAIModel:
        """Tell the model that is served."""
        if id != name:
            raise Refused(404, f"there is no model {id[:100]!r}, this server has {name!r}", "NotFound")
        return served

    @routes.post("/embeddings", include_in_schema=False)
    @routes.post("/v1/embeddings", response_model=OpenAIResponse, responses=_OPENAI_PROBLEMS)
    async def openai(body: OpenAIRequest, request: Request) -> Response:
        """Encode inputs, in the shape of OpenAI's API."""
        vectors, tokens = await engine.encode(
            body.input, request.is_disconnected, field="input", truncate=body.truncate
        )
        vectors = shortened(vectors, body.dimensions)
        coded = vectors if body.encoding_format == "float" else [base64.b64encode(row).decode() for row in vectors]
        data = [{"object": "embedding", "index": k, "embedding": one} for k, one in enumerate(coded)]
        rest = {"object": "list", "model": name, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
        return await in_parts(data, before=orjson.dumps(rest)[:-1] + b',"data":', after=b"}")

    return routes


async def in_parts(rows: Sequence[Any] | np.ndarray, *, before: bytes = b"", after: bytes = b"") -> Response:
    """Answer with a list as it is: checking and copying every number of a vector takes longer than encoding a text.

    A long one is written row by row in a thread of its own, so that others are answered meanwhile.
    """

    def written() -> bytes:
        parts = [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in rows]
        return b"%b[%b]%b" % (before, b",".join(parts), after)

    body = written() if len(rows) <= _FEW else await asyncio.to_thread(written)
    return Response(body, media_type="application/json")


def _pairs_of(body: PredictRequest) -> tuple[list[tuple[str, str]], bool]:
    """Return the pairs of a request, and whether it had a list of them.

    Raises:
        Refused: An input stands alone, or more than two together.
    """
    given = body.inputs
    several = isinstance(given, list) and bool(given) and isinstance(given[0], list)
    pairs = []
    for k, one in enumerate(given if several else [given]):
        place = f"inputs[{k}]" if several else "inputs"
        values = [one] if isinstance(one, str) else one
        if len(values) == 1 and isinstance(values[0], str):
            raise cannot(f"{place}: this model tells whether two inputs are the same: expected a pair, got one input")
        if len(values) != 2 or not all(isinstance(value, str) for value in values):
            raise unfit(f"{place}: expected a pair of inputs")
        pairs.append((values[0], values[1]))
    return pairs, several


def _ranked(same: float, other: float) -> list[Prediction]:
    found = [Prediction(score=same, label="duplicate"), Prediction(score=other, label="different")]
    return sorted(found, key=lambda one: -one.score)


def shortened(vectors: np.ndarray, dimensions: int | None, *, normalize: bool = True) -> np.ndarray:
    """Keep the first numbers of each vector, scaled to length 1 again (as Matryoshka losses train them) unless not.

    Raises:
        Refused: More are asked for than there are.
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    if dimensions > vectors.shape[1]:
        raise Refused(422, f"dimensions: {dimensions}, the vectors have {vectors.shape[1]}", "Validation")
    first = vectors[:, :dimensions]
    if not normalize:
        return np.ascontiguousarray(first)
    return np.ascontiguousarray(first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12))
