"""What training minimises: a weighted sum of losses over the embeddings of a batch, gathered from all processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from textsiam.training.memory import Memory


class Texts(NamedTuple):
    """Embedded texts: embeddings `(n, dim)`, and the cluster of each `(n,)`."""

    embeddings: Tensor
    clusters: Tensor


@dataclass(frozen=True)
class Embedded:
    """A batch after the towers: row i of every field but the remembered ones belongs to pair i.

    Attributes:
        u: Embeddings of the left texts, `(n, dim)`.
        v: Embeddings of the right texts, `(n, dim)`.
        negative: Embeddings of texts of other clusters than the left ones, `(n, dim)`, or None.
        labels: 1 = duplicate, 0 = not, `(n,)`.
        left_clusters: Cluster of each left text, `(n,)`.
        right_clusters: Cluster of each right text, `(n,)`.
        shared: Whether both sides come from one tower, so that left embeddings may be compared with left ones.
        negative_clusters: Cluster of each negative, `(n,)`, or None.
        left_memory: Left texts of earlier batches, without gradients, or None.
        right_memory: The same for the right side.
    """

    u: Tensor
    v: Tensor
    negative: Tensor | None
    labels: Tensor
    left_clusters: Tensor
    right_clusters: Tensor
    shared: bool = True
    negative_clusters: Tensor | None = None
    left_memory: Texts | None = None
    right_memory: Texts | None = None

    @property
    def left(self) -> Texts:
        """The left texts."""
        return Texts(self.u, self.left_clusters)

    @property
    def right(self) -> Texts:
        """The right texts."""
        return Texts(self.v, self.right_clusters)

    def narrowed(self, width: int) -> Embedded:
        """Return the batch with the leading `width` dimensions of every embedding, L2-normalised."""

        def narrow(value: Any) -> Any:
            if isinstance(value, Texts):
                return value._replace(embeddings=narrow(value.embeddings))
            return normalize(value[:, :width], dim=-1) if isinstance(value, Tensor) and value.ndim == 2 else value

        return replace(self, **{f.name: narrow(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class Term:
    """A loss over a batch, and what it asks of the batches.

    Attributes:
        loss: Maps a batch to a scalar.
        needs_negatives: Whether it reads `Embedded.negative`.
        positives_only: Whether it ignores pairs that are no duplicates.
    """

    loss: Callable[[Embedded], Tensor]
    needs_negatives: bool = False
    positives_only: bool = False

    def __call__(self, batch: Embedded) -> Tensor:
        """Return the loss of a batch."""
        return self.loss(batch)


class Objective(nn.Module):
    """A weighted sum of loss terms.

    Terms that own weights are `nn.Module`s: they are optimised and checkpointed with the twin.

    Args:
        terms: name → (weight, term); a term maps an `Embedded` batch to a scalar, and is a `Term` where it asks for
            something.
        memory: Texts of earlier batches that the terms are shown beside the batch.
        widths: width → weight: the weighted mean of the sum at several leading widths of the embeddings, so that they
            can be cut later (Kusupati et al. 2022, "Matryoshka Representation Learning"); None: the whole width.
            Terms whose weights fit one width only (`nn.Module`s that are not `Sized`) see the whole one.

    Attributes:
        needs_negatives: Whether a term reads `Embedded.negative`.
        positives_only: Whether every term ignores pairs that are no duplicates.

    Raises:
        ValueError: No term, or a weight or width that is not positive.
    """

    def __init__(
        self,
        terms: Mapping[str, tuple[float, Callable[[Embedded], Tensor]]],
        *,
        memory: Memory | None = None,
        widths: Mapping[int, float] | None = None,
    ) -> None:
        super().__init__()
        if not terms:
            raise ValueError("the objective has no loss: name at least one")
        weights = {name: weight for name, (weight, _) in terms.items()}
        for name, weight in (weights | {f"width {w}": x for w, x in (widths or {}).items()}).items():
            if not weight > 0:
                raise ValueError(f"weight of {name} must be > 0, got {weight}")
        if widths is not None and (not widths or min(widths) < 1):
            raise ValueError(f"widths must be >= 1, got {list(widths)}")
        self.terms = dict(terms)
        self.owners = nn.ModuleDict({n: t for n, (_, t) in terms.items() if isinstance(t, nn.Module)})
        self.memory = memory
        self.widths = widths
        functions = [term for _, term in terms.values()]
        self.needs_negatives = any(getattr(f, "needs_negatives", False) for f in functions)
        self.positives_only = all(getattr(f, "positives_only", False) for f in functions)

    def allocate(self, dim: int) -> None:
        """Make the weights and the memory of the objective, for embeddings of `dim` dimensions.

        Raises:
            ValueError: A width is larger than that.
        """
        widths = self.widths or {dim: 1.0}
        if max(widths) > dim:
            raise ValueError(f"width {max(widths)} is more than the {dim} dimensions of the embeddings")
        for owner in self.owners.values():
            for width in widths:
                if isinstance(owner, Sized):
                    owner.allocate(width)
        if self.memory is not None:
            self.memory.allocate(dim)

    def forward(self, batch: Embedded) -> Tensor:
        """Return the weighted sum of the terms, a scalar; it is taken in the precision of the embeddings."""
        if self.memory is not None:
            left, right = self.memory.recall()
            batch = replace(batch, left_memory=left, right_memory=right)
        with torch.autocast(batch.u.device.type, enabled=False):
            loss = self._sum(batch, self.terms) if self.widths is None else self._sum_of_widths(batch, self.widths)
        if self.memory is not None:
            self.memory.push(batch.left, batch.right)
        return loss

    def _sum_of_widths(self, batch: Embedded, widths: Mapping[int, float]) -> Tensor:
        fixed = {name for name, owner in self.owners.items() if not isinstance(owner, Sized)}
        cut = self.terms.keys() - fixed
        total = self._sum(batch, fixed)
        for width, weight in widths.items():
            total = total + weight / sum(widths.values()) * self._sum(batch.narrowed(width), cut)
        return total

    def _sum(self, batch: Embedded, names: Collection[str]) -> Tensor:
        chosen = [weight * term(batch) for name, (weight, term) in self.terms.items() if name in names]
        return torch.stack(chosen).sum() if chosen else batch.u.new_zeros(())


class Sized(nn.Module, ABC):
    """A term whose weights depend on the width of the embeddings, which only the twin knows."""

    @abstractmethod
    def allocate(self, dim: int) -> None:
        """Make the weights for embeddings of `dim` dimensions; those of other widths stay."""
