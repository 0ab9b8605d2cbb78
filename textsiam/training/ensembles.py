"""A twin for each region of the questions: k-means over a base twin's vectors, the base fine-tuned on each region."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn.cluster import MiniBatchKMeans

from textsiam.data.pairs import Pairs
from textsiam.inference.cache import weights_digest
from textsiam.models.ensemble import Ensemble, Regions, squared_distances
from textsiam.models.twin import Twin
from textsiam.saving import whole_folder
from textsiam.training.checkpoints import check_identity
from textsiam.training.distributed import process_state
from textsiam.training.loop import train
from textsiam.training.losses.objective import Objective
from textsiam.training.members import Member, train_members
from textsiam.training.reporting.result import TrainResult
from textsiam.training.settings import Settings


@dataclass(frozen=True)
class EnsembleResult:
    """What a run did.

    Attributes:
        ensemble: The ensemble, without a decision; None where a signal stopped the run: resume goes on from there.
        results: What the training of each member did.
    """

    ensemble: Ensemble | None
    results: list[TrainResult]


def train_cluster_ensemble(
    base: Twin,
    pairs: Pairs,
    objective: Objective,
    *,
    clusters: int,
    output: str | Path,
    settings: Settings | None = None,
    validation: Pairs | None = None,
    temperature: float | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> EnsembleResult:
    """Fine-tune a copy of a twin on the pairs of each region of its questions.

    Args:
        base: Its vectors are clustered, and its weights are where each member starts; it stays as it is.
        pairs: Labelled pairs to learn from; each trains the member of the region it lies in.
        objective: What is minimised; each member gets a copy.
        clusters: Number of regions, and of members.
        output: Folder for the regions, and for the run of each member.
        settings: Knobs of each member's training; the seed is that of the clustering too.
        validation: Chooses each member's best weights: the pairs of its region where both labels are there, else all.
        temperature: How softly a text belongs to the regions; None takes the median over the texts of the gap between
            the squared distances to the two nearest centroids, so that half of the texts weigh the nearest region at
            least e times as much as the next.
        resume: Go on in `output`: finished members are opened, an unfinished one goes on from its checkpoint.
        quiet: Show no progress bar.

    Raises:
        ValueError: Fewer texts than clusters, or a region has no pairs of both labels to learn from.
        ResumeError: What is in `output` belongs to another run.
        SaveError: The folder cannot be written.
    """
    settings, output, state = settings or Settings(), Path(output), process_state()
    stored, asked = output / "regions", {"clusters": clusters, "temperature": temperature, "seed": settings.seed}
    identity = {"data": pairs.fingerprint, "base": weights_digest(base), **asked}
    if resume and stored.is_dir():
        check_identity(stored, identity)
    elif state.is_main_process:
        with whole_folder(stored) as fresh:
            save_file(_clustered(base, pairs, **asked), fresh / "regions.safetensors")
            (fresh / "run.json").write_text(json.dumps(identity, indent=2))
    state.wait_for_everyone()
    found = load_file(stored / "regions.safetensors")  # rounding must not tell processes or resumed runs apart
    regions = Regions(base, found["centroids"], float(found["temperature"][0]))
    parts = _split_by_region(regions, pairs)
    checks = [None] * clusters if validation is None else _split_by_region(regions, validation)
    members = []
    for k, (part, check) in enumerate(zip(parts, checks, strict=True)):
        if not part.both_labels:
            raise ValueError(
                f"{part.source}: {len(part)} pairs of one label or none: use fewer clusters than {clusters}"
            )
        check = check if check is None or check.both_labels else validation
        members.append(Member(output / f"member-{k}", part, check, settings))
    twins, results = train_members(train, base, objective, members, resume=resume, quiet=quiet)
    return EnsembleResult(Ensemble(twins, regions=regions) if len(twins) == clusters else None, results)


def _clustered(
    base: Twin, pairs: Pairs, *, clusters: int, temperature: float | None, seed: int
) -> dict[str, np.ndarray]:
    """Return the centroids of the texts' vectors, each text encoded by the tower of its side, and the temperature."""
    if clusters < 1 or clusters > len(pairs.texts):
        raise ValueError(f"clusters must be from 1 to {len(pairs.texts)} (the texts), got {clusters}")
    ends = {"left": np.unique(pairs.left), "right": np.unique(pairs.right)}
    if base.right is None:
        ends = {"left": np.arange(len(pairs.texts))}
    vectors = np.concatenate(
        [base.encode([pairs.texts[i] for i in rows], side=s, precision="fp32") for s, rows in ends.items()]
    )
    kmeans = MiniBatchKMeans(clusters, random_state=seed, n_init=4, batch_size=4096)  # pyright: ignore
    centroids = np.ascontiguousarray(kmeans.fit(vectors).cluster_centers_, dtype=np.float32)
    if temperature is None:
        nearest = np.sort(squared_distances(vectors, centroids), axis=1)
        temperature = float(np.median(nearest[:, 1] - nearest[:, 0])) if clusters > 1 else 1.0
    return {"centroids": centroids, "temperature": np.array([max(temperature, 1e-6)])}


def _split_by_region(regions: Regions, pairs: Pairs) -> list[Pairs]:
    """Return the pairs of each region: those that its member weighs most, w_k(left) · w_k(right) being largest."""
    left = regions.weights(pairs.texts, precision="fp32")
    right = left if regions.base.right is None else regions.weights(pairs.texts, side="right", precision="fp32")
    region = (left[pairs.left].astype(np.float64) * right[pairs.right]).argmax(1)
    parts = [pairs.select(np.flatnonzero(region == k)) for k in range(len(regions.centroids))]
    return [replace(part, source=f"{pairs.source}, region {k}") for k, part in enumerate(parts)]
