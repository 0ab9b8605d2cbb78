"""The duplicates among texts: every pair at or above a threshold, and the clusters that they form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.data.stored_strings import StoredStrings
from textsiam.data.tables.arrays import Vectors
from textsiam.decision.collection import CollectionDecision
from textsiam.decision.decision import Decision, fit_decision
from textsiam.decision.domain import DomainShift
from textsiam.decision.intervals import Estimate
from textsiam.decision.thresholds import Rule
from textsiam.inference.batching import Progress
from textsiam.inference.unread import Unread
from textsiam.legacy.names import old_arguments
from textsiam.models.domain import collection_shift
from textsiam.models.scorer import Scorer
from textsiam.search.duplicate_clusters import clusters_of_texts
from textsiam.search.exact_duplicates import ExactDuplicates
from textsiam.search.join.approximate import Sharding, most_pairs
from textsiam.search.join.exact import FoundPairs, pairs_above
from textsiam.search.join.ray import JobConfig
from textsiam.search.join.sorted_pairs import COLUMNS, MEMORY, Blocks, Room, slices, sorted_blocks

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame

# Pairs scored at once.
_SLICE = 65_536
_WHOLE = 10  # texts of a cluster that always stay together


@dataclass(frozen=True)
class Duplicates:
    """Suspected duplicates among n texts.

    Attributes:
        left: Index of the first text of each pair, `(p,)` int64; smaller than `right`.
        right: Index of the second text, `(p,)` int64.
        similarity: `(p,)` float32, best first.
        probability: P(duplicate) of each pair, `(p,)` float64; NaN where the twin has no decision.
        clusters: Groups in which every two texts reach the threshold (complete linkage: a chain of lookalikes is
            not a cluster), the most central text first; larger clusters first.
        threshold: Similarity from which a pair counts.
        recall: The measured share of all pairs of distinct texts that was found; None where all were.
        unread: Pairs that were left out, since nothing that the twin reads tells them apart.
        copies: How many texts are equal to one before them.
        distinct: How many of the pairs are of different texts, each two of them counted once.
        broken: The inputs that could not be opened, with the reason; they are in no pair.
        shift: In what the texts are unlike those that the decision was learned on; None if in nothing.

    What a job in partitions found is mapped into memory from its folder.
    """

    left: np.ndarray
    right: np.ndarray
    similarity: np.ndarray
    probability: np.ndarray
    clusters: Sequence[list[int]]
    threshold: float
    recall: Estimate | None = None
    unread: int = 0
    copies: int = 0
    distinct: int = 0
    shift: DomainShift | None = None
    broken: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.left)

    def blocks(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield left, right, similarity and probability of the next pairs, in bounded memory."""
        return slices(self.left, self.right, self.similarity, self.probability)

    def to_dataset(self, texts: Sequence[str] | None = None, ids: Sequence[str] | None = None) -> Dataset:
        """Return the pairs as a `datasets.Dataset`, with the columns of a file that `flag` writes.

        Args:
            texts: The n texts; None leaves their columns out.
            ids: Their ids; None numbers them from 0.
        """
        from datasets import Dataset

        sides = {"1": self.left, "2": self.right}
        needed = int(self.right.max(initial=-1)) + 1  # the right text of a pair comes after the left one
        ids, texts = (_by_place(values, needed, name) for name, values in (("ids", ids), ("texts", texts)))
        named = {f"id{k}": rows if ids is None else [ids[int(i)] for i in rows] for k, rows in sides.items()}
        if texts is not None:
            named |= {f"question{k}": [texts[int(i)] for i in rows] for k, rows in sides.items()}
        return Dataset.from_dict({**named, "similarity": self.similarity, "probability": self.probability})

    def to_pandas(self, texts: Sequence[str] | None = None, ids: Sequence[str] | None = None) -> DataFrame:
        """Return the pairs as a pandas frame, see `to_dataset`; `to_dataset(…).to_polars()` is one of polars."""
        frame: Any = self.to_dataset(texts, ids).to_pandas()
        return frame

    def with_probability(self, probability: Callable[[np.ndarray], np.ndarray]) -> Duplicates:
        """Return the same pairs with probabilities by their similarity, from `(n,)` to `(n,)`."""
        stored = self.probability.filename if isinstance(self.probability, np.memmap) else None
        room = MEMORY if stored is None else Room(1, Path(stored).parent)
        (column,) = room.columns("probability", ((probability(block[2]),) for block in self.blocks()), [np.float64])
        return replace(self, probability=column)


def _by_place(values: Any, needed: int, name: str) -> Any:
    """Return what is counted by places from 0, as lists are: a pandas Series counts by the labels of its index."""
    if values is None:
        return None
    found = values.tolist() if hasattr(values, "iloc") else values
    if len(found) < needed:
        raise ValueError(f"{name}: {len(found):,} were given, the pairs are of {needed:,} texts at least")
    return found


