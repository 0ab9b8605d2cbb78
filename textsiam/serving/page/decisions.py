"""The log of decisions: who decided what, on which state of a pair, and what of it holds."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sql

from textsiam.serving.page.pairs import STATE_OF, AlreadyDecided, Choice, Pair, State, Suspect
from textsiam.serving.page.tables import LOG, OUTBOX, PAIRS


def as_pairs(connection: sql.Connection, rows: Sequence[Any]) -> list[Pair]:
    """Return rows of the pairs with the decision about each that holds: the last one that was not taken back."""
    numbers = [row.number for row in rows]
    last = sql.select(sql.func.max(LOG.c.number)).where(~LOG.c.undone, LOG.c.pair.in_(numbers)).group_by(LOG.c.pair)
    found = {entry.pair: entry for entry in connection.execute(sql.select(LOG).where(LOG.c.number.in_(last)))}
    return [_pair(row, found.get(row.number)) for row in rows]


def pair_rows(connection: sql.Connection, numbers: Iterable[int], *, lock: bool = False) -> list[Any]:
    """Return the rows of pairs; with the lock, nobody else may change them before the transaction ends.

    Raises:
        KeyError: One of them is not there, or waited until one of its questions was deleted or edited.
    """
    wanted = sorted(set(numbers))
    chosen = sql.select(PAIRS).where(PAIRS.c.number.in_(wanted), shown()).order_by(PAIRS.c.number)
    rows = connection.execute(chosen.with_for_update() if lock else chosen).all()
    if missing := set(wanted) - {row.number for row in rows}:
        raise KeyError(f"there is no pair {min(missing)}")
    return list(rows)


def shown() -> sql.ColumnElement[bool]:
    """What is true of pairs that somebody may look at: where a question is gone, only those that were decided."""
    return sql.or_(~PAIRS.c.gone, PAIRS.c.state != "waiting")


def choose(
    connection: sql.Connection,
    made_on: Mapping[int, State | None],
    choice: Choice,
    *,
    source: str,
    moderator: str | None,
    note: str | None,
    canonical: Mapping[str, str] | None,
    announce: bool,
) -> list[Pair]:
    """Write decisions that are made, and taken back, at once.

    Args:
        connection: A transaction that writes.
        made_on: The state that the moderator saw, by the number of the pair; None accepts any.
        choice: What was decided.
        source: Where: "page" or "api".
        moderator: Who.
        note: Why.
        canonical: The question that stands for all; see `Pair`.
        announce: Whether what is accepted, or no longer, goes into the outbox.

    Raises:
        KeyError: There is no such pair.
        AlreadyDecided: A pair has another state by now, or somebody else made the same choice.
    """
    rows = pair_rows(connection, made_on, lock=True)
    together = None
    for row, pair in zip(rows, as_pairs(connection, rows), strict=True):
        seen = made_on[row.number]
        own = pair.moderator == moderator
        if pair.choice == choice and (own or (choice != "unsure" and seen in (None, row.state))):
            continue  # sent again, as the answer was lost: one undo takes it back
        if seen is not None and row.state != seen:
            raise AlreadyDecided(pair)
        entry = LOG.insert().values(
            pair=row.number, state=choice, before=row.state, undone=False, decided=time.time(), source=source,
            moderator=moderator, note=note, canonical=canonical, together=together,
        )  # fmt: skip
        written = connection.execute(entry.returning(LOG.c.number)).scalar_one()
        if together is None:
            together = written
        _set(connection, row, STATE_OF[choice], row.skips + (choice == "unsure"), announce=announce)
    return as_pairs(connection, pair_rows(connection, made_on))


def take_back(connection: sql.Connection, moderator: str | None, *, announce: bool) -> list[Pair]:
    """Take back what a moderator decided last on the page and nobody has decided otherwise since.

    Returns:
        The pairs as they are now; none where there is nothing left.
    """
    later = LOG.alias()
    over = sql.exists().where(
        later.c.pair == LOG.c.pair, later.c.number > LOG.c.number, ~later.c.undone, later.c.state != "unsure"
    )
    own = sql.select(LOG).where(~LOG.c.undone, LOG.c.source == "page", LOG.c.moderator.is_not_distinct_from(moderator))
    own = own.where(~over).order_by(LOG.c.number.desc())
    last = connection.execute(own.limit(1)).one_or_none()
    if last is None:
        return []
    first = last.together or last.number
    entries = connection.execute(own.where(sql.or_(LOG.c.number == first, LOG.c.together == first))).all()
    rows = {row.number: row for row in connection.execute(
        sql.select(PAIRS).where(PAIRS.c.number.in_([entry.pair for entry in entries])).with_for_update()
    )}  # fmt: skip
    for entry in entries:
        connection.execute(LOG.update().where(LOG.c.number == entry.number).values(undone=True))
        row = rows[entry.pair]
        _set(connection, row, entry.before, row.skips - (entry.state == "unsure"), announce=announce)
    taken = sql.select(PAIRS).where(PAIRS.c.number.in_(rows)).order_by(PAIRS.c.number)
    return as_pairs(connection, connection.execute(taken).all())


def _set(connection: sql.Connection, row: Any, state: State, skips: int, *, announce: bool) -> None:
    """Give a pair another state; what is accepted, or no longer, goes into the outbox in the same transaction."""
    connection.execute(PAIRS.update().where(PAIRS.c.number == row.number).values(state=state, skips=max(0, skips)))
    if not announce or "accepted" not in {row.state, state} or row.state == state:
        return
    again = connection.execute(sql.select(PAIRS).where(PAIRS.c.number == row.number)).one()
    pair, key = as_pairs(connection, [again])[0], uuid.uuid4().hex
    kind = "duplicate.accepted" if state == "accepted" else "duplicate.withdrawn"
    body = {"type": kind, "id": key, "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "data": asdict(pair)}  # fmt: skip
    put = OUTBOX.insert().values(key=key, pair=row.number, body=json.dumps(body, ensure_ascii=False), due=time.time())
    connection.execute(put)


def _pair(row: Any, entry: Any) -> Pair:
    names = ("text1", "text2", "id1", "id2", "similarity", "probability")
    facts = {name: getattr(row, name) for name in names}
    suspect = Suspect(**facts, facts1=row.facts1 or {}, facts2=row.facts2 or {})
    known = {} if entry is None else {
        "choice": entry.state, "moderator": entry.moderator, "decided": entry.decided, "note": entry.note,
        "canonical": entry.canonical,
    }  # fmt: skip
    return Pair(row.number, suspect, row.state, skips=row.skips, gone=row.gone, **known)
