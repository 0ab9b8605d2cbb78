"""The verifier: a cross-encoder that reads both texts of a pair at once, asked where the twin's score leaves doubt."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sklearn.linear_model import LogisticRegression
from torch import nn

from textsiam.models.calibration import check_fraction, finite_scores, fit_platt, from_log_odds, log_odds
from textsiam.models.encoders import MINILM, ModelError, resolve
from textsiam.models.fast_cross_encoder import FastCrossEncoder
from textsiam.models.fast_tower import Precision, fast_dtype
from textsiam.models.forest import Forest, Trees
from textsiam.models.wording import KINDS, Wording

_FORMATS = (1, 2, 3)  # the first knew no wording, the second one forest of it and always a cross-encoder
_FILE = "verifier.json"
_TREES = "wording.safetensors"
_FEWEST = 5  # pairs of each label inside the band that the combination is learned from


@dataclass(frozen=True)
class Combination:
    """What the twin's similarity s and the verifier's logit z say together, and where z is worth asking for.

    The twin alone: logit P = slope · s + intercept. Both, where low ≤ s ≤ high: logit P = twin · s + verifier · z +
    constant. The score is the similarity at which the twin alone would be as sure, (logit P - intercept) / slope, so
    that scores from inside and outside the band have one meaning and can be ranked together.
    """

    slope: float
    intercept: float
    low: float
    high: float
    twin: float
    verifier: float
    constant: float

    def asks(self, similarity: np.ndarray) -> NDArray[np.bool_]:
        """Return which similarities leave doubt."""
        return (similarity >= self.low) & (similarity <= self.high)

    def log_odds(self, similarity: np.ndarray, logits: np.ndarray) -> NDArray[np.float64]:
        """Return the log odds of a duplicate, from both."""
        return self.twin * similarity.astype(np.float64) + self.verifier * logits + self.constant

    def score(self, odds: np.ndarray) -> NDArray[np.float64]:
        """Return the similarity at which the twin alone would have these log odds; it may lie beyond 1."""
        return (odds - self.intercept) / self.slope


class Verifier:
    """A cross-encoder with one output, and how it is combined with a twin; or the wording of a pair alone.

    Args:
        model: The cross-encoder; its logit is larger for duplicates. None asks none: then the wording is what is
            weighed against the twin's similarity, which costs next to nothing.
        symmetric: Ask for both orders of a pair and take the mean logit, so that the order does not matter.
        combination: Learned by `fit`.
        wording: Learned by `fit`, where it is asked to: P is the mean of what the combination and its trees say then.

    Raises:
        ModelError: The cross-encoder has not one output.

    Example:
        >>> verifier = Verifier(cross_encoder(), symmetric=True)  # doctest: +SKIP
        >>> similarity = twin.pair_similarity(pairs.texts, pairs.left, pairs.right)  # doctest: +SKIP
        >>> twin.verifier = verifier.fit(pairs, similarity)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: CrossEncoder | None,
        *,
        symmetric: bool = True,
        combination: Combination | None = None,
        wording: Wording | None = None,
    ) -> None:
        if model is not None and model.num_labels != 1:
            raise ModelError(f"a verifier is a cross-encoder with one output, this one has {model.num_labels}")
        self.model = model
        self.symmetric = symmetric
        self.combination, self.wording = combination, wording
        self._fast: FastCrossEncoder | None = None

    def logits(
        self, texts: Sequence[str], left: np.ndarray, right: np.ndarray, *, precision: Precision = "auto"
    ) -> np.ndarray:
        """Return the logit of each pair `texts[left[i]], texts[right[i]]`, `(n,)`; equal pairs are read once.

        Without a cross-encoder every logit is 0.
        """
        if len(left) == 0 or self.model is None:
            return np.zeros(len(left), np.float32)
        rows = np.stack([left, right], 1)
        if self.symmetric:
            rows = np.sort(rows, axis=1)
        distinct, inverse = np.unique(rows, axis=0, return_inverse=True)
        orders = [distinct, distinct[:, ::-1]] if self.symmetric else [distinct]
        asked = [(str(texts[a]), str(texts[b])) for order in orders for a, b in order.tolist()]
        found = self._read(self.model, asked, fast_dtype(torch.device(self.model.device), precision))
        return found.reshape(len(orders), -1).mean(0)[inverse.reshape(-1)]

    def _read(self, model: CrossEncoder, asked: list[tuple[str, str]], dtype: torch.dtype) -> np.ndarray:
        """Return the logit of each pair in this order of its texts, `(n,)` float32."""
        if self._fast is None or self._fast.dtype != dtype or self._fast.stale:
            self._fast = FastCrossEncoder(model, dtype) if FastCrossEncoder.readable(model) else None
        if self._fast is not None:
            return self._fast.logits(asked)[:, 0]
        with torch.autocast(model.device.type, dtype=dtype, enabled=dtype != torch.float32):
            found = model.predict(asked, activation_fn=nn.Identity(), show_progress_bar=False, batch_size=32)
        return np.asarray(found, np.float32)

    def fit(
        self, pairs: Any, similarity: np.ndarray, *, band: Sequence[float] = (0.1, 0.9), wording: bool = False
    ) -> Verifier:
        """Learn the combination from labelled pairs that neither training saw; returns the verifier itself.

        A threshold should be learned from other pairs than these: with `wording` it would be too sure of itself.

        Args:
            pairs: A `textsiam.data.pairs.Pairs` (anything with texts, left, right, labels).
            similarity: The twin's own similarity of each pair, `(n,)`.
            band: Probabilities of the twin alone between which the verifier is asked.
            wording: Learn from the wording of the pairs too; thousands of pairs are wanted for it.

        Raises:
            ValueError: The similarities, or the logits in the band, do not rise with the labels; or too few pairs lie
                in the band.
        """
        low, high = (log_odds(check_fraction(value, name="band")) for value in band)
        if low >= high:
            raise ValueError(f"band must rise, got {tuple(band)}")
        scores, labels = finite_scores(similarity), np.asarray(pairs.labels)
        alone = fit_platt(scores, labels)
        if alone.slope <= 0:
            raise ValueError("the twin's similarity does not rise with the labels: there is nothing to verify")
        low, high = (float((edge - alone.intercept) / alone.slope) for edge in (low, high))
        rows = np.flatnonzero((scores >= low) & (scores <= high))
        if min((labels[rows] == value).sum() for value in (0, 1)) < _FEWEST:
            raise ValueError(
                f"{len(rows)} calibration pairs, {int((labels[rows] == 1).sum())} of them duplicates, lie where the "
                f"twin is in doubt: the combination needs {_FEWEST} of each label; widen the band, or add pairs"
            )
        logits = self.logits(pairs.texts, pairs.left[rows], pairs.right[rows])
        features = np.stack([scores[rows], logits.astype(np.float64)], 1)
        twin, verifier, constant = _logistic(features, labels[rows])
        if twin < 0:  # a larger similarity never lowers a score
            twin, verifier, constant = _logistic(features * [0, 1], labels[rows])
        if verifier <= 0 and self.model is not None:
            raise ValueError(
                "the verifier's logit does not rise with the labels where the twin is in doubt: train it more"
            )
        learned = None
        if wording:
            learned = Wording.fit(*_sides(pairs.texts, pairs.left[rows], pairs.right[rows]), features, labels[rows])
        self.combination = Combination(alone.slope, alone.intercept, low, high, twin, verifier, constant)
        self.wording = learned
        return self

    def rescore(
        self,
        texts: Sequence[str],
        left: np.ndarray,
        right: np.ndarray,
        similarity: np.ndarray,
        *,
        precision: Precision = "auto",
    ) -> np.ndarray:
        """Return the similarities, those in the band replaced by what twin and verifier say together, `(n,)` float32.

        Raises:
            ModelError: There is no combination yet.
        """
        combination = self._fitted()
        rows = np.flatnonzero(combination.asks(similarity))
        odds = self._log_odds(texts, left[rows], right[rows], similarity[rows], precision)
        scores = similarity.astype(np.float32)
        scores[rows] = combination.score(odds)
        return scores

    def probability(
        self, texts: Sequence[str], left: np.ndarray, right: np.ndarray, similarity: np.ndarray
    ) -> NDArray[np.float64]:
        """Return P(duplicate) of every pair from twin and verifier together, in the band or not, `(n,)`.

        It holds for the share of duplicates of the pairs that the combination was learned from.

        Raises:
            ModelError: There is no combination yet.
        """
        return from_log_odds(self._log_odds(texts, left, right, similarity, "auto"))

    def _log_odds(
        self, texts: Sequence[str], left: np.ndarray, right: np.ndarray, similarity: np.ndarray, precision: Precision
    ) -> NDArray[np.float64]:
        """Return the log odds of a duplicate of each pair, from twin and verifier, and from the wording, if learned."""
        combination = self._fitted()
        logits = self.logits(texts, left, right, precision=precision)
        odds = combination.log_odds(similarity, logits)
        if self.wording is None:
            return odds
        evidence = np.stack([similarity, logits], 1).astype(np.float64)
        by_wording = self.wording.probability(*_sides(texts, left, right), evidence)
        return log_odds(np.mean([from_log_odds(odds), *by_wording], 0))

    @property
    def fitted(self) -> bool:
        """Whether it is combined with a twin."""
        return self.combination is not None

    def _fitted(self) -> Combination:
        if self.combination is None:
            raise ModelError("this verifier is not combined with a twin yet: run verifier.fit(pairs, similarity)")
        return self.combination

    def save_pretrained(self, path: str | Path) -> Path:
        """Save the cross-encoder, which plain `CrossEncoder(path)` opens, and the combination beside it."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        if self.model is not None:
            self.model.save_pretrained(str(folder), create_model_card=False)
        combination = None if self.combination is None else asdict(self.combination)
        facts = {"format": _FORMATS[-1], "symmetric": self.symmetric, "combination": combination, "wording": None,
                 "cross_encoder": self.model is not None}  # fmt: skip
        if self.wording is not None:
            facts["wording"] = {"texts": self.wording.texts, "counts": dict(self.wording.counts)}
            save_file(
                {f"{k}.{n}": a for k, one in enumerate(self.wording.trees) for n, a in one.arrays().items()},
                folder / _TREES,
            )
        text = json.dumps(facts, indent=2, ensure_ascii=False)
        (folder / _FILE).write_text(text + "\n", encoding="utf-8")
        return folder

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str | None = None) -> Verifier:
        """Open a saved verifier.

        Raises:
            ModelError: The folder holds none, or its files are damaged.
        """
        file = Path(path) / _FILE
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
            if facts["format"] not in _FORMATS:
                raise ModelError(f"format is {facts['format']!r}, this version reads {_FORMATS[-1]}: update textsiam")
            combination = None if facts["combination"] is None else Combination(**facts["combination"])
            symmetric, wording = facts["symmetric"], None
            if facts["format"] > 1 and facts["wording"] is not None:
                trees = _trees(load_file(file.with_name(_TREES)), prefixed=facts["format"] > 2)
                wording = Wording(facts["wording"]["texts"], facts["wording"]["counts"], trees)
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else error
            raise ModelError(f"{file}: {reason}") from error
        model = cross_encoder(path, device=device) if facts.get("cross_encoder", True) else None
        return cls(model, symmetric=symmetric, combination=combination, wording=wording)


def _sides(texts: Sequence[str], left: np.ndarray, right: np.ndarray) -> tuple[list[str], list[str]]:
    """Return the left and the right texts of pairs."""
    return [texts[int(i)] for i in left], [texts[int(i)] for i in right]


def _trees(arrays: Mapping[str, np.ndarray], *, prefixed: bool) -> tuple[Trees, ...]:
    if not prefixed:
        return (Forest.of_arrays(arrays),)
    own = [{n.removeprefix(f"{k}."): a for n, a in arrays.items() if n.startswith(f"{k}.")} for k in range(len(KINDS))]
    return tuple(kind.of_arrays(of) for kind, of in zip(KINDS, own, strict=True))


def _logistic(features: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Return weights and intercept of a logistic regression on two features; a constant one has weight 0."""
    mean, scale = features.mean(0), np.maximum(features.std(0), 1e-9)
    fitted = LogisticRegression().fit((features - mean) / scale, labels)
    weights = fitted.coef_[0] / scale
    return float(weights[0]), float(weights[1]), float(fitted.intercept_[0] - weights @ mean)


def cross_encoder(
    backbone: str | Path | SentenceTransformer = MINILM,
    *,
    max_tokens: int | None = None,
    seed: int = 0,
    device: str | None = None,
) -> CrossEncoder:
    """Open a cross-encoder with one output, or make one of a backbone: its output layer is new then, drawn by the seed.

    Args:
        backbone: A saved cross-encoder, a transformer or a `SentenceTransformer`, by folder or Hub id;
            all-MiniLM-L6-v2 resolves to the packaged copy where the Hub cache has none. Or a text tower, whose weights
            are copied.
        max_tokens: Cut a pair after this many tokens; None keeps the model's limit.
        seed: Of the new weights.
        device: Where the weights go; None lets torch choose.

    Raises:
        ModelError: The model cannot be found or read.
    """
    if isinstance(backbone, SentenceTransformer):
        with tempfile.TemporaryDirectory() as folder:
            backbone.save_pretrained(folder, create_model_card=False)
            return cross_encoder(folder, max_tokens=max_tokens, seed=seed, device=device)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return CrossEncoder(resolve(backbone), num_labels=1, max_length=max_tokens, device=device)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = str(error).strip().split("\n")[0]
        raise ModelError(f"cannot open the cross-encoder {str(backbone)!r}: {first}") from error
