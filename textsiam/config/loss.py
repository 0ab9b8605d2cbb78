"""The section `loss` of a config: losses by name or dotted path, and what changes what all of them see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textsiam.dotted import import_dotted
from textsiam.yamlfile import ConfigError

if TYPE_CHECKING:
    from textsiam.models.learned import Head
    from textsiam.training.losses.objective import Objective


@dataclass(frozen=True)
class MatryoshkaConfig:
    """Leading widths at which all losses are taken.

    Attributes:
        widths: Dimensions that are kept; each at most those of the twin.
        weights: Weight of each width; None weighs them alike.
    """

    widths: list[int]
    weights: list[float] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and len(self.weights) != len(self.widths):
            raise ValueError(f"{len(self.widths)} widths, but {len(self.weights)} weights")


@dataclass(frozen=True)
class MemoryConfig:
    """See `textsiam.training.losses.memory_bank.Memory`."""

    pairs: int = 1024


_SEEN_BY_ALL = {"matryoshka": MatryoshkaConfig, "memory": MemoryConfig}


def loss_sections() -> dict[str, type]:
    """Return the dataclass of each section that may stand below `loss`, but for those of the user."""
    from textsiam.training.losses import LOSSES

    return {**LOSSES, **_SEEN_BY_ALL}


def loss_section(name: str, place: str) -> type:
    """Return the dataclass that a section below `loss` reads into: that of ours, or what a dotted path names.

    Raises:
        ConfigError: There is none; the message begins with `place`.
    """
    from textsiam.training.losses.terms import Term

    if "." not in name:
        return loss_sections()[name]
    found = import_dotted(name, f"{place}: loss")
    if not (isinstance(found, type) and issubclass(found, Term) and "__dataclass_fields__" in vars(found)):
        raise ConfigError(
            f"{place}: loss: {name!r} is no frozen dataclass derived from textsiam.training.losses.terms.Term"
        )
    return found


def with_default(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections that are on; where none of them is a loss, the default one comes first."""
    named = any(value is not None for name, value in tree.items() if name not in _SEEN_BY_ALL)
    whole = dict(tree) if named else {"online_contrastive": {}, **tree}
    return {name: value for name, value in whole.items() if value is not None}


def default_loss() -> dict[str, Any]:
    """Return what is minimised unless a config names a loss."""
    return {name: loss_section(name, "config")() for name in with_default({})}


def build_objective(config: Mapping[str, Any], head: Head | None = None) -> Objective:
    """Build what a run minimises.

    Args:
        config: The sections below `loss`, by name.
        head: That of the twin, for the loss that trains it.

    Raises:
        ConfigError: No loss is named, or a head without its loss (or a loss without its head).
    """
    from textsiam.training.losses import LOSSES
    from textsiam.training.losses.memory_bank import Memory
    from textsiam.training.losses.objective import Objective

    terms = {name: config[name] for name in _in_order(config)}
    if any(term.trains_head for term in terms.values()) != (head is not None):
        there, missing = ("loss.head", "model.head") if head is None else ("model.head", "loss.head")
        raise ConfigError(f"{there} is set, but {missing} is not: a head is trained by its loss")
    if not terms:
        raise ConfigError(f"loss: name at least one of {', '.join(LOSSES)}, or the dotted path of your own")
    memory, cut = config.get("memory"), config.get("matryoshka")
    widths = None if cut is None else dict(zip(cut.widths, cut.weights or [1.0] * len(cut.widths), strict=True))
    return Objective(terms, head=head, memory=None if memory is None else Memory(memory.pairs), widths=widths)


def _in_order(config: Mapping[str, Any]) -> list[str]:
    """Return the losses in the order of the table, those of the user last: sums of floats depend on it."""
    known = [*loss_sections()]
    losses = [name for name in config if name not in _SEEN_BY_ALL]
    return sorted(losses, key=lambda name: known.index(name) if name in known else len(known))
