"""Vectors on disk, so that a text is encoded once for all runs with the same weights."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from textsiam.inference.fast.lazy_tower import saved_bert
from textsiam.inference.tokens import default_prompt, tokenizer_of, tokenizer_rules

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class CacheError(ValueError):
    """A cache file that cannot be read or written; the message names it."""


def weights_fingerprint(tower: SentenceTransformer, number_format: str) -> str:
    """Return a digest of everything that a text's vector depends on, 64 hexadecimal digits.

    That is every weight and buffer, the tokenizer or image processor, the prompt, the length limit, the kind of every
    module and the number format: two towers of one fingerprint encode alike, up to rounding.
    """
    digest = hashlib.sha256()
    saved = saved_bert(tower)
    described = saved and saved.described
    facts = {
        "modules": described or [[type(m).__name__, getattr(m, "get_config_dict", dict)()] for m in tower],
        "prompt": default_prompt(tower),
        "tokens": tower.max_seq_length,
        "format": number_format,
    }
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    digest.update(json.dumps(_reading(tower), sort_keys=True, default=str).encode())
    digest.update(weights_digest(tower).encode())
    return digest.hexdigest()


def _reading(tower: SentenceTransformer) -> Any:
    """Return how a tower reads its inputs: what its tokenizer or its processor does."""
    if tokenizer_of(tower) is None:
        processor = getattr(tower[0], "processor", None)  # without one, the facts of the modules say it all
        return None if processor is None else processor.to_dict()
    return tokenizer_rules(tower) or tokenizer_of(tower).get_vocab()


def weights_digest(module: nn.Module) -> str:
    """Return the sha256 of a module's weights (names, types, shapes, bytes), 64 hexadecimal digits."""
    digest = hashlib.sha256()
    saved = saved_bert(module)
    for name, tensor in sorted((module.state_dict() if saved is None else saved.weights).items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b"")
    return digest.hexdigest()


class EmbeddingCache:
    """Vectors by weights and text, in one SQLite file that several processes may share.

    Args:
        path: The file; it is made when it is not there.

    Raises:
        CacheError: The file is no such cache, or its folder cannot be written.

    Example:
        >>> import tempfile
        >>> cache = EmbeddingCache(Path(tempfile.mkdtemp()) / "vectors.sqlite")
        >>> cache.put("weights", ["why?"], np.ones((1, 2), np.float32))
        >>> cache.get("weights", ["why?", "how?"])
        {'why?': array([1., 1.], dtype=float32)}
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._connection("cannot be used as a cache of vectors") as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
            )

    @contextmanager
    def _connection(self, failure: str) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as connection, connection:
                yield connection
        except sqlite3.Error as error:
            raise CacheError(f"{self.path}: {failure}: {error}") from error

    def __len__(self) -> int:
        with self._connection("cannot be read") as connection:
            return connection.execute("SELECT COUNT(*) FROM vectors").fetchone()[0]

    def get(self, fingerprint: str, texts: Iterable[str]) -> dict[str, np.ndarray]:
        """Return the vectors of those texts that are there, each `(dim,)` float32."""
        found = {}
        with self._connection("cannot be read") as connection:
            for text in texts:
                row = connection.execute("SELECT vector FROM vectors WHERE key = ?", (_key(fingerprint, text),))
                if (vector := row.fetchone()) is not None:
                    found[text] = np.frombuffer(vector[0], np.float32)
        return found

    def put(self, fingerprint: str, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Store the vector of each text, all or none of them; `(len(texts), dim)` float32."""
        rows = ((_key(fingerprint, t), v.astype(np.float32).tobytes()) for t, v in zip(texts, vectors, strict=True))
        with self._connection("cannot be written") as connection:
            connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)


def _key(fingerprint: str, text: str) -> bytes:
    # Surrogates cannot be encoded strictly, but two different texts must not share a key.
    return hashlib.sha256(f"{fingerprint}\0{text}".encode("utf-8", "surrogatepass")).digest()
