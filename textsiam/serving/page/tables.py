"""The tables of the store of decisions, and how those of an earlier version become them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.event import listen
from sqlalchemy.schema import CreateColumn

from textsiam.serving.page.pairs import ReviewsError

_BUSY = 10  # seconds that a writer waits for another one

TABLES = sql.MetaData()
_NUMBER = sql.BigInteger().with_variant(sql.Integer, "sqlite")  # only an INTEGER key counts up by itself there

PAIRS = sql.Table(
    "textsiam_pairs",
    TABLES,
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
    sql.Column("skips", sql.Integer, nullable=False, server_default="0"),
    sql.Column("gone", sql.Boolean, nullable=False, server_default=sql.false()),
    sql.Index("textsiam_pairs_queue", "state", "probability"),
    sql.Index("textsiam_pairs_id1", "id1", postgresql_using="hash"),
    sql.Index("textsiam_pairs_id2", "id2", postgresql_using="hash"),
    sql.Index("textsiam_pairs_text1", "text1", postgresql_using="hash"),
    sql.Index("textsiam_pairs_text2", "text2", postgresql_using="hash"),
)
LOG = sql.Table(
    "textsiam_decisions",
    TABLES,
    sql.Column("number", _NUMBER, primary_key=True, autoincrement=True),
    sql.Column("pair", _NUMBER, sql.ForeignKey("textsiam_pairs.number"), nullable=False, index=True),
    sql.Column("state", sql.String(8), nullable=False),  # the choice
    sql.Column("before", sql.String(8), nullable=False),  # the pair's state until then
    sql.Column("undone", sql.Boolean, nullable=False, default=False),
    sql.Column("decided", sql.Float, nullable=False),
    sql.Column("source", sql.String(16), nullable=False),
    sql.Column("moderator", sql.Text),
    sql.Column("note", sql.Text),
    sql.Column("canonical", sql.JSON(none_as_null=True)),
    sql.Column("together", _NUMBER),  # the first of the decisions that were made, and are taken back, at once
)
OUTBOX = sql.Table(
    "textsiam_outbox",
    TABLES,
    sql.Column("number", _NUMBER, primary_key=True, autoincrement=True),
    sql.Column("key", sql.String(40), nullable=False, unique=True),
    sql.Column("pair", _NUMBER, sql.ForeignKey("textsiam_pairs.number"), nullable=False, index=True),
    sql.Column("body", sql.Text, nullable=False),
    sql.Column("tries", sql.Integer, nullable=False, default=0),
    sql.Column("due", sql.Float, nullable=False),  # when it is sent next
    sql.Column("sent", sql.Float, index=True),
)


def create_tables(connection: sql.Connection) -> None:
    """Make what is not there: tables, columns, and indexes."""
    TABLES.create_all(connection)
    for table in TABLES.tables.values():
        there = {column["name"] for column in sql.inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                added = CreateColumn(column).compile(dialect=connection.dialect)
                connection.execute(sql.text(f"ALTER TABLE {table.name} ADD COLUMN {added}"))
        for index in table.indexes:
            index.create(connection, checkfirst=True)


def open_engine(location: str | Path) -> sql.Engine:
    """Return what connects to an SQLite file or `postgresql://…`; SQLite writes are on the disk when they return.

    Raises:
        ReviewsError: The location is of another kind.
    """
    engine = sql.create_engine(_address(location), pool_pre_ping=True, hide_parameters=True)
    if engine.dialect.name == "sqlite":
        listen(engine, "connect", _make_durable)
        listen(engine, "begin", _begin)
    return engine


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
