"""What towers take: each kind of input is a string inside the toolkit, and becomes the features of a batch here.

A text is itself; an image is named by a path, a row of an idx file or a data URI (`textsiam.images.names`). So pairs,
splits, mining, indexes and files are the same for both, and only these two classes know the
difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from textsiam.data.stored_strings import StoredStrings
from textsiam.data.tables.errors import DataError
from textsiam.images.names import picture_name, picture_version, received_picture
from textsiam.images.pixels import Pixels, dummy_pixels
from textsiam.images.ready import Ready
from textsiam.inference.preprocessed import Preprocessed, reads_tokens
from textsiam.inference.tokens import Counter, Tokens, dummy_tokens, token_counter, tokenise, unencodable

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Prepared = Tokens | Preprocessed | Pixels
"""Inputs made ready for a tower, of which batches are taken by their rows."""


class _Texts:
    """Texts as a kind of input.

    Attributes:
        memory_format: How the backbone's weights lie in memory for it to be fast.
        bf16: Whether "auto" may encode in bf16 and keep a cosine of 0.9999 to fp32.
        kept: Inputs after which a long job writes down what it has: some ten seconds of work.
    """

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
        self, tower: SentenceTransformer, names: Sequence[str], broken: dict[str, str] | None = None
    ) -> Tokens | Preprocessed:
        """Make inputs ready for a tower; those that cannot be opened are put into `broken`, or raise where it is None.

        A text is open.
        """
        return tokenise(tower, names) if reads_tokens(tower) else Preprocessed(tower, names)

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


class _Images:
    """The same of images."""

    # Batch norm in bf16 leaves a cosine of 0.999 only.
    memory_format, bf16, kept = torch.channels_last, False, 2048

    def to_keys(self, inputs: Iterable[Any], first: int = 0) -> list[str]:
        return [picture_name(image, position) for position, image in enumerate(inputs, first)]

    def prepare(self, tower: SentenceTransformer, names: Sequence[str], broken: dict[str, str] | None = None) -> Pixels:
        return Pixels(list(names), tower, broken=broken)

    def dummy_batch(self, tower: SentenceTransformer, tokens: int) -> dict[str, Any]:
        return dummy_pixels(tower, tokens)

    def content(self, name: str) -> str:
        return picture_version(name)

    def received(self, value: str) -> str:
        return received_picture(value)

    def counter(self, tower: SentenceTransformer) -> Counter:
        return lambda names: Pixels(list(names), tower).lengths


Inputs = _Texts | _Images
"""A kind of input."""

TEXTS, IMAGES = _Texts(), _Images()
