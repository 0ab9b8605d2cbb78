"""Who is enrolled, by the unit vectors of their inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textsiam.models.scorer import Scorer
from textsiam.search.galleries.scores import directions, scores_of
from textsiam.search.galleries.target_norm import TargetNorm, offsets, own_similarities
from textsiam.sources import CONTROL_CHARACTERS


class Enrolled:
    """Identities enrolled by one or several inputs each; see `textsiam.search.gallery.Gallery`.

    Args:
        twin: What encodes and scores.
    """

    def __init__(self, twin: Scorer) -> None:
        self.twin = twin
        self.sums: dict[str, np.ndarray] = {}
        self.shots: dict[str, int] = {}
        self.references: dict[str, np.ndarray] = {}
        self.norms: dict[int, TargetNorm] = {}
        self._own: dict[str, float] = {}  # own similarities, as they were asked for

    def __len__(self) -> int:
        return len(self.sums)

    @property
    def names(self) -> list[str]:
        """The enrolled identities, in the order in which they came."""
        return list(self.sums)

    def enroll(self, name: str, inputs: str | Sequence[str]) -> None:
        """Add inputs to an identity, which is new if its name is.

        Raises:
            ValueError: The name is empty or has control characters, there is no input, or the vectors cancel each other
                out.
        """
        shots = [inputs] if isinstance(inputs, str) else list(inputs)
        if not shots:
            raise ValueError(f"{name}: no inputs to enroll")
        self.add(self.twin.encode(shots, side="right"), [name] * len(shots))

    def add(self, vectors: np.ndarray, names: Sequence[str], *, replace: bool = False) -> None:
        """Add encoded inputs to the identities named beside them, or, with `replace`, have these consist of them alone.

        Args:
            vectors: What the right tower gave, (n, dim) float32.
            names: n identities.
            replace: Forget what is known of them.

        Raises:
            ValueError: As for `enroll`, and nobody is enrolled then.
        """
        if strange := [name for name in names if isinstance(name, str) and CONTROL_CHARACTERS.search(name)]:
            raise ValueError(f"the name {strange[0]!r} has control characters")
        if strange := [name for name in names if not isinstance(name, str) or not name.strip()]:
            raise ValueError(f"an identity needs a name, got {strange[0]!r}")
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            rows.setdefault(name, []).append(row)
        sums, references = {}, {}
        for name, own in rows.items():
            known = None if replace else self.references.get(name)
            before = 0.0 if known is None else self.sums[name]
            sums[name] = before + vectors[own].astype(np.float64).sum(axis=0)
            references[name] = vectors[own] if known is None else np.concatenate([known, vectors[own]])
            if np.linalg.norm(sums[name]) < 1e-6:
                raise ValueError(f"{name}: the inputs have opposite vectors, whose mean points nowhere")
        kept = {} if replace else self.shots
        self.shots |= {name: kept.get(name, 0) + len(own) for name, own in rows.items()}
        self.sums |= sums
        self.references |= references
        for name in rows:
            self._own.pop(name, None)

    def remove(self, name: str) -> None:
        """Forget an identity.

        Raises:
            KeyError: It is not enrolled.
        """
        self._check_enrolled([name])
        del self.sums[name], self.shots[name], self.references[name]
        self._own.pop(name, None)

    def vectors(self) -> np.ndarray:
        """Return the vector of each identity, `(identities, dim)` float32 of length 1."""
        if not self.sums:
            return np.zeros((0, self.twin.dim), np.float32)
        return directions(list(self.sums.values()))

    def similarities(self, inputs: Sequence[str]) -> np.ndarray:
        """Return the similarity of each input to each identity, `(inputs, identities)` float32.

        Raises:
            ValueError: Nobody is enrolled.
        """
        return self.similarities_of(self.twin.encode(inputs, side="left"))

    def similarities_of(self, probes: np.ndarray, names: Sequence[str] | None = None) -> np.ndarray:
        """As `similarities`, of the vectors (inputs, dim) of the inputs; with `names` to these identities alone."""
        if not self.sums:
            raise ValueError("nobody is enrolled: use enroll(name, inputs) first")
        asked = self.names if names is None else names
        enrolled = directions([self.sums[name] for name in asked])
        return scores_of(self.twin, probes, enrolled) - self.offsets(asked)

    def offsets(self, names: Sequence[str]) -> np.ndarray:
        """Return what is taken from similarities to identities, (names,), by how alike their own inputs are."""
        if not self.norms:
            return np.zeros(len(names), np.float32)
        if missing := [name for name in names if name not in self._own]:
            found = own_similarities(self.twin, [self.references[name] for name in missing])
            self._own |= dict(zip(missing, found.tolist(), strict=True))
        counts = [len(self.references[name]) for name in names]
        return offsets(self.norms, counts, np.array([self._own[name] for name in names]))

    def _check_enrolled(self, names: Sequence[str]) -> None:
        if missing := [name for name in names if name not in self.sums]:
            raise KeyError(f"{missing[0]!r} is not enrolled")


def places(known: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Return where each name (n,) stands among the known ones, -1 where it does not."""
    place = {name: i for i, name in enumerate(known)}
    return np.array([place.get(name, -1) for name in names], np.int64)
