"""The folder of a saved gallery: identities, thresholds, and which model made the vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from textsiam.inference.encoders import ModelError
from textsiam.legacy import head_knobs_of_0_1
from textsiam.models.scorer import Scorer
from textsiam.saving import recover, whole_folder
from textsiam.search.ingest import towers_digest
from textsiam.search.operating_point import OperatingPoint

_FORMAT = 1
_FILE = "gallery.json"
_ARRAYS = "gallery.safetensors"


class GalleryParts(NamedTuple):
    """What a gallery is made of, beside the twin; see `textsiam.search.gallery.Gallery`."""

    sums: dict[str, np.ndarray]
    shots: dict[str, int]
    verification: OperatingPoint | None
    identification: OperatingPoint | None


def write_gallery(parts: GalleryParts, twin: Scorer, folder: str | Path) -> None:
    """Write a gallery into a folder, whole or not at all; see `Gallery.save`.

    Raises:
        SaveError: The folder cannot be written; one that was there before is intact.
    """
    points = {"verification": parts.verification, "identification": parts.identification}
    facts = {
        "format": _FORMAT,
        "model": scorer_fingerprint(twin),
        "shots": parts.shots,
        **{mode: None if point is None else point.metadata() for mode, point in points.items()},
    }
    sums = np.stack(list(parts.sums.values())) if parts.sums else np.zeros((0, twin.dim))
    arrays = {"sums": sums}
    for mode, point in points.items():
        if point is not None:
            arrays |= {f"{mode}.{name}": array for name, array in point.decision.tensors().items()}
    with whole_folder(folder) as fresh:
        (fresh / _FILE).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        save_file(arrays, fresh / _ARRAYS)


def read_gallery(folder: str | Path, twin: Scorer) -> GalleryParts:
    """Read a saved gallery; see `Gallery.load`.

    Raises:
        ModelError: The folder holds no gallery, its files are damaged, or another model made its vectors.
    """
    recover(Path(folder))
    path = Path(folder) / _FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["format"] != _FORMAT:
            raise ModelError(f"format is {facts['format']!r}, this version reads {_FORMAT}: update textsiam")
        if facts["model"] != scorer_fingerprint(twin):
            raise ModelError("another model made these vectors: open it with that one, or enroll everybody again")
        arrays = load_file(Path(folder) / _ARRAYS)
        shots = {name: int(count) for name, count in facts["shots"].items()}
        sums = dict(zip(shots, arrays["sums"], strict=True))
        points = (_restored(mode, facts[mode], arrays) for mode in ("verification", "identification"))
        return GalleryParts(sums, shots, *points)
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
    prefix = f"{mode}."
    own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    return None if facts is None else OperatingPoint.restore(facts, own)
