from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from textsiam.inference import tokens
from textsiam.inference.tokens import Tokens, tokenise
from textsiam.models.twin import Twin
from textsiam.training.batches import token_store
from textsiam.training.batches.collation import TrainingPairs
from textsiam.training.batches.sampling import Uniform
from textsiam.training.batches.token_store import stored_tokens
from textsiam.training.loop import train
from textsiam.training.settings import Settings

TEXTS = ["how bread", "why dog today", "", "sky ünïcode", "how bread", "best old wine again please"] * 3


@pytest.fixture
def tower(driver: ModuleType) -> SentenceTransformer:
    return driver.small_twin().left


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call of a tokenizer was given, by whatever way."""
    seen: list[int] = []

    def noting(tower: SentenceTransformer, texts: Any, **knobs: Any) -> Any:
        for ids, lengths in token_blocks(tower, texts, **knobs):
            seen.append(len(lengths))
            yield ids, lengths

    token_blocks = tokens.token_blocks
    monkeypatch.setattr(tokens, "token_blocks", noting)
    monkeypatch.setattr(token_store, "token_blocks", noting)
    return seen


def assert_same(found: Tokens, expected: Tokens) -> None:
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.offsets, expected.offsets)
    assert (found.ids.dtype, found.offsets.dtype) == (expected.ids.dtype, expected.offsets.dtype)
    assert found.pad_id == expected.pad_id


def test_the_second_time_nothing_is_tokenised(tower, tmp_path, calls):
    expected = tokenise(tower, TEXTS)
    first = stored_tokens(tower, TEXTS, tmp_path / "tokens")
    assert calls == [18, 18]
    second = stored_tokens(tower, list(TEXTS), tmp_path / "tokens")
    assert calls == [18, 18]
    for found in (first, second):
        assert_same(found, expected)
        assert isinstance(found.ids.base, np.memmap)
        assert not found.ids.flags.writeable
    assert len(list((tmp_path / "tokens").iterdir())) == 3  # no temporary file is left


def test_blocks_make_one_array(tower, tmp_path, monkeypatch):
    blocks = tokens.token_blocks
    monkeypatch.setattr(token_store, "token_blocks", lambda tower, texts: blocks(tower, texts, block=4))
    assert_same(stored_tokens(tower, TEXTS, tmp_path), tokenise(tower, TEXTS))


def test_the_tokenizer_in_another_state_finds_its_tokens(tower, tmp_path, calls):
    stored_tokens(tower, TEXTS, tmp_path)
    tower.tokenizer(["how", "why dog"], padding=True, truncation=True, max_length=7)
    stored_tokens(tower, TEXTS, tmp_path)
    assert len(calls) == 1


def change_prompt(tower: SentenceTransformer) -> None:
    tower.prompts, tower.default_prompt_name = {"query": "how "}, "query"


def change_limit(tower: SentenceTransformer) -> None:
    tower.max_seq_length = 4


def change_vocabulary(tower: SentenceTransformer) -> None:
    tower.tokenizer.add_tokens(["bread"])


def change_side(tower: SentenceTransformer) -> None:
    tower.tokenizer.truncation_side = "left"
    tower.max_seq_length = 4


@pytest.mark.parametrize("change", [change_prompt, change_limit, change_vocabulary, change_side])
def test_another_tower_is_another_entry(tower, tmp_path, calls, change):
    stored_tokens(tower, TEXTS, tmp_path)
    change(tower)
    found = stored_tokens(tower, TEXTS, tmp_path)
    assert len(calls) == 2
    assert_same(found, tokenise(tower, TEXTS))


@pytest.mark.parametrize(
    "other", [TEXTS[:-1], TEXTS[::-1], [*TEXTS[:-1], "x"], ["how", " bread", *TEXTS[1:]], [*TEXTS, ""]]
)
def test_other_texts_are_another_entry(tower, tmp_path, calls, other):
    stored_tokens(tower, TEXTS, tmp_path)
    assert_same(stored_tokens(tower, other, tmp_path), tokenise(tower, other))
    assert len(calls) == 3


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


def zero(path: Path) -> None:
    """What a power cut may leave."""
    path.write_bytes(bytes(path.stat().st_size))


def forget(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("name", ["ids.npy", "offsets.npy", "json"])
@pytest.mark.parametrize("damage", [truncate, empty, flip, zero, forget])
def test_a_damaged_store_is_replaced(tower, tmp_path, calls, name, damage):
    expected = stored_tokens(tower, TEXTS, tmp_path)
    expected = Tokens(expected.ids.copy(), expected.offsets.copy(), expected.pad_id)
    (file,) = tmp_path.glob(f"*.{name}")
    damage(file)
    assert_same(stored_tokens(tower, TEXTS, tmp_path), expected)
    assert len(calls) == 2
    assert_same(stored_tokens(tower, TEXTS, tmp_path), expected)
    assert len(calls) == 2


def test_arrays_that_would_need_pickle_are_not_read(tower, tmp_path, calls):
    stored_tokens(tower, TEXTS, tmp_path)
    (file,) = tmp_path.glob("*.ids.npy")
    with file.open("wb") as out:
        np.save(out, np.array([{}], dtype=object), allow_pickle=True)
    stored_tokens(tower, TEXTS, tmp_path)
    assert len(calls) == 2


def test_a_folder_that_cannot_be_written_is_gone_without(tower, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    expected = tokenise(tower, TEXTS)
    assert_same(stored_tokens(tower, TEXTS, tmp_path / "file" / "tokens"), expected)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_store._Checked, "append", full)
    assert_same(stored_tokens(tower, TEXTS, tmp_path / "tokens"), expected)
    assert list((tmp_path / "tokens").iterdir()) == []


def test_a_tokenizer_that_does_not_describe_itself_is_not_stored(tower, tmp_path, monkeypatch):
    monkeypatch.setattr(type(tower.tokenizer), "backend_tokenizer", None)
    assert_same(stored_tokens(tower, TEXTS, tmp_path / "tokens"), tokenise(tower, TEXTS))
    assert not (tmp_path / "tokens").exists()


@pytest.mark.parametrize("half", [False, True], ids=["twin", "asymmetric twin"])
def test_batches_are_those_of_tokens_in_memory(driver, tmp_path, half):
    twin: Twin = driver.small_twin(half=half)
    pairs = driver.keyword_pairs(48)

    def on_disk(tower: SentenceTransformer, texts: Any) -> Tokens:
        return stored_tokens(tower, texts, tmp_path)

    sampler = Uniform(np.arange(len(pairs)), 12)
    plain = TrainingPairs(pairs, twin, sampler, token_budget=40, negatives=True)
    stored = TrainingPairs(pairs, twin, sampler, token_budget=40, negatives=True, prepare=on_disk)
    batches = list(zip(plain.epoch(0), stored.epoch(0), strict=True))
    assert len(batches) == 4
    for a, b in batches:
        assert_same_chunks([*a.left, *(a.right or [])], [*b.left, *(b.right or [])])


def assert_same_chunks(left: list[dict[str, torch.Tensor]], right: list[dict[str, torch.Tensor]]) -> None:
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_resumed_run_does_not_tokenise_its_texts_again(driver, tmp_path, calls):
    settings = Settings(precision="fp32", tracker="none", batch_size=8, checkpoint_every=2, max_steps=4)
    pairs = driver.keyword_pairs(48)
    for resume in (False, True):
        train(
            driver.small_twin(), pairs, driver.build_objective(["contrastive"]), output=tmp_path, settings=settings,
            resume=resume, quiet=True,
        )  # fmt: skip
    assert calls == [len(pairs.texts)]
    (facts,) = (tmp_path / "tokens").glob("*.json")
    assert json.loads(facts.read_text()).keys() == {"ids", "offsets"}
