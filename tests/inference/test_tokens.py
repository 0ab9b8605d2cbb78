from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from textsiam.inference.tokens import Tokens, chunk_by_tokens, tokenise

LENGTHS = st.lists(st.integers(0, 60), max_size=80).map(lambda x: np.array(x, np.int64))


def by_hand(*texts: list[int]) -> Tokens:
    flat = np.array([i for text in texts for i in text], np.int32)
    return Tokens(flat, np.cumsum([0, *map(len, texts)]), pad_id=9)


def test_lengths_and_padding_by_hand() -> None:
    tokens = by_hand([1, 2, 3], [4], [5, 6])
    assert len(tokens) == 3
    assert tokens.lengths.tolist() == [3, 1, 2]
    assert tokens.lengths_of([2, 0, 2]).tolist() == [2, 3, 2]
    features = tokens.collate(np.array([1, 0]))
    assert features["input_ids"].tolist() == [[4, 9, 9], [1, 2, 3]]
    assert features["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert tokens.collate([2])["input_ids"].tolist() == [[5, 6]]


def test_a_text_without_any_token_is_padding_only() -> None:
    tokens = by_hand([], [], [7])
    assert tokens.collate([0, 1])["attention_mask"].tolist() == [[0], [0]]
    assert tokens.collate([0, 2])["input_ids"].tolist() == [[9], [7]]
    assert [c.tolist() for c in chunk_by_tokens(tokens.lengths, 2)] == [[2, 0], [1]]


def test_same_tokens_as_the_tower_makes(tower: SentenceTransformer, sentences: list[str]) -> None:
    expected = tower.preprocess(sentences)
    tokens = tokenise(tower, sentences, block=7)
    assert len(tokens) == len(sentences)
    assert tokens.ids.dtype == np.int32
    found = tokens.collate(np.arange(len(sentences)))
    assert found["input_ids"].tolist() == expected["input_ids"].tolist()
    assert found["attention_mask"].tolist() == expected["attention_mask"].tolist()


def test_block_does_not_matter(tower: SentenceTransformer, sentences: list[str]) -> None:
    whole = tokenise(tower, sentences)
    for block in (1, 48, 1000):
        tokens = tokenise(tower, sentences, block=block)
        assert tokens.ids.tolist() == whole.ids.tolist()
        assert tokens.offsets.tolist() == whole.offsets.tolist()


def test_no_texts(tower: SentenceTransformer) -> None:
    tokens = tokenise(tower, [])
    assert len(tokens) == 0
    assert chunk_by_tokens(tokens.lengths, 10) == []


def test_long_texts_are_cut(fresh_tower: SentenceTransformer) -> None:
    fresh_tower.max_seq_length = 6
    tokens = tokenise(fresh_tower, ["why is the sky blue " * 10, "why"])
    assert tokens.lengths.max() == 6
    special = fresh_tower.tokenizer.cls_token_id, fresh_tower.tokenizer.sep_token_id
    assert (tokens.ids[0], tokens.ids[5]) == special


def test_default_prompt_comes_first(fresh_tower: SentenceTransformer) -> None:
    fresh_tower.prompts = {"ask": "why is "}
    without = tokenise(fresh_tower, ["why is the sky blue"])
    fresh_tower.default_prompt_name = "ask"
    assert tokenise(fresh_tower, ["the sky blue"]).ids.tolist() == without.ids.tolist()


@given(lengths=LENGTHS, budget=st.integers(1, 200))
@settings(deadline=None)
def test_chunks_hold_each_text_once_within_the_budget(lengths: np.ndarray, budget: int) -> None:
    chunks = chunk_by_tokens(lengths, budget)
    order = np.concatenate([*chunks, np.zeros(0, np.int64)]).astype(np.int64)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert (np.diff(lengths[order]) <= 0).all()  # longest first, so that texts of a chunk are alike
    for chunk in chunks:
        assert len(chunk) == 1 or len(chunk) * lengths[chunk].max() <= budget
    for chunk, after in itertools.pairwise(chunks):  # no chunk had room for one more
        assert len(after) > 0
        assert (len(chunk) + 1) * max(1, lengths[chunk].max()) > budget


@given(lengths=LENGTHS, budget=st.integers(1, 200))
@settings(max_examples=20, deadline=None)
def test_chunks_are_deterministic(lengths: np.ndarray, budget: int) -> None:
    first, second = (chunk_by_tokens(x, budget) for x in (lengths, lengths.copy()))
    assert [c.tolist() for c in first] == [c.tolist() for c in second]


def test_chunks_by_hand() -> None:
    chunks = chunk_by_tokens(np.array([2, 9, 3, 2, 4]), 8)
    assert [c.tolist() for c in chunks] == [[1], [4, 2], [0, 3]]


@pytest.mark.parametrize("budget", [0, -3])
def test_a_budget_must_be_positive(budget: int) -> None:
    with pytest.raises(ValueError, match=f"token budget must be >= 1, got {budget}"):
        chunk_by_tokens(np.array([1]), budget)
