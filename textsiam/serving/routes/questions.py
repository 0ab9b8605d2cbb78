"""Routes over the index: is this question there already, and what is in it."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from starlette.convertors import Convertor, register_url_convertor

from textsiam.search.index.base import Question, QuestionIndex, QuestionIndexError
from textsiam.search.index.validation import check_where
from textsiam.search.lookup import Checked, Found
from textsiam.serving.engine import Engine
from textsiam.serving.page.reviews import Reviews, Suspect
from textsiam.serving.problem_details import Refused, unfit
from textsiam.serving.routes.embeddings import PROBLEMS, Problems
from textsiam.serving.routes.writing import Writer
from textsiam.serving.verdicts import Looker
from textsiam.serving.wire import (
    Duplicate,
    DuplicatesRequest,
    DuplicatesVerdict,
    FeedbackAnswer,
    FeedbackRequest,
    Id,
    Problem,
    QuestionBody,
    QuestionsBatch,
    StoredQuestion,
    Written,
)

_UNKNOWN: Problems = {404: {"model": Problem, "description": "There is no such question."}}
_MISSING: Problems = {
    409: {"model": Problem, "description": "The server has no index, no store of decisions, or no decision."}
}
_CREATED: Problems = {201: {"model": Written, "description": "It was not there before."}}


class _Any(Convertor[str]):
    """The rest of a path, whatever it holds: an id may have slashes and even lines."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """Return the rest as it is."""
        return value

    def to_string(self, value: str) -> str:
        """Return an id as it stands in a path."""
        return value


register_url_convertor("any", _Any())


def question_routes(engine: Engine, index: QuestionIndex | None, reviews: Reviews | None) -> APIRouter:
    """Return `/duplicates`, `/questions…` and `/feedback`.

    Args:
        engine: Encodes and scores.
        index: The questions; without one these routes answer 409.
        reviews: Where suspects among new questions, and feedback, are kept.
    """
    routes = APIRouter(responses=PROBLEMS | _MISSING)
    answers = _Answers(engine, None if index is None else Looker(engine, index), reviews)
    routes.add_api_route("/duplicates", answers.duplicates, methods=["POST"])
    routes.add_api_route("/questions/{id:any}", answers.put, methods=["PUT"], responses=_CREATED)
    routes.add_api_route("/questions/{id:any}", answers.get, methods=["GET"], responses=_UNKNOWN)
    routes.add_api_route("/questions/{id:any}", answers.delete, methods=["DELETE"], responses=_UNKNOWN)
    routes.add_api_route("/questions:batch", answers.batch, methods=["POST"])
    routes.add_api_route("/feedback", answers.feedback, methods=["POST"])
    return routes


class _Answers:
    """What the routes do."""

    def __init__(self, engine: Engine, looker: Looker | None, reviews: Reviews | None) -> None:
        self._engine, self._looker, self._reviews = engine, looker, reviews
        self._writer = None if looker is None else Writer(engine, looker, reviews)

    async def duplicates(
        self, body: DuplicatesRequest, request: Request
    ) -> DuplicatesVerdict | list[DuplicatesVerdict]:
        """Say whether questions are in the index already: one verdict for `question`, a list for `questions`."""
        if (body.question is None) == (body.questions is None):
            raise Refused(422, "expected either question or questions", "Validation")
        field = "questions" if body.question is None else "question"
        texts = [body.question] if body.question is not None else body.questions or []
        gone = request.is_disconnected
        look = self._look()
        vectors, _ = await self._engine.encode(texts, gone, field=field, truncate=True)
        await self._engine.notice(texts, vectors)
        try:
            check_where(body.where)
        except QuestionIndexError as error:
            raise unfit(f"where: {error}") from error
        seen = await look.look(texts, vectors, gone, threshold=body.threshold, where=body.where)
        verdicts = [_verdict(one, body.limit) for one in seen]
        return verdicts[0] if body.question is not None else verdicts

    async def put(self, id: Id, body: QuestionBody, request: Request, response: Response) -> Written:
        """Keep a question, in place of the one with the same id."""
        there = (await asyncio.to_thread(self._look().index.get, [id]))[0] is not None
        new = Question(id, body.text, body.metadata)
        written = await self._write().write([new], [], request.is_disconnected)
        response.status_code = 200 if there else 201
        return written

    async def get(self, id: Id) -> StoredQuestion:
        """Return a question."""
        found = (await asyncio.to_thread(self._look().index.get, [id]))[0]
        if found is None:
            raise Refused(404, f"there is no question {id!r}", "NotFound")
        return StoredQuestion(id=found.id, text=found.text, metadata=dict(found.metadata))

    async def delete(self, id: Id, request: Request) -> Written:
        """Forget a question."""
        written = await self._write().write([], [id], request.is_disconnected)
        if not written.deleted:
            raise Refused(404, f"there is no question {id!r}", "NotFound")
        return written

    async def batch(self, body: QuestionsBatch, request: Request) -> Written:
        """Forget and keep many questions; everything that is kept is kept, or nothing."""
        if len(body.upsert) + len(body.delete) == 0:
            raise Refused(422, "expected something to upsert or to delete", "Validation")
        questions = [Question(one.id, one.text, one.metadata) for one in body.upsert]
        return await self._write().write(questions, body.delete, request.is_disconnected)

    async def feedback(self, body: FeedbackRequest, request: Request) -> FeedbackAnswer:
        """Keep what a person decided about two questions; it becomes a training pair, and moves the threshold."""
        if self._reviews is None:
            raise Refused(409, "this server keeps no decisions: start it with --reviews", "Conflict")
        if body.question1 == body.question2:
            raise Refused(422, "question1 and question2 are the same text", "Validation")
        fields = ("question1", "question2")
        score = await self._engine.scores(
            body.question1, [body.question2], request.is_disconnected, fields=fields, truncate=True
        )
        decision = self._engine.twin.decision
        suspect = Suspect(
            text1=body.question1, text2=body.question2, id1=body.id1, id2=body.id2, similarity=float(score[0]),
            probability=None if decision is None else float(decision.probability(score)[0]),
        )  # fmt: skip
        pair = await asyncio.to_thread(self._reviews.record, suspect, duplicate=body.duplicate)
        return FeedbackAnswer(number=pair.number, state=pair.state)

    def _write(self) -> Writer:
        self._look()
        assert self._writer is not None
        return self._writer

    def _look(self) -> Looker:
        if self._looker is None:
            raise Refused(409, "this server has no index: start it with --index", "Conflict")
        return self._looker


def _verdict(one: Checked, limit: int) -> DuplicatesVerdict:
    return DuplicatesVerdict(
        question=one.text,
        duplicate=one.is_duplicate,
        threshold=one.threshold,
        canonical=None if one.canonical is None else _duplicate(one.canonical),
        duplicates=[_duplicate(found) for found in one.duplicates[:limit]],
    )


def _duplicate(found: Found) -> Duplicate:
    question = found.question
    facts = {"id": question.id, "text": question.text, "metadata": dict(question.metadata)}
    return Duplicate(**facts, similarity=found.similarity, probability=found.probability)
