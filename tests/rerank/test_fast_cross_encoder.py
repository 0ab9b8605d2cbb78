"""The fast path of a cross-encoder says what the cross-encoder does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import RobertaConfig, RobertaForSequenceClassification

from textsiam.inference.encoders import MINILM
from textsiam.rerank.cross_encoder import Reranker, cross_encoder
from textsiam.rerank.fast_cross_encoder import FastCrossEncoder

PAIRS = [
    ("why is the sky blue", "why is the sea green"),
    ("why", "how do I learn to play the piano by myself"),
    ("word " * 200, "short"),
    ("short", "other " * 200),
    ("left " * 90, "right " * 80),
    ("", "naïve 中文 🙂"),
    ("", ""),
]


@pytest.fixture(scope="module")
def model() -> CrossEncoder:
    """A cross-encoder whose logits are spread out, and which tells the two texts of a pair apart."""
    made = cross_encoder(MINILM, max_tokens=64, device="cpu").eval()
    with torch.no_grad():
        made[0].model.classifier.weight.mul_(50)  # pyright: ignore
        made[0].model.bert.embeddings.token_type_embeddings.weight[1].add_(0.05)  # pyright: ignore
    return made


def predicted(model: CrossEncoder, pairs: list[tuple[str, str]]) -> np.ndarray:
    return model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False).reshape(-1, 1)


def test_logits_are_those_of_the_cross_encoder(model):
    expected = predicted(model, PAIRS)
    assert expected.std() > 0.1
    turned = [(other, one) for one, other in PAIRS]
    fast = FastCrossEncoder(model, torch.float32)
    assert FastCrossEncoder.readable(model)
    assert fast.dim == 1
    np.testing.assert_allclose(fast.logits(PAIRS), expected, rtol=0, atol=2e-5)
    np.testing.assert_allclose(fast.logits(turned), predicted(model, turned), rtol=0, atol=2e-5)
    assert np.abs(fast.logits(turned) - expected).max() > 0.01
    assert fast.logits([]).shape == (0, 1)


def test_a_logit_hardly_depends_on_its_batch(model):
    fast = FastCrossEncoder(model, torch.float32)
    alone = np.concatenate([fast.logits([pair]) for pair in PAIRS])
    np.testing.assert_allclose(fast.logits(PAIRS * 20).reshape(20, -1), np.tile(alone.T, (20, 1)), rtol=0, atol=2e-5)


def test_bf16_differs_by_rounding_only(model):
    exact, rounded = (FastCrossEncoder(model, dtype).logits(PAIRS) for dtype in (torch.float32, torch.bfloat16))
    assert 0 < np.abs(exact - rounded).max() < 0.05


def test_a_reranker_sees_new_weights(model, sentences):
    reranker = Reranker(model)
    left, right = np.arange(3), np.arange(3, 6)
    before = reranker.logits(sentences, left, right, precision="fp32")
    bias = model[0].model.classifier.bias  # pyright: ignore
    with torch.no_grad():
        bias.add_(1)  # pyright: ignore
    after = reranker.logits(sentences, left, right, precision="fp32")
    with torch.no_grad():
        bias.sub_(1)  # pyright: ignore
    np.testing.assert_allclose(after, before + 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["activation", "prompt", "roberta"])
def test_others_are_asked_by_their_own_means(kind, tower, tmp_path, sentences):
    if kind == "roberta":
        size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        config = RobertaConfig(vocab_size=len(tower.tokenizer), max_position_embeddings=66, num_labels=1, **size)
        RobertaForSequenceClassification(config).save_pretrained(tmp_path)
        tower.tokenizer.save_pretrained(tmp_path)
        other = CrossEncoder(str(tmp_path), device="cpu", max_length=32)
    else:
        tower.save_pretrained(str(tmp_path), create_model_card=False)
        other = cross_encoder(tmp_path, device="cpu")
    if kind == "activation":
        other[0].model.config.hidden_act = "relu"  # pyright: ignore
    if kind == "prompt":
        other.prompts, other.default_prompt_name = {"ask": "please "}, "ask"
    assert not FastCrossEncoder.readable(other)
    found = Reranker(other, symmetric=False).logits(sentences, np.arange(4), np.arange(4, 8), precision="fp32")
    pairs = list(zip(sentences[:4], sentences[4:8], strict=True))
    np.testing.assert_allclose(found, predicted(other, pairs)[:, 0], rtol=0, atol=1e-6)
