"""Several twins as one: their scores averaged, everywhere alike or by region of the questions; or their weights."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import nn

from textsiam.decision.collection import CollectionDecision, restore_decisions, store_decisions
from textsiam.decision.decision import Decision
from textsiam.inference.batching import Progress
from textsiam.inference.encoders import MINILM_NAMES, ModelError, inputs_of, resolve
from textsiam.inference.encoding import Asked
from textsiam.inference.fast.fast_tower import Precision
from textsiam.inference.opening import saved_on_hub
from textsiam.inference.tokens import tokenizer_rules
from textsiam.models.card import model_card
from textsiam.models.folder import head_arrays, own_names, restored_head, write_facts
from textsiam.models.learned import Head
from textsiam.models.scorer import Scorer
from textsiam.models.twin import Twin
from textsiam.saving import recover, whole_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_FORMATS = (1, 2)  # the first knew no head
_FILE = "ensemble.json"
_ARRAYS = "ensemble.safetensors"


@dataclass(frozen=True, eq=False)
class Regions:
    """Which part of the questions a text belongs to, softly: one region for each member of an ensemble.

    w_k(x) = softmax_k(-‖b(x) - c_k‖² / T), with the base twin's vector b(x), the centroids c_k and the temperature T.

    Attributes:
        base: The twin whose vectors were clustered.
        centroids: `(regions, dim)` float32.
        temperature: Larger is softer; > 0.
    """

    base: Twin
    centroids: np.ndarray
    temperature: float

    def __post_init__(self) -> None:
        if self.centroids.ndim != 2 or self.centroids.shape[1] != self.base.dim:
            raise ValueError(f"centroids must be (regions, {self.base.dim}), got shape {self.centroids.shape}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")

    def weights(
        self,
        texts: Sequence[str],
        *,
        side: str = "left",
        precision: Precision = "auto",
        broken: dict[str, str] | None = None,
    ) -> np.ndarray:
        """Return how much each text belongs to each region, `(n, regions)` float32; rows sum to 1."""
        vectors = self.base.encode(texts, side=side, precision=precision, broken=broken)
        scaled = -squared_distances(vectors, self.centroids)
        return torch.from_numpy(scaled / self.temperature).softmax(1).numpy().astype(np.float32)


def squared_distances(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the squared distance of each vector to each centroid, `(n, regions)` float64."""
    points = torch.from_numpy(vectors).double(), torch.from_numpy(centroids).double()
    return torch.cdist(*points, compute_mode="donot_use_mm_for_euclid_dist").square().numpy()


