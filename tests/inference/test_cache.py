"""Vectors on disk, and those that are found again."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from textsiam.inference.cache import CacheError, EmbeddingCache, weights_fingerprint
from textsiam.models import twin as twins
from textsiam.models.twin import Twin


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were really encoded."""
    seen: list[str] = []
    encode = twins.encode

    def spy(fast: object, texts: list[str], **more: object) -> np.ndarray:
        seen.extend(texts)
        return encode(fast, texts, **more)  # pyright: ignore

    monkeypatch.setattr(twins, "encode", spy)
    return seen


def test_a_text_is_encoded_once(twin: Twin, sentences: list[str], tmp_path: Path, encoded: list[str]) -> None:
    plain = twin.encode(sentences)
    encoded.clear()
    cache = EmbeddingCache(tmp_path / "vectors.sqlite")
    first = twin.encode(sentences[:30] * 2, cache=cache)
    assert encoded == sentences[:30]
    again = twin.encode(sentences[::-1], cache=EmbeddingCache(tmp_path / "vectors.sqlite"))
    assert encoded == sentences[:30] + sentences[:29:-1]
    assert len(cache) == 48
    np.testing.assert_array_equal(again[::-1][:30], first[:30])  # bit for bit what was stored
    np.testing.assert_array_equal(first[:30], first[30:])
    np.testing.assert_allclose(again[::-1], plain, atol=1e-2)
    assert twin.encode([], cache=cache).shape == (0, twin.dim)


def test_other_weights_do_not_see_them(twin: Twin, sentences: list[str], tmp_path: Path, encoded: list[str]) -> None:
    cache = EmbeddingCache(tmp_path / "vectors.sqlite")
    before = twin.encode(sentences, cache=cache)
    with torch.no_grad():
        next(twin.left.parameters()).mul_(-1)
    after = twin.encode(sentences, cache=cache)
    assert len(encoded) == 96
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_array_equal(after, twin.encode(sentences))


def test_the_fingerprint_counts_whatever_a_vector_depends_on(fresh_tower: SentenceTransformer) -> None:
    def now(dtype: torch.dtype = torch.float32) -> str:
        return weights_fingerprint(fresh_tower, str(dtype))

    seen = [now(), now(torch.bfloat16)]
    fresh_tower.encode(["calling it changes nothing"])
    assert now() == seen[0]
    fresh_tower.prompts, fresh_tower.default_prompt_name = {"ask": "ask: "}, "ask"
    seen.append(now())
    fresh_tower.max_seq_length = 5
    seen.append(now())
    fresh_tower.tokenizer.add_tokens(["newword"])
    seen.append(now())
    fresh_tower.pop(-1)
    seen.append(now())
    with torch.no_grad():
        next(fresh_tower.parameters()).view(-1)[7] += 1e-6
    seen.append(now())
    assert len(set(seen)) == len(seen) == 7


def test_texts_that_look_alike_are_kept_apart(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "vectors.sqlite")
    texts = ["a", "a ", "A", "\ud800", "\ud801", "a\0b", ""]
    vectors = np.arange(14, dtype=np.float32).reshape(7, 2)
    cache.put("w", texts, vectors)
    found = cache.get("w", texts)
    np.testing.assert_array_equal([found[t] for t in texts], vectors)
    assert cache.get("v", texts) == {}


def test_a_failed_write_stores_nothing(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "vectors.sqlite")
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        cache.put("w", ["a", "b"], np.zeros((1, 2), np.float32))
    assert len(cache) == 0


def test_what_is_no_cache_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("these are my notes, and nothing else, for a long time to come" * 10)
    before = file.read_bytes()
    with pytest.raises(CacheError, match=r"notes\.txt: cannot be used as a cache of vectors"):
        EmbeddingCache(file)
    assert file.read_bytes() == before
    with pytest.raises(CacheError, match="nowhere"):
        EmbeddingCache(tmp_path / "nowhere" / "vectors.sqlite")


def test_a_cache_that_breaks_is_a_clear_error(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "vectors.sqlite")
    with sqlite3.connect(cache.path) as connection:
        connection.execute("DROP TABLE vectors")
    connection.close()
    with pytest.raises(CacheError, match="cannot be read: no such table"):
        cache.get("w", ["a"])
    with pytest.raises(CacheError, match="cannot be written: no such table"):
        cache.put("w", ["a"], np.zeros((1, 2), np.float32))
