"""What stands before every route: request ids, hosts and origins, the token, sizes, rates, time, and a log line."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any
from urllib.parse import unquote_to_bytes

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from textsiam.serving.admission.body import IncomingBody
from textsiam.serving.admission.origins import (
    allowed_origin,
    check_host,
    check_page,
    cross_origin_headers,
    is_preflight,
)
from textsiam.serving.limits import ServerSettings
from textsiam.serving.problem_details import Refused, problem_body
from textsiam.serving.telemetry import Meters

log = logging.getLogger("textsiam.serving")

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

# Asked by machines that watch the server, and by a browser before it has a token.
_OPEN = frozenset({"/", "/health", "/ping", "/ui", "/ui/", "/ui/label"})
_OPEN_FILES = "/ui/files/"
_PAGE = "/ui/api/"
_WRITES = frozenset({"PUT", "DELETE", "POST", "PATCH"})
_READING_POSTS = frozenset(
    {"/embed", "/similarity", "/rerank", "/v1/embeddings", "/duplicates", "/verify", "/identify"}
)
_REQUEST_ID = re.compile(r"[\w.-]{1,64}")
_CLIENTS = 10_000


class Guard:
    """An ASGI layer around the routes.

    Args:
        app: What answers.
        settings: The limits.
        meters: Where requests are counted.
    """

    def __init__(self, app: App, *, settings: ServerSettings, meters: Meters) -> None:
        self.app, self.settings, self.meters = app, settings, meters
        self._token = None if settings.token is None else _digest(settings.token.encode())
        self._moderators = {name: _digest(token.encode()) for name, token in settings.moderators.items()}
        self._rate = None if settings.requests_per_minute is None else _Rate(settings.requests_per_minute)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it before it reaches a route."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        started, answered = time.perf_counter(), 0
        body = IncomingBody(receive, self.settings)
        shared = self._shared_headers(scope)

        async def answer(message: dict[str, Any]) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode()),
                                      (b"x-content-type-options", b"nosniff"), *shared]  # fmt: skip
            await send(message)

        try:
            try:
                self._admit(scope, headers)
                if is_preflight(scope, self.settings.origins):
                    await _answer(answer, 204, {}, b"")
                else:
                    await self.app(scope, body, answer)
            except Refused as error:
                if not answered:
                    await _refuse(answer, scope["path"], error)
            except Exception:
                log.exception("request failed", extra={"facts": {"request": request_id, "path": scope["path"]}})
                if not answered:
                    await _refuse(answer, scope["path"], Refused(500, "internal error", "Backend"))
        finally:
            seconds = time.perf_counter() - started
            self._note(scope, answered or 499, seconds, request_id)

    def _admit(self, scope: dict[str, Any], headers: dict[str, str]) -> None:
        """Let a request pass.

        Raises:
            Refused: Another host is meant, another site's page writes, the client asks too often, the token is wrong,
                the path is no text, or the body too large.
        """
        path, settings = scope["path"], self.settings
        check_host(scope, settings.host_names)
        check_page(scope, settings.host_names, settings.origins)
        # A page is a dozen files: they count against no rate. A browser sends no token when it asks whether it may.
        everyone = path in _OPEN or path.startswith(_OPEN_FILES) or is_preflight(scope, settings.origins)
        if self._rate is not None and not everyone and (wait := self._rate.wait(_counted(scope))):
            most = settings.requests_per_minute
            raise Refused(429, f"at most {most} requests a minute are taken from one address, {_counted(scope)}",
                          "Overloaded", retry_after=wait)  # fmt: skip
        if not everyone:
            scope["moderator"] = self._moderator(scope, headers)
        _check_path(scope)
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > settings.max_body:
            raise Refused(413, f"the body has {int(length):,} bytes, at most {settings.max_body:,} are taken",
                          "Validation", close=True)  # fmt: skip

    def _moderator(self, scope: dict[str, Any], headers: dict[str, str]) -> str | None:
        """Return the name of the moderator who asks; None where nobody is named.

        A moderator's token opens what is behind the page. Where there are moderators, only they decide; the server's
        own token, which programs have, reads.

        Raises:
            Refused: The bearer token is missing, wrong, or not enough.
        """
        paged = scope["path"].startswith(_PAGE)
        if self._token is None and not (self._moderators and paged):
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = _digest(token.strip().encode("latin-1")) if scheme.lower() == "bearer" else b""
        # All are compared, so that the time tells nothing.
        named = [name for name, digest in self._moderators.items() if hmac.compare_digest(given, digest)]
        if paged and named:
            return named[0]
        decides = self._moderators and paged and scope["method"] in _WRITES
        if self._token is None or not hmac.compare_digest(given, self._token) or decides:
            whose = "a moderator's" if self._moderators and paged else "the"
            raise Refused(401, f"{whose} bearer token is missing or wrong", "Unauthorized")
        return None

    def _shared_headers(self, scope: dict[str, Any]) -> list[tuple[bytes, bytes]]:
        origin = allowed_origin(scope, self.settings.origins)
        if origin is None:
            return []
        return cross_origin_headers(origin, preflight=is_preflight(scope, self.settings.origins))

    def _note(self, scope: dict[str, Any], status: int, seconds: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path_format", None) or "none"
        self.meters.requests.labels(route, scope["method"], str(status)).inc()
        self.meters.seconds.labels(route).observe(seconds)
        facts = {"request": request_id, "method": scope["method"], "path": scope["path"], "status": status}
        facts |= {"milliseconds": round(1000 * seconds, 2), "client": _client(scope)}
        if scope.get("moderator") is not None:
            facts["moderator"] = scope["moderator"]
        writes = scope["method"] in _WRITES and route not in _READING_POSTS and route != "none"
        log.info("write" if writes else "request", extra={"facts": facts})


def _check_path(scope: dict[str, Any]) -> None:
    """Refuse a path that is no UTF-8: servers replace such bytes by one character, and so make several ids one.

    Raises:
        Refused: It is none.
    """
    try:
        unquote_to_bytes(scope.get("raw_path") or b"").decode()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise Refused(400, f"the path is no UTF-8: it has the byte %{byte:02X}", "Validation") from None


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _client(scope: dict[str, Any]) -> str:
    """Return the address that a request came from."""
    return (scope.get("client") or ("unknown", 0))[0]


def _counted(scope: dict[str, Any]) -> str:
    """Return what the rate counts by: the address, or the network of 64 bits, all of which one IPv6 client has."""
    client = _client(scope)
    try:
        address = ip_address(client)
    except ValueError:
        return client
    if isinstance(address, IPv4Address):
        return client
    return str(address.ipv4_mapped or ip_network((int(address) >> 64 << 64, 64)))


class _Rate:
    """At most so many requests of a client in any minute; requests that are refused for it do not count."""

    def __init__(self, per_minute: int) -> None:
        self._item, self._storage = RateLimitItemPerMinute(per_minute), MemoryStorage()
        self._limiter = MovingWindowRateLimiter(self._storage)
        self._clients: OrderedDict[str, None] = OrderedDict()  # the longest silent first

    def wait(self, client: str) -> float:
        """Count a request; return 0, or in how many seconds one would be taken."""
        self._clients[client] = None
        self._clients.move_to_end(client)
        if len(self._clients) > _CLIENTS:  # the storage alone never forgets a client
            key = self._item.key_for(self._clients.popitem(last=False)[0])
            with self._storage.locks[key]:  # its timer may be at work
                self._storage.clear(key)
        if self._limiter.hit(self._item, client):
            return 0.0
        return max(1.0, self._limiter.get_window_stats(self._item, client).reset_time - time.time())


async def _refuse(send: Send, path: str, error: Refused) -> None:
    body = json.dumps(problem_body(path, error.status_code, error.detail, error.kind)).encode()
    head = {"content-type": "application/json", "content-length": str(len(body)), **(error.headers or {})}
    if error.status_code == 401:
        head["www-authenticate"] = "Bearer"
    await _answer(send, error.status_code, head, body)


async def _answer(send: Send, status: int, head: dict[str, str], body: bytes) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in head.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
