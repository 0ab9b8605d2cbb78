"""Graphs made of a tower's backbone: ONNX by tracing, OpenVINO from it, both in int8 if wanted; ranges for torch."""

from __future__ import annotations

import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from textsiam.inference.encoders import ModelError
from textsiam.inference.fast.activation_ranges import observe, write_ranges
from textsiam.inference.fast.fused_bert import FusedBert, fusable
from textsiam.inference.fast.int8 import check_int8
from textsiam.inference.fast.runtimes import GRAPH_FILES, GraphFormat, require
from textsiam.inference.preprocessed import reads_tokens
from textsiam.inference.tokens import chunk_by_tokens, tokenise

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_CALIBRATION_TEXTS, _CALIBRATION_TOKENS, _RANGE_TOKENS = 300, 128, 1024


class _Backbone(nn.Module):
    """A backbone with plain tensors in and out, as a graph needs it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        # A copy: tracing must not move or change what the user holds.
        self.backbone = copy.deepcopy(backbone).to("cpu", torch.float32).eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.backbone({"input_ids": input_ids, "attention_mask": attention_mask})["token_embeddings"]


def check_exportable(tower: SentenceTransformer, graph_format: GraphFormat, *, int8: bool) -> None:
    """Check that a tower can be exported here, before any work is done.

    Raises:
        ModelError: It is no transformer with plain pooling, or a package is missing; for torch: int8 is not asked for,
            the backbone is not of BERT's shape, or the processor has no fast products of integers.
    """
    if tower.tokenizer is None or not reads_tokens(tower):
        raise ModelError("only a transformer with pooling can be exported; this tower encodes by its own means")
    if graph_format == "torch":
        if not int8:
            raise ModelError("format 'torch' is for int8 only, since a twin runs in torch as it is: add --int8")
        if not fusable(tower[0]):
            model: Any = tower[0].model
            kind = f"{type(model).__name__} with {getattr(model.config, 'hidden_act', 'another activation')}"
            raise ModelError(f"int8 in torch is for a BertModel with gelu on a CPU, not for a {kind} on {model.device}")
        check_int8()
        return
    packages = ["onnx", "onnxscript", "onnxruntime" if graph_format == "onnx" else "openvino"]
    for package in [*packages, "nncf"] if int8 and graph_format == "openvino" else packages:
        require(package, graph_format)


def write_graph(
    tower: SentenceTransformer, folder: Path, graph_format: GraphFormat, *, int8: bool, texts: Sequence[str]
) -> Path:
    """Write the graph of a tower's backbone, for any batch size and text length.

    ONNX in int8 quantises weights per channel when exporting, and activations while running (dynamic). OpenVINO in
    int8 quantises both when exporting (static), with the ranges that activations have on `texts`: slower to
    export, faster to run. For torch the ranges are all that is written: the weights are quantised when it is opened.

    Args:
        tower: A transformer with pooling.
        folder: Where `graph/` is made.
        graph_format: Which runtime the graph is for.
        int8: Whether to quantise it.
        texts: Texts as they will be encoded; OpenVINO and torch in int8 look at the first 300.

    Returns:
        The file of the graph.

    Raises:
        ModelError: The backbone cannot be traced, or a package is missing.
    """
    file = folder / GRAPH_FILES[graph_format]
    file.parent.mkdir(parents=True)
    if graph_format == "torch":
        backbone: Any = tower[0]
        batches = _calibration(tower, texts, _RANGE_TOKENS)
        try:
            write_ranges(file, observe(FusedBert(backbone, torch.float32), batches))
        except ValueError as error:
            raise ModelError(f"the backbone cannot be quantised: {error}") from error
        return file
    with _quiet(), tempfile.TemporaryDirectory() as scratch:
        traced = Path(scratch) / "traced.onnx" if int8 or graph_format != "onnx" else file
        _trace(tower[0], traced)
        if graph_format == "openvino":
            _write_openvino(traced, file, _calibration(tower, texts, _CALIBRATION_TOKENS) if int8 else None)
        elif int8:
            _quantise_onnx(traced, file)
    return file


def _trace(backbone: nn.Module, file: Path) -> None:
    require("onnxscript", "onnx")
    example = torch.tensor([[1, 2, 3], [1, 2, 0]])
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        program = torch.onnx.export(
            _Backbone(backbone),
            (example, (example > 0).long()),
            dynamo=True,
            dynamic_shapes=(dynamic, dynamic),
            input_names=["input_ids", "attention_mask"],
            output_names=["token_embeddings"],
            verbose=False,
        )
    except Exception as error:
        raise ModelError(f"this backbone cannot be traced: {str(error).strip().splitlines()[0]}") from error
    assert program is not None
    program.save(file)


def _quantise_onnx(traced: Path, file: Path) -> None:
    quantization = require("onnxruntime.quantization", "onnx")
    quantization.quantize_dynamic(
        traced,
        file,
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
    )


def _write_openvino(traced: Path, file: Path, calibration: list[dict[str, Tensor]] | None) -> None:
    openvino = require("openvino", "openvino")
    model = openvino.Core().read_model(traced)
    if calibration is not None:
        nncf = require("nncf", "openvino")
        nncf.set_log_level(logging.ERROR)
        model = nncf.quantize(
            model,
            nncf.Dataset([{name: tensor.numpy() for name, tensor in batch.items()} for batch in calibration]),
            subset_size=len(calibration),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
        )
    openvino.save_model(model, file, compress_to_fp16=False)


def _calibration(tower: SentenceTransformer, texts: Sequence[str], budget: int) -> list[dict[str, Tensor]]:
    tokens = tokenise(tower, texts[:_CALIBRATION_TEXTS])
    return [tokens.collate(rows) for rows in chunk_by_tokens(tokens.lengths, budget)]


@contextmanager
def _quiet() -> Iterator[Any]:
    """Keep the chatter of the exporters out of our output: it goes to stdout, to loggers and into warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
