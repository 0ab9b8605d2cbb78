"""The reranker: a cross-encoder that reads both texts of a pair at once, asked where the twin's score leaves doubt."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import nn

from textsiam.inference.encoders import MINILM, ModelError, resolve
from textsiam.inference.fast.fast_tower import Precision, fast_dtype
from textsiam.inference.opening import positions_of
from textsiam.legacy.names import old_arguments
from textsiam.legacy.saved import reranker_facts, reranker_file
from textsiam.rerank.base import FORMAT, BaseReranker, Combination
from textsiam.rerank.fast_cross_encoder import FastCrossEncoder
from textsiam.rerank.lexical_features import LexicalFeatures
from textsiam.rerank.lexical_reranker import LexicalReranker


@old_arguments(wording="lexical_features")
class Reranker(BaseReranker):
    """A cross-encoder with one output, and how it is combined with a twin.

    Args:
        model: The cross-encoder; its logit is larger for duplicates.
        symmetric: Ask for both orders of a pair and take the mean logit, so that the order does not matter.
        combination: Learned by `fit`.
        lexical_features: Learned by `fit`, where it is asked to: P is then the mean of what the combination and its
            trees say.

    Raises:
        ModelError: The cross-encoder has not one output.

    Example:
        >>> reranker = Reranker(cross_encoder(), symmetric=True)  # doctest: +SKIP
        >>> similarity = twin.pair_similarity(pairs.texts, pairs.left, pairs.right)  # doctest: +SKIP
        >>> twin.reranker = reranker.fit(pairs, similarity)  # doctest: +SKIP
    """

    has_cross_encoder = True

    def __init__(
        self,
        model: CrossEncoder,
        *,
        symmetric: bool = True,
        combination: Combination | None = None,
        lexical_features: LexicalFeatures | None = None,
    ) -> None:
        if model is None:  # as version 0.1 had it
            raise ModelError("a reranker needs a cross-encoder; a reranker without one is `LexicalReranker()`")
        if model.num_labels != 1:
            raise ModelError(f"a reranker is a cross-encoder with one output, this one has {model.num_labels}")
        super().__init__(combination, lexical_features)
        self.model, self.symmetric = model, symmetric
        self._fast: FastCrossEncoder | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle is made of: without what is worked out of the weights again."""
        return self.__dict__ | {"_fast": None}

    def logits(
        self, texts: Sequence[str], left: np.ndarray, right: np.ndarray, *, precision: Precision = "auto"
    ) -> np.ndarray:
        """Return the logit of each pair `texts[left[i]], texts[right[i]]`, `(n,)`; equal pairs are read once."""
        if len(left) == 0:
            return np.zeros(len(left), np.float32)
        rows = np.stack([left, right], 1)
        if self.symmetric:
            rows = np.sort(rows, axis=1)
        distinct, inverse = np.unique(rows, axis=0, return_inverse=True)
        orders = [distinct, distinct[:, ::-1]] if self.symmetric else [distinct]
        asked = [(str(texts[a]), str(texts[b])) for order in orders for a, b in order.tolist()]
        found = self._read(asked, fast_dtype(torch.device(self.model.device), precision))
        return found.reshape(len(orders), -1).mean(0)[inverse.reshape(-1)]

    def _read(self, asked: list[tuple[str, str]], dtype: torch.dtype) -> np.ndarray:
        """Return the logit of each pair in this order of its texts, `(n,)` float32."""
        model = self.model
        if self._fast is None or self._fast.dtype != dtype or self._fast.stale:
            self._fast = FastCrossEncoder(model, dtype) if FastCrossEncoder.readable(model) else None
        if self._fast is not None:
            return self._fast.logits(asked)[:, 0]
        with torch.autocast(model.device.type, dtype=dtype, enabled=dtype != torch.float32):
            found = model.predict(asked, activation_fn=nn.Identity(), show_progress_bar=False, batch_size=32)
        return np.asarray(found, np.float32)

    def save_pretrained(self, path: str | Path) -> Path:
        """Save the cross-encoder, which plain `CrossEncoder(path)` opens, and the combination beside it."""
        self.model.save_pretrained(str(path), create_model_card=False)
        return super().save_pretrained(path)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str | None = None) -> Reranker | LexicalReranker:
        """Open a saved reranker, of whichever kind it is.

        Raises:
            ModelError: The folder holds none, or its files are damaged.
        """
        file = reranker_file(Path(path))
        try:
            facts = reranker_facts(json.loads(file.read_text(encoding="utf-8")))
            if facts["format"] not in range(1, FORMAT + 1):
                raise ModelError(f"format is {facts['format']!r}, this version reads {FORMAT}: update textsiam")
            combination = None if facts["combination"] is None else Combination(**facts["combination"])
            said = facts.get("lexical_features")  # version 0.1 has here what `LexicalFeatures` has in a file of its own
            lexical_features = (
                LexicalFeatures.open(file.parent, said if isinstance(said, dict) else None) if said else None
            )
            if not facts.get("cross_encoder", True):
                return LexicalReranker(combination, lexical_features)
            symmetric = facts["symmetric"]
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else error
            raise ModelError(f"{file}: {reason}") from error
        model = cross_encoder(path, device=device)
        return cls(model, symmetric=symmetric, combination=combination, lexical_features=lexical_features)


def cross_encoder(
    backbone: str | Path | SentenceTransformer = MINILM,
    *,
    max_tokens: int | None = None,
    seed: int = 0,
    device: str | None = None,
) -> CrossEncoder:
    """Open a cross-encoder with one output, or make one of a backbone: its output layer is new then, drawn by the seed.

    Args:
        backbone: A saved cross-encoder, a transformer or a `SentenceTransformer`, by folder or Hub id;
            all-MiniLM-L6-v2 resolves to the packaged copy where the Hub cache has none. Or a text tower, whose weights
            are copied.
        max_tokens: Cut a pair after this many tokens; None keeps the model's limit.
        seed: Of the new weights.
        device: Where the weights go; None lets torch choose.

    Raises:
        ModelError: The model cannot be found or read, or has fewer positions than `max_tokens`.
    """
    if isinstance(backbone, SentenceTransformer):
        with tempfile.TemporaryDirectory() as folder:
            backbone.save_pretrained(folder, create_model_card=False)
            return cross_encoder(folder, max_tokens=max_tokens, seed=seed, device=device)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = CrossEncoder(resolve(backbone), num_labels=1, max_length=max_tokens, device=device)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = str(error).strip().split("\n")[0]
        raise ModelError(f"cannot open the cross-encoder {str(backbone)!r}: {first}") from error
    positions = positions_of(model[0])
    if max_tokens is not None and positions is not None and max_tokens > positions:
        raise ModelError(
            f"max_tokens is {max_tokens}, but the cross-encoder {str(backbone)!r} has {positions} positions"
        )
    return model
