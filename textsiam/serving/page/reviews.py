"""Suspected duplicates and what moderators decided about them, kept in SQLite or PostgreSQL.

A pair is known by its two texts, whichever stands first, so that it is asked about once. Decisions are a log: taking
one back is noted in it, and nothing that was acknowledged is lost when the process is killed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.event import listen
from sqlalchemy.exc import SQLAlchemyError

from textsiam.whole_file import file_identity

State = Literal["waiting", "accepted", "rejected"]
STATES: tuple[State, ...] = ("waiting", "accepted", "rejected")
_GONE = "gone"  # of a pair that waited until one of its questions was edited or deleted: nobody is shown it
_BUSY = 10  # seconds that a writer waits for another one
_LARGEST_CLUSTER = 200
_AT_ONCE = 10_000  # ids in a statement

_TABLES = sql.MetaData()
_NUMBER = sql.BigInteger().with_variant(sql.Integer, "sqlite")  # only an INTEGER key counts up by itself there
_PAIRS = sql.Table(
    "textsiam_pairs",
    _TABLES,
    sql.Column("number", _NUMBER, primary_key=True, autoincrement=True),
    sql.Column("key", sql.String(64), nullable=False, unique=True),
    sql.Column("id1", sql.Text),
    sql.Column("id2", sql.Text),
    sql.Column("text1", sql.Text, nullable=False),
    sql.Column("text2", sql.Text, nullable=False),
    sql.Column("similarity", sql.Float),
    sql.Column("probability", sql.Float),
    sql.Column("state", sql.String(8), nullable=False, default="waiting"),
    sql.Column("added", sql.Float, nullable=False),
    sql.Column("facts1", sql.JSON),
    sql.Column("facts2", sql.JSON),
    sql.Index("textsiam_pairs_queue", "state", "probability"),
    sql.Index("textsiam_pairs_id1", "id1", postgresql_using="hash"),
    sql.Index("textsiam_pairs_id2", "id2", postgresql_using="hash"),
    sql.Index("textsiam_pairs_text1", "text1", postgresql_using="hash"),
    sql.Index("textsiam_pairs_text2", "text2", postgresql_using="hash"),
)
_LOG = sql.Table(
    "textsiam_decisions",
    _TABLES,
    sql.Column("number", _NUMBER, primary_key=True, autoincrement=True),
    sql.Column("pair", _NUMBER, sql.ForeignKey("textsiam_pairs.number"), nullable=False, index=True),
    sql.Column("state", sql.String(8), nullable=False),
    sql.Column("before", sql.String(8), nullable=False),
    sql.Column("undone", sql.Boolean, nullable=False, default=False),
    sql.Column("decided", sql.Float, nullable=False),
    sql.Column("source", sql.String(16), nullable=False),
)


class ReviewsError(ValueError):
    """Reviews that cannot be opened, read or written; the message names them."""


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """Two questions that may be the same.

    Attributes:
        text1: The one question.
        text2: The other.
        id1: Its id, where it has one.
        id2: The other's id.
        similarity: What the twin said when the pair was flagged; None where it was not asked.
        probability: P(duplicate) then.
        facts1: What else is known of the one question, such as its url, tags and date.
        facts2: What else is known of the other.
    """

    text1: str
    text2: str
    id1: str | None = None
    id2: str | None = None
    similarity: float | None = None
    probability: float | None = None
    facts1: Mapping[str, Any] = field(default_factory=dict)
    facts2: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What equal pairs have in common, whichever text stands first; 64 hexadecimal digits."""
        digests = sorted(hashlib.sha256(text.encode()).digest() for text in (self.text1, self.text2))
        return hashlib.sha256(b"".join(digests)).hexdigest()


@dataclass(frozen=True)
class Pair:
    """A suspect in the store, and what was decided about it."""

    number: int
    suspect: Suspect
    state: State


