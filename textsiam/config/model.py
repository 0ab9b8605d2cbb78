"""The configuration of the twin itself, and how one is built of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from textsiam.data.tables.columns import NOUNS, Modality
from textsiam.dotted import made
from textsiam.inference.lora import LoraConfig
from textsiam.training.knobs import at_least_one, check_knobs
from textsiam.yamlfile import ConfigError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from textsiam.data.pairs import Pairs
    from textsiam.models.learned import Head
    from textsiam.models.twin import Twin

DistanceName = Literal["cosine", "euclidean", "squared_euclidean", "manhattan", "angular"]


@dataclass(frozen=True)
class ScratchConfig:
    """A small transformer without pretrained weights; its vocabulary is learned from the training texts."""

    vocabulary: int = at_least_one(8192)
    hidden: int = at_least_one(128)
    layers: int = at_least_one(2)
    heads: int = at_least_one(2)

    def __post_init__(self) -> None:
        check_knobs(self)


@dataclass(frozen=True)
class ScratchImageConfig:
    """A small CNN without pretrained weights; see `textsiam.inference.scratch.scratch_image_encoder`.

    Attributes:
        size: Side of the square that images are resized to, in pixels.
        channels: 1 for grey, 3 for colour.
        widths: Channels of each stage.
        depths: Blocks of each stage.
        grid: Rows and columns of a grid whose cells are averaged one by one; None averages the whole picture.
    """

    size: int = 28
    channels: int = 1
    widths: list[int] = field(default_factory=lambda: [32, 64, 128])
    depths: list[int] = field(default_factory=lambda: [1, 1, 1])
    grid: list[int] | None = None


@dataclass(frozen=True)
class ScratchSoundConfig:
    """A small CNN on log-mel spectrograms; see `textsiam.inference.scratch.scratch_sound_encoder`.

    Attributes:
        rate: Samples a second that sounds are resampled to.
        bands: Mel bands of the spectrogram.
        widths: Channels of each stage.
        depths: Blocks of each stage.
    """

    rate: int = 16_000
    bands: int = 40
    widths: list[int] = field(default_factory=lambda: [32, 64, 128])
    depths: list[int] = field(default_factory=lambda: [1, 1, 1])


@dataclass(frozen=True)
class HeadConfig:
    """A learned metric that scores the pairs; `loss.head` trains it. See `textsiam.models.learned`.

    Attributes:
        kind: A perceptron on what two embeddings share and what sets them apart, or a Mahalanobis distance.
        hidden: Hidden units of the perceptron.
        dropout: Share of them that training leaves out.
        rank: Rank of the Mahalanobis matrix; None is full.
        diagonal: Keep the Mahalanobis matrix diagonal.
    """

    kind: Literal["mlp", "mahalanobis"] = "mlp"
    hidden: int = 256
    dropout: float = 0.1
    rank: int | None = None
    diagonal: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """What the twin is made of.

    Attributes:
        left: Backbone or saved tower, by folder or Hub id.
        right: Another one for right texts (asymmetric twin); None shares `left`.
        left_prompt: What stands before each left text; None keeps what the tower comes with.
        right_prompt: The same for right texts, "" for none. If nothing else differs, the sides share all weights.
        shared_layers: How many layers of the transformer, counted from below, both sides of an asymmetric twin share.
        scratch: Build `left` from scratch instead: a transformer for texts.
        scratch_image: The same for images: a CNN.
        scratch_sound: The same for sounds: a CNN on spectrograms.
        builder: Have `left` built by a function or class of the user's own, which returns a `SentenceTransformer`:
            `module.name` or `{module.name: {knobs}}`.
        pooling: How token vectors become one; None keeps what a saved tower has, and is mean otherwise.
        dim: Project to this many dimensions; None keeps the width of the backbone.
        max_tokens: Cut texts after this many tokens, fewer than the model does; None keeps its own limit (128 for a
            tower from scratch).
        image_size: Resize images to a square of this side, in pixels; None keeps what the model comes with.
        distance: What scores come from; None takes what the model asks for, the cosine unless it says otherwise.
        head: A learned metric that scores the pairs instead; candidates are still found by the distance.
        lora: Train the backbone by adapters of low rank alone, which are merged into it at the end.
        trust_remote_code: Run code that comes with a model.
    """

    left: str = "sentence-transformers/all-MiniLM-L6-v2"
    right: str | None = None
    left_prompt: str | None = None
    right_prompt: str | None = None
    shared_layers: int | Literal["all"] | None = None
    scratch: ScratchConfig | None = None
    scratch_image: ScratchImageConfig | None = None
    scratch_sound: ScratchSoundConfig | None = None
    builder: str | dict[str, Any] | None = None
    pooling: Literal["mean", "cls", "max", "weightedmean", "lasttoken"] | None = None
    dim: int | None = None
    max_tokens: int | None = None
    image_size: int | None = None
    distance: DistanceName | None = None
    head: HeadConfig | None = None
    lora: LoraConfig | None = None
    trust_remote_code: bool = False

    @property
    def from_scratch(self) -> bool:
        """Whether the left tower has no pretrained weights."""
        return any(getattr(self, way) is not None for way in SCRATCH.values())


SCRATCH: dict[Modality, str] = {"text": "scratch", "image": "scratch_image", "audio": "scratch_sound"}
"""The key that builds a tower of each modality without pretrained weights."""


def check_model(config: ModelConfig, *, modality: Modality | None = None) -> None:
    """Check what can be said of a model before it is opened.

    Args:
        config: The section `model`.
        modality: What the data are; None says nothing of that.

    Raises:
        ConfigError: Two ways to build the left tower are given, or one for other inputs than the data are.
        ModelError: A folder is not there.
    """
    from textsiam.inference.encoders import MINILM_NAMES, resolve

    ways = (*SCRATCH.values(), "builder")
    if len(given := [f"model.{way}" for way in ways if getattr(config, way) is not None]) > 1:
        raise ConfigError(f"{' and '.join(given)} each build the left tower: give one of them")
    if config.scratch is not None:
        _check_scratch(config, config.scratch)
    for name in (None if given else config.left, config.right):
        if name is not None:
            resolve(name)
    texts = config.scratch is not None or (not given and config.left in MINILM_NAMES)
    if texts and modality not in (None, "text"):
        raise ConfigError(
            f"model: reads texts, but data.train holds {NOUNS[modality]}: give model.{SCRATCH[modality]}, or a "
            f"backbone that takes {NOUNS[modality]} as model.left"
        )
    for reads, way in SCRATCH.items():
        if modality not in (None, reads) and getattr(config, way) is not None and reads != "text":
            raise ConfigError(f"model.{way}: reads {NOUNS[reads]}, but data.train holds none")


def _check_scratch(config: ModelConfig, scratch: ScratchConfig) -> None:
    if scratch.hidden % scratch.heads:
        raise ConfigError(f"model.scratch.hidden must be a multiple of heads, got {scratch.hidden} and {scratch.heads}")
    if config.pooling not in (None, "mean"):
        raise ConfigError(f"model.pooling: a tower from scratch has mean pooling, got {config.pooling!r}")
    if config.max_tokens is not None and config.max_tokens < 3:
        raise ConfigError(f"model.max_tokens must be >= 3 (two are special), got {config.max_tokens}")
    if config.image_size is not None:
        raise ConfigError("model.image_size: model.scratch reads texts")


def build_twin(config: ModelConfig, train: Pairs, *, device: str | None = None, seed: int = 0) -> Twin:
    """Build the twin of a run.

    Raises:
        ModelError: A model cannot be found, or an option does not fit it.
        ConfigError: The builder cannot be imported, or returns something else.
    """
    import torch

    from textsiam.inference.encoders import encoder, open_tower
    from textsiam.inference.lora import lora_targets
    from textsiam.models.asymmetric import by_side, of_one_kind, sides
    from textsiam.models.folder import own_distance
    from textsiam.models.twin import Twin
    from textsiam.training.weights.parameters import require_trainable

    def tower(of: Any) -> Any:
        return encoder(
            of,
            pooling=config.pooling,
            dim=config.dim,
            max_tokens=config.max_tokens,
            size=config.image_size,
            device=device,
            trust_remote_code=config.trust_remote_code,
        )

    right = None
    check_model(config)
    if config.builder is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            built = made(config.builder, "model.builder")
            torch.manual_seed(seed + 1)
            left = tower(built)
    elif config.from_scratch:
        left = _from_scratch(config, train, device=device, seed=seed)
    else:
        opened = open_tower(config.left, device=device, trust_remote_code=config.trust_remote_code)
        if config.right is None and config.left_prompt is None and config.right_prompt is None:
            queries, documents = by_side(opened)
            left, right = tower(queries), None if documents is None else tower(documents)
        else:
            left = tower(of_one_kind(opened))
    if config.right is not None:
        right = tower(config.right)
    differences = {"left_prompt": config.left_prompt, "right_prompt": config.right_prompt}
    towers = sides(left, right, shared_layers=config.shared_layers, **differences)
    twin = Twin(*towers, distance=config.distance or own_distance(left), lora=config.lora)
    if config.lora is not None:
        for each in twin.towers:
            lora_targets(each, config.lora)
    if config.head is not None:
        twin.head = build_head(config.head, twin.dim, seed=seed).to(twin.left.device)
    require_trainable(twin)
    return twin


def _from_scratch(config: ModelConfig, train: Pairs, **options: Any) -> SentenceTransformer:
    """Build the left tower without pretrained weights."""
    from textsiam.inference.scratch import scratch_image_encoder, scratch_sound_encoder, scratch_text_encoder

    options["dim"] = config.dim
    if config.scratch_image is not None:
        return scratch_image_encoder(**asdict(config.scratch_image), **options)
    if config.scratch_sound is not None:
        return scratch_sound_encoder(**asdict(config.scratch_sound), **options)
    size = asdict(config.scratch or ScratchConfig())
    return scratch_text_encoder(
        train.texts, **size, max_tokens=128 if config.max_tokens is None else config.max_tokens, **options
    )


def build_head(config: HeadConfig, dim: int, *, seed: int = 0) -> Head:
    """Build the head of a twin whose vectors have `dim` dimensions.

    Raises:
        ValueError: A rank that does not fit.
    """
    import torch

    from textsiam.models.learned import Mahalanobis, PairHead

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if config.kind == "mahalanobis":
            return Mahalanobis(dim, rank=config.rank, diagonal=config.diagonal)
        return PairHead(dim, hidden=config.hidden, dropout=config.dropout)
