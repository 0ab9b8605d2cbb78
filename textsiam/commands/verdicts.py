"""What is told of flagged pairs: how many are right, proven or estimated, and where that cannot be said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textsiam.commands.options import PICKED
from textsiam.terminal import warn

if TYPE_CHECKING:
    from textsiam.data.texts import Texts
    from textsiam.decision.certificate import Certificate
    from textsiam.decision.decision import Decision
    from textsiam.decision.domain import DomainShift
    from textsiam.decision.estimate import CollectionEstimate
    from textsiam.labelling.pure_clusters import PureClusters
    from textsiam.labelling.session import Session
    from textsiam.models.scorer import Scorer
    from textsiam.search.duplicates import Duplicates


@dataclass
class Told:
    """What else is known of flagged pairs, and told."""

    shift: DomainShift | None = None
    estimate: CollectionEstimate | None = None
    certificate: Certificate | None = None
    pure_clusters: PureClusters | None = None
    picked: bool = False

    def facts(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "estimated_prior": None if self.estimate is None else self.estimate.prior,
            "certificate": self.certificate and self.certificate.to_dict(),
            "pure_clusters": self.pure_clusters and self.pure_clusters.to_dict(),
            "picked_pairs": PICKED if self.picked else None,
        }

    def sentences(self) -> list[str]:
        """Return what is proven, and what is estimated of clusters."""
        pure = [] if self.pure_clusters is None else [str(self.pure_clusters)]
        return ([] if self.certificate is None else self.certificate.sentences()) + pure


def certified(twin: Scorer, read: Texts, decision: Decision | None, found: Duplicates) -> Certificate | None:
    """Return what a decision that the model kept proves of flagged pairs; where it is so of others only, say so."""
    if decision is None or decision.certificate is None:
        return None
    from textsiam.data.texts import texts_digest
    from textsiam.search.gallery_folder import scorer_fingerprint

    certificate = decision.certified(scorer_fingerprint(twin), texts_digest(read.texts))
    # an approximate search finds others, and so does one that gives more pairs a second look
    if certificate is None or found.distinct != certificate.pairs:
        warn((f"nothing is certified of what is flagged here: the decision was {decision.learned_from}",))
        return None
    return certificate


def pure_of(session: Session, found: Duplicates) -> PureClusters:
    """Estimate how many of the clusters are wholly right."""
    from textsiam.labelling.pure_clusters import pure_clusters_of

    return pure_clusters_of(session, found.clusters, found.threshold)


def estimated(
    found: Duplicates, decision: Decision | None, pairs: int, prior: float | None, copies: int
) -> tuple[Duplicates, CollectionEstimate | None]:
    """Return what was found with probabilities for a collection, where the decision knows picked pairs only."""
    from textsiam.decision.estimate import estimate_collection
    from textsiam.search.join.sorted_pairs import Blocks

    if decision is None:
        return found, None
    scores = Blocks(lambda: (block[2] for block in found.blocks()))
    estimate = estimate_collection(decision, scores, pairs=pairs, prior=prior, copies=copies)
    return (found if estimate is None else found.with_probability(estimate.probability)), estimate


def expected_share(found: Duplicates, shift: DomainShift | None, estimate: CollectionEstimate | None) -> str:
    """Say how many of the flagged pairs are right, as far as that can be known without labels."""
    right = sum(float(block[3].sum()) for block in found.blocks())
    if not len(found) or right != right:
        return ""
    if estimate is not None:
        return f"; about {right / len(found):.0%} of them are right, by an estimate without labels"
    if shift is not None:
        return "; how many of them are right cannot be told without labels"
    return f"; about {right / len(found):.0%} of them are expected to be right"
