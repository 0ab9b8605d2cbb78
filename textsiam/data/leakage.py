"""What is in a set of pairs, and what leaks from one set into another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from textsiam.data.clusters import cluster_ids, connected_components, contradictions, inseparable, text_forms
from textsiam.data.pairs import Pairs, ReadReport
from textsiam.data.tables.columns import NOUNS, Modality

_EXAMPLES = 3
_QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Overlap:
    """What two sets have in common.

    `shared_texts` of the second set occur in the first; `near_identical` texts of it do not, but are equal to
    one of the first after `normalised`; `shared_clusters` duplicate clusters reach into both;
    `contradictions` are rows contradicted only when both sets are taken together.
    """

    first: str
    second: str
    shared_texts: int
    near_identical: int
    shared_clusters: int
    contradictions: int
    examples: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether nothing leaks."""
        return not (self.shared_texts or self.near_identical or self.shared_clusters or self.contradictions)


@dataclass(frozen=True)
class Leakage:
    """What leaks between every two of several sets."""

    overlaps: tuple[Overlap, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing leaks between any two sets."""
        return all(overlap.clean for overlap in self.overlaps)

    def to_dict(self) -> dict[str, Any]:
        """Give the overlaps as plain JSON values."""
        rows = [{**asdict(overlap), "examples": list(overlap.examples)} for overlap in self.overlaps]
        return {"clean": self.clean, "overlaps": rows}

    def __str__(self) -> str:
        """Lay out the counts as a table, with examples under it."""
        head = ("sets", "shared texts", "near-identical", "shared clusters", "contradictions")
        rows = [
            (f"{o.first} | {o.second}", o.shared_texts, o.near_identical, o.shared_clusters, o.contradictions)
            for o in self.overlaps
        ]
        examples = [f"  {o.first} | {o.second}: {example}" for o in self.overlaps for example in o.examples]
        return "\n".join([*table(head, rows), *examples])


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    """Lay out rows under a head, one line each: the first column to the left, the others to the right."""
    cells = [head, *(tuple(f"{c:,}" if isinstance(c, int) else str(c) for c in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in cells
    ]


def leakage(named: Mapping[str, Pairs]) -> Leakage:
    """Measure what each two of the named sets share: texts, near-identical texts, clusters, contradictions.

    Example:
        >>> train = Pairs.from_texts(["How old are you?"], ["What is your age?"], [1])
        >>> test = Pairs.from_texts(["how old are you"], ["Who are you?"], [0])
        >>> leakage({"train": train, "test": test}).overlaps[0].near_identical
        1
    """
    forms = {name: text_forms(pairs) for name, pairs in named.items()}
    originals = {name: dict(zip(forms[name], pairs.texts, strict=True)) for name, pairs in named.items()}
    alone = {name: _contradicted(pairs) for name, pairs in named.items()}
    overlaps = []
    for first, second in combinations(named, 2):
        known = set(named[first].texts)
        shared, near = [], []
        for text, form in zip(named[second].texts, forms[second], strict=True):
            if text in known:
                shared.append(f"{text!r} is in both")
            elif form in originals[first]:
                near.append(f"{originals[first][form]!r} and {text!r}")
        joint = Pairs.concat([named[first], named[second]])
        clusters = cluster_ids(joint)
        crossing = _crossing_clusters(joint, clusters, len(named[first]))
        examples = (*shared[:_EXAMPLES], *near[:_EXAMPLES])
        both = _contradicted(joint, clusters) - alone[first] - alone[second]
        overlaps.append(Overlap(first, second, len(shared), len(near), crossing, both, examples))
    return Leakage(tuple(overlaps))


def apart_from(pairs: Pairs, held_out: Sequence[Pairs]) -> np.ndarray:
    """Say of each pair (n,) bool whether it shares no question, duplicate cluster or near-identical text with others.

    Args:
        pairs: what may leak.
        held_out: what must not be known; duplicates of both connect clusters.
    """
    joint = Pairs.concat([pairs, *(part for part in held_out if len(part))])
    blocks = connected_components(len(joint.texts), *inseparable(joint))
    n = len(pairs)
    known = np.isin(blocks, blocks[np.concatenate([joint.left[n:], joint.right[n:]])])
    return ~(known[joint.left[:n]] | known[joint.right[:n]])


def _contradicted(pairs: Pairs, clusters: np.ndarray | None = None) -> int:
    found = contradictions(pairs, cluster_ids(pairs) if clusters is None else clusters)
    return len(found.direct) + len(found.transitive)


def _crossing_clusters(joint: Pairs, clusters: np.ndarray, cut: int) -> int:
    in_first = np.zeros(len(joint.texts), dtype=bool)
    in_second = in_first.copy()
    for ends in (joint.left, joint.right):
        in_first[clusters[ends[:cut]]] = True  # a cluster's number is below the number of texts
        in_second[clusters[ends[cut:]]] = True
    several = np.bincount(clusters, minlength=len(joint.texts)) > 1
    return int((in_first & in_second & several).sum())


@dataclass(frozen=True)
class DataReport:
    """What is in a set of pairs.

    `clusters` counts duplicate clusters of two texts or more and `cluster_sizes` how many have each size;
    `direct` and `transitive` contradictions are rows, as in `contradictions`; `near_identical` texts differ
    from an earlier one only in case, punctuation or whitespace; `component_pairs` is the largest number of
    pairs connected to one another through shared texts; `words` are the 5 %, 50 % and 95 % quantiles of
    text lengths. Of images and sounds there are no words, and none is near-identical to another.
    """

    source: str
    pairs: int
    texts: int
    positives: int
    negatives: int
    unlabelled: int
    clusters: int
    cluster_sizes: dict[int, int]
    direct: int
    transitive: int
    near_identical: int
    component_pairs: int
    words: tuple[float, ...]
    examples: tuple[str, ...]
    read: ReadReport
    modality: Modality = "text"

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as plain JSON values."""
        return json.loads(json.dumps(asdict(self)))

    def __str__(self) -> str:
        """Lay out the report on reading, the counts and examples."""
        share = self.positives / self.pairs if self.pairs else 0.0
        largest = max(self.cluster_sizes, default=0)
        kind = NOUNS[self.modality]
        words = ("words a text (5 %, 50 %, 95 %)", ", ".join(f"{value:.0f}" for value in self.words))
        near = ("near-identical texts", self.near_identical)
        rows: list[tuple[Any, ...]] = [
            ("pairs", self.pairs),
            ("duplicates", f"{self.positives:,} ({share:.1%})"),
            ("not duplicates", self.negatives),
            ("unlabelled", self.unlabelled),
            (f"distinct {kind}", self.texts),
            *([words] if self.words else []),
            ("duplicate clusters", self.clusters),
            (f"{kind} in the largest cluster", largest),
            ("pairs connected at most", self.component_pairs),
            *([near] if self.words else []),
            ("contradictory labels, direct", self.direct),
            ("contradictory labels, through a cluster", self.transitive),
        ]
        examples = [f"  {example}" for example in self.examples]
        return "\n".join([str(self.read), "", *table(("", ""), rows)[1:], *examples])


def data_report(pairs: Pairs) -> DataReport:
    """Describe a set of pairs: balance, clusters, contradictions, near-identical texts, lengths."""
    clusters = cluster_ids(pairs)
    found = contradictions(pairs, clusters)
    sizes = np.bincount(clusters)
    counts = np.bincount(sizes[sizes > 1])
    components = connected_components(len(pairs.texts), pairs.left, pairs.right)
    connected = np.bincount(components[pairs.left], minlength=1)
    words = (
        ()
        if pairs.modality != "text"
        else np.quantile([len(text.split()) for text in pairs.texts] or [0], _QUANTILES).tolist()
    )
    left, right = pairs.left, pairs.right
    examples = [
        f"labelled 0 inside a duplicate cluster: {pairs.texts[left[row]]!r} and {pairs.texts[right[row]]!r}"
        for row in found.transitive[:_EXAMPLES]
    ]
    return DataReport(
        source=pairs.source,
        pairs=len(pairs),
        texts=len(pairs.texts),
        positives=pairs.positives,
        negatives=int((pairs.labels == 0).sum()),
        unlabelled=int((pairs.labels == -1).sum()),
        clusters=int((sizes > 1).sum()),
        cluster_sizes={int(size): int(counts[size]) for size in np.flatnonzero(counts)},
        direct=len(found.direct),
        transitive=len(found.transitive),
        near_identical=len(pairs.texts) - len(set(text_forms(pairs))) if pairs.modality == "text" else 0,
        component_pairs=int(connected.max()),
        words=tuple(words),
        examples=tuple(examples),
        read=pairs.report,
        modality=pairs.modality,
    )
