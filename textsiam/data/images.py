"""Labelled images: reading, splitting, and drawing pairs and triplets from them."""

from __future__ import annotations

from textsiam.data.image_files import holds_images
from textsiam.data.image_pairs import class_pairs, draw_pairs, draw_triplets, draw_up_to, most_pairs, pair_images
from textsiam.data.image_readers import read_images
from textsiam.data.image_sets import LabelledImages
from textsiam.data.image_splits import split_classes, split_images, split_labelled

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
