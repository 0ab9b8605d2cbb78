"""The losses of a config: one dataclass for the knobs of each, and `build_objective`, where they stop."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from textsiam.yamlfile import ConfigError

if TYPE_CHECKING:
    from textsiam.models.learned import Head
    from textsiam.training.objective import Objective

DistanceName = Literal["cosine", "euclidean", "squared_euclidean", "manhattan", "angular"]


@dataclass(frozen=True)
class ContrastiveConfig:
    """See `textsiam.training.losses.contrastive`."""

    weight: float = 1.0
    margin: float = 0.5
    distance: DistanceName = "cosine"
    form: Literal["margin_minus_distance", "squared_margin"] = "margin_minus_distance"


@dataclass(frozen=True)
class OnlineContrastiveConfig:
    """See `textsiam.training.losses.online_contrastive`."""

    weight: float = 1.0
    margin: float = 0.5
    distance: DistanceName = "cosine"


@dataclass(frozen=True)
class CoSENTConfig:
    """See `textsiam.training.losses.cosent`."""

    weight: float = 1.0
    temperature: float = 0.05
    distance: DistanceName = "cosine"


@dataclass(frozen=True)
class SoftmaxConfig:
    """See `textsiam.training.losses.pair_softmax`."""

    weight: float = 1.0


@dataclass(frozen=True)
class TripletConfig:
    """See `textsiam.training.losses.triplet`; over the triplets of a batch, `textsiam.training.batch_losses`."""

    weight: float = 1.0
    margin: float = 0.3
    distance: DistanceName = "cosine"
    soft: bool = False


@dataclass(frozen=True)
class DistanceWeightedConfig(TripletConfig):
    """See `textsiam.training.batch_losses.batch_distance_weighted`."""

    cutoff: float = 0.5
    far: float = 1.4


@dataclass(frozen=True)
class DebiasedTripletConfig(TripletConfig):
    """See `textsiam.training.batch_losses.debiased_triplet`."""

    select: Literal["hard", "semi_hard"] = "hard"
    balance: float = 1.0


@dataclass(frozen=True)
class InfoNCEConfig:
    """See `textsiam.training.terms.info_nce_term`."""

    weight: float = 1.0
    temperature: float = 0.05
    symmetric: bool = True
    hard_negatives: bool = False


@dataclass(frozen=True)
class NPairConfig:
    """See `textsiam.training.batch_losses.n_pair`."""

    weight: float = 1.0
    temperature: float = 1.0
    l2: float = 0.0


@dataclass(frozen=True)
class AngularConfig:
    """See `textsiam.training.batch_losses.angular`."""

    weight: float = 1.0
    degrees: float = 45.0


@dataclass(frozen=True)
class HeadTermConfig:
    """See `textsiam.training.heads.HeadTerm`; `model.head` says which head."""

    weight: float = 1.0
    frozen: bool = False


@dataclass(frozen=True)
class MatryoshkaConfig:
    """Leading widths at which all losses are taken.

    Attributes:
        widths: Dimensions that are kept; each at most those of the twin.
        weights: Weight of each width; None weighs them alike.
    """

    widths: list[int]
    weights: list[float] | None = None


@dataclass(frozen=True)
class MemoryConfig:
    """See `textsiam.training.memory.Memory`."""

    pairs: int = 1024


@dataclass(frozen=True)
class LossConfig:
    """The losses whose weighted sum is minimised; each is on when it is named.

    `matryoshka` and `memory` are no losses: they say at which widths, and with which further candidates, the losses
    are taken.
    """

    contrastive: ContrastiveConfig | None = None
    online_contrastive: OnlineContrastiveConfig | None = None
    triplet: TripletConfig | None = None
    info_nce: InfoNCEConfig | None = None
    cosent: CoSENTConfig | None = None
    softmax: SoftmaxConfig | None = None
    n_pair: NPairConfig | None = None
    angular: AngularConfig | None = None
    batch_all: TripletConfig | None = None
    batch_hard: TripletConfig | None = None
    batch_semi_hard: TripletConfig | None = None
    batch_easy: TripletConfig | None = None
    batch_random: TripletConfig | None = None
    batch_distance_weighted: DistanceWeightedConfig | None = None
    debiased_triplet: DebiasedTripletConfig | None = None
    head: HeadTermConfig | None = None
    matryoshka: MatryoshkaConfig | None = None
    memory: MemoryConfig | None = None


def build_objective(config: LossConfig, head: Head | None = None) -> Objective:
    """Build what a run minimises.

    Args:
        config: Which losses.
        head: That of the twin, for the term that trains it.

    Raises:
        ConfigError: No loss is named, widths and their weights do not match, or a head without its loss (or a loss
            without its head).
        ValueError: A weight, margin or temperature is not positive.
    """
    from textsiam.models.distances import distance_named
    from textsiam.training import batch_losses, miners, terms
    from textsiam.training.heads import HeadTerm
    from textsiam.training.memory import Memory
    from textsiam.training.objective import Objective

    over_pairs = {
        "contrastive": terms.contrastive_term,
        "online_contrastive": terms.online_contrastive_term,
        "triplet": terms.triplet_term,
        "info_nce": terms.info_nce_term,
        "cosent": terms.cosent_term,
        "softmax": terms.SoftmaxTerm,
        "n_pair": terms.n_pair_term,
        "angular": terms.angular_term,
    }
    in_batch = {
        "batch_all": batch_losses.batch_all,
        "batch_hard": batch_losses.batch_hard,
        "batch_semi_hard": batch_losses.batch_semi_hard,
        "batch_easy": partial(batch_losses.batch_triplet, miner=miners.easy),
        "batch_random": partial(batch_losses.batch_triplet, miner=miners.random_triplets),
        "batch_distance_weighted": batch_losses.batch_distance_weighted,
        "debiased_triplet": batch_losses.debiased_triplet,
    }
    chosen = {}
    for name in (*over_pairs, *in_batch):
        if (section := getattr(config, name)) is None:
            continue
        knobs = asdict(section)
        weight = knobs.pop("weight")
        if "distance" in knobs:
            knobs["distance"] = distance_named(knobs["distance"])
        made = (
            over_pairs[name](**knobs) if name in over_pairs else terms.in_batch_term(partial(in_batch[name], **knobs))
        )
        chosen[name] = (weight, made)
    if (config.head is None) != (head is None):
        there, missing = ("model.head", "loss.head") if config.head is None else ("loss.head", "model.head")
        raise ConfigError(f"{there} is set, but {missing} is not: a head is trained by its loss")
    if config.head is not None and head is not None:
        chosen["head"] = (config.head.weight, HeadTerm(head, frozen=config.head.frozen))
    if not chosen:
        raise ConfigError(f"loss: name at least one of {', '.join((*over_pairs, *in_batch, 'head'))}")
    memory = None if config.memory is None else Memory(config.memory.pairs)
    return Objective(chosen, memory=memory, widths=_widths(config.matryoshka))


def _widths(config: MatryoshkaConfig | None) -> dict[int, float] | None:
    if config is None:
        return None
    weights = config.weights or [1.0] * len(config.widths)
    if len(weights) != len(config.widths):
        raise ConfigError(f"loss.matryoshka: {len(config.widths)} widths, but {len(weights)} weights")
    return dict(zip(config.widths, weights, strict=True))
