"""What opening a saved tower takes care of: its classes and weights, how long its texts are, how wide its vectors."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from textsiam.inference.inputs import inputs_of_backbone
from textsiam.inference.tokens import token_limit

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.json")
_OWN_CLASSES = (  # that saved towers name
    "textsiam.sounds.encoder.LogMelCNN",
    "textsiam.images.pooling.GridPooling",
    "textsiam.images.pooling.StatisticsPooling",
)
# Copies of the weights for other libraries, which nothing here opens.
_OTHERS = ("*.bin.index.json", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ot", "coreml/*", "onnx/*", "openvino/*")
_OURS = ("textsiam.json", "ensemble.json")
_THEIRS = ("modules.json", "config.json")
_PATIENCE = 10.0  # seconds for the Hub to answer


def hub_errors() -> tuple[type[Exception], ...]:
    """Return what the Hub's library raises: also errors of the library that it sends requests by, whichever that is."""
    from huggingface_hub.errors import HfHubHTTPError

    return OSError, ValueError, HfHubHTTPError.__mro__[1]


def downloaded(repo: str, revision: str | None = None, token: str | None = None, local_files_only: bool = False) -> str:
    """Download a model of the Hub, or find what was downloaded before, and return its folder.

    Raises:
        OSError: It cannot be had; the message says why.
    """
    from huggingface_hub import snapshot_download

    how: dict[str, Any] = {"revision": revision, "token": token, "local_files_only": local_files_only}
    try:
        listing = Path(snapshot_download(repo, allow_patterns=list(_OURS), **how))
        ours = any((listing / name).exists() for name in _OURS)
        return snapshot_download(repo, ignore_patterns=None if ours else list(_OTHERS), **how)
    except hub_errors() as error:
        raise OSError(str(error)) from error


