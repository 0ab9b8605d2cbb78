"""Labelled images: reading, splitting, and drawing pairs and triplets from them."""

from __future__ import annotations

from textsiam.images.medium import holds_images, pair_images, read_images
from textsiam.media.labelled import LabelledFiles as LabelledImages
from textsiam.media.pairs import class_pairs, draw_pairs, draw_triplets, draw_up_to, most_pairs
from textsiam.media.splits import split_classes, split_labelled
from textsiam.media.splits import split_within_classes as split_images

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
