"""The twin: one tower for both sides (or two different ones), a distance, and a decision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from textsiam.decision.collection import CollectionDecision
from textsiam.decision.decision import Decision
from textsiam.inference.batching import BLOCK, encode, encode_stream
from textsiam.inference.cache import weights_fingerprint
from textsiam.inference.encoders import inputs_of
from textsiam.inference.encoding import Asked
from textsiam.inference.fast.fast_tower import FastTower, Precision, fast_tower
from textsiam.inference.fast.runtimes import Backend
from textsiam.inference.lora import LoraConfig
from textsiam.models.distances import Distance, distance_named
from textsiam.models.folder import Parts, read_twin, write_twin
from textsiam.models.learned import Head
from textsiam.models.scorer import Scorer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from textsiam.rerank.base import BaseReranker


class Twin(nn.Module, Scorer):
    """Scores any two inputs with towers that share their weights, and says when a score means "duplicate".

    Args:
        left: The tower that encodes left inputs, and right ones too unless `right` is given.
        right: A different tower for right inputs (asymmetric twin), with vectors of the same width.
        distance: Name of the distance that candidates are found by, and that scores come from unless there is a
            head; see `textsiam.models.distances`.
        head: A learned metric that scores pairs; see `textsiam.models.learned`.
        decision: What turns a similarity into a verdict; learned by `calibrate`.
        collection: The same for all pairs of a collection; learned by `textsiam.search.duplicates`.
        provenance: Facts saved beside the weights: data fingerprint, measurements, config.
        lora: Train its towers by adapters alone, which are merged into them at the end; None trains all weights. It is
            no part of what is saved.

    Raises:
        ValueError: The towers differ in width, or the distance is unknown.

    Example:
        >>> twin = Twin.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> twin.compare("Why is the sky blue?", "Why does the sky look blue?").duplicate  # doctest: +SKIP
        True
    """

    left: SentenceTransformer
    right: SentenceTransformer | None

    def __init__(
        self,
        left: SentenceTransformer,
        right: SentenceTransformer | None = None,
        *,
        distance: str = "cosine",
        head: Head | None = None,
        decision: Decision | None = None,
        collection: CollectionDecision | None = None,
        provenance: Mapping[str, Any] | None = None,
        lora: LoraConfig | None = None,
    ) -> None:
        super().__init__()
        if right is not None and (a := left.get_embedding_dimension()) != (b := right.get_embedding_dimension()):
            raise ValueError(f"towers must give vectors of one width, got {a} (left) and {b} (right)")
        self.add_module("left", left)  # as an attribute, it would be asked for its class, and a lazy one opened
        self.add_module("right", right)
        self.distance: Distance = distance_named(distance)
        self.head = head
        self.decision = decision
        self.collection = collection
        self.provenance: dict[str, Any] = dict(provenance or {})
        self.lora = lora
        self.backend: Backend | None = None
        self.reranker: BaseReranker | None = None
        self._fast: dict[str, FastTower] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle is made of: without what is worked out of the weights again."""
        return self.__dict__ | {"_fast": {}}

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str | None = None,
        trust_remote_code: bool = False,
        sides: bool = True,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
    ) -> Twin:
        """Open a saved twin, or make one of any saved `SentenceTransformer` or plain transformer.

        A model with routes or prompts of its own for queries and for documents becomes an asymmetric twin: left inputs
        are encoded as its `encode_query` does, right ones as its `encode_document`.

        Args:
            name_or_path: A folder or Hub id, `user/repo` or `user/repo@revision`. all-MiniLM-L6-v2 resolves to the
                packaged copy where the Hub cache has none, and comes with a decision calibrated on Quora pairs.
            device: Where the weights go; None lets torch choose.
            trust_remote_code: Run code that comes with the model. Off unless asked.
            sides: False leaves such routes and prompts aside, for texts of one kind: both sides are encoded as plain
                `encode` does. A saved twin stays as it is.
            revision: Branch, tag or commit of a Hub id.
            token: Of the Hub; None takes that of the environment.
            local_files_only: Take what was downloaded from the Hub before, and ask nobody.

        Raises:
            ModelError: The model cannot be found, or its textsiam files are damaged.
        """
        hub = {"revision": revision, "token": token, "local_files_only": local_files_only}
        parts = read_twin(name_or_path, device=device, trust_remote_code=trust_remote_code, sides=sides, **hub)
        twin = cls.from_parts(parts)
        return twin.eval()  # else every call of `encode` would switch dropout off and on again

    @classmethod
    def from_parts(cls, parts: Parts) -> Twin:
        """Put a twin together of its parts."""
        twin = cls(
            *parts.towers,
            distance=parts.distance,
            head=parts.head,
            decision=parts.decision,
            collection=parts.collection,
            provenance=parts.provenance,
        )
        twin.backend, twin.reranker = parts.backend, parts.reranker
        return twin

    def save_pretrained(self, path: str | Path, *, name: str | None = None) -> Path:
        """Save the twin into a folder, whole or not at all; plain `SentenceTransformer(path)` opens it too.

        An asymmetric twin keeps its towers in `left/` and `right/`. The model card calls it by the name of the folder,
        or by `name`.

        Raises:
            SaveError: The folder cannot be written; one that was there before is intact.
        """
        write_twin(self.parts, path, name)
        return Path(path)

    @property
    def parts(self) -> Parts:
        """What the twin is made of; the parts are its own, not copies."""
        facts = self.distance.name, self.head, self.decision, self.collection, self.provenance
        return Parts(self.towers, *facts, self.backend, self.reranker)

    @property
    def towers(self) -> list[SentenceTransformer]:
        """The towers: one when both sides share their weights, else left and right."""
        return [self.left] if self.right is None else [self.left, self.right]

    @property
    def device(self) -> torch.device:
        """Where the weights of the left tower are."""
        return self.left.device

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.left.get_embedding_dimension() or 0

    def tower(self, side: str = "left") -> SentenceTransformer:
        """Return the tower that encodes inputs of a side, "left" or "right".

        Raises:
            ValueError: The side is neither.
        """
        if side not in ("left", "right"):
            raise ValueError(f"side must be 'left' or 'right', got {side!r}")
        return self.right if side == "right" and self.right is not None else self.left

    def to_keys(self, inputs: Iterable[Any], *, side: str = "left") -> Sequence[str]:
        """Return the strings that stand for inputs: texts as they are, images by a name that holds them.

        Raises:
            TypeError: An input is none of the tower's kind; the message names its position.
        """
        return inputs_of(self.tower(side)).to_keys(inputs)

    def _vectors(self, inputs: Sequence[Any], asked: Asked) -> np.ndarray:
        fast = self._fast_tower(asked.side, asked.precision, asked.devices, compiled=asked.compiled)
        cache, broken = asked.cache, asked.broken
        if cache is None:
            return encode(fast, inputs, prompt=asked.prompt, progress=asked.progress, broken=broken)
        names = fast.inputs.to_keys(inputs)
        contents = {name: fast.inputs.content(name) for name in dict.fromkeys(names)}
        fingerprint = weights_fingerprint(fast.tower, fast.number_format)
        if asked.prompt is not None:
            fingerprint += f"\0{asked.prompt}"
        known = cache.get(fingerprint, contents.values())
        missing = [name for name, content in contents.items() if content not in known]
        fresh = encode(fast, missing, prompt=asked.prompt, progress=asked.progress, broken=broken)
        added = [contents[name] for name in missing]
        whole = [row for row, name in enumerate(missing) if name not in (broken or ())]
        cache.put(fingerprint, [added[row] for row in whole], fresh[whole])
        known |= dict(zip(added, fresh, strict=True))
        return np.stack([known[contents[name]] for name in names]) if names else fresh

    def encode_stream(
        self,
        inputs: Iterable[Any],
        *,
        side: str = "left",
        precision: Precision = "auto",
        block: int = BLOCK,
        devices: Sequence[str] | None = None,
        compiled: bool = False,
    ) -> Iterator[np.ndarray]:
        """Encode any number of inputs from an iterator, in bounded memory.

        Args:
            inputs: Texts or images; at most two blocks of them are held at a time.
            side: As for `encode`.
            precision: As for `encode`.
            block: Texts of a block.
            devices: As for `encode`.
            compiled: As for `encode`.

        Returns:
            An iterator over the vectors of each block, in order, `(≤ block, dim)` float32.

        Raises:
            TypeError: An input is none of the tower's kind; the message names its position.
        """
        return encode_stream(self._fast_tower(side, precision, devices, compiled=compiled), inputs, block=block)

    @property
    def dtype(self) -> torch.dtype:
        """Number format that left inputs are encoded in unless another is asked for; of a graph, that of its floats."""
        return self._fast_tower("left", "auto").dtype

    def forward(
        self, left: Sequence[Mapping[str, Tensor]], right: Sequence[Mapping[str, Tensor]] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode padded batches with gradients: what training calls.

        Args:
            left: Features of the left inputs, in chunks; none is fine.
            right: Features of the right inputs for the right tower; None when the sides share `left`.

        Returns:
            Embeddings of the left and of the right inputs, `(inputs, dim)` float32; the same tensor twice when
            `right` is None.
        """
        u = _embeddings(self.left, left)
        if right is None:
            return u, u
        return u, _embeddings(self.left if self.right is None else self.right, right)

    def _fast_tower(
        self, side: str, precision: Precision, devices: Sequence[str] | None = None, *, compiled: bool = False
    ) -> FastTower:
        tower = self.tower(side)
        if devices is not None and not devices:
            raise ValueError("devices is empty: name at least one, or leave it out")
        if self.backend is not None and precision == "auto" and devices is None and tower.device.type == "cpu":
            graph = self.backend.towers[self.towers.index(tower)]
            if not graph.stale:
                return graph
        first, *others = [tower.device] if devices is None else map(torch.device, devices)
        key = f"{'right' if tower is self.right else 'left'} {precision} {[first, *others]} {compiled}"
        if key not in self._fast or self._fast[key].stale:
            fast = self._fast[key] = fast_tower(tower, precision, first, compiled=compiled)
            fast.replicas = [FastTower(tower, fast.dtype, d, compiled=compiled) for d in others]
        return self._fast[key]


def _embeddings(tower: SentenceTransformer, chunks: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Return the embeddings of all chunks, with gradients, `(inputs, dim)` float32."""
    if not chunks:
        return torch.zeros(0, tower.get_embedding_dimension() or 0, device=tower.device)
    return torch.cat([tower(chunk)["sentence_embedding"].float() for chunk in _with_words(tower, chunks)])


def _with_words(tower: SentenceTransformer, chunks: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Any]]:
    """Look up the word embeddings of all chunks at once, where that changes nothing but the time it takes.

    The gradient of a look-up is as large as the vocabulary, whatever is looked up: one for a batch instead of one for
    each chunk saves a twelfth of the training step of MiniLM on a CPU. Other architectures than BERT's derive positions
    from the ids, or scale the embeddings.
    """
    model: Any = getattr(tower[0], "model", None)
    if len(chunks) < 2 or type(model).__name__ != "BertModel":
        return [dict(chunk) for chunk in chunks]
    words = model.get_input_embeddings()(torch.cat([chunk["input_ids"].flatten() for chunk in chunks]))
    parts = words.split([chunk["input_ids"].numel() for chunk in chunks])
    return [
        {"inputs_embeds": part.view(*chunk["input_ids"].shape, -1)}
        | {k: v for k, v in chunk.items() if k != "input_ids"}
        for chunk, part in zip(chunks, parts, strict=True)
    ]
