"""The folder of a saved twin: what stands beside the weights of its towers, and how it is read again."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata as packages
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from textsiam.decision.collection import CollectionDecision, restore_decisions, store_decisions
from textsiam.decision.decision import Decision
from textsiam.inference.encoders import MINILM_NAMES, ModelError, inputs_of, open_tower, resolve
from textsiam.inference.fast.runtimes import Backend, open_backend
from textsiam.inference.opening import saved_on_hub
from textsiam.legacy.saved import read_head, reranker_folder
from textsiam.models.asymmetric import by_side, of_one_kind, shared_layers, tie
from textsiam.models.card import model_card
from textsiam.models.learned import Head, build_head
from textsiam.saving import recover, whole_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from textsiam.rerank.base import BaseReranker

_FORMAT = 1
_FILE = "textsiam.json"
_ARRAYS = "textsiam.safetensors"


@dataclass(frozen=True)
class Parts:
    """What a twin is made of, and saved as: one tower, or left and right."""

    towers: Sequence[SentenceTransformer]
    distance: str = "cosine"
    head: Head | None = None
    decision: Decision | None = None
    collection: CollectionDecision | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    backend: Backend | None = None
    reranker: BaseReranker | None = None


def read_twin(
    name_or_path: str | Path,
    *,
    device: str | None = None,
    trust_remote_code: bool = False,
    sides: bool = True,
    **hub: Any,
) -> Parts:
    """Read a saved twin, or make the parts of one of any other model; see `Twin.from_pretrained`.

    Raises:
        ModelError: The model cannot be found, or its textsiam files are damaged.
    """
    recover(Path(name_or_path))
    where = resolve(name_or_path, **hub)
    described = _description(where)
    if described is None:
        tower = open_tower(where, device=device, trust_remote_code=trust_remote_code, lazy=True)
        left, right = by_side(tower)
        if right is not None and not sides and inputs_of(left) is inputs_of(right):
            warnings.warn(
                f"{name_or_path} encodes queries and documents differently, but these are texts of one kind: they are "
                "encoded as plain `encode` of sentence-transformers does",
                stacklevel=2,
            )
            left, right = of_one_kind(tower), None
        return Parts(
            [left] if right is None else [left, right],
            distance=own_distance(tower),
            decision=_minilm_decision() if str(name_or_path) in MINILM_NAMES else None,
        )
    folder, facts, arrays = described
    places = facts["towers"]
    how = {"device": device, "trust_remote_code": trust_remote_code, "lazy": True}
    towers = [open_tower(folder / place, **how) for place in places]
    try:
        if facts.get("shared_layers") is not None:
            towers[1] = tie(towers[0], towers[1], facts["shared_layers"])
        decision, collection = restore_decisions(facts, arrays)
        head = restored_head(facts.get("head"), arrays)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{folder}: {' '.join(str(error).split())}") from error
    return Parts(
        towers,
        distance=facts["distance"],
        head=None if head is None else head.to(towers[0].device),
        decision=decision,
        collection=collection,
        provenance=facts["provenance"],
        backend=None if facts.get("backend") is None else open_backend(folder, facts["backend"], places, towers),
        reranker=_reranker(reranker_folder(folder), device),
    )


def own_distance(tower: SentenceTransformer) -> str:
    """Return the distance that a tower asks for; between vectors of length 1 the dot product is the cosine."""
    measure = tower.similarity_fn_name
    return measure if measure in ("euclidean", "manhattan") else "cosine"


def write_twin(parts: Parts, path: str | Path, name: str | None = None) -> None:
    """Write a twin into a folder, whole or not at all; see `Twin.save_pretrained`.

    Raises:
        SaveError: The folder cannot be written; one that was there before is intact.
    """
    places = ["."] if len(parts.towers) == 1 else ["left", "right"]
    decisions, arrays = store_decisions(parts.decision, parts.collection)
    facts = {
        "format": _FORMAT,
        "towers": places,
        "shared_layers": shared_layers(*parts.towers),
        "distance": parts.distance,
        "head": None if parts.head is None else parts.head.knobs(),
        **decisions,
        "versions": {n: packages.version(n) for n in ("textsiam", "sentence-transformers", "transformers", "torch")},
        "provenance": parts.provenance,
    }
    arrays |= head_arrays(parts.head)
    with whole_folder(path, own_names(path)) as folder:
        for place, tower in zip(places, parts.towers, strict=True):
            tower.save_pretrained(str(folder / place), create_model_card=False)
        if parts.backend is not None and not parts.backend.stale:
            facts["backend"] = parts.backend.save(folder, places)
        if parts.reranker is not None:
            parts.reranker.save_pretrained(folder / "reranker")
        if arrays:
            save_file(arrays, folder / _ARRAYS)
        own = any(type(module).__module__.startswith("textsiam.") for module in parts.towers[0])
        kind = {"modality": inputs_of(parts.towers[0]).modality, "one_tower": len(places) == 1 and not own}
        card = model_card(parts.provenance, parts.decision, name or Path(path).name, **kind)
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_facts(folder / _FILE, facts)


def write_facts(file: Path, facts: dict[str, Any]) -> None:
    """Write the description of a saved twin or ensemble, the last of its files: it names those beside it."""
    names = sorted([path.name for path in file.parent.iterdir()] + [file.name])
    text = json.dumps(facts | {"files": names}, indent=2, ensure_ascii=False) + "\n"
    file.write_text(text, encoding="utf-8")


def own_names(path: str | Path) -> list[str] | None:
    """Return what may be replaced at the place of a twin: the files that an earlier one names, nothing of others.

    A twin that was saved before its files were named, and a tower of sentence-transformers, are replaced whole: None.
    """
    folder = Path(path)
    recover(folder)
    facts = next((folder / name for name in (_FILE, "ensemble.json") if (folder / name).exists()), None)
    if facts is None:
        return None if (folder / "modules.json").exists() else []
    try:
        return json.loads(facts.read_text(encoding="utf-8")).get("files")
    except (ValueError, AttributeError):
        return None


def _description(where: str) -> tuple[Path, dict[str, Any], dict[str, np.ndarray]] | None:
    """Return the folder, textsiam.json and arrays of a saved twin; None for any other model."""
    folder = Path(where)
    if not folder.is_dir():
        folder = Path(saved_on_hub(where))
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


def _reranker(folder: Path, device: str | None) -> BaseReranker | None:
    if not folder.is_dir():
        return None
    from textsiam.rerank.cross_encoder import Reranker  # cross-encoders are loaded where one is used

    return Reranker.from_pretrained(folder, device=device)


def head_arrays(head: Head | None) -> dict[str, np.ndarray]:
    """Return what is saved of a head beside its knobs; nothing of none."""
    return {} if head is None else {f"head.{name}": t.detach().cpu().numpy() for name, t in head.state_dict().items()}


def restored_head(knobs: dict[str, Any] | None, arrays: Mapping[str, np.ndarray]) -> Head | None:
    """Return the head that was saved, or None where there was none."""
    if knobs is None:
        return None
    knobs, arrays = read_head(knobs, arrays)
    head = build_head(**knobs).eval()
    own = {n.removeprefix("head."): torch.from_numpy(np.array(a)) for n, a in arrays.items() if n.startswith("head.")}
    head.load_state_dict(own)
    return head


def _minilm_decision() -> Decision | None:
    """Return the decision of the untrained all-MiniLM-L6-v2: `benchmarks/minilm_decision.py` calibrates it."""
    file = resources.files("textsiam.models") / "minilm_decision.json"
    stored = json.loads(file.read_text(encoding="utf-8"))
    dtypes = {"labels": np.int8, "knots": np.float64, "probabilities": np.float64}
    arrays = {name: np.array(values, dtype=dtypes.get(name, np.float32)) for name, values in stored["tensors"].items()}
    return Decision.restore(stored["metadata"], arrays)
