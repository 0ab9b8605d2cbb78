"""Tokenised texts as one flat array, and batches of them chosen by token count."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from textsiam.inference.fast.lazy_tower import saved_bert
from textsiam.media.ready import Ready

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

LONGEST = 2**31 - 1  # tokens: transformers says 10³⁰ where a tokenizer knows of no limit


@dataclass(frozen=True)
class Tokens:
    """m tokenised texts, without padding.

    Attributes:
        ids: Token ids of all texts, one after the other, `(total,)` int32.
        offsets: Text i is `ids[offsets[i]:offsets[i + 1]]`, `(m + 1,)` int64.
        pad_id: Token id that fills a batch, behind the texts: so every token has the position that it has alone, also
            where a backbone counts positions without regard to the padding (GPT-2 and its like).
        kinds: For pairs of texts, which of the two a token is of, `(total,)` int32.
    """

    ids: np.ndarray
    offsets: np.ndarray
    pad_id: int
    kinds: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, special tokens included, `(m,)` int64."""
        return np.diff(self.offsets)

    def lengths_of(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Tokens of these texts, `(len(rows),)` int64."""
        rows = np.asarray(rows)
        return self.offsets[rows + 1] - self.offsets[rows]

    def collate(
        self, rows: np.ndarray | Sequence[int], *, seed: Sequence[int] | None = None, clusters: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Return the padded features `input_ids` and `attention_mask`, `(len(rows), longest)` int64.

        Pairs have `token_type_ids` too.

        Args:
            rows: Which texts.
            seed: Of what changes inputs for training; nothing changes texts.
            clusters: What is changed alike.
        """
        lengths = self.lengths_of(rows)
        longest = max(1, int(lengths.max()))  # some tokenizers make nothing of an empty text
        mask = np.arange(longest) < lengths[:, None]

        def filled(flat: np.ndarray, rest: int) -> torch.Tensor:
            found = np.full(mask.shape, rest, dtype=np.int64)
            found[mask] = np.concatenate([flat[self.offsets[r] : self.offsets[r + 1]] for r in rows])
            return torch.from_numpy(found)

        features = {"input_ids": filled(self.ids, self.pad_id)}
        features["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
        if self.kinds is not None:
            features["token_type_ids"] = filled(self.kinds, 0)
        return features

    def augmented(self, augment: Sequence[Any]) -> Tokens:
        """Raise a ValueError: no augmentation changes texts."""
        raise ValueError("augment changes images and sounds: these inputs are texts, leave it out")


def tokenizer_of(tower: SentenceTransformer | CrossEncoder) -> Any:
    """Return the tokenizer of a model; of a tower that no library has opened, the one that reads its file."""
    saved = saved_bert(tower)
    return tower.tokenizer if saved is None else saved.tokenizer


def tokenise(
    tower: SentenceTransformer, texts: Sequence[str], *, prompt: str | None = None, block: int = 10_000
) -> Tokens:
    """Tokenise texts with the tokenizer, the default prompt and the length limit of a tower.

    Args:
        tower: A text tower.
        texts: m texts.
        prompt: What stands before each text, in place of the default prompt.
        block: How many texts go to the tokenizer at once.

    Returns:
        The tokens of the m texts, in order.
    """
    blocks = list(token_blocks(tower, texts, prompt=prompt, block=block))
    return Tokens(
        ids=np.concatenate([np.zeros(0, np.int32), *(ids for ids, _ in blocks)]),
        offsets=np.cumsum(np.concatenate([np.zeros(1, np.int64), *(lengths for _, lengths in blocks)])),
        pad_id=pad_id_of(tower),
    )


def tokenise_pairs(model: CrossEncoder, pairs: Sequence[tuple[str, str]]) -> Tokens:
    """Tokenise pairs of texts with the tokenizer and the length limit of a cross-encoder.

    Args:
        model: The cross-encoder.
        pairs: m pairs.

    Returns:
        The tokens of the m pairs, in order, with the kinds that the tokenizer tells.
    """
    found = model.tokenizer(
        [one for one, _ in pairs],
        [other for _, other in pairs],
        **_cut(model),
        padding=False,
        return_attention_mask=False,
    )
    flat = {
        name: np.concatenate([np.zeros(0, np.int32), *(np.asarray(i, np.int32) for i in rows)])
        for name, rows in found.items()
    }
    return Tokens(
        ids=flat["input_ids"],
        offsets=np.cumsum([0, *map(len, found["input_ids"])]),
        kinds=flat.get("token_type_ids"),
        pad_id=pad_id_of(model),
    )


def token_blocks(
    tower: SentenceTransformer, texts: Sequence[str], *, prompt: str | None = None, block: int = 10_000
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the tokens of a block of texts after the other, and how many each text has: int32 and int64."""
    prompt = default_prompt(tower) if prompt is None else prompt
    for start in range(0, len(texts), block):
        batch = texts[start : start + block]
        ids = tokenizer_of(tower)(
            ["" if isinstance(text, Ready) else prompt + text for text in batch],
            **_cut(tower),
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        ids = [text.features if isinstance(text, Ready) else own for text, own in zip(batch, ids, strict=True)]
        yield np.concatenate([np.asarray(i, dtype=np.int32) for i in ids]), np.fromiter(map(len, ids), np.int64)


Counter = Callable[[Sequence[str]], np.ndarray]
"""From m inputs to their sizes in tokens, `(m,)` int64."""


def token_counter(tower: SentenceTransformer) -> Counter:
    """Return what counts the tokens of texts as `tokenise` makes them, special ones included, but nothing cut off.

    It has a tokenizer of its own, so that it may count while another thread encodes: setting the limits of a fast
    tokenizer that is in use is an error.
    """
    prompt = default_prompt(tower)
    rules = unlimited_rules(tower)
    if rules is None:
        own, lock = copy.deepcopy(tower.tokenizer), threading.Lock()

        def slowly(texts: Sequence[str]) -> np.ndarray:
            with lock:
                ids = own([prompt + text for text in texts], truncation=False, padding=False)["input_ids"]
            return np.fromiter(map(len, ids), np.int64, len(texts))

        return slowly

    def quickly(texts: Sequence[str]) -> np.ndarray:
        found = rules.encode_batch_fast(["" if isinstance(text, Ready) else prompt + text for text in texts])
        ids = (t.features if isinstance(t, Ready) else own for t, own in zip(texts, found, strict=True))
        return np.fromiter(map(len, ids), np.int64, len(texts))

    return quickly


def unlimited_rules(tower: SentenceTransformer) -> Any:
    """Return a copy of a fast tokenizer (`tokenizers.Tokenizer`), which cuts and fills nothing; None for a slow one."""
    backend = _fast_tokenizer(tower)
    if backend is None:
        return None
    rules = type(backend).from_str(backend.to_str())
    rules.no_truncation()
    rules.no_padding()
    return rules


def unencodable(text: str) -> int | None:
    """Return the position of the first character that no file or tokenizer takes (a lone surrogate), or None.

    Example:
        >>> unencodable("fine"), unencodable("bad \ud800")
        (None, 4)
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def default_prompt(tower: SentenceTransformer) -> str:
    """Return what a tower puts before each text."""
    return tower.prompts.get(tower.default_prompt_name or "") or ""


def tokenizer_rules(tower: SentenceTransformer) -> dict[str, Any] | None:
    """Return all that a fast tokenizer does, without the limits that its last call left behind; None for a slow one."""
    backend = _fast_tokenizer(tower)
    if backend is None:
        return None
    return {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("truncation", "padding")}


def _fast_tokenizer(tower: SentenceTransformer) -> Any:
    tokenizer = tokenizer_of(tower)
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    return backend if hasattr(backend, "to_str") else None


def pad_id_of(tower: SentenceTransformer | CrossEncoder) -> int:
    """Return the token id that fills a batch."""
    return tokenizer_of(tower).pad_token_id or 0


def token_limit(model: SentenceTransformer | CrossEncoder) -> int | None:
    """Return after how many tokens a model cuts texts; None where it does not (XLNet, T5, static embeddings)."""
    limit = model.max_seq_length
    return None if limit is None or limit > LONGEST else int(limit)


def _cut(model: SentenceTransformer | CrossEncoder) -> dict[str, Any]:
    """Return what tells a tokenizer to cut texts at the limit of a model."""
    limit = token_limit(model)
    return {"truncation": limit is not None, "max_length": limit}


def dummy_tokens(tower: SentenceTransformer | CrossEncoder, tokens: int) -> dict[str, Any]:
    """Return the features of dummy texts of 16 tokens (or the tower's limit), as many as fit into so many tokens."""
    longest = min(16, token_limit(tower) or 16)
    count = max(1, tokens // longest)
    ids = torch.arange(count * longest).view(count, longest) % len(tokenizer_of(tower))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def chunk_by_tokens(lengths: np.ndarray, budget: int, *, padded: bool = True) -> list[np.ndarray]:
    """Split texts into chunks of similar length whose padded size stays within a token budget.

    Args:
        lengths: Tokens of each text, `(m,)`.
        budget: Largest `texts × longest` of a chunk; a single longer text is a chunk of its own.
        padded: Whether a chunk may hold texts of different lengths.

    Returns:
        Index arrays that together hold each of 0…m−1 once, longest texts first (so that a memory peak comes
        at once); deterministic.

    Raises:
        ValueError: The budget is not positive.
    """
    if budget < 1:
        raise ValueError(f"token budget must be >= 1, got {budget}")
    order = np.argsort(-lengths, kind="stable")
    chunks = []
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        count = max(1, budget // max(1, longest))
        if not padded:
            count = min(count, int((lengths[order[start : start + count]] == longest).sum()))
        chunks.append(order[start : start + count])
        start += count
    return chunks
