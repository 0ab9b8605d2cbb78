"""Suspected duplicates and what moderators decided about them, kept in SQLite or PostgreSQL.

A pair is known by its two texts, whichever stands first, so that it is asked about once. Decisions are a log: taking
one back is noted in it, and nothing that was acknowledged is lost when the process is killed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from textsiam.serving.page.decisions import as_pairs, choose, pair_rows, shown, take_back
from textsiam.serving.page.pairs import STATES, Choice, Pair, ReviewsError, State, Suspect
from textsiam.serving.page.tables import PAIRS, create_tables, open_engine
from textsiam.whole_file import file_identity

_LARGEST_CLUSTER = 200
_AT_ONCE = 10_000  # ids in a statement


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which pairs are listed.

    Attributes:
        search: Those of which a text contains this, whatever the case.
        at_least: Least probability; pairs without one are left out above 0.
        tag: Those of which a question has this tag.
        since: Those of which a question was asked on this day or later, as 2024-12-31.
        until: Those of which a question was asked on this day or earlier.
    """

    search: str = ""
    at_least: float = 0.0
    tag: str = ""
    since: str = ""
    until: str = ""

    def conditions(self) -> list[sql.ColumnElement[bool]]:
        """Return what is true of these pairs."""
        wanted = [shown()]
        if self.search:
            texts = (PAIRS.c.text1, PAIRS.c.text2)
            wanted.append(sql.or_(*(text.icontains(self.search, autoescape=True) for text in texts)))
        if self.at_least > 0:
            wanted.append(PAIRS.c.probability >= self.at_least)
        if self.tag or self.since or self.until:
            wanted.append(sql.or_(*(self._known(facts) for facts in (PAIRS.c.facts1, PAIRS.c.facts2))))
        return wanted

    def _known(self, facts: sql.Column[Any]) -> sql.ColumnElement[bool]:
        asked = sql.func.substr(facts["created"].as_string(), 1, 10)
        found: list[sql.ColumnElement[bool]] = []
        if self.tag:
            tags = sql.func.replace(facts["tags"].as_string(), ", ", ",")
            found.append(("," + tags + ",").icontains(f",{self.tag},", autoescape=True))
        if self.since:
            found.append(asked >= self.since)
        if self.until:
            found.append(asked <= self.until)
        return sql.and_(*found)


