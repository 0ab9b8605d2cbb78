"""The tower of examples/words against openwakeword's own models, and saved, opened and trained."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import words  # noqa: E402

from textsiam import Twin  # noqa: E402


@pytest.fixture(scope="module")
def tower():
    try:
        return words.speech_encoder()
    except ModuleNotFoundError:
        pytest.skip("needs openwakeword: pip install --no-deps openwakeword==0.4.0")


def untrained():
    """Return the network with random weights: what does not depend on them is tested without the package."""
    torch.manual_seed(0)
    backbone = words.SpeechCNN().eval()
    backbone.get_buffer("filters").copy_(torch.rand(words.POINTS // 2 + 1, words.BANDS))
    return backbone


def recordings(lengths=(300, 4000, 12_345, 30_000)):
    rng = np.random.default_rng(0)
    return [{"array": (0.2 * rng.normal(size=n)).astype(np.float32), "sampling_rate": words.RATE} for n in lengths]


def theirs(name):
    """Return a model of the package as onnxruntime runs it."""
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    file = Path(words.find_spec("openwakeword").origin).parent / "resources" / "models" / name
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda given: session.run(None, {session.get_inputs()[0].name: given})[0]


def test_spectrogram_and_parts_are_those_of_the_package(tower):
    mels, embed = theirs("melspectrogram.onnx"), theirs("embedding_model.onnx")
    backbone = tower[0].eval()
    for each in recordings((words.RATE, 2 * words.RATE)):
        samples = each["array"]
        expected = mels(samples[None] * 32_767).reshape(-1, words.BANDS) / 10 + 2  # as openwakeword brings it to scale
        found = backbone.spectrogram(samples)
        assert np.allclose(found, expected, atol=1e-4)
        starts = range(0, len(expected) - words.PART + 1, words.STEP)
        parts = np.stack([expected[start : start + words.PART] for start in starts])[..., None]
        frames = torch.tensor([len(found)])
        with torch.inference_mode():
            made = backbone({"mels": found[None], "frames": frames})
        assert np.allclose(made["token_embeddings"][0], embed(parts.astype(np.float32))[:, 0, 0], atol=1e-3)


def test_what_it_is_padded_to_in_a_batch_does_not_matter():
    backbone = untrained()
    with torch.inference_mode():
        together = backbone(backbone.preprocess(recordings()))
        for row, each in enumerate(recordings()):
            alone = backbone(backbone.preprocess([each]))
            count = int(together["attention_mask"][row].sum())
            assert alone["attention_mask"].sum() == count == alone["token_embeddings"].shape[1]
            assert torch.allclose(together["token_embeddings"][row, :count], alone["token_embeddings"][0], atol=1e-4)


def test_every_frame_is_seen_at_every_place():
    click = np.zeros(1000, np.float32)
    click[500] = 1.0
    backbone = untrained()
    given = backbone.preprocess([{"array": click, "sampling_rate": words.RATE}])
    loud = (given["mels"][0].max(1).values > given["mels"].min()).nonzero().flatten()
    parts = int((given["frames"][0] - words.PART) // words.STEP + 1)
    first, last = loud.min(), loud.max()
    assert first >= words.PART - words.STEP - 4  # the first part ends with it
    assert last <= (parts - 1) * words.STEP + words.STEP + 4  # and the last one begins with it


def test_it_saves_opens_and_has_gradients(tower, tmp_path):
    twin = Twin(tower)
    vectors = twin.encode(recordings())
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    twin.save_pretrained(tmp_path / "twin")
    assert np.array_equal(Twin.from_pretrained(tmp_path / "twin").encode(recordings()), vectors)
    given = tower[0].eval().preprocess(recordings())
    tower(given)["sentence_embedding"].sum().backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in tower[0].network.parameters())


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(words, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps openwakeword==0\.4\.0"):
        words.speech_encoder()
