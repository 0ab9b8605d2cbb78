"""Tokens kept on disk beside a run: a resume does not tokenise again, and processes share the pages they read."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from textsiam.data.tables.arrays import GrowingArray
from textsiam.inference.encoders import prepare
from textsiam.inference.inputs import Prepared
from textsiam.inference.preprocessed import reads_tokens
from textsiam.inference.tokens import Tokens, default_prompt, pad_id_of, token_blocks, tokenise, tokenizer_rules

_FORMAT = 1
_ARRAYS = {"ids": np.dtype("<i4"), "offsets": np.dtype("<i8")}


def stored_tokens(tower: SentenceTransformer, texts: Sequence[str], folder: Path) -> Prepared:
    """Return the prepared inputs of a tower; tokens as memory-mapped arrays of a folder, filled where it lacks them.

    What is stored is found by its content: the tokenizer, the prompt, the length limit and the texts. A damaged store
    is replaced. Where the folder cannot be written, or the tokenizer cannot be described, the tokens are in memory.

    Args:
        tower: The tower; images are left to be opened when a batch wants them.
        texts: m inputs.
        folder: Where the arrays are kept; made if need be.
    """
    key = _key(tower, texts)
    if key is None:
        return prepare(tower, texts)
    stored = _read(folder, key, len(texts))
    if stored is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(tower, texts, folder, key)
        except OSError:  # a full disk, say: the store only saves time
            return tokenise(tower, texts)
        stored = _read(folder, key, len(texts))
    return tokenise(tower, texts) if stored is None else Tokens(**stored, pad_id=pad_id_of(tower))


def _key(tower: SentenceTransformer, texts: Sequence[str]) -> str | None:
    """Return a name for everything that the tokens depend on; None where the tokenizer does not say what it does."""
    tokenizer, rules = tower.tokenizer, tokenizer_rules(tower)
    if rules is None or not reads_tokens(tower):
        return None
    facts = {
        "format": _FORMAT,
        "rules": rules,
        "class": type(tokenizer).__name__,
        "truncation_side": tokenizer.truncation_side,
        "split_special_tokens": getattr(tokenizer, "split_special_tokens", None),
        "prompt": default_prompt(tower),
        "limit": tower.max_seq_length,
        "versions": [version("tokenizers"), version("transformers")],
    }
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _path(folder: Path, key: str, name: str) -> Path:
    return folder / (f"{key}.json" if name == "facts" else f"{key}.{name}.npy")


def _read(folder: Path, key: str, count: int) -> dict[str, np.ndarray] | None:
    """Return the arrays as they were written, or None."""
    try:
        checksums = json.loads(_path(folder, key, "facts").read_text())
        arrays = {
            n: np.load(_path(folder, key, n), mmap_mode="r", allow_pickle=False).view(np.ndarray) for n in _ARRAYS
        }
    except (OSError, ValueError, TypeError, EOFError, OverflowError):  # all that damage can make of them
        return None
    if not isinstance(checksums, dict) or any(a.dtype != _ARRAYS[n] or a.ndim != 1 for n, a in arrays.items()):
        return None
    whole = len(arrays["offsets"]) == count + 1 and all(checksums.get(n) == zlib.crc32(a) for n, a in arrays.items())
    return arrays if whole else None


def _write(tower: SentenceTransformer, texts: Sequence[str], folder: Path, key: str) -> None:
    """Write block after block under temporary names, then give the files theirs; the facts come last.

    Processes that do this at once write the same bytes, so that it does not matter whose remain.
    """
    with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=folder) as aside:
        files = {name: _Checked(Path(aside) / name, dtype) for name, dtype in _ARRAYS.items()}
        try:
            files["offsets"].append(np.zeros(1))
            total = 0
            for ids, lengths in token_blocks(tower, texts):
                files["ids"].append(ids)
                files["offsets"].append(total + np.cumsum(lengths))
                total += len(ids)
        finally:
            for file in files.values():
                file.close()
        (Path(aside) / "facts").write_text(json.dumps({name: file.checksum for name, file in files.items()}))
        for name in (*_ARRAYS, "facts"):
            os.replace(Path(aside) / name, _path(folder, key, name))


class _Checked(GrowingArray):
    """A growing array that keeps the checksum of what it holds."""

    checksum = 0

    def append(self, piece: np.ndarray) -> bytes:
        data = super().append(piece)
        self.checksum = zlib.crc32(data, self.checksum)
        return data
