"""The files of the pages, under a policy that allows this server alone."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response

from textsiam.serving.problem_details import Refused

_KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " \
          "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " \
          "require-trusted-types-for 'script'; trusted-types 'none'"  # fmt: skip


def file_routes(*, reviews: bool) -> APIRouter:
    """Return `/ui` and `/ui/files`: without reviews, `/ui` leads to the page that asks for labels."""
    routes = APIRouter()
    start = (lambda: page_file("index.html")) if reviews else (lambda: RedirectResponse("ui/label"))
    routes.add_api_route("/ui", start, include_in_schema=False)
    routes.add_api_route("/ui/files/{name}", page_file, include_in_schema=False)
    return routes


def page_file(name: str) -> Response:
    """Return a file of the pages.

    Raises:
        Refused: There is none of this name.
    """
    source = files("textsiam.serving") / "page_files" / name
    kind = _KINDS.get(name.rpartition(".")[2])
    if kind is None or "/" in name or not source.is_file():
        raise Refused(404, f"there is no file {name!r}", "NotFound")
    headers: dict[str, Any] = {
        "content-security-policy": _POLICY,
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
    }
    return Response(source.read_bytes(), media_type=kind, headers=headers)
