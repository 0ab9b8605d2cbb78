"""The losses: pure functions, embeddings and labels in, a scalar out; and the terms that a config names.

Conventions, the same in every function:

* label 1 = duplicate, 0 = not. Some sources write it the other way round; passing their labels trains the
  opposite of what is wanted, which no code can notice, so the convention is stated wherever labels enter.
* distances: smaller = closer.
* every loss is a mean (CoSENT: the logarithm of a sum), so that the learning rate does not depend on the batch size.
* a mean over nothing is 0, with a gradient of 0: every process must take part in the backward pass.
"""

# ruff: noqa: F401 (whoever takes a loss by its name need not know its file)
from __future__ import annotations

from textsiam.legacy.names import old_names
from textsiam.training.losses.classifier import HeadLoss, SoftmaxLoss, head_loss, pair_softmax
from textsiam.training.losses.distillation import DistillationLoss
from textsiam.training.losses.in_batch import BatchTripletLoss
from textsiam.training.losses.pairwise import (
    ContrastiveLoss,
    CoSENTLoss,
    OnlineContrastiveLoss,
    contrastive,
    cosent,
    online_contrastive,
)
from textsiam.training.losses.ranking import (
    AngularLoss,
    InfoNCELoss,
    NPairLoss,
    TripletLoss,
    angular,
    info_nce,
    n_pair,
    symmetric_info_nce,
    triplet,
)
from textsiam.training.losses.simcse import SimCSELoss
from textsiam.training.losses.terms import Term

LOSSES: dict[str, type[Term]] = {
    "contrastive": ContrastiveLoss,
    "online_contrastive": OnlineContrastiveLoss,
    "triplet": TripletLoss,
    "info_nce": InfoNCELoss,
    "cosent": CoSENTLoss,
    "softmax": SoftmaxLoss,
    "n_pair": NPairLoss,
    "angular": AngularLoss,
    "batch_triplet": BatchTripletLoss,
    "head": HeadLoss,
    "simcse": SimCSELoss,
    "distillation": DistillationLoss,
}
"""What the section `loss` of a config may name, besides the dotted path of a `Term` of the user's own."""

__getattr__ = old_names(__name__)  # this was a module in 0.1
