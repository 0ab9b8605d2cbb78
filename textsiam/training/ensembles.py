"""A twin for each region of the questions: k-means over a base twin's vectors, the base fine-tuned on each region."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn.cluster import MiniBatchKMeans

from textsiam.data.pairs import Pairs
from textsiam.models.cache import weights_digest
from textsiam.models.ensemble import Ensemble, Regions, squared_distances
from textsiam.models.saving import whole_folder
from textsiam.models.twin import Twin
from textsiam.training.checkpoints import check_identity, run_identity
from textsiam.training.loop import train
from textsiam.training.objective import Objective
from textsiam.training.processes import process_state
from textsiam.training.result import TrainResult
from textsiam.training.settings import Settings


@dataclass(frozen=True)
class EnsembleResult:
    """What a run did.

    Attributes:
        ensemble: The ensemble, without a decision; None where a signal stopped the run: resume goes on from there.
        results: What the training of each member did; None for members that an earlier run had finished.
    """

    ensemble: Ensemble | None
    results: list[TrainResult | None]


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
        output: Folder for the regions, and for the run and the twin of each member.
        settings: Knobs of each member's training; the seed is that of the clustering too.
        validation: Chooses each member's best weights: the pairs of its region where both labels are there, else all.
        temperature: See `find_regions`.
        resume: Go on in `output`: finished members are opened, an unfinished one goes on from its checkpoint.
        quiet: Show no progress bar.

    Raises:
        ValueError: A region has no pairs of both labels to learn from.
        ResumeError: What is in `output` belongs to another run.
        SaveError: The folder cannot be written.
    """
    settings, output = settings or Settings(), Path(output)
    identity = {
        **run_identity(pairs, validation, objective),
        "base": weights_digest(base),
        "clusters": clusters,
        "temperature": temperature,
        **settings.to_dict(),
    }
    regions = _stored_regions(base, pairs, output / "regions", identity, resume=resume)
    parts = split_by_region(regions, pairs)
    for part in parts:
        if not part.both_labels:
            raise ValueError(
                f"{part.source}: {len(part)} pairs of one label or none: use fewer clusters than {clusters}"
            )
    checks = [None] * clusters if validation is None else split_by_region(regions, validation)
    members, results = [], []
    for k, (part, check) in enumerate(zip(parts, checks, strict=True)):
        folder = output / f"member-{k}"
        if resume and (folder / "model").is_dir():
            members.append(Twin.from_pretrained(folder / "model", device=str(base.left.device)))
            results.append(None)
            continue
        if check is not None and len(np.unique(check.labels)) < 2:
            check = validation
        member = copy.deepcopy(base)
        result = train(member, part, copy.deepcopy(objective), output=folder, settings=settings, validation=check,
                       resume=resume, quiet=quiet)  # fmt: skip
        results.append(result)
        if result.interrupted:
            return EnsembleResult(None, results)
        if process_state().is_main_process:
            member.save_pretrained(folder / "model")
        members.append(member)
    return EnsembleResult(Ensemble(members, regions=regions), results)


def find_regions(
    base: Twin, pairs: Pairs, clusters: int, *, temperature: float | None = None, seed: int = 0
) -> Regions:
    """Cluster the texts of pairs by the vectors of a twin.

    Args:
        base: Its vectors are clustered, those of each side by the tower of that side.
        pairs: Their texts are clustered.
        clusters: Number of clusters.
        temperature: How softly a text belongs to them; None takes the median over the texts of the gap between the
            squared distances to the two nearest centroids, so that half of the texts weigh the nearest cluster at
            least e times as much as the next.
        seed: Of the first centroids.

    Raises:
        ValueError: Fewer distinct texts than clusters.
    """
    if clusters < 1 or clusters > len(pairs.texts):
        raise ValueError(f"clusters must be from 1 to {len(pairs.texts)} (the texts), got {clusters}")
    ends = {"left": np.unique(pairs.left), "right": np.unique(pairs.right)}
    if base.right is None:
        ends = {"left": np.arange(len(pairs.texts))}
    vectors = np.concatenate(
        [base.encode([pairs.texts[i] for i in rows], side=s, precision="fp32") for s, rows in ends.items()]
    )
    kmeans = MiniBatchKMeans(clusters, random_state=seed, n_init=4, batch_size=4096)  # pyright: ignore
    kmeans.fit(vectors)
    centroids = np.ascontiguousarray(kmeans.cluster_centers_, dtype=np.float32)
    if temperature is None:
        nearest = np.sort(squared_distances(vectors, centroids), axis=1)
        temperature = float(np.median(nearest[:, 1] - nearest[:, 0])) if clusters > 1 else 1.0
    return Regions(base, centroids, max(temperature, 1e-6))


def split_by_region(regions: Regions, pairs: Pairs) -> list[Pairs]:
    """Return the pairs of each region: those that its member weighs most, w_k(left) · w_k(right) being largest."""
    left = regions.weights(pairs.texts, precision="fp32")
    right = left if regions.base.right is None else regions.weights(pairs.texts, side="right", precision="fp32")
    region = (left[pairs.left].astype(np.float64) * right[pairs.right]).argmax(1)
    parts = [pairs.select(np.flatnonzero(region == k)) for k in range(len(regions.centroids))]
    return [replace(part, source=f"{pairs.source}, region {k}") for k, part in enumerate(parts)]


def _stored_regions(base: Twin, pairs: Pairs, folder: Path, identity: dict[str, Any], *, resume: bool) -> Regions:
    """Return the regions as the main process wrote them: rounding must not tell processes or resumed runs apart."""
    state = process_state()
    if resume and folder.is_dir():
        check_identity(folder, identity)
    elif state.is_main_process:
        clusters, temperature, seed = (identity[name] for name in ("clusters", "temperature", "seed"))
        found = find_regions(base, pairs, clusters, temperature=temperature, seed=seed)
        with whole_folder(folder) as fresh:
            arrays = {"centroids": found.centroids, "temperature": np.array([found.temperature])}
            save_file(arrays, fresh / "regions.safetensors")
            (fresh / "run.json").write_text(json.dumps(identity, indent=2))
    state.wait_for_everyone()
    stored = load_file(folder / "regions.safetensors")
    return Regions(base, stored["centroids"], float(stored["temperature"][0]))
