"""Asymmetric twins: what may differ between the two sides, and what they may share.

The right tower can have another backbone, another prompt, or the left one's lower layers. Shared layers are the very
same modules in both towers, so they are trained once; on disk each tower is whole, and `tie` makes them one again.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from textsiam.data.tables.columns import Modality
from textsiam.inference.encoders import ModelError
from textsiam.inference.fast.lazy_tower import saved_bert
from textsiam.inference.opening import keep_facts
from textsiam.inference.tokens import default_prompt, tokenizer_rules
from textsiam.modality import MEDIA

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Shared = int | Literal["all"]
"""Transformer layers that the sides share, counted from below, the embeddings always among them; or everything."""


def sides(
    left: SentenceTransformer,
    right: SentenceTransformer | None = None,
    *,
    left_prompt: str | None = None,
    right_prompt: str | None = None,
    shared_layers: Shared | None = None,
) -> tuple[SentenceTransformer, SentenceTransformer | None]:
    """Return the towers of a twin whose sides differ as asked: what `Twin(left, right)` takes.

    Args:
        left: The tower of left texts; changed in place.
        right: Another tower for right texts, changed in place; None makes it of `left`, as far as they differ.
        left_prompt: What stands before each left text; None keeps what the tower comes with.
        right_prompt: The same for right texts; "" is no prompt.
        shared_layers: How many lower layers both sides share. None shares nothing with a `right` that is given, and
            all weights with one that is not.

    Returns:
        The left tower, and the right one; None where nothing differs.

    Raises:
        ModelError: The towers cannot share layers.

    Example:
        >>> sides(query_tower, left_prompt="query: ", right_prompt="passage: ")  # doctest: +SKIP
    """
    if left_prompt is not None:
        set_prompt(left, left_prompt)
    if right is None:
        differs = right_prompt not in (None, default_prompt(left))
        if shared_layers in (None, "all") and not differs:
            return left, None
        right = copy.deepcopy(left)
        shared_layers = "all" if shared_layers is None else shared_layers
    elif shared_layers == "all":
        raise ModelError("shared_layers is 'all', but the right tower is another one: leave one of them out")
    if shared_layers is not None:
        right = share(left, right, shared_layers)
    if right_prompt is not None:
        set_prompt(right, right_prompt)
    return left, right


def by_side(tower: SentenceTransformer) -> tuple[SentenceTransformer, SentenceTransformer | None]:
    """Return the towers that do what `encode_query` and `encode_document` of a tower do; None for a second like it.

    A tower that takes texts and images, or sounds, becomes one of texts and one of those, which share their weights.
    Otherwise they differ where the tower has a `Router`, or other prompts for queries than for documents. A default
    prompt that is neither of them is meant for texts of every kind.

    Raises:
        ModelError: A route is missing.
    """
    prompts = {name: prompt or "" for name, prompt in tower.prompts.items()}
    document = next((name for name in ("document", "passage", "corpus") if name in prompts), "document")
    names = ("query", document)
    if tower.default_prompt_name not in (None, *names):
        names = (tower.default_prompt_name, tower.default_prompt_name)
    said = {prompts.get(name, "") for name in names}
    if saved_bert(tower) is not None and said == {default_prompt(tower)}:  # it has no routes
        return tower, None
    if (parts := _by_modality(tower)) is not None:
        return parts
    routes = _routed(tower, "query"), _routed(tower, "document")
    same = all(a is b for a, b in zip(*routes, strict=False)) and len(routes[0]) == len(routes[1])
    if same and prompts.get(names[0], "") == prompts.get(names[1], ""):
        return _with(tower, routes[0], prompts.get(names[0], "")), None
    left, right = (_with(tower, r, prompts.get(name, "")) for r, name in zip(routes, names, strict=True))
    return left, right


def of_one_kind(tower: SentenceTransformer) -> SentenceTransformer:
    """Return a tower that does what plain `encode` does: the default route, and the default prompt or none.

    Raises:
        ModelError: There is no default route.
    """
    return _with(tower, _routed(tower, None), None)


def _by_modality(tower: SentenceTransformer) -> tuple[SentenceTransformer, SentenceTransformer] | None:
    """Return a tower of texts and one of files on the same weights; None where a tower takes one or the other.

    What reads both as messages of a chat takes files by means of its own, and stays a tower of texts.
    """
    known: Any = getattr(tower[0], "modality_config", {})
    other = next((medium for name, medium in MEDIA.items() if name in known), None)
    if other is None or "text" not in known or "message" in known:
        return None
    return _restricted(tower, "text"), _restricted(tower, other.modality)


def _restricted(tower: SentenceTransformer, modality: Modality) -> SentenceTransformer:
    """Return the tower with a first module that takes inputs of one modality, as it is saved too."""
    from sentence_transformers import SentenceTransformer

    view: Any = copy.copy(tower[0])
    view.modality_config = {modality: view.modality_config[modality]}
    view.input_formatter = copy.copy(view.input_formatter)
    view.input_formatter.supported_modalities = [modality]
    built = SentenceTransformer(modules=[view, *list(tower)[1:]], device=str(tower.device))
    keep_facts(built, tower)
    return built


def _routed(tower: SentenceTransformer, task: str | None) -> list[nn.Module]:
    """Return the modules that texts of a task pass."""
    from sentence_transformers.base.modules import Router

    modules: list[nn.Module] = []
    for module in tower:
        if not isinstance(module, Router):
            modules.append(module)
            continue
        try:
            modules += module.sub_modules[module._resolve_route(task=task, modality="text")]  # pyright: ignore
        except ValueError as error:
            raise ModelError(f"the model has no route for {task or 'texts of no task'}: {error}") from error
    return modules


def _with(tower: SentenceTransformer, modules: list[nn.Module], prompt: str | None) -> SentenceTransformer:
    """Return the tower with these modules and this prompt; None keeps its own, and the tower itself if it can."""
    from sentence_transformers import SentenceTransformer

    if len(modules) != len(tower) or any(a is not b for a, b in zip(modules, tower, strict=True)):
        built = SentenceTransformer(modules=modules, device=str(tower.device))
    elif prompt in (None, default_prompt(tower)):
        return tower
    else:
        built = SentenceTransformer(modules=list(tower), device=str(tower.device))
    keep_facts(built, tower)
    if prompt is not None and prompt != default_prompt(built):
        set_prompt(built, prompt)
    return built


def set_prompt(tower: SentenceTransformer, prompt: str) -> None:
    """Put a prompt before every text that a tower encodes, also by `encode_query` and `encode_document`.

    It is a part of the tower: saved with it, and used by plain `SentenceTransformer` too.
    """
    tower.prompts = {**tower.prompts, "query": prompt, "document": prompt}
    tower.default_prompt_name = "query"


def share(left: SentenceTransformer, right: SentenceTransformer, layers: Shared) -> SentenceTransformer:
    """Return the right tower with the left one's lower layers in place of its own, as the same modules.

    Args:
        left: Its weights are kept.
        right: Changed in place, unless everything is shared; keeps its prompt, and what lies above the layers.
        layers: How many; 0 shares the embeddings alone.

    Raises:
        ModelError: The towers have other tokenizers, or layers of other shapes, or not as many.
    """
    if layers == "all":
        from sentence_transformers import SentenceTransformer

        prompts = {"prompts": right.prompts, "default_prompt_name": right.default_prompt_name}
        return SentenceTransformer(modules=list(left), device=str(left.device), **prompts)
    if tokenizer_rules(left) != tokenizer_rules(right):
        raise ModelError("the sides cannot share layers: their tokenizers differ")
    parts = list(zip(_lower(left, layers), _lower(right, layers), strict=True))
    if any(_shape(module) != _shape(replaced) for (*_, module), (*_, replaced) in parts):
        raise ModelError("the sides cannot share layers: their backbones are of other kinds or sizes")
    for (*_, module), (owner, name, _) in parts:
        owner.add_module(name, module)
    return right


def shared_layers(left: SentenceTransformer, right: SentenceTransformer | None = None) -> Shared | None:
    """Return how many lower layers two towers share; None for no layer, and for a single tower."""
    if right is None:
        return None
    if len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True)):
        return "all"
    try:
        mine, other = ([module for *_, module in _lower(tower, None)] for tower in (left, right))
    except ModelError:
        return None
    same = [a is b for a, b in zip(mine, other, strict=False)]
    return (same.index(False) if False in same else len(same)) - 1 if same[0] else None


def tie(left: SentenceTransformer, right: SentenceTransformer, layers: Shared) -> SentenceTransformer:
    """Return the right tower with layers that are equal to the left one's made one again, after both were opened.

    Raises:
        ModelError: The layers hold other weights: one tower was changed without the other.
    """
    mine, other = (
        [tower] if layers == "all" else [module for *_, module in _lower(tower, layers)] for tower in (left, right)
    )
    for a, b in zip(mine, other, strict=True):
        states = a.state_dict(), b.state_dict()
        if states[0].keys() != states[1].keys() or not all(torch.equal(t, states[1][k]) for k, t in states[0].items()):
            raise ModelError("the layers that the towers share hold other weights: one was changed without the other")
    return share(left, right, layers)


def _lower(tower: SentenceTransformer, layers: int | None) -> list[tuple[nn.Module, str, nn.Module]]:
    """Return owner, name and module of the embeddings and of the first layers (None: of all), from below."""
    backbone: Any = getattr(tower[0], "model", None)
    config = getattr(backbone, "config", None)
    depth = getattr(config, "num_hidden_layers", 0)
    lists = (m for m in backbone.modules() if isinstance(m, nn.ModuleList) and len(m) == depth) if depth else iter(())
    stack = next(lists, None)
    name = next((n for n in ("embeddings", "embed_tokens") if isinstance(getattr(backbone, n, None), nn.Module)), None)
    if stack is None or name is None:
        raise ModelError(f"cannot tell the lower layers of {type(backbone).__name__}: leave shared_layers out")
    if layers is not None and not 0 <= layers <= depth:
        raise ModelError(f"shared_layers must be from 0 to {depth} (the layers of the backbone), got {layers}")
    below = [(stack, str(i), stack[i]) for i in range(depth if layers is None else layers)]
    return [(backbone, name, getattr(backbone, name)), *below]


def _shape(module: nn.Module) -> tuple[type, dict[str, torch.Size]]:
    return type(module), {name: tensor.shape for name, tensor in module.state_dict().items()}
