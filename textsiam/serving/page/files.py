"""The files of the pages, under a policy that allows this server alone."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response

from textsiam.serving.problem_details import Refused

_KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
_FETCHED = ["GET", "HEAD"]
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " \
          "media-src blob:; " \
          "base-uri 'none'; form-action 'none'; frame-ancestors {}; " \
          "require-trusted-types-for 'script'; trusted-types 'none'"  # fmt: skip


def file_routes(origins: Sequence[str], *, reviews: bool, labels: bool) -> APIRouter:
    """Return the pages and their files: without reviews, `/ui` leads to the page that asks for labels.

    Args:
        origins: Sites whose pages may hold them in a frame.
        reviews: Whether there is the moderator's page.
        labels: Whether there is the page that asks for labels.
    """
    routes, policy = APIRouter(), _POLICY.format(" ".join(origins) or "'none'")
    start = (lambda: page_file("index.html", policy)) if reviews else (lambda: RedirectResponse("ui/label"))
    routes.add_api_route("/ui", start, methods=_FETCHED, include_in_schema=False)
    if labels:
        routes.add_api_route(
            "/ui/label", lambda: page_file("label.html", policy), methods=_FETCHED, include_in_schema=False
        )

    @routes.api_route("/ui/files/{name}", methods=_FETCHED, include_in_schema=False)
    def of(name: str) -> Response:
        return page_file(name, policy)

    return routes


def no_page_routes() -> APIRouter:
    """Return what stands where the page would, and says what it lacks."""
    routes = APIRouter()

    @routes.get("/ui{rest:path}", include_in_schema=False)
    def missing(rest: str) -> Response:
        why = "this server keeps no decisions, so it has no moderator's page: start it with --reviews or --index"
        raise Refused(409, why, "Conflict")

    return routes


def page_file(name: str, policy: str) -> Response:
    """Return a file of the pages, under a content security policy.

    Raises:
        Refused: There is none of this name.
    """
    source = files("textsiam.serving") / "page_files" / name
    kind = _KINDS.get(name.rpartition(".")[2])
    if kind is None or "/" in name or not source.is_file():
        raise Refused(404, f"there is no file {name!r}", "NotFound")
    headers: dict[str, Any] = {
        "content-security-policy": policy,
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
    }
    return Response(source.read_bytes(), media_type=kind, headers=headers)
