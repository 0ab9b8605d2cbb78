"""The fast path from texts to vectors: distinct inputs once, token-length order, token-budget batches, bf16."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor, nn

from textsiam.models.tokens import chunk_by_tokens, tokenise

Precision = Literal["auto", "fp32", "bf16"]
Progress = Callable[[int, int], None]
"""Called as `progress(done, total)`, in texts."""

# On CPUs small batches stay in the cache; an accelerator wants to be filled.
_CPU_TOKENS, _ACCELERATOR_TOKENS = 1024, 65_536


def fast_dtype(device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """Return the number format that inference uses on a device.

    `auto` is bf16 where the hardware multiplies it natively (CPUs with avx512_bf16 or AMX, GPUs with bf16),
    fp32 elsewhere. In bf16 a vector's cosine to its fp32 self is at least 0.9999.

    Raises:
        ValueError: Unknown precision.
    """
    if precision == "fp32":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    if precision != "auto":
        raise ValueError(f"precision must be 'auto', 'fp32' or 'bf16', got {precision!r}")
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        checks = (getattr(torch.cpu, n, None) for n in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        native = device.type == "cpu" and any(check() for check in checks if check is not None)
    return torch.bfloat16 if native else torch.float32


class FastTower:
    """A tower as inference sees it: the backbone in a fast number format, pooling and normalisation in fp32."""

    def __init__(self, tower: SentenceTransformer, dtype: torch.dtype) -> None:
        self.tower = tower
        self.dtype = dtype
        self._version = _weights_version(tower)
        backbone: nn.Module = tower[0]
        # A copy and not a cast: training goes on with the fp32 weights.
        self.backbone = (
            backbone if dtype == torch.float32 or not self.supported else copy.deepcopy(backbone).to(dtype).eval()
        )

    @property
    def supported(self) -> bool:
        """Whether the tower is a transformer with plain pooling; any other one encodes by its own means."""
        pooling = next((m for m in self.tower if isinstance(m, Pooling)), None)
        return isinstance(self.tower[0], Transformer) and pooling is not None and pooling.include_prompt

    @property
    def stale(self) -> bool:
        """Whether the weights of the tower have changed since this copy was made."""
        return self.dtype != torch.float32 and self._version != _weights_version(self.tower)

    def __call__(self, features: dict[str, Tensor]) -> Tensor:
        """Return the embeddings of one padded batch, `(batch, dim)` float32."""
        state = self.backbone(features)
        state["token_embeddings"] = state["token_embeddings"].float()
        for module in list(self.tower)[1:]:
            state = module(state)
        return state["sentence_embedding"]


def _out_of_memory(error: Exception) -> bool:
    # On a CPU torch raises a plain RuntimeError.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


def _weights_version(tower: SentenceTransformer) -> tuple[tuple[int, int, float], ...]:
    # Fused optimizers leave no trace in `_version`, so a few values of every parameter are looked at too.
    parameters = [p.detach() for p in tower.parameters()]
    sample = torch.stack([p.reshape(-1)[:64].float().sum() for p in parameters]).tolist()
    return tuple((p.data_ptr(), p._version, value) for p, value in zip(parameters, sample, strict=True))


def encode(
    fast: FastTower,
    texts: Sequence[str],
    *,
    token_budget: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Encode texts: each distinct text once, batches of similar length within a token budget.

    Equal texts get bit-identical vectors. A text's vector depends on its batch only by rounding: at most
    1e-5 in any component in fp32, a cosine of at least 0.9999 in bf16.

    Args:
        fast: The tower to encode with.
        texts: n texts.
        token_budget: Largest padded size of a batch, in tokens. None picks it for the device. When memory
            runs out, the budget is halved and the batch repeated.
        progress: Called after each batch with the number of distinct texts done and in all.

    Returns:
        Vectors of length 1, `(n, dim)` float32.

    Raises:
        TypeError: An input is not a string; the message names its position.
    """
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"input {position} is {type(text).__name__}, expected str")
    tower = fast.tower
    if not fast.supported:
        return tower.encode(list(texts), convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False)
    device = tower.device
    budget = token_budget or (_CPU_TOKENS if device.type == "cpu" else _ACCELERATOR_TOKENS)
    index = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    tokens = tokenise(tower, list(index))
    vectors = np.zeros((len(index), tower.get_embedding_dimension() or 0), dtype=np.float32)
    was_training = tower.training
    tower.eval()
    try:
        pending = chunk_by_tokens(tokens.lengths, budget)[::-1]
        done = 0
        with torch.inference_mode():
            while pending:
                rows = pending.pop()
                try:
                    features = {k: t.to(device, non_blocking=True) for k, t in tokens.collate(rows).items()}
                    vectors[rows] = fast(features).cpu().numpy()
                except (RuntimeError, MemoryError) as error:
                    if len(rows) == 1 or not _out_of_memory(error):
                        raise
                    budget = max(1, budget // 2)
                    rest = np.concatenate([rows, *pending[::-1]])
                    pending = [rest[chunk] for chunk in chunk_by_tokens(tokens.lengths[rest], budget)][::-1]
                    continue
                done += len(rows)
                if progress is not None:
                    progress(done, len(index))
    finally:
        tower.train(was_training)
    return vectors[[index[text] for text in texts]] if len(index) != len(texts) else vectors
