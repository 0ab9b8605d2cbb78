"""Train a reranker on labelled pairs with sentence-transformers' trainer, and let it label pairs as a teacher."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from textsiam.data.pairs import Pairs
from textsiam.data.tables.columns import NOUNS
from textsiam.inference.batching import Progress
from textsiam.inference.encoders import MINILM
from textsiam.inference.fast.fast_tower import fast_dtype
from textsiam.inference.opening import positions_of
from textsiam.rerank.base import BaseReranker
from textsiam.rerank.cross_encoder import Reranker, cross_encoder
from textsiam.rerank.lexical_reranker import LexicalReranker
from textsiam.rerank.trees import require_trees
from textsiam.training.batches.sampling import labelled
from textsiam.training.settings import LEXICAL, RerankerSettings

_POOL = 50  # batches that are sorted by length together


def train_reranker(
    pairs: Pairs,
    settings: RerankerSettings | None = None,
    *,
    tower: SentenceTransformer | None = None,
    symmetric: bool = True,
    seed: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
) -> Reranker | LexicalReranker:
    """Fine-tune a cross-encoder on labelled pairs; the same seed gives the same weights.

    Args:
        pairs: Labelled pairs to learn from.
        settings: The knobs; None takes the defaults.
        tower: What the cross-encoder is made of where the settings name no model. That of a twin trained on the
            same pairs knows half of the work already; None takes all-MiniLM-L6-v2.
        symmetric: Whether the order of a pair means nothing; half of the pairs are turned round then.
        seed: Of the new weights, the order of the pairs and dropout.
        device: Where to train; None lets torch choose.
        progress: Called as `progress(done, total)`, in pairs of all epochs.

    Returns:
        A reranker that is not combined with a twin yet: see `BaseReranker.fit`.

    Raises:
        ValueError: The pairs do not hold both labels, or are of images; or the training has diverged.
        ModelError: The cross-encoder cannot be opened; or lexical features are to be learned without LightGBM.
    """
    settings = settings or RerankerSettings()
    check_trainable(pairs, settings)
    if settings.model == LEXICAL:
        return LexicalReranker()
    model = _opened(settings, tower, seed=seed, device=device)
    on = torch.device(model.device)
    turned = np.random.default_rng(seed).random(len(pairs)) < 0.5 if symmetric else np.zeros(len(pairs), bool)
    sides = np.where(turned, pairs.right, pairs.left), np.where(turned, pairs.left, pairs.right)
    left, right = ([pairs.texts[i] for i in side] for side in sides)
    dataset = Dataset.from_dict({"left": left, "right": right, "label": pairs.labels.astype(np.float32)})
    with tempfile.TemporaryDirectory() as folder:
        arguments = CrossEncoderTrainingArguments(
            output_dir=folder,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            weight_decay=0.01,
            warmup_steps=0.1,
            bf16=fast_dtype(on) == torch.bfloat16,
            use_cpu=on.type == "cpu",
            batch_sampler=partial(ByLength, duplicate_share=settings.duplicate_share),
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        loss = BinaryCrossEntropyLoss(model)
        trainer = CrossEncoderTrainer(model=model, args=arguments, train_dataset=dataset, loss=loss)
        trainer.remove_callback(PrinterCallback)  # standard output is for results
        if progress is not None:
            trainer.add_callback(_Steps(progress, round(settings.epochs * len(pairs))))
        trainer.train()
    if not all(weights.isfinite().all() for weights in model.parameters()):
        raise ValueError(
            "the training of the reranker has diverged: its weights are no finite numbers; lower its learning_rate"
            f" ({settings.learning_rate:g})"
        )
    return Reranker(model.eval(), symmetric=symmetric)


def check_trainable(pairs: Pairs, settings: RerankerSettings) -> None:
    """Check that a reranker can learn from pairs, before a twin is trained for it.

    Raises:
        ValueError: The pairs do not hold both labels, or are of images.
        ModelError: Lexical features are to be learned, and LightGBM is not installed.
    """
    if settings.lexical_features:
        require_trees()
    if not pairs.both_labels:
        raise ValueError(f"{pairs.source}: a reranker learns from pairs of both labels, 0 and 1")
    if pairs.modality != "text":
        kind = NOUNS[pairs.modality]
        raise ValueError(f"{pairs.source}: a reranker reads both texts of a pair at once, these are {kind}")


def check_readable(settings: RerankerSettings, tower: SentenceTransformer | None = None) -> None:
    """Check that a reranker's model can be opened, before anything is trained.

    Args:
        settings: Name the model, if they do.
        tower: What it is made of where they name none; None leaves that for later.

    Raises:
        ModelError: It cannot, or it has fewer positions than `max_tokens`; or LightGBM is to be used and not there.
    """
    if settings.lexical_features:
        require_trees()
    if settings.model != LEXICAL and (settings.model is None) == (tower is not None):
        _opened(settings, tower, device="cpu")


def _opened(
    settings: RerankerSettings, tower: SentenceTransformer | None, *, seed: int = 0, device: str | None = None
) -> CrossEncoder:
    """Return the cross-encoder that training begins with; the default limit gives way to fewer positions."""
    start = (MINILM if tower is None else tower) if settings.model is None else settings.model
    default = RerankerSettings.max_tokens
    asked = None if settings.max_tokens == default else settings.max_tokens
    model = cross_encoder(start, max_tokens=asked, seed=seed, device=device)
    if settings.max_tokens is not None and asked is None:
        model.max_seq_length = min(settings.max_tokens, positions_of(model[0]) or settings.max_tokens)
    return model


class _Steps(TrainerCallback):
    """Say how many of the pairs of a training are done."""

    def __init__(self, progress: Progress, pairs: int) -> None:
        self._progress, self._pairs = progress, pairs

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._progress(round(self._pairs * state.global_step / state.max_steps), self._pairs)


class ByLength(DefaultBatchSampler):
    """Batches of pairs of similar length, in an order that seed and epoch fix.

    Every pair comes once an epoch; with `duplicate_share` as many pairs come, those of the rarer label more often.
    """

    def __init__(self, *given: Any, duplicate_share: float | None = None, **named: Any) -> None:
        super().__init__(*given, **named)
        self.duplicate_share = duplicate_share

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the rows of each batch."""
        columns = ("left", "right")
        lengths = np.sum([[len(text) for text in self.sampler[name]] for name in columns], axis=0)  # pyright: ignore
        rng = np.random.default_rng([self.seed, self.epoch])
        order, pool = rng.permutation(self._rows(len(lengths))), _POOL * self.batch_size
        pools = (order[start : start + pool] for start in range(0, len(order), pool))
        order = np.concatenate([rows[np.argsort(lengths[rows], kind="stable")] for rows in pools])
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        for place in rng.permutation(len(batches)):
            yield batches[place].tolist()

    def _rows(self, count: int) -> np.ndarray:
        if self.duplicate_share is None:
            return np.arange(count)
        labels, duplicates = np.asarray(self.sampler["label"]), round(self.duplicate_share * count)  # pyright: ignore
        counts = {1: duplicates, 0: count - duplicates}
        return np.concatenate([labelled(labels, y, n, self.epoch, self.seed) for y, n in counts.items()])


def label_pairs(reranker: BaseReranker, pairs: Pairs, similarity: np.ndarray, *, confidence: float = 0.9) -> Pairs:
    """Label pairs where twin and reranker together are sure, and leave the others out: the reranker as a teacher.

    Args:
        reranker: Combined with the twin that the similarities come from.
        pairs: Mined pairs; labels that they have are ignored.
        similarity: The twin's own similarity of each pair, `(n,)`.
        confidence: Least probability of the label; in (0.5, 1).

    Raises:
        ModelError: The reranker is not combined with a twin yet.
        ValueError: The confidence is not in (0.5, 1).
    """
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence must be between 0.5 and 1, got {confidence}")
    probability = reranker.probability(pairs.texts, pairs.left, pairs.right, similarity)
    labelled = replace(pairs, labels=(probability >= 0.5).astype(np.int8), source=f"{pairs.source}, labelled")
    return labelled.select(np.maximum(probability, 1 - probability) >= confidence)
