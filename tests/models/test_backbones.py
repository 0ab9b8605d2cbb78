"""Text backbones of every family, tiny and with random weights, against sentence-transformers at a batch of one.

A seeded tenth of them is tried, and those that went wrong before; `make test-hostile` (TEXTSIAM_HOSTILE=all) tries all.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from textsiam.config.model import ModelConfig, build_twin
from textsiam.config.run import build_objective, read_config
from textsiam.inference.encoders import ModelError, open_tower, text_encoder
from textsiam.inference.tokens import token_limit
from textsiam.models.twin import Twin
from textsiam.training.loop import train
from textsiam.training.settings import Settings

VOCABULARY = 320
_BERT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 40,
}  # fmt: skip
_ROBERTA = {**_BERT, "max_position_embeddings": 42}  # two of them are for what stands before the first position
_DECODER = {**_BERT, "num_key_value_heads": 1, "head_dim": 16}
_SEQ2SEQ = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
}  # fmt: skip
_BART = {**_SEQ2SEQ, "max_position_embeddings": 40}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40}
_T5 = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "num_decoder_layers": 1}
_XLM = {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 40}
_SMALL = {"hidden_size": 32, "num_hidden_layers": 2}
_BOTH_WAYS = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
_GROUPS = {f"{part}_groups": 1 for part in ("q", "k", "v", "post_attention", "intermediate", "output")}


def alike(names: str, sizes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict.fromkeys(names.split(), sizes)


ENCODERS: dict[str, dict[str, Any]] = {
    **alike("bert ernie fnet layoutlm megatron-bert modernbert mra nomic_bert roformer splinter yoso", _BERT),
    **alike("camembert data2vec-text ibert jina_embeddings_v3 mpnet roberta roberta-prelayernorm", _ROBERTA),
    **alike("xlm-roberta xlm-roberta-xl", _ROBERTA),
    **alike("bart mbart mvp", _BART),
    **alike("mt5 t5 umt5", _T5),
    **alike("flaubert xlm", _XLM),
    **alike("albert electra", {**_BERT, "embedding_size": 16}),
    **alike("deberta deberta-v2", {**_BERT, **_BOTH_WAYS}),
    "big_bird": {**_BERT, "attention_type": "original_full"},
    "convbert": {**_BERT, "embedding_size": 32, "num_attention_heads": 4},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 40},
    "esm": {**_ROBERTA, "position_embedding_type": "absolute"},
    "eurobert": _DECODER,
    "funnel": {"architectures": ["FunnelModel"], "d_model": 32, "block_sizes": [1, 1], "block_repeats": [1, 1],
               "n_head": 2, "d_head": 16, "d_inner": 48, "num_decoder_layers": 1},
    "led": {**_SEQ2SEQ, "attention_window": 8, "max_encoder_position_embeddings": 40,
            "max_decoder_position_embeddings": 40},
    "longformer": {**_ROBERTA, "attention_window": [8, 8]},
    "luke": {**_ROBERTA, "entity_vocab_size": 8, "entity_emb_size": 8},
    "mobilebert": {**_BERT, "embedding_size": 32, "true_hidden_size": 32, "intra_bottleneck_size": 32},
    "nystromformer": {**_BERT, "segment_means_seq_len": 64, "num_landmarks": 64},
    "rembert": {**_BERT, "input_embedding_size": 16},
    "squeezebert": {**_BERT, "embedding_size": 32, **_GROUPS},
    "switch_transformers": {**_T5, "num_experts": 2},
    "xmod": {**_ROBERTA, "languages": ["en_XX"], "default_language": "en_XX"},
}  # fmt: skip
DECODERS: dict[str, dict[str, Any]] = {
    **alike("biogpt gpt_neox modernbert-decoder phi", _BERT),
    **alike("cohere gemma gemma2 gemma3_text granite llama mistral olmo phi3 qwen2 qwen3", _DECODER),
    **alike("smollm3 stablelm starcoder2", _DECODER),
    **alike("gpt2 gpt_bigcode openai-gpt", _GPT),
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    "codegen": {**_GPT, "rotary_dim": 8, "n_head": 4},
    "ctrl": {**_GPT, "dff": 48},
    "falcon": {**_SMALL, "num_attention_heads": 2},
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]],
                "max_position_embeddings": 40},
    "gptj": {**_GPT, "rotary_dim": 8},
    "mamba": {**_SMALL, "state_size": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 40},
    "opt": {**_SMALL, "num_attention_heads": 2, "ffn_dim": 48, "word_embed_proj_dim": 32,
            "max_position_embeddings": 40},
    "rwkv": _SMALL,
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48},
}  # fmt: skip
BACKBONES = {**ENCODERS, **DECODERS}
FAULTY_BEFORE = {"convbert", "gpt2", "granite", "roberta", "xlnet"}
CHOSEN = {*FAULTY_BEFORE, *random.Random(22).sample(sorted(BACKBONES), len(BACKBONES) // 10)}


def save_backbone(kind: str, folder: Path, texts: list[str]) -> Path:
    """Save a backbone with its tokenizer as transformers does; decoders pad on the left, as their users have them."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.processors import TemplateProcessing
    from tokenizers.trainers import BpeTrainer
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokens = Tokenizer(BPE(unk_token="<unk>"))
    tokens.pre_tokenizer = ByteLevel()
    tokens.train_from_iterator(texts, BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False))
    inputs = ["input_ids", "attention_mask"]
    if kind in ENCODERS or kind == "xlnet":
        template = {"xlnet": "$A </s> <s>:2"}.get(kind, "<s> $A </s>")
        tokens.post_processor = TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 2)])
        inputs += ["token_type_ids"] if kind in ("bert", "xlnet") else []
    names = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>",
             "unk_token": "<unk>", "mask_token": "<mask>"}  # fmt: skip
    side = "left" if kind in DECODERS else "right"
    made = PreTrainedTokenizerFast(tokenizer_object=tokens, padding_side=side, model_input_names=inputs, **names)
    made.save_pretrained(folder)
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    config = AutoConfig.for_model(kind, **{"vocab_size": VOCABULARY, **ids, **BACKBONES[kind]})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:  # as large as trained ones, so that vectors differ
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(BACKBONES))
def test_a_backbone_gives_the_vectors_of_sentence_transformers_and_trains(kind, sentences, pairs, tmp_path):
    if os.environ.get("TEXTSIAM_HOSTILE") != "all" and kind not in CHOSEN:
        pytest.skip("one of those that only TEXTSIAM_HOSTILE=all tries")
    save_backbone(kind, tmp_path / "saved", sentences)
    texts = [*sentences, "a", " ".join(sentences[:2])]
    peer = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    expected = peer.encode(texts, batch_size=1, normalize_embeddings=True)
    assert (expected @ expected.T).mean() < 0.995  # else everything would be alike
    twin = Twin.from_pretrained(tmp_path / "saved", device="cpu")
    for precision, least in (("fp32", 0.999999), ("auto", 0.9999)):
        assert (twin.encode(texts, precision=precision) * expected).sum(1).min() >= least, precision
    built = build_twin(ModelConfig(left=str(tmp_path / "saved")), pairs, device="cpu")
    settings = Settings(max_steps=10, batch_size=8, learning_rate=1e-3, precision="fp32", tracker="none")
    objective = build_objective(read_config(["--loss.contrastive.margin=0.5"]).loss)
    train(built, pairs, objective, output=tmp_path / "run", settings=settings, quiet=True)
    vectors = built.encode(texts)
    assert (vectors * expected).sum(1).min() < 0.99999
    again = Twin.from_pretrained(built.save_pretrained(tmp_path / "trained"), device="cpu")
    assert np.array_equal(again.encode(texts), vectors)


