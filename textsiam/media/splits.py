"""Splits of labelled images or sounds: by class, so that the test asks about new ones, or within every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from textsiam.data.leakage import leakage
from textsiam.data.pairs import Pairs
from textsiam.data.splits import NAMES, SplitReport, Splits, content_key, split_sizes
from textsiam.data.tables.errors import DataError
from textsiam.media.imitations import draw_judged, families, with_families
from textsiam.media.labelled import LabelledFiles
from textsiam.media.names import shown_name
from textsiam.media.pairs import DRAWN_PAIRS, draw_pairs, most_pairs

TRAINING_PAIRS = 20_000
"""Pairs that are drawn of labelled files for training unless somebody says how many."""


def split_classes(
    files: LabelledFiles,
    *,
    validation: float = 0.0,
    calibration: float = 0.0,
    test: float = 0.2,
    seed: int = 0,
    level: int | None = None,
) -> dict[str, LabelledFiles]:
    """Split so that no class is in two splits: what is measured are classes never seen in training.

    Which classes go where depends on their names and `seed` only, not on the files.

    Args:
        files: what to split.
        validation: the share of the classes, or with an int their number.
        calibration: likewise.
        test: likewise; train takes the rest.
        seed: another seed, another split.
        level: keeps together, and counts as one, the classes that begin with the same so many parts of a
            path: with 1, `Balinese/character01` and `Balinese/character02` are both `Balinese`.

    Returns:
        The parts train, validation, calibration and test, in this order; one of size 0 is empty.

    Raises:
        ValueError: a share is negative or not below 1, or `level` is below 1.
        DataError: nothing is left for train, or there are too few classes for every part to get one.

    Example:
        >>> parts = split_classes(files, test=5, level=1)  # doctest: +SKIP
    """
    if level is not None and level < 1:
        raise ValueError(f"level must be at least 1, got {level}")
    sizes = _checked_sizes({"validation": validation, "calibration": calibration, "test": test})
    heads = [name if level is None else "/".join(name.split("/")[:level]) for name in files.class_names]
    groups = sorted(
        {heads[number] for number in files.present.tolist()}, key=lambda head: (content_key(head, seed), head)
    )
    counts = {name: _number(size, len(groups)) for name, size in sizes.items()}
    if sum(counts.values()) >= len(groups):
        asked = ", ".join(f"{name} {count}" for name, count in counts.items())
        what = "classes" if level is None else f"groups of classes at level {level}"
        raise DataError(f"{files.source}: has {len(groups)} {what}, too few for {asked} and train")
    held = np.repeat(np.arange(1, len(NAMES)), [*counts.values()])
    place = dict(zip(groups, held.tolist(), strict=False))  # train, 0, has what is left
    of_class = np.array([place.get(head, 0) for head in heads])
    return {name: files.select(of_class[files.classes] == i) for i, name in enumerate(NAMES)}


def split_within_classes(
    files: LabelledFiles,
    *,
    validation: float = 0.0,
    calibration: float = 0.0,
    test: float = 0.2,
    seed: int = 0,
) -> dict[str, LabelledFiles]:
    """Split the files of every class, so that each class is in each split: known classes, new files.

    Args:
        files: what to split.
        validation: the share of each class, rounded but at least one file; with an int, the number of files.
        calibration: likewise.
        test: likewise; train takes the rest.
        seed: another seed, another split.

    Returns:
        The parts train, validation, calibration and test, in this order; one of size 0 is empty.

    Raises:
        ValueError: a share is negative or not below 1.
        DataError: a class has too few files for every part to get one.
    """
    sizes = _checked_sizes({"validation": validation, "calibration": calibration, "test": test})
    rng = np.random.default_rng(seed)
    places = np.zeros(len(files), dtype=np.int64)
    for number in range(len(files.class_names)):
        rows = rng.permutation(np.flatnonzero(files.classes == number))
        counts = [_number(size, len(rows)) for size in sizes.values()]
        if len(rows) and sum(counts) >= len(rows):
            raise DataError(f"{files.source}: class {files.class_names[number]!r} has {len(rows)} {files.nouns}, too "
                            f"few for {', '.join(name for name, size in sizes.items() if size)} and train")  # fmt: skip
        held = rows[: sum(counts)]
        places[held] = np.repeat(np.arange(1, len(NAMES)), counts)[: len(held)]
    return {name: files.select(places == i) for i, name in enumerate(NAMES)}


def _checked_sizes(sizes: Mapping[str, float]) -> Mapping[str, float]:
    for name, size in sizes.items():
        if size < 0 or (isinstance(size, float) and size >= 1):
            raise ValueError(f"{name} must be a share from 0 to below 1, or a whole number, got {size}")
    shares = sum(size for size in sizes.values() if isinstance(size, float))
    if shares >= 1:
        raise ValueError(f"validation + calibration + test must stay below 1, got {shares:g}")
    return sizes


def _number(size: float, of: int) -> int:
    return size if isinstance(size, int) else max(round(size * of), 1) if size else 0


def split_labelled(
    files: LabelledFiles,
    *,
    more: Sequence[LabelledFiles] = (),
    pairs: int | None = None,
    validation: float = 0.05,
    calibration: float = 0.05,
    test: float = 0.1,
    unseen: Sequence[str] | None = None,
    disjoint: bool = False,
    imitations: str | None = None,
    seed: int = 0,
) -> Splits:
    """Split labelled files, then draw pairs inside each part: no file is in two, and no pair is lost between them.

    Each source is cut by itself, and no pair is of two sources: they would be told apart by their paper and pens, which
    says nothing about classes. A source gives each part pairs by the number of its classes there.

    Args:
        files: what to split.
        more: further sources; their classes are others than those of `files`, whatever their names.
        pairs: how many pairs to draw for training; None draws `TRAINING_PAIRS`, or as many as exist. The other parts
            get up to `DRAWN_PAIRS` each. Half of the pairs are duplicates.
        validation: share of the files, or of the classes where they are disjoint; a share of less than two classes of
            a source is none.
        calibration: likewise.
        test: likewise; without meaning where `unseen` says what the test is.
        unseen: classes, or folders of classes (`Balinese` for `Balinese/character01`), that only the test sees.
        disjoint: whether the other parts have classes of their own too, instead of files of their own.
        imitations: what classes that imitate another are called (see `textsiam.media.imitations`). They train as
            classes of their own, and where classes are apart they stay with what they imitate.
        seed: another seed, another split.

    Raises:
        ValueError: a share is negative or not below 1.
        DataError: there is no such class, two sources hold the same file, or a part would have too few files.
    """
    sources = [files, *more]
    _check_apart(sources)
    files.check_named(unseen or (), *more)
    shares = {"validation": validation, "calibration": calibration, "test": 0.0 if unseen else test}
    cuts = []
    for source in sources:
        held = source.named(unseen or ())
        rest = source.select(~held[source.classes])
        if disjoint:
            cut = _cut_by_class(rest, shares, seed, imitations)
        else:
            cut = split_within_classes(rest, **shares, seed=seed)
        cuts.append({**cut, "test": source.select(held[source.classes])} if unseen else cut)
    named: dict[str, Pairs] = {}
    for name in NAMES:
        parts = [cut[name] for cut in cuts]
        asked = pairs if name == "train" else None  # an error says how many there are, where there are fewer
        wanted = TRAINING_PAIRS if name == "train" else DRAWN_PAIRS
        if imitations is None or name == "train":
            drawn = _drawn(parts, wanted, asked, seed, imitations)
        else:
            drawn = _judged(parts, imitations, seed)
        named[name] = drawn or named["train"].select([])
    report = SplitReport(seed, shares, split_sizes(named), dropped=0, cut=False, leakage=leakage(named))
    return Splits(**named, report=report)


def _check_apart(sources: Sequence[LabelledFiles]) -> None:
    owner: dict[str, str] = {}
    for source in sources:
        again = next((name for name in source.names if name in owner), None)
        if again is not None:
            raise DataError(f"{source.source}: holds {shown_name(again)}, and so does {owner[again]}: give each once")
        owner.update(dict.fromkeys(source.names, source.source))


def _cut_by_class(
    files: LabelledFiles, shares: Mapping[str, float], seed: int, imitations: str | None
) -> dict[str, LabelledFiles]:
    """Cut by class, or by family where classes imitate others: by the folder of the class."""
    present = files.present if imitations is None else np.unique(families(files, imitations)[0][files.present])
    counts = {name: _number(share, len(present)) for name, share in _checked_sizes(shares).items()}
    sizes = {name: n if n > 1 else 0 for name, n in counts.items()}
    level = None if imitations is None else max(name.count("/") for name in files.class_names)
    return split_classes(files, **sizes, seed=seed, level=level)


def _judged(parts: Sequence[LabelledFiles], imitations: str, seed: int) -> Pairs | None:
    drawn = [draw_judged(part, imitations, DRAWN_PAIRS // len(parts), seed=seed) for part in parts if len(part)]
    return Pairs.concat(drawn) if drawn else None


def _drawn(
    parts: Sequence[LabelledFiles], wanted: int, asked: int | None, seed: int, imitations: str | None
) -> Pairs | None:
    """Draw pairs of each part, by the number of its classes; None where there are none."""
    most = [most_pairs(part) for part in parts]
    usable = [(part, limit) for part, limit in zip(parts, most, strict=True) if limit or (asked and len(parts) == 1)]
    classes = sum(len(part.present) for part, _ in usable)
    drawn = []
    for part, limit in usable:
        count = round((asked or wanted) * len(part.present) / classes)
        found = draw_pairs(part, count if asked else min(count, limit), seed=seed)
        drawn.append(with_families(found, part, imitations))
    return Pairs.concat(drawn) if len(drawn) > 1 else drawn[0] if drawn else None
