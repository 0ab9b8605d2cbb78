"""Every folder that sentence-transformers opens works as it does there, or is refused in one line."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import (
    BoW,
    Dense,
    Normalize,
    Pooling,
    StaticEmbedding,
    WordEmbeddings,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

from textsiam.config.model import ModelConfig, build_twin
from textsiam.config.run import build_objective, read_config
from textsiam.inference.encoders import ModelError, text_encoder
from textsiam.inference.tokens import token_limit
from textsiam.models.twin import Twin
from textsiam.search.duplicates import find_duplicates
from textsiam.training.loop import train
from textsiam.training.settings import Settings

TEN_STEPS = Settings(max_steps=10, batch_size=16, learning_rate=1e-2, precision="fp32", tracker="none")


def least_cosine(u, v):
    return float((u * v).sum(1).min() / 1)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def trained(folder, pairs, tmp_path, **model):
    """A twin on a folder after ten steps, and the same saved and reopened."""
    config = ModelConfig(left=str(folder), **model)
    twin = build_twin(config, pairs, device="cpu")
    objective = build_objective(read_config(["--loss.contrastive.margin=0.5"]).loss)
    train(twin, pairs, objective, output=tmp_path / "run", settings=TEN_STEPS, quiet=True)
    return twin, Twin.from_pretrained(twin.save_pretrained(tmp_path / "trained"), device="cpu")


def static(sentences, dim=24, seed=0):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.train_from_iterator(sentences, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    weights = np.random.default_rng(seed).normal(size=(tokens.get_vocab_size(), dim)).astype(np.float32)
    return StaticEmbedding(tokens, embedding_weights=weights)


def words(sentences, dim=24, update=True):
    vocabulary = sorted({word.strip("?,.").lower() for text in sentences for word in text.split()})
    weights = np.random.default_rng(1).normal(size=(len(vocabulary), dim)).astype(np.float32)
    tokens = WhitespaceTokenizer(vocabulary, stop_words=[], do_lower_case=True)
    return WordEmbeddings(tokens, weights, update_embeddings=update)


# --- width ----------------------------------------------------------------------------------------


def test_a_truncated_model_gives_its_leading_components(tower, sentences, tmp_path):
    truncated = copy.deepcopy(tower)
    truncated.truncate_dim = 8
    truncated.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    peer = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    twin = Twin.from_pretrained(tmp_path / "saved", device="cpu")
    expected = unit(peer.encode(sentences, batch_size=1))
    assert twin.dim == 8
    for precision in ("fp32", "auto"):
        assert least_cosine(twin.encode(sentences, precision=precision), expected) > 0.9999
    assert np.allclose(twin.similarity(sentences[:5], sentences[5:10], precision="fp32"),
                       (expected[:5] * expected[5:10]).sum(1), atol=1e-5)  # fmt: skip


def test_training_keeps_the_truncated_width(tower, pairs, sentences, tmp_path):
    truncated = copy.deepcopy(tower)
    truncated.truncate_dim = 8
    truncated.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    twin, again = trained(tmp_path / "saved", pairs, tmp_path)
    assert twin.dim == again.dim == 8
    assert np.array_equal(twin.encode(sentences), again.encode(sentences))
    plain = SentenceTransformer(str(tmp_path / "trained"), device="cpu").encode(sentences, batch_size=1)
    assert plain.shape == (48, 8)
    assert least_cosine(plain, again.encode(sentences, precision="fp32")) > 0.99999
    other = build_twin(ModelConfig(left=str(tmp_path / "saved"), pooling="cls"), pairs, device="cpu")
    assert other.dim == 8
    assert build_twin(ModelConfig(left=str(tmp_path / "saved"), dim=12), pairs, device="cpu").dim == 12


# --- queries and documents ------------------------------------------------------------------------


@pytest.fixture
def routed(tower, sentences, tmp_path):
    """The folder of a model that encodes queries by a static embedding and documents by a transformer."""
    document = [copy.deepcopy(tower[0]), copy.deepcopy(tower[1])]
    router = Router.for_query_document([static(sentences, tower.get_embedding_dimension())], document)
    model = SentenceTransformer(modules=[router, Normalize()], device="cpu")
    model.save_pretrained(str(tmp_path / "routed"), create_model_card=False)
    return tmp_path / "routed"


def test_each_side_takes_its_own_route(routed, sentences):
    peer = SentenceTransformer(str(routed), device="cpu")
    twin = Twin.from_pretrained(routed, device="cpu")
    queries, documents = peer.encode_query(sentences), peer.encode_document(sentences, batch_size=1)
    assert least_cosine(twin.encode(sentences, precision="fp32"), queries) > 0.999999
    assert least_cosine(twin.encode(sentences, side="right", precision="fp32"), documents) > 0.999999
    expected = (queries[:9] * documents[9:18]).sum(1)
    assert np.allclose(twin.similarity(sentences[:9], sentences[9:18], precision="fp32"), expected, atol=1e-5)


def test_both_routes_are_trained_and_saved(routed, pairs, sentences, tmp_path):
    before = Twin.from_pretrained(routed, device="cpu")
    twin, again = trained(routed, pairs, tmp_path)
    for side in ("left", "right"):
        assert np.array_equal(twin.encode(sentences, side=side), again.encode(sentences, side=side))
        assert least_cosine(twin.encode(sentences, side=side), before.encode(sentences, side=side)) < 0.999


def test_texts_of_one_kind_are_encoded_as_plain_encode_does(routed, sentences, textsiam, tmp_path):
    peer = SentenceTransformer(str(routed), device="cpu")
    with pytest.warns(UserWarning, match="queries and documents differently"):
        twin = Twin.from_pretrained(routed, device="cpu", sides=False)
    assert twin.right is None
    assert least_cosine(twin.encode(sentences, precision="fp32"), peer.encode(sentences, batch_size=1)) > 0.999999
    with pytest.raises(ValueError, match="sides=False"):
        find_duplicates(Twin.from_pretrained(routed, device="cpu"), sentences, threshold=0.9)
    (tmp_path / "q.txt").write_text("\n".join(sentences))
    said = textsiam("flag", routed, tmp_path / "q.txt", "--threshold", "0.9")
    assert said.status == 0
    assert "queries and documents differently" in said.err
    expected = float((peer.encode_query(sentences[:1]) * peer.encode_document(sentences[1:2])).sum())
    scored = textsiam("score", routed, *sentences[:2], "--json")
    assert scored.json["similarity"] == pytest.approx(expected, abs=2e-3)
    matched = textsiam("match", routed, "--queries", tmp_path / "q.txt", "--documents", tmp_path / "q.txt", "--json")
    assert "differently" not in matched.err
    assert matched.json[0]["similarity"] == pytest.approx(
        float((peer.encode_query(sentences[:1]) @ peer.encode_document(sentences).T).max()), abs=5e-3
    )


def test_a_route_that_is_missing_is_refused(tower, sentences, tmp_path):
    router = Router({"query": [copy.deepcopy(tower[0]), copy.deepcopy(tower[1])]}, allow_empty_key=False)
    SentenceTransformer(modules=[router], device="cpu").save_pretrained(str(tmp_path / "m"), create_model_card=False)
    with pytest.raises(ModelError, match="no route for document"):
        Twin.from_pretrained(tmp_path / "m", device="cpu")
    with pytest.raises(ModelError, match="routes of its own"):
        text_encoder(tmp_path / "m", device="cpu")


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({"query": "why ask: ", "document": "of cats: "}, None),
        ({"query": "why ask: ", "document": "of cats: "}, "query"),
        ({"query": "why ask: ", "passage": "of cats: "}, None),
        ({"query": "why ask: "}, None),
    ],
)
def test_each_side_has_the_prompt_that_encode_query_and_encode_document_use(
    tower, sentences, tmp_path, prompts, default
):
    model = SentenceTransformer(modules=list(tower), device="cpu", prompts=prompts, default_prompt_name=default)
    model.save_pretrained(str(tmp_path / "m"), create_model_card=False)
    peer = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    twin = Twin.from_pretrained(tmp_path / "m", device="cpu")
    expected = unit(peer.encode_query(sentences, batch_size=1)), unit(peer.encode_document(sentences, batch_size=1))
    for side, vectors in zip(("left", "right"), expected, strict=True):
        assert least_cosine(twin.encode(sentences, side=side, precision="fp32"), vectors) > 0.999999
    again = Twin.from_pretrained(twin.save_pretrained(tmp_path / "saved"), device="cpu")
    assert np.array_equal(again.encode(sentences, side="right"), twin.encode(sentences, side="right"))
    with pytest.warns(UserWarning, match="differently"):
        one = Twin.from_pretrained(tmp_path / "m", device="cpu", sides=False)
    assert least_cosine(one.encode(sentences, precision="fp32"), unit(peer.encode(sentences, batch_size=1))) > 0.999999


@pytest.mark.parametrize(
    ("prompts", "default"), [({"query": "", "document": ""}, None), ({"sts": "alike: ", "query": "why: "}, "sts")]
)
def test_prompts_that_set_nothing_apart_make_one_tower(tower, sentences, tmp_path, prompts, default):
    model = SentenceTransformer(modules=list(tower), device="cpu", prompts=prompts, default_prompt_name=default)
    model.save_pretrained(str(tmp_path / "m"), create_model_card=False)
    twin = Twin.from_pretrained(tmp_path / "m", device="cpu")
    assert twin.right is None
    assert least_cosine(twin.encode(sentences, precision="fp32"), model.encode(sentences, batch_size=1)) > 0.999999


# --- similarity -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measure", "distance"), [("euclidean", "euclidean"), ("manhattan", "manhattan"), ("dot", "cosine")]
)
def test_the_similarity_that_a_model_asks_for_is_followed(tower, pairs, sentences, tmp_path, measure, distance):
    model = SentenceTransformer(modules=list(tower), device="cpu", similarity_fn_name=measure)
    model.save_pretrained(str(tmp_path / "m"), create_model_card=False)
    twin = Twin.from_pretrained(tmp_path / "m", device="cpu")
    assert twin.distance.name == distance
    vectors = model.encode(sentences[:10], convert_to_tensor=True)
    expected = model.similarity_pairwise(vectors[:5], vectors[5:]).numpy()
    assert np.allclose(twin.similarity(sentences[:5], sentences[5:10], precision="fp32"), expected, atol=1e-5)
    built = build_twin(ModelConfig(left=str(tmp_path / "m")), pairs, device="cpu")
    assert built.distance.name == distance
    again = Twin.from_pretrained(built.save_pretrained(tmp_path / "saved"))
    assert SentenceTransformer(str(tmp_path / "saved"), device="cpu").similarity_fn_name == measure
    assert again.distance.name == distance


def test_a_similarity_of_vectors_of_any_length_is_said_to_differ(tower, tmp_path, textsiam):
    model = SentenceTransformer(modules=list(tower)[:2], device="cpu", similarity_fn_name="dot")
    model.save_pretrained(str(tmp_path / "m"), create_model_card=False)
    with pytest.warns(UserWarning, match="'dot' between vectors of any length"):
        Twin.from_pretrained(tmp_path / "m", device="cpu")
    said = textsiam("score", tmp_path / "m", "one text", "another text")
    assert said.status == 0
    assert "warning: " in said.err
    assert "'dot' between vectors of any length" in said.err


# --- other modules --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["static", "words", "dense", "bow"])
def test_towers_without_a_transformer_encode(kind, sentences, tmp_path):
    modules = {
        "static": lambda: [static(sentences)],
        "words": lambda: [words(sentences), Pooling(24)],
        "dense": lambda: [words(sentences, update=False), Pooling(24), Dense(24, 8)],
        "bow": lambda: [BoW(vocab=["cat", "cats", "the", "a", "is", "my"])],
    }[kind]()
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / "m"), create_model_card=False)
    peer = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    twin = Twin.from_pretrained(tmp_path / "m", device="cpu")
    expected = peer.encode(sentences, normalize_embeddings=True)
    assert np.allclose(twin.encode(sentences), expected, atol=1e-6)
    assert np.allclose(twin.encode([*sentences, ""])[:-1], expected, atol=1e-6)
    assert token_limit(twin.left) is None or kind in ("words", "dense")


@pytest.mark.parametrize("kind", ["static", "words", "dense"])
def test_towers_without_a_transformer_train(kind, sentences, pairs, tmp_path):
    modules = {
        "static": lambda: [static(sentences)],
        "words": lambda: [words(sentences), Pooling(24)],
        "dense": lambda: [words(sentences, update=False), Pooling(24), Dense(24, 8)],
    }[kind]()
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / "m"), create_model_card=False)
    before = Twin.from_pretrained(tmp_path / "m", device="cpu").encode(sentences)
    twin, again = trained(tmp_path / "m", pairs, tmp_path)
    assert np.array_equal(twin.encode(sentences), again.encode(sentences))
    assert least_cosine(twin.encode(sentences), before) < 0.999


def test_what_has_no_weights_to_train_is_refused_in_one_line(pairs, tmp_path):
    model = SentenceTransformer(modules=[BoW(vocab=["cat", "the", "a", "is", "my"])], device="cpu")
    model.save_pretrained(str(tmp_path / "m"), create_model_card=False)
    with pytest.raises(ModelError, match="no weights that training could change"):
        trained(tmp_path / "m", pairs, tmp_path)


@pytest.mark.parametrize(
    ("knob", "expected"), [({"pooling": "cls"}, "StaticEmbedding is no"), ({"max_tokens": 9}, "has no limit")]
)
def test_what_does_not_fit_a_static_embedding_is_said(knob, expected, sentences, pairs, tmp_path):
    SentenceTransformer(modules=[static(sentences)], device="cpu").save_pretrained(str(tmp_path / "m"))
    with pytest.raises(ModelError, match=expected):
        build_twin(ModelConfig(left=str(tmp_path / "m"), **knob), pairs, device="cpu")


def test_weights_in_half_precision_are_opened_in_full(tower, sentences, pairs, tmp_path):
    half = SentenceTransformer(modules=[*list(tower)[:2], Dense(32, 8)], device="cpu")
    half = copy.deepcopy(half).bfloat16()
    half.save_pretrained(str(tmp_path / "m"), create_model_card=False)
    twin, again = trained(tmp_path / "m", pairs, tmp_path)
    assert {p.dtype for p in twin.parameters()} == {torch.float32}
    assert np.array_equal(twin.encode(sentences), again.encode(sentences))


# --- how long a text may be -----------------------------------------------------------------------


def test_the_limit_of_the_model_is_the_default_and_never_exceeded(tower, pairs, tmp_path):
    short = copy.deepcopy(tower)
    short.max_seq_length = 12
    short.save_pretrained(str(tmp_path / "m"), create_model_card=False)
    assert build_twin(ModelConfig(left=str(tmp_path / "m")), pairs, device="cpu").left.max_seq_length == 12
    assert build_twin(ModelConfig(left=str(tmp_path / "m"), max_tokens=9), pairs, device="cpu").left.max_seq_length == 9
    with pytest.raises(ModelError, match="max_tokens is 24, but the model cuts its texts after 12"):
        build_twin(ModelConfig(left=str(tmp_path / "m"), max_tokens=24), pairs, device="cpu")