class Ensemble(Scorer):
    """Twins whose similarities are averaged: score(x, y) = Σ_k √(w_k(x) w_k(y)) · s_k(x, y).

    Without regions every weight is 1/K, and the score is the mean. With regions each text has weights of its own, and
    texts of other regions score lower (Σ_k √(w_k(x) w_k(y)) ≤ 1, the Bhattacharyya coefficient). Where the members'
    similarity is the cosine, the score is the cosine of vectors of length 1, `[√w_1 v_1, …, √w_K v_K]`: what `encode`
    returns, so that searching for duplicates and matches works as with one twin.

    Args:
        twins: The members; all score by the same distance.
        regions: How texts weigh the members; None weighs them alike.
        head: What scores the vectors of all members together: a `ScoreNormalization` of such vectors.
        decision: What turns a similarity into a verdict; learned by `calibrate`.
        collection: The same for all pairs of a collection.
        provenance: Facts saved beside the members.

    Raises:
        ValueError: No member, one with a head or a reranker, other distances, not as many regions as members, or a head
            of another width.

    Example:
        >>> ensemble = Ensemble([first, second]).calibrate(pairs)  # doctest: +SKIP
    """

    def __init__(
        self,
        twins: Sequence[Twin],
        *,
        regions: Regions | None = None,
        head: Head | None = None,
        decision: Decision | None = None,
        collection: CollectionDecision | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        if not twins:
            raise ValueError("an ensemble needs at least one twin")
        if len(names := sorted({twin.distance.name for twin in twins})) > 1:
            raise ValueError(f"the twins of an ensemble must score by one distance, got {', '.join(names)}")
        if len(kinds := sorted({inputs_of(twin.left).modality for twin in twins})) > 1:
            raise ValueError(
                f"the twins of an ensemble must read the same, got some for {' and some for '.join(kinds)}"
            )
        for what in ("head", "reranker"):
            if any(getattr(twin, what) is not None for twin in twins):
                raise ValueError(f"the twins of an ensemble score by their distance, but one of them has a {what}")
        if regions is not None and len(regions.centroids) != len(twins):
            raise ValueError(f"an ensemble needs a region for each twin, got {len(regions.centroids)} and {len(twins)}")
        self.twins = list(twins)
        self.regions = regions
        self.distance, self.reranker = twins[0].distance, None
        self.head = None if head is None else head.to(self.device)
        self.right = next((twin.right for twin in twins if twin.right is not None), None)
        self.decision, self.collection = decision, collection
        self.provenance: dict[str, Any] = dict(provenance or {})
        if head is not None and head.dim != self.dim:
            raise ValueError(f"the head takes vectors of {head.dim} components, those of this ensemble have {self.dim}")

    @property
    def device(self) -> torch.device:
        """Where the first member encodes."""
        return self.twins[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the first member."""
        return self.twins[0].dtype

    @property
    def dim(self) -> int:
        """Width of the vectors: that of all members together."""
        return sum(twin.dim for twin in self.twins)

    def tower(self, side: str = "left") -> SentenceTransformer:
        """Return the tower of the first member that encodes inputs of a side, "left" or "right"."""
        return self.twins[0].tower(side)

    def to_keys(self, inputs: Iterable[Any], *, side: str = "left") -> Sequence[str]:
        """Return the strings that stand for inputs; see `Twin.named`."""
        return self.twins[0].to_keys(inputs, side=side)

    def _vectors(self, inputs: Sequence[Any], asked: Asked) -> np.ndarray:
        """Return `[√w_1 v_1, …, √w_K v_K]` of each input, `(n, dim)` float32 of length 1.

        Raises:
            ModelError: The members score by another distance than the cosine, or with rerankers: no vector stands for
                their mean.
        """
        if not self.distance.is_cosine:
            raise ModelError(f"an ensemble has vectors for the cosine only, its twins score by {self.distance.name}")
        if self.head is None and any(twin.reranker is not None for twin in self.twins):
            raise ModelError(
                "the twins of this ensemble have rerankers, which no vector stands for: it scores pairs; to search, "
                "set the `reranker` of each to None and calibrate again"
            )
        inputs, members = self.to_keys(inputs, side=asked.side), len(self.twins)
        roots = np.sqrt(self._weights(inputs, asked.side, asked.precision, asked.broken))
        parts = [
            twin._vectors(inputs, replace(asked, progress=_part(asked.progress, k, members)))
            for k, twin in enumerate(self.twins)
        ]
        return np.concatenate([roots[:, k, None] * part for k, part in enumerate(parts)], 1)

    def pair_similarity(
        self,
        texts: Sequence[str],
        left: np.ndarray,
        right: np.ndarray,
        *,
        precision: Precision = "auto",
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Return the weighted mean of the members' similarities, or what the head says, `(n,)`."""
        if len(left) == 0 or self.head is not None:
            return super().pair_similarity(texts, left, right, precision=precision, progress=progress)
        weights = self._weights(texts, "left", precision)
        others = weights if self.right is None else self._weights(texts, "right", precision)
        joint = np.sqrt(weights[left] * others[right])
        total = np.zeros(len(left), np.float64)
        for k, twin in enumerate(self.twins):
            counted = _part(progress, k, len(self.twins))
            total += joint[:, k] * twin.pair_similarity(texts, left, right, precision=precision, progress=counted)
        return self.rescore(texts, left, right, total.astype(np.float32), precision=precision)

    def _weights(
        self, texts: Sequence[str], side: str, precision: Precision, broken: dict[str, str] | None = None
    ) -> np.ndarray:
        if self.regions is None:
            return np.full((len(texts), len(self.twins)), 1 / len(self.twins), np.float32)
        return self.regions.weights(texts, side=side, precision=precision, broken=broken)

    def save_pretrained(self, path: str | Path, *, name: str | None = None) -> Path:
        """Save the ensemble into a folder, whole or not at all: a folder for each member, and for the base twin.

        The model card calls it by the name of the folder, or by `name`.

        Raises:
            SaveError: The folder cannot be written; one that was there before is intact.
        """
        places = [f"member-{k}" for k in range(len(self.twins))]
        decisions, arrays = store_decisions(self.decision, self.collection)
        facts = {
            "format": _FORMATS[0] if self.head is None else _FORMATS[1],
            "members": places,
            "head": None if self.head is None else self.head.knobs(),
            "temperature": None if self.regions is None else self.regions.temperature,
            **decisions,
            "provenance": self.provenance,
        }
        if self.regions is not None:
            arrays["centroids"] = self.regions.centroids
        arrays |= head_arrays(self.head)
        with whole_folder(path, own_names(path)) as folder:
            for place, twin in zip(places, self.twins, strict=True):
                twin.save_pretrained(folder / place)
            if self.regions is not None:
                self.regions.base.save_pretrained(folder / "base")
            if arrays:
                save_file(arrays, folder / _ARRAYS)
            kind = inputs_of(self.tower()).modality
            card = model_card(self.provenance, self.decision, name or Path(path).name, modality=kind, ensemble=True)
            (folder / "README.md").write_text(card, encoding="utf-8")
            write_facts(folder / _FILE, facts)
        return Path(path)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str | None = None) -> Ensemble:
        """Open a saved ensemble, by its folder or its id on the Hub.

        Raises:
            ModelError: The folder holds no ensemble, or its files are damaged.
        """
        recover(Path(path))
        folder = Path(path if Path(path).exists() else saved_on_hub(str(path)))
        try:
            facts = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            if facts["format"] not in _FORMATS:
                raise ModelError(f"format is {facts['format']!r}, this version reads {_FORMATS[-1]}: update textsiam")
            arrays = load_file(folder / _ARRAYS) if (folder / _ARRAYS).exists() else {}
            decision, collection = restore_decisions(facts, arrays)
            regions = None
            if facts["temperature"] is not None:
                base = Twin.from_pretrained(folder / "base", device=device)
                regions = Regions(base, arrays["centroids"], facts["temperature"])
            twins = [Twin.from_pretrained(folder / place, device=device) for place in facts["members"]]
            rerankers = [twin.reranker for twin in twins]
            for twin in twins:
                twin.reranker = None
            ensemble = cls(
                twins,
                regions=regions,
                head=restored_head(facts.get("head"), arrays),
                decision=decision,
                collection=collection,
                provenance=facts["provenance"],
            )
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else error
            raise ModelError(f"{folder / _FILE}: {reason}") from error
        for twin, reranker in zip(twins, rerankers, strict=True):
            twin.reranker = reranker  # 0.1 made ensembles of such twins: their scores of pairs stay what they were
        return ensemble


def open_scorer(
    name_or_path: str | Path, *, device: str | None = None, sides: bool = True, **hub: Any
) -> Twin | Ensemble:
    """Open whatever a name stands for: a saved ensemble, or what `Twin.from_pretrained` opens; both also on the Hub."""
    recover(Path(name_or_path))
    where = resolve(name_or_path, **hub)
    where = where if Path(where).is_dir() else saved_on_hub(where)
    if (Path(where) / _FILE).exists():
        return Ensemble.from_pretrained(where, device=device)
    known = str(name_or_path) in MINILM_NAMES  # it has a decision by its name
    return Twin.from_pretrained(name_or_path if known else where, device=device, sides=sides)


def members_digest(scorer: Scorer, kind: str) -> tuple[hashlib._Hash, list[Twin]]:
    """Begin a digest of what vectors depend on: with `kind`, and with the regions of an ensemble that has some.

    Returns:
        The digest, to be updated, and the twins whose weights belong into it, in order.
    """
    digest = hashlib.sha256(kind.encode())
    if isinstance(scorer, Ensemble) and scorer.regions is not None:
        digest.update(scorer.regions.centroids.tobytes() + str(scorer.regions.temperature).encode())
    return digest, members_of(scorer)


def members_of(scorer: Scorer) -> list[Twin]:
    """Return the twins that vectors depend on, in order: of an ensemble with regions, the one that finds them last."""
    members = [scorer] if isinstance(scorer, Twin) else scorer.twins if isinstance(scorer, Ensemble) else []
    regions = scorer.regions if isinstance(scorer, Ensemble) else None
    return [*members] if regions is None else [*members, regions.base]


def average_twins(twins: Sequence[Twin]) -> Twin:
    """Return one twin whose weights are the mean of those of several (a "model soup", Wortsman et al. 2022).

    The twins come from one origin by different training: only then does a mean of weights mean something. The result
    has no decision yet.

    Args:
        twins: Twins of one architecture; they stay as they are.

    Raises:
        ValueError: No twin, or twins that differ in their distance, tokenizer, or the names or shapes of their weights;
            or they have batch norms.
    """
    if not twins:
        raise ValueError("averaging needs at least one twin")
    first = twins[0]
    check_averageable(first)
    states = [twin.state_dict() for twin in twins]
    for twin, state in zip(twins, states, strict=True):
        same_shapes = {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in states[0].items()}
        same_words = [tokenizer_rules(t) for t in twin.towers] == [tokenizer_rules(t) for t in first.towers]
        if not (same_shapes and same_words and twin.distance.name == first.distance.name):
            raise ValueError("only twins of one architecture, tokenizer and distance have weights to average")
    mean = copy.deepcopy(first)
    mean.decision = mean.collection = mean.backend = mean.reranker = None
    mean.provenance = {}
    mean.load_state_dict({name: _mean([state[name] for state in states]) for name in states[0]})
    return mean.eval()


def check_averageable(twin: Twin) -> None:
    """Check that a mean of weights can mean something.

    Raises:
        ValueError: The twin has batch norms whose statistics training moves: they are of one set of weights, and not of
            a mean.
    """
    modes = {module: module.training for module in twin.modules()}
    twin.train()
    moved = any(module.training for module in modes if isinstance(module, nn.modules.batchnorm._BatchNorm))
    for module, mode in modes.items():
        module.training = mode
    if moved:
        raise ValueError("the twin has batch norms, whose statistics fit no mean of weights: average scores instead")


def _mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    first = tensors[0]
    if not first.is_floating_point():
        return first
    return torch.stack([t.to(first.device, torch.float64) for t in tensors]).mean(0).to(first.dtype)


def _part(progress: Progress | None, k: int, members: int) -> Progress | None:
    """Return the progress of member k as a part of the whole."""
    return None if progress is None else lambda done, total: progress(k * total + done, members * total)
