from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import DistilBertConfig, DistilBertModel, ModernBertConfig, ModernBertModel

from textsiam.inference.cache import weights_fingerprint
from textsiam.inference.encoders import ModelError
from textsiam.inference.scratch import scratch_text_encoder
from textsiam.inference.tokens import default_prompt, tokenise
from textsiam.models.asymmetric import set_prompt, share, shared_layers, sides, tie
from textsiam.models.twin import Twin


def parameters(twin: Twin) -> int:
    return sum(p.numel() for p in twin.parameters())


@pytest.fixture
def other(sentences) -> SentenceTransformer:
    """A tower with other weights, of the same architecture and tokenizer as `fresh_tower`."""
    return scratch_text_encoder(sentences, vocabulary=400, hidden=32, max_tokens=32, seed=7, device="cpu").eval()


# --- prompts --------------------------------------------------------------------------------------


def test_a_prompt_stands_before_every_text_everywhere(fresh_tower, tmp_path, sentences):
    plain = copy.deepcopy(fresh_tower)
    expected = plain.encode([f"sky: {text}" for text in sentences])
    set_prompt(fresh_tower, "sky: ")
    twin = Twin(fresh_tower)
    np.testing.assert_allclose(twin.encode(sentences, precision="fp32"), expected, atol=1e-5)
    tokens, spelled = tokenise(fresh_tower, sentences), tokenise(plain, [f"sky: {text}" for text in sentences])
    np.testing.assert_array_equal(tokens.ids, spelled.ids)  # what training reads
    twin.save_pretrained(tmp_path / "twin")
    again = SentenceTransformer(str(tmp_path / "twin"), device="cpu")
    for encode in (again.encode, again.encode_query, again.encode_document):
        np.testing.assert_allclose(encode(sentences), expected, atol=1e-6)
    assert default_prompt(Twin.from_pretrained(tmp_path / "twin", device="cpu").left) == "sky: "


def test_an_empty_prompt_takes_the_prompt_away(fresh_tower, sentences):
    expected = fresh_tower.encode(sentences)
    set_prompt(fresh_tower, "sky: ")
    set_prompt(fresh_tower, "")
    np.testing.assert_array_equal(fresh_tower.encode(sentences), expected)


def test_a_tower_may_pool_without_its_prompt(fresh_tower, sentences):
    fresh_tower[1].include_prompt = False
    set_prompt(fresh_tower, "sky: ")
    expected = fresh_tower.encode(sentences, batch_size=1)
    assert np.allclose(Twin(fresh_tower).encode(sentences), expected, atol=1e-5)


def test_a_right_prompt_alone_makes_an_asymmetric_twin_that_shares_all_weights(fresh_tower, tmp_path, sentences):
    single = Twin(copy.deepcopy(fresh_tower))
    twin = Twin(*sides(fresh_tower, left_prompt="ask ", right_prompt="answer "))
    assert twin.right is not None
    assert shared_layers(twin.left, twin.right) == "all"
    assert parameters(twin) == parameters(single)
    for side, prompt in (("left", "ask "), ("right", "answer ")):
        expected = single.encode([prompt + text for text in sentences], precision="fp32")
        np.testing.assert_allclose(twin.encode(sentences, side=side, precision="fp32"), expected, atol=1e-5)
    assert weights_fingerprint(twin.left, "fp32") != weights_fingerprint(twin.right, "fp32")
    twin.save_pretrained(tmp_path / "twin")
    again = Twin.from_pretrained(tmp_path / "twin", device="cpu")
    assert again.right is not None
    assert parameters(again) == parameters(single)
    for side in ("left", "right"):
        expected = twin.encode(sentences, side=side, precision="fp32")
        np.testing.assert_array_equal(again.encode(sentences, side=side, precision="fp32"), expected)
        plain = SentenceTransformer(str(tmp_path / "twin" / side), device="cpu")
        np.testing.assert_allclose(plain.encode(sentences), expected, atol=1e-5)


@pytest.mark.parametrize("knobs", [{}, {"left_prompt": "x "}, {"left_prompt": "x ", "right_prompt": "x "},
                                   {"shared_layers": "all"}])  # fmt: skip
def test_sides_that_do_not_differ_are_one_tower(fresh_tower, knobs):
    assert sides(fresh_tower, **knobs) == (fresh_tower, None)
    assert default_prompt(fresh_tower) == knobs.get("left_prompt", "")


# --- shared layers --------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_shared_layers_are_the_same_modules(fresh_tower, layers):
    twin = Twin(*sides(fresh_tower, shared_layers=layers))
    assert twin.right is not None
    left, right = twin.left[0].model, twin.right[0].model
    assert left.embeddings is right.embeddings
    assert [a is b for a, b in zip(left.encoder.layer, right.encoder.layer, strict=True)] == [
        i < layers for i in (0, 1)
    ]
    assert shared_layers(twin.left, twin.right) == layers
    above = sum(p.numel() for p in (*left.encoder.layer[layers:].parameters(), *left.pooler.parameters()))
    assert parameters(twin) == parameters(Twin(twin.left)) + above
    twin_again = copy.deepcopy(twin)
    assert shared_layers(twin_again.left, twin_again.right) == layers  # what is served in training


