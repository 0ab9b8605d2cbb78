"""A tower of the user's own: the speaker encoder that the package resemblyzer carries, as `model.builder` takes one.

    pip install --no-deps resemblyzer; pip install librosa 'textsiam[audio]'

The network is a d-vector (Wan et al. 2018): an LSTM over mel spectrograms of 1.6 s, one vector for each such part of a
recording, their mean for the recording. Only its weights are read from the package, and none of its code is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import Tensor, nn

from textsiam.sounds import open_sound, sound_name
from textsiam.sounds.module import SoundModule

RATE, HOP, PART = 16_000, 160, 160  # samples a second, samples of a frame, frames of a part
_STEP = 77  # frames from one part to the next: 1.3 parts a second
_LEAST = 0.75  # of a part that must be covered, for the last one to count
_LOUDNESS = 10 ** (-30 / 20)  # quieter recordings are raised to this root mean square


class VoiceLSTM(SoundModule):
    """Recordings of voices → one vector each, of 256 components that are not negative."""

    rate = RATE

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def get_embedding_dimension(self) -> int:
        """Return the width of the vectors."""
        return 256

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Return `mels` `(parts, 160, 40)` of all recordings, and `parts` `(batch,)`, how many are of each."""
        found = [parts_of(open_sound(sound_name(each, n), RATE)[0]) for n, each in enumerate(inputs)]
        counts = torch.tensor([len(each) for each in found])
        return {"mels": torch.from_numpy(np.concatenate(found)), "parts": counts}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add `sentence_embedding` `(batch, 256)`: the mean of the vectors of the parts."""
        _, (hidden, _) = self.lstm(features["mels"])
        vectors = nn.functional.normalize(torch.relu(self.linear(hidden[-1])))
        parts = features["parts"]
        of = torch.repeat_interleave(torch.arange(len(parts), device=vectors.device), parts)
        sums = vectors.new_zeros(len(parts), 256).index_add(0, of, vectors)
        features["sentence_embedding"] = sums / parts[:, None]
        return features


def voice_encoder() -> SentenceTransformer:
    """Return the tower with the weights that resemblyzer carries: a builder for `model.builder`.

    Raises:
        ModuleNotFoundError: resemblyzer is not installed.
    """
    found = find_spec("resemblyzer")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("voices need the weights of resemblyzer: pip install --no-deps resemblyzer")
    saved = torch.load(Path(found.origin).with_name("pretrained.pt"), map_location="cpu", weights_only=True)
    backbone = VoiceLSTM()
    wanted = backbone.state_dict()
    backbone.load_state_dict({name: saved["model_state"][name] for name in wanted})
    return SentenceTransformer(modules=[backbone, Normalize()], device="cpu")


def parts_of(samples: np.ndarray) -> np.ndarray:
    """Return the mel spectrograms of the parts of a recording, `(parts, 160, 40)` float32."""
    import librosa

    loudness = np.sqrt(np.mean(samples**2))
    samples = samples * max(1.0, _LOUDNESS / loudness)
    frames = -(-(len(samples) + 1) // HOP)
    starts = list(range(0, max(1, frames - PART + _STEP + 1), _STEP))
    if len(starts) > 1 and len(samples) - starts[-1] * HOP < _LEAST * PART * HOP:
        starts.pop()
    padded = np.pad(samples, (0, max(0, (starts[-1] + PART) * HOP - len(samples))))
    mels = librosa.feature.melspectrogram(y=padded, sr=RATE, n_fft=400, hop_length=HOP, n_mels=40).T
    return np.stack([mels[start : start + PART] for start in starts]).astype(np.float32)
