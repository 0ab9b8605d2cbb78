"""Saved towers of BERT's shape, read without the libraries that made them: all that encoding needs of a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from textsiam.inference.fast.saved_modules import (
    IDENTITY,
    ONE_NAME,
    Module,
    Unusual,
    normalised,
    require,
    saved_module,
)
from textsiam.inference.fast.saved_tokenizer import SavedTokenizer, read_tokenizer

_TYPE = re.compile(r"sentence_transformers\.(models|(base|sentence_transformer)\.modules)(\.\w+)?\.(?P<kind>\w+)")
_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
_OTHER_BERTS = ("is_decoder", "is_encoder_decoder", "add_cross_attention", "auto_map", "quantization_config",
                "pruned_heads")  # fmt: skip
_FACTS = {"__version__", "default_prompt_name", "model_type", "prompts", "similarity_fn_name", "truncate_dim"}
_POSITIONS = "embeddings.position_ids"  # of older files; they are counted anew
# Files that make something else of a folder than its other files say.
_FOREIGN = {"adapter_config.json", "added_tokens.json", "chat_template.jinja", "preprocessor_config.json",
            "processor_config.json", "video_preprocessor_config.json"}  # fmt: skip
_SUFFIXES = {".json", ".txt", ".md", ".jinja", ".safetensors"}
_LARGEST = 1 << 24  # bytes of a file that is kept beside the weights


@dataclass(frozen=True, eq=False)
class SavedBert:
    """A tower as it was saved.

    Attributes:
        files: All small files of its folder, by their path in it.
        stored: The weights by file, and by their name in it.
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
    behind: tuple[Module, ...]
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
    except (Unusual, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError):
        return None


def files_of(folder: Path) -> list[Path]:
    """Return the files of a tower: those of its folder, and of the folders of its modules."""
    found = (file for depth in ("*", "*/*") for file in folder.glob(depth))
    return sorted(file for file in found if file.suffix in _SUFFIXES and file.is_file())


def _read(folder: Path) -> SavedBert:
    kept = [file for file in files_of(folder) if file.suffix != ".safetensors" and file.stat().st_size < _LARGEST]
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in kept}
    (kind, path), *rest = [_place(module) for module in json.loads(files["modules.json"])]
    require(kind == "Transformer" and [kind for kind, _ in rest[:1]] == ["Pooling"])
    facts = _facts(json.loads(files.get("config_sentence_transformers.json", b"{}")))
    require(facts["similarity_fn_name"] in (None, "cosine") or rest[-1][0] == "Normalize")
    own = {name.removeprefix(path): content for name, content in files.items() if name.startswith(path)}
    require(not _FOREIGN & set(own))
    config, stored = json.loads(own["config.json"]), {f"{path}model.safetensors": _weights(folder / path)}
    (first,) = stored.values()
    exact = {name: tensor.float() for name, tensor in first.items() if name != _POSITIONS}
    weights, backbone = {f"0.model.{name}": tensor for name, tensor in exact.items()}, _backbone(config, exact)
    tokenizer = read_tokenizer(own)
    max_tokens = _limit(json.loads(own["sentence_bert_config.json"]), config, tokenizer.own_limit)
    described: list[list[Any]] = [["Transformer", _TRANSFORMER]]
    behind, dim = [], int(config["hidden_size"])

    def add(kind: str, saved: Mapping[str, Any], own: Mapping[str, Tensor]) -> None:
        nonlocal dim
        exact = {name: tensor.float() for name, tensor in own.items()}
        weights.update({f"{len(described)}.{name}": tensor for name, tensor in exact.items()})
        module, dim, settings = saved_module(kind, saved, exact, dim)
        behind.append(module)
        described.append([kind, settings])

    if rest[-1][0] == "Normalize":  # it comes last anyway, behind what shortens vectors
        rest.pop()
    for kind, path in rest:
        if kind == "Dense":
            stored[f"{path}model.safetensors"] = _weights(folder / path)
        saved = files.get(f"{path}config.json", b"{}") if kind == "Normalize" else files[f"{path}config.json"]
        add(kind, json.loads(saved), stored.get(f"{path}model.safetensors", {}))
    formats = {tensor.dtype for part in stored.values() for name, tensor in part.items() if name != _POSITIONS}
    require(len(formats) == 1 and config.get("dtype", config.get("torch_dtype")) in (None, str(*formats)[6:]))
    if (kept := facts["truncate_dim"]) is not None and kept < dim:  # as `unit_length` of `opening` does it
        shorter = {"out_features": kept, "bias": False, "activation_function": IDENTITY}
        add("Dense", shorter, {"linear.weight": torch.eye(kept, dim)})
    modules = (*behind, normalised), [*described, ["Normalize", ONE_NAME]]
    return SavedBert(
        files, stored, weights, backbone, *modules, tokenizer.cutting(max_tokens), max_tokens, dim, facts
    )  # fmt: skip


