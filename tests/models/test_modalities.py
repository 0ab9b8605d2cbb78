"""Folders of transformers that see or hear: opened, encoded like transformers' own model, saved, and trained a step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from textsiam.images import pair_images
from textsiam.inference.encoders import ModelError, open_tower
from textsiam.inference.inputs import inputs_of
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


def test_a_model_without_its_processor_is_refused_in_one_line(tmp_path):
    hf.ViTModel(hf.ViTConfig(**PATCHES, **SMALL)).save_pretrained(tmp_path / "vit")
    with pytest.raises(ModelError) as caught:
        inputs_of(open_tower(tmp_path / "vit", device="cpu"))
    assert "\n" not in str(caught.value)
