"""The folder of a saved gallery: identities, thresholds, and which model made the vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from textsiam.inference.encoders import ModelError
from textsiam.legacy.saved import head_knobs_of_0_1
from textsiam.models.scorer import Scorer
from textsiam.saving import SaveError, whole_folder
from textsiam.search.galleries.drift import Levels
from textsiam.search.galleries.target_norm import TargetNorm
from textsiam.search.ingest import towers_digest
from textsiam.search.operating_point import OperatingPoint
from textsiam.whole_file import locked

_FORMAT = 2
_READ = 1, 2  # 1: without norms
_FILE = "gallery.json"
_ARRAYS = "gallery.safetensors"


class GalleryParts(NamedTuple):
    """What a gallery is made of, beside the twin; see `textsiam.search.gallery.Gallery`."""

    sums: dict[str, np.ndarray]
    shots: dict[str, int]
    references: dict[str, np.ndarray]
    verification: OperatingPoint | None
    identification: OperatingPoint | None
    by_references: dict[int, OperatingPoint]
    norms: dict[int, TargetNorm]
    usual: Levels | None


@contextmanager
def gallery_lock(folder: str | Path, *, write: bool) -> Iterator[None]:
    """Keep other processes from changing a gallery meanwhile; to write, also from reading it.

    The folder around it is locked: the gallery itself is replaced by every change.

    Raises:
        SaveError: There is no folder around it, and none can be made.
    """
    around = Path(folder).resolve().parent
    if write:
        try:
            around.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SaveError(f"cannot write {folder}: {error.strerror or error}") from error
    elif not around.is_dir():
        yield  # whoever reads says that there is nothing
        return
    with locked(around, shared=not write):
        yield


def write_gallery(parts: GalleryParts, twin: Scorer, folder: str | Path) -> None:
    """Write a gallery into a folder, whole or not at all; see `Gallery.save`.

    Raises:
        SaveError: The folder cannot be written; one that was there before is intact.
    """
    points = {"verification": parts.verification, "identification": parts.identification}
    few = {f"references.{least}": point for least, point in parts.by_references.items()}
    facts = {
        "format": _FORMAT,
        "model": scorer_fingerprint(twin),
        "shots": parts.shots,
        "references": [len(parts.references[name]) for name in parts.sums],
        **{mode: None if point is None else point.metadata() for mode, point in points.items()},
        "by_references": {str(least): point.metadata() for least, point in parts.by_references.items()},
        "norms": {str(least): norm._asdict() for least, norm in parts.norms.items()},
        "usual": parts.usual and {"inputs": parts.usual.inputs, "identities": parts.usual.identities},
    }
    none = np.zeros((0, twin.dim), np.float32)
    arrays = {
        "sums": np.stack([*parts.sums.values()]) if parts.sums else none,
        "references": np.concatenate([parts.references[name] for name in parts.sums]) if parts.sums else none,
    }
    for mode, point in {**points, **few}.items():
        if point is not None:
            arrays |= {f"{mode}.{name}": array for name, array in point.decision.tensors().items()}
    if parts.usual is not None:
        arrays["usual"] = parts.usual.values
    with whole_folder(folder, (_FILE, _ARRAYS)) as fresh:
        (fresh / _FILE).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        save_file(arrays, fresh / _ARRAYS)


def read_gallery(folder: str | Path, twin: Scorer) -> GalleryParts:
    """Read a saved gallery; see `Gallery.load`.

    Raises:
        ModelError: The folder holds no gallery, its files are damaged, or another model made its vectors.
    """
    path = Path(folder) / _FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["format"] not in _READ:
            raise ModelError(f"format is {facts['format']!r}, this version reads 1 and 2: update textsiam")
        if facts["model"] != scorer_fingerprint(twin):
            raise ModelError("another model made these vectors: open it with that one, or enroll everybody again")
        arrays = load_file(Path(folder) / _ARRAYS)
        shots = {name: int(count) for name, count in facts["shots"].items()}
        sums = dict(zip(shots, arrays["sums"], strict=True))
        counts = facts.get("references", [0] * len(shots))  # a gallery of 0.1 has sums alone
        cuts = (
            np.split(arrays["references"], np.cumsum(counts)[:-1])
            if any(counts)
            else [arrays["sums"][:0].astype(np.float32)] * len(shots)
        )
        references = dict(zip(shots, cuts, strict=True))
        verification, identification = (_restored(m, facts[m], arrays) for m in ("verification", "identification"))
        few = {
            int(least): OperatingPoint.restore(point, _own(f"references.{least}", arrays))
            for least, point in facts.get("by_references", {}).items()
        }
        norms = {int(least): TargetNorm(**norm) for least, norm in facts.get("norms", {}).items()}
        known = facts.get("usual")  # not in galleries of before
        usual = None if known is None else Levels(arrays["usual"], int(known["inputs"]), int(known["identities"]))
        return GalleryParts(sums, shots, references, verification, identification, few, norms, usual)
    except (OSError, KeyError, TypeError, AttributeError, ValueError, SafetensorError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else error
        raise ModelError(f"{path}: {reason}") from error


def scorer_fingerprint(twin: Scorer) -> str:
    """Return a digest of all that the vectors and scores of a twin or ensemble depend on, 64 hexadecimal digits.

    The number format plays no part: in bf16 the cosine of a vector to its fp32 self is at least 0.9999.
    """
    digest = towers_digest(twin, f"{type(twin).__name__} {twin.distance.name}")
    if twin.head is not None:
        digest.update(f"{head_knobs_of_0_1(twin.head.knobs())}".encode())
        for name, tensor in sorted(twin.head.state_dict().items()):
            if name != "candidate_threshold":  # where candidates are looked for; no score depends on it
                digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _restored(mode: str, facts: Mapping[str, Any] | None, arrays: Mapping[str, np.ndarray]) -> OperatingPoint | None:
    return None if facts is None else OperatingPoint.restore(facts, _own(mode, arrays))


def _own(mode: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    prefix = f"{mode}."
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
