"""Faces of people never seen: a tower of pretrained weights, for twins of textsiam."""

from pretrained_faces.mobilenet import FirstBlocks, FirstBlocksConfig, imagenet_tower, weights_file, with_weights

__all__ = ["FirstBlocks", "FirstBlocksConfig", "imagenet_tower", "weights_file", "with_weights"]
