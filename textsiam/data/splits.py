"""Train, validation, calibration and test pairs that share no question, cluster or near-identical text."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsiam.data.clusters import connected_components, inseparable
from textsiam.data.graph_partition import cut_regions
from textsiam.data.leakage import DataReport as DataReport
from textsiam.data.leakage import Leakage, leakage, table
from textsiam.data.leakage import data_report as data_report
from textsiam.data.pairs import Pairs

NAMES = ("train", "validation", "calibration", "test")
_CLASSES = (0, 1, -1)
_SHORTFALL = 0.25  # a held-out split that lacks more of a label's share than this calls for a cut
_SKEW = 0.02  # a label's share may be this far from where it should be


@dataclass(frozen=True)
class SplitSize:
    """The size of one split: pairs, those labelled 1, and distinct texts."""

    name: str
    pairs: int
    positives: int
    texts: int


@dataclass(frozen=True)
class SplitReport:
    """How pairs were split.

    `sizes` are in the order train, validation, calibration, test; `dropped` pairs had their texts in two
    splits, which happens only where components had to be `cut`; `leakage` is measured on the result. A split by time
    says when each held-out split `begins`; what it `dropped` is older than the split of its component.
    """

    seed: int
    fractions: dict[str, float]
    sizes: tuple[SplitSize, ...]
    dropped: int
    cut: bool
    leakage: Leakage
    begins: Mapping[str, str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain JSON values."""
        return {**asdict(self), "sizes": [asdict(size) for size in self.sizes], "leakage": self.leakage.to_dict()}

    def __str__(self) -> str:
        """Lay out sizes and leakage as tables."""
        rows: list[tuple[Any, ...]] = [
            (s.name, s.pairs, f"{s.positives / s.pairs:.1%}" if s.pairs else "-", s.texts) for s in self.sizes
        ]
        lines = table(("split", "pairs", "duplicates", "texts"), rows)
        if self.cut:
            lines.append(f"{self.dropped:,} pairs dropped: too much hangs together, so components were cut "
                         "between duplicate clusters")  # fmt: skip
        if self.begins is not None:
            begun = ", ".join(f"{name} from {moment} on" for name, moment in self.begins.items())
            lines.append(f"by time: {begun}; {self.dropped:,} pairs dropped, older than the split of their questions")
        return "\n".join([*lines, "", str(self.leakage)])


@dataclass(frozen=True, eq=False)
class Splits:
    """Four sets of pairs and the report on them."""

    train: Pairs
    validation: Pairs
    calibration: Pairs
    test: Pairs
    report: SplitReport

    def named(self) -> dict[str, Pairs]:
        """Give the sets by name, in order."""
        return {name: getattr(self, name) for name in NAMES}

    def replacing(self, **parts: Pairs) -> Splits:
        """Put other pairs in the place of some splits; sizes and leakage are measured again."""
        changed = replace(self, **parts)
        named = changed.named()
        return replace(changed, report=replace(self.report, sizes=split_sizes(named), leakage=leakage(named)))


