"""The server: a twin, an index where there is one, and the moderator's page, behind one guard."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Container
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from textsiam.decision.domain import DomainShift
from textsiam.inference.encoders import pooling_of
from textsiam.inference.fast.cores import available_cores
from textsiam.models.scorer import Scorer
from textsiam.search.index.base import QuestionIndex, QuestionIndexError
from textsiam.serving.engine import Engine
from textsiam.serving.guard import Guard
from textsiam.serving.heap import give_back_memory
from textsiam.serving.limits import ServerSettings
from textsiam.serving.page.files import file_routes, no_page_routes
from textsiam.serving.page.labelling import Labelling, label_routes
from textsiam.serving.page.media import Exhibits, shown_medium
from textsiam.serving.page.reviews import Reviews, ReviewsError
from textsiam.serving.page.routes import page_routes
from textsiam.serving.problem_details import Refused, problem_body
from textsiam.serving.routes.embeddings import PROBLEMS, embedding_routes
from textsiam.serving.routes.galleries import gallery_routes
from textsiam.serving.routes.questions import question_routes
from textsiam.serving.routes.tokens import token_routes
from textsiam.serving.telemetry import Meters
from textsiam.serving.wire import Info

log = logging.getLogger("textsiam.serving")

_FIELD = re.compile(r"(?!str$|constrained-str$)[A-Za-z_]\w*")  # not the name of an alternative, as pydantic adds it
_INDEX, _REVIEWS = "the index", "the store of decisions"
_KINDS = {404: "NotFound", 405: "Validation", 413: "Validation", 429: "Overloaded", 503: "Unhealthy"}


def create_app(
    twin: Scorer,
    index: QuestionIndex | None = None,
    *,
    reviews: Reviews | None = None,
    labelling: Labelling | None = None,
    gallery: Path | None = None,
    settings: ServerSettings | None = None,
    name: str = "textsiam",
    shift: DomainShift | None = None,
    shown: Container[str] = frozenset(),
) -> Guard:
    """Make the ASGI application that serves a twin.

    Args:
        twin: What encodes and scores.
        index: The questions that `/duplicates` looks through; without one, that route answers 409.
        reviews: Where suspects and decisions are kept; without them moderators review nothing.
        labelling: The pairs that people are asked about at `/ui/label`, if any are.
        gallery: The folder of the identities that `/verify` and `/identify` look through.
        settings: Limits and the token.
        name: What the model is called.
        shift: In what the questions of the index differ from those that the decision was learned on; see `index_shift`.
        shown: Names of images that the moderator's page may show, beside those of the index.

    Returns:
        An application for uvicorn, hypercorn or a test client. Index and reviews stay the caller's to close.

    Example:
        >>> app = create_app(Twin.from_pretrained("all-MiniLM-L6-v2"))  # doctest: +SKIP
        >>> uvicorn.run(app)  # doctest: +SKIP
    """
    settings = settings or ServerSettings()
    engine = Engine(twin, settings, shift)
    meters = Meters(engine.batcher)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(engine.warm_up)
        giving_back = asyncio.create_task(give_back_memory())
        yield
        giving_back.cancel()
        if not await asyncio.to_thread(engine.close):
            log.warning("shut down with work unfinished", extra={"facts": {"grace": settings.grace}})

    app = FastAPI(title="textsiam", version=version("textsiam"), lifespan=lifespan, docs_url=None, redoc_url=None)
    app.include_router(embedding_routes(engine, name))
    app.include_router(question_routes(engine, index, reviews))
    app.include_router(token_routes(engine))
    app.include_router(gallery_routes(engine, gallery))
    if reviews is not None:
        app.include_router(page_routes(engine, reviews, Exhibits(shown_medium(twin), index, shown)))
    if labelling is not None:
        app.include_router(label_routes(labelling))
    pages = {"reviews": reviews is not None, "labels": labelling is not None}
    app.include_router(file_routes(settings.origins, **pages) if any(pages.values()) else no_page_routes())
    _health_routes(app, engine, index, reviews)
    _status_routes(app, engine, index, meters, name)
    _explain_problems(app)
    return Guard(app, settings=settings, meters=meters)  # pyright: ignore[reportArgumentType]


def _health_routes(app: FastAPI, engine: Engine, index: QuestionIndex | None, reviews: Reviews | None) -> None:
    stores: dict[str, tuple[str, Callable[[], object]]] = {}
    if index is not None:  # one id is asked for, whether it is there or not: what that needs, every request needs
        stores["index"] = _INDEX, lambda: index.get(["health"])
    if reviews is not None:
        stores["reviews"] = _REVIEWS, lambda: reviews.get([0])

    @app.head("/ping", include_in_schema=False)
    @app.get("/ping", include_in_schema=False)
    async def ping() -> dict[str, str]:
        if not engine.batcher.alive:
            raise Refused(503, "the server takes no more work", "Unhealthy", retry_after=5)
        return {"status": "ok"}

    @app.head("/health", include_in_schema=False)
    @app.get("/health", responses={503: PROBLEMS[503]})
    async def health() -> dict[str, str]:
        """Say whether requests are taken, and whether the index and the store of decisions can be used."""
        said = await ping()
        for key, (what, look) in stores.items():
            try:
                await asyncio.to_thread(look)
            except (QuestionIndexError, ReviewsError) as error:
                raise _unusable(what) from error
            said[key] = "ok"
        return said


def _unusable(what: str) -> Refused:
    return Refused(503, f"{what} cannot be used at the moment", "Unhealthy", retry_after=5)


def _status_routes(app: FastAPI, engine: Engine, index: QuestionIndex | None, meters: Meters, name: str) -> None:
    settings = engine.settings

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("ui")

    @app.get("/info", responses={401: PROBLEMS[401], 503: PROBLEMS[503]})
    async def info() -> Info:
        """Tell the model and the limits."""
        twin, tower = engine.twin, engine.twin.tower()
        decision = twin.decision
        return Info(
            model_id=name,
            model_sha=(await asyncio.to_thread(lambda: engine.model)).fingerprint,
            model_dtype=str(await asyncio.to_thread(lambda: twin.dtype)).removeprefix("torch."),
            model_type={"embedding": {"pooling": pooling_of(tower)}},
            dim=twin.dim,
            max_input_length=engine.longest,
            served_model_name=name,
            max_concurrent_requests=settings.max_queue,
            max_batch_tokens=settings.max_tokens,
            max_client_batch_size=settings.max_batch,
            auto_truncate=settings.truncate,
            tokenization_workers=available_cores(),
            threshold=None if decision is None else decision.threshold,
            questions=None if index is None else await asyncio.to_thread(index.count),
            domain_shift=None if engine.watch.shift is None else str(engine.watch.shift),
            gallery_drift=None if engine.probes.drift is None else str(engine.probes.drift),
            version=version("textsiam"),
        )

    @app.get("/metrics", response_class=PlainTextResponse, responses={401: PROBLEMS[401]})
    async def metrics() -> PlainTextResponse:
        """Return the metrics in Prometheus' text format."""
        return PlainTextResponse(generate_latest(meters.registry), media_type=CONTENT_TYPE_LATEST)


