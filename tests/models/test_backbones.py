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
import transformers
from safetensors.torch import load_file, save_file
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


# Those that sentence-transformers opens as an encoder, which does not find its weights beside those of a decoder.
HALVES: dict[str, dict[str, Any]] = {
    **alike("blenderbot blenderbot-small m2m_100 marian pegasus pegasus_x", _BART),
    "prophetnet": {"hidden_size": 32, "encoder_ffn_dim": 48, "num_encoder_layers": 1, "num_encoder_attention_heads": 2,
                   "decoder_ffn_dim": 48, "num_decoder_layers": 1, "num_decoder_attention_heads": 2,
                   "max_position_embeddings": 40},
}  # fmt: skip


def save_backbone(kind: str, folder: Path, texts: list[str], task: str = "AutoModel") -> Path:
    """Save a backbone with its tokenizer as transformers does; decoders pad on the left, as their users have them."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.processors import TemplateProcessing
    from tokenizers.trainers import BpeTrainer
    from transformers import AutoConfig, PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokens = Tokenizer(BPE(unk_token="<unk>"))
    tokens.pre_tokenizer = ByteLevel()
    tokens.train_from_iterator(texts, BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False))
    inputs = ["input_ids", "attention_mask"]
    if kind not in DECODERS or kind == "xlnet":
        template = {"xlnet": "$A </s> <s>:2"}.get(kind, "<s> $A </s>")
        tokens.post_processor = TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 2)])
        inputs += ["token_type_ids"] if kind in ("bert", "xlnet") else []
    names = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>",
             "unk_token": "<unk>", "mask_token": "<mask>"}  # fmt: skip
    side = "left" if kind in DECODERS else "right"
    made = PreTrainedTokenizerFast(tokenizer_object=tokens, padding_side=side, model_input_names=inputs, **names)
    made.save_pretrained(folder)
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    config = AutoConfig.for_model(kind, **{"vocab_size": VOCABULARY, **ids, **(BACKBONES | HALVES)[kind]})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, task).from_config(config)
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.requires_grad:  # as large as trained ones, so that vectors differ
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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", HALVES)
def test_an_encoder_is_taken_out_of_the_whole_model_it_was_saved_with(kind, sentences, tmp_path):
    """The peer gives it random weights, without a word."""
    saved = save_backbone(kind, tmp_path / "saved", sentences, "AutoModelForSeq2SeqLM")
    whole = transformers.AutoModelForSeq2SeqLM.from_pretrained(saved).eval()
    twin = Twin.from_pretrained(saved, device="cpu")
    expected = []
    for text in sentences:
        ids = twin.left.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            expected.append(whole.get_encoder()(**ids)[0].mean(1)[0].numpy())
    expected = np.stack(expected) / np.linalg.norm(expected, axis=1, keepdims=True)
    vectors = twin.encode(sentences, precision="fp32")
    assert (vectors * expected).sum(1).min() > 0.999999
    again = SentenceTransformer(twin.save_pretrained(tmp_path / "twin").as_posix(), device="cpu")
    assert (again.encode(sentences, normalize_embeddings=True) * expected).sum(1).min() > 0.999999


def without(folder: Path, *parts: str) -> int:
    """Take weights out of a checkpoint; returns how many."""
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not any(part in name for part in parts)}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return len(weights) - len(kept)


@pytest.mark.parametrize(
    ("kind", "parts", "expected"),
    [
        ("bert", ["layer.1.output"], r"lacks 4 weights that BertModel reads, such as encoder\.layer\.1\.output"),
        ("bert", ["word_embeddings"], r"lacks 1 weights that BertModel reads, such as embeddings\.word_embeddings\."),
        ("gpt2", ["h.1.attn"], r"lacks 4 weights that GPT2Model reads, such as h\.1\.attn\.c_attn\.weight"),
        ("t5", ["encoder.block.1"], r"lacks \d weights that T5EncoderModel reads, such as encoder\.block\.1\."),
        ("marian", ["encoder.layers.0.fc1"], r"lacks 2 weights that MarianEncoder reads, such as layers\.0\.fc1\."),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_weights_that_lack_are_refused_in_one_line(kind, parts, expected, sentences, tmp_path):
    save_backbone(kind, tmp_path, sentences)
    assert without(tmp_path, *parts)
    with pytest.raises(ModelError, match=expected) as raised:
        open_tower(tmp_path, device="cpu")
    assert str(raised.value).startswith(f"cannot open the model '{tmp_path}': its checkpoint ")
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore")
def test_what_nothing_reads_may_lack(sentences, tmp_path):
    """A pooler, and the decoder of an encoder."""
    save_backbone("bert", tmp_path / "bert", sentences, "AutoModelForMaskedLM")
    save_backbone("t5", tmp_path / "t5", sentences)
    save_backbone("marian", tmp_path / "marian", sentences)
    assert not [name for name in load_file(tmp_path / "bert" / "model.safetensors") if "pooler" in name]
    assert without(tmp_path / "t5", "decoder.") > 0
    assert without(tmp_path / "marian", "decoder.") > 0
    for kind in ("bert", "t5", "marian"):
        assert open_tower(tmp_path / kind, device="cpu").encode(sentences[:2]).shape == (2, 32)


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_wants_a_decoders_input_is_refused_in_one_line(sentences, tmp_path, monkeypatch):
    monkeypatch.setitem(HALVES, "nllb-moe", {**_BART, "num_experts": 2})
    save_backbone("nllb-moe", tmp_path, sentences)
    with pytest.raises(ModelError, match=r"'[^']+': NllbMoeModel gives no vectors of one input alone: [^\n]+$"):
        open_tower(tmp_path, device="cpu")
