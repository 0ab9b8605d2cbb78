"""Texts of requests, and token ids that stand for texts: bounded, and cut as was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from textsiam.data.tables.errors import DataError
from textsiam.inference.inputs import TEXTS
from textsiam.inference.preprocessed import is_plain
from textsiam.inference.tokens import LONGEST, default_prompt, token_limit, unlimited_rules
from textsiam.media.ready import Ready
from textsiam.serving.limits import ServerSettings
from textsiam.serving.problem_details import Refused, too_large, unfit

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Direction = Literal["left", "right", "Left", "Right"]
Where = Callable[[int], str]
"""Names an input by its position, for messages."""


@dataclass(frozen=True)
class Reading:
    """How the inputs of a request are read.

    Attributes:
        truncate: Cut what is longer than the model reads; None as the settings say.
        direction: At which end it is cut.
        prompt: Name of what is put before each text, instead of what the model puts there by itself.
    """

    truncate: bool | None = None
    direction: Direction = "right"
    prompt: str | None = None


class Texts:
    """Checks texts for a tower.

    Args:
        tower: What reads them.
        settings: The limits.
    """

    def __init__(self, tower: SentenceTransformer, settings: ServerSettings) -> None:
        self.tower, self._settings = tower, settings
        self.limit = token_limit(tower) or LONGEST
        self.count = TEXTS.counter(tower)
        self.rules = unlimited_rules(tower)
        self._takes_ids = self.rules is not None and is_plain(tower)
        self._before, self._after = [], []
        if self.rules is not None:
            whole, bare = self.rules.encode("a").ids, self.rules.encode("a", add_special_tokens=False).ids
            starts = range(len(whole) - len(bare) + 1)
            start = next((k for k in starts if whole[k : k + len(bare)] == bare), 0)
            self._before, self._after = whole[:start], whole[start + len(bare) :]

    def checked(
        self, values: Sequence[str | Sequence[int]], where: Where, reading: Reading
    ) -> tuple[list[str], np.ndarray]:
        """Return what may wait for the model, as strings that stand for it, and its sizes in tokens.

        Raises:
            Refused: An input is unfit; the message says which.
        """
        cut = self._settings.truncate if reading.truncate is None else reading.truncate
        prompt = self._prompt(reading.prompt)
        names = [self._one(value, where(k), cut, reading, prompt) for k, value in enumerate(values)]
        tokens = self.count(names)
        if not cut and (tokens > self.limit).any():
            at = int(np.argmax(tokens > self.limit))
            hint = 'send "truncate": true to cut it'
            raise too_large(f"{where(at)}: {tokens[at]:,} tokens, the model reads {self.limit:,}; {hint}")
        for k in np.flatnonzero(tokens > self.limit).tolist() if reading.direction.lower() == "left" else ():
            name = names[k]
            names[k] = self._ids(name.features if isinstance(name, Ready) else self._bare(name), "left")
        return names, np.minimum(tokens, self.limit)

    def _one(self, value: str | Sequence[int], where: str, cut: bool, reading: Reading, prompt: str | None) -> str:
        if not isinstance(value, str):
            return self._given(value, where, cut, reading.direction)
        most = self._settings.max_characters
        if len(value) > most:
            if not cut:
                hint = 'send "truncate": true to cut it'
                raise too_large(f"{where}: {len(value):,} characters, at most {most:,} are taken; {hint}")
            value = value[-most:] if reading.direction.lower() == "left" else value[:most]
        text = self._received(value, where)
        if prompt is None:
            return text
        if not default_prompt(self.tower):
            return prompt + text
        return self._ids(self.rules.encode(prompt + text, add_special_tokens=False).ids, None)

    def prompted(self, value: str, where: str, prompt: str | None) -> str:
        """Return a text, whole, with what is put before it.

        Raises:
            Refused: It is no text, or too long, or there is no such prompt.
        """
        if len(value) > self._settings.max_characters:
            most = f"at most {self._settings.max_characters:,} are taken"
            raise too_large(f"{where}: {len(value):,} characters, {most}")
        put = self._prompt(prompt)
        return (default_prompt(self.tower) if put is None else put) + self._received(value, where)

    def _received(self, value: str, where: str) -> str:
        try:
            return TEXTS.received(value)
        except DataError as error:
            raise unfit(f"{where}: {error}") from error

    def _prompt(self, name: str | None) -> str | None:
        """Return what is put before each text, None where the model does so by itself.

        Raises:
            Refused: There is no such prompt, or the model cannot do without its own.
        """
        if name is None or name == self.tower.default_prompt_name:
            return None
        prompts = {known: text for known, text in self.tower.prompts.items() if text}
        if name not in prompts:
            known = ", ".join(map(repr, prompts)) or "none"
            raise unfit(f"prompt_name: there is no prompt {name[:100]!r}; the model has: {known}")
        if not self._takes_ids:
            raise cannot("prompt_name: this model pools its prompt apart, or has a tokenizer of its own kind")
        return prompts[name]

    def _bare(self, text: str) -> list[int]:
        if not self._takes_ids:
            raise cannot("truncation_direction: this model's texts are cut on the right only")
        return self.rules.encode(default_prompt(self.tower) + text, add_special_tokens=False).ids

    def _given(self, ids: Sequence[int], where: str, cut: bool, direction: Direction) -> Ready:
        """Return token ids as an input, with special tokens around them unless they are there."""
        if not self._takes_ids:
            raise cannot("this model takes no token ids")
        if len(ids) == 0:
            raise unfit(f"{where}: expected at least one token id")
        if (most := max(ids)) >= len(self.tower.tokenizer):
            raise unfit(f"{where}: token {most} of a model that knows {len(self.tower.tokenizer):,}")
        return self._ids(ids, direction if cut else None)

    def _ids(self, ids: Sequence[int], direction: Direction | None) -> Ready:
        """Return the ids of a text as an input; those that are too many are cut at an end, if one is named."""
        before, after, ids = self._before, self._after, list(ids)
        if len(ids) > len(before + after) and ids[: len(before)] == before and ids[len(ids) - len(after) :] == after:
            ids = ids[len(before) : len(ids) - len(after)]
        room = max(self.limit - len(before) - len(after), 1)
        if direction is not None and len(ids) > room:
            ids = ids[-room:] if direction.lower() == "left" else ids[:room]
        whole = [*before, *ids, *after]
        return Ready(" ".join(map(str, whole)), whole)


def cannot(message: str) -> Refused:
    """Return the refusal of what the model is not made for."""
    return Refused(424, message, "Backend")
