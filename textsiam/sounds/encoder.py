"""A first module of a tower that hears: log-mel spectrogram, then a small CNN, without pretrained weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from textsiam.sounds.module import SoundModule
from textsiam.sounds.names import open_sound, sound_name
from textsiam.sounds.spectrogram import FLOOR, mel_filters

if TYPE_CHECKING:
    from jaxtyping import Float

_WINDOW, _HOP = 0.025, 0.01  # seconds


class LogMel(nn.Module):
    """Log-mel spectrogram: windows of 25 ms (Hann) every 10 ms, each band less its mean over the sound, one scale.

    Args:
        rate: Samples a second.
        bands: Mel bands.
    """

    def __init__(self, rate: int, bands: int) -> None:
        super().__init__()
        self.window_size, self.hop = round(rate * _WINDOW), round(rate * _HOP)
        self.points = 1 << (self.window_size - 1).bit_length()
        self.register_buffer("window", torch.hann_window(self.window_size), persistent=False)
        filters = torch.from_numpy(mel_filters(rate, self.points, bands))
        self.register_buffer("filters", filters, persistent=False)

    def frames(self, lengths: Tensor) -> Tensor:
        """Count the windows that sounds of so many samples fill, at least one."""
        return ((lengths - self.window_size) // self.hop + 1).clamp(min=1)

    def energies(self, samples: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames bands"]:
        """Return the logarithm of each band's energy in each window."""
        samples = pad(samples, (0, max(0, self.window_size - samples.shape[1])))
        windows = samples.unfold(1, self.window_size, self.hop) * self.get_buffer("window")
        power = torch.fft.rfft(windows, self.points).abs().square()
        return torch.log(power @ self.get_buffer("filters").T + FLOOR)

    def forward(
        self, samples: Float[Tensor, "batch samples"], mask: Float[Tensor, "batch frames"]
    ) -> Float[Tensor, "batch frames bands"]:
        """Return the spectrogram; frames of padding are 0."""
        found, kept = self.energies(samples), mask[..., None]
        count = mask.sum(1)[:, None, None]
        found = (found - (found * kept).sum(1, keepdim=True) / count) * kept
        spread = (found.square().sum((1, 2), keepdim=True) / (count * found.shape[2])).sqrt()
        return found / (spread + 1e-5)


class _Block(nn.Module):
    """Two convolutions of 3 × 3 with a shortcut (He et al. 2016); padding stays 0."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.first_norm, self.second_norm = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, state: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        mask = mask[:, :: self.stride]
        kept = mask[:, None, :, None]
        inner = torch.relu(self.first_norm(self.first(state))) * kept
        return torch.relu(self.second_norm(self.second(inner)) + self.shortcut(state)) * kept, mask


class LogMelCNN(SoundModule):
    """Sounds → a vector for every 80 ms with three stages; a `Pooling` makes one of them.

    No sound's vectors depend on what it is padded to in a batch.

    Args:
        rate: Samples a second that sounds are resampled to.
        bands: Mel bands.
        widths: Channels of each stage; each halves time and frequency.
        depths: Blocks of each stage.
    """

    config_keys: list[str] = ["rate", "bands", "widths", "depths"]  # noqa: RUF012

    def __init__(
        self,
        rate: int = 16_000,
        bands: int = 40,
        widths: Sequence[int] = (32, 64, 128),
        depths: Sequence[int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.rate, self.bands, self.widths, self.depths = rate, bands, list(widths), list(depths)
        self.spectrogram = LogMel(rate, bands)
        blocks, before, height = [], 1, bands
        for width, depth in zip(widths, depths, strict=True):
            for block in range(depth):
                stride = 1 if block else 2
                blocks.append(_Block(before, width, stride))
                before, height = width, -(-height // stride)
        self.blocks = nn.ModuleList(blocks)
        self.project = nn.Linear(before * height, before)

    def get_embedding_dimension(self) -> int:
        """Return the width of the vectors."""
        return self.widths[-1]

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Open sounds, in any form that `textsiam.sounds.sound_name` knows, and pad them.

        Returns:
            `input_values` `(batch, samples)` float32 and `input_lengths` `(batch,)` int64.
        """
        sounds = [self._samples(each, position) for position, each in enumerate(inputs)]
        lengths = np.array([len(each) for each in sounds], np.int64)
        padded = np.zeros((len(sounds), int(lengths.max(initial=1))), np.float32)
        for row, each in zip(padded, sounds, strict=True):
            row[: len(each)] = each
        return {"input_values": torch.from_numpy(padded), "input_lengths": torch.from_numpy(lengths)}

    def _samples(self, value: Any, position: int) -> np.ndarray:
        if (
            isinstance(value, dict)
            and value.get("sampling_rate") == self.rate
            and isinstance(value["array"], np.ndarray)
        ):
            return value["array"]  # made ready before
        return open_sound(sound_name(value, position), self.rate)[0]

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add `token_embeddings` `(batch, frames, width)` and `attention_mask` `(batch, frames)`, 0 for padding."""
        samples, lengths = features["input_values"], features["input_lengths"]
        counts, longest = self.spectrogram.frames(lengths), int(self.spectrogram.frames(torch.tensor(samples.shape[1])))
        mask = (torch.arange(longest, device=samples.device) < counts[:, None]).to(samples.dtype)
        state = self.spectrogram(samples, mask)[:, None]
        for block in self.blocks:
            state, mask = block(state, mask)
        flat = state.transpose(1, 2).flatten(2)
        features.update(token_embeddings=self.project(flat), attention_mask=mask)
        return features
