"""A gallery of enrolled identities: is this input who it claims to be, and if it claims nothing, who is it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch

from textsiam.decision.calibration import check_fraction
from textsiam.decision.decision import Verdict
from textsiam.inference.encoders import ModelError
from textsiam.models.scorer import Scorer
from textsiam.search.gallery_folder import GalleryParts, read_gallery, write_gallery
from textsiam.search.operating_point import OperatingPoint, fit_operating_point

_ROWS = 65_536  # pairs scored at once


class Candidate(NamedTuple):
    """An enrolled identity, and how similar an input is to it."""

    name: str
    similarity: float


@dataclass(frozen=True)
class Identity:
    """Whose an input is: `name` is None exactly when `similarity < threshold`.

    Attributes:
        name: The most similar identity, or None for nobody enrolled.
        similarity: To the most similar identity, named or not.
        probability: That the input is of that identity.
        runner_up: The second most similar identity; None where only one is enrolled.
        threshold: From which similarity an identity is named.
    """

    name: str | None
    similarity: float
    probability: float
    runner_up: Candidate | None
    threshold: float


class Gallery:
    """Identities enrolled by one or several inputs each, verified one by one or identified among all.

    An identity is the mean of the unit vectors of its inputs, brought to length 1. So an input is compared once with
    each identity however many inputs that has; the largest similarity over them would grow with their number, and no
    threshold would hold for identities of one input and of ten.

    Towers that differ encode the enrolled (right) and the inputs asked about (left). Pairs are scored by the twin's
    head where there is one; a reranker is not asked.

    Args:
        twin: What encodes and scores; its own decision plays no part, see `calibrate`.

    Attributes:
        twin: What encodes and scores.
        verification: When a claimed identity is accepted; None before `calibrate`.
        identification: When the best identity is named; None before `calibrate`.
        sums: Name → sum of the unit vectors of its inputs, `(dim,)` float64.
        shots: Name → number of its inputs.

    Example:
        >>> gallery = Gallery(twin)  # doctest: +SKIP
        >>> gallery.enroll("Ada", ["ada-1.png", "ada-2.png"])  # doctest: +SKIP
        >>> gallery.calibrate(inputs, names).identify("someone.png").name  # doctest: +SKIP
        'Ada'
    """

    def __init__(self, twin: Scorer) -> None:
        self.twin = twin
        self.verification: OperatingPoint | None = None
        self.identification: OperatingPoint | None = None
        self.sums: dict[str, np.ndarray] = {}
        self.shots: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.sums)

    @property
    def names(self) -> list[str]:
        """The enrolled identities, in the order in which they came."""
        return list(self.sums)

    def enroll(self, name: str, inputs: str | Sequence[str]) -> None:
        """Add inputs to an identity, which is new if its name is.

        Raises:
            ValueError: The name is empty, there is no input, or the vectors cancel each other out.
        """
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"an identity needs a name, got {name!r}")
        shots = [inputs] if isinstance(inputs, str) else list(inputs)
        if not shots:
            raise ValueError(f"{name}: no inputs to enroll")
        total = self.twin.encode(shots, side="right").astype(np.float64).sum(axis=0) + self.sums.get(name, 0.0)
        if np.linalg.norm(total) < 1e-6:
            raise ValueError(f"{name}: the inputs have opposite vectors, whose mean points nowhere")
        self.sums[name] = total
        self.shots[name] = self.shots.get(name, 0) + len(shots)

    def remove(self, name: str) -> None:
        """Forget an identity.

        Raises:
            KeyError: It is not enrolled.
        """
        self._columns([name])
        del self.sums[name], self.shots[name]

    def vectors(self) -> np.ndarray:
        """Return the vector of each identity, `(identities, dim)` float32 of length 1."""
        if not self.sums:
            return np.zeros((0, self.twin.dim), np.float32)
        sums = np.stack(list(self.sums.values()))
        return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)

    def similarities(self, inputs: Sequence[str]) -> np.ndarray:
        """Return the similarity of each input to each identity, `(inputs, identities)` float32.

        Raises:
            ValueError: Nobody is enrolled.
        """
        if not self.sums:
            raise ValueError("nobody is enrolled: use enroll(name, inputs) first")
        probes, enrolled = self.twin.encode(inputs, side="left"), self.vectors()
        scores = np.empty((len(probes), len(enrolled)), np.float32)
        block = max(1, _ROWS // len(enrolled))
        for start in range(0, len(probes), block):
            part = probes[start : start + block]
            if self.twin.head is None:
                apart = self.twin.distance.all_pairs(torch.from_numpy(part), torch.from_numpy(enrolled))
                scores[start : start + block] = self.twin.distance.similarity(apart).numpy()
            else:  # it is asked about all of them
                u, v = np.repeat(part, len(enrolled), axis=0), np.tile(enrolled, (len(part), 1))
                scores[start : start + block] = self.twin.vector_similarity(u, v).reshape(len(part), -1)
        return scores

    @overload
    def verify(self, name: str, inputs: str) -> Verdict: ...
    @overload
    def verify(self, name: list[str], inputs: list[str]) -> list[Verdict]: ...
    def verify(self, name: str | list[str], inputs: str | list[str]) -> Verdict | list[Verdict]:
        """Say whether an input is of the identity it claims; `duplicate` is true when it is accepted.

        Raises:
            ModelError: The gallery is not calibrated.
            KeyError: The identity is not enrolled.
            TypeError: One is a list and the other is not.
            ValueError: The lists differ in length.
        """
        decision = self._calibrated("verification").decision
        if isinstance(name, str) and isinstance(inputs, str):
            return self.verify([name], [inputs])[0]
        if isinstance(name, str) or isinstance(inputs, str):
            raise TypeError("verify takes one name and one input, or a list of each: got a list and a str")
        if len(name) != len(inputs):
            raise ValueError(f"verify takes as many names as inputs, got {len(name)} and {len(inputs)}")
        claimed = self._columns(name)
        if not name:
            return []
        probes = self.twin.encode(inputs, side="left")
        return decision.verdicts(self.twin.vector_similarity(probes, self.vectors()[claimed]))

    @overload
    def identify(self, inputs: str) -> Identity: ...
    @overload
    def identify(self, inputs: list[str]) -> list[Identity]: ...
    def identify(self, inputs: str | list[str]) -> Identity | list[Identity]:
        """Say whose an input is, or that it is nobody's; of equally similar identities the first enrolled is named.

        Raises:
            ModelError: The gallery is not calibrated.
            ValueError: Nobody is enrolled.
        """
        decision = self._calibrated("identification").decision
        if isinstance(inputs, str):
            return self.identify([inputs])[0]
        scores = self.similarities(inputs)
        rows, first = np.arange(len(scores)), scores.argmax(axis=1)
        best = scores[rows, first]
        scores[rows, first] = -np.inf
        second = scores.argmax(axis=1)
        names, found = self.names, []
        for verdict, i, j, next_best in zip(
            decision.verdicts(best), first.tolist(), second.tolist(), scores[rows, second].tolist(), strict=True
        ):
            runner_up = Candidate(names[j], next_best) if len(names) > 1 else None
            name = names[i] if verdict.duplicate else None
            found.append(Identity(name, verdict.similarity, verdict.probability, runner_up, verdict.threshold))
        return found

    def calibrate(
        self, inputs: Sequence[str], names: Sequence[str], *, far: float = 0.01, prior: float = 0.5
    ) -> Gallery:
        """Learn both thresholds from inputs whose identity is known; returns the gallery itself.

        * Verification: an input claims an identity. Genuine is its similarity to its own, impostors are those to all
          others. The rate does not depend on how many are enrolled.
        * Identification: an input is compared with all. Genuine is its similarity to its own identity; the impostor is
          its best similarity to all others, as if its own were not enrolled. More identities make a larger best one,
          so the threshold holds for the n - 1 others of now: `identification.enrolled`. When the gallery grows,
          calibrate again, or read the rate to expect from `false_alarm_rate`.

        Args:
            inputs: Inputs of enrolled identities that were not enrolled themselves and that training never saw.
            names: The identity of each.
            far: The share of impostors that is accepted at most, on these inputs.
            prior: Share of genuine inputs where the gallery is used; the probabilities are stated for it.

        Raises:
            ValueError: A name is not enrolled, fewer than two identities are, or there are too few inputs for the rate.
        """
        far = check_fraction(far, name="false accept rate")
        if len(inputs) != len(names):
            raise ValueError(f"expected a name for each of {len(inputs)} inputs, got {len(names)}")
        if missing := sorted(set(names) - set(self.sums)):
            raise ValueError(f"{missing[0]!r} is not enrolled: {len(missing)} of the calibration identities are not")
        others = len(self) - 1
        if others < 1:
            raise ValueError(f"calibration compares identities, but {len(self)} is enrolled")
        rows = np.arange(len(inputs))
        scores = self.similarities(inputs)
        own = self._columns(names)
        genuine = scores[rows, own]
        strange = np.ones(scores.shape, bool)
        strange[rows, own] = False
        impostors = scores[strange].reshape(len(inputs), others)
        best = impostors.max(axis=1)
        self.verification, self.identification = (
            fit_operating_point(genuine, impostors, far=far, prior=prior, enrolled=1, names=names),
            fit_operating_point(
                genuine, best[:, None], far=far, prior=prior, enrolled=others, found=genuine > best, names=names
            ),
        )  # fmt: skip
        return self

    def false_alarm_rate(self) -> float:
        """Return the share of strangers that `identify` is expected to name, with as many identities as now.

        See `OperatingPoint.false_accepts_among`.

        Raises:
            ModelError: The gallery is not calibrated.
        """
        return self._calibrated("identification").false_accepts_among(len(self))

    def identification_threshold(self) -> float:
        """Return the similarity from which the best identity is named.

        Raises:
            ModelError: The gallery is not calibrated.
        """
        return self._calibrated("identification").decision.threshold

    def save(self, folder: str | Path) -> Path:
        """Save identities and thresholds into a folder, whole or not at all; the twin is saved on its own.

        Raises:
            SaveError: The folder cannot be written; one that was there before is intact.
        """
        write_gallery(GalleryParts(self.sums, self.shots, self.verification, self.identification), self.twin, folder)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, twin: Scorer) -> Gallery:
        """Open a saved gallery with the twin that it was made by.

        Raises:
            ModelError: The folder holds no gallery, its files are damaged, or another model made its vectors.
        """
        gallery = cls(twin)
        gallery.sums, gallery.shots, gallery.verification, gallery.identification = read_gallery(folder, twin)
        return gallery

    def _columns(self, names: Sequence[str]) -> np.ndarray:
        place = {name: column for column, name in enumerate(self.sums)}
        if missing := [name for name in names if name not in place]:
            raise KeyError(f"{missing[0]!r} is not enrolled")
        return np.array([place[name] for name in names], np.int64)

    def _calibrated(self, mode: str) -> OperatingPoint:
        point = getattr(self, mode)
        if point is None:
            raise ModelError(
                "this gallery has no thresholds yet: run gallery.calibrate(inputs, names) on inputs of enrolled "
                "identities that were not enrolled themselves"
            )
        return point
