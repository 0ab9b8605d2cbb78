"""The moderator's page and the routes behind it: suspects to decide about, their clusters, what a threshold costs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator

from textsiam.decision.decision import Decision
from textsiam.decision.thresholds import operating_points
from textsiam.serving.engine import Engine
from textsiam.serving.page.export import exported
from textsiam.serving.page.media import Exhibits
from textsiam.serving.page.pairs import AlreadyDecided, Choice, Pair, State
from textsiam.serving.page.reviews import Reviews
from textsiam.serving.problem_details import Refused
from textsiam.serving.routes.embeddings import PROBLEMS, Problems
from textsiam.serving.wire import Own, Problem, Text

log = logging.getLogger("textsiam.serving")

_POINTS = 200
_EXPORTS = {"tsv": "text/tab-separated-values", "csv": "text/csv", "jsonl": "application/jsonl"}
_NO_DECISION: Problems = {409: {"model": Problem, "description": "The model has no decision, or one of drawn pairs."}}
_UNKNOWN: Problems = {404: {"model": Problem, "description": "There is no such pair, or page."}}


def _who(request: Request) -> str | None:
    return request.scope.get("moderator")


Who = Annotated[str | None, Depends(_who)]
Number = Annotated[int, Field(ge=0, lt=2**63)]
Side = Annotated[int, Field(ge=1, le=2)]


def _day(value: str) -> str:
    """Return a day as 2024-12-31, or nothing.

    Raises:
        ValueError: There is no such day.
    """
    if value:
        date.fromisoformat(value)
    return value


Day = Annotated[str, Query(pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$"), AfterValidator(_day)]
Note = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")]


class PairBody(BaseModel):
    """A suspected duplicate, and the decision about it that holds; `decided` counts seconds since 1970.

    `media` says what its two inputs are shown as, instead of as texts.
    """

    number: int
    media: Literal["image", "audio"] | None
    text1: str
    text2: str
    id1: str | None
    id2: str | None
    similarity: float | None
    probability: float | None
    facts1: dict[str, Any]
    facts2: dict[str, Any]
    state: State
    choice: Choice | None
    moderator: str | None
    decided: float | None
    note: str | None
    canonical: dict[str, str] | None
    skips: int
    gone: bool


class Queue(BaseModel):
    """Part of the queue, how many pairs there are of each state, and under whose name decisions are made."""

    pairs: list[PairBody]
    counts: dict[State, int]
    moderator: str | None


class Beside(Own):
    """What is kept beside a decision: a note, and the text of the question that stands for all."""

    note: Note | None = None
    canonical: Text | None = None


class DecisionBody(Beside):
    """What was decided about a pair, and on which state of it.

    `duplicate` says what "accepted" and "rejected" of `choice` do; one of the two is given.
    """

    number: Number
    choice: Choice | None = None
    duplicate: bool | None = None
    was: State = "waiting"

    @model_validator(mode="after")
    def _one(self) -> DecisionBody:
        if (self.choice is None) == (self.duplicate is None):
            raise ValueError("expected either choice or duplicate")
        return self


class ClusterBody(Beside):
    """The waiting pairs of a cluster that are accepted at once."""

    numbers: Annotated[list[Number], Field(min_length=1, max_length=500)]


class Decided(BaseModel):
    """A pair after a decision, how many were decided or taken back with it, and how many there are of each state."""

    pair: PairBody | None
    pairs: int
    counts: dict[State, int]


class Conflict(Problem):
    """A pair that is in another state than the decision was made on, as it is now."""

    pair: PairBody


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


def page_routes(engine: Engine, reviews: Reviews, exhibits: Exhibits) -> APIRouter:
    """Return the routes under `/ui/api`, behind the page `/ui`.

    Args:
        engine: Whose decision the threshold slider shows.
        reviews: The suspects.
        exhibits: Opens what is shown of them.
    """
    answers = _Answers(engine, reviews, exhibits)
    conflict: Problems = {409: {"model": Conflict, "description": "Somebody has decided about the pair since."}}
    api = APIRouter(prefix="/ui/api", responses=PROBLEMS)
    api.add_api_route("/queue", answers.queue)
    api.add_api_route("/decisions", answers.decide, methods=["POST"], responses=_UNKNOWN | conflict)
    api.add_api_route("/undo", answers.undo, methods=["POST"])
    api.add_api_route("/pairs", answers.pairs)
    api.add_api_route("/media/{number}/{side}", answers.media, responses=_UNKNOWN, response_class=Response)
    api.add_api_route("/clusters/{number}", answers.cluster, responses=_UNKNOWN)
    api.add_api_route("/clusters/{number}", answers.accept, methods=["POST"], responses=_UNKNOWN | conflict)
    api.add_api_route("/curve", answers.curve, responses=_NO_DECISION)
    api.add_api_route("/export", answers.export, response_class=StreamingResponse)
    return api


class _Answers:
    """What the routes do; none waits for the model, so all run in threads."""

    def __init__(self, engine: Engine, reviews: Reviews, exhibits: Exhibits) -> None:
        self._engine, self._reviews, self._exhibits = engine, reviews, exhibits

    def _body(self, pair: Pair) -> PairBody:
        facts: dict[str, Any] = {**vars(pair), **vars(pair.suspect), "media": self._exhibits.modality}
        del facts["suspect"]
        return PairBody(**facts)

    def queue(
        self,
        who: Who,
        state: State = "waiting",
        search: Annotated[str, Query(max_length=1000)] = "",
        at_least: Annotated[float, Query(ge=0, le=1)] = 0.0,
        tag: Annotated[str, Query(max_length=100)] = "",
        since: Day = "",
        until: Day = "",
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    ) -> Queue:
        """Return suspects, the most probable first; the counts are of all that match.

        With `since` and `until`, as 2024-12-31, a question of each was asked then; with `tag`, it has this tag.
        """
        wanted = {"search": search, "at_least": at_least, "tag": tag, "since": since, "until": until}
        found = self._reviews.queue(state=state, limit=limit, offset=offset, **wanted)
        return Queue(pairs=list(map(self._body, found)), counts=self._reviews.count(**wanted), moderator=who)

    def pairs(self, number: Annotated[list[Number], Query(max_length=500)]) -> list[PairBody]:
        """Return those of the pairs that are there, as they are now."""
        return list(map(self._body, self._reviews.get(number)))

    def media(self, number: Number, side: Side, whole: bool = False) -> Response:
        """Return what is shown of one side of a pair: an image that fits beside another, or as it is."""
        with _known():
            found = self._reviews.get([number])
            if not found:
                raise KeyError(f"there is no pair {number}")
        suspect = found[0].suspect
        value, key = (suspect.text1, suspect.id1) if side == 1 else (suspect.text2, suspect.id2)
        return self._exhibits.open(value, key, whole=whole)

    def decide(self, body: DecisionBody, who: Who) -> Any:
        """Decide about a pair, if it is in the state that the moderator saw."""
        choice = body.choice or ("accepted" if body.duplicate else "rejected")
        return self._choose({body.number: body.was}, choice, body, who)

    def accept(self, number: Number, body: ClusterBody, who: Who) -> Any:
        """Accept pairs of a cluster at once, all or none; one undo takes all back."""
        made_on: dict[int, State | None] = dict.fromkeys(body.numbers, "waiting")
        with _known():
            if strange := set(made_on) - {pair.number for pair in self._reviews.cluster(number)}:
                raise KeyError(f"pair {min(strange)} is not in the cluster of pair {number}")
        return self._choose(made_on, "accepted", body, who)

    def _choose(self, made_on: Mapping[int, State | None], choice: Choice, body: Beside, who: str | None) -> Any:
        try:
            with _known():
                found = self._reviews.choose(
                    made_on, choice, moderator=who, note=body.note or None, canonical=body.canonical
                )
        except AlreadyDecided as error:
            problem = Conflict(error=str(error), error_type="Conflict", pair=self._body(error.pair))
            return JSONResponse(problem.model_dump(), 409)
        return self._told(found, choice, who)

    def undo(self, who: Who) -> Decided:
        """Take back what this moderator decided last."""
        return self._told(self._reviews.take_back(who), "undone", who)

    def _told(self, pairs: Sequence[Pair], choice: str, who: str | None) -> Decided:
        for pair in pairs:
            log.info("decision", extra={"facts": {"pair": pair.number, "choice": choice, "moderator": who}})
        first = self._body(pairs[0]) if pairs else None
        return Decided(pair=first, pairs=len(pairs), counts=self._reviews.count())

    def cluster(self, number: Number) -> list[PairBody]:
        """Return the pairs that hang together with one."""
        with _known():
            return [self._body(pair) for pair in self._reviews.cluster(number)]

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


def curve_of(decision: Decision) -> Curve:
    """Return what each threshold costs: at most 200 of them, evenly spread over the recall.

    Raises:
        Refused: The labels are answers about pairs that were drawn unequally: counted alike they would be wrong.
    """
    if decision.certificate is not None:
        why = f"what other thresholds cost is not known, as the decision was {decision.learned_from}"
        raise Refused(409, why, "Conflict")
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
