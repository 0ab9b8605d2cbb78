"""The moderator's page and the routes behind it: suspects to decide about, their clusters, what a threshold costs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from textsiam.decision.decision import Decision
from textsiam.decision.thresholds import operating_points
from textsiam.serving.engine import Engine
from textsiam.serving.page.reviews import Pair, Reviews, State
from textsiam.serving.problem_details import Refused
from textsiam.serving.routes.embeddings import PROBLEMS, Problems
from textsiam.serving.wire import Own, Problem

_KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " \
          "base-uri 'none'; form-action 'none'; frame-ancestors {}; " \
          "require-trusted-types-for 'script'; trusted-types 'none'"  # fmt: skip
_FETCHED = ["GET", "HEAD"]
_POINTS = 200
_COLUMNS: tuple[str, ...] = ("question1", "question2", "is_duplicate", "id1", "id2", "similarity", "probability")
_EXPORTS = {"tsv": "text/tab-separated-values", "csv": "text/csv", "jsonl": "application/jsonl"}
_NO_DECISION: Problems = {409: {"model": Problem, "description": "The model has no decision."}}
_UNKNOWN: Problems = {404: {"model": Problem, "description": "There is no such pair, or page."}}


Number = Annotated[int, Field(ge=0, lt=2**63)]


class PairBody(BaseModel):
    """A suspected duplicate."""

    number: int
    text1: str
    text2: str
    id1: str | None
    id2: str | None
    similarity: float | None
    probability: float | None
    facts1: dict[str, Any]
    facts2: dict[str, Any]
    state: State


class Queue(BaseModel):
    """Part of the queue, and how many pairs there are of each state."""

    pairs: list[PairBody]
    counts: dict[State, int]


class DecisionBody(Own):
    """What was decided about a pair."""

    number: Number
    duplicate: bool


class Decided(BaseModel):
    """A pair after a decision, and how many pairs there are of each state; no pair where nothing was left to undo."""

    pair: PairBody | None
    counts: dict[State, int]


class Curve(BaseModel):
    """What each threshold costs, strictest first, under the share of duplicates that the decision was stated for.

    `pairs` tells how many calibration pairs this was learned from.
    """

    thresholds: list[float]
    probabilities: list[float]
    precision: list[float]
    recall: list[float]
    threshold: float
    probability: float
    prior: float
    pairs: int


def page_routes(engine: Engine, reviews: Reviews) -> APIRouter:
    """Return `/ui` and the routes under `/ui/api`.

    Args:
        engine: Whose decision the threshold slider shows.
        reviews: The suspects.
    """
    routes, answers = APIRouter(), _Answers(engine, reviews)
    around = " ".join(engine.settings.origins) or "'none'"  # whose pages may hold the moderator's in a frame
    file = partial(_file, policy=_POLICY.format(around))
    routes.add_api_route("/ui", lambda: file("index.html"), methods=_FETCHED, include_in_schema=False)
    routes.add_api_route("/ui/files/{name}", lambda name: file(name), methods=_FETCHED, include_in_schema=False)
    api = APIRouter(prefix="/ui/api", responses=PROBLEMS)
    api.add_api_route("/queue", answers.queue)
    api.add_api_route("/decisions", answers.decide, methods=["POST"], responses=_UNKNOWN)
    api.add_api_route("/undo", answers.undo, methods=["POST"])
    api.add_api_route("/clusters/{number}", answers.cluster, responses=_UNKNOWN)
    api.add_api_route("/curve", answers.curve, responses=_NO_DECISION)
    api.add_api_route("/export", answers.export, response_class=StreamingResponse)
    routes.include_router(api)
    return routes


def no_page_routes() -> APIRouter:
    """Return what stands where the page would, and says what it lacks."""
    routes = APIRouter()

    @routes.get("/ui{rest:path}", include_in_schema=False)
    def missing(rest: str) -> Response:
        why = "this server keeps no decisions, so it has no moderator's page: start it with --reviews or --index"
        raise Refused(409, why, "Conflict")

    return routes


class _Answers:
    """What the routes do; none waits for the model, so all run in threads."""

    def __init__(self, engine: Engine, reviews: Reviews) -> None:
        self._engine, self._reviews = engine, reviews

    def queue(
        self,
        state: State = "waiting",
        search: Annotated[str, Query(max_length=1000)] = "",
        at_least: Annotated[float, Query(ge=0, le=1)] = 0.0,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    ) -> Queue:
        """Return suspects, the most probable first; the counts are of all that match."""
        found = self._reviews.queue(state=state, search=search, at_least=at_least, limit=limit, offset=offset)
        counts = self._reviews.count(search=search, at_least=at_least)
        return Queue(pairs=[_body(pair) for pair in found], counts=counts)

    def decide(self, body: DecisionBody) -> Decided:
        """Accept or reject a pair."""
        with _known():
            pair = self._reviews.decide(body.number, duplicate=body.duplicate)
        return Decided(pair=_body(pair), counts=self._reviews.count())

    def undo(self) -> Decided:
        """Take the last decision back."""
        pair = self._reviews.undo()
        return Decided(pair=None if pair is None else _body(pair), counts=self._reviews.count())

    def cluster(self, number: Number) -> list[PairBody]:
        """Return the pairs that hang together with one."""
        with _known():
            return [_body(pair) for pair in self._reviews.cluster(number)]

    def curve(self) -> Curve:
        """Return precision and recall at each threshold, from the calibration pairs."""
        return curve_of(self._engine.decision())

    def export(self, format: Literal["tsv", "csv", "jsonl"] = "tsv") -> StreamingResponse:
        """Return what was decided, as labelled pairs in Quora's columns."""
        head = {"content-disposition": f'attachment; filename="feedback.{format}"'}
        return StreamingResponse(exported(self._reviews, format), media_type=_EXPORTS[format], headers=head)


