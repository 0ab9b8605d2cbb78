"""Routes of text-embeddings-inference about tokens: a text's tokens, the text of tokens, a vector for each token."""

from __future__ import annotations

import asyncio

import orjson
from fastapi import APIRouter, Request, Response

from textsiam.serving.admission.texts import Texts, cannot
from textsiam.serving.engine import Engine
from textsiam.serving.problem_details import too_large, unfit
from textsiam.serving.routes.embeddings import PROBLEMS, in_parts
from textsiam.serving.wire import DecodeRequest, EmbedAllRequest, Token, TokenizeRequest


def token_routes(engine: Engine) -> APIRouter:
    """Return `/tokenize`, `/decode`, `/embed_all`, and `/embed_sparse`, which no twin can answer."""
    routes = APIRouter(responses=PROBLEMS)

    @routes.post("/tokenize", response_model=list[list[Token]])
    async def tokenize(body: TokenizeRequest) -> Response:
        """Tell the tokens of texts, nothing cut off, and where each stands."""
        texts = _tokens_of(engine)
        inputs = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        engine.check_count("inputs", inputs)
        return await asyncio.to_thread(_tokenized, engine, texts, inputs, body)

    @routes.post("/decode")
    async def decode(body: DecodeRequest) -> list[str]:
        """Tell the texts of token ids."""
        texts, most = _tokens_of(engine), len(engine.twin.tower().tokenizer)
        several = [ids for ids in body.ids if isinstance(ids, list)] or [[k for k in body.ids if isinstance(k, int)]]
        engine.check_count("ids", several)
        for k, ids in enumerate(several):
            if not ids or max(ids) >= most:
                raise unfit(f"ids[{k}]: expected token ids below {most:,}, at least one")
        return await asyncio.to_thread(texts.rules.decode_batch, several, skip_special_tokens=body.skip_special_tokens)

    @routes.post("/embed_all", response_model=list[list[list[float]]])
    async def embed_all(body: EmbedAllRequest, request: Request) -> Response:
        """Encode the tokens of inputs, special ones included: a vector for each, before they are pooled."""
        vectors, _ = await engine.encode(
            body.inputs, request.is_disconnected, field="inputs", reading=body.reading, stage="tokens"
        )
        return await in_parts(vectors)

    @routes.post("/embed_sparse", response_model=list[list[dict[str, float]]])
    async def embed_sparse(body: EmbedAllRequest) -> Response:
        """Say that a twin has no sparse vectors."""
        raise cannot("this model has dense vectors only")

    return routes


def _tokens_of(engine: Engine) -> Texts:
    if "left" not in engine.texts or engine.texts["left"].rules is None:
        raise cannot("this model has no tokens that could be told")
    return engine.texts["left"]


def _tokenized(engine: Engine, texts: Texts, inputs: list[str], body: TokenizeRequest) -> Response:
    most, rows, total = engine.settings.max_values, [], 0
    for k, value in enumerate(inputs):
        place = "inputs" if isinstance(body.inputs, str) else f"inputs[{k}]"
        text = texts.prompted(value, place, body.prompt_name)
        found = texts.rules.encode(text, add_special_tokens=body.add_special_tokens)
        total += len(found)
        if total > most:
            raise too_large(f"inputs: more than {most:,} tokens")
        parts = zip(found.ids, found.tokens, found.special_tokens_mask, found.offsets, strict=True)
        rows.append([_token(text, *part) for part in parts])
    return Response(orjson.dumps(rows), media_type="application/json")


def _token(text: str, number: int, token: str, special: int, place: tuple[int, int]) -> dict[str, object]:
    start, stop = (None, None) if special else place
    shown = token if special else text[place[0] : place[1]]
    return {"id": number, "text": shown, "special": bool(special), "start": start, "stop": stop}
