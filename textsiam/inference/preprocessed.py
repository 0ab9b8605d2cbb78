"""Texts of towers that do more than to read tokens: each makes the features of a batch by its own means."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from textsiam.inference.fast.lazy_tower import saved_bert
from textsiam.inference.tokens import Tokens, default_prompt

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_LETTERS = 4  # of a token, about
_preprocessing = threading.Lock()


def is_plain(tower: SentenceTransformer) -> bool:
    """Say whether a tower is a transformer with plain pooling, whose inputs are made ready apart from it."""
    if saved_bert(tower) is not None:
        return True
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    pooling = next((m for m in tower if isinstance(m, Pooling)), None)
    return isinstance(tower[0], Transformer) and pooling is not None and pooling.include_prompt


def reads_tokens(tower: SentenceTransformer) -> bool:
    """Return whether a tower makes its vectors of the tokens of a text, all of one type, and of nothing else.

    So does a transformer with pooling; others encode by means of their own: static or word embeddings, bags of words,
    chat templates, pooling without the prompt, XLNet's token types.
    """
    if saved_bert(tower) is not None:
        return True
    if not is_plain(tower):
        return False
    backbone: Any = tower[0]
    tokenizer = backbone.tokenizer
    if tokenizer is None:  # of images or sounds
        return True
    own = backbone.processing_kwargs, backbone.query_length, backbone.document_length, backbone.query_expansion
    if any(own) or "message" in backbone.modality_config:
        return False
    typed = "token_type_ids" in tokenizer.model_input_names
    return not (typed and any(tokenizer("a", return_token_type_ids=True)["token_type_ids"]))


class Preprocessed:
    """Texts that a tower makes features of by itself, batch by batch: whatever does more than to read their tokens.

    Args:
        tower: The tower, of whatever modules.
        texts: m texts.
        prompt: What stands before each text; None is what the tower puts there.

    Attributes:
        lengths: A guess at the tokens of each text, `(m,)` int64, for batches of similar length.
    """

    def __init__(self, tower: SentenceTransformer, texts: Sequence[str], prompt: str | None = None) -> None:
        self._tower, self._texts = tower, texts
        self._prompt = default_prompt(tower) if prompt is None else prompt
        self.lengths = 1 + np.fromiter(map(len, texts), np.int64, len(texts)) // _LETTERS

    def __len__(self) -> int:
        return len(self._texts)

    def lengths_of(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Guess the tokens of these texts, `(len(rows),)` int64."""
        return self.lengths[np.asarray(rows)]

    def collate(
        self, rows: np.ndarray | Sequence[int], *, seed: Sequence[int] | None = None, clusters: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Return the features of these texts; the other arguments are for files."""
        texts = [self._texts[int(row)] for row in rows]
        with _preprocessing:  # a fast tokenizer serves one caller at a time
            return self._tower.preprocess(texts, prompt=self._prompt or None)

    augmented = Tokens.augmented