@contextmanager
def _known() -> Iterator[None]:
    """Answer 404 where a pair is not there."""
    try:
        yield
    except KeyError as error:
        raise Refused(404, str(error.args[0]), "NotFound") from None


def exported(reviews: Reviews, form: str) -> Iterator[str]:
    """Yield the decided pairs as the lines of a TSV, CSV or JSONL file that `read_pairs` reads."""
    rows = (
        {
            "question1": pair.suspect.text1,
            "question2": pair.suspect.text2,
            "is_duplicate": int(pair.state == "accepted"),
            **{name: getattr(pair.suspect, name) for name in _COLUMNS[3:]},
        }
        for pair in reviews.decided()
    )
    if form == "jsonl":
        yield from (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return
    writer = csv.DictWriter(_Line(), _COLUMNS, delimiter="," if form == "csv" else "\t", lineterminator="\n")
    yield writer.writeheader()
    yield from map(writer.writerow, rows)


class _Line:
    """A file that gives each line back: `csv` returns what its `write` does."""

    def write(self, line: str) -> str:
        """Return the line."""
        return line


def curve_of(decision: Decision) -> Curve:
    """Return what each threshold costs: at most 200 of them, evenly spread over the recall."""
    points = operating_points(decision.scores, decision.labels)
    kept = np.unique(np.searchsorted(points.recalls, np.linspace(0, 1, _POINTS)))
    kept = kept[kept > 0]
    hits, alarms = decision.prior * points.recalls[kept], (1 - decision.prior) * points.false_alarms[kept]
    thresholds = points.thresholds[kept]
    return Curve(
        thresholds=thresholds.tolist(),
        probabilities=decision.probability(thresholds).tolist(),
        precision=(hits / np.maximum(hits + alarms, 1e-300)).tolist(),
        recall=points.recalls[kept].tolist(),
        threshold=decision.threshold,
        probability=float(decision.probability([decision.threshold])[0]),
        prior=decision.prior,
        pairs=len(decision.labels),
    )


def _body(pair: Pair) -> PairBody:
    return PairBody(number=pair.number, state=pair.state, **vars(pair.suspect))


def _file(name: str, *, policy: str) -> Response:
    source = files("textsiam.serving") / "page_files" / name
    kind = _KINDS.get(name.rpartition(".")[2])
    if kind is None or "/" in name or not source.is_file():
        raise Refused(404, f"there is no file {name!r}", "NotFound")
    headers: dict[str, Any] = {
        "content-security-policy": policy,
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
    }
    return Response(source.read_bytes(), media_type=kind, headers=headers)
