"""What training minimises: a weighted sum of losses over the embeddings of a batch, gathered from all processes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from textsiam.training.losses.memory_bank import Memory
from textsiam.training.losses.terms import Embedded, Term


class Objective(nn.Module):
    """A weighted sum of losses.

    Args:
        terms: The losses by name.
        head: That of the twin, where a loss trains it.
        memory: Texts of earlier batches that the losses are shown beside the batch.
        widths: width → weight: the weighted mean of the sum at several leading widths of the embeddings, so that they
            can be cut later (Kusupati et al. 2022, "Matryoshka Representation Learning"); None: the whole width. A
            loss that trains the head, which fits one width only, sees the whole one.

    Attributes:
        needs_negatives: Whether a loss reads `Embedded.negative`.
        encodes_twice: Whether a loss reads `Embedded.again`.
        reads_teacher: Whether a loss reads `Embedded.taught`.
        teacher: Folder or Hub id of the model that it learns from; None: the twin as it is before training.
        positives_only: Whether every loss ignores pairs that are no duplicates.

    Raises:
        ValueError: No loss, a weight or width that is not positive, or a head without its loss (or the reverse).
    """

    def __init__(
        self,
        terms: Mapping[str, Term],
        *,
        head: nn.Module | None = None,
        memory: Memory | None = None,
        widths: Mapping[int, float] | None = None,
    ) -> None:
        super().__init__()
        if not terms:
            raise ValueError("the objective has no loss: name at least one")
        for width, weight in (widths or {}).items():
            if not weight > 0:
                raise ValueError(f"weight of width {width} must be > 0, got {weight}")
        if widths is not None and (not widths or min(widths) < 1):
            raise ValueError(f"widths must be >= 1, got {list(widths)}")
        self.terms = dict(terms)
        self._of_head = {name for name, term in terms.items() if term.trains_head}
        if bool(self._of_head) != (head is not None):
            raise ValueError("a head is trained by its loss: give both, or none")
        self.owners = nn.ModuleDict()
        self.head = head
        self.memory = memory
        self.widths = widths
        self.needs_negatives = any(term.needs_negatives for term in terms.values())
        self.encodes_twice = any(term.encodes_twice for term in terms.values())
        students = [term for term in terms.values() if term.reads_teacher]
        self.reads_teacher = bool(students)
        self.teacher: str | None = next((getattr(term, "teacher", None) for term in students), None)
        self.positives_only = all(term.positives_only for term in terms.values())

    def identity(self) -> dict[str, Any]:
        """Return every knob by its config key: what must be the same when a run resumes."""
        knobs = {f"loss.{n}.{k}": value for n, term in self.terms.items() for k, value in asdict(term).items()}
        memory = None if self.memory is None else self.memory.pairs
        return {**knobs, "loss.memory.pairs": memory, "loss.matryoshka.widths": self.widths}

    def allocate(self, dim: int) -> None:
        """Make the weights and the memory of the objective, for embeddings of `dim` dimensions.

        Raises:
            ValueError: A width is larger than that.
        """
        widths = self.widths or {dim: 1.0}
        if max(widths) > dim:
            raise ValueError(f"width {max(widths)} is more than the {dim} dimensions of the embeddings")
        for name, term in self.terms.items():
            weights = {str(width): term.build(width) for width in widths}
            if None not in weights.values():
                self.owners[_key(name)] = nn.ModuleDict(weights)  # pyright: ignore[reportArgumentType]
        if self.memory is not None:
            self.memory.allocate(dim)

    def forward(self, batch: Embedded) -> Tensor:
        """Return the weighted sum of the losses, a scalar; it is taken in the precision of the embeddings."""
        if self.memory is not None:
            left, right = self.memory.recall()
            batch = replace(batch, left_memory=left, right_memory=right)
        with torch.autocast(batch.u.device.type, enabled=False):
            loss = self._sum(batch, self.terms) if self.widths is None else self._sum_of_widths(batch, self.widths)
        if self.memory is not None:
            self.memory.push(batch.left, batch.right)
        return loss

    def _sum_of_widths(self, batch: Embedded, widths: Mapping[int, float]) -> Tensor:
        total = self._sum(batch, self._of_head)
        for width, weight in widths.items():
            total = total + weight / sum(widths.values()) * self._sum(
                batch.narrowed(width), self.terms.keys() - self._of_head
            )
        return total

    def _sum(self, batch: Embedded, names: Collection[str]) -> Tensor:
        chosen = [term.weight * self._loss(name, batch) for name, term in self.terms.items() if name in names]
        return torch.stack(chosen).sum() if chosen else batch.u.new_zeros(())

    def _loss(self, name: str, batch: Embedded) -> Tensor:
        term = self.terms[name]
        if term.trains_head:
            return term(batch, self.head)
        if _key(name) in self.owners:
            return term(batch, self.owners[_key(name)][str(batch.u.shape[1])])  # pyright: ignore[reportIndexIssue]
        return term(batch)


class Objectives(nn.Module):
    """What several sets of pairs are trained by: each batch is of one of them, and has its objective.

    Args:
        parts: An objective for each set; they may share a head.
    """

    def __init__(self, parts: Sequence[Objective]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def allocate(self, dim: int) -> None:
        """Make the weights and the memories of all; see `Objective.allocate`."""
        for part in self.parts:
            part.allocate(dim)  # pyright: ignore[reportCallIssue]

    def forward(self, batch: Embedded) -> Tensor:
        """Return the loss of a batch; weights of other sets get a gradient of 0, which several processes wait for."""
        untouched = [weights.flatten()[:0].sum() for weights in self.parameters()]
        return torch.stack([self.parts[batch.part](batch), *untouched]).sum()


def _key(name: str) -> str:
    return name.replace(".", "/")  # no module of torch has a dotted name
