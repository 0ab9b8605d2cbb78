"""Who a request is sent to and by which page: names that are not the server's, and pages of other sites, are refused.

A browser sends what a page asks for, and with it the names of the page's site. A page of another site must not write
(a form does so without asking), and one whose own name was bound to this server's address must not read either.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

from textsiam.serving.problem_details import Refused

Scope = dict[str, Any]

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITE = frozenset({"same-origin", "none"})  # "none" is what a person typed or clicked outside of any page
_ALLOWED = (
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE"),
    (b"access-control-allow-headers", b"authorization, content-type, x-request-id"),
    (b"access-control-max-age", b"600"),
)


def is_loopback(host: str) -> bool:
    """Say whether a host name or address is that of this machine for itself."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def checked_host_name(name: str) -> str:
    """Return a host name as `Host` has it, without a port.

    Raises:
        ValueError: It is none.
    """
    parts = _split(f"//{name}")
    host = "" if parts is None else parts.hostname or ""
    if not host or host != name.lower().strip("[]") or "*" in name:
        raise ValueError(f"the host name is {name!r}, expected one such as 'forum.example', without a port")
    return host


def checked_origin(origin: str) -> str:
    """Return an origin as browsers send it.

    Raises:
        ValueError: It is none.
    """
    parts = _split(origin)
    if (
        parts is None
        or parts.scheme not in ("http", "https")
        or origin.count("/") > 2
        or "*" in origin
        or "@" in origin
    ):
        raise ValueError(f"the origin is {origin!r}, expected one such as 'https://forum.example'")
    return origin.lower()


def check_host(scope: Scope, names: tuple[str, ...]) -> None:
    """Refuse a request that was sent to another name than the server's.

    Args:
        scope: The request, as ASGI has it.
        names: What the server is called, beside its address and the names of the loopback.

    Raises:
        Refused: Its `Host` is none of these.
    """
    for given in _values(scope, b"host"):
        parts = _split(f"//{given}")
        host = "" if parts is None else (parts.hostname or "").rstrip(".")
        address = (scope.get("server") or ("",))[0]
        if not (is_loopback(host) or host == address.lower() or host in names):
            why = f"the host {host[:100]!r} is not this server's: start it with --host-name"
            raise Refused(421, why, "Validation")


def check_page(scope: Scope, names: tuple[str, ...], origins: tuple[str, ...]) -> None:
    """Refuse what a page of another site has a browser write. Programs that are no browser name no page.

    Args:
        scope: The request, as ASGI has it.
        names: As for `check_host`; a page that was loaded under one of them is the server's own.
        origins: Other sites whose pages may do what the server's own may.

    Raises:
        Refused: The page is of another site.
    """
    if scope["method"] in _READS or allowed_origin(scope, origins) is not None:
        return
    own = {host.lower() for host in _values(scope, b"host") if host} | set(names)
    for origin in _values(scope, b"origin"):
        parts = _split(origin)
        if parts is None or not {parts.netloc.lower(), _without_port(parts)} & own:
            raise _foreign(origin)
    for site in _values(scope, b"sec-fetch-site"):
        if site not in _OWN_SITE:
            raise _foreign(site)


def allowed_origin(scope: Scope, origins: tuple[str, ...]) -> str | None:
    """Return the origin of the page behind a request, where it is one of other sites that are allowed."""
    given = _values(scope, b"origin")
    return given[0] if len(given) == 1 and given[0].lower() in origins else None


def is_preflight(scope: Scope, origins: tuple[str, ...]) -> bool:
    """Say whether a browser asks if a page of a site that is allowed may send a request."""
    asks = scope["method"] == "OPTIONS" and bool(_values(scope, b"access-control-request-method"))
    return asks and allowed_origin(scope, origins) is not None


def cross_origin_headers(origin: str, *, preflight: bool = False) -> list[tuple[bytes, bytes]]:
    """Return what lets a page of another site read an answer."""
    exposed = (b"access-control-expose-headers", b"retry-after, x-request-id")
    shared = [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]
    return [*shared, *(_ALLOWED if preflight else (exposed,))]


def _foreign(page: str) -> Refused:
    why = f"pages of another site ({page[:100]!r}) may not write here: allow theirs with --origin"
    return Refused(403, why, "Unauthorized")


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for known, value in scope["headers"] if known.lower() == name]


def _split(address: str) -> SplitResult | None:
    try:
        parts = urlsplit(address)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def _without_port(parts: SplitResult) -> str:
    """Return the name of an origin that stands at the port of its scheme, else nothing that is a name."""
    return (parts.hostname or "") if parts.port in (None, {"http": 80, "https": 443}.get(parts.scheme)) else ""
