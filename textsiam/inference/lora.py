"""LoRA: small matrices beside the linear layers of a tower learn in their place, and are merged into them at last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn


@dataclass(frozen=True)
class LoraConfig:
    """Which layers of the backbone learn by low-rank matrices, `W + α/r · B A` (Hu et al. 2022); all others rest.

    Attributes:
        rank: r, the rank of `B A`.
        alpha: α; the update is scaled by α/r.
        dropout: Share of the inputs of A that training leaves out.
        target_modules: Names of the linear layers, or how they end: `["query", "value"]`; None takes all.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: list[str] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be >= 1, got {self.rank}")
        if not self.alpha > 0:
            raise ValueError(f"alpha must be > 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


def lora_targets(tower: SentenceTransformer, lora: LoraConfig) -> list[str]:
    """Return the names of the layers of a tower's backbone that learn.

    Raises:
        ModelError: peft is not installed, or a name is that of no linear layer.
    """
    from torch import nn

    from textsiam.inference.encoders import ModelError

    if find_spec("peft") is None:
        raise ModelError("model.lora needs peft: pip install 'textsiam[lora]'")
    linear = [name for name, module in _backbone(tower).named_modules() if isinstance(module, nn.Linear)]
    wanted = lora.target_modules
    found = {end: [name for name in linear if f".{name}".endswith(f".{end}")] for end in wanted or []}
    missing = [end for end, names in found.items() if not names]
    if missing or not linear or wanted == []:
        ends = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in linear)) or "none"
        what = f"target_modules: {missing[0]!r} is" if missing else "nothing to adapt:"
        raise ModelError(f"model.lora.{what} no linear layer of the backbone, which has {ends}")
    return linear if wanted is None else [name for name in linear if any(name in names for names in found.values())]


def add_adapters(tower: SentenceTransformer, lora: LoraConfig, *, seed: int = 0) -> None:
    """Put adapters beside the layers that learn, in place; they change nothing yet. All other weights are frozen.

    Raises:
        ModelError: As for `lora_targets`.
    """
    import torch

    there = tuple(f"{name}." for name, _ in _adapted(_backbone(tower)))  # layers that it shares with the other side
    names = [name for name in lora_targets(tower, lora) if not name.startswith(there)]
    if not names:
        return
    from peft import LoraConfig as Adapters
    from peft import inject_adapter_in_model

    knobs = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout, "target_modules": names}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(Adapters(**knobs), _backbone(tower))
    for name, parameter in _backbone(tower).named_parameters():  # peft does not, where some layers have adapters
        parameter.requires_grad_("lora_" in name)


def merged(model: nn.Module, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights of a model with adapters as those of the same model without any.

    Args:
        model: Has adapters, or none.
        weights: By name, as its `state_dict` returns them.
    """
    whole = dict(weights)
    for name, layer in _adapted(model):
        base = f"{name}.base_layer."
        whole[f"{base}weight"] = whole[f"{base}weight"] + layer.get_delta_weight("default")
        for key in [key for key in whole if key.startswith(f"{name}.")]:
            value = whole.pop(key)
            if key.startswith(base):
                whole[f"{name}.{key.removeprefix(base)}"] = value
    return whole


def remove_adapters(model: nn.Module) -> None:
    """Put the layers back that adapters stand beside, without what they have learned; all weights learn again."""
    adapted = list(_adapted(model))
    for name, layer in adapted:
        owner, _, child = name.rpartition(".")
        setattr(model.get_submodule(owner), child, layer.get_base_layer())
    for module in model.modules() if adapted else ():
        vars(module).pop("peft_config", None)
        module.requires_grad_(True)


def _backbone(tower: SentenceTransformer) -> Any:
    return getattr(tower[0], "model", tower[0])


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the adapted layers of a model with their names."""
    if find_spec("peft") is not None:
        from peft.tuners.lora import LoraLayer

        modules = model.named_modules(remove_duplicate=False)  # the sides of a twin may share some
        yield from ((name, module) for name, module in modules if isinstance(module, LoraLayer))
