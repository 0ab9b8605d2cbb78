"""What a loss is shown, and what it is to a run: its weight and its knobs, as data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, NamedTuple, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from textsiam.models.distances import distance_named
from textsiam.training.knobs import check_knobs, positive


class Texts(NamedTuple):
    """Embedded texts: embeddings `(n, dim)`, and the cluster of each `(n,)`."""

    embeddings: Tensor
    clusters: Tensor

    @classmethod
    def joined(cls, *texts: Texts | None) -> Texts:
        """Return all of them, one after the other, in the number format of the first."""
        given = [t for t in texts if t is not None]
        dtype = given[0].embeddings.dtype
        return cls(torch.cat([t.embeddings.to(dtype) for t in given]), torch.cat([t.clusters for t in given]))


@dataclass(frozen=True)
class Embedded:
    """A batch after the towers: row i of every field but the remembered ones belongs to pair i.

    Attributes:
        u: Embeddings of the left texts, `(n, dim)`.
        v: Embeddings of the right texts, `(n, dim)`.
        negative: Embeddings of texts of other clusters than the left ones, `(n, dim)`, or None.
        labels: 1 = duplicate, 0 = not, or grades of similarity, larger = more similar, `(n,)`.
        left_clusters: Cluster of each left text, `(n,)`.
        right_clusters: Cluster of each right text, `(n,)`.
        shared: Whether both sides come from one tower, so that left embeddings may be compared with left ones.
        negative_clusters: Cluster of each negative, `(n,)`, or None.
        left_memory: Left texts of earlier batches, without gradients, or None.
        right_memory: The same for the right side.
        again: Embeddings of the left texts encoded a second time, with other dropout, `(n, dim)`, or None.
        taught: Vectors that the teacher gives the left and the right texts, `(n, width)` each, or None.
        part: Which of the sets of the run the pairs are of.
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
    again: Tensor | None = None
    taught: tuple[Tensor, Tensor] | None = None
    part: int = 0

    @property
    def left(self) -> Texts:
        """The left texts."""
        return Texts(self.u, self.left_clusters)

    @property
    def right(self) -> Texts:
        """The right texts."""
        return Texts(self.v, self.right_clusters)

    def candidates(self, *, forth: bool) -> Texts:
        """Return what left texts (`forth`) or right ones may be compared with: the other side of the batch comes first.

        Between different towers these are the texts of the other side only. What is remembered is among them.
        """
        near, far = (self.left, self.right) if forth else (self.right, self.left)
        memories = (self.left_memory, self.right_memory)
        near_memory, far_memory = memories if forth else reversed(memories)
        return Texts.joined(*((far, near, far_memory, near_memory) if self.shared else (far, far_memory)))

    def drawn(self, loss: str) -> Texts:
        """Return the negative of each left text.

        Raises:
            ValueError: The batch has none, which `loss` needs.
        """
        if self.negative is None or self.negative_clusters is None:
            raise ValueError(f"the {loss} loss needs negatives, but the batch has none")
        return Texts(self.negative, self.negative_clusters)

    def narrowed(self, width: int) -> Embedded:
        """Return the batch with the leading `width` dimensions of every embedding, L2-normalised."""

        def narrow(value: Any) -> Any:
            if isinstance(value, Texts):
                return value._replace(embeddings=narrow(value.embeddings))
            return normalize(value[:, :width], dim=-1) if isinstance(value, Tensor) and value.ndim == 2 else value

        return replace(self, **{f.name: narrow(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class Term(ABC):
    """A loss of a run: a frozen dataclass whose fields are its keys in a config; called with a batch, it is a scalar.

    The losses of this package and those of a user are subclasses alike. Every checkpoint holds the fields: a run does
    not go on with other ones.

    Attributes:
        weight: Weight in the sum that is minimised.
        needs_negatives: Whether it reads `Embedded.negative`.
        positives_only: Whether it ignores pairs that are no duplicates.
        trains_head: Whether it is called with the twin's head too, and trains it.
        encodes_twice: Whether it reads `Embedded.again`.
        reads_teacher: Whether it reads `Embedded.taught`, of the model that its field `teacher` names.
        reads_grades: Whether it takes grades of similarity in place of labels.
        contrasts: Whether it needs pairs of both labels, and has no other way to learn what is apart.

    Raises:
        ValueError: A weight that is not positive, or a value that is none of those that a `Literal` names.

    Example:
        >>> @dataclass(frozen=True)
        ... class MeanDistance(Term):
        ...     power: float = 2.0
        ...
        ...     def __call__(self, batch):
        ...         return ((batch.u - batch.v).norm(dim=-1) ** self.power).mean()
    """

    weight: float = positive(1.0)
    needs_negatives: ClassVar[bool] = False
    positives_only: ClassVar[bool] = False
    trains_head: ClassVar[bool] = False
    encodes_twice: ClassVar[bool] = False
    reads_teacher: ClassVar[bool] = False
    reads_grades: ClassVar[bool] = False
    contrasts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for f in fields(self):
            value, options = getattr(self, f.name), get_args(hints[f.name])
            if get_origin(hints[f.name]) is Literal and value not in options:
                raise ValueError(f"{f.name} must be one of {', '.join(options)}, got {value!r}")
        check_knobs(self)
        self.knobs()

    def knobs(self) -> dict[str, Any]:
        """Return the fields but for the weight, as a pure function takes them: of a distance's name, the distance."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "weight"}
        return own | ({"distance": distance_named(own["distance"])} if "distance" in own else {})

    def build(self, dim: int) -> nn.Module | None:
        """Return weights of its own for embeddings of `dim` dimensions, or None where it has none.

        They are optimised and checkpointed with the twin, but not saved with it.
        """
        return None

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of a batch, an `Embedded`, a scalar; its own weights, or the head, come second."""