def test_a_tenth_is_tried():
    assert len(BACKBONES) >= 42
    assert len(CHOSEN) >= len(BACKBONES) // 10


@pytest.mark.parametrize(
    ("kind", "positions"), [("roberta", 40), ("mpnet", 40), ("bert", 40), ("gpt2", 40), ("t5", None)]
)
def test_texts_are_cut_where_the_positions_end(kind, positions, sentences, tmp_path):
    save_backbone(kind, tmp_path, sentences)
    tower = open_tower(tmp_path, device="cpu")
    assert token_limit(tower) == positions
    vectors = Twin(tower).encode(["word " * 300, " ".join(sentences)], precision="fp32")
    assert np.isfinite(vectors).all()
    if positions:
        with pytest.raises(ModelError, match=f"has {positions} positions"):
            text_encoder(tmp_path, max_tokens=positions + 1, device="cpu")


def test_a_chat_template_is_applied_as_it_is_there(sentences, tmp_path):
    save_backbone("qwen2", tmp_path, sentences)
    peer = SentenceTransformer(str(tmp_path), device="cpu")
    peer.tokenizer.chat_template = "{% for m in messages %}why: {{ m['content'] }} cat{% endfor %}"
    peer.tokenizer.save_pretrained(tmp_path)
    peer = SentenceTransformer(str(tmp_path), device="cpu")
    twin = Twin.from_pretrained(tmp_path, device="cpu")
    expected = peer.encode(sentences, batch_size=1, normalize_embeddings=True)
    assert (twin.encode(sentences, precision="fp32") * expected).sum(1).min() > 0.999999
