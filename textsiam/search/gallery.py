"""A gallery of enrolled identities: is this input who it claims to be, and if it claims nothing, who is it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from textsiam.decision.calibration import check_fraction
from textsiam.decision.decision import Verdict
from textsiam.inference.batching import Progress
from textsiam.inference.encoders import ModelError
from textsiam.models.scorer import Scorer
from textsiam.saving import recover
from textsiam.search.galleries.calibration import fit_identification, fit_verification
from textsiam.search.galleries.drift import Drift, Levels, drift_between, levels_of, usual_levels
from textsiam.search.galleries.enrolled import Enrolled, places
from textsiam.search.galleries.scores import directions, scores_of
from textsiam.search.galleries.target_norm import TargetNorm, fit_target_norms, offsets, own_similarities
from textsiam.search.gallery_folder import GalleryParts, gallery_lock, read_gallery, write_gallery
from textsiam.search.operating_point import OperatingPoint

REFERENCES: dict[int, int | None] = {1: 1, 2: 4, 5: None}
"""Numbers of references that share a threshold, from the least to the most of them: 1, 2 to 4, 5 and more."""


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


class Gallery(Enrolled):
    """Identities enrolled by one or several inputs each, verified one by one or identified among all.

    An identity is the mean of the unit vectors of its inputs, brought to length 1. So an input is compared once with
    each identity however many inputs that has; the largest similarity over them would grow with their number, and no
    threshold would hold for identities of one input and of ten. Where enrolled identities show that it helps, it counts
    how alike the identity's own inputs are: see `textsiam.search.galleries.target_norm`.

    Towers that differ encode the enrolled (right) and the inputs asked about (left). Pairs are scored by the twin's
    head where there is one; a reranker is not asked.

    Args:
        twin: What encodes and scores; its own decision plays no part, see `calibrate`.

    Attributes:
        twin: What encodes and scores.
        verification: When a claimed identity is accepted; None before `calibrate`.
        identification: When the best identity is named; None before `calibrate`.
        by_references: As `verification`, for identities of at least so many inputs, where enough identities have them.
        norms: What is taken from similarities to identities of at least so many inputs; none before `calibrate`.
        usual: What the inputs of the calibration looked like; None before it, and where it had fewer than 50.
        sums: Name → sum of the unit vectors of its inputs, `(dim,)` float64.
        shots: Name → number of its inputs.
        references: Name → the unit vectors themselves, `(shots, dim)` float32; those enrolled by 0.1 are not known.

    Example:
        >>> gallery = Gallery(twin)  # doctest: +SKIP
        >>> gallery.enroll("Ada", ["ada-1.png", "ada-2.png"])  # doctest: +SKIP
        >>> gallery.calibrate(inputs, names).identify("someone.png").name  # doctest: +SKIP
        'Ada'
    """

    def __init__(self, twin: Scorer) -> None:
        super().__init__(twin)
        self.verification: OperatingPoint | None = None
        self.identification: OperatingPoint | None = None
        self.by_references: dict[int, OperatingPoint] = {}
        self.usual: Levels | None = None

    @overload
    def verify(self, name: str, inputs: str) -> Verdict: ...
    @overload
    def verify(self, name: list[str], inputs: list[str]) -> list[Verdict]: ...
    def verify(self, name: str | list[str], inputs: str | list[str]) -> Verdict | list[Verdict]:
        """Say whether an input is of the identity it claims; `duplicate` is true when it is accepted.

        The threshold is that of the number of the identity's inputs; see `promise`.

        Raises:
            ModelError: The gallery is not calibrated.
            KeyError: The identity is not enrolled.
            TypeError: One is a list and the other is not.
            ValueError: The lists differ in length.
        """
        self._calibrated("verification")
        if isinstance(name, str) and isinstance(inputs, str):
            return self.verify([name], [inputs])[0]
        if isinstance(name, str) or isinstance(inputs, str):
            raise TypeError("verify takes one name and one input, or a list of each: got a list and a str")
        if len(name) != len(inputs):
            raise ValueError(f"verify takes as many names as inputs, got {len(name)} and {len(inputs)}")
        self._check_enrolled(name)
        return self.judged(name, self.twin.encode(inputs, side="left")) if name else []

    def judged(self, names: Sequence[str], probes: np.ndarray) -> list[Verdict]:
        """As `verify`, of the vectors (inputs, dim) of the inputs."""
        self._check_enrolled(names)
        claimed = directions([self.sums[name] for name in names])
        scores = self.twin.vector_similarity(probes, claimed) - self.offsets(names)
        return [self.promise(one).decision.verdicts([s])[0] for one, s in zip(names, scores.tolist(), strict=True)]

    def promise(self, name: str) -> OperatingPoint:
        """Return when a claim to be this identity is accepted, and what is known of that.

        It is `by_references` of the number of its inputs, and `verification` where too few identities had so many.

        Raises:
            ModelError: The gallery is not calibrated.
            KeyError: The identity is not enrolled.
        """
        self._check_enrolled([name])
        return self.by_references.get(
            max(n for n in REFERENCES if n <= self.shots[name]), self._calibrated("verification")
        )

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
        self._calibrated("identification")
        return self.identify([inputs])[0] if isinstance(inputs, str) else self.named(self.similarities(inputs))

    def named(self, similarities: np.ndarray) -> list[Identity]:
        """As `identify`, from what `similarities` gave."""
        decision, scores = self._calibrated("identification").decision, similarities.copy()
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
        self,
        inputs: Sequence[str],
        names: Sequence[str],
        *,
        far: float = 0.01,
        prior: float = 0.5,
        open_set: bool = False,
        progress: Progress | None = None,
    ) -> Gallery:
        """Learn the thresholds from inputs whose identity is known; returns the gallery itself.

        * Verification: an input claims an identity. Genuine is its similarity to its own, impostors are those to all
          others. The rate does not depend on how many are enrolled. Once more for one input of each identity, for
          those of 2 to 4, and of 5 and more: `by_references`. Before that it is learned how much the own similarity
          of an identity's inputs counts: `norms`.
        * Identification: an input is compared with all. Genuine is its similarity to its own identity; the impostor is
          its best similarity to all others, as if its own were not enrolled. More identities make a larger best one,
          so the threshold holds for the n - 1 others of now: `identification.enrolled`. When the gallery grows,
          calibrate again, or read the rate to expect from `false_alarm_rate`.

        Args:
            inputs: Inputs of identities that were not enrolled themselves and that training never saw.
            names: The identity of each.
            far: The share of impostors that is accepted at most, on these inputs; `false_accepts.high` bounds it for
                identities never seen.
            prior: Share of genuine inputs where the gallery is used; the probabilities are stated for it.
            open_set: Names that are not enrolled are impostors, and not a mistake; and what the inputs show of claims
                is learned, also where they are too few for identification, which stays None.
            progress: Called as `progress(done, total)` after every batch of inputs.

        Raises:
            ValueError: A name is not enrolled, fewer than two identities are, or there are too few inputs for the rate.
        """
        far = check_fraction(far, name="false accept rate")
        if len(inputs) != len(names):
            raise ValueError(f"expected a name for each of {len(inputs)} inputs, got {len(names)}")
        if (missing := sorted(set(names) - set(self.sums))) and not open_set:
            raise ValueError(f"{missing[0]!r} is not enrolled: {len(missing)} of the calibration identities are not")
        if len(self) < 2:
            raise ValueError(f"calibration compares identities, but {len(self)} is enrolled")
        who = np.unique(np.asarray(names), return_inverse=True)[1].astype(np.int64)
        rates = {"far": far, "prior": prior}
        probes = self.twin.encode(inputs, side="left", progress=progress)
        every, own = list(self.references.values()), places(self.names, names)
        norms = fit_target_norms(self.twin, self._known(probes, own))
        scores = scores_of(self.twin, probes, self.vectors()) - self._taken(norms, every)
        verification, identification = fit_verification(scores, own, who, **rates), None
        with suppress(ValueError) if open_set else nullcontext():
            identification = fit_identification(scores, own, who, **rates)
        few = {}
        for least, most in REFERENCES.items():
            known = [name for name, vectors in self.references.items() if len(vectors) >= least]
            if len(known) < 2:
                break
            some = [self.references[name][:most] for name in known]
            enrolled = directions([vectors.sum(axis=0, dtype=np.float64) for vectors in some])
            claims = scores_of(self.twin, probes, enrolled) - self._taken(norms, some)
            with suppress(ValueError):  # too few of them for the rate
                few[least] = fit_verification(claims, places(known, names), who, **rates)
        self.verification, self.identification, self.by_references = verification, identification, few
        self.norms, self.usual = norms, usual_levels(scores, len(set(names)))
        return self

    def _known(self, probes: np.ndarray, own: np.ndarray) -> list[np.ndarray]:
        """Return what is known of each identity: the vectors that enrolled it, and those of its probes."""
        order = np.argsort(own, kind="stable")
        cuts = np.searchsorted(own[order], np.arange(len(self) + 1))
        owned = (probes[order[first:last]] for first, last in pairwise(cuts.tolist()))
        return [np.concatenate(both) for both in zip(self.references.values(), owned, strict=True)]

    def _taken(self, norms: dict[int, TargetNorm], references: Sequence[np.ndarray]) -> np.ndarray:
        """Return what such norms take from similarities to identities of these inputs."""
        return offsets(norms, [len(own) for own in references], own_similarities(self.twin, references))

    def take_thresholds(self, other: Gallery) -> None:
        """Take over what another gallery of the same twin was calibrated to."""
        for part in ("verification", "identification", "by_references", "norms", "usual"):
            setattr(self, part, getattr(other, part))

    def drift(self, similarities: np.ndarray) -> Drift | None:
        """Say how far inputs are from those of the calibration, by their similarities to all (`similarities`).

        None where they are not, where there are fewer than 50 of them or of those, or fewer than two are enrolled.
        """
        if len(self) < 2:
            return None
        return drift_between(self.usual, levels_of(similarities))

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
        with gallery_lock(folder, write=True):
            self._write(folder)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, twin: Scorer, *, new: bool = False) -> Gallery:
        """Open a saved gallery with the twin that it was made by; where there is none, `new` gives an empty one.

        Raises:
            ModelError: The folder holds no gallery, its files are damaged, or another model made its vectors.
        """
        with gallery_lock(folder, write=False):
            return cls._read(folder, twin, new)

    @classmethod
    @contextmanager
    def changing(cls, folder: str | Path, twin: Scorer, *, new: bool = False) -> Iterator[Gallery]:
        """Open a saved gallery as `load` does, and save it when the block ends without an error.

        Nobody else changes or reads it meanwhile.

        Raises:
            ModelError: As for `load`.
            SaveError: As for `save`.
        """
        with gallery_lock(folder, write=True):
            gallery = cls._read(folder, twin, new)
            yield gallery
            gallery._write(folder)

    def _write(self, folder: str | Path) -> None:
        parts = GalleryParts(**{part: getattr(self, part) for part in GalleryParts._fields})
        write_gallery(parts, self.twin, folder)

    @classmethod
    def _read(cls, folder: str | Path, twin: Scorer, new: bool) -> Gallery:
        gallery = cls(twin)
        recover(Path(folder))
        if new and not Path(folder).exists():
            return gallery
        for part, value in read_gallery(folder, twin)._asdict().items():
            setattr(gallery, part, value)
        return gallery

    def _calibrated(self, mode: str) -> OperatingPoint:
        point = getattr(self, mode)
        if point is None:
            raise ModelError(
                "this gallery has no thresholds yet: calibrate it (textsiam gallery calibrate, gallery.calibrate in "
                "Python) on inputs of enrolled identities that were not enrolled themselves"
            )
        return point
