"""Saved towers of BERT's shape, read without the libraries that made them: all that encoding needs of a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import linear, normalize

from textsiam.inference.fast.saved_tokenizer import SavedTokenizer, read_tokenizer

Features = dict[str, Any]
_Described = tuple[Callable[[Features], Features], int, dict[str, Any]]
"""What a module does, how wide its vectors are, and its config as sentence-transformers has it."""

_MODULE = re.compile(
    r"sentence_transformers\.(?:models|base\.modules|sentence_transformer\.modules)(?:\.\w+)?\.(\w+)"
)  # names of 2.0 and of 6.0
_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
_ONE_NAME = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.nn.modules.linear.Identity": lambda x: x,
    "torch.nn.modules.activation.Tanh": torch.tanh,
}
_POOLINGS = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean"}  # in the order of older configs
# Files that make something else of a folder than its other files say.
_FOREIGN = ("adapter_config.json", "added_tokens.json", "chat_template.jinja", "preprocessor_config.json",
            "processor_config.json", "video_preprocessor_config.json")  # fmt: skip
_POSITIONS = "embeddings.position_ids"  # of older files; they are counted anew
_FIRST_ONES = {"bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
_LARGEST = 1 << 24  # bytes of a file that is kept beside the weights


class _Unusual(Exception):
    """The folder holds something that only the libraries know what to make of."""


@dataclass(frozen=True, eq=False)
class SavedBert:
    """A tower as it was saved.

    Attributes:
        files: All small files of its folder, by their path in it.
        stored: The weights by file and by their name in it.
        weights: The weights as the tower names them, float32.
        backbone: Its model, as far as `FusedBert` looks at it.
        behind: What the modules after the backbone make of features.
        described: Type and config of each module, as sentence-transformers names them.
        tokenizer: Cuts after `max_tokens`.
        max_tokens: The most tokens of a text that are read.
        dim: Components of a vector.
        facts: Prompts and the like: config_sentence_transformers.json.
    """

    files: Mapping[str, bytes]
    stored: Mapping[str, dict[str, Tensor]]
    weights: Mapping[str, Tensor]
    backbone: Any
    behind: tuple[Callable[[Features], Features], ...]
    described: list[list[Any]]
    tokenizer: SavedTokenizer
    max_tokens: int
    dim: int
    facts: Mapping[str, Any]


def read_bert(folder: Path) -> SavedBert | None:
    """Read a tower that its files describe in the usual way: BERT, pooling, and at most projections and normalisation.

    Returns:
        The tower; None where there is anything in the folder that the libraries might make something else of, or that
        is damaged: they then say what is wrong.
    """
    try:
        return _read(folder)
    except (_Unusual, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError):
        return None


def _require(usual: bool) -> None:
    if not usual:
        raise _Unusual


def _read(folder: Path) -> SavedBert:
    files = {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.suffix != ".safetensors" and file.is_file() and file.stat().st_size < _LARGEST
    }
    places = [(_kind(module), module["path"]) for module in json.loads(files["modules.json"])]
    kinds = [kind for kind, _ in places]
    _require(kinds[:2] == ["Transformer", "Pooling"] and not {"Transformer", "Pooling"} & set(kinds[2:]))
    facts = json.loads(files.get("config_sentence_transformers.json", b"{}"))
    allowed = {"__version__", "default_prompt_name", "model_type", "prompts", "similarity_fn_name", "truncate_dim"}
    _require(set(facts) <= allowed and facts.get("model_type", "SentenceTransformer") == "SentenceTransformer")
    facts["prompts"] = _prompts(facts)
    _require(facts.get("similarity_fn_name") in (None, "cosine") or kinds[-1] == "Normalize")

    first, *rest = places
    base, own = _inside(files, first[1]), _weights_of(folder / first[1])
    config, stored = json.loads(base["config.json"]), {f"{first[1]}/model.safetensors".lstrip("/"): own}
    weights = {f"0.model.{name}": tensor.float() for name, tensor in own.items() if name != _POSITIONS}
    backbone = _backbone(config, {name.removeprefix("0.model."): tensor for name, tensor in weights.items()})
    tokenizer = read_tokenizer(base)
    _require(tokenizer is not None)
    max_tokens = _limit(json.loads(base["sentence_bert_config.json"]), config, tokenizer.own_limit)

    described: list[list[Any]] = [["Transformer", _TRANSFORMER]]
    behind, dim = [], int(config["hidden_size"])
    if kinds[-1] == "Normalize":  # it comes last anyway, behind what shortens vectors
        rest.pop()
    for kind, path in rest:
        settings = json.loads(files.get(f"{path}/config.json", b"{}"))
        own = {}
        if kind == "Dense":
            own = stored[f"{path}/model.safetensors"] = _weights_of(folder / path)
            weights |= {f"{len(described)}.{name}": tensor.float() for name, tensor in own.items()}
        module, dim, settings = _MODULES[kind](settings, own, dim)
        behind.append(module)
        described.append([kind, settings])
    if (kept := facts.get("truncate_dim")) is not None and kept < dim:
        weights |= {f"{len(described)}.linear.weight": (first_ones := torch.eye(kept, dim))}
        module, dim, settings = _dense({**_FIRST_ONES, "out_features": kept}, {"linear.weight": first_ones}, dim)
        behind.append(module)
        described.append(["Dense", settings])
    kinds_of_numbers = {t.dtype for part in stored.values() for name, t in part.items() if name != _POSITIONS}
    said = config.get("dtype", config.get("torch_dtype"))
    _require(len(kinds_of_numbers) == 1 and said in (None, str(*kinds_of_numbers).removeprefix("torch.")))
    return SavedBert(
        files,
        stored,
        weights,
        backbone,
        (*behind, _normalised),
        [*described, ["Normalize", _ONE_NAME]],
        tokenizer.cutting(max_tokens),
        max_tokens,
        dim,
        facts,
    )


def _kind(module: Mapping[str, Any]) -> str:
    found = _MODULE.fullmatch(module["type"])
    _require(found is not None and set(module) == {"idx", "name", "path", "type"})
    kind = found[1] if found else ""
    _require(kind in ("Transformer", "Pooling", "Dense", "Normalize"))
    return kind


def _prompts(facts: Mapping[str, Any]) -> dict[str, str]:
    prompts = {"query": "", "document": "", **facts.get("prompts", {})}
    prompts = {name: prompt or "" for name, prompt in prompts.items()}
    _require(all(isinstance(prompt, str) for prompt in prompts.values()))
    _require(facts.get("default_prompt_name") in (None, *prompts))
    return prompts


def _inside(files: Mapping[str, bytes], path: str) -> dict[str, bytes]:
    """Return the files of a folder inside the folder, by name."""
    start = f"{path}/" if path else ""
    found = {name.removeprefix(start): content for name, content in files.items() if name.startswith(start)}
    _require(not any(name in found for name in _FOREIGN))
    return found


def _weights_of(folder: Path) -> dict[str, Tensor]:
    # Copies: what is mapped would be gone if the file were cut short.
    return {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}


def _limit(saved: Mapping[str, Any], config: Mapping[str, Any], own: int | None) -> int:
    """Return after how many tokens texts are cut: as the tower says, else its tokenizer, and where positions end."""
    _require(set(saved) <= {"max_seq_length", "do_lower_case", *_TRANSFORMER} and not saved.get("do_lower_case"))
    _require(all(saved.get(key, usual) == usual for key, usual in _TRANSFORMER.items()))
    first = saved.get("max_seq_length") or own
    limits = [limit for limit in (first, config["max_position_embeddings"]) if limit is not None]
    _require(all(type(limit) is int and limit > 0 for limit in limits))
    return min(limits)


def _backbone(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    """Return BERT's model as far as `FusedBert` looks at it, if that is all there is to it."""
    _require(config["model_type"] == "bert" and config["hidden_act"] == "gelu")
    _require(config.get("position_embedding_type", "absolute") == "absolute")
    _require(not any(config.get(key) for key in ("is_decoder", "add_cross_attention", "is_encoder_decoder", "auto_map",
                                                 "quantization_config", "pruned_heads")))  # fmt: skip
    _require({name: tuple(tensor.shape) for name, tensor in weights.items()} == _shapes(config))
    model = SimpleNamespace(config=SimpleNamespace(**config))
    for name, tensor in weights.items():
        *path, last = name.split(".")
        owner = model
        for step in path:
            owner = vars(owner).setdefault(step, SimpleNamespace(eps=config.get("layer_norm_eps", 1e-12)))
        setattr(owner, last, tensor)
    layers = vars(model.encoder.layer)
    model.encoder.layer = [layers[str(number)] for number in range(config["num_hidden_layers"])]
    return SimpleNamespace(model=model)


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a BertModel's weights."""
    wide, hidden = config["intermediate_size"], config["hidden_size"]
    linears = {"pooler.dense": (hidden, hidden)}
    norms = ["embeddings.LayerNorm"]
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        linears |= {f"{layer}.attention.self.{name}": (hidden, hidden) for name in ("query", "key", "value")}
        linears |= {
            f"{layer}.attention.output.dense": (hidden, hidden),
            f"{layer}.intermediate.dense": (wide, hidden),
            f"{layer}.output.dense": (hidden, wide),
        }
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    tables = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}
    return (
        {f"embeddings.{name}_embeddings.weight": (config[size], hidden) for name, size in tables.items()}
        | {f"{name}.weight": shape for name, shape in linears.items()}
        | {f"{name}.bias": shape[:1] for name, shape in linears.items()}
        | {f"{name}.{part}": (hidden,) for name in norms for part in ("weight", "bias")}
    )


