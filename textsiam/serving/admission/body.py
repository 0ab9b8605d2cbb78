"""The body of a request as it comes in: bounded in bytes, in JSON values and in time, before anything is parsed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

from textsiam.serving.limits import ServerSettings
from textsiam.serving.problem_details import Refused, too_large

Receive = Callable[[], Awaitable[dict[str, Any]]]

# A string from its quote to the quote that ends it, or to the end of what is there: always a match, so linear.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:(")|\\?\Z)', re.DOTALL)
_BARE = bytes(set(range(256)) - set(b"[{,"))


class ValueCounter:
    """Counts the values of a JSON text, part after part: each but the first stands behind a comma or opens something.

    Example:
        >>> counter = ValueCounter()
        >>> counter.add(b'{"inputs": ["a, b", "c'), counter.add(b', d"]}')
        (3, 3)
    """

    def __init__(self) -> None:
        self.count = 0
        self._open = b""  # how a string begins that the last part did not end

    def add(self, part: bytes) -> int:
        """Count the values of the next part; returns how many there are until now."""
        part = self._open + part
        bare, strings = _STRING.subn(rb"\1", part)
        self._open = b""
        if bare.count(b'"') < strings:
            self._open = b'"\\' if (len(part) - len(part.rstrip(b"\\"))) % 2 else b'"'
        self.count += len(bare.translate(None, _BARE))
        return self.count


class IncomingBody:
    """Receives a body for an application; a body that is refused is read to its end, so that the client sees why.

    Args:
        receive: Gives the next message of the client.
        settings: The limits.

    Raises:
        Refused: On a call, where the body is too large, no text, or does not come in time.
    """

    def __init__(self, receive: Receive, settings: ServerSettings) -> None:
        self._receive, self._settings = receive, settings
        self._bytes, self._values = 0, ValueCounter()
        self._whole = False
        self._deadline: float | None = None

    async def __call__(self) -> dict[str, Any]:
        """Return the next message."""
        if self._whole:  # what comes now is that the client leaves
            return await self._receive()
        message = await self._next()
        refusal = self._problem(message.get("body", b""))
        if refusal is not None:
            while not self._whole:
                await self._next()
            raise refusal
        return message

    async def _next(self) -> dict[str, Any]:
        now = asyncio.get_running_loop().time()
        self._deadline = self._deadline or now + self._settings.patience
        try:
            message = await asyncio.wait_for(self._receive(), max(self._deadline - now, 0.001))
        except TimeoutError:
            self._whole = True
            why = f"the body did not come within {self._settings.patience:g} seconds"
            raise Refused(408, why, "Validation", close=True) from None
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._settings.max_body:
            self._whole = True
            raise too_large(f"the body has more than {self._settings.max_body:,} bytes")
        return message

    def _problem(self, part: bytes) -> Refused | None:
        if b"\0" in part:  # JSON has none, and as UTF-16 it would be read otherwise than it is counted
            return Refused(400, "the body is no JSON in UTF-8: it has a zero byte", "Validation")
        most = self._settings.max_values
        return too_large(f"the body has more than {most:,} values") if self._values.add(part) > most else None
