"""A twin for a forum that nobody has labelled: learned from links, or titles and bodies, and kept if links say so."""

from __future__ import annotations

import copy
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from textsiam.data.clusters import cluster_ids, normalised
from textsiam.data.pairs import Pairs
from textsiam.data.splits import Splits, split_pairs
from textsiam.data.tables.errors import DataError
from textsiam.data.time_split import split_pairs_by_time
from textsiam.decision.intervals import FEWEST, Estimate
from textsiam.evaluation.link_ranks import difference, reciprocal_ranks
from textsiam.forums.reading import read_links, read_questions
from textsiam.inference.encoders import ModelError
from textsiam.models.twin import Twin
from textsiam.search.duplicates import fit_collection_decision
from textsiam.training.loop import train
from textsiam.training.losses import InfoNCELoss, OnlineContrastiveLoss
from textsiam.training.losses.objective import Objective
from textsiam.training.mining.positives_only import by_wording, with_trained_negatives
from textsiam.training.settings import Settings

ENOUGH_LINKS = 100
"""So many duplicate links, and training is from them; fewer leave nothing to learn from beside what judges."""

NEWEST = 20_000  # questions that are looked at, besides those that are linked
_LEAST = 32  # pairs to learn from
_BODY = 300  # characters of a body that are read: more would take minutes, and titles are what is compared
_BATCH = 32

Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Adaptation:
    """What came of adapting a twin to a forum.

    Attributes:
        twin: The adapted twin, or the one that was there before.
        adapted: Whether it is the adapted one.
        learned_from: "duplicate links", or "titles and bodies"; None where nothing could be judged, and so learned.
        pairs: How many of them.
        judged_by: Which links: "duplicate", or "duplicate and related" where there are few of the former.
        chosen_by: What the adapted twin gains on the links that chose, which are others than those below: its mean
            reciprocal rank less that of the twin before, with a 95 % interval over groups of linked questions.
        links: Links of the test, of questions that neither trained nor chose.
        clusters: Groups of questions that these connect.
        before: Mean reciprocal rank of a linked question of the test among the forum's, by the twin before.
        after: The same by the adapted twin.
        difference: `after - before` with its 95 % interval.
        seconds: How long it took.
    """

    twin: Twin
    adapted: bool
    learned_from: str | None
    pairs: int
    judged_by: str
    links: int
    clusters: int
    seconds: float = 0.0
    chosen_by: Estimate | None = None
    before: float | None = None
    after: float | None = None
    difference: Estimate | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain values."""
        facts = {k: v.to_dict() if isinstance(v, Estimate) else v for k, v in vars(self).items() if k != "twin"}
        return facts | {"decided": self.twin.decision is not None}


@dataclass(frozen=True, eq=False)
class _Forum:
    """The distinct texts of a forum, their dates ("" is unknown) and bodies, and its links as pairs labelled 1."""

    created: dict[str, str]
    bodies: dict[str, tuple[str, str]]
    duplicates: Pairs | None
    related: Pairs | None


def adapt(
    twin: Twin,
    forum: str | Path,
    *,
    pairs: int = 2000,
    learning_rate: float = 2e-5,
    seed: int = 0,
    tell: Tell | None = None,
    quiet: bool = True,
) -> Adaptation:
    """Learn from what a forum has, and return the better of two twins by links that training never saw.

    With `ENOUGH_LINKS` duplicate links, their older part is learned from and their newest fifth is the test (a drawn
    fifth, where questions have no dates). With fewer, the title of a question and its body are a pair to learn from,
    and no question that is linked is learned from: one half of the links chooses, the other is the test.

    The adapted twin is returned only where the 95 % interval of what it gains on the links that choose lies above 0,
    and it is not worse on those of the test; else the one that was there before is.

    Args:
        twin: Where to start; it is not changed.
        forum: A forum folder.
        pairs: Pairs to learn from at most, the newest.
        learning_rate: Peak learning rate of AdamW.
        seed: Of whatever is drawn.
        tell: Called with what is done now.
        quiet: Show no progress bar.

    Raises:
        DataError: The forum is damaged, or has too little to learn from.
        ModelError: The twin has two towers, a head or a reranker.
    """
    started, say = time.perf_counter(), tell or (lambda _: None)
    if twin.right is not None or twin.scores_by_model:
        raise ModelError("adapt takes a twin of one tower, without a head and without a reranker")
    found = _read(forum)
    splits = _split(found, seed)
    chooses, test = (splits.validation, splits.test) if splits else _halves(found, seed)
    parts = [part for part in (chooses, test) if part is not None]
    groups = [len(np.unique(_groups(part))) for part in parts]
    judged_by = "duplicate" if splits else "duplicate and related"
    kept = Adaptation(twin, False, None, 0, judged_by, len(parts[-1]) if parts else 0, groups[-1] if groups else 0)
    if min(groups, default=0) < FEWEST:
        return kept
    held_out = Pairs.concat(parts)
    learned_from, material = "duplicate links", splits and _newest(splits.train, found, pairs)
    if material is None:
        learned_from, material = "titles and bodies", _titles_and_bodies(found, held_out, pairs, str(forum))
    documents = list(dict.fromkeys([*held_out.texts, *found.created]))
    say(f"ranking the questions of {len(held_out):,} links ({judged_by}) among {len(documents):,}")
    before = [reciprocal_ranks(twin, documents, part) for part in parts]
    learner = Twin(copy.deepcopy(twin.left), distance=twin.distance.name)
    say(f"learning from {len(material):,} {learned_from}")
    _learn(learner, material, splits, found, learning_rate, seed, quiet)
    after = [reciprocal_ranks(learner, documents, part) for part in parts]
    chosen_by, gain = (difference(before[k], after[k], _groups(parts[k]), seed=seed) for k in range(2))
    adapted = chosen_by is not None and chosen_by.low > 0 and after[1].mean() >= before[1].mean()
    if adapted and splits:
        _decide(learner, splits)
    result = replace(
        kept,
        twin=learner if adapted else twin,
        adapted=bool(adapted),
        learned_from=learned_from,
        pairs=len(material),
        seconds=time.perf_counter() - started,
        chosen_by=chosen_by,
        before=float(before[1].mean()),
        after=float(after[1].mean()),
        difference=gain,
    )
    if adapted:
        learner.provenance = {**twin.provenance, "adapted": {"forum": Path(forum).name, **result.to_dict()}}
    return result


def _read(forum: str | Path) -> _Forum:
    links = list(read_links(forum))
    linked = {end for link in links for end in (link.id1, link.id2)}
    kept, texts = deque(maxlen=NEWEST), {}
    for key, text, title, body, created in read_questions(forum, ("id", "text", "title", "body", "created")):
        row = text.strip(), title or "", (body or "")[:_BODY], created or ""
        kept.append(row)
        if key in linked:
            texts[key] = row
    missing = sorted(linked - texts.keys())
    if missing:
        raise DataError(f"{forum}: links question {missing[0]!r}, which is not there; import the forum again")
    rows = dict.fromkeys([*texts.values(), *kept])
    created: dict[str, str] = {}
    for text, *_, date in rows:
        created[text] = max(date, created.get(text, ""))

    def of(kind: str) -> Pairs | None:
        ends = [(texts[link.id1][0], texts[link.id2][0]) for link in links if link.kind == kind]
        ends = list(dict.fromkeys((a, b) for a, b in ends if normalised(a) != normalised(b)))
        left, right = [a for a, _ in ends], [b for _, b in ends]
        return Pairs.from_texts(left, right, [1] * len(ends), f"{forum}: {kind}") if ends else None

    bodies = {text: (title or text, body) for text, title, body, _ in rows}
    return _Forum(created, bodies, of("duplicate"), of("related"))


def _split(found: _Forum, seed: int) -> Splits | None:
    """Cut the duplicate links by time, or at random where a question has no date; None where there are too few."""
    pairs = found.duplicates
    if pairs is None or len(pairs) < ENOUGH_LINKS:
        return None
    shares, dates = {"validation": 0.2, "calibration": 0.1, "test": 0.2}, [found.created[text] for text in pairs.texts]
    try:
        splits = split_pairs_by_time(pairs, dates, **shares)
    except ValueError:  # no dates, or all of one moment
        splits = split_pairs(pairs, **shares, seed=seed)
    return splits if len(splits.train) >= _LEAST else None


def _halves(found: _Forum, seed: int) -> tuple[Pairs | None, Pairs | None]:
    """Cut all links into two halves, by groups of linked questions: what chooses, and the test."""
    given = [pairs for pairs in (found.duplicates, found.related) if pairs is not None]
    if not given:
        return None, None
    pairs = Pairs.concat(given)
    groups = cluster_ids(pairs)[pairs.left]
    drawn = np.random.default_rng(seed).permutation(np.unique(groups))
    chosen = np.isin(groups, drawn[::2])
    return pairs.select(chosen), pairs.select(~chosen)


def _groups(pairs: Pairs) -> np.ndarray:
    """Return the cluster of each text that links connect, in the order of `reciprocal_ranks`."""
    return cluster_ids(pairs)[np.unique(np.r_[pairs.left, pairs.right])]


def _newest(pairs: Pairs, found: _Forum, most: int) -> Pairs:
    dates = [max(found.created[a], found.created[b]) for a, b in zip(pairs.left_texts, pairs.right_texts, strict=True)]
    return pairs.select(np.sort(np.argsort(np.array(dates), kind="stable")[-most:]))


def _titles_and_bodies(found: _Forum, judged: Pairs, most: int, source: str) -> Pairs:
    """Return titles and their bodies as pairs, the newest, without any question that a link judges by."""
    held_out = {normalised(text) for text in judged.texts}
    rows = [
        both for text, both in found.bodies.items() if all(map(str.strip, both)) and normalised(text) not in held_out
    ]
    rows = rows[-most:]
    if len(rows) < _LEAST:
        raise DataError(
            f"{source}: too little to learn from: fewer than {ENOUGH_LINKS} duplicate links, and {len(rows)} questions "
            f"with a body that are not linked; at least {_LEAST} are needed"
        )
    return Pairs.from_texts([title for title, _ in rows], [body for _, body in rows], [1] * len(rows), source)


def _learn(
    learner: Twin,
    material: Pairs,
    splits: Splits | None,
    found: _Forum,
    learning_rate: float,
    seed: int,
    quiet: bool,
) -> None:
    """Train in place: on links against mined negatives, on titles against all other bodies of a batch."""
    terms: dict[str, Any] = {"info_nce": InfoNCELoss()}
    if splits is not None:
        known = [part for part in (splits.validation, splits.calibration, splits.test) if len(part)]
        held_out = {normalised(text) for part in known for text in part.texts}
        others = [text for text in found.created if normalised(text) not in held_out]
        material = with_trained_negatives(learner, material, known, others=others)
        terms = {"online_contrastive": OnlineContrastiveLoss(), "info_nce": InfoNCELoss(weight=0.1)}
    settings = Settings(
        epochs=min(5, -(-1000 // len(material))),  # a few links are seen more than once
        batch_size=_BATCH, learning_rate=learning_rate, tracker="none", keep_checkpoints=1, seed=seed,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="textsiam-adapt-") as folder:
        result = train(learner, material, Objective(terms), output=folder, settings=settings, quiet=quiet)
    if result.interrupted:
        raise KeyboardInterrupt


def _decide(twin: Twin, splits: Splits) -> None:
    """Learn the decisions from links that neither trained nor judged; a twin of too few goes without."""
    try:
        pairs = by_wording(splits.calibration)
        twin.calibrate(pairs)
        twin.collection = fit_collection_decision(twin, pairs)
    except ValueError:
        twin.decision = twin.collection = None