# What sentence-transformers computes in its modules, to the last bit.


def _normalised(features: Features) -> Features:
    return {**features, "sentence_embedding": normalize(features["sentence_embedding"], p=2, dim=-1)}


def _normalising(saved: Mapping[str, Any], weights: Mapping[str, Tensor], width: int) -> _Described:
    _require({**_ONE_NAME, **saved} == _ONE_NAME)
    return _normalised, width, _ONE_NAME


def _pooling(saved: Mapping[str, Any], weights: Mapping[str, Tensor], width: int) -> _Described:
    older = {f"pooling_mode_{name}": mode for name, mode in _POOLINGS.items()}
    _require(not any(saved[key] for key in set(saved) - set(older) - {"pooling_mode", "include_prompt",
                     "embedding_dimension", "word_embedding_dimension"}))  # fmt: skip
    modes = saved.get("pooling_mode", [mode for key, mode in older.items() if saved.get(key)] or ["mean"])
    modes = [modes] if isinstance(modes, str) else list(modes)
    _require(set(modes) <= set(_POOLINGS.values()) and saved.get("include_prompt", True) is True)
    _require(saved.get("embedding_dimension", saved.get("word_embedding_dimension")) == width)
    described = {
        "embedding_dimension": width,
        "pooling_mode": modes[0] if len(modes) == 1 else modes,
        "include_prompt": True,
    }
    return lambda features: _pooled(features, modes), len(modes) * width, described


