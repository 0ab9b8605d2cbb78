"""The triplet loss of pytorch-metric-learning as a loss of a config: the same CNN, batches and steps as ours."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from textsiam.training.losses.terms import Embedded, Term, Texts


@dataclass(frozen=True)
class PeerTriplet(Term):
    """`TripletMarginLoss` with semi-hard triplets of a batch by cosine similarity, as in its README."""

    margin: float = 0.2
    positives_only = True

    def __call__(self, batch: Embedded) -> Tensor:
        """Return the loss of a batch."""
        from pytorch_metric_learning.distances import CosineSimilarity
        from pytorch_metric_learning.losses import TripletMarginLoss
        from pytorch_metric_learning.miners import TripletMarginMiner

        given = Texts.joined(batch.left, batch.right)
        distance = CosineSimilarity()
        miner = TripletMarginMiner(margin=self.margin, distance=distance, type_of_triplets="semihard")
        triplets = miner(given.embeddings.float(), given.clusters)
        return TripletMarginLoss(self.margin, distance=distance)(given.embeddings.float(), given.clusters, triplets)
