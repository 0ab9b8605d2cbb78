"""From inputs to vectors, asked for as sentence-transformers is: what calls its `encode` takes a twin."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

import numpy as np
import torch

from textsiam.inference.batching import BLOCK, Progress
from textsiam.inference.cache import EmbeddingCache
from textsiam.inference.encoders import inputs_of
from textsiam.inference.fast.fast_tower import Precision
from textsiam.inference.inputs import TEXTS

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_PRECISIONS: dict[Any, Precision] = {
    None: "auto",
    "float32": "fp32",
}  # what sentence-transformers and its evaluators say


class EncodeOptions(TypedDict, total=False):
    """Arguments of `encode` beside the inputs: first those that sentence-transformers has, then its own.

    Attributes:
        prompt: What stands before each text, in place of what the tower puts there by itself.
        prompt_name: Name of such a prompt among the tower's own; `prompt` comes first.
        truncate_dim: Keep the first components only, brought to length 1 again.
        convert_to_tensor: Return one tensor on the device of the weights.
        convert_to_numpy: False returns a list of such tensors, one for each input.
        device: Where to encode, or a list of devices that share the work; None is where the weights are.
        show_progress_bar: Show progress on stderr.
        normalize_embeddings: Either; vectors have length 1.
        batch_size: Any; batches are made by tokens, and become smaller where memory runs out.
        output_value: "sentence_embedding".
        side: As `Encoder.encode` explains it, like those below.
        precision: As there.
        progress: As there.
        cache: As there.
        devices: As there.
        compiled: As there.
        broken: As there.
    """

    prompt: str | None
    prompt_name: str | None
    truncate_dim: int | None
    convert_to_tensor: bool
    convert_to_numpy: bool
    device: str | torch.device | Sequence[str | torch.device] | None
    show_progress_bar: bool | None
    normalize_embeddings: bool
    batch_size: int
    output_value: str
    side: str
    precision: Precision | Literal["float32"] | None
    progress: Progress | None
    cache: EmbeddingCache | None
    devices: Sequence[str] | None
    compiled: bool
    broken: dict[str, str] | None


@dataclass(frozen=True)
class Asked:
    """Arguments of `encode`, understood.

    Attributes:
        side: As for `Encoder.encode`.
        precision: As for `Encoder.encode`, in our words.
        progress: As for `Encoder.encode`.
        cache: As for `Encoder.encode`.
        devices: As for `Encoder.encode`.
        compiled: As for `Encoder.encode`.
        broken: As for `Encoder.encode`.
        prompt: What stands before each text; None is what the tower says.
        width: How many components are kept; None keeps all.
        tensors: Whether vectors are returned as a tensor ("one"), as a list of them ("many"), or as an array (None).
        shown: Whether progress is shown.
    """

    side: str
    precision: Precision
    progress: Progress | None
    cache: EmbeddingCache | None
    devices: Sequence[str] | None
    compiled: bool
    broken: dict[str, str] | None
    prompt: str | None
    width: int | None
    tensors: str | None
    shown: bool

    @contextmanager
    def showing(self) -> Iterator[Asked]:
        """Yield the same, whose progress moves the bar too that was asked for."""
        if not self.shown:
            yield self
            return
        from tqdm.auto import tqdm

        with tqdm(desc="Inputs") as bar:

            def advance(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)
                if self.progress is not None:
                    self.progress(done, total)

            yield replace(self, progress=advance)

    def shaped(self, vectors: np.ndarray, device: torch.device) -> Any:
        """Return vectors `(n, dim)` float32 as they were asked for, of length 1."""
        if self.width is not None and self.width < vectors.shape[1]:
            vectors = vectors[:, : self.width]
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
        if self.tensors is None:
            return vectors
        found = torch.from_numpy(vectors).to(device)
        return found if self.tensors == "one" else list(found)


def understood(
    options: EncodeOptions, tower: SentenceTransformer, dim: int, devices: Sequence[str] | None, **own: Any
) -> Asked:
    """Return what arguments of `encode` ask of a tower.

    Args:
        options: Those of sentence-transformers.
        tower: What encodes.
        dim: How many components its vectors have.
        devices: Those that were named by `devices`.
        own: What `Asked` holds as it was given.

    Raises:
        TypeError: `encode` has no such option.
        ValueError: A value of one means nothing here.
    """
    for name in options:
        if name not in EncodeOptions.__annotations__:
            near = difflib.get_close_matches(name, EncodeOptions.__annotations__, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "expected " + ", ".join(EncodeOptions.__annotations__)
            raise TypeError(f"encode has no argument {name!r}: {hint}")
    if (value := options.get("output_value", "sentence_embedding")) != "sentence_embedding":
        raise ValueError(f"output_value must be 'sentence_embedding', got {value!r}: ask twin.tower() for others")
    if (size := options.get("batch_size", 1)) < 1:
        raise ValueError(f"batch_size must be >= 1, got {size}")
    if (width := options.get("truncate_dim")) is not None and not 1 <= width <= dim:
        raise ValueError(f"truncate_dim must be from 1 to {dim}, the width of the vectors, got {width}")
    if (device := options.get("device")) is not None:
        if devices is not None:
            raise ValueError("device and devices exclude each other")
        alone = isinstance(device, str | torch.device)
        devices = [str(device)] if alone else [str(each) for each in device]
        if alone and torch.device(device) == tower.device:  # where an exported graph may be faster than the weights
            devices = None
    as_arrays = options.get("convert_to_numpy", True)
    tensors = "one" if options.get("convert_to_tensor") else None if as_arrays else "many"
    shown = bool(options.get("show_progress_bar"))
    return Asked(**own, devices=devices, prompt=_prompt(options, tower), width=width, tensors=tensors, shown=shown)


def _prompt(options: EncodeOptions, tower: SentenceTransformer) -> str | None:
    """Return the prompt that options name; None where they name none."""
    prompt, name = options.get("prompt"), options.get("prompt_name")
    if prompt is None and name is not None:
        if name not in tower.prompts:
            known = ", ".join(map(repr, tower.prompts)) or "it has none"
            raise ValueError(f"prompt_name is {name!r}, which the model does not know: {known}")
        prompt = tower.prompts[name]
    if prompt is not None and inputs_of(tower) is not TEXTS:
        raise ValueError(f"prompt is {prompt!r}, but these inputs are no texts: leave it out")
    return prompt


class Encoder(ABC):
    """Encodes inputs; what a twin and an ensemble share with a `SentenceTransformer`."""

    # FSDP gives a twin another class, which is taken back: both must be laid out as a plain module is.
    __slots__ = ()

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where inputs are encoded."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width of the vectors."""

    @abstractmethod
    def tower(self, side: str = "left") -> SentenceTransformer:
        """Return the tower that encodes inputs of a side, "left" or "right"; of an ensemble, its first member's."""

    @abstractmethod
    def _vectors(self, inputs: Sequence[Any], asked: Asked) -> np.ndarray:
        """Encode inputs into vectors of length 1, `(n, dim)` float32."""

    @overload
    def encode(self, inputs: Sequence[Any], *, convert_to_tensor: Literal[True], **options: Any) -> torch.Tensor: ...
    @overload
    def encode(self, inputs: Sequence[Any], **options: Unpack[EncodeOptions]) -> np.ndarray: ...
    def encode(
        self,
        inputs: Sequence[Any],
        *,
        side: str = "left",
        precision: Precision | Literal["float32"] | None = "auto",
        progress: Progress | None = None,
        cache: EmbeddingCache | None = None,
        devices: Sequence[str] | None = None,
        compiled: bool = False,
        broken: dict[str, str] | None = None,
        **options: Any,
    ) -> Any:
        """Encode inputs; equal inputs are encoded once and get equal vectors.

        Args:
            inputs: n texts; for an image tower n images: paths, bytes, Pillow images, arrays `(height, width[, 3])`
                or tensors `([3,] height, width)`; for one of sounds paths, bytes, or arrays with their rate.
            side: Which tower of an asymmetric twin encodes them, "left" or "right"; no matter otherwise.
            precision: "fp32", "bf16", or "auto": the exported graph where there is one (on a CPU, as long as the
                weights are those it was made of), else bf16 where the hardware has it (cosine to fp32 ≥ 0.9999; not for
                images, whose batch norms lose more). "float32" is "fp32", and None is "auto".
            progress: Called as `progress(done, total)` after every batch.
            cache: Vectors are looked up here first, and those that were not there are added.
            devices: Devices that share the work, `["cuda:0", "cuda:1"]` say; None encodes where the weights are.
            compiled: Compile the backbone with `torch.compile`: slow at first, for large jobs on a GPU. The fused pass
                that BERT-shaped backbones take on a CPU is left as it is.
            broken: Files that cannot be opened are put here by name, with the reason, and their vectors are NaN; None
                raises.
            options: What `SentenceTransformer.encode` takes and is possible here: prompt, prompt_name, truncate_dim,
                convert_to_tensor, device, show_progress_bar …; see `EncodeOptions`.

        Returns:
            Vectors of length 1, `(n, dim)` float32; a tensor, or a list of tensors, where the options ask for that.

        Raises:
            TypeError: An input is none of the tower's kind, or a single string stands where a list belongs; or there
                is no such option.
            ValueError: The value of an option means nothing here.
            DataError: An image cannot be opened; the message names it.
        """
        if isinstance(inputs, str):
            raise TypeError("expected a list of inputs, got one str: write twin.encode([text])")
        own: dict[str, Any] = {"side": side, "progress": progress, "cache": cache, "compiled": compiled}
        own |= {"precision": _PRECISIONS.get(precision, precision), "broken": broken}
        asked = understood(options, self.tower(side), self.dim, devices, **own)  # pyright: ignore[reportArgumentType]
        with asked.showing() as asked:
            vectors = self._vectors(inputs, asked)
        return asked.shaped(vectors, self.device)

    def encode_query(self, inputs: Sequence[Any], **options: Any) -> Any:
        """Encode left inputs: `encode` with the name that sentence-transformers has for queries."""
        return self.encode(inputs, side="left", **options)

    def encode_document(self, inputs: Sequence[Any], **options: Any) -> Any:
        """Encode right inputs: `encode` with the name that sentence-transformers has for documents."""
        return self.encode(inputs, side="right", **options)

    def encode_stream(
        self,
        inputs: Iterable[Any],
        *,
        side: str = "left",
        precision: Precision = "auto",
        block: int = BLOCK,
        compiled: bool = False,
    ) -> Iterator[np.ndarray]:
        """Encode any number of inputs from an iterator: the vectors of each block, in order."""
        rest = iter(inputs)
        while part := list(islice(rest, block)):
            yield self.encode(part, side=side, precision=precision, compiled=compiled)