class Reviews:
    """Suspected duplicates waiting for a decision, and those decided.

    Every method may be called from several threads and processes.

    Args:
        location: Path of an SQLite file, which is made where there is none; or `postgresql://…`.

    Raises:
        ReviewsError: The store cannot be opened.

    Example:
        >>> reviews = Reviews("reviews.sqlite")  # doctest: +SKIP
        >>> reviews.add([Suspect(text1="Why is it red?", text2="Why so red?", probability=0.9)])  # doctest: +SKIP
        1
    """

    def __init__(self, location: str | Path) -> None:
        self._engine = sql.create_engine(_address(location), pool_pre_ping=True, hide_parameters=True)
        self.location = self._engine.url.render_as_string(hide_password=True)
        if self._engine.dialect.name == "sqlite":
            listen(self._engine, "connect", _make_durable)
            listen(self._engine, "begin", _begin)
        self._writing = self._engine.execution_options(writes=True)
        self._path = self._engine.url.database if self._engine.dialect.name == "sqlite" else None
        self._file: tuple[int, int] | None = None
        try:
            with self._begun(writes=True) as connection:
                _TABLES.create_all(connection)
                _add_columns(connection)
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
        row = {"key": key, "added": time.time(), "state": "waiting", **vars(suspect)}
        insert = (sqlite if self._engine.dialect.name == "sqlite" else postgresql).insert(_PAIRS)
        put = insert.values(row).on_conflict_do_nothing(index_elements=["key"]).returning(_PAIRS.c.number)
        number = connection.execute(put).scalar_one_or_none()
        again = _PAIRS.update().where(_PAIRS.c.key == key, _PAIRS.c.state == _GONE).values(row)
        if number is None:
            number = connection.execute(again.returning(_PAIRS.c.number)).scalar_one_or_none()
        if number is not None:
            return number, True
        return connection.execute(sql.select(_PAIRS.c.number).where(_PAIRS.c.key == key)).scalar_one(), False

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
        waiting = _PAIRS.update().where(_PAIRS.c.state == "waiting")
        with self._begun(writes=True) as connection:
            for start in range(0, len(changed), _AT_ONCE):
                some = changed[start : start + _AT_ONCE]
                theirs = sql.or_(_PAIRS.c.id1.in_(some), _PAIRS.c.id2.in_(some))
                connection.execute(waiting.where(theirs).values(state=_GONE))
            for name, known in facts.items():
                connection.execute(waiting.where(_PAIRS.c.id1 == name).values(facts1=dict(known)))
                connection.execute(waiting.where(_PAIRS.c.id2 == name).values(facts2=dict(known)))
            rows = {suspect.key: suspect for suspect in suspects if suspect.text1 != suspect.text2}
            return sum(self._put(connection, key, suspect)[1] for key, suspect in rows.items())

    def queue(
        self,
        *,
        state: State = "waiting",
        search: str = "",
        at_least: float = 0.0,
        limit: int = 50,
        offset: int = 0,
    ) -> list[Pair]:
        """Return pairs of a state, the most probable duplicates first.

        Args:
            state: Which.
            search: Only pairs of which a text contains this, whatever the case.
            at_least: Least probability; pairs without one are left out above 0.
            limit: How many at most.
            offset: How many to pass over.
        """
        wanted = self._wanted(state, search, at_least)
        order = (_PAIRS.c.probability.desc().nulls_last(), _PAIRS.c.similarity.desc().nulls_last(), _PAIRS.c.number)
        with self._begun() as connection:
            rows = connection.execute(sql.select(_PAIRS).where(*wanted).order_by(*order).limit(limit).offset(offset))
            return [_pair(row) for row in rows]

    def count(self, *, search: str = "", at_least: float = 0.0) -> dict[State, int]:
        """Count the pairs of each state that match; see `queue`."""
        wanted = self._wanted(None, search, at_least)
        with self._begun() as connection:
            counted = sql.select(_PAIRS.c.state, sql.func.count()).where(*wanted).group_by(_PAIRS.c.state)
            found = {state: number for state, number in connection.execute(counted)}
        return {state: found.get(state, 0) for state in STATES}

    def decide(self, number: int, *, duplicate: bool, source: str = "page") -> Pair:
        """Accept a pair as duplicates, or reject it.

        Raises:
            KeyError: There is no such pair.
            ReviewsError: The store cannot be written; nothing was decided.
        """
        with self._begun(writes=True) as connection:
            return self._decide(connection, number, "accepted" if duplicate else "rejected", source)

    def record(self, suspect: Suspect, *, duplicate: bool, source: str = "api") -> Pair:
        """Decide about a pair that need not be queued yet."""
        with self._begun(writes=True) as connection:
            number, _ = self._put(connection, suspect.key, suspect)
            return self._decide(connection, number, "accepted" if duplicate else "rejected", source)

    def _decide(self, connection: sql.Connection, number: int, state: State, source: str) -> Pair:
        row = _row(connection, number, lock=True)
        if row.state == state:  # sent again, as the answer was lost: one undo takes it back
            return _pair(row)
        connection.execute(_LOG.insert().values(pair=number, state=state, before=row.state, undone=False,
                                                decided=time.time(), source=source))  # fmt: skip
        connection.execute(_PAIRS.update().where(_PAIRS.c.number == number).values(state=state))
        return Pair(number, _pair(row).suspect, state)

    def undo(self) -> Pair | None:
        """Take the last decision of the page back; returns its pair as it is now, None where there is nothing left."""
        last = sql.select(_LOG).where(~_LOG.c.undone, _LOG.c.source == "page").order_by(_LOG.c.number.desc()).limit(1)
        with self._begun(writes=True) as connection:
            entry = connection.execute(last.with_for_update()).one_or_none()
            if entry is None:
                return None
            connection.execute(_LOG.update().where(_LOG.c.number == entry.number).values(undone=True))
            connection.execute(_PAIRS.update().where(_PAIRS.c.number == entry.pair).values(state=entry.before))
            return _pair(_row(connection, entry.pair))

    def cluster(self, number: int) -> list[Pair]:
        """Return the pairs that hang together with one through texts they share, its own included, best first.

        Rejected pairs hold nothing together. At most 200 pairs are returned.

        Raises:
            KeyError: There is no such pair.
        """
        with self._begun() as connection:
            first = _row(connection, number)
            found, fresh = {first.number: first}, {first.text1, first.text2}
            seen = set(fresh)
            while fresh and len(found) < _LARGEST_CLUSTER:
                near = sql.or_(_PAIRS.c.text1.in_(fresh), _PAIRS.c.text2.in_(fresh))
                kept = _PAIRS.c.state.in_(("waiting", "accepted"))
                chosen = sql.select(_PAIRS).where(near, kept).limit(_LARGEST_CLUSTER)
                rows = connection.execute(chosen).all()
                found |= {row.number: row for row in rows}
                fresh = {text for row in rows for text in (row.text1, row.text2)} - seen
                seen |= fresh
        ordered = sorted(found.values(), key=lambda row: (-(row.probability or 0.0), row.number))
        return [_pair(row) for row in ordered[:_LARGEST_CLUSTER]]

    def decided(self) -> Iterator[Pair]:
        """Yield the pairs that were accepted or rejected, in the order in which they were added."""
        last = -1
        while True:
            chosen = sql.select(_PAIRS).where(_PAIRS.c.state.in_(("accepted", "rejected")), _PAIRS.c.number > last)
            with self._begun() as connection:
                rows = connection.execute(chosen.order_by(_PAIRS.c.number).limit(1000)).all()
            yield from map(_pair, rows)
            if len(rows) < 1000:
                return
            last = rows[-1].number

    def close(self) -> None:
        """Let go of the connections."""
        self._engine.dispose()

    def _wanted(self, state: State | None, search: str, at_least: float) -> list[sql.ColumnElement[bool]]:
        wanted: list[sql.ColumnElement[bool]] = [] if state is None else [_PAIRS.c.state == state]
        if search:
            texts = (_PAIRS.c.text1, _PAIRS.c.text2)
            wanted.append(sql.or_(*(text.icontains(search, autoescape=True) for text in texts)))
        if at_least > 0:
            wanted.append(_PAIRS.c.probability >= at_least)
        return wanted

    @contextmanager
    def _begun(self, *, writes: bool = False) -> Iterator[sql.Connection]:
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


