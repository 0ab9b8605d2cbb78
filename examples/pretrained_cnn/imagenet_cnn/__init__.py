"""A CNN that knows ImageNet, for twins of textsiam: faces and signatures of people never seen."""

from imagenet_cnn.mobilenet import FirstBlocks, FirstBlocksConfig, imagenet_tower, weights_file, with_weights

__all__ = ["FirstBlocks", "FirstBlocksConfig", "imagenet_tower", "weights_file", "with_weights"]