def split_pairs(
    pairs: Pairs, *, validation: float = 0.05, calibration: float = 0.05, test: float = 0.1, seed: int = 0
) -> Splits:
    """Split pairs so that no question, duplicate cluster or near-identical text is in two splits.

    Texts that are paired (with either label), near-identical or of one group hang together in components.
    Components, in an order drawn from `seed` and the texts alone, fill the held-out splits up to their share of
    each label; the rest, with whatever is too large, is train. So no pair is lost and the balance of labels stays
    (where small components run out of one label, held-out splits become up to a quarter smaller instead). Where
    too much hangs together for that, components are cut between duplicate clusters, in regions grown along the
    pairs, and the crossing pairs (none of them a duplicate) are dropped and counted in the report.

    The result depends on the set of pairs and on `seed`, not on the order of rows or of the two texts.

    Args:
        pairs: what to split.
        validation: share of the pairs that tells when to stop training.
        calibration: share that fits threshold and probability.
        test: share that is measured at the end.
        seed: another seed, another split.

    Raises:
        ValueError: a share is negative, or nothing is left for train.

    Example:
        >>> pairs = Pairs.from_texts(["a", "c", "e", "g"], ["b", "d", "f", "h"], [1, 0, 1, 0])
        >>> splits = split_pairs(pairs, validation=0, calibration=0, test=0.5)
        >>> len(splits.train), len(splits.test), splits.test.positives
        (2, 2, 1)
    """
    fractions = {"validation": validation, "calibration": calibration, "test": test}
    for name, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {fraction}")
    if sum(fractions.values()) >= 1:
        raise ValueError(f"validation + calibration + test must stay below 1, got {sum(fractions.values()):g}")
    graph = _Graph(pairs, seed)
    targets = _targets(pairs.labels, list(fractions.values()))
    places = _place(graph, targets)
    left, right = places[pairs.left], places[pairs.right]
    parts = [pairs.select((left == place) & (right == place)) for place in (-1, *range(len(targets)))]
    named: dict[str, Pairs] = dict(zip(NAMES, parts, strict=True))
    dropped = int((left != right).sum())
    report = SplitReport(
        seed=seed,
        fractions=fractions,
        sizes=split_sizes(named),
        dropped=dropped,
        cut=dropped > 0,
        leakage=leakage(named),
    )
    return Splits(*parts, report=report)


