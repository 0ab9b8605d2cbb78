"""A tower as inference sees it: the number format, the layout and the batch size that a device is fastest with."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from timeit import repeat
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from textsiam.inference.fast.fused_bert import FusedBert, fusable
from textsiam.inference.fast.lazy_tower import saved_bert
from textsiam.inference.fast.processor import multiplies_halves, one_core
from textsiam.inference.fast.saved_bert import SavedBert
from textsiam.inference.inputs import PROBE, inputs_of
from textsiam.inference.preprocessed import reads_tokens

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Precision = Literal["auto", "fp32", "bf16"]

# On CPUs small batches stay in the cache; an accelerator wants to be filled. The first is taken for small jobs, the
# fastest one for large jobs.
_BUDGETS = {"cpu": (1024, 512, 2048, 4096), "else": (65_536, 16_384, 262_144)}
_AS_IT_IS = (torch.float32, torch.preserve_format)
_SAME, _FAITHFUL = 1 - 1e-5, 1 - 4e-5  # cosines; the second with a margin, since other texts lose more


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
        native = device.type == "cpu" and multiplies_halves()
    return torch.bfloat16 if native else torch.float32


class DeviceRunner(ABC):
    """How much of what there is to do a device takes at once.

    Attributes:
        tower: The model that runs there.
        replicas: The same on other devices, which share its work.
    """

    tower: Any
    replicas: Sequence[Any] = ()

    @property
    def workers(self) -> int:
        """How many batches are encoded at once: one for each core of a CPU; on a GPU, one while the next is made."""
        return torch.get_num_threads() if self.tower.device.type == "cpu" else 2

    @property
    def budgets(self) -> tuple[int, ...]:
        """Token budgets worth trying on the device, the one for small jobs first."""
        return _BUDGETS["cpu" if self.tower.device.type == "cpu" else "else"]

    @cached_property
    def best_budget(self) -> int:
        """The fastest token budget, measured on dummy inputs the first time it is asked for."""
        with one_core(self.tower.device.type == "cpu"):  # as the workers have it
            return min(self.budgets, key=self._seconds_per_token)

    def _seconds_per_token(self, budget: int) -> float:
        features = {k: to_device(t, self.tower.device) for k, t in self.dummy_batch(budget).items()}
        return min(repeat(lambda: self(dict(features)).cpu(), number=1, repeat=3)) / budget

    @cached_property
    def padded(self) -> bool:
        """Whether a batch may hold inputs of different lengths."""
        return True

    @property
    @abstractmethod
    def dim(self) -> int:
        """How many numbers come out of an input."""

    @abstractmethod
    def dummy_batch(self, tokens: int) -> dict[str, Any]:
        """Return the features of dummy inputs of so many tokens."""

    @abstractmethod
    def __call__(self, features: dict[str, Any]) -> Tensor:
        """Return what comes out of one padded batch, `(batch, dim)` float32."""


class FastTower(DeviceRunner):
    """A tower as inference sees it: the backbone in a fast number format, pooling and normalisation in fp32.

    Args:
        tower: Where the weights come from.
        dtype: Number format of the backbone.
        device: Where to encode; None stays where the tower is.
        compiled: Compile the backbone with `torch.compile`. One that is fused is left as it is.
    """

    _saved: SavedBert | None = None

    def __init__(
        self,
        tower: SentenceTransformer,
        dtype: torch.dtype,
        device: torch.device | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        self.source = tower
        self.inputs = inputs_of(tower)
        self.tower = tower if device in (None, tower.device) else copy.deepcopy(tower).to(device).eval()
        self.dtype = dtype = dtype if reads_tokens(tower) else torch.float32
        self.replicas = []
        self._saved = saved_bert(self.tower)
        if self._saved is not None:
            self.backbone = FusedBert(self._saved.backbone, dtype)
            return
        self._weights = Weights(tower)
        backbone: nn.Module = self.tower[0]
        # Copies and not casts: training goes on with the fp32 weights.
        if reads_tokens(tower) and fusable(backbone):
            self.backbone = FusedBert(backbone, dtype)  # pyright: ignore[reportArgumentType]
        elif reads_tokens(tower) and (compiled or (dtype, self.inputs.memory_format) != _AS_IT_IS):
            self.backbone = copy.deepcopy(backbone).to(dtype).eval()
            _lay_out(self.backbone, self.inputs.memory_format)
            if compiled:
                self.backbone.compile(dynamic=True)
        else:
            self.backbone = backbone

    @property
    def number_format(self) -> str:
        """What vectors of the same weights differ by, beside rounding."""
        return str(self.dtype)

    @property
    def stale(self) -> bool:
        """Whether the weights of the tower have changed since this copy was made, or may have."""
        if self._saved is not None:
            return saved_bert(self.source) is None
        return self.backbone is not self.source[0] and self._weights.changed

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return self.tower.get_embedding_dimension() or 0

    def dummy_batch(self, tokens: int) -> dict[str, Any]:
        """Return the features of dummy inputs of so many tokens."""
        return self.inputs.dummy_batch(self.tower, tokens)

    def __call__(self, features: dict[str, Any]) -> Tensor:
        """Return the embeddings of one padded batch, `(batch, dim)` float32."""
        return self._through(self.backbone, {k: _cast(v, self.dtype) for k, v in features.items()})

    def _through(self, backbone: Callable[[dict[str, Any]], dict[str, Any]], features: dict[str, Any]) -> Tensor:
        """Return what a backbone and the further modules of the tower make of features, `(batch, dim)` float32."""
        state = backbone(features)
        if "token_embeddings" in state:
            state["token_embeddings"] = state["token_embeddings"].float()
        for module in list(self.tower)[1:] if self._saved is None else self._saved.behind:
            state = module(state)
        return state["sentence_embedding"].float()

    @property
    def _fusable(self) -> bool:
        return self._saved is not None or fusable(self.source[0])

    @cached_property
    def padded(self) -> bool:
        """Whether a batch may hold inputs of different lengths: no padding changes what a backbone makes of one.

        It does where neighbouring tokens are mixed without regard to the mask (ConvBERT, FNet, RWKV …).
        """
        prepared = None if self._fusable else self.inputs.of_two_lengths(self.source)
        if prepared is None:
            return True
        alone, together = (self._probed(prepared.collate(rows))[0] for rows in ([0], [0, 1]))
        return bool(cosine_similarity(alone, together, dim=0) > _SAME)

    @cached_property
    def faithful(self) -> bool:
        """Whether vectors in this number format have a cosine to fp32 of 0.9999, judged by a few texts."""
        if self.dtype == torch.float32 or self._fusable or not self.inputs.bf16:
            return True
        words = PROBE.split()
        texts = [" ".join(words[start : start + count]) for count in (1, 2, 4, 8, 16) for start in range(0, 24, 4)]
        prepared, rows = self.inputs.prepare(self.source, texts), np.arange(len(texts))
        batches = [prepared.collate(some) for some in ([rows] if self.padded else rows[:, None])]
        exact = torch.cat([self._probed(features) for features in batches])
        try:
            with torch.inference_mode():
                mine = torch.cat([self({k: to_device(v, self.tower.device) for k, v in f.items()}) for f in batches])
        except (RuntimeError, TypeError, NotImplementedError):  # some backbones know no bf16
            return False
        return bool(cosine_similarity(exact, mine.to(exact.device)).min() > _FAITHFUL)

    @torch.inference_mode()
    def _probed(self, features: dict[str, Any]) -> Tensor:
        """Return what the tower itself makes of features, in the number format of its weights."""
        was_training = self.source.training
        self.source.eval()
        try:
            return self._through(self.source[0], {k: to_device(v, self.source.device) for k, v in features.items()})
        finally:
            self.source.train(was_training)


def fast_tower(
    tower: SentenceTransformer, precision: Precision, device: torch.device, *, compiled: bool = False
) -> FastTower:
    """Return a tower as inference sees it on a device; "auto" is fp32 where bf16 would not keep a cosine of 0.9999."""
    dtype = fast_dtype(device, "fp32" if precision == "auto" and not inputs_of(tower).bf16 else precision)
    fast = FastTower(tower, dtype, device, compiled=compiled)
    exact = precision != "auto" or fast.faithful
    return fast if exact else FastTower(tower, torch.float32, device, compiled=compiled)


def _lay_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    for parameter in module.parameters():
        if parameter.dim() == 4 and memory_format != torch.preserve_format:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


def _cast(feature: Any, dtype: torch.dtype) -> Any:
    """Return a feature in the number format of the weights; ids and masks stay integers."""
    return feature.to(dtype) if isinstance(feature, Tensor) and feature.is_floating_point() else feature


class Weights:
    """The weights of a tower as they are now; `changed` tells later whether they are that still.

    Args:
        tower: Whose weights. Its modules may be replaced, and so may the weights in them.
    """

    def __init__(self, tower: nn.Module) -> None:
        self._tower = tower
        self._places: list[int] = []
        self._samples: list[Tensor] = []
        self._before = self._look()

    @property
    def changed(self) -> bool:
        """Whether a weight was written to or replaced since."""
        return self._look() != self._before

    def _look(self) -> tuple[Any, ...]:
        weights = _weights(self._tower)
        places = [tensor.data_ptr() for tensor in weights]
        if places != self._places:
            self._places, self._samples = places, [_first_values(tensor) for tensor in weights]
        # Fused optimizers leave no trace in `_version`, so a few values of every weight are looked at too.
        with torch.no_grad():
            sample = torch.cat(self._samples).float().cpu().numpy().tobytes() if self._samples else b""
        return sample, places, [tensor._version for tensor in weights]


def _weights(module: nn.Module) -> list[Tensor]:
    # As `parameters()` and `buffers()` have it, in a fifth of the time, which counts where one text is encoded.
    found, waiting, seen = [], [module], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        waiting += [child for child in one._modules.values() if child is not None]
        found += [tensor for own in (one._parameters, one._buffers) for tensor in own.values() if tensor is not None]
    return found


def _first_values(tensor: Tensor) -> Tensor:
    """Return the first values of a tensor in memory, as a view."""
    stored = tensor.untyped_storage().nbytes() // tensor.element_size() - tensor.storage_offset()
    return tensor.detach().as_strided((min(64, stored, tensor.numel()),), (1,), tensor.storage_offset())


def to_device(feature: Any, device: torch.device) -> Any:
    """Return a tensor on the device; to a GPU it is copied from pinned memory while other work goes on."""
    if not isinstance(feature, Tensor):
        return feature
    return feature.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else feature.to(device)