def _number(threshold: float) -> float:
    if np.isnan(threshold):
        raise ValueError("threshold must be a number, got nan")
    return threshold


@dataclass(frozen=True, eq=False)
class JoinedTexts:
    """Texts of which each distinct one was encoded and compared with the others.

    Attributes:
        copies: Which of them are equal.
        vectors: Of the distinct texts, `(m, dim)`.
        pairs: Of the distinct texts, scored: all that reach some similarity.
        room: How many pairs may be in memory, and where the others go.
    """

    copies: ExactDuplicates
    vectors: Vectors
    pairs: FoundPairs
    room: Room = MEMORY

    def duplicates(
        self, twin: Scorer, threshold: float, decision: Decision | None, *, expand_exact: bool = False
    ) -> Duplicates:
        """Return the pairs of texts whose similarity reaches a threshold, and their clusters; see `find_duplicates`."""
        found = Blocks(lambda: _above(map(FoundPairs._make, slices(*self.pairs)), threshold))
        repeated = self.copies.repeated
        own = _own_similarity(twin, self.vectors, repeated)
        reaching = own.astype(np.float64) >= threshold
        equal, own = repeated[reaching], own[reaching]
        groups = clusters_of_texts(self.vectors, found, self.copies, equal, self.room)
        pairs = sorted_blocks(self.copies.pairs(found, equal, own, every=expand_exact), self.room)
        probability = _no_probability if decision is None else decision.probability
        columns = self.room.columns(
            "pairs", ((*block, probability(block.similarity)) for block in pairs), (*COLUMNS, np.float64)
        )
        return Duplicates(
            *columns,
            clusters=groups if self.room.pairs else [*groups],
            threshold=float(threshold),
            copies=self.copies.copies,
            distinct=sum(len(block.left) for block in found),
        )


@old_arguments(bulk="job")
def find_duplicates(
    twin: Scorer,
    texts: Sequence[str],
    *,
    threshold: float | None = None,
    decision: Decision | None = None,
    progress: Progress | None = None,
    joining: Progress | None = None,
    sharding: Sharding | None = None,
    job: JobConfig | None = None,
    expand_exact: bool = False,
    unread: Unread | None = None,
) -> Duplicates:
    """Find every pair of texts whose similarity reaches the threshold, and their clusters.

    Equal texts are duplicates before anything is compared: the first of them is encoded and joined with others, and
    stands for all. Its copies are pairs with it alone, with the similarity of distance 0 (for the cosine, 1), so that
    thousands of equal texts are as many pairs, and not half their square; clusters hold all of them. Where the twin has
    a reranker, it is asked about every other pair in its band, and what both say together must reach the threshold.

    Args:
        twin: A twin whose sides share one tower.
        texts: n texts; equal texts are duplicates of each other.
        threshold: Least similarity of a pair; None takes the decision's.
        decision: Gives threshold and probabilities; None takes the twin's, for a collection of this size where it
            has learned one.
        progress: Called as `progress(done, total)` while texts are encoded.
        joining: Called as `joining(done, total)`, in pairs compared, while they are joined.
        sharding: Compare texts with those of the same neighbourhoods only: faster, and not every pair is found. None
            finds every pair.
        job: Encode and join by partitions, on a cluster if wanted; None does it here, in memory. Pairs and clusters
            are put together here all the same.
        expand_exact: Give every pair of all texts, those of copies with each other and with others too.
        unread: What is not read of the texts, of `unread_of`: pairs of different texts that nothing else tells apart
            are left out, and counted. None leaves out none.

    Raises:
        ModelError: No threshold is given, and there is no decision.
        ValueError: The towers differ, so that two texts of one kind cannot be compared; or `sharding` and `job` are
            both given.
        TypeError: `texts` is one text.
        JobError: The folder of the job holds another one, or the cluster is lost.
    """
    if twin.right is not None:
        raise ValueError(
            "duplicates are pairs of one kind of text, but the towers of this twin differ: use match, or open a model "
            "that has routes or prompts for queries with Twin.from_pretrained(…, sides=False)"
        )
    if decision is None:
        decision = twin.decision_for(len(texts))
    threshold = (decision or twin.require_decision()).threshold if threshold is None else _number(threshold)
    if isinstance(texts, str):
        raise TypeError("expected a list of inputs, got one str: write find_duplicates(twin, [text, …])")
    keys = twin.to_keys(texts)
    if job is not None and sharding is not None:
        raise ValueError("a job in partitions finds every pair: it cannot be approximate as well")
    room = MEMORY if job is None else job.room()
    copies = ExactDuplicates.among(keys, None if job is None else room.folder)
    distinct = keys.rows(copies.first) if isinstance(keys, StoredStrings) else [keys[int(i)] for i in copies.first]
    least, recall, broken = twin.unrescored_threshold(threshold), None, {}
    if job is not None:
        begun = job.begin(twin, distinct)
        vectors, broken = job.encode(begun, twin.dim, progress), begun.broken()
        pairs = job.join(begun, least, joining, rescored=twin.rescores)
    else:
        vectors = twin.encode(distinct, progress=progress)
        if sharding is not None:
            most = most_pairs(twin, vectors, least, sharding=sharding, progress=joining)
            pairs, recall = [most.pairs], most.recall
        else:
            pairs = [pairs_above(twin, vectors, least, progress=joining)]
    left_out: list[int] = []
    told_apart = pairs if unread is None else _told_apart(pairs, unread, copies, left_out)
    if job is None:
        told_apart = (block._replace(similarity=twin.rescore(distinct, *block)) for block in told_apart)
    joined = JoinedTexts(copies, vectors, FoundPairs(*room.columns("found", told_apart, COLUMNS)), room)
    found = joined.duplicates(twin, threshold, decision, expand_exact=expand_exact)
    if broken:  # a few of the others are encoded again
        shift = collection_shift(twin, [name for row, name in enumerate(distinct) if row not in broken])
    else:
        shift = collection_shift(twin, distinct, vectors=vectors)
    whys = {row: why for kind, why in broken.items() for row in copies.of(kind).tolist()}
    return replace(found, recall=recall, unread=sum(left_out), shift=shift, broken=whys)


