"""What everything that scores pairs can do: a twin, and an ensemble of twins."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import torch

from textsiam.data.integers import whole_numbers
from textsiam.decision.collection import CollectionDecision, Tell, warn
from textsiam.decision.decision import Decision, Verdict, fit_decision
from textsiam.decision.thresholds import Rule
from textsiam.inference.batching import BLOCK, Progress
from textsiam.inference.encoders import ModelError
from textsiam.inference.encoding import Encoder
from textsiam.inference.fast.fast_tower import Precision
from textsiam.legacy.names import OldAttribute
from textsiam.models.distances import Distance
from textsiam.models.domain import domain_of_pairs
from textsiam.models.learned import Head

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from textsiam.rerank.base import BaseReranker

Self = TypeVar("Self", bound="Scorer")

# Share of the calibration duplicates that reach the head's candidate threshold, so that they are found and scored.
_FOUND = 0.99


class Scorer(Encoder):
    """Scores pairs of inputs, and says when a score means "duplicate".

    Attributes:
        distance: What similarities come from.
        decision: What turns a similarity into a verdict; learned by `calibrate`.
        collection: The same for all pairs of a collection; learned by `textsiam.search.duplicates`.
        right: The tower of right inputs, where it differs from the left one.
        reranker: What is asked about pairs in doubt, where there is one.
        head: What scores the pairs that the distance finds, where that is learned.
    """

    # FSDP gives a twin another class, which is taken back: both must be laid out as a plain module is.
    __slots__ = ()

    distance: Distance
    decision: Decision | None
    collection: CollectionDecision | None
    right: SentenceTransformer | None
    head: Head | None
    reranker: BaseReranker | None
    verifier = OldAttribute("reranker")
    named = OldAttribute("to_keys")

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Number format that texts are encoded in unless another is asked for."""

    @abstractmethod
    def to_keys(self, inputs: Iterable[Any], *, side: str = "left") -> Sequence[str]:
        """Return the strings that stand for inputs: texts as they are, images by a name that holds them.

        Raises:
            TypeError: An input is none of the kind that is scored; the message names its position.
        """

    @property
    def similarity_fn_name(self) -> str | None:
        """What sentence-transformers calls the distance between vectors; None where it has no name for it."""
        name = self.distance.name
        return name if self.head is None and name in ("cosine", "euclidean", "manhattan") else None

    @property
    def model_card_data(self) -> Any:
        """Where evaluators of sentence-transformers write down what they measure."""
        return self.tower().model_card_data

    @abstractmethod
    def save_pretrained(self, path: str | Path, *, name: str | None = None) -> Path:
        """Save into a folder, whole or not at all; the model card calls it by `name`, or by that of the folder."""

    def push_to_hub(
        self, repo: str, *, private: bool | None = None, revision: str | None = None, token: str | None = None
    ) -> str:
        """Upload to the Hub as one commit, with weights, decision and model card.

        Args:
            repo: `user/repo`; it is made where it is not there.
            private: Whether a repository that is made is private; None is what the account says.
            revision: The branch, made where it is not there; None is the main one.
            token: Of the Hub; None takes that of the environment (HF_TOKEN).

        Returns:
            The address of the commit.

        Raises:
            ModelError: It cannot be uploaded; the message says why.
        """
        from textsiam.models.hub import push

        return push(self, repo, private=private, revision=revision, token=token)

    def pair_similarity(
        self,
        texts: Sequence[str],
        left: np.ndarray,
        right: np.ndarray,
        *,
        precision: Precision = "auto",
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Score pairs given as indices into texts, so that each text is encoded once.

        Args:
            texts: m texts.
            left: Index of each pair's left text, `(n,)`.
            right: Index of each pair's right text, `(n,)`.
            precision: As for `encode`.
            progress: As for `encode`.

        Returns:
            Similarities, larger = closer, `(n,)` float32: the cosine, for cosine distance; what the head says, where
            there is one. Those in doubt are what twin and reranker say together; see `rescore`.

        Raises:
            DataError: An index is the place of no text; the message names it.
            ValueError: The two sides differ in length.
        """
        within, expected = (0, len(texts) - 1), f"the place of one of {len(texts):,} texts"
        left, right = (whole_numbers(side, np.int64, within, name, expected)
                       for name, side in (("left", left), ("right", right)))  # fmt: skip
        if len(left) != len(right):
            raise ValueError(f"left and right must be of one length, got {len(left):,} and {len(right):,}")
        if len(left) == 0:
            return np.zeros(0, np.float32)
        vectors = self.pair_vectors(texts, left, right, precision=precision, progress=progress)
        return self.rescore(texts, left, right, self.vector_similarity(*vectors), precision=precision)

    def rescore(
        self,
        texts: Sequence[str],
        left: np.ndarray,
        right: np.ndarray,
        similarity: np.ndarray,
        *,
        precision: Precision = "auto",
    ) -> np.ndarray:
        """Give pairs that the vectors have scored a second look, the last that scores need.

        Args:
            texts: As for `pair_similarity`.
            left: As for `pair_similarity`.
            right: As for `pair_similarity`.
            similarity: What `vector_similarity` says of each pair, `(n,)`.
            precision: As for `encode`.

        Returns:
            The score of each pair, `(n,)` float32: those in doubt are what twin and reranker say together. Where there
            is no reranker, or one that is not fitted, the similarities as they are.
        """
        if self.reranker is None:
            return similarity
        if not self.reranker.fitted:
            warn("the reranker of this twin is not fitted, so scores are the twin's own: run reranker.fit(pairs, …)")
            return similarity
        return self.reranker.rescore(texts, left, right, similarity, precision=precision)

    @property
    def rescores(self) -> bool:
        """Whether `rescore` may change a score."""
        return self.reranker is not None

    def unrescored_threshold(self, threshold: float) -> float:
        """Return the least `vector_similarity` of pairs whose score may reach a threshold after `rescore`."""
        if self.reranker is None or self.reranker.combination is None:
            return threshold
        return min(threshold, self.reranker.combination.low)

    def candidate_threshold(self, threshold: float) -> float:
        """Return the least similarity by the distance of pairs whose score may reach a threshold: how low to search."""
        return self.unrescored_threshold(threshold) if self.head is None else float(self.head.candidate_threshold)

    @property
    def scores_by_model(self) -> bool:
        """Whether a score of two vectors takes more of the model: its head, or its reranker."""
        return self.head is not None or (self.reranker is not None and self.reranker.fitted)

    @property
    def scores_by_cosine(self) -> bool:
        """Whether `vector_similarity` is the cosine of two vectors."""
        return self.head is None and self.distance.is_cosine

    def pair_vectors(
        self,
        texts: Sequence[str],
        left: np.ndarray,
        right: np.ndarray,
        *,
        precision: Precision = "auto",
        progress: Progress | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode pairs given as indices into texts, each text once; the vectors of both sides, `(n, dim)` float32."""
        if self.right is None:
            vectors = self.encode(texts, precision=precision, progress=progress)
            return vectors[left], vectors[right]
        used_left, at_left = np.unique(left, return_inverse=True)
        used_right, at_right = np.unique(right, return_inverse=True)
        u = self.encode([texts[int(i)] for i in used_left], side="left", precision=precision, progress=progress)
        v = self.encode([texts[int(i)] for i in used_right], side="right", precision=precision, progress=progress)
        return u[at_left], v[at_right]

    def vector_similarity(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Score row i of `u` against row i of `v`, both `(n, dim)` float32; `(n,)` float32."""
        if self.head is None:
            return self._distance_similarity(u, v)
        head, device = self.head.eval(), self.device  # no unit is dropped when pairs are scored
        scores = np.zeros(len(u), np.float32)
        with torch.inference_mode():
            for start in range(0, len(u), BLOCK):
                part = slice(start, start + BLOCK)
                z = head(torch.from_numpy(u[part]).to(device), torch.from_numpy(v[part]).to(device))
                scores[part] = z.float().cpu().numpy()
        return scores

    def _distance_similarity(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return self.distance.similarity(self.distance(torch.from_numpy(u), torch.from_numpy(v))).numpy()

    def similarity(self, left: Sequence[Any], right: Sequence[Any], *, precision: Precision = "auto") -> np.ndarray:
        """Score `left[i]` against `right[i]`.

        Returns:
            Similarities, larger = closer (the cosine, for cosine distance), `(n,)` float32.

        Raises:
            ValueError: The two sides differ in length.
            TypeError: One input stands where a list belongs, or is none of the kind that is scored.
        """
        if isinstance(left, str) or isinstance(right, str):
            raise TypeError("expected lists of inputs, got one str: write twin.similarity([a], [b])")
        if len(left) != len(right):
            raise ValueError(f"both sides must have the same number of inputs, got {len(left)} and {len(right)}")
        lefts, rights = self.to_keys(left, side="left"), self.to_keys(right, side="right")
        index = {name: row for row, name in enumerate(dict.fromkeys([*lefts, *rights]))}
        rows = np.array([index[t] for t in lefts], np.int64), np.array([index[t] for t in rights], np.int64)
        return self.pair_similarity(list(index), *rows, precision=precision)

    @overload
    def compare(self, left: str, right: str) -> Verdict: ...
    @overload
    def compare(self, left: list[Any], right: list[Any]) -> list[Verdict]: ...
    @overload
    def compare(self, left: Any, right: Any) -> Any: ...
    def compare(self, left: Any, right: Any) -> Verdict | list[Verdict]:
        """Say whether two inputs are duplicates, and how probable that is; two lists give a verdict a pair.

        Raises:
            ModelError: There is no decision yet.
            TypeError: An input stands against a list.
        """
        decision = self.require_decision()
        many = {isinstance(side, (list, tuple)) for side in (left, right)}
        if len(many) == 2:
            raise TypeError("expected two inputs or two lists of them, got one of each")
        if many == {True}:
            return decision.verdicts(self.similarity(left, right))
        return decision.verdicts(self.similarity([left], [right]))[0]

    def decision_for(self, texts: int | None = None, *, tell: Tell = warn) -> Decision | None:
        """Return the decision that applies, or None where there is none.

        Args:
            texts: To all pairs among so many texts, if the scorer knows collections; None: to pairs that were picked.
            tell: Is told where so many texts put a precision that was promised out of reach.
        """
        if texts is None or self.collection is None:
            return self.decision
        return self.collection.among(texts, tell=tell)

    def require_decision(self, texts: int | None = None) -> Decision:
        """Return the decision that applies, as `decision_for` does.

        Raises:
            ModelError: There is none; the message says how to get one.
        """
        if (decision := self.decision_for(texts)) is None:
            raise ModelError(
                "this twin has no decision yet: run twin.calibrate(pairs) on labelled pairs it never saw, or textsiam "
                "calibrate MODEL PAIRS --output OUT; or name a --threshold"
            )
        return decision

    def calibrate(self: Self, pairs: Any, *, rule: Rule = "f1", prior: float | None = None) -> Self:
        """Learn from labelled pairs when a score means "duplicate"; returns the scorer itself.

        Where there is a head, how far it looks for candidates is learned too.

        Args:
            pairs: A `textsiam.data.pairs.Pairs` (anything with texts, left, right, labels) kept out of training.
            rule: What the threshold maximises: "f1" or "accuracy". See `Decision.at_precision` for more.
            prior: Share of duplicates where the twin will be used; None takes the share in `pairs`.

        Raises:
            ValueError: Too few pairs, or only one class.
        """
        scores = self.pair_similarity(pairs.texts, pairs.left, pairs.right)
        decision = fit_decision(scores, pairs.labels, rule=rule, prior=prior)
        self.decision = replace(decision, domain=domain_of_pairs(self, pairs), source=getattr(pairs, "source", None))
        if self.head is not None:
            duplicates = pairs.labels == 1
            vectors = self.pair_vectors(pairs.texts, pairs.left[duplicates], pairs.right[duplicates])
            self.head.candidate_threshold.fill_(float(np.quantile(self._distance_similarity(*vectors), 1 - _FOUND)))
        return self