class Reviews:
    """Suspected duplicates waiting for a decision, and those decided.

    Every method may be called from several threads and processes.

    Args:
        location: Path of an SQLite file, which is made where there is none; or `postgresql://…`.
        announce: Whether what is accepted goes into the outbox, out of which `textsiam.serving.page.webhook` sends it.

    Raises:
        ReviewsError: The store cannot be opened.

    Example:
        >>> reviews = Reviews("reviews.sqlite")  # doctest: +SKIP
        >>> reviews.add([Suspect(text1="Why is it red?", text2="Why so red?", probability=0.9)])  # doctest: +SKIP
        1
    """

    def __init__(self, location: str | Path, *, announce: bool = False) -> None:
        self._announce = announce
        self._engine = open_engine(location)
        self.location = self._engine.url.render_as_string(hide_password=True)
        self._writing = self._engine.execution_options(writes=True)
        self._path = self._engine.url.database if self._engine.dialect.name == "sqlite" else None
        self._file: tuple[int, int] | None = None
        try:
            with self.transaction(writes=True) as connection:
                create_tables(connection)
            self._file = None if self._path is None else file_identity(self._path)
        except ReviewsError:
            self.close()
            raise

    def add(self, suspects: Iterable[Suspect]) -> int:
        """Queue suspects; pairs that are known keep their state. Returns how many were new.

        Raises:
            ReviewsError: The store cannot be written; nothing was added.
        """
        return self.follow([], {}, suspects)

    def _put(self, connection: sql.Connection, key: str, suspect: Suspect) -> tuple[int, bool]:
        """Return the number of a pair, and whether it is new."""
        row = {"key": key, "added": time.time(), "state": "waiting", "gone": False, **vars(suspect)}
        insert = (sqlite if self._engine.dialect.name == "sqlite" else postgresql).insert(PAIRS)
        put = insert.values(row).on_conflict_do_nothing(index_elements=["key"]).returning(PAIRS.c.number)
        number = connection.execute(put).scalar_one_or_none()
        if number is None:
            again = PAIRS.update().where(PAIRS.c.key == key, PAIRS.c.gone, PAIRS.c.state == "waiting").values(row)
            number = connection.execute(again.returning(PAIRS.c.number)).scalar_one_or_none()
        if number is not None:
            return number, True
        known = PAIRS.update().where(PAIRS.c.key == key).values(gone=False).returning(PAIRS.c.number)
        return connection.execute(known).scalar_one(), False

    def follow(
        self, changed: Sequence[str], facts: Mapping[str, Mapping[str, Any]], suspects: Iterable[Suspect]
    ) -> int:
        """Have the queue follow questions that were written; decided pairs stay as they are.

        Args:
            changed: Ids of questions that were deleted, or have another text now: their waiting pairs leave the queue.
            facts: What is known of other questions now, by id; their waiting pairs show it.
            suspects: Pairs that are queued.

        Returns:
            How many of these are new to the queue.

        Raises:
            ReviewsError: The store cannot be written; nothing has changed.
        """
        waiting = PAIRS.update().where(PAIRS.c.state == "waiting")
        with self.transaction(writes=True) as connection:
            for start in range(0, len(changed), _AT_ONCE):
                some = changed[start : start + _AT_ONCE]
                theirs = sql.or_(PAIRS.c.id1.in_(some), PAIRS.c.id2.in_(some))
                connection.execute(PAIRS.update().where(theirs).values(gone=True))  # taken back, they wait no more
            for name, known in facts.items():
                connection.execute(waiting.where(PAIRS.c.id1 == name).values(facts1=dict(known)))
                connection.execute(waiting.where(PAIRS.c.id2 == name).values(facts2=dict(known)))
            rows = {suspect.key: suspect for suspect in suspects if suspect.text1 != suspect.text2}
            return sum(self._put(connection, key, suspect)[1] for key, suspect in rows.items())

    def queue(self, *, state: State = "waiting", limit: int = 50, offset: int = 0, **wanted: Any) -> list[Pair]:
        """Return pairs of a state, the most probable duplicates first; last those that somebody was not sure about.

        Args:
            state: Which.
            limit: How many at most.
            offset: How many to pass over.
            **wanted: See `Wanted`.
        """
        order = (PAIRS.c.skips, PAIRS.c.probability.desc().nulls_last(), PAIRS.c.similarity.desc().nulls_last(),
                 PAIRS.c.number)  # fmt: skip
        chosen = sql.select(PAIRS).where(PAIRS.c.state == state, *Wanted(**wanted).conditions()).order_by(*order)
        with self.transaction() as connection:
            return as_pairs(connection, connection.execute(chosen.limit(limit).offset(offset)).all())

    def count(self, **wanted: Any) -> dict[State, int]:
        """Count the pairs of each state that match; see `Wanted`."""
        conditions = Wanted(**wanted).conditions()
        with self.transaction() as connection:
            counted = sql.select(PAIRS.c.state, sql.func.count()).where(*conditions).group_by(PAIRS.c.state)
            found = {state: number for state, number in connection.execute(counted)}
        return {state: found.get(state, 0) for state in STATES}

    def get(self, numbers: Sequence[int]) -> list[Pair]:
        """Return those of the pairs that are there, in the order of their numbers."""
        chosen = sql.select(PAIRS).where(PAIRS.c.number.in_(numbers), shown()).order_by(PAIRS.c.number)
        with self.transaction() as connection:
            return as_pairs(connection, connection.execute(chosen).all())

    def decide(self, number: int, *, duplicate: bool, source: str = "page") -> Pair:
        """Accept a pair as duplicates, or reject it, whatever was decided about it before; see `choose`."""
        return self.choose({number: None}, "accepted" if duplicate else "rejected", source=source)[0]

    def choose(
        self,
        made_on: Mapping[int, State | None],
        choice: Choice,
        *,
        moderator: str | None = None,
        note: str | None = None,
        canonical: str | None = None,
        source: str = "page",
    ) -> list[Pair]:
        """Decide about pairs, all or none; one undo takes all back.

        Args:
            made_on: The state that the moderator saw, by the number of the pair; None accepts any.
            choice: What is decided; "related" rejects, and "unsure" puts a pair at the end of the queue.
            moderator: Who decides; None where moderators have no names.
            note: What is to be remembered beside it.
            canonical: The text of the question that stands for all, one of their clusters'.
            source: Where: "page" or "api".

        Returns:
            The pairs as they are now, in the order of their numbers.

        Raises:
            KeyError: There is no such pair, or no such question to stand for it.
            AlreadyDecided: A pair has another state by now; nothing was decided.
            ReviewsError: The store cannot be written; nothing was decided.
        """
        known = None if canonical is None else self._question(min(made_on), canonical)
        with self.transaction(writes=True) as connection:
            return choose(connection, made_on, choice, source=source, moderator=moderator, note=note,
                          canonical=known, announce=self._announce)  # fmt: skip

    def record(self, suspect: Suspect, *, duplicate: bool, source: str = "api") -> Pair:
        """Decide about a pair that need not be queued yet."""
        with self.transaction(writes=True) as connection:
            number, _ = self._put(connection, suspect.key, suspect)
            return choose(connection, {number: None}, "accepted" if duplicate else "rejected", source=source,
                          moderator=None, note=None, canonical=None, announce=self._announce)[0]  # fmt: skip

    def undo(self) -> Pair | None:
        """Take the last decision of a page without names back; None where there is nothing left. See `take_back`."""
        return next(iter(self.take_back(None)), None)

    def take_back(self, moderator: str | None) -> list[Pair]:
        """Take back what a moderator decided last on the page, unless somebody has decided otherwise since.

        Returns:
            Its pairs as they are now; none where there is nothing left.
        """
        with self.transaction(writes=True) as connection:
            return take_back(connection, moderator, announce=self._announce)

    def _question(self, number: int, text: str) -> dict[str, str]:
        for pair in self.cluster(number):
            for side in ("1", "2"):
                suspect = pair.suspect
                if getattr(suspect, f"text{side}") == text:
                    known = {"id": getattr(suspect, f"id{side}"), "url": getattr(suspect, f"facts{side}").get("url")}
                    return {"text": text, **{name: str(value) for name, value in known.items() if value is not None}}
        raise KeyError(f"there is no question {text[:100]!r} in the cluster of pair {number}")

    def cluster(self, number: int) -> list[Pair]:
        """Return the pairs that hang together with one through texts they share, its own included, best first.

        Rejected pairs hold nothing together. At most 200 pairs are returned.

        Raises:
            KeyError: There is no such pair.
        """
        with self.transaction() as connection:
            first = pair_rows(connection, [number])[0]
            found, fresh = {first.number: first}, {first.text1, first.text2}
            seen = set(fresh)
            while fresh and len(found) < _LARGEST_CLUSTER:
                near = sql.or_(PAIRS.c.text1.in_(fresh), PAIRS.c.text2.in_(fresh))
                kept = PAIRS.c.state.in_(("waiting", "accepted"))
                chosen = sql.select(PAIRS).where(near, kept, shown()).limit(_LARGEST_CLUSTER)
                rows = connection.execute(chosen).all()
                found |= {row.number: row for row in rows}
                fresh = {text for row in rows for text in (row.text1, row.text2)} - seen
                seen |= fresh
            ordered = sorted(found.values(), key=_best_first)
            return as_pairs(connection, ordered[:_LARGEST_CLUSTER])

    def decided(self) -> Iterator[Pair]:
        """Yield the pairs that were accepted or rejected, in the order in which they were added."""
        last = -1
        while True:
            chosen = sql.select(PAIRS).where(PAIRS.c.state.in_(("accepted", "rejected")), PAIRS.c.number > last)
            with self.transaction() as connection:
                rows = connection.execute(chosen.order_by(PAIRS.c.number).limit(1000)).all()
                found = as_pairs(connection, rows)
            yield from found
            if len(rows) < 1000:
                return
            last = rows[-1].number

    def close(self) -> None:
        """Let go of the connections."""
        self._engine.dispose()

    @contextmanager
    def transaction(self, *, writes: bool = False) -> Iterator[sql.Connection]:
        """Give a transaction whose errors name the store."""
        engine = self._writing if writes else self._engine
        self._check_file()
        try:
            with engine.begin() as connection:
                yield connection
            self._check_file()
        except (SQLAlchemyError, OSError) as error:
            why = str(getattr(error, "orig", None) or error).strip().splitlines()
            raise ReviewsError(f"{self.location}: {why[0] if why else type(error).__name__}") from error

    def _check_file(self) -> None:
        """Refuse to write to a file that nobody will find: its connections would go on."""
        if self._file is not None and self._path is not None and file_identity(self._path) != self._file:
            raise ReviewsError(f"{self.location}: was deleted or replaced while it was open: start the server again")


def _best_first(row: Any) -> tuple[float, float, int]:
    none = float("-inf")
    likely, near = (none if value is None else value for value in (row.probability, row.similarity))
    return -likely, -near, row.number
