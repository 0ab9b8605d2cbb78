"""Classes that imitate another one, such as forged signatures: near to it, but none of its files is of it.

A class imitates the others of its folder if the last part of its name says so: with "forgery", `042/forgery` imitates
`042/genuine`. Both are one *family*.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from textsiam.data.pairs import Pairs
from textsiam.data.tables.errors import DataError, ReadReport
from textsiam.media.labelled import LabelledFiles
from textsiam.media.pairs import DRAWN_PAIRS, draw_pairs, draw_up_to, evenly, most_pairs


def families(files: LabelledFiles, imitations: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the family of each class of `class_names` (k,) int32, and whether it imitates (k,) bool.

    Raises:
        DataError: No class has this last part, or what imitates lies in no folder.
    """
    parts = [name.rpartition("/") for name in files.class_names]
    imitates = np.array([last == imitations for *_, last in parts])
    if not imitates.any() or any(not folder for folder, _, last in parts if last == imitations):
        raise DataError(
            f"{files.source}: has no class FOLDER/{imitations}, which would imitate the other class of its folder"
        )
    number = {folder: i for i, folder in enumerate(dict.fromkeys(folder for folder, *_ in parts))}
    return np.array([number[folder] for folder, *_ in parts], np.int32), imitates


def with_families(pairs: Pairs, files: LabelledFiles, imitations: str | None) -> Pairs:
    """Return pairs drawn of these images that know which of them are of one family."""
    if imitations is None or pairs.groups is None:
        return pairs
    return replace(pairs, families=families(files, imitations)[0][pairs.groups])


def draw_judged(files: LabelledFiles, imitations: str | None, count: int = DRAWN_PAIRS, *, seed: int = 0) -> Pairs:
    """Draw pairs to judge by: half of one class, a quarter of two, a quarter of a class and what imitates it.

    No pair is of two imitations: whether those are of one hand says nothing.

    Args:
        files: The files.
        imitations: What classes that imitate others are called; None where none do, and half of the pairs are of two
            classes.
        count: Up to how many.
        seed: Another seed, another drawing.

    Raises:
        DataError: As `families`; or two classes of two images are not there.
    """
    if imitations is None:
        return draw_up_to(files, count, seed=seed)
    family, imitates = families(files, imitations)
    own = files.select(~imitates[files.classes])
    most = min(count * 3 // 4, most_pairs(own, duplicate_share=2 / 3))
    if not most:
        raise DataError(f"{files.source}: to judge takes two classes of two {files.nouns} or more, beside imitations")
    plain = draw_pairs(own, most, seed=seed, duplicate_share=2 / 3)
    rng = np.random.default_rng([seed, 1])
    left, right = _beside(family[files.classes], imitates[files.classes], round(most / 3), rng)
    report = ReadReport(files.source, len(left), len(left))
    labels = np.zeros(len(left), np.int8)
    near = Pairs(files.names, left, right, labels, files.source, report, groups=files.classes, modality=files.modality)
    return Pairs.concat([plain, near.select(np.arange(len(near)))]).select(rng.permutation(len(plain) + len(near)))


def _beside(
    family: np.ndarray, imitates: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return up to so many pairs of an image (n,) and an imitation (n,) of one family, evenly over the families."""
    found = [
        (np.flatnonzero((family == each) & ~imitates), np.flatnonzero((family == each) & imitates))
        for each in np.unique(family[imitates])
    ]
    most = np.array([len(own) * len(others) for own, others in found], np.int64)
    counts = evenly(most, min(count, int(most.sum())), rng)
    left, right = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for (own, others), exist, taken in zip(found, most.tolist(), counts.tolist(), strict=True):
        at = rng.choice(exist, taken, replace=False)
        left.append(own[at // max(1, len(others))])
        right.append(others[at % max(1, len(others))])
    return np.concatenate(left), np.concatenate(right)