def _place(module: Mapping[str, Any]) -> tuple[str, str]:
    """Return the kind of a module, and what the paths of its files begin with."""
    found = _TYPE.fullmatch(module["type"])
    require(found is not None and set(module) == {"idx", "name", "path", "type"})
    return found["kind"] if found else "", f"{module['path']}/" if module["path"] else ""


def _facts(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a tower was saved with beside its modules, and what it has where nothing was."""
    require(set(saved) <= _FACTS and saved.get("model_type", "SentenceTransformer") == "SentenceTransformer")
    prompts = {"query": "", "document": "", **saved.get("prompts", {})}
    prompts = {name: "" if prompt is None else prompt for name, prompt in prompts.items()}
    require(all(isinstance(prompt, str) for prompt in prompts.values()))
    require(saved.get("default_prompt_name") in (None, *prompts))
    usual = {"default_prompt_name": None, "truncate_dim": None}
    return {**usual, **saved, "prompts": prompts, "similarity_fn_name": saved.get("similarity_fn_name", "cosine")}


def _weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def _limit(saved: Mapping[str, Any], config: Mapping[str, Any], own: int | None) -> int:
    """Return after how many tokens texts are cut: as the tower says, else its tokenizer, and where positions end."""
    require(set(saved) <= {"max_seq_length", "do_lower_case", *_TRANSFORMER} and not saved.get("do_lower_case"))
    require({**_TRANSFORMER, **saved} == {**saved, **_TRANSFORMER})
    said, positions = saved.get("max_seq_length"), config["max_position_embeddings"]
    limits = [limit for limit in (positions, own if said is None else said) if limit is not None]
    require(all(type(limit) is int and limit > 0 for limit in limits))
    return min(limits)


def _backbone(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    """Return BERT's model as far as `FusedBert` looks at it, if that is all there is to it."""
    usual = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    require({"position_embedding_type": "absolute", **config} == {**config, **usual})
    require(not any(config.get(key) for key in _OTHER_BERTS))
    require({name: tuple(tensor.shape) for name, tensor in weights.items()} == _shapes(config))
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
    """Return the shapes of the weights of a BertModel."""
    wide, hidden = config["intermediate_size"], config["hidden_size"]
    linears, norms = {"pooler.dense": (hidden, hidden)}, ["embeddings.LayerNorm"]
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        linears |= {f"{layer}.attention.self.{name}": (hidden, hidden) for name in ("query", "key", "value")}
        linears[f"{layer}.attention.output.dense"] = (hidden, hidden)
        linears[f"{layer}.intermediate.dense"] = (wide, hidden)
        linears[f"{layer}.output.dense"] = (hidden, wide)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    tables = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}
    return (
        {f"embeddings.{name}_embeddings.weight": (config[size], hidden) for name, size in tables.items()}
        | {f"{name}.weight": shape for name, shape in linears.items()}
        | {f"{name}.bias": shape[:1] for name, shape in linears.items()}
        | {f"{name}.{part}": (hidden,) for name in norms for part in ("weight", "bias")}
    )