def _told_apart(
    pairs: Iterable[FoundPairs], unread: Unread, copies: ExactDuplicates, left_out: list[int]
) -> Iterator[FoundPairs]:
    """Yield the pairs that something that is read tells apart; how many others each block has is added to a list."""
    for block in pairs:
        hidden = unread.differ_unread(copies.first[block.left], copies.first[block.right])
        left_out.append(int(hidden.sum()))
        yield FoundPairs(*(column[~hidden] for column in block))


def _own_similarity(twin: Scorer, vectors: Vectors, rows: np.ndarray) -> np.ndarray:
    """Return the similarity of texts to their copies, `(rows,)` float32."""
    if twin.head is None:
        return np.full(len(rows), float(twin.distance.similarity(torch.zeros(()))), np.float32)
    parts = [vectors[rows[start : start + _SLICE]] for start in range(0, len(rows), _SLICE)]
    return np.concatenate([np.zeros(0, np.float32), *(twin.vector_similarity(part, part) for part in parts)])


def _no_probability(similarity: np.ndarray) -> np.ndarray:
    return np.full(len(similarity), np.nan)


def _above(blocks: Iterable[FoundPairs], threshold: float) -> Iterator[FoundPairs]:
    """Yield the pairs whose similarity reaches a threshold."""
    for block in blocks:
        kept = block.similarity.astype(np.float64) >= threshold
        yield FoundPairs(*(column[kept] for column in block))


def fit_collection_decision(
    twin: Scorer, pairs: Pairs, *, rule: Rule = "f1", precision: float | None = None, limit: int = 700, seed: int = 0
) -> CollectionDecision:
    """Learn, from labelled pairs, when a score means "duplicate" between any two texts of a collection.

    Every pair among the texts is used: members of one cluster are duplicates, all others are taken as not. Where the
    labels are incomplete, an unknown duplicate counts as a false alarm, so the threshold errs on the strict side.

    Args:
        twin: A twin whose sides share one tower.
        pairs: Labelled pairs kept out of training.
        rule: What the threshold maximises.
        precision: A precision to reach with 95 % confidence, instead of the rule.
        limit: Texts used at most, in whole clusters: the pairs grow with the square. A cluster of more than a tenth of
            them, such as a class of thousands of images, gives no more before all others have given theirs.
        seed: Which clusters are used when there are more texts.

    Raises:
        ValueError: Too few duplicates or others to learn from.
    """
    clusters = cluster_ids(pairs)
    order = np.random.default_rng(seed).permutation(clusters.max() + 1)[clusters]
    queue = np.argsort(order, kind="stable")
    starts = np.searchsorted(order[queue], order[queue])  # where the cluster of each begins
    late = np.arange(len(queue)) - starts >= max(limit // 10, _WHOLE)
    kept = np.concatenate([queue[~late], queue[late]])[:limit]
    vectors = twin.encode([pairs.texts[i] for i in kept])
    left, right = np.triu_indices(len(kept), 1)
    slices = [slice(start, start + _SLICE) for start in range(0, len(left), _SLICE)]
    similarity = np.concatenate([twin.vector_similarity(vectors[left[s]], vectors[right[s]]) for s in slices])
    labels = (clusters[kept][left] == clusters[kept][right]).astype(np.int8)
    decision = fit_decision(similarity, labels, rule=rule, seed=seed)
    if precision is not None:
        decision = decision.at_precision(precision)
    return CollectionDecision(decision, len(kept))
