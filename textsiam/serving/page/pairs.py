"""Two questions that may be the same, and what somebody decided about them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["waiting", "accepted", "rejected"]
Choice = Literal["accepted", "rejected", "related", "unsure"]
STATES: tuple[State, ...] = ("waiting", "accepted", "rejected")
STATE_OF: dict[str, State] = {
    "accepted": "accepted", "rejected": "rejected", "related": "rejected", "unsure": "waiting",
}  # fmt: skip
"""The state of a pair after each choice: related questions are no duplicates, and who is not sure leaves it waiting."""


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """Two questions that may be the same.

    Attributes:
        text1: The one question.
        text2: The other.
        id1: Its id, where it has one.
        id2: The other's id.
        similarity: What the twin said when the pair was flagged; None where it was not asked.
        probability: P(duplicate) then.
        facts1: What else is known of the one question, such as its url, tags and date.
        facts2: What else is known of the other.
    """

    text1: str
    text2: str
    id1: str | None = None
    id2: str | None = None
    similarity: float | None = None
    probability: float | None = None
    facts1: Mapping[str, Any] = field(default_factory=dict)
    facts2: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What equal pairs have in common, whichever text stands first; 64 hexadecimal digits."""
        digests = sorted(hashlib.sha256(text.encode()).digest() for text in (self.text1, self.text2))
        return hashlib.sha256(b"".join(digests)).hexdigest()


@dataclass(frozen=True)
class Pair:
    """A suspect in the store, and the decision about it that holds.

    Attributes:
        number: Its number in the store.
        suspect: The questions.
        state: Whether it waits.
        choice: What was decided last; None where nobody did.
        moderator: Who decided; None where moderators have no names.
        decided: When, in seconds since 1970.
        note: What the moderator wrote beside it.
        canonical: The question that stands for all: its text, and its id and url where these are known.
        skips: How many moderators were not sure.
        gone: Whether one of the questions was deleted or edited since.
    """

    number: int
    suspect: Suspect
    state: State
    choice: Choice | None = None
    moderator: str | None = None
    decided: float | None = None
    note: str | None = None
    canonical: Mapping[str, str] | None = None
    skips: int = 0
    gone: bool = False

    def __str__(self) -> str:
        """Say what was decided, by whom and when."""
        if self.state == "waiting" or self.decided is None:
            return f"pair {self.number} waits again"
        moment = time.strftime("%H:%M", time.gmtime(self.decided))
        who = f" by {self.moderator}" if self.moderator else ""
        return f"pair {self.number} is already {self.choice}{who}, {moment} UTC"


class ReviewsError(ValueError):
    """Reviews that cannot be opened, read or written; the message names them."""


class AlreadyDecided(ValueError):
    """A pair is no more in the state that a decision was made on; `pair` is what it is now."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(str(pair))
        self.pair = pair
