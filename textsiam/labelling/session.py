"""People who answer, one or several at once, and what is promised so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import numpy as np

from textsiam.data.tables.errors import DataError
from textsiam.decision.calibration import Isotonic
from textsiam.decision.certificate import Certificate
from textsiam.decision.curve import Probability
from textsiam.decision.decision import Decision
from textsiam.inference.encoders import ModelError
from textsiam.labelling.aim import Aim, Draw, Stage
from textsiam.labelling.candidates import Candidates
from textsiam.labelling.labels import ANSWERS, Label, LabelFile
from textsiam.labelling.plan import Plan

_AGAIN = 15  # every so many answers of others, one is asked again
_STALE = timedelta(minutes=10)  # after which an open draw of somebody else is given to another
_SAID = {"y": True, "n": False, "skip": None}


@dataclass(frozen=True)
class Question:
    """A pair that somebody is asked about."""

    draw: int
    again: bool
    left: int
    right: int
    score: float


class Session:
    """Candidates, a file of labels, and the plan that both give.

    Args:
        candidates: Of the collection.
        ids: Of its questions.
        texts: Its questions.
        path: File of labels; it may exist, then it is gone on with.
        aim: What is wished; None takes what the file says last.
        before: P(duplicate | score) of the decision that was there.
        plan: Makes another plan than `Plan`.
        source: Name of the collection, for the certificate.

    Raises:
        DataError: The file is no file of labels, or of another model or collection.
    """

    def __init__(
        self,
        candidates: Candidates,
        ids: Sequence[str],
        texts: Sequence[str],
        path: str | Path,
        aim: Aim | None = None,
        *,
        before: Probability | None = None,
        plan: Callable[[Aim], Plan] | None = None,
        source: str = "",
    ) -> None:
        self.candidates, self.ids, self.texts, self.source = candidates, ids, texts, source
        self._make_plan = plan or (lambda aim: Plan(candidates.scores, aim, before=before))
        self.file = LabelFile(path)
        self.lines: list[Label] = self.file.read()
        self.aim = aim or (self.lines[-1].aim if self.lines else Aim())
        if self.lines:  # seed and noise belong to the file
            self.aim = replace(self.aim, seed=self.lines[0].seed)
        self._replay()

    def _replay(self) -> None:
        lines, self.lines = self.lines, []
        first = lines[0].aim if lines else self.aim
        self.plan = self._make_plan(replace(first, noise=self.aim.noise))
        self.again: dict[int, str] = {}
        self._owner: dict[int, Label] = {}
        self._second: dict[int, Label] = {}  # who is, or was, asked for a second opinion
        self._drawn: dict[frozenset[int], int] = {}  # pairs, and the number of the draw of each
        self._opened: dict[Label, int] = {}  # lines without an answer, and their places
        last = {line.draw: n for n, line in enumerate(lines) if line.answer and line.stage != "again"}
        for n, line in enumerate(lines):
            # an answer that was replaced was never given: what the plan did with it stands in the lines
            self._take(line, counts=last.get(line.draw) == n)
        self.plan.aim = self.aim

    def _take_added(self, lines: list[Label]) -> None:
        """Take lines that others added; where they change an answer, everything is taken anew."""
        changed = False
        for line in lines:
            changed |= line.stage != "again" and bool(line.answer) and line.draw in self.plan.answers
            self._take(line, counts=not changed)
        self.plan.aim = self.aim
        if changed:
            self._replay()

    def _take(self, line: Label, *, counts: bool = True) -> None:
        """Take a line of the file into account."""
        self._check(line)
        self.lines.append(line)
        if line.stage == "again":
            if line.answer == "undo":
                self.again.pop(line.draw, None)
            elif line.answer:
                self.again[line.draw] = line.answer
            self._second[line.draw] = line
            return
        if line.draw == len(self.plan.draws):
            self.plan.aim = replace(line.aim, noise=self.aim.noise)
            stage: Stage = line.stage  # pyright: ignore[reportAssignmentType]
            self.plan.issue(Draw(line.draw, line.rank, stage, line.among, line.probability))
            self._drawn[frozenset(self._pair(line.rank))] = line.draw
        if line.answer in _SAID and counts:
            self.plan.answer(line.draw, _SAID[line.answer])
        self._owner[line.draw] = line

    def _check(self, line: Label) -> None:
        """Refuse a line that is about something else, or says something else than what was drawn."""
        if line.model != self.candidates.model[:16] or line.collection != self.candidates.collection[:16]:
            what = self.candidates.of if line.model != self.candidates.model[:16] else "collection"
            raise DataError(
                f"{self.file.path}: the answers are about another {what}: they certify nothing here; begin a new file"
            )
        where = f"{self.file.path}:{len(self.lines) + 2}"  # after the header, one line for each
        if not line.answer:  # no draw is opened twice at one time for one person
            before = self._opened.setdefault(line, len(self.lines) + 2)
            if before < len(self.lines) + 2:
                raise DataError(f"{where}: is line {before} again, to the second: the file holds answers twice")
        if line.draw < len(self.plan.draws):
            self._check_drawn(line, self.plan.draws[line.draw], where)
        else:
            self._check_new(line, where)

    def _check_drawn(self, line: Label, draw: Draw, where: str) -> None:
        """Refuse a line that repeats a draw with something else in it."""
        ids = self._ids(draw.rank)
        if (line.rank, line.id1, line.id2) != (draw.rank, *ids):
            raise DataError(
                f"{where}: draw {draw.number} is the pair {ids[0]} and {ids[1]} at place {draw.rank}, this line says "
                f"{line.id1} and {line.id2} at place {line.rank}"
            )
        if line.stage not in (draw.stage, "again") or line.among != draw.among:
            raise DataError(
                f"{where}: draw {draw.number} is of stage {draw.stage} among {draw.among}, this line says "
                f"{line.stage} among {line.among}"
            )

    def _check_new(self, line: Label, where: str) -> None:
        """Refuse a draw that cannot come next."""
        if line.rank >= len(self.candidates) or (line.id1, line.id2) != self._ids(line.rank):
            raise DataError(
                f"{where}: the pair of draw {line.draw}, {line.id1} and {line.id2}, is not the one at place "
                f"{line.rank} of this collection: model or questions give other scores here; begin a new file"
            )
        if line.stage == "again":
            raise DataError(f"{where}: a second opinion about draw {line.draw}, which was not drawn: lines are missing")
        if line.draw > len(self.plan.draws):
            raise DataError(f"{where}: draw {line.draw} comes before draw {len(self.plan.draws)}: lines are missing")
        before = self._drawn.get(frozenset(self._pair(line.rank)))
        if before is not None:
            raise DataError(
                f"{where}: draw {line.draw} is the pair {line.id1} and {line.id2}, as draw {before} was: "
                "a pair is drawn once"
            )
        if line.among > len(self.candidates):
            raise DataError(f"{where}: among is {line.among}, but there are {len(self.candidates)} candidates")

    @contextmanager
    def _exclusive(self) -> Iterator[IO[bytes]]:
        """Take what others added and give the file, locked; after an error, all is read anew the next time."""
        try:
            with self.file.exclusive() as (added, file):
                self._take_added(added)
                yield file
        except BaseException:
            self.file, self.lines = LabelFile(self.file.path), []
            self._replay()
            raise

    def ask(self, labeller: str) -> Question | None:
        """Return a pair to ask about: one left open, now and then one that another has answered, or a new one."""
        with self._exclusive() as file:
            begun = datetime.now(UTC) - _STALE
            if (again := self._second_opinion(labeller, begun)) is not None:
                draw = self.plan.draws[again]
                if self._in_hands(self._second.get(again), begun) != labeller:
                    line = replace(self._line(draw, "", labeller), stage="again")
                    self.file.append(file, line)
                    self._take(line)
                return self._question(draw, again=True)
            waiting = [(draw, self._in_hands(self._owner[draw.number], begun)) for draw in self.plan.open]
            if own := [draw for draw, who in waiting if who == labeller]:
                return self._question(own[0], again=False)
            draw = next((draw for draw, who in waiting if who is None), None) or self.plan.draw()
            if draw is None:
                return None
            line = self._line(draw, "", labeller)
            self.file.append(file, line)
            self._owner[draw.number] = line
            self._drawn[frozenset(self._pair(draw.rank))] = draw.number
            self.lines.append(line)
        return self._question(draw, again=False)

    def answer(self, question: Question, answer: str, labeller: str) -> None:
        """Write an answer: "y", "n", "skip", or "undo" to open the draw again.

        One that comes late, after another person's "y" or "n", is a second opinion; the same one twice is one.

        Raises:
            ValueError: It is none of these.
            LookupError: That pair was not drawn: the file is another one by now.
        """
        if not answer or answer not in ANSWERS:
            raise ValueError(f"answer is {answer!r}, expected y, n, skip or undo")
        with self._exclusive() as file:
            asked = self.plan.draws[question.draw]
            if self._pair(asked.rank) != (question.left, question.right):
                raise LookupError(f"draw {question.draw} is another pair")
            own = [line.answer for line in self.lines if line.draw == question.draw and line.labeller == labeller]
            if own[-1:] == [answer]:
                return
            there = self.plan.answers.get(question.draw)
            late = there is not None and self._owner[question.draw].labeller != labeller
            line = self._line(asked, answer, labeller)
            line = replace(line, stage="again") if question.again or late else line
            self.file.append(file, line)
            self._take_added([line])

    def undo(self, labeller: str) -> Question | None:
        """Open again what this person answered last; returns it."""
        last: set[tuple[int, bool]] = set()
        for line in reversed(self.lines):
            key = line.draw, line.stage == "again"
            if not line.answer or key in last:
                continue
            last.add(key)
            if line.labeller == labeller and line.answer in _SAID:
                question = self._question(self.plan.draws[line.draw], again=line.stage == "again")
                self.answer(question, "undo", labeller)
                return question
        return None

    @property
    def finished(self) -> bool:
        """Whether the promise is proven and the planned answers are given, or it seems out of reach."""
        return self.plan.finished

    @property
    def disagreements(self) -> tuple[int, int]:
        """Pairs about which two people said different things, of so many that were asked twice."""
        both = [(self.plan.answers.get(n), _SAID[answer]) for n, answer in self.again.items()]
        return sum({first, second} == {True, False} for first, second in both), len(both)

    def certificate(self, precision: float | None = None) -> Certificate:
        """Return what is proven so far, for the precision that was wished or any other."""
        plan, wished = self.plan, precision or self.aim.precision
        pairs = plan.proven(wished)
        return Certificate(
            precision=wished,
            confidence=self.aim.confidence,
            noise=self.aim.noise,
            pairs=pairs,
            right=plan.right(pairs),
            threshold=float(self.candidates.scores[pairs - 1]) if pairs else None,
            answers=len(plan.answers),
            answers_left=plan.answers_left() if plan.complete or wished == self.aim.precision else None,
            within_reach=None if pairs else self._within_reach(wished),
            recall=plan.recall(pairs) if pairs else None,
            floor=float(self.candidates.scores[-1]),
            disagreements=self.disagreements,
            model=self.candidates.model[:16],
            collection=self.candidates.collection[:16],
            source=self.source,
        )

    def _within_reach(self, precision: float) -> tuple[float, int] | None:
        """Return the highest precision below this one, in steps of 0.05, that is proven, and of how many pairs."""
        for step in range(int(np.ceil(precision * 20 - 1e-9)) - 1, 0, -1):
            if pairs := self.plan.proven(step / 20):
                return step / 20, pairs
        return None

    def decision(self, precision: float | None = None) -> Decision:
        """Return a decision for this collection: probabilities by the answers, the threshold that is certified.

        Raises:
            ModelError: Nothing is certified yet at this precision.
        """
        certificate, scores = self.certificate(precision), self.candidates.scores
        if certificate.threshold is None:
            first, *rest = certificate.sentences()
            first = first if self.plan.complete else f"{first}: go on with textsiam label"
            raise ModelError("; ".join([f"{self.file.path}: {first}", *rest]))
        known = {draw.rank: right for draw, right in self.plan.judged()}
        # a pair below all candidates stands for the many that nobody asked about
        judged = np.append(scores[list(known)], np.nextafter(scores[-1], np.float32(-np.inf)))
        labels = np.append(np.array(list(known.values()), np.int8), np.int8(0))
        knots = np.unique(scores[np.linspace(0, len(scores) - 1, 200).astype(np.int64)]).astype(np.float64)
        return Decision(
            threshold=certificate.threshold,
            rule="precision",
            prior=float(labels.mean()),
            calibrator=Isotonic(knots, self.plan.curve.probability(knots)),
            scores=judged.astype(np.float32),
            labels=labels,
            target=certificate.precision,
            confidence=certificate.confidence,
            source=self.source,
            certificate=certificate,
        )

    def _in_hands(self, line: Label | None, begun: datetime) -> str | None:
        """Return who was asked last, no longer ago than `begun`."""
        return None if line is None or datetime.fromisoformat(line.time) < begun else line.labeller

    def _second_opinion(self, labeller: str, begun: datetime) -> int | None:
        own = {line.draw for line in self.lines if line.labeller == labeller and line.stage != "again"}
        others = [n for n, a in self.plan.answers.items() if a is not None and n not in own and n not in self.again]
        chosen = [n for n in others if np.random.default_rng([self.aim.seed, n, 1]).integers(_AGAIN) == 0]
        return next((n for n in chosen if self._in_hands(self._second.get(n), begun) in (None, labeller)), None)

    def _pair(self, rank: int) -> tuple[int, int]:
        """Return the two questions of a candidate."""
        return int(self.candidates.left[rank]), int(self.candidates.right[rank])

    def _ids(self, rank: int) -> tuple[str, str]:
        """Return the ids of the two questions of a candidate."""
        left, right = self._pair(rank)
        return self.ids[left], self.ids[right]

    def _question(self, draw: Draw, *, again: bool) -> Question:
        return Question(draw.number, again, *self._pair(draw.rank), float(self.candidates.scores[draw.rank]))

    def _line(self, draw: Draw, answer: str, labeller: str) -> Label:
        left, right = self._pair(draw.rank)
        return Label(
            draw=draw.number,
            stage=draw.stage,
            stratum=self.plan.strata.of(draw.rank),
            among=draw.among,
            probability=draw.probability,
            rank=draw.rank,
            score=float(self.candidates.scores[draw.rank]),
            id1=self.ids[left],
            id2=self.ids[right],
            text1=self.texts[left],
            text2=self.texts[right],
            answer=answer,
            labeller=labeller,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            **asdict(self.aim),
            model=self.candidates.model[:16],
            collection=self.candidates.collection[:16],
        )
