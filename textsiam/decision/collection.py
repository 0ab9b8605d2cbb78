"""When a score means "duplicate" between any two texts of a collection; and how decisions are saved."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from textsiam.decision.calibration import from_log_odds, log_odds
from textsiam.decision.decision import Decision
from textsiam.decision.thresholds import strictest_threshold

Tell = Callable[[str], None]
"""Says something to whoever should know it."""


def warn(message: str) -> None:
    """Give a `UserWarning`, as from the code that called the library."""
    warnings.warn(message, stacklevel=4)


@dataclass(frozen=True, eq=False)
class CollectionDecision:
    """When a score means "duplicate" between any two texts of a collection, rather than between picked pairs.

    Pairs that people label were picked because they look alike. Among *all* pairs of a collection nearly every pair
    is unrelated, and the more texts there are, the more unrelated pairs reach any given score: each text has about
    as many duplicates as before, but more strangers. So the share of duplicates falls as 1/n, and the threshold must
    rise with n.

    Attributes:
        decision: Fitted on all pairs among the calibration texts.
        texts: How many texts those were.
    """

    decision: Decision
    texts: int

    def among(self, texts: int, *, tell: Tell = warn) -> Decision:
        """Return the decision for all pairs among this many texts: prior = base rate · (calibration texts / texts).

        Where so many texts put the target precision out of reach, the threshold is the strictest one known, and the
        target the precision that it still has.

        Args:
            texts: How many, at least 2.
            tell: Is told when the target is out of reach, and what is promised instead.
        """
        own = self.decision
        if own.certificate is not None:  # its pairs were drawn from the candidates: their odds fall as 1/n
            odds = log_odds(own.base_rate) + np.log(self.texts / max(texts, 2))
            return own if texts == self.texts else own.with_prior(float(from_log_odds(odds)))
        prior = min(own.base_rate * self.texts / max(texts, 2), 0.5)
        try:
            return own.with_prior(prior)
        except ValueError:
            if own.target is None or own.confidence is None:
                raise
        if own.feedback is not None:
            threshold, promised = own.feedback.strictest_threshold(confidence=own.confidence, prior=prior)
        else:
            threshold, promised = strictest_threshold(own.scores, own.labels, prior=prior, confidence=own.confidence)
        tell(
            f"a precision of {own.target:g} cannot be promised among {texts:,} texts: the threshold is the strictest "
            f"one known, {threshold:.4f}, which promises {promised:.2g}; calibrate on more pairs to promise more"
        )
        return replace(own, threshold=threshold, prior=prior, target=promised)


def store_decisions(
    decision: Decision | None, collection: CollectionDecision | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what is saved of both decisions: facts for JSON under "decision" and "collection", and arrays."""
    both = {"decision": decision, "collection": None if collection is None else collection.decision}
    facts: dict[str, Any] = {name: None if one is None else one.metadata() for name, one in both.items()}
    if collection is not None:
        facts["collection"] = {"texts": collection.texts, "decision": facts["collection"]}
    arrays = {f"{n}.{part}": a for n, one in both.items() if one is not None for part, a in one.tensors().items()}
    return facts, arrays


def restore_decisions(
    facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[Decision | None, CollectionDecision | None]:
    """Return the decisions that `store_decisions` made these facts and arrays of.

    Raises:
        KeyError: The facts lack a part.
        ValueError: As for `Decision.restore`.
    """

    def restored(metadata: Mapping[str, Any] | None, prefix: str) -> Decision | None:
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        return None if metadata is None else Decision.restore(metadata, own)

    decision, collection = restored(facts["decision"], "decision."), facts.get("collection")
    if collection is None or (of_pairs := restored(collection["decision"], "collection.")) is None:
        return decision, None
    return decision, CollectionDecision(of_pairs, collection["texts"])
