"""Who decides: moderators by name, each with a token of their own, from a file or the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

MODERATORS_VARIABLE = "TEXTSIAM_MODERATORS"
SHORTEST_TOKEN = 16
_LONGEST_NAME = 64


def read_moderators(path: Path | None) -> dict[str, str]:
    """Return the token of each moderator, by name.

    Args:
        path: A file with a line a moderator, the name and then, as the last word, the token; lines that begin with #
            are passed over. None reads such lines from the variable TEXTSIAM_MODERATORS, where `;` ends one too.

    Raises:
        ValueError: The file cannot be read, or a line is no name and a token; the message names file and line, and
            never shows a token.
    """
    if path is None:
        source, text = MODERATORS_VARIABLE, os.environ.get(MODERATORS_VARIABLE, "").replace(";", "\n")
    else:
        source = str(path)
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise ValueError(f"{source}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{source}: is no UTF-8 at byte {error.start}") from None
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            name, token = " ".join(words[:-1]), words[-1]
            if name in found:
                raise ValueError(f"{name!r} stands there twice")
            check_moderators({**found, name: token}, None)
        except ValueError as error:
            raise ValueError(f"{source}:{number}: {error}") from None
        found[name] = token
    if path is not None and not found:
        raise ValueError(f"{source}: names no moderator: expected lines of a name and a token")
    return found


def check_moderators(moderators: Mapping[str, str], token: str | None) -> None:
    """Check names and tokens.

    Args:
        moderators: Tokens by name.
        token: The server's own, which nobody has for themselves.

    Raises:
        ValueError: A name is empty or long, a token is short, or two people would have the same.
    """
    seen = {} if token is None else {token: "the server"}
    for name, own in moderators.items():
        if not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
            raise ValueError(f"the name is {name[:100]!r}, expected 1 to {_LONGEST_NAME} characters before the token")
        checked_token(own, f"the token of {name!r}")
        if own in seen:
            raise ValueError(f"{name!r} has the token of {seen[own]}: give each a token of their own")
        seen[own] = repr(name)


def checked_token(token: str, what: str) -> str:
    """Return a token that is long enough.

    Raises:
        ValueError: It is too short; the message does not show it.
    """
    if len(token) < SHORTEST_TOKEN:
        raise ValueError(f"{what} must have at least {SHORTEST_TOKEN} characters, it has {len(token)}")
    return token
