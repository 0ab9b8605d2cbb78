"""Folders of transformers that see or hear: opened, encoded like transformers' own model, saved, and trained a step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from textsiam.images import pair_images
from textsiam.inference.encoders import ModelError, open_tower
from textsiam.models.twin import Twin
from textsiam.sounds import pair_sounds
from textsiam.training.loop import train
from textsiam.training.losses import LOSSES
from textsiam.training.losses.objective import Objective
from textsiam.training.settings import Settings

pytest.importorskip("soundfile", reason="needs textsiam[audio]")
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")

RATE = 16_000
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
CONV = {"conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}  # fmt: skip
PATCHES = {"image_size": 32, "patch_size": 8}
WHISPER = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "vocab_size": 100,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1, "max_target_positions": 16,
}  # fmt: skip
KINDS = {
    "ViT": lambda: (hf.ViTModel(hf.ViTConfig(**PATCHES, **SMALL)), seeing()),
    "DINOv2": lambda: (hf.Dinov2Model(hf.Dinov2Config(**PATCHES, mlp_ratio=2, **{
        k: v for k, v in SMALL.items() if k != "intermediate_size"})), seeing()),
    "SigLIP": lambda: (hf.SiglipVisionModel(hf.SiglipVisionConfig(**PATCHES, **SMALL)),
                       seeing(hf.SiglipImageProcessor)),
    "ConvNeXt": lambda: (hf.ConvNextModel(hf.ConvNextConfig(num_stages=2, hidden_sizes=[16, 32], depths=[1, 1])),
                         seeing()),
    "wav2vec 2.0": lambda: (hf.Wav2Vec2Model(hf.Wav2Vec2Config(**SMALL, **CONV)), hearing(False)),
    "wav2vec 2.0, masked": lambda: (
        hf.Wav2Vec2Model(hf.Wav2Vec2Config(**SMALL, **CONV, feat_extract_norm="layer")), hearing(True)),
    "HuBERT": lambda: (hf.HubertModel(hf.HubertConfig(**SMALL, **CONV)), hearing(False)),
    "WavLM": lambda: (hf.WavLMModel(hf.WavLMConfig(**SMALL, **CONV)), hearing(True)),
    "Whisper": lambda: (hf.WhisperModel(hf.WhisperConfig(**WHISPER)), hf.WhisperFeatureExtractor(feature_size=80)),
}  # fmt: skip


def seeing(kind=hf.ViTImageProcessor):
    return kind(size={"height": 32, "width": 32})


def hearing(masked):
    return hf.Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=RATE, padding_value=0.0, do_normalize=True, return_attention_mask=masked
    )


def inputs(kind):
    rng = np.random.default_rng(0)
    if list(KINDS).index(kind) < 4:
        return [Image.fromarray(rng.integers(0, 255, (40, 36, 3), dtype=np.uint8)) for _ in range(4)]
    lengths = (4000, 8000, 6000, 4000)
    return [{"array": rng.normal(0, 0.1, n).astype(np.float32), "sampling_rate": RATE} for n in lengths]


@pytest.fixture(scope="module", params=list(KINDS))
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "folder"
    torch.manual_seed(0)
    model, processor = KINDS[request.param]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return request.param, folder, model.eval(), processor


def pooled(model, processor, value):
    """Return what transformers' own model gives for one input, the mean of its positions, at length 1."""
    if isinstance(value, dict):
        features = processor(value["array"], sampling_rate=RATE, return_tensors="pt")
    else:
        features = processor(value, return_tensors="pt")
    model = model.encoder if isinstance(model, hf.WhisperModel) else model
    with torch.inference_mode():
        state = model(**features).last_hidden_state
    vector = (state.flatten(2).mean(2) if state.dim() == 4 else state.mean(1))[0]
    return (vector / vector.norm()).numpy()


def test_it_encodes_as_transformers_does_whatever_stands_beside_it(saved, tmp_path):
    kind, folder, model, processor = saved
    twin, values = Twin.from_pretrained(folder, device="cpu"), inputs(kind)
    vectors = twin.encode(values, precision="fp32")
    expected = np.stack([pooled(model, processor, value) for value in values])
    assert (vectors * expected).sum(1).min() >= 0.999999
    twin.save_pretrained(tmp_path / "twin")
    again = Twin.from_pretrained(tmp_path / "twin", device="cpu")
    assert np.array_equal(again.encode(values, precision="fp32"), vectors)


