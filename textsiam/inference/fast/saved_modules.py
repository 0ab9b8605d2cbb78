"""Saved modules behind a backbone: pooling, projection and normalisation, to the last bit as sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

Features = dict[str, Any]
Module = Callable[[Features], Features]

ONE_NAME = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
IDENTITY = "torch.nn.modules.linear.Identity"
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    IDENTITY: lambda x: x,
    "torch.nn.modules.activation.Tanh": torch.tanh,
}
_OLDER_POOLINGS = {  # in the order in which their vectors are joined
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
}


class Unusual(Exception):
    """A folder holds something that only the libraries know what to make of."""


def require(usual: bool) -> None:
    """Raise `Unusual` where something is not as usual."""
    if not usual:
        raise Unusual


def saved_module(
    kind: str, saved: Mapping[str, Any], weights: Mapping[str, Tensor], width: int
) -> tuple[Module, int, dict[str, Any]]:
    """Return a module by its config.

    Args:
        kind: "Pooling", "Dense" or "Normalize".
        saved: Its config.json.
        weights: Its weights; only a projection has some.
        width: Of the vectors before it.

    Returns:
        What it makes of features, the width of its vectors, and its config as sentence-transformers writes it today.

    Raises:
        Unusual: It does something else than is known here.
    """
    require(kind in _MODULES)
    return _MODULES[kind](saved, weights, width)


def normalised(features: Features) -> Features:
    """Return features with a `sentence_embedding` of length 1."""
    return {**features, "sentence_embedding": normalize(features["sentence_embedding"], p=2, dim=-1)}


def _normalize(
    saved: Mapping[str, Any], weights: Mapping[str, Tensor], width: int
) -> tuple[Module, int, dict[str, Any]]:
    require({**ONE_NAME, **saved} == ONE_NAME)
    return normalised, width, dict(ONE_NAME)


def _pooling(saved: Mapping[str, Any], weights: Mapping[str, Tensor], width: int) -> tuple[Module, int, dict[str, Any]]:
    rest = {"pooling_mode", "include_prompt", "embedding_dimension", "word_embedding_dimension"}
    require(not any(saved[key] for key in set(saved) - set(_OLDER_POOLINGS) - rest))
    older = [mode for key, mode in _OLDER_POOLINGS.items() if saved.get(key)] or ["mean"]
    named = saved.get("pooling_mode", older)
    modes = [named] if isinstance(named, str) else list(named)
    require(set(modes) <= set(_OLDER_POOLINGS.values()) and saved.get("include_prompt", True) is True)
    require(saved.get("embedding_dimension", saved.get("word_embedding_dimension")) == width)
    mode = modes[0] if len(modes) == 1 else modes
    described = {"embedding_dimension": width, "pooling_mode": mode, "include_prompt": True}
    return lambda features: _pooled(features, modes), len(modes) * width, described


def _pooled(features: Features, modes: list[str]) -> Features:
    tokens, mask = features["token_embeddings"], features["attention_mask"].unsqueeze(-1)
    parts = []
    for mode in modes:
        if mode == "cls":
            parts.append(tokens[:, 0])
        elif mode == "max":
            parts.append(tokens.masked_fill(mask == 0, float("-inf")).max(dim=1).values)
        else:
            kept = mask.to(tokens.dtype)
            parts.append((tokens * kept).sum(dim=1) / torch.clamp(kept.sum(dim=1), min=1e-9))
    return {**features, "sentence_embedding": torch.cat(parts, dim=-1)}


def _dense(saved: Mapping[str, Any], weights: Mapping[str, Tensor], width: int) -> tuple[Module, int, dict[str, Any]]:
    require(not saved.get("use_residual"))
    described = {"in_features": width, "bias": True, **ONE_NAME, **saved}
    described.pop("use_residual", None)
    activation, outputs = _ACTIVATIONS[described["activation_function"]], described["out_features"]
    require(set(described) == {"in_features", "out_features", "bias", "activation_function", *ONE_NAME})
    require(described == {**described, "in_features": width, **ONE_NAME})
    shapes = {"linear.weight": (outputs, width)} | ({"linear.bias": (outputs,)} if described["bias"] else {})
    require({name: tuple(tensor.shape) for name, tensor in weights.items()} == shapes)

    def module(features: Features) -> Features:
        found = linear(features["sentence_embedding"], weights["linear.weight"], weights.get("linear.bias"))
        return {**features, "sentence_embedding": activation(found)}

    return module, outputs, described


_MODULES = {"Pooling": _pooling, "Dense": _dense, "Normalize": _normalize}