def _explain_problems(app: FastAPI) -> None:
    """Answer every error in the shape that the clients of its route know."""

    def answer(request: Request, status: int, message: str, kind: str, headers: Any = None) -> JSONResponse:
        return JSONResponse(problem_body(request.url.path, status, message, kind), status, headers)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        kind = getattr(error, "kind", _KINDS.get(error.status_code, "Validation"))
        deep = isinstance(error.__cause__, RecursionError)  # which the parser of JSON raises
        why = "the body cannot be read: its lists and objects are nested too deep" if deep else str(error.detail)
        return answer(request, error.status_code, why, kind, error.headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        # Of the alternatives of a field, the one that got furthest says what is wrong: "inputs[3]" and not "inputs".
        deepest = max(error.errors(), key=lambda one: len(one["loc"]))
        if deepest["type"] == "json_invalid":
            why = f"the body is no JSON: {deepest['ctx']['error']} at character {deepest['loc'][-1]}"
            return answer(request, 400, why, "Validation")
        if error.body and isinstance(error.body, bytes):  # it was not taken for JSON
            given = request.headers.get("content-type")
            found = "the body has no content type" if given is None else f"the content type is {given[:100]!r}"
            return answer(request, 422, f"{found}, expected 'application/json'", "Validation")
        parts = [part for part in deepest["loc"][1:] if isinstance(part, int) or _FIELD.fullmatch(part)]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
        where = f"{place.lstrip('.')}: " if place else ""
        return answer(request, 422, f"{where}{deepest['msg'].removeprefix('Value error, ')}", "Validation")

    @app.exception_handler(QuestionIndexError)
    @app.exception_handler(ReviewsError)
    async def store(request: Request, error: Exception) -> JSONResponse:
        log.error("store failed", exc_info=error, extra={"facts": {"path": request.url.path}})
        return await refused(request, _unusable(_INDEX if isinstance(error, QuestionIndexError) else _REVIEWS))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return answer(request, 500, "internal error", "Backend")