def reachable() -> bool:
    """Whether the Hub answers at all: its library would try each file for half a minute before it gives up."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except hub_errors():
        return False
    return True


def out_of_reach(name: str) -> bool:
    """Whether the Hub does not answer, and its cache holds nothing of a model; offline, its library says so itself."""
    from huggingface_hub import constants, try_to_load_from_cache

    places = [(repo, file) for repo in (name, f"sentence-transformers/{name}") for file in (*_OURS, *_THEIRS)]
    try:
        cached = any(isinstance(try_to_load_from_cache(*place), str) for place in places)
    except ValueError:  # no name that the Hub allows
        cached = False
    return not (constants.HF_HUB_OFFLINE or cached or reachable())


def saved_on_hub(name: str) -> str:
    """Return the folder of a twin or an ensemble on the Hub, downloaded; of any other model, its name as it is."""
    from huggingface_hub import hf_hub_download

    if not reachable():
        try:
            return downloaded(name, local_files_only=True)
        except OSError:
            return name
    for file in _OURS:
        try:
            hf_hub_download(name, file)
            return downloaded(name)
        except hub_errors():
            continue  # opening the tower reports what is wrong, with its own words
    return name


def own_classes(folder: Path) -> dict[str, type[torch.nn.Module] | None]:
    """Return the classes outside sentence-transformers that a saved tower names, None where nobody has imported one.

    Beside those of this package, only what the user's own code has imported already is looked at: a saved tower must
    not cause an import.
    """
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        names = [module["type"] for module in modules if not module["type"].startswith("sentence_transformers.")]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # no saved tower; opening it says what is wrong
        return {}
    for name in set(_OWN_CLASSES).intersection(names):
        import_module(name.rpartition(".")[0])
    found = {name: getattr(sys.modules.get(name.rpartition(".")[0]), name.rpartition(".")[2], None) for name in names}
    return {name: c if isinstance(c, type) and issubclass(c, torch.nn.Module) else None for name, c in found.items()}


@contextmanager
def openable(where: str) -> Iterator[str]:
    """Give a folder that `SentenceTransformer` opens: with links to this one's files, where it lacks but one word.

    wav2vec 2.0, HuBERT and WavLM without a tokenizer have a feature extractor alone; transformers looks for a processor
    with a tokenizer nevertheless, unless the extractor's file says what class is meant.
    """
    facts, folder = Path(where, "preprocessor_config.json"), Path(where)
    try:
        described = dict(json.loads(facts.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # opening it says what is wrong
        described = {}
    kind = None if "processor_class" in described else described.get("feature_extractor_type")
    if kind is None or any((folder / name).exists() for name in _TOKENIZERS):
        yield where
        return
    with tempfile.TemporaryDirectory() as made:
        for file in folder.iterdir():
            if file != facts:
                Path(made, file.name).symlink_to(file.resolve())
        Path(made, facts.name).write_text(json.dumps({**described, "processor_class": kind}), encoding="utf-8")
        yield made


def keep_facts(built: SentenceTransformer, tower: SentenceTransformer) -> None:
    """Give a tower that was built of the modules of another what that one was saved with beside them."""
    built.prompts, built.default_prompt_name = dict(tower.prompts), tower.default_prompt_name
    built.similarity_fn_name, built.truncate_dim = tower.similarity_fn_name, tower.truncate_dim


def width_of(module: torch.nn.Module) -> int | None:
    """Return the width of the embeddings that a module puts out, or None where it does not change it."""
    width = getattr(module, "get_embedding_dimension", None)
    return None if width is None else width()


def positions_of(backbone: Any) -> int | None:
    """Return how many tokens a backbone has positions for; None where any number will do (XLNet, T5).

    RoBERTa and its like count positions from behind the id of their padding, so that two of 514 are never used.
    """
    from sentence_transformers.sentence_transformer.modules import Transformer

    if not isinstance(backbone, Transformer):
        return None
    config: Any = backbone.config.get_text_config()
    names = ("max_position_embeddings", "max_encoder_position_embeddings", "max_seq_len")
    limits = [limit for name in names if isinstance(limit := getattr(config, name, None), int) and limit > 0]
    for module in backbone.model.modules():
        table: Any = getattr(module, "position_embeddings", None)
        if isinstance(first := getattr(module, "padding_idx", None), int) and hasattr(table, "weight"):
            limits.append(len(table.weight) - first - 1)
    return min(limits, default=None)


def within_positions(tower: SentenceTransformer) -> None:
    """Have a tower cut its texts where its positions end, if it would not."""
    limit, positions = token_limit(tower), positions_of(tower[0])
    if positions is not None and (limit is None or limit > positions):
        tower.max_seq_length = positions


def unit_length(tower: SentenceTransformer) -> None:
    """Have a tower end in vectors of length 1, of as many components as it is truncated to.

    The first components are taken by a product that is not trained: so they are also what an export gives, and what
    plain `SentenceTransformer` gives, once the tower was saved.
    """
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    if isinstance(tower[-1], Normalize):
        tower.pop(-1)
    width = next((w for module in reversed(list(tower)) if (w := width_of(module)) is not None), None)
    kept = tower.truncate_dim
    if kept is not None and width is not None and kept < width:
        first = Dense(
            width, kept, bias=False, activation_function=torch.nn.Identity(), init_weight=torch.eye(kept, width)
        )
        tower.append(first.requires_grad_(False).to(tower.device))
    tower.append(Normalize())


def complete_weights(tower: SentenceTransformer, *, trust_remote_code: bool = False) -> None:
    """Refuse a tower with weights that its vectors depend on and no checkpoint holds.

    A pooler or a head that nothing reads may lack. sentence-transformers opens some families (Blenderbot, M2M-100,
    Marian, Pegasus, ProphetNet) as an encoder that does not find its weights in a checkpoint of encoder and decoder:
    it is given them.

    Raises:
        ValueError: Weights lack, or the backbone cannot run on such inputs alone; the message says which.
    """
    from sentence_transformers.sentence_transformer.modules import Transformer
    from transformers import AutoModel, PreTrainedModel

    for backbone in tower.modules():
        if not isinstance(backbone, Transformer) or not isinstance(backbone.model, PreTrainedModel):
            continue
        if lacking := _lacking(backbone):
            given = {"output_loading_info": True, "trust_remote_code": trust_remote_code}
            whole, info = AutoModel.from_pretrained(str(backbone.model.name_or_path), **given)
            encoder = whole.get_encoder() if backbone.config.is_encoder_decoder else None
            if encoder is not None and type(encoder) is type(backbone.model):
                lacking = [name for name in lacking if f"encoder.{name}" in info["missing_keys"]]
                backbone.model.load_state_dict(encoder.state_dict())
        if lacking:
            raise ValueError(
                f"its checkpoint lacks {len(lacking):,} weights that {type(backbone.model).__name__} reads, such as "
                f"{lacking[0]}: they would be random"
            )


def _lacking(backbone: Any) -> list[str]:
    """Return the weights that a backbone reads, and that were not in its checkpoint.

    Transformers marks what it has loaded. What it has not is looked up once more in its own account of the checkpoint.
    """
    model = backbone.model
    rest = {n: p for n, p in model.named_parameters() if p.requires_grad and not hasattr(p, "_is_hf_initialized")}
    if not rest and not model.config.is_encoder_decoder:
        return []
    features = backbone.preprocess([inputs_of_backbone(backbone).example(backbone)])
    features = {k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
    try:
        with torch.enable_grad():
            seen = backbone(features)[backbone.module_output_name]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{type(model).__name__} gives no vectors of one input alone: {error}") from error
    if not rest or not seen.requires_grad:
        return []
    read = torch.autograd.grad(seen.float().sum(), [*rest.values()], allow_unused=True)
    names = [name for name, gradient in zip(rest, read, strict=True) if gradient is not None]
    if not names:
        return []
    _, info = type(model).from_pretrained(model.name_or_path, config=model.config, output_loading_info=True)
    absent = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    return [name for name in names if name in absent]
