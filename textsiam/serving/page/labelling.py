"""The page that asks: the pair that proves most, what somebody says of it, and what all answers prove so far."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, Field, StringConstraints

from textsiam.data.tables.errors import DataError
from textsiam.data.texts import Texts
from textsiam.labelling.progress import Progress
from textsiam.labelling.session import Question, Session
from textsiam.media.medium import Medium
from textsiam.serving.page.media import Exhibits
from textsiam.serving.problem_details import Refused
from textsiam.serving.routes.embeddings import PROBLEMS, Problems
from textsiam.serving.wire import Own, Problem

log = logging.getLogger("textsiam.serving")

_UNKNOWN: Problems = {404: {"model": Problem, "description": "That pair is not asked about."}}
_SHOWN: Problems = {404: {"model": Problem, "description": "There is no such row, or nothing to show of it."}}
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]+$")]
Number = Annotated[int, Field(ge=0, lt=2**31)]


class Labeller(Own):
    """Who asks for a pair, and whether for more of them than were planned."""

    labeller: Name
    more: bool = False


class Answer(Labeller):
    """What somebody says of a pair: `draw`, `again`, `left` and `right` are those of the question."""

    draw: Number
    again: bool = False
    left: Number
    right: Number
    answer: Literal["y", "n", "skip"]


class PairAsked(BaseModel):
    """A pair that somebody is asked about; its score is not told. `media`: what it is shown as, if not as texts."""

    draw: int
    again: bool
    media: Literal["image", "audio"] | None
    left: int
    right: int
    id1: str
    id2: str
    text1: str
    text2: str
    facts1: dict[str, str]
    facts2: dict[str, str]


@dataclass(frozen=True)
class ProgressBody(Progress):
    """How far the answers have come, of so many that are planned, and that in words."""

    planned: int
    sentence: str


class Asked(BaseModel):
    """The pair to look at now, if there is one, and how far the answers have come."""

    question: PairAsked | None
    progress: ProgressBody


class Proven(BaseModel):
    """What is promised so far: in words, in figures, and the command that flags what is certified."""

    sentences: list[str]
    certificate: dict[str, Any]
    command: str


class Labelling:
    """A session of labels that several people share, each by name; what the routes do, in threads.

    Args:
        session: Candidates and answers.
        questions: The collection.
        command: What flags the pairs that the answers certify.
        medium: What the inputs are; None where they are read.
    """

    def __init__(self, session: Session, questions: Texts, *, command: str = "", medium: Medium | None = None) -> None:
        self._session, self._questions, self._command = session, questions, command
        self._exhibits = Exhibits(medium, None, frozenset(() if medium is None else questions.texts))
        self._lock = Lock()

    def next(self, body: Labeller) -> Asked:
        """Return the pair that this person is to look at: the same one until it is answered."""
        with self._opened() as session:
            return self._asked(session, body)

    def answer(self, body: Answer) -> Asked:
        """Write an answer to the disk, and return the next pair."""
        with self._opened() as session:
            question = Question(body.draw, body.again, body.left, body.right, 0.0)
            try:
                session.answer(question, body.answer, body.labeller)
            except LookupError:
                raise Refused(404, "this pair is not asked about any more", "NotFound") from None
            return self._asked(session, body)

    def undo(self, body: Labeller) -> Asked:
        """Open again what this person answered last; no pair where there is nothing left to take back."""
        with self._opened() as session:
            return self._shown(session, session.undo(body.labeller))

    def proven(self) -> Proven:
        """Return what is promised so far."""
        with self._opened() as session:
            found = session.certificate()
        return Proven(sentences=found.sentences(), certificate=found.to_dict(), command=self._command)

    def media(self, row: Number, whole: bool = False) -> Response:
        """Return what is shown of an input, by its row in the collection."""
        if row >= len(self._questions):
            raise Refused(404, f"there is no row {row} in what is asked about", "NotFound")
        return self._exhibits.open(self._questions.texts[row], None, whole=whole)

    @contextmanager
    def _opened(self) -> Iterator[Session]:
        """Give the session to one request at a time; answer 503 where its file cannot be used."""
        try:
            with self._lock:
                yield self._session
        except (DataError, OSError) as error:
            log.error("labels failed", exc_info=error, extra={"facts": {"file": str(self._session.file.path)}})
            message = "the file of answers cannot be used at the moment"
            raise Refused(503, message, "Unhealthy", retry_after=5) from None

    def _asked(self, session: Session, body: Labeller) -> Asked:
        finished = session.finished and not body.more
        return self._shown(session, None if finished else session.ask(body.labeller))

    def _shown(self, session: Session, question: Question | None) -> Asked:
        progress = Progress.of(session)
        body = ProgressBody(**asdict(progress), planned=session.aim.labels, sentence=str(progress))
        return Asked(question=None if question is None else self._pair(question), progress=body)

    def _pair(self, question: Question) -> PairAsked:
        read, places = self._questions, (question.left, question.right)
        (id1, id2), (text1, text2) = ([column[i] for i in places] for column in (read.ids, read.texts))
        facts1, facts2 = map(read.facts, places)
        asked: dict[str, Any] = {"draw": question.draw, "again": question.again, "media": self._exhibits.modality}
        asked |= {"left": question.left, "right": question.right}
        return PairAsked(**asked, id1=id1, id2=id2, text1=text1, text2=text2, facts1=facts1, facts2=facts2)


def label_routes(labelling: Labelling) -> APIRouter:
    """Return the routes under `/ui/api/labels`."""
    routes = APIRouter()
    api = APIRouter(prefix="/ui/api/labels", responses=PROBLEMS)
    api.add_api_route("/next", labelling.next, methods=["POST"])
    api.add_api_route("/answers", labelling.answer, methods=["POST"], responses=_UNKNOWN)
    api.add_api_route("/undo", labelling.undo, methods=["POST"])
    api.add_api_route("/certificate", labelling.proven)
    api.add_api_route("/media/{row}", labelling.media, responses=_SHOWN, response_class=Response)
    routes.include_router(api)
    return routes
