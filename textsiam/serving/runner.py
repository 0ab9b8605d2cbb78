"""Running the server: it says when it is ready, and ends in peace on SIGTERM and Ctrl-C."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from textsiam.serving.admission.connections import patient
from textsiam.serving.telemetry import log_as_json

# Seconds after which a thread that computes in Python lets another one go on. Cores that encode need the interpreter
# for microseconds between two products, and would wait 5 ms each time for a thread that reads a request.
_SWITCH = 0.0002
# Seconds that an idle connection is kept: longer than clients do, most of them 5 or 60. Were the server the first to
# close it, a request would now and then meet a connection that has just been closed.
_KEEP_ALIVE = 65


class ServingError(ValueError):
    """The server cannot listen where it should."""


def run_server(
    app: Any, *, host: str, port: int, ready: Callable[[str], None], grace: float = 30.0, patience: float = 60.0
) -> None:
    """Serve an application until the process is told to end, then finish what was taken.

    Args:
        app: What `create_app` made.
        host: Address to bind.
        port: Port; 0 takes a free one.
        ready: Called with the address, once requests are answered.
        grace: Seconds that open requests may take at the end.
        patience: Seconds in which a head must come in, and a part of an answer must be taken.

    Raises:
        ServingError: The address cannot be bound.
    """
    listener = _listen(host, port)
    shown, bound = host, listener.getsockname()[1]
    address = f"http://[{shown}]:{bound}" if ":" in shown else f"http://{shown}:{bound}"
    log_as_json()
    sys.setswitchinterval(_SWITCH)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, proxy_headers=False, ws="none",
        timeout_graceful_shutdown=max(1, round(grace)), timeout_keep_alive=_KEEP_ALIVE,
        http=patient(patience),
    )  # fmt: skip
    before = signal.signal(signal.SIGTERM, _end)  # uvicorn raises the signal again when it is done
    try:
        _Server(config, lambda: ready(address)).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
        listener.close()


class _Server(uvicorn.Server):
    """Tells when it has started."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sends small answers at once; without, each waits 40 ms for the client's ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ServingError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return listener


def _end(_: int, __: FrameType | None) -> None:
    sys.exit(0)
