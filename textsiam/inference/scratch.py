"""Towers without pretrained weights: a small BERT whose vocabulary is learned, small CNNs for images and sounds."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import punctuation
from typing import TYPE_CHECKING, Any
from unicodedata import category

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from textsiam.images.pooling import GridPooling
from textsiam.inference.encoders import SMALLEST_SIDE, ModelError, rebuilt

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def scratch_text_encoder(
    corpus: Iterable[str],
    *,
    vocabulary: int = 8192,
    hidden: int = 128,
    layers: int = 2,
    heads: int = 2,
    dim: int | None = None,
    max_tokens: int = 128,
    seed: int = 0,
    device: str | None = None,
) -> SentenceTransformer:
    """Build a text tower without pretrained weights: WordPiece learned from `corpus`, a small random BERT.

    Args:
        corpus: Texts that the vocabulary is learned from.
        vocabulary: Largest number of word pieces.
        hidden: Width of the transformer; a multiple of `heads`.
        layers: Number of transformer layers.
        heads: Number of attention heads.
        dim: Project to this many dimensions. None keeps `hidden`.
        max_tokens: Longest text, in tokens.
        seed: Seed of the initial weights.
        device: Where the weights go; None lets torch choose.

    Raises:
        ModelError: `hidden` is not a multiple of `heads`, or the corpus is empty.
    """
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast  # pyright: ignore

    if hidden % heads:
        raise ModelError(f"hidden must be a multiple of heads, got {hidden} and {heads}")
    pieces = BertWordPieceTokenizer(_learn_vocabulary(list(corpus), vocabulary), lowercase=True)
    config = BertConfig(
        vocab_size=pieces.get_vocab_size(),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=max_tokens,
    )
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        _write(BertModel(config), folder)
        tokenizer = BertTokenizerFast(tokenizer_object=pieces._tokenizer, model_max_length=max_tokens)
        tokenizer.save_pretrained(folder)
        backbone = Transformer(folder, max_seq_length=max_tokens)
        return _tower(backbone, dim, seed + 1, device)


def scratch_image_encoder(
    *,
    size: int = 28,
    channels: int = 1,
    widths: Sequence[int] = (32, 64, 128),
    depths: Sequence[int] = (1, 1, 1),
    grid: Sequence[int] | None = None,
    dim: int | None = None,
    seed: int = 0,
    device: str | None = None,
) -> SentenceTransformer:
    """Build a small image tower without pretrained weights: a ResNet of basic blocks (He et al. 2016).

    Its stem divides the side by four, and each stage after the first by two: 28 pixels become 7, 4 and 2. Images are
    resized to a square, and their values brought to [-1, 1].

    Args:
        size: Side of the square, in pixels.
        channels: 1 for grey, 3 for colour.
        widths: Channels of each stage.
        depths: Blocks of each stage.
        grid: Rows and columns of a grid, each of whose cells is averaged by itself (`GridPooling`); None averages the
            whole feature map.
        dim: Project to this many dimensions. None keeps the last width, as often as there are cells.
        seed: Seed of the initial weights.
        device: Where the weights go; None lets torch choose.

    Raises:
        ModelError: A size that does not fit.
    """
    from transformers import ResNetConfig, ResNetModel

    if channels not in (1, 3):
        raise ModelError(f"channels must be 1 (grey) or 3 (colour), got {channels}")
    if size < SMALLEST_SIDE:
        raise ModelError(f"size must be >= {SMALLEST_SIDE} pixels, got {size}")
    _check_stages(widths, depths)
    if grid is not None and (len(grid) != 2 or min(grid) < 1):
        raise ModelError(f"grid must be two numbers >= 1, rows and columns, got {list(grid)}")
    config = ResNetConfig(
        num_channels=channels,
        embedding_size=widths[0],
        hidden_sizes=list(widths),
        depths=list(depths),
        layer_type="basic",
        downsample_in_first_stage=False,
    )
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": False,
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * channels,
        "image_std": [0.5] * channels,
    }
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        _write(ResNetModel(config), folder)
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(processor))
        return _tower(Transformer(folder), dim, seed + 1, device, grid)


def scratch_sound_encoder(
    *,
    rate: int = 16_000,
    bands: int = 40,
    widths: Sequence[int] = (32, 64, 128),
    depths: Sequence[int] = (1, 1, 1),
    dim: int | None = None,
    seed: int = 0,
    device: str | None = None,
) -> SentenceTransformer:
    """Build a small sound tower without pretrained weights: log-mel spectrogram, a CNN, mean over time.

    Args:
        rate: Samples a second that sounds are resampled to.
        bands: Mel bands of the spectrogram.
        widths: Channels of each stage; each halves time and frequency.
        depths: Blocks of each stage.
        dim: Project to this many dimensions. None keeps the last width.
        seed: Seed of the initial weights.
        device: Where the weights go; None lets torch choose.

    Raises:
        ModelError: A size that does not fit.
    """
    from textsiam.sounds.encoder import LogMelCNN

    if not 4000 <= rate <= 96_000:
        raise ModelError(f"rate must be from 4000 to 96000 samples a second, got {rate}")
    _check_stages(widths, depths)
    if not 1 <= bands <= rate // 100:
        raise ModelError(f"bands must be from 1 to {rate // 100} at {rate} samples a second, got {bands}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _tower(LogMelCNN(rate, bands, widths, depths), dim, seed + 1, device)


def _check_stages(widths: Sequence[int], depths: Sequence[int]) -> None:
    if len(widths) != len(depths) or not widths:
        raise ModelError(f"widths and depths are given for each stage, got {len(widths)} and {len(depths)}")
    if min(*widths, *depths) < 1:
        raise ModelError(f"widths and depths must be >= 1, got {tuple(widths)} and {tuple(depths)}")


def _write(model: PreTrainedModel, folder: str) -> None:
    """Write a model. Not by its own `save_pretrained`: in a distributed run that writes on the first process only."""
    from safetensors.torch import save_file

    model.config.save_pretrained(folder)
    save_file(model.state_dict(), Path(folder) / "model.safetensors", metadata={"format": "pt"})


def _tower(
    backbone: Any, dim: int | None, seed: int, device: str | None, grid: Sequence[int] | None = None
) -> SentenceTransformer:
    """Return a tower with mean pooling, over all or by cells, on a backbone; the seed draws its projection."""
    width = backbone.get_embedding_dimension()
    pooling = Pooling(width, pooling_mode="mean") if grid is None else GridPooling(width, *grid)
    plain = SentenceTransformer(modules=[backbone, pooling], device="cpu")
    torch.manual_seed(seed)
    return rebuilt(plain, None, dim, device)


def _learn_vocabulary(corpus: list[str], size: int) -> dict[str, int]:
    """Learn word pieces, the same ones in the same order on every call: runs on other processes depend on it.

    The trainer numbers letters inside words in the order of a randomly seeded hash table, and breaks ties by number.
    So it is told all letters beforehand: as its alphabet, and as tokens that come first.
    """
    from tokenizers import BertWordPieceTokenizer

    pieces = BertWordPieceTokenizer(lowercase=True)
    normalise = pieces.normalizer.normalize_str
    counts = Counter(letter for text in corpus for letter in normalise(text) if not letter.isspace())
    letters = sorted(sorted(counts, key=lambda letter: (-counts[letter], letter))[:1000])
    if not letters:
        raise ModelError("the corpus for the vocabulary is empty")
    inside = [f"##{letter}" for letter in letters if letter not in punctuation and category(letter)[0] != "P"]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces.train_from_iterator(
        corpus,
        vocab_size=size,
        min_frequency=1,
        limit_alphabet=len(letters),
        initial_alphabet=letters,
        special_tokens=special + inside,
        show_progress=False,
    )
    return pieces.get_vocab()
