"""Connections that are slow on purpose, or whose client is gone without a word, end in time."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD_SECONDS, _HEAD_BYTES = 15.0, 65_536


def patient(seconds: float) -> type[asyncio.Protocol]:
    """Return a protocol for uvicorn whose patience is bounded.

    Args:
        seconds: In which a head must come in whole (at most 15), and some part of an answer must be taken. Bodies are
            the affair of `textsiam.serving.admission.body`.
    """
    return type("PatientProtocol", (_Patient,), {"patience": seconds})


class _Patient(HttpToolsProtocol):
    patience = 60.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._head: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._head_size = 0
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing() or not (self.cycle is None or self.cycle.response_complete):
            return
        self._await_head()  # also after an answer, where a first byte ends the time that idle connections have
        self._head_size += len(data)
        if self._head_size > _HEAD_BYTES:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        self._stop()
        super().on_headers_complete()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # the last answer was never taken: closing would wait for it
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _await_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(min(self.patience, _HEAD_SECONDS), self.transport.abort)

    def _stop(self) -> None:
        self._head_size = 0
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _watch(self, size: int) -> None:
        def look() -> None:
            left: Any = self.transport.get_write_buffer_size()
            if left >= size:
                self.transport.abort()
            else:
                self._watch(left)

        self._stalled = self.loop.call_later(self.patience, look)