def question_disjoint_parts(pairs: Pairs, share: float, count: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Cut several parts of the same share out of pairs; no question, cluster or near-identical text is in two of them.

    Args:
        pairs: What to cut.
        share: Share of the pairs that each part gets.
        count: How many parts.
        seed: Another seed, other parts.

    Returns:
        The part that each text is in, -1 for what is left, `(m,)`. A pair has its texts in two parts, or in one and in
        none, only where components had to be cut, as `split_pairs` says.

    Raises:
        ValueError: The parts are more than there is.
    """
    if not 0 < share < 1 or count < 1 or share * count > 1 + 1e-9:
        raise ValueError(f"{count} parts of {share:g} each are more than there is, or none")
    return _place(_Graph(pairs, seed), _targets(pairs.labels, [share] * count))


def split_sizes(named: Mapping[str, Pairs]) -> tuple[SplitSize, ...]:
    """Give the size of each split."""
    return tuple(SplitSize(name, len(part), part.positives, len(part.texts)) for name, part in named.items())


class _Graph:
    """Texts, the blocks that must stay whole, and the components that blocks and pairs form."""

    def __init__(self, pairs: Pairs, seed: int) -> None:
        m = len(pairs.texts)
        self.pairs = pairs
        whole = inseparable(pairs)
        self.blocks = connected_components(m, *whole)
        self.components = connected_components(m, np.r_[pairs.left, whole[0]], np.r_[pairs.right, whole[1]])
        keys = np.frombuffer(b"".join(content_key(text, seed) for text in pairs.texts), dtype="<u8")
        self.component_order = np.argsort(_smallest(keys, self.components), kind="stable")
        self.block_order = np.argsort(_smallest(keys, self.blocks), kind="stable")
        self.component_counts = self._by_class(self.components[pairs.left], len(self.component_order))

    def of_blocks(self, places: np.ndarray) -> np.ndarray:
        """Give the place of each block (b,) from that of each text."""
        found = np.empty(len(self.block_order), dtype=np.int64)
        found[self.blocks] = places
        return found

    def _by_class(self, groups: np.ndarray, count: int) -> np.ndarray:
        columns = [np.bincount(groups[self.pairs.labels == label], minlength=count) for label in _CLASSES]
        return np.stack(columns, axis=1)

    def filled(self, places: np.ndarray, splits: int) -> np.ndarray:
        """Count the pairs of each held-out split by class (splits, 3), given the place of each text."""
        left, right = places[self.pairs.left], places[self.pairs.right]
        return self._by_class(np.where(left == right, left, -1) + 1, splits + 1)[1:]


def content_key(text: str, seed: int) -> bytes:
    """Give 8 bytes that put a text, or the name of a class, at a random place of an order drawn from `seed`."""
    salt = operator.index(seed).to_bytes(16, "little", signed=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, salt=salt).digest()


def _smallest(keys: np.ndarray, groups: np.ndarray) -> np.ndarray:
    order = np.lexsort((keys, groups))
    _, first = np.unique(groups[order], return_index=True)
    return keys[order[first]]


def _targets(labels: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """Share out each class over the held-out splits (splits, 3), each split's total rounded once."""
    counts = np.array([(labels == label).sum() for label in _CLASSES])
    targets = np.zeros((len(fractions), len(counts)), dtype=np.int64)
    for row, fraction in zip(targets, fractions, strict=True):
        row[:] = np.floor(counts * fraction)
        missing = round(counts.sum() * fraction) - row.sum()
        row[np.argsort(row - counts * fraction, kind="stable")[:missing]] += 1
    return targets


def _fill(counts: np.ndarray, order: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Give each component (c,) its held-out split, or -1 for train.

    First no split gets more of a class than its target; then what is missing is filled as nearly as it goes.
    """
    assigned = np.full(len(counts), -1, dtype=np.int64)
    wanted = targets.sum(axis=1)
    open_ = [(place, targets[place].tolist()) for place in np.flatnonzero(wanted).tolist()]
    sizes = counts.tolist()
    for component in order.tolist():
        zero, one, none = sizes[component]
        fits = [
            (sum(room) / wanted[place], -place, room)
            for place, room in open_
            if zero <= room[0] and one <= room[1] and none <= room[2]
        ]
        if fits:
            _, place, room = max(fits)
            assigned[component] = -place
            room[:] = [room[0] - zero, room[1] - one, room[2] - none]
            open_ = [each for each in open_ if any(each[1])]
            if not open_:
                return assigned
    for place, room in open_:
        _fill_nearest(counts, order, assigned, place, np.array(room))
    return assigned


def _fill_nearest(counts: np.ndarray, order: np.ndarray, assigned: np.ndarray, place: int, room: np.ndarray) -> None:
    while True:
        free = order[assigned[order] == -1]
        if not len(free):
            return
        distance = np.abs(room - counts[free]).sum(axis=1)
        best = int(distance.argmin())
        if distance[best] >= np.abs(room).sum():
            return
        assigned[free[best]] = place
        room = room - counts[free[best]]


def _place(graph: _Graph, targets: np.ndarray) -> np.ndarray:
    """Give each text (m,) its held-out split, or -1 for train."""
    places = _fill(graph.component_counts, graph.component_order, targets)[graph.components]
    filled = graph.filled(places, len(targets))
    missing = np.maximum(targets - filled, 0)
    if ((missing > _SHORTFALL * targets) & (missing > 1)).any():
        order = graph.block_order
        blocks = cut_regions(graph.pairs, graph.blocks, order, graph.of_blocks(places), missing.sum(axis=1))
        return blocks[graph.blocks]
    if _skew(filled, targets) <= _SKEW:
        return places
    reached = (1 - missing / np.maximum(targets, 1)).min()
    smaller = np.floor(targets * reached).astype(np.int64)
    others = _fill(graph.component_counts, graph.component_order, smaller)[graph.components]
    better = _skew(graph.filled(others, len(targets)), targets) < _skew(filled, targets)
    return others if better else places


def _skew(filled: np.ndarray, targets: np.ndarray) -> float:
    """The largest difference between a label's share of a held-out split and the share it should have."""
    wanted = filled.sum(axis=1) > 0
    if not wanted.any():
        return 0.0
    shares = [part[wanted] / part[wanted].sum(axis=1, keepdims=True) for part in (filled, targets)]
    return float(np.abs(shares[0] - shares[1]).max())
