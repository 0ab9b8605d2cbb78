"""What a tower does not read of texts: unknown tokens, and what lies behind the length at which it cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from textsiam.inference.tokens import token_blocks, token_counter, token_limit, tokenizer_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_ODD = 6364136223846793005  # a multiplier of Knuth's: sums of two digests are as good as digests
_SPACES = ("▁", "Ġ", "Ċ")  # tokens of some vocabularies that stand for a space


@dataclass(frozen=True, eq=False)
class Unread:
    """What is not read of m texts.

    Attributes:
        nothing: Texts of which no token is known, `(m,)` bool.
        cut: Texts that are longer than the tower takes, `(m,)` bool.
        partly: Texts of which something is not read, `(m,)` bool.
        seen: Equal numbers stand for texts whose tokens are equal once they are cut, `(m,)` int64: digests, which two
            texts that differ share with a chance of 2⁻⁶⁴.
    """

    nothing: np.ndarray
    cut: np.ndarray
    partly: np.ndarray
    seen: np.ndarray

    def differ_unread(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Say of pairs of different texts, `(n,)` indices each, whether nothing that is read tells them apart."""
        alike = (self.seen[left] == self.seen[right]) & (self.partly[left] | self.partly[right])
        return self.nothing[left] | self.nothing[right] | alike


def unread_of(towers: Sequence[SentenceTransformer], texts: Sequence[str]) -> Unread:
    """Find out what none of some towers reads of texts.

    Args:
        towers: Towers; of one without a tokenizer that knows its unknown token, everything counts as read.
        texts: m texts.
    """
    return reduce(_both, (_unread_of(tower, texts) for tower in towers))


def _both(one: Unread, other: Unread) -> Unread:
    seen = one.seen * _ODD + other.seen
    return Unread(one.nothing & other.nothing, one.cut & other.cut, one.partly & other.partly, seen)


def _unread_of(tower: SentenceTransformer, texts: Sequence[str]) -> Unread:
    tokenizer = tokenizer_of(tower)
    count = len(texts)
    if not hasattr(tokenizer, "all_special_ids"):
        none = np.zeros(count, bool)
        return Unread(none, none, none, np.arange(count))
    unknown = [] if tokenizer.unk_token_id is None else [tokenizer.unk_token_id]
    spaces = [each for each in map(tokenizer.convert_tokens_to_ids, _SPACES) if each is not None]
    nothing, cut, partly = (np.zeros(count, bool) for _ in range(3))
    seen, done, limit = np.zeros(count, np.int64), 0, token_limit(tower) or np.inf
    # What stands in every input is that of an empty one: special tokens, and a prompt.
    ((ids, _),) = token_blocks(tower, [""])
    silent = [*tokenizer.all_special_ids, *(each for each in spaces if each not in unknown)]
    usual, beside = np.isin(ids, unknown).sum(), (~np.isin(ids, silent)).sum()
    for ids, sizes in token_blocks(tower, texts):
        stops = np.cumsum(sizes)
        rows = slice(done, done + len(sizes))
        nothing[rows] = _sums(~np.isin(ids, silent), stops) <= beside
        partly[rows] = _sums(np.isin(ids, unknown), stops) > usual
        pieces = np.split(ids, stops[:-1])
        digests = b"".join(blake2b(piece.tobytes(), digest_size=8).digest() for piece in pieces)
        seen[rows] = np.frombuffer(digests, np.int64)
        full = np.flatnonzero(sizes >= limit)
        if len(full):
            cut[full + done] = token_counter(tower)([texts[int(i)] for i in full + done]) > sizes[full]
        done += len(sizes)
    return Unread(nothing, cut, cut | partly, seen)


def _sums(values: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Return the sums of values `(total,)` over the pieces that end at `stops`, `(m,)`."""
    return np.diff(np.concatenate([[0], np.cumsum(values)])[np.concatenate([[0], stops])])
