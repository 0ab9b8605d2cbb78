"""How precise flagged pairs are, whoever flagged them, and how many duplicates they miss.

Precision: flagged pairs are drawn uniformly, and the interval holds at any moment. Recall: pairs that the file lacks
are drawn too, from the candidates of a model, with known probability; of their scores, the order is all that is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsiam.data.components import connected_components
from textsiam.data.tables.errors import DataError
from textsiam.data.texts import texts_digest
from textsiam.decision.certificate import disagreed, terms
from textsiam.decision.confidence import NestedSets
from textsiam.labelling.aim import Aim
from textsiam.labelling.audit_plan import AuditPlan
from textsiam.labelling.candidates import Candidates
from textsiam.labelling.flagged import Flagged
from textsiam.labelling.labels import Label, LabelFile
from textsiam.labelling.pure_clusters import DRAWS, PureClusters, judged, pure_clusters
from textsiam.labelling.session import Session


@dataclass(frozen=True)
class Audit:
    """What answers say of flagged pairs: a fixed, finite population, drawn without replacement.

    Attributes:
        pairs: Flagged pairs of different texts: what the rest is about.
        copies: Flagged pairs of equal texts, and pairs that are in the file again: nobody is asked about them.
        right: Pairs judged right.
        wrong: Pairs judged wrong.
        unknown: Pairs that were drawn and skipped, or wait for an answer.
        precision: Share of right pairs among those judged; None before the first.
        low: The share of right pairs is at least this, with `confidence` together with `high`.
        high: And at most this. Unknown pairs count as wrong for the one and as right for the other.
        confidence: With which both hold, at whatever moment one stops.
        noise: Share of wrong answers that they allow for.
        missed: Candidates of a model that the file lacks; 0 where none was given.
        recall: Share of the duplicates among flagged pairs and candidates that is flagged, and an interval (95 %); None
            before a candidate was judged.
        pure_clusters: How many of the groups that the pairs connect are wholly right; None before a pair was judged.
        disagreements: Pairs about which two people said different things, of so many that were asked twice.
        flagged: Digest of the flagged pairs.
        collection: Digest of the questions.
    """

    pairs: int
    copies: int
    right: int
    wrong: int
    unknown: int
    precision: float | None
    low: float
    high: float
    confidence: float
    noise: float
    missed: int
    recall: tuple[float, float, float] | None
    pure_clusters: PureClusters | None
    disagreements: tuple[int, int]
    flagged: str
    collection: str

    def sentences(self) -> list[str]:
        """Return what it says, in plain words."""
        judged = self.right + self.wrong
        if self.low == self.high:
            found = [f"precision {self.low:.1%}: all {self.pairs:,} pairs are judged, {self.right:,} are right"]
        elif self.precision is None:
            found = [f"no pair is judged yet, of {self.pairs:,}"]
        else:
            found = [
                f"precision {self.precision:.1%} ({self.low:.1%}–{self.high:.1%}) of {self.pairs:,} pairs: "
                f"{self.right:,} of {judged:,} judged are right ({terms(self.confidence, self.noise)})"
            ]
        if self.recall is not None:
            share, low, high = self.recall
            found.append(
                f"recall about {share:.0%} ({low:.0%}–{high:.0%}) of the duplicates among these and {self.missed:,} "
                "other candidates; below those nobody looked"
            )
        else:
            found.append(
                "recall is not known: `textsiam label MODEL QUESTIONS --flagged …` asks about missed pairs, too"
            )
        if self.pure_clusters is not None:
            found.append(str(self.pure_clusters))
        if self.unknown:
            found.append(f"{self.unknown:,} drawn pairs are skipped or open: they count as wrong below, as right above")
        if self.copies:
            found.append(f"{self.copies:,} rows are left out: their texts are equal, or the pair is there twice")
        return [*found, *disagreed(self.disagreements)]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        recall = self.recall and dict(zip(("share", "low", "high"), self.recall, strict=True))
        return {**vars(self), "recall": recall, "pure_clusters": self.pure_clusters and self.pure_clusters.to_dict()}


def precision_bounds(
    answers: Sequence[bool | None], size: int, *, confidence: float = 0.95, noise: float = 0.0
) -> tuple[int, int]:
    """Return how many of `size` pairs are right, at least and at most, at any moment of drawing them.

    Each bound uses half of the error: the upper one is the lower one of the wrong pairs.

    Args:
        answers: Of pairs drawn uniformly without replacement, in the order of drawing; None is not known.
        size: Pairs in all.
        confidence: With which both bounds hold.
        noise: Share of the answers that may be wrong.

    Example:
        >>> precision_bounds([True] * 40, 400), precision_bounds([True, False], 2)
        ((353, 400), (1, 1))
    """

    def at_least(said: bool) -> int:
        # nothing is known before: half a right answer and half a wrong one (Krichevsky & Trofimov 1981)
        sets = NestedSets([size], [1.0], [0.5], confidence=(1 + confidence) / 2, noise=noise, weight=1.0)
        for rank, answer in enumerate(answers):
            sets.add(rank, among=size, right=answer is said)
        return int(sets.lower_bounds()[0])

    return at_least(True), size - at_least(False)


def open_flagged(
    flagged: Flagged,
    ids: Sequence[str],
    texts: Sequence[str],
    path: str | Path,
    aim: Aim | None = None,
    *,
    source: str,
    candidates: Candidates | None = None,
) -> Session:
    """Open the file of answers about flagged pairs of these questions; pairs of equal texts are not asked about.

    Args:
        flagged: The pairs.
        ids: Of the questions.
        texts: The questions.
        path: File of answers.
        aim: What is wished; None takes what the file says last.
        source: Where the questions are, for messages.
        candidates: Of the same questions: those that are not flagged are asked about, too.

    Raises:
        DataError: A pair names a question that is not there, all pairs are of equal texts, or the file holds answers
            about other pairs or questions, or was begun with candidates where none are given, or without.
    """
    pairs = flagged.among(ids, texts_digest(texts), source)
    asked = np.flatnonzero([texts[a] != texts[b] for a, b in zip(pairs.left, pairs.right, strict=True)])
    if not len(asked):
        raise DataError(f"{flagged.source}: the texts of every pair are equal: there is nothing to ask")
    missed = 0
    if candidates is not None:
        pairs, missed = _with_missed(pairs, candidates, texts)
    if (lines := LabelFile(path).read()) and _missed(lines) != missed:
        begun = "with" if _missed(lines) else "without"
        raise DataError(f"{path}: was begun {begun} these candidates of a model: go on like that, or begin a new file")
    return Session(pairs, ids, texts, path, aim, plan=lambda aim: AuditPlan(asked, aim, missed))


def _with_missed(pairs: Candidates, candidates: Candidates, texts: Sequence[str]) -> tuple[Candidates, int]:
    """Return the candidates whose texts no flagged pair has, then the flagged pairs; and how many of the first."""
    number: dict[str, int] = {}
    kind = np.array([number.setdefault(text, len(number)) for text in texts], np.int64)

    def keys(of: Candidates) -> NDArray[np.int64]:
        ends = np.sort(np.stack([kind[of.left], kind[of.right]]), axis=0)
        return ends[0] * len(number) + ends[1]

    kept = ~np.isin(keys(candidates), keys(pairs))
    left, right, scores = (
        np.concatenate([getattr(candidates, name)[kept], getattr(pairs, name)]) for name in ("left", "right", "scores")
    )
    return replace(pairs, left=left, right=right, scores=scores), int(kept.sum())


def _missed(lines: Sequence[Label]) -> int:
    """Return how many candidates that are not flagged a file of answers is about; its first draw is one of them."""
    return lines[0].among if lines[0].stage == "recall" else 0


def answered_flagged(flagged: Flagged, path: str | Path) -> Session:
    """Open answers about flagged pairs where questions and model are not at hand.

    Raises:
        DataError: There are no answers, or they are about another flagged file.
    """
    lines = LabelFile(path).read()
    if not lines:
        raise DataError(f"{path}: no such file, or no answers in it: textsiam label --flagged makes it")
    missed, size = _missed(lines), next((line.among for line in lines if line.stage == "prove"), len(flagged))
    if lines[0].model != flagged.digest[:16] or not 0 < size <= len(flagged):
        raise DataError(f"{path}: the answers are not about the pairs of {flagged.source} as they are now")
    first: dict[int, Label] = {}
    for number, line in enumerate(lines, start=2):
        if not (line.rank < missed == line.among or 0 <= line.rank - missed < len(flagged)):
            raise DataError(
                f"{path}:{number}: place {line.rank} among {line.among} fits neither the {missed} candidates that the "
                f"first line tells of nor the {len(flagged)} pairs of {flagged.source}"
            )
        first.setdefault(line.rank, line)
    pairs, ids = flagged.among(flagged.ids, lines[0].collection, flagged.source), list(flagged.ids)
    left, right, scores = (np.r_[np.zeros(missed, a.dtype), a] for a in (pairs.left, pairs.right, pairs.scores))
    place = {key: n for n, key in enumerate(ids)}
    for rank, line in first.items():  # of the others, only those are known that were asked about
        if rank < missed:
            ends = [place.setdefault(key, len(place)) for key in (line.id1, line.id2)]
            left[rank], right[rank], scores[rank] = *ends, line.score
    pairs, ids = replace(pairs, left=left, right=right, scores=scores), list(place)
    return Session(pairs, ids, ids, path, plan=lambda aim: AuditPlan(np.arange(size), aim, missed))


def audit(flagged: Flagged, session: Session, *, confidence: float | None = None) -> Audit:
    """Return what the answers say of the flagged pairs, with the confidence of the file unless told otherwise."""
    plan, level, noise = session.plan, confidence or session.aim.confidence, session.aim.noise
    assert isinstance(plan, AuditPlan)
    answers, size = plan.said, plan.size
    low, high = precision_bounds(answers, size, confidence=level, noise=noise)
    right, wrong = answers.count(True), answers.count(False)
    return Audit(
        pairs=size,
        copies=len(flagged) - size + flagged.repeated,
        right=right,
        wrong=wrong,
        unknown=len(answers) - right - wrong,
        precision=right / (right + wrong) if right + wrong else None,
        low=low / size,
        high=high / size,
        confidence=level,
        noise=noise,
        missed=plan.missed,
        recall=plan.recall_interval(),
        pure_clusters=_pure_clusters(plan, flagged, session) if right + wrong else None,
        disagreements=session.disagreements,
        flagged=session.candidates.model[:16],
        collection=session.candidates.collection[:16],
    )


def _pure_clusters(plan: AuditPlan, flagged: Flagged, session: Session) -> PureClusters:
    """Return how many groups that the flagged pairs connect are wholly right."""
    own = slice(plan.missed, None)
    ends, answers = (
        np.stack([session.candidates.left[own], session.candidates.right[own]], axis=1),
        judged(session)[own],
    )
    answers[flagged.copies] = 1
    if plan.said.count(True) + plan.said.count(False) == plan.size:
        answers[answers < 0] = 1  # copies, in a file without texts
    # numbered as they come, so that the same pairs give the same draws whatever else is known of the collection
    _, first, number = np.unique(ends, return_index=True, return_inverse=True)
    left, right = first.argsort().argsort()[number.reshape(ends.shape)].T
    component = connected_components(len(first), left, right)
    order = component.argsort(kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(component[order])) + 1)
    rng = np.random.default_rng([session.aim.seed, 3])
    return pure_clusters(
        [group.tolist() for group in groups],
        left,
        right,
        np.zeros(len(left), np.int64),
        answers,
        plan.right_flagged(DRAWS, rng)[:, None],
        rng,
        noise=session.aim.noise,
    )
