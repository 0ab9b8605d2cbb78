"""The twin: one tower for both sides (or two different ones), a distance, and a decision."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata as packages
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from textsiam.models.cache import EmbeddingCache, weights_fingerprint
from textsiam.models.card import model_card
from textsiam.models.decision import CollectionDecision, Decision
from textsiam.models.distances import Distance, distance_named
from textsiam.models.encoders import MINILM_NAMES, ModelError, open_tower, resolve
from textsiam.models.halves import shared_layers, tie
from textsiam.models.inference import (
    BLOCK,
    FastTower,
    Precision,
    Progress,
    check_texts,
    encode,
    encode_stream,
    fast_dtype,
)
from textsiam.models.runtimes import Backend, open_backend
from textsiam.models.saving import recover, whole_folder
from textsiam.models.scorer import Scorer
from textsiam.models.verifier import Verifier

_FORMAT = 1
_FILE = "textsiam.json"
_ARRAYS = "textsiam.safetensors"


class Twin(Scorer, nn.Module):
    """Scores any two inputs with towers that share their weights, and says when a score means "duplicate".

    Args:
        left: The tower that encodes left inputs, and right ones too unless `right` is given.
        right: A different tower for right inputs (half-twin), with vectors of the same width.
        distance: Name of the distance that scores come from; see `textsiam.models.distances`.
        decision: What turns a similarity into a verdict; learned by `calibrate`.
        collection: The same for all pairs of a collection; learned by `textsiam.search.join`.
        provenance: Facts saved beside the weights: data fingerprint, measurements, config.

    Raises:
        ValueError: The towers differ in width, or the distance is unknown.

    Example:
        >>> twin = Twin.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> twin.compare("Why is the sky blue?", "Why does the sky look blue?").duplicate  # doctest: +SKIP
        True
    """

    def __init__(
        self,
        left: SentenceTransformer,
        right: SentenceTransformer | None = None,
        *,
        distance: str = "cosine",
        decision: Decision | None = None,
        collection: CollectionDecision | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if right is not None and (a := left.get_embedding_dimension()) != (b := right.get_embedding_dimension()):
            raise ValueError(f"towers must give vectors of one width, got {a} (left) and {b} (right)")
        self.left = left
        self.right = right
        self.distance: Distance = distance_named(distance)
        self.decision = decision
        self.collection = collection
        self.provenance: dict[str, Any] = dict(provenance or {})
        self.backend: Backend | None = None
        self.verifier: Verifier | None = None
        self._fast: dict[str, FastTower] = {}

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, device: str | None = None, trust_remote_code: bool = False
    ) -> Twin:
        """Open a saved twin, or make one of any saved `SentenceTransformer` or plain transformer.

        Args:
            name_or_path: A folder or Hub id. all-MiniLM-L6-v2 resolves to the packaged copy where the Hub
                cache has none, and comes with a decision calibrated on Quora pairs.
            device: Where the weights go; None lets torch choose.
            trust_remote_code: Run code that comes with the model. Off unless asked.

        Raises:
            ModelError: The model cannot be found, or its textsiam files are damaged.
        """
        recover(Path(name_or_path))
        where = resolve(name_or_path)
        described = _description(where)
        if described is None:
            tower = open_tower(name_or_path, device=device, trust_remote_code=trust_remote_code)
            return cls(tower, decision=_minilm_decision() if str(name_or_path) in MINILM_NAMES else None)
        folder, facts, arrays = described
        towers = [
            open_tower(folder / place, device=device, trust_remote_code=trust_remote_code) for place in facts["towers"]
        ]
        try:
            if facts.get("shared_layers") is not None:
                towers[1] = tie(towers[0], towers[1], facts["shared_layers"])
            decision = _restored(facts["decision"], arrays, "decision.")
            collection = facts.get("collection")
            if collection is not None:
                of_pairs = _restored(collection["decision"], arrays, "collection.")
                collection = None if of_pairs is None else CollectionDecision(of_pairs, collection["texts"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{folder}: {error}") from error
        knobs = {"distance": facts["distance"], "provenance": facts["provenance"]}
        twin = cls(*towers, decision=decision, collection=collection, **knobs)
        if (folder / "verifier").is_dir():
            twin.verifier = Verifier.from_pretrained(folder / "verifier", device=device)
        if facts.get("backend") is not None:
            twin.backend = open_backend(folder, facts["backend"], facts["towers"], towers)
        return twin

    def save_pretrained(self, path: str | Path) -> Path:
        """Save the twin into a folder, whole or not at all; plain `SentenceTransformer(path)` opens it too.

        A half-twin keeps its towers in `left/` and `right/`.

        Raises:
            SaveError: The folder cannot be written; one that was there before is intact.
        """
        places = ["."] if self.right is None else ["left", "right"]
        facts = {
            "format": _FORMAT,
            "towers": places,
            "shared_layers": shared_layers(self.left, self.right),
            "distance": self.distance.name,
            "decision": None if self.decision is None else self.decision.metadata(),
            "collection": None
            if self.collection is None
            else {"texts": self.collection.texts, "decision": self.collection.decision.metadata()},
            "versions": {
                n: packages.version(n) for n in ("textsiam", "sentence-transformers", "transformers", "torch")
            },
            "provenance": self.provenance,
        }
        with whole_folder(path) as folder:
            for place, tower in zip(places, self.towers, strict=True):
                tower.save_pretrained(str(folder / place), create_model_card=False)
            if self.backend is not None and not self.backend.stale:
                facts["backend"] = self.backend.save(folder, places)
            if self.verifier is not None:
                self.verifier.save_pretrained(folder / "verifier")
            (folder / _FILE).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            arrays = _prefixed(self.decision, "decision.")
            if self.collection is not None:
                arrays |= _prefixed(self.collection.decision, "collection.")
            if arrays:
                save_file(arrays, folder / _ARRAYS)
            (folder / "README.md").write_text(
                model_card(self.provenance, self.decision, Path(path).name), encoding="utf-8"
            )
        return Path(path)

    @property
    def towers(self) -> list[SentenceTransformer]:
        """The towers: one when both sides share their weights, else left and right."""
        return [self.left] if self.right is None else [self.left, self.right]

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.left.get_embedding_dimension() or 0

    def encode(
        self,
        inputs: Sequence[str],
        *,
        side: str = "left",
        precision: Precision = "auto",
        progress: Progress | None = None,
        cache: EmbeddingCache | None = None,
        devices: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Encode inputs; equal inputs are encoded once and get equal vectors.

        Args:
            inputs: n texts.
            side: Which tower of a half-twin encodes them, "left" or "right"; no matter otherwise.
            precision: "fp32", "bf16", or "auto": the exported graph where there is one (on a CPU, as long as the
                weights are those it was made of), else bf16 where the hardware has it (cosine to fp32 ≥ 0.9999).
            progress: Called as `progress(done, total)` after every batch.
            cache: Vectors are looked up here first, and those that were not there are added.
            devices: Devices that share the work, `["cuda:0", "cuda:1"]` say; None encodes where the weights are.

        Returns:
            Vectors of length 1, `(n, dim)` float32.

        Raises:
            TypeError: An input is not a string, or a single string stands where a list belongs.
        """
        if isinstance(inputs, str):
            raise TypeError("expected a list of texts, got one str: write twin.encode([text])")
        fast = self._fast_tower(_checked_side(side), precision, devices)
        if cache is None:
            return encode(fast, inputs, progress=progress)
        check_texts(inputs)
        fingerprint = weights_fingerprint(fast.tower, fast.number_format)
        known = cache.get(fingerprint, dict.fromkeys(inputs))
        missing = [text for text in dict.fromkeys(inputs) if text not in known]
        fresh = encode(fast, missing, progress=progress)
        cache.put(fingerprint, missing, fresh)
        known |= dict(zip(missing, fresh, strict=True))
        return np.stack([known[text] for text in inputs]) if len(inputs) else fresh

    def encode_stream(
        self,
        inputs: Iterable[str],
        *,
        side: str = "left",
        precision: Precision = "auto",
        block: int = BLOCK,
        devices: Sequence[str] | None = None,
    ) -> Iterator[np.ndarray]:
        """Encode any number of inputs from an iterator, in bounded memory.

        Args:
            inputs: Texts; at most two blocks of them are held at a time.
            side: As for `encode`.
            precision: As for `encode`.
            block: Texts of a block.
            devices: As for `encode`.

        Returns:
            An iterator over the vectors of each block, in order, `(≤ block, dim)` float32.

        Raises:
            TypeError: An input is not a string; the message names its position.
        """
        return encode_stream(self._fast_tower(_checked_side(side), precision, devices), inputs, block=block)

    def pair_similarity(
        self,
        texts: Sequence[str],
        left: np.ndarray,
        right: np.ndarray,
        *,
        precision: Precision = "auto",
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Score pairs given as indices into texts, so that each text is encoded once.

        Args:
            texts: m texts.
            left: Index of each pair's left text, `(n,)`.
            right: Index of each pair's right text, `(n,)`.
            precision: As for `encode`.
            progress: As for `encode`.

        Returns:
            Similarities, larger = closer, `(n,)` float32; those in doubt are what twin and verifier say together, where
            there is a verifier.
        """
        if len(left) == 0:
            return np.zeros(0, np.float32)
        if self.right is None:
            vectors = self.encode(texts, precision=precision, progress=progress)
            return self._verified(texts, left, right, self.vector_similarity(vectors[left], vectors[right]), precision)
        used_left, at_left = np.unique(left, return_inverse=True)
        used_right, at_right = np.unique(right, return_inverse=True)
        u = self.encode([texts[int(i)] for i in used_left], side="left", precision=precision, progress=progress)
        v = self.encode([texts[int(i)] for i in used_right], side="right", precision=precision, progress=progress)
        return self._verified(texts, left, right, self.vector_similarity(u[at_left], v[at_right]), precision)

    def _verified(
        self, texts: Sequence[str], left: np.ndarray, right: np.ndarray, similarity: np.ndarray, precision: Precision
    ) -> np.ndarray:
        """Return the similarities, those in doubt after the verifier was asked, where there is one."""
        if self.verifier is None:
            return similarity
        return self.verifier.rescore(texts, left, right, similarity, precision=precision)

    def vector_similarity(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Score row i of `u` against row i of `v`, both `(n, dim)` float32; `(n,)` float32."""
        distance = self.distance(torch.from_numpy(u), torch.from_numpy(v))
        return self.distance.similarity(distance).numpy()

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

    def _fast_tower(self, side: str, precision: Precision, devices: Sequence[str] | None = None) -> FastTower:
        tower = self.right if side == "right" and self.right is not None else self.left
        if devices is not None and not devices:
            raise ValueError("devices is empty: name at least one, or leave it out")
        if self.backend is not None and precision == "auto" and devices is None and tower.device.type == "cpu":
            graph = self.backend.towers[self.towers.index(tower)]
            if not graph.stale:
                return graph
        first, *others = [tower.device] if devices is None else map(torch.device, devices)
        dtype = fast_dtype(first, precision)
        key = f"{'right' if tower is self.right else 'left'} {dtype} {[first, *others]}"
        if key not in self._fast or self._fast[key].stale:
            self._fast[key] = FastTower(tower, dtype, first)
            self._fast[key].replicas = [FastTower(tower, dtype, device) for device in others]
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


def _checked_side(side: str) -> str:
    if side not in ("left", "right"):
        raise ValueError(f"side must be 'left' or 'right', got {side!r}")
    return side


def _description(where: str) -> tuple[Path, dict[str, Any], dict[str, np.ndarray]] | None:
    """Return the folder, textsiam.json and arrays of a saved twin; None for any other model."""
    folder = Path(where)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

        try:
            listing = Path(snapshot_download(where, allow_patterns=[_FILE, _ARRAYS]))
            if not (listing / _FILE).exists():
                return None
            folder = Path(snapshot_download(where))
        except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError, ValueError):
            return None  # opening the tower reports what is wrong, with its own words
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        missing = {"format", "towers", "distance", "decision", "provenance"} - set(facts)
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ModelError(f"{path}: not valid JSON: {error}") from error
    if missing:
        raise ModelError(f"{path}: lacks {', '.join(sorted(missing))}")
    if facts["format"] != _FORMAT:
        raise ModelError(f"{path}: format is {facts['format']!r}, this version reads {_FORMAT}: update textsiam")
    try:
        arrays = load_file(folder / _ARRAYS) if (folder / _ARRAYS).exists() else {}
    except SafetensorError as error:
        raise ModelError(f"{folder / _ARRAYS}: not valid safetensors: {error}") from error
    return folder, facts, arrays


def _prefixed(decision: Decision | None, prefix: str) -> dict[str, np.ndarray]:
    return {} if decision is None else {prefix + name: array for name, array in decision.tensors().items()}


def _restored(metadata: dict[str, Any] | None, arrays: Mapping[str, np.ndarray], prefix: str) -> Decision | None:
    own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    return None if metadata is None else Decision.restore(metadata, own)


def _minilm_decision() -> Decision | None:
    """Return the decision of the untrained all-MiniLM-L6-v2: `benchmarks/minilm_decision.py` calibrates it."""
    file = resources.files("textsiam.models") / "minilm_decision.json"
    stored = json.loads(file.read_text(encoding="utf-8"))
    dtypes = {"scores": np.float32, "labels": np.int8, "knots": np.float64, "probabilities": np.float64}
    arrays = {name: np.array(values, dtype=dtypes[name]) for name, values in stored["tensors"].items()}
    return Decision.restore(stored["metadata"], arrays)
