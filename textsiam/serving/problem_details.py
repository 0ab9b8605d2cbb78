"""Errors as clients see them: a status, a sentence, and never a stack trace."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException


class Refused(HTTPException):
    """A request that is not answered.

    Args:
        status: HTTP status.
        message: One sentence that names what is wrong.
        kind: `error_type` of text-embeddings-inference ("Validation", "Tokenizer", "Backend", "Overloaded",
            "Unhealthy"), or one of ours: "Unauthorized", "NotFound", "Conflict".
        retry_after: Seconds after which the same request may be taken.
        close: Close the connection afterwards.
    """

    def __init__(
        self, status: int, message: str, kind: str, *, retry_after: float | None = None, close: bool = False
    ) -> None:
        headers = {"Connection": "close"} if close else {}
        if retry_after is not None:  # whole seconds, and never too few
            headers["Retry-After"] = str(int(retry_after) + 1)
        super().__init__(status, message, headers)
        self.kind = kind


def problem_body(path: str, status: int, message: str, kind: str) -> dict[str, Any]:
    """Return the body of an error, in the shape that the clients of a route know."""
    if path.startswith("/v1/"):
        return {"error": {"message": message, "type": kind, "param": None, "code": status}}
    return {"error": message, "error_type": kind}


def too_large(message: str) -> Refused:
    """Return the refusal of what is above a limit."""
    return Refused(413, message, "Validation")


def unfit(message: str) -> Refused:
    """Return the refusal of an input that cannot be read."""
    return Refused(422, message, "Tokenizer")
