"""The knobs of a training run, and of mining."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from textsiam.images.augmentation import Augment
from textsiam.legacy.config import without_epochs
from textsiam.legacy.names import OldAttribute, old_arguments, old_names
from textsiam.media.augmentation import Augmentation
from textsiam.modality import described
from textsiam.sounds.augmentation import SoundAugment
from textsiam.training.knobs import at_least_one, below_one, check_knobs, knob, not_negative, positive, share

if TYPE_CHECKING:
    import torch

FREE_ON_RESUME = {"keep_checkpoints", "log_every", "tracker", "checkpoint_every"}

LEXICAL = "lexical"  # instead of a cross-encoder

Category = Literal["random", "easy", "semi-hard", "hard"]
Whitening = Literal["angle", "distance"]
"""What the cosine of whitened vectors is to count: their directions from the mean, or how far apart they lie."""


@dataclass(frozen=True)
class Mining:
    """Which negatives are mined: texts n for a pair of duplicates, anchor a and positive p, by their distances d.

    Attributes:
        category: "hard": `d(a,n) < d(a,p)`; "semi-hard": `d(a,p) < d(a,n) < d(a,p) + margin`; "easy":
            `d(a,n) > d(a,p) + margin`; "random": any.
        negatives: How many for each pair.
        margin: In the unit of the distance.
        rank_from: Draw from the anchor's nearest texts, this one to that of `rank_to` (1 = the nearest outside its
            cluster), those of the category. None takes the nearest of the category.
        rank_to: The last rank; both or none are given.
        positive_share: A text is too similar where its similarity is above this share of the positive's (so many
            are duplicates that nobody has labelled). None lets all pass.
        max_similarity: A text is too similar above this similarity.
        check_above: A text is dropped where a check holds it for a duplicate with a greater probability than this.
    """

    category: Category = "semi-hard"
    negatives: int = at_least_one(1)
    margin: float = positive(0.1)
    rank_from: int | None = None
    rank_to: int | None = None
    positive_share: float | None = knob(None, "in (0, 1]", lambda x: 0 < x <= 1)
    max_similarity: float | None = None
    check_above: float = knob(0.5, "in [0, 1]", lambda x: 0 <= x <= 1)

    def __post_init__(self) -> None:
        if self.category not in get_args(Category):
            raise ValueError(f"category must be one of {', '.join(get_args(Category))}, got {self.category!r}")
        check_knobs(self)
        if (self.rank_from is None) != (self.rank_to is None):
            raise ValueError("rank_from and rank_to go together: give both or none")
        if self.rank_from is not None and self.rank_to is not None and not 1 <= self.rank_from <= self.rank_to:
            raise ValueError(f"ranks must satisfy 1 <= rank_from <= rank_to, got {self.rank_from} to {self.rank_to}")


@dataclass(frozen=True)
class EpochMining(Mining):
    """What is mined before the first epoch, and again every few epochs with the weights of then.

    Attributes:
        every: Epochs until negatives are mined again.
        as_pairs: Share of every batch that is made of mined pairs, labelled "no duplicates": for losses that read
            pairs. (Losses that read triplets get the mined negatives anyway.)
        check: Folder or Hub id of a cross-encoder that is asked about candidates; None asks none.
    """

    every: int = at_least_one(1)
    as_pairs: float = below_one(0.0)
    check: str | None = None


@old_arguments(accumulation="gradient_accumulation_steps", average="ema_decay", runs="seeds", leave_out="cross_fit")
@dataclass(frozen=True)
class Settings:
    """Knobs of a training run.

    Attributes:
        epochs: Passes over the pairs.
        max_steps: Stop after this many optimizer steps, whatever `epochs` says; 0 trains nothing, but learns the
            whitening and the decision.
        batch_size: Pairs of one optimizer step, over all processes and accumulated batches.
        duplicate_share: Share of duplicates in every batch: pairs of the rarer class come up more often. None takes the
            pairs as they are.
        per_cluster: Inputs that each cluster of a batch brings, an even number K, from 2 · batch_size / K clusters (P×K
            sampling): for losses over all inputs of a batch. None takes pairs as they come.
        augment: How images or sounds are changed for training: the knobs of an `Augment` or `SoundAugment`, one of the
            user's own as `module.name` or `{module.name: {knobs}}` (`textsiam.config.augment.build_augment` makes it),
            or a list of them. None leaves them as they are.
        mine: Negatives that are mined over the whole corpus as training goes on; None draws them at random.
        gradient_accumulation_steps: Batches that one step is made of. In-batch losses see one of them at a time.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Decay of matrices; biases and norms are spared.
        warmup: Share of the steps in which the learning rate rises from 0.
        schedule: How the learning rate falls afterwards.
        max_gradient_norm: Gradients longer than this are scaled down; None leaves them.
        ema_decay: Decay per step of a running mean of the weights that is validated and saved instead of the last
            weights; None saves the last weights.
        trained_share: Share of the trained weights in what is validated and saved; the rest are those that training
            started from (WiSE-FT, Wortsman et al. 2022, "Robust Fine-Tuning of Zero-Shot Models"). None takes the
            trained ones alone.
        whitening: At the end, whiten vectors by what training inputs of one class differ in, so that the cosine counts
            the "angle" or the "distance" between them: see `textsiam.training.weights.whitening.whiten`.
        seeds: Train so many times, with the seeds `seed`, `seed + 1` and so on, and average the weights.
        cross_fit: Share of the pairs that each of several runs leaves out, each another part and no question in two:
            what is learned about the twin's scores can be learned from those pairs then. None leaves out nothing.
        precision: Number format of the forward pass: "fp32", "bf16", "fp16", or "auto": bf16 where the hardware
            has it.
        token_budget: Largest padded size of a chunk, in tokens. None picks it for the device: 1,536 on a CPU, whose
            caches hold no more (768 where a thread or a process has a chunk of its own), 65,536 elsewhere. With FSDP a
            batch is one chunk, whatever this says.
        gradient_cache: Trade time for memory: chunks are encoded twice, and only one of them (of each thread) keeps its
            activations at a time, so that the batch may be as large as the embeddings allow. The gradients are the same
            up to rounding.
        gradient_checkpointing: Trade time for memory: activations are computed again in the backward pass.
        compile: Compile the towers with `torch.compile`.
        validate_every: Steps between validations; None validates after each epoch.
        patience: Validations without a better average precision until training stops; None never stops early.
        checkpoint_every: Steps between checkpoints; None writes one at each validation.
        keep_checkpoints: How many checkpoints stay on disk.
        log_every: Steps between log records.
        tracker: Where log records go besides history.jsonl: a tracker that Accelerate knows, "auto" (TensorBoard
            where it is installed) or "none".
        seed: Seed of everything random.
    """

    epochs: int = at_least_one(1)
    max_steps: int | None = not_negative(None)
    batch_size: int = at_least_one(128)
    duplicate_share: float | None = share(None)
    per_cluster: int | None = None
    augment: Augment | SoundAugment | str | dict[str, Any] | list[Any] | Callable[..., Any] | None = None
    mine: EpochMining | None = None
    gradient_accumulation_steps: int = at_least_one(1)
    learning_rate: float = positive(5e-5)
    weight_decay: float = not_negative(0.01)
    warmup: float = below_one(0.1)
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    max_gradient_norm: float | None = positive(1.0)
    ema_decay: float | None = below_one(None)
    trained_share: float | None = share(None)
    whitening: Whitening | None = None
    seeds: int = at_least_one(1)
    cross_fit: float | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    token_budget: int | None = at_least_one(None)
    gradient_cache: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False
    validate_every: int | None = at_least_one(None)
    patience: int | None = at_least_one(None)
    checkpoint_every: int | None = at_least_one(None)
    keep_checkpoints: int = at_least_one(2)
    log_every: int = at_least_one(10)
    tracker: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_knobs(self)
        highest = 2**32 - self.seeds  # numpy takes 32 bits, and each run has a seed of its own
        if not 0 <= self.seed <= highest:
            raise ValueError(f"seed must be from 0 to {highest}, got {self.seed}")
        if self.cross_fit is not None and (self.seeds < 2 or not 0 < self.cross_fit <= 1 / self.seeds):
            raise ValueError(
                f"cross_fit must be a share of at most 1 / seeds, with 2 seeds or more, got {self.cross_fit} "
                f"with {self.seeds}"
            )
        if self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}"
            )

    def budget_on(self, device: torch.device, threads: int = 0) -> int:
        """Return the largest padded size of a chunk on a device, in tokens; of each thread, if there are any."""
        return self.token_budget or (65_536 if device.type != "cpu" else 768 if threads else 1536)

    @property
    def augmentations(self) -> list[Augmentation]:
        """What changes images or sounds, one after the other.

        Raises:
            ValueError: One is not built yet.
        """
        given = self.augment if isinstance(self.augment, (list, tuple)) else [self.augment]
        made: list[Any] = [each for each in given if each is not None]
        if names := [each for each in made if isinstance(each, (str, dict))]:
            raise ValueError(f"augment: {names[0]!r} is not made yet: textsiam.config.augment.build_augment does it")
        return made

    accumulation = OldAttribute("gradient_accumulation_steps")
    average = OldAttribute("ema_decay")
    runs = OldAttribute("seeds")
    leave_out = OldAttribute("cross_fit")

    def to_dict(self) -> dict[str, Any]:
        """Return the knobs as plain values."""
        return asdict(replace(self, augment=described(self.augment)))

    def of_further_set(self) -> Settings:
        """Return the same for a set beside the first: batches of the same size, of pairs as they come."""
        size = self.batch_size // self.gradient_accumulation_steps
        plain: dict[str, Any] = dict.fromkeys(("duplicate_share", "per_cluster", "mine"))
        return replace(self, **plain, batch_size=size, gradient_accumulation_steps=1)

    def identity(self) -> dict[str, Any]:
        """Return what must be the same when a run resumes: all that touches the weights."""
        return {k: v for k, v in self.to_dict().items() if k not in FREE_ON_RESUME}


@old_arguments(wording="lexical_features")
@dataclass(frozen=True)
class RerankerSettings:
    """Knobs of a reranker: a cross-encoder that is asked where the twin is in doubt.

    Attributes:
        model: A cross-encoder, or a backbone to make one of, by folder or Hub id; None takes the trained twin's. The
            word `lexical` asks no cross-encoder, and has the lexical features alone weighed against the twin's score.
        epochs: Passes over the training pairs.
        learning_rate: Peak learning rate of AdamW.
        batch_size: Pairs of one step of one process.
        max_tokens: Cut a pair after this many tokens, at most those that the model has positions for; None keeps the
            model's own limit.
        duplicate_share: Share of duplicates that it is trained on: pairs of the rarer label come up more often. None
            takes pairs as they come.
        band: Probabilities of the twin alone between which the reranker is asked.
        lexical_features: Learn too how far twin and reranker can be trusted, by the words that a pair shares;
            `lexical` always does.
    """

    model: str | None = "sentence-transformers/all-MiniLM-L6-v2"
    epochs: int = 1
    learning_rate: float = positive(5e-5)
    batch_size: int = at_least_one(32)
    max_tokens: int | None = at_least_one(128)
    duplicate_share: float | None = share(None)
    band: tuple[float, float] = (0.1, 0.9)
    lexical_features: bool = False

    def __post_init__(self) -> None:
        for name, value in without_epochs(self.epochs, lexical_features=self.lexical_features).items():
            object.__setattr__(self, name, value)
        if self.model == LEXICAL:
            object.__setattr__(self, "lexical_features", True)
        if self.epochs < 1:
            raise ValueError(f"epochs must be >= 1, got {self.epochs}; for no cross-encoder, model is {LEXICAL!r}")
        check_knobs(self)
        if not 0 < self.band[0] < self.band[1] < 1:
            raise ValueError(f"band must be two probabilities that rise, got {tuple(self.band)}")


__getattr__ = old_names(__name__)
