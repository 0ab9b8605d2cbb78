"""What towers take: each kind of input is a string inside the toolkit, and becomes the features of a batch here.

A text is itself; an image or a sound is named by a path, a member of a zip or a data URI (`textsiam.media.names`). So
pairs, splits, mining, indexes and files are the same for all. What differs is asked of the texts here, or of the medium
(`textsiam.media.medium`) that a tower takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from textsiam.data.stored_strings import StoredStrings
from textsiam.data.tables.columns import Modality
from textsiam.data.tables.errors import DataError
from textsiam.inference.fast.lazy_tower import saved_bert
from textsiam.inference.preprocessed import Preprocessed, reads_tokens
from textsiam.inference.tokens import Counter, Tokens, dummy_tokens, token_counter, tokenise, unencodable
from textsiam.media.medium import Medium
from textsiam.media.ready import Ready
from textsiam.modality import MEDIA

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer


class OpenedLater(Protocol):
    """Files that are opened when a batch of them is wanted: `textsiam.images.pixels.Pixels` and the like."""

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> np.ndarray:
        """Size of each in tokens, `(m,)` int64."""
        ...

    def lengths_of(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Size of these, `(len(rows),)` int64."""
        ...

    def collate(
        self, rows: np.ndarray | Sequence[int], *, seed: Sequence[int] | None = None, clusters: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Return the features of these; with a seed, changed for training."""
        ...

    def augmented(self, augment: Sequence[Any]) -> OpenedLater:
        """Return the same as training shall see them."""
        ...


Prepared = Tokens | Preprocessed | OpenedLater
"""Inputs made ready for a tower, of which batches are taken by their rows."""


PROBE = (
    "Why does the sky look blue in the morning, and what is it that makes 40 clouds turn red as soon as the sun sets?"
)
"""A text that a tower is looked at with."""


class _Texts:
    """Texts as a kind of input.

    Attributes:
        modality: What towers call it.
        memory_format: How the backbone's weights lie in memory for it to be fast.
        bf16: Whether "auto" may encode in bf16 and keep a cosine of 0.9999 to fp32.
        kept: Inputs after which a long job writes down what it has: some ten seconds of work.
    """

    modality: Modality = "text"
    memory_format, bf16, kept = torch.preserve_format, True, 16_384

    def to_keys(self, inputs: Iterable[Any], first: int = 0) -> Sequence[str]:
        """Return the strings that stand for inputs; those that are stored in a file stay there.

        Raises:
            TypeError: One is of another kind; the message names its position, counted from `first`.
            DataError: One is no Unicode text, such as an argument of a command that is not UTF-8.
        """
        names = inputs if isinstance(inputs, StoredStrings) else list(inputs)
        for position, text in enumerate(names, first):
            if not isinstance(text, str):
                raise TypeError(f"input {position} is {type(text).__name__}, expected str")
            if isinstance(text, Ready) or text.isascii():
                continue
            if (broken := unencodable(text)) is not None:
                raise DataError(f"input {position} ({text[:40]!a}) is not UTF-8: character {broken} is half of a "
                                "surrogate pair and stands for nothing")  # fmt: skip
        return names

    def prepare(
        self,
        tower: SentenceTransformer,
        names: Sequence[str],
        prompt: str | None = None,
        broken: dict[str, str] | None = None,
    ) -> Tokens | Preprocessed:
        """Make inputs ready for a tower, with a prompt before each; None is what the tower puts there.

        What cannot be opened is put into `broken`, or raises where that is None; a text is open.
        """
        return tokenise(tower, names, prompt=prompt) if reads_tokens(tower) else Preprocessed(tower, names, prompt)

    def example(self, backbone: Any) -> str:
        """Return a dummy input as the first module of a tower takes it."""
        return "why"

    def of_two_lengths(self, tower: SentenceTransformer) -> Tokens | Preprocessed:
        """Make two inputs ready, one far shorter."""
        return self.prepare(tower, [PROBE[: len(PROBE) // 8], PROBE])

    def dummy_batch(self, tower: SentenceTransformer, tokens: int) -> dict[str, Any]:
        """Return the features of dummy inputs of so many tokens, to measure with."""
        if reads_tokens(tower):
            return dummy_tokens(tower, tokens)
        texts = ["sixteen tokens, or about as many, to measure with it."] * max(1, tokens // 16)
        return Preprocessed(tower, texts).collate(range(len(texts)))

    def content(self, name: str) -> str:
        """Return what changes when the content of an input does, for a cache."""
        return name

    def received(self, value: str) -> str:
        """Return the string that stands for an input from outside, which must not name a file or an address.

        Raises:
            DataError: It is no such input.
        """
        if (broken := unencodable(value)) is not None:
            raise DataError(f"character {broken} is half of a surrogate pair and stands for nothing")
        return value

    def counter(self, tower: SentenceTransformer) -> Counter:
        """Return what counts tokens as `prepare` would, nothing cut off; it may be called in a thread of its own."""
        return token_counter(tower) if reads_tokens(tower) else lambda names: Preprocessed(tower, names).lengths


Inputs = _Texts | Medium
"""A kind of input."""

TEXTS = _Texts()


def inputs_of(tower: SentenceTransformer) -> Inputs:
    """Return what kind of inputs a tower takes: texts, where it reads these too."""
    return TEXTS if saved_bert(tower) is not None else inputs_of_backbone(tower[0])


def inputs_of_backbone(backbone: Any) -> Inputs:
    """Return the same of the first module of a tower."""
    modalities = getattr(backbone, "modalities", ["text"])
    return next((MEDIA[each] for each in modalities if each in MEDIA and "text" not in modalities), TEXTS)