@pytest.mark.filterwarnings("ignore:.*the twin is collapsing")  # random weights
def test_it_learns_in_a_step(saved, tmp_path):
    kind, folder, _, _ = saved
    twin, values = Twin.from_pretrained(folder, device="cpu"), inputs(kind)
    before = twin.encode(values)
    pairs = (pair_sounds if isinstance(values[0], dict) else pair_images)(values[:3], values[1:], [1, 0, 0])
    settings = Settings(batch_size=3, max_steps=1, learning_rate=1e-2, tracker="none", precision="fp32")
    train(
        twin, pairs, Objective({"contrastive": LOSSES["contrastive"]()}), output=tmp_path, settings=settings, quiet=True
    )
    assert np.abs(twin.encode(values) - before).max() > 1e-3


REFUSED = {
    "images without a processor": lambda: (hf.ViTModel(hf.ViTConfig(**PATCHES, **SMALL)), None),
    "sounds without a processor": lambda: (hf.Wav2Vec2Model(hf.Wav2Vec2Config(**SMALL, **CONV)), None),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_opened_is_refused_in_one_line(kind, tmp_path):
    model, processor = REFUSED[kind]()
    model.save_pretrained(tmp_path / "model")
    if processor is not None:
        processor.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError) as caught:
        open_tower(tmp_path / "model", device="cpu")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Return the folder of a tiny CLIP, and one of pictures."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    base = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    texts = {**SMALL, "vocab_size": 300, "max_position_embeddings": 32, "eos_token_id": 1, "bos_token_id": 0}
    config = hf.CLIPConfig(text_config=texts, vision_config={**PATCHES, **SMALL}, projection_dim=24)
    hf.CLIPModel(config).save_pretrained(base / "clip")
    pieces = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|startoftext|>", "<|endoftext|>"]
    pieces.train_from_iterator(
        ["a photo of a cat"], trainers.BpeTrainer(vocab_size=290, special_tokens=special, initial_alphabet=alphabet)
    )
    named = {"eos_token": special[1], "bos_token": special[0], "pad_token": special[1], "unk_token": special[1]}
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=pieces, model_max_length=32, **named)
    seen = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    hf.CLIPProcessor(image_processor=seen, tokenizer=tokenizer).save_pretrained(base / "clip")
    (base / "pictures").mkdir()
    for name in ("red", "green", "blue"):
        Image.new("RGB", (40, 40), name).save(base / "pictures" / f"{name}.png")
    return base


def test_clip_has_a_side_of_texts_and_one_of_images(clip, tmp_path):
    from sentence_transformers import SentenceTransformer

    twin, plain = (
        Twin.from_pretrained(clip / "clip", device="cpu"),
        SentenceTransformer(str(clip / "clip"), device="cpu"),
    )
    texts, pictures = ["a cat", "red"], [Image.new("RGB", (40, 40), "red"), Image.new("RGB", (30, 40), "blue")]
    for side, values in (("left", texts), ("right", pictures)):
        expected = plain.encode(values, normalize_embeddings=True, batch_size=1)
        assert (twin.encode(values, side=side) * expected).sum(1).min() >= 0.999999
    twin.save_pretrained(tmp_path / "twin")
    again = Twin.from_pretrained(tmp_path / "twin", device="cpu")
    assert np.array_equal(again.similarity(texts, pictures), twin.similarity(texts, pictures))


def test_clip_matches_texts_to_images_in_the_commands(clip, tmp_path, textsiam):
    pictures, model = clip / "pictures", clip / "clip"
    twin = Twin.from_pretrained(model, device="cpu")
    expected = twin.similarity(["a red cat"], [str(pictures / "red.png")])[0]
    scored = textsiam("score", model, "a red cat", pictures / "red.png", "--json").json
    assert scored["similarity"] == pytest.approx(expected, abs=1e-5)
    (tmp_path / "q.txt").write_text("a red cat\nblue\n")
    found = textsiam("match", model, "--queries", tmp_path / "q.txt", "--documents", pictures, "--top-k", 3, "--json")
    assert found.status == 0
    assert found.out.count('"document_id": "red.png"') == 2
    assert textsiam("index", "create", model, tmp_path / "index").status == 0
    assert textsiam("index", "add", model, tmp_path / "index", pictures).status == 0
    checked = textsiam("index", "search", model, tmp_path / "index", "a red cat", "--json")
    assert checked.status == 0
    assert "red.png" in checked.out
