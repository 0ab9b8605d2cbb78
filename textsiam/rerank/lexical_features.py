"""What the words of two texts say beside their meaning: which words they share, how rare those are that they do not.

A twin and a cross-encoder judge meaning, and are sure of pairs that have hardly a word in common, or all of them, where
they should not be. How far they can be trusted depends on the words, and a forest learns how.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from textsiam.legacy.trees import StoredTrees, stored_trees
from textsiam.rerank.trees import Trees, grow, require_trees

FEATURES = (
    "words shared, by weight",
    "words shared",
    "words shared, of the shorter text",
    "three letters shared",
    "weight left over, more",
    "weight left over, less",
    "words of both",
    "difference in words",
    "numbers that differ",
    "same last word",
)
"""What is looked at. Shares are Jaccard indices; a word weighs its idf, log (texts + 1) / (texts that have it + 1)."""

_WORD = re.compile(r"\w+(?:[.'\u2019]\w+)*")
_FILE = "lexical_features.json"
_STORED = "wording.safetensors"  # the trees of version 0.1
_FEWEST = 50  # pairs of each label that it can be learned from


@dataclass(frozen=True, eq=False)
class LexicalFeatures:
    """How probable a duplicate is, by the evidence of others and by the lexical features.

    Attributes:
        texts: Number of texts that words were counted in.
        counts: In how many of them a word occurs; words that occur in one only are left out.
        trees: Of the evidence, whose columns never lower the probability when they rise, and `FEATURES`: a random
            forest and boosted trees. They err in other places.
    """

    texts: int
    counts: Mapping[str, int]
    trees: tuple[Trees | StoredTrees, ...]

    @classmethod
    def fit(
        cls, left: Sequence[str], right: Sequence[str], evidence: NDArray[np.float64], labels: NDArray[np.integer]
    ) -> LexicalFeatures:
        """Learn from labelled pairs.

        Args:
            left: One text of each pair.
            right: The other.
            evidence: What rises with the probability of a duplicate: similarities, logits; `(n, k)`.
            labels: 1 for duplicates, 0 for others, `(n,)`.

        Raises:
            ValueError: There are too few pairs of a label.
            ModelError: LightGBM is not installed.
        """
        require_trees()
        fewest = min(int((labels == value).sum()) for value in (0, 1))
        if fewest < _FEWEST:
            raise ValueError(
                f"lexical features are learned from {_FEWEST} pairs of each label in the band, there are {fewest}"
            )
        distinct = dict.fromkeys([*left, *right])
        counts = Counter(word for text in distinct for word in set(words(text)))
        kept = {word: count for word, count in sorted(counts.items()) if count > 1}
        untrained = cls(len(distinct), kept, ())
        features = np.concatenate([evidence, untrained.features(left, right)], axis=1)
        return replace(untrained, trees=grow(features, labels, rising=range(evidence.shape[1])))

    def features(self, left: Sequence[str], right: Sequence[str]) -> NDArray[np.float64]:
        """Return `FEATURES` of each pair, `(n, 10)`; which text is left does not matter."""
        known: dict[str, tuple[list[str], set[str], set[str]]] = {}

        def read(text: str) -> tuple[list[str], set[str], set[str]]:
            if text not in known:
                found, plain = words(text), text.casefold()
                known[text] = found, set(found), {plain[i : i + 3] for i in range(max(1, len(plain) - 2))}
            return known[text]

        def weight(some: Iterable[str]) -> float:
            return sum(log((self.texts + 1) / (self.counts.get(word, 0) + 1)) for word in sorted(some))

        rows = []
        for one, other in zip(left, right, strict=True):
            (a, words_a, letters_a), (b, words_b, letters_b) = read(one), read(other)
            shared, only_a, only_b = words_a & words_b, words_a - words_b, words_b - words_a
            common = weight(shared)
            less, more = sorted([weight(only_a), weight(only_b)])
            rows.append(
                (
                    _ratio(common, common + less + more),
                    _ratio(len(shared), len(words_a | words_b)),
                    _ratio(len(shared), min(len(words_a), len(words_b))),
                    _ratio(len(letters_a & letters_b), len(letters_a | letters_b)),
                    more,
                    less,
                    len(a) + len(b),
                    abs(len(a) - len(b)),
                    sum(any(c.isdigit() for c in word) for word in only_a | only_b),
                    a[-1:] == b[-1:],
                )
            )
        return np.array(rows, np.float64).reshape(-1, len(FEATURES))

    def probability(
        self, left: Sequence[str], right: Sequence[str], evidence: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Return P(duplicate) of each pair as each of the trees says it, `(trees, n)`."""
        features = np.concatenate([evidence, self.features(left, right)], axis=1)
        return np.stack([one.probability(features) for one in self.trees])

    def save(self, folder: Path) -> None:
        """Write it into a folder, as `lexical_features.json`; trees of version 0.1 stay in a file beside it."""
        grown = [one.text() for one in self.trees if isinstance(one, Trees)]
        facts = {"texts": self.texts, "counts": dict(self.counts), "trees": grown, "sha256": _digest(grown)}
        (folder / _FILE).write_text(json.dumps(facts, ensure_ascii=False) + "\n", encoding="utf-8")
        stored = [one.arrays for one in self.trees if isinstance(one, StoredTrees)]
        if stored:
            save_file({f"{k}.{name}": a for k, one in enumerate(stored) for name, a in one.items()}, folder / _STORED)

    @classmethod
    def open(cls, folder: Path, facts: Mapping[str, Any] | None = None) -> LexicalFeatures:
        """Open what `save` wrote, or what version 0.1 did, which has the facts elsewhere.

        Raises:
            OSError: A file is missing.
            KeyError: Something is missing in it.
            ValueError: It is damaged.
            SafetensorError: It is damaged.
            ModelError: LightGBM is not installed.
        """
        if facts is None:
            facts = dict(json.loads((folder / _FILE).read_text(encoding="utf-8")))
        if (said := facts.get("trees", ())) and facts["sha256"] != _digest(said):
            raise ValueError("the trees are damaged")
        grown = tuple(Trees.of_text(text) for text in said)
        return cls(facts["texts"], facts["counts"], grown or stored_trees(folder / _STORED))


def _digest(texts: Sequence[str]) -> str:
    """Return a checksum: LightGBM ends the process over damaged trees."""
    return sha256("".join(texts).encode()).hexdigest()


def words(text: str) -> list[str]:
    """Return the words of a text, without regard to case."""
    return _WORD.findall(text.casefold())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