def _pooled(features: Features, modes: list[str]) -> Features:
    tokens, mask = features["token_embeddings"], features["attention_mask"]
    parts = []
    for mode in modes:
        if mode == "cls":
            parts.append(tokens[:, 0])
        elif mode == "max":
            parts.append(tokens.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).max(dim=1).values)
        else:
            kept = mask.unsqueeze(-1).to(tokens.dtype)
            parts.append((tokens * kept).sum(dim=1) / torch.clamp(kept.sum(dim=1), min=1e-9))
    return {**features, "sentence_embedding": torch.cat(parts, dim=-1)}


def _dense(saved: Mapping[str, Any], weights: Mapping[str, Tensor], width: int) -> _Described:
    described = {"in_features": width, "bias": True, **_ONE_NAME, **saved}
    described.pop("use_residual", None)
    activation = _ACTIVATIONS[described["activation_function"]]
    weight, bias = weights["linear.weight"].float(), weights.get("linear.bias")
    shapes = {"linear.weight": (described["out_features"], width)}
    if described["bias"]:
        shapes["linear.bias"] = (described["out_features"],)
    usual = {"in_features", "out_features", "bias", "activation_function", *_ONE_NAME}
    _require(set(described) == usual and not saved.get("use_residual") and described["in_features"] == width)
    _require(all(described[key] == name for key, name in _ONE_NAME.items()))
    _require({name: tuple(tensor.shape) for name, tensor in weights.items()} == shapes)
    bias = None if bias is None else bias.float()

    def module(features: Features) -> Features:
        found = activation(linear(features["sentence_embedding"], weight, bias))
        return {**features, "sentence_embedding": found}

    return module, described["out_features"], described


_MODULES = {"Pooling": _pooling, "Dense": _dense, "Normalize": _normalising}
