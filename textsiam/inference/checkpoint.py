"""Whether a checkpoint held the weights that a backbone reads: those that it lacks are random, without a word."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from transformers import AutoModel, PreTrainedModel

from textsiam.inference.inputs import inputs_of_backbone


def complete_weights(tower: SentenceTransformer, *, trust_remote_code: bool = False) -> None:
    """Refuse a tower with weights that its vectors depend on and no checkpoint holds.

    A pooler or a head that nothing reads may lack. sentence-transformers opens some families (Blenderbot, M2M-100,
    Marian, Pegasus, ProphetNet) as an encoder that does not find its weights in a checkpoint of encoder and decoder:
    it is given them.

    Raises:
        ValueError: Weights lack, or the backbone cannot run on such inputs alone; the message says which.
    """
    for backbone in tower.modules():
        if not isinstance(backbone, Transformer) or not isinstance(backbone.model, PreTrainedModel):
            continue
        if lacking := _lacking(backbone):
            given = {"output_loading_info": True, "trust_remote_code": trust_remote_code}
            whole, info = AutoModel.from_pretrained(str(backbone.model.name_or_path), **given)
            encoder = whole.get_encoder() if backbone.config.is_encoder_decoder else None
            if encoder is not None and type(encoder) is type(backbone.model):
                lacking = [name for name in lacking if f"encoder.{name}" in info["missing_keys"]]
                backbone.model.load_state_dict(encoder.state_dict())
        if lacking:
            raise ValueError(
                f"its checkpoint lacks {len(lacking):,} weights that {type(backbone.model).__name__} reads, such as "
                f"{lacking[0]}: they would be random"
            )


def _lacking(backbone: Any) -> list[str]:
    """Return the weights that a backbone reads, and that were not in its checkpoint.

    Transformers marks what it has loaded. What it has not is looked up once more in its own account of the checkpoint.
    """
    model = backbone.model
    rest = {n: p for n, p in model.named_parameters() if p.requires_grad and not hasattr(p, "_is_hf_initialized")}
    if not rest and not model.config.is_encoder_decoder:
        return []
    features = backbone.preprocess([inputs_of_backbone(backbone).example(backbone)])
    features = {k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
    try:
        with torch.enable_grad():
            seen = backbone(features)[backbone.module_output_name]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{type(model).__name__} gives no vectors of one input alone: {error}") from error
    if not rest or not seen.requires_grad:
        return []
    read = torch.autograd.grad(seen.float().sum(), [*rest.values()], allow_unused=True)
    names = [name for name, gradient in zip(rest, read, strict=True) if gradient is not None]
    if not names:
        return []
    _, info = type(model).from_pretrained(model.name_or_path, config=model.config, output_loading_info=True)
    absent = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    return [name for name in names if name in absent]
