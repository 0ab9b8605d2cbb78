"""Connections to an index on a server: its address without secrets, and errors that say what to do."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

from textsiam.search.index.base import QuestionIndexError
from textsiam.search.index.validation import require

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class Server:
    """Connections to one schema of a database, kept for the next use.

    Args:
        location: As for `PostgresIndex`.
        typed: The extension is there, so that vectors can be sent and received.

    Attributes:
        name: The schema.
        location: The address without its password.
    """

    def __init__(self, location: str, *, typed: bool = True) -> None:
        self._psycopg = require("psycopg", "postgres")
        self._register = require("pgvector.psycopg", "postgres").register_vector
        address, _, name = location.partition("#")
        self.name = checked_name(name or "textsiam")
        self._typed = typed
        try:
            self._facts = self._psycopg.conninfo.conninfo_to_dict(address)
        except self._psycopg.Error:
            shown = "postgresql://user@host/database#name"
            raise QuestionIndexError(f"this is no address of a PostgreSQL database, expected {shown}") from None
        self.location = _shown(self._facts, self.name)
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """Yield a connection on which every statement is a transaction of its own; it is kept if nothing fails."""
        try:
            connection = self._usable()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            with self._lock:
                self._idle.append(connection)
        except self._psycopg.Error as error:
            raise QuestionIndexError(f"{self.location}: {self._reason(error)}") from error

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """Yield a connection on which every statement sees the tables as they are at one moment."""
        with self.connection() as connection:
            connection.isolation_level = self._psycopg.IsolationLevel.REPEATABLE_READ
            with connection.transaction():
                yield connection
            connection.isolation_level = None

    @contextmanager
    def writing(self) -> Iterator[Any]:
        """Yield a connection whose changes are kept, all of them, when the block ends without an error."""
        with self.connection() as connection, connection.transaction():
            yield connection

    def _usable(self) -> Any:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._connect()
            try:
                connection.execute("SELECT 1")
                return connection
            except self._psycopg.OperationalError:
                connection.close()  # the server was restarted since

    def _connect(self) -> Any:
        facts = {"connect_timeout": 10, "application_name": "textsiam", **self._facts}
        connection = self._psycopg.connect(**facts, autocommit=True)
        connection.execute(f'SET search_path = "{self.name}", public')
        # A commit that does not wait for the disk acknowledges what a crash may lose.
        durable = "SELECT set_config('synchronous_commit', 'on', false)"
        connection.execute(f"{durable} WHERE current_setting('synchronous_commit') = 'off'")
        if self._typed:
            try:
                self._register(connection)
            except self._psycopg.ProgrammingError:
                connection.close()
                raise QuestionIndexError(
                    f"{self.location}: holds no index: make one with textsiam index create"
                ) from None
        return connection

    def _reason(self, error: Any) -> str:
        text = (str(error).strip() or type(error).__name__).split("\n")[0]
        if isinstance(error, self._psycopg.errors.DiskFull) or "No space left" in text:
            return f"the disk of the server is full ({text}); what was there before is intact"
        return text

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()


def checked_name(name: str) -> str:
    """Return the name of an index, once it is found to be that of a schema.

    Raises:
        QuestionIndexError: It is none.
    """
    if not _NAME.fullmatch(name):
        raise QuestionIndexError(f"index name {name!r} is not made of lower-case letters, digits and _")
    return name


def _shown(facts: dict[str, Any], name: str) -> str:
    """Return an address that opens the same index, but for its secrets."""
    told = {key: str(value) for key, value in facts.items() if "password" not in key}
    socket = told.get("host", "").startswith("/")  # a folder has no place before the database
    user, host, port = told.pop("user", ""), "" if socket else told.pop("host", ""), told.pop("port", "")
    base = f"postgresql://{user and f'{user}@'}{host}{port and f':{port}'}/{told.pop('dbname', '')}"
    query = f"?{urlencode(told, safe='/', quote_via=quote)}" if told else ""
    return f"{base}{query}#{name}"
