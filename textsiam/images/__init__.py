"""Labelled images: reading, splitting, and drawing pairs and triplets from them."""

from __future__ import annotations

from textsiam.images.files import holds_images
from textsiam.images.labelled import LabelledImages
from textsiam.images.pairs import class_pairs, draw_pairs, draw_triplets, draw_up_to, most_pairs, pair_images
from textsiam.images.readers import read_images
from textsiam.images.splits import split_classes, split_images, split_labelled

__all__ = [
    "LabelledImages",
    "class_pairs",
    "draw_pairs",
    "draw_triplets",
    "draw_up_to",
    "holds_images",
    "most_pairs",
    "pair_images",
    "read_images",
    "split_classes",
    "split_images",
    "split_labelled",
]