def test_another_tower_gets_the_lower_layers_of_the_left_one(fresh_tower, other, sentences):
    left, right = sides(fresh_tower, other, shared_layers=1, right_prompt="answer ")
    assert right is other
    assert shared_layers(left, right) == 1
    assert default_prompt(left) == ""
    assert np.abs(left.encode(sentences) - right.encode(sentences)).max() > 0.01


def test_shared_layers_survive_saving(fresh_tower, tmp_path, sentences):
    twin = Twin(*sides(fresh_tower, right_prompt="answer ", shared_layers=1))
    with torch.no_grad():
        twin.right[0].model.encoder.layer[1].output.dense.weight.add_(0.1)
    twin.save_pretrained(tmp_path / "twin")
    assert json.loads((tmp_path / "twin" / "textsiam.json").read_text())["shared_layers"] == 1
    again = Twin.from_pretrained(tmp_path / "twin", device="cpu")
    assert shared_layers(again.left, again.right) == 1
    assert parameters(again) == parameters(twin)
    for side in ("left", "right"):
        expected = twin.encode(sentences, side=side, precision="fp32")
        np.testing.assert_array_equal(again.encode(sentences, side=side, precision="fp32"), expected)
        plain = SentenceTransformer(str(tmp_path / "twin" / side), device="cpu")
        np.testing.assert_allclose(plain.encode(sentences), expected, atol=1e-5)


@pytest.mark.parametrize("layers", [1, "all"])
def test_a_tower_that_was_changed_without_the_other_is_refused(fresh_tower, tmp_path, layers):
    Twin(*sides(fresh_tower, right_prompt="answer ", shared_layers=layers)).save_pretrained(tmp_path / "twin")
    file = tmp_path / "twin" / "right" / "model.safetensors"
    weights = load_file(file)
    weights["encoder.layer.0.output.dense.weight"] += 1
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="one was changed without the other"):
        Twin.from_pretrained(tmp_path / "twin", device="cpu")


def test_towers_of_their_own_share_nothing(fresh_tower, other, tmp_path):
    assert shared_layers(fresh_tower, other) is None
    assert shared_layers(fresh_tower, None) is None
    Twin(fresh_tower, other).save_pretrained(tmp_path / "twin")
    again = Twin.from_pretrained(tmp_path / "twin", device="cpu")
    assert shared_layers(again.left, again.right) is None


def test_the_gradient_of_a_shared_layer_is_the_sum_over_both_sides(fresh_tower, sentences):
    twin = Twin(*sides(fresh_tower, right_prompt="answer ", shared_layers=1))
    apart = Twin(copy.deepcopy(twin.left), copy.deepcopy(twin.right))
    features = [tokenise(tower, sentences[:6]).collate(range(6)) for tower in twin.towers]
    for one in (twin, apart):
        u, v = one([features[0]], [features[1]])
        (u * v.roll(1, 0)).sum().backward()

    def gradient(tower):
        return tower[0].model.encoder.layer[0].attention.self.query.weight.grad

    torch.testing.assert_close(gradient(twin.left), gradient(apart.left) + gradient(apart.right))
    assert gradient(apart.right).abs().max() > 1e-6


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (DistilBertModel, DistilBertConfig(vocab_size=300, dim=16, n_layers=3, n_heads=2, hidden_dim=32)),
        (ModernBertModel, ModernBertConfig(vocab_size=300, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
                                           intermediate_size=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                                           cls_token_id=1, sep_token_id=2)),
    ],
)  # fmt: skip
def test_other_architectures_share_layers_too(fresh_tower, kind, config):
    fresh_tower[0].model = kind(config).eval()
    _, right = sides(fresh_tower, shared_layers=2)
    assert shared_layers(fresh_tower, right) == 2
    depth = sum(p.numel() for p in {*fresh_tower.parameters()} & {*right.parameters()})
    assert 0 < depth < sum(p.numel() for p in fresh_tower.parameters())


def test_what_cannot_be_shared_is_refused(fresh_tower, other, sentences):
    for layers in (-1, 3):
        with pytest.raises(ModelError, match=f"from 0 to 2.*got {layers}"):
            sides(fresh_tower, shared_layers=layers)
    with pytest.raises(ModelError, match="the right tower is another one"):
        sides(fresh_tower, other, shared_layers="all")
    foreign = scratch_text_encoder(sentences, vocabulary=200, hidden=32, max_tokens=32, device="cpu")
    with pytest.raises(ModelError, match="tokenizers differ"):
        share(fresh_tower, foreign, 1)
    wide = scratch_text_encoder(sentences, vocabulary=400, hidden=64, max_tokens=32, device="cpu")
    with pytest.raises(ModelError, match="other kinds or sizes"):
        share(fresh_tower, wide, 1)
    fresh_tower[0].model = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match="cannot tell the lower layers of Linear"):
        sides(fresh_tower, shared_layers=1)


def test_tying_equal_towers_changes_no_vector(fresh_tower, sentences):
    right = copy.deepcopy(fresh_tower)
    expected = right.encode(sentences)
    assert tie(fresh_tower, right, 2) is right
    np.testing.assert_array_equal(right.encode(sentences), expected)
    assert shared_layers(fresh_tower, right) == 2
