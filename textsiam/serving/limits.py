"""What the server allows: sizes, rates and who may ask."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from textsiam.serving.admission.moderators import SHORTEST_TOKEN, check_moderators, checked_token
from textsiam.serving.admission.origins import checked_host_name, checked_origin, is_loopback

TOKEN_VARIABLE = "TEXTSIAM_TOKEN"


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Limits of the server.

    Attributes:
        max_body: Bytes of a request.
        max_batch: Inputs of a request.
        max_characters: Characters of an input; images are bounded by `max_body` and their pixels.
        max_tokens: Tokens encoded in a step; see `Batcher`.
        max_queue: Tokens that may wait; what comes on top gets 429.
        requests_per_minute: Of an address (of IPv6, of its network of 64 bits); None for any number.
        truncate: Cut inputs at the model's limit unless a request says otherwise; without it they get 413.
        patience: Seconds in which a request must have come in whole.
        grace: Seconds that a shutdown waits for requests that were taken.
        token: Bearer token that every request must bring, except for health; None asks for none.
        moderators: A token for each moderator, by name: the moderator's page then asks for one of these.
        host_names: What clients may call the server, beside its address and the names of the loopback.
        origins: Sites, as "https://forum.example", whose pages may embed the moderator's, and call the server.
    """

    max_body: int = 16 * 2**20
    max_batch: int = 10_000
    max_characters: int = 50_000
    max_tokens: int = 8192
    max_queue: int = 262_144
    requests_per_minute: int | None = None
    truncate: bool = False
    patience: float = 60.0
    grace: float = 30.0
    token: str | None = field(default=None, repr=False)
    moderators: Mapping[str, str] = field(default_factory=dict, repr=False)
    host_names: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("max_body", "max_batch", "max_characters", "max_tokens", "max_queue", "requests_per_minute"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if self.token is not None:
            checked_token(self.token, "the token")
        check_moderators(self.moderators, self.token)
        object.__setattr__(self, "host_names", tuple(map(checked_host_name, self.host_names)))
        object.__setattr__(self, "origins", tuple(map(checked_origin, self.origins)))

    @property
    def max_values(self) -> int:
        """Values of a JSON body, in all of its lists and objects together: counted before any is parsed."""
        return max(300_000, 30 * self.max_batch)


def token_for(host: str) -> str | None:
    """Return the bearer token of the environment, which every address but a loopback one needs.

    Args:
        host: The address that the server binds.

    Raises:
        ValueError: The address can be reached from other machines, and there is no token.
    """
    token = os.environ.get(TOKEN_VARIABLE) or None
    if token is None and not is_loopback(host):
        raise ValueError(
            f"{host} can be reached from other machines: set {TOKEN_VARIABLE} to a secret of at least "
            f"{SHORTEST_TOKEN} characters, or bind 127.0.0.1"
        )
    return token
