"""From a raw score to a verdict: a calibrated probability, and a threshold learned by a stated rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textsiam.decision.calibration import (
    Calibrator,
    Isotonic,
    Platt,
    binary_labels,
    check_fraction,
    finite_scores,
    fit_calibrator,
    from_log_odds,
    prior_shift,
)
from textsiam.decision.certificate import Certificate
from textsiam.decision.domain import Domain
from textsiam.decision.feedback import Feedback
from textsiam.decision.thresholds import RULES, Rule, best_threshold, precision_threshold

_FORMAT = 1
_FACTS = ("threshold", "rule", "prior", "target", "confidence")


@dataclass(frozen=True)
class Verdict:
    """What a twin says of one pair: `duplicate` is true exactly when `similarity >= threshold`."""

    similarity: float
    probability: float
    duplicate: bool
    threshold: float


@dataclass(frozen=True, eq=False)
class Decision:
    """What was learned from the calibration pairs: when a score means "duplicate".

    Scores are similarities of any scale, larger is closer. `prior` is the share of duplicates where the
    twin is used; the probability and the threshold are stated for it. `rule` is "f1", "accuracy",
    "precision" (with its `target` and `confidence`), "probability" (with its `target`) or "fixed". The
    calibration `scores` (n,) float32 and `labels` (n,) int8 are kept, so that another threshold can be
    learned later without the twin. `feedback` is what people decided where the twin is used, after `recalibrate`.
    `domain` is what texts and their scores looked like where the decision was learned; None where nobody looked.
    `source` names what it was learned on. Where people's answers about a collection gave it, `certificate` is what they
    prove there; their pairs were drawn unequally, so that no other rule can be learned from them.

    Every method that changes something returns a new decision.

    Example:
        >>> decision = fit_decision([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], [0] * 5 + [1] * 5)
        >>> decision.is_duplicate([0.2, 0.8]).tolist()
        [False, True]
    """

    threshold: float
    rule: str
    prior: float
    calibrator: Calibrator
    scores: NDArray[np.float32] = field(repr=False)
    labels: NDArray[np.int8] = field(repr=False)
    target: float | None = None
    confidence: float | None = None
    feedback: Feedback | None = None
    domain: Domain | None = None
    source: str | None = None
    certificate: Certificate | None = None

    def __post_init__(self) -> None:
        """Check the fields and make the arrays read-only copies."""
        check_fraction(self.prior, name="prior")
        if not np.isfinite(self.threshold):
            raise ValueError(f"threshold must be a finite number, got {self.threshold}")
        scores = np.array(self.scores, dtype=np.float32)
        labels = np.array(self.labels, dtype=np.int8)
        for name, array in (("scores", scores), ("labels", labels)):
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @property
    def base_rate(self) -> float:
        """The share of duplicates among the calibration pairs."""
        return float(self.labels.mean())

    @property
    def learned_from(self) -> str:
        """What it was learned from, and what is proven: one sentence without its full stop."""
        if self.certificate is not None:
            return self.certificate.learned_from
        found = f"learned from {len(self.labels):,} labelled pairs" + (f" of {self.source}" if self.source else "")
        return found if self.feedback is None else f"{found}, corrected by {len(self.feedback.labels):,} decided pairs"

    def certified(self, model: str, collection: str) -> Certificate | None:
        """Return what is proven of the pairs that its threshold flags; None where that was another model or collection.

        Args:
            model: Digest of the model, `textsiam.search.gallery_folder.scorer_fingerprint`.
            collection: Digest of the texts, `textsiam.data.texts.texts_digest`.
        """
        known = self.certificate
        holds = known is not None and known.threshold == self.threshold and known.holds_for(model, collection)
        return known if holds else None

    def probability(self, similarity: ArrayLike) -> NDArray[np.float64]:
        """Return P(duplicate) under the prior, shaped like the similarities and non-decreasing in them.

        odds = calibrated odds · (π / (1 - π)) · ((1 - b) / b), with prior π and calibration base rate b.

        Raises:
            ValueError: if a similarity is not finite.
        """
        log_odds = self.calibrator.log_odds(finite_scores(similarity))
        return from_log_odds(log_odds + prior_shift(self.base_rate, self.prior))

    def is_duplicate(self, similarity: ArrayLike) -> NDArray[np.bool_]:
        """Return similarity >= threshold, compared in double precision and shaped like the similarities."""
        return finite_scores(similarity) >= self.threshold

    def verdicts(self, similarity: ArrayLike) -> list[Verdict]:
        """Return a verdict for each of the similarities, flattened."""
        values = finite_scores(similarity).ravel()
        rows = zip(values.tolist(), self.probability(values).tolist(), strict=True)
        return [Verdict(s, p, s >= self.threshold, self.threshold) for s, p in rows]

    def at(self, rule: Rule = "f1") -> Decision:
        """Return this decision with the threshold of the best "f1" or "accuracy" under the prior."""
        self._check_drawn_alike()
        threshold = best_threshold(self.scores, self.labels, rule=rule, prior=self.prior)
        return replace(self, threshold=threshold, rule=rule, target=None, confidence=None)

    def at_precision(self, target: float, *, confidence: float = 0.95) -> Decision:
        """Return this decision with a threshold whose precision is at least the target, with confidence.

        See `textsiam.decision.thresholds.precision_threshold` for the bound and what it assumes. After `recalibrate`
        it is learned from the feedback alone: `textsiam.decision.feedback.Feedback.precision_threshold`.

        Raises:
            ValueError: if the calibration pairs cannot show such a precision at any threshold, or were drawn
                unequally.
        """
        target = check_fraction(target, name="target precision")
        confidence = check_fraction(confidence, name="confidence")
        if self.feedback is not None:
            threshold = self.feedback.precision_threshold(target, confidence=confidence, prior=self.prior)
        else:
            self._check_drawn_alike()
            threshold = precision_threshold(
                self.scores, self.labels, prior=self.prior, target=target, confidence=confidence
            )
        return replace(self, threshold=threshold, rule="precision", target=target, confidence=confidence)

    def at_probability(self, target: float) -> Decision:
        """Return this decision with the smallest threshold at which the probability reaches the target.

        Flagging from the probability c / (c + m) on costs least, where a false alarm costs c and a missed duplicate m
        (Elkan 2001). Where no score reaches the target, nothing is flagged but what scores above all of the
        calibration pairs.
        """
        target = check_fraction(target, name="target probability")
        low, high = np.float32(self.scores.min()), np.float32(self.scores.max())
        width = max(float(high - low), 1.0)
        low, high = np.float32(low - width), np.float32(high + width)
        if self.probability([high])[0] < target:
            high = np.nextafter(np.float32(self.scores.max()), np.float32(np.inf), dtype=np.float32)
            return replace(self, threshold=float(high), rule="probability", target=target, confidence=None)
        while (middle := np.float32((float(low) + float(high)) / 2)) not in (low, high):
            low, high = (low, middle) if self.probability([middle])[0] >= target else (middle, high)
        return replace(self, threshold=float(high), rule="probability", target=target, confidence=None)

    def at_threshold(self, threshold: float) -> Decision:
        """Return this decision with a threshold set by hand."""
        return replace(self, threshold=float(threshold), rule="fixed", target=None, confidence=None)

    def with_prior(self, prior: float) -> Decision:
        """Return this decision for another share of duplicates, its threshold learned again by its rule.

        A fixed threshold stays. Where answers about a collection gave the decision, the new threshold is where pairs
        are as probable as at the old one, and nothing is certified of it.

        Raises:
            ValueError: if the prior is not between 0 and 1, or a target precision is out of reach.
        """
        moved = replace(self, prior=check_fraction(prior, name="prior"))
        if self.certificate is not None and self.rule == "precision" and self.feedback is None:
            return moved.at_probability(float(self.probability([self.threshold])[0])) if prior != self.prior else self
        if self.target is not None and self.confidence is not None:
            return moved.at_precision(self.target, confidence=self.confidence)
        if self.rule == "probability" and self.target is not None:
            return moved.at_probability(self.target)
        if self.rule in RULES:
            return moved.at(self.rule)
        return moved

    def _check_drawn_alike(self) -> None:
        if self.certificate is not None:
            raise ValueError(
                "the pairs that people answered about were drawn unequally, so that no other rule or precision can be "
                "learned from the decision: give the file of answers (`textsiam flag --labels … --precision …`)"
            )

    def metadata(self) -> dict[str, Any]:
        """Return what fits in JSON; with `tensors` it restores the decision exactly."""
        platt = self.calibrator if isinstance(self.calibrator, Platt) else None
        curve = {name: None if platt is None else getattr(platt, name) for name in ("slope", "intercept")}
        kind = {"calibrator": "isotonic" if platt is None else "platt"}
        feedback = None if self.feedback is None else {"prior": self.feedback.prior}
        extra = {"feedback": feedback, "domain": None if self.domain is None else self.domain.metadata()}
        extra |= {"source": self.source, "certificate": self.certificate and self.certificate.to_dict()}
        return {"format": _FORMAT} | {name: getattr(self, name) for name in _FACTS} | kind | curve | extra

    def tensors(self) -> dict[str, np.ndarray]:
        """Return copies of the arrays: "scores", "labels", those of the calibrator, of the feedback, of the domain."""
        arrays: dict[str, np.ndarray] = {"scores": self.scores.copy(), "labels": self.labels.copy()}
        if isinstance(self.calibrator, Isotonic):
            arrays["knots"] = self.calibrator.knots.copy()
            arrays["probabilities"] = self.calibrator.probabilities.copy()
        if self.feedback is not None:
            arrays |= {f"feedback_{name}": getattr(self.feedback, name).copy() for name in ("scores", "labels")}
        if self.domain is not None:
            arrays |= {f"domain_{name}": array for name, array in self.domain.tensors().items()}
        return arrays

    @classmethod
    def restore(cls, metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Decision:
        """Return the decision that gave this metadata and these tensors.

        Raises:
            ValueError: if a part is missing, or a newer version of textsiam wrote it.
        """
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"decision has format {metadata.get('format')!r}, this version reads {_FORMAT}")
        try:
            if metadata["calibrator"] == "platt":
                calibrator: Calibrator = Platt(slope=metadata["slope"], intercept=metadata["intercept"])
            elif metadata["calibrator"] == "isotonic":
                calibrator = Isotonic(np.array(tensors["knots"]), np.array(tensors["probabilities"]))
            else:
                raise ValueError(f"calibrator is {metadata['calibrator']!r}, expected 'platt' or 'isotonic'")
            facts = {name: metadata[name] for name in _FACTS}
            if (kept := metadata.get("feedback")) is not None:  # decisions of 0.1 have none of these
                facts["feedback"] = Feedback(tensors["feedback_scores"], tensors["feedback_labels"], kept["prior"])
            if (kept := metadata.get("domain")) is not None:
                own = {name.removeprefix("domain_"): array for name, array in tensors.items()}
                facts["domain"] = Domain.restore(kept, own)
            if (kept := metadata.get("certificate")) is not None:
                facts["certificate"] = Certificate.restore(kept)
            facts["source"] = metadata.get("source")
            return cls(calibrator=calibrator, scores=tensors["scores"], labels=tensors["labels"], **facts)
        except KeyError as missing:
            raise ValueError(f"the stored decision has no {missing}: the file is incomplete") from None


def fit_decision(
    scores: ArrayLike, labels: ArrayLike, *, rule: Rule = "f1", prior: float | None = None, seed: int = 0
) -> Decision:
    """Learn a decision from the calibration pairs: a calibrator, and a threshold by the rule.

    Args:
        scores: (n,) similarities, larger is closer, of pairs that took no part in training.
        labels: (n,) 1 duplicate, 0 not.
        rule: what the threshold maximises, "f1" or "accuracy"; `Decision.at_precision` gives other ones.
        prior: the share of duplicates where the twin will be used; by default that of the labels.
        seed: of the folds that choose between Platt scaling and isotonic regression.

    Raises:
        ValueError: if a score is not finite, a label is not 0 or 1, a class has fewer than five pairs, or
            the scores rank the classes upside down.

    Example:
        >>> fit_decision([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], [0] * 5 + [1] * 5).rule
        'f1'
    """
    values = finite_scores(np.asarray(scores, dtype=np.float32), name="calibration score")
    if values.ndim != 1:
        raise ValueError(f"calibration scores must be one-dimensional, got shape {values.shape}")
    checked = binary_labels(labels, count=values.size)
    calibrator = fit_calibrator(values, checked, seed=seed)
    share = float(checked.mean()) if prior is None else check_fraction(prior, name="prior")
    stored = values.astype(np.float32)
    threshold = best_threshold(stored, checked, rule=rule, prior=share)
    return Decision(threshold=threshold, rule=rule, prior=share, calibrator=calibrator, scores=stored, labels=checked)