def _row(connection: sql.Connection, number: int, *, lock: bool = False) -> Any:
    """Return the row of a pair; with the lock, nobody else may change it before the transaction ends.

    Raises:
        KeyError: There is no such pair.
    """
    chosen = sql.select(_PAIRS).where(_PAIRS.c.number == number)
    row = connection.execute(chosen.with_for_update() if lock else chosen).one_or_none()
    if row is None or row.state == _GONE:
        raise KeyError(f"there is no pair {number}")
    return row


def _pair(row: Any) -> Pair:
    facts = {name: getattr(row, name) for name in ("text1", "text2", "id1", "id2", "similarity", "probability")}
    return Pair(row.number, Suspect(**facts, facts1=row.facts1 or {}, facts2=row.facts2 or {}), row.state)


def _add_columns(connection: sql.Connection) -> None:
    """Add the columns and indexes that reviews of an earlier version do not have."""
    there = {column["name"] for column in sql.inspect(connection).get_columns(_PAIRS.name)}
    for name in ("facts1", "facts2"):
        if name not in there:
            connection.execute(sql.text(f"ALTER TABLE {_PAIRS.name} ADD COLUMN {name} JSON"))
    for index in _PAIRS.indexes:
        index.create(connection, checkfirst=True)


def _address(location: str | Path) -> sql.URL:
    text = str(location)
    scheme, separator, rest = text.partition("://")
    if separator and scheme in ("postgresql", "postgres"):
        return sql.make_url(f"postgresql+psycopg://{rest}")
    if separator:
        raise ReviewsError(f"{scheme}://: reviews are kept in an SQLite file or at postgresql://…")
    return sql.URL.create("sqlite", database=text)


def _make_durable(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin as `_begin` says, not when sqlite3 thinks it is time
    for rule in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={1000 * _BUSY}", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {rule}")


def _begin(connection: sql.Connection) -> None:
    # A transaction that reads first and writes later fails at once where another one writes in between.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
