"""People never seen in training: equal error rates of claims, with intervals that draw people, and runs that resume."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from textsiam.models.distances import COSINE

DRAWS, ENROLLED = 5, 5
OTHERS, FORGED = "others", "forged"


class _Cosines:
    """What compares unit vectors where a twin is asked for."""

    right, head, distance = None, None, COSINE

    def vector_similarity(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return the cosine (n,) of each row of u to that of v."""
        return np.einsum("nd,nd->n", u, v)


COSINES: Any = _Cosines()


@dataclass(frozen=True)
class Claims:
    """Scores of claims: whether a claim is genuine, of somebody else, or forged, and the people on both sides.

    `scores`, `kinds`, `claimed` and `by` are (n,); people are numbered, and the forger counts as the one he imitates.
    """

    scores: np.ndarray
    kinds: np.ndarray
    claimed: np.ndarray
    by: np.ndarray

    def eer(self, against: str, weights: np.ndarray | None = None) -> float:
        """Return the equal error rate against `others` or `forged`; people may weigh as often as they were drawn."""
        each = np.ones(self.claimed.max() + 1) if weights is None else weights
        weight = np.where(self.claimed == self.by, each[self.claimed], each[self.claimed] * each[self.by])
        genuine, other = self.kinds == "genuine", self.kinds == against
        return equal_error(self.scores, weight * genuine, weight * other)

    def against(self, kind: str) -> Claims:
        """Return the genuine claims and those of this kind, by falling score: resamples need not sort them again."""
        rows = np.flatnonzero((self.kinds == "genuine") | (self.kinds == kind))
        rows = rows[np.argsort(-self.scores[rows], kind="stable")]
        return Claims(*(value[rows] for value in (self.scores, self.kinds, self.claimed, self.by)))


def equal_error(scores: np.ndarray, genuine: np.ndarray, other: np.ndarray) -> float:
    """Return the equal error rate of scores, each with its weight as a genuine claim and as another (n,)."""
    order = np.argsort(-scores, kind="stable")
    ends = np.r_[np.flatnonzero(np.diff(scores[order])), len(order) - 1]  # equal scores are one point
    accepted = np.r_[0.0, np.cumsum(other[order])[ends]] / other.sum()
    rejected = 1.0 - np.r_[0.0, np.cumsum(genuine[order])[ends]] / genuine.sum()
    at = int(np.argmax(accepted >= rejected))
    before, after = rejected[at - 1] - accepted[at - 1], accepted[at] - rejected[at]
    share = before / (before + after) if before + after else 0.0
    return float(accepted[at - 1] + share * (accepted[at] - accepted[at - 1]))


def claims(
    vectors: dict[str, dict[str, np.ndarray]],
    references: int,
    others: dict[str, dict[str, np.ndarray]] | None = None,
    seed: int = 0,
) -> Claims:
    """Enrol people by some of their pictures, and have those that were not enrolled claim to be everybody.

    As a gallery does it: a claim is compared with the mean, less what how alike the own pictures are takes from it.
    That is learned from what is enrolled, and from all genuine pictures of others.

    Args:
        vectors: Of each person, unit vectors (m, dim) of the pictures that are `genuine` and (if any) `forged`.
        references: Pictures that enrol a person; five are set aside, so that the claims are the same for any number.
        others: People who calibrate, like `vectors`.
        seed: Of which pictures.
    """
    from textsiam.search.galleries.target_norm import fit_target_norms, offsets, own_similarities

    rng, rows = np.random.default_rng(seed), []
    known = [each["genuine"].astype(np.float32) for each in (others or {}).values()]
    for _ in range(DRAWS):
        order = {name: rng.permutation(len(of["genuine"])) for name, of in vectors.items()}
        enrolled = [of["genuine"][order[name][:references]].astype(np.float32) for name, of in vectors.items()]
        norms = fit_target_norms(COSINES, [*enrolled, *known])
        taken = offsets(norms, [references] * len(enrolled), own_similarities(COSINES, enrolled))
        for number, (name, of) in enumerate(vectors.items()):
            mean = unit(enrolled[number].mean(axis=0, keepdims=True))[0]
            for other, (claimant, them) in enumerate(vectors.items()):
                found = them["genuine"][order[claimant][ENROLLED:]] @ mean - taken[number]
                rows += [(s, "genuine" if name == claimant else OTHERS, number, other) for s in found]
            forged = of.get(FORGED, np.zeros((0, len(mean)))) @ mean - taken[number]
            rows += [(s, FORGED, number, number) for s in forged]
    scores, kinds, claimed, by = zip(*rows, strict=True)
    return Claims(np.array(scores), np.array(kinds), np.array(claimed), np.array(by))


def apart(ours: list[Claims], theirs: list[Claims], people: list[list[str]], against: str, draws: int = 1000):
    """Return the 95 % interval of the mean over splits of `ours` minus `theirs`: all people are drawn, with return."""
    names = sorted(set().union(*people))
    ours, theirs = ([each.against(against) for each in given] for given in (ours, theirs))
    rng, found = np.random.default_rng(0), []
    while len(found) < draws:
        drawn = dict(
            zip(names, np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names)), strict=True)
        )
        weights = [np.array([drawn[name] for name in part], float) for part in people]
        if min((w > 0).sum() for w in weights) < 2:
            continue
        found.append(np.mean([
            a.eer(against, w) - b.eer(against, w) for a, b, w in zip(ours, theirs, weights, strict=True)
        ]))  # fmt: skip
    return np.quantile(found, [0.025, 0.975]).tolist()


def trained(config: Path, folder: Path, *arguments: str, loss: dict | None = None):
    """Run a config in a folder, or go on with it there, and return the outcome."""
    from textsiam.config.run import read_config
    from textsiam.recipe import run

    tree = yaml.safe_load(config.read_text())
    if loss is not None:
        tree["loss"] = loss
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "asked.yaml").write_text(yaml.safe_dump(tree))
    again = str((folder / "run").exists()).lower()
    rest = ["--output", str(folder / "run"), "--training.tracker", "none", "--resume", again]
    return run(read_config([str(folder / "asked.yaml"), *arguments, *rest]))


def encoded(encode: Any, files: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, np.ndarray]]:
    """Return unit vectors in place of files."""
    return {name: {kind: unit(encode(each)) for kind, each in of.items() if each} for name, of in files.items()}


def unit(vectors: Any) -> np.ndarray:
    """Return vectors (n, dim) brought to length 1."""
    found = np.asarray(vectors, np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def store(folder: Path, made: dict[int, Claims]) -> None:
    """Write the scores of claims, by the number of references."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"{name}_{count}": value for count, each in made.items() for name, value in asdict(each).items()}
    np.savez_compressed(folder / "claims.npz", **arrays)


def opened(folder: Path, references: int) -> Claims:
    """Read the scores of claims with so many references."""
    with np.load(folder / "claims.npz", allow_pickle=False) as arrays:
        return Claims(**{name: arrays[f"{name}_{references}"] for name in ("scores", "kinds", "claimed", "by")})
