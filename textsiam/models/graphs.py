"""Graphs made of a tower's backbone: ONNX by tracing, OpenVINO from it, both in int8 if wanted."""

from __future__ import annotations

import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from textsiam.models.encoders import ModelError
from textsiam.models.fast_tower import FastTower
from textsiam.models.runtimes import GRAPH_FILES, GraphFormat, require
from textsiam.models.tokens import chunk_by_tokens, tokenise

_CALIBRATION_TEXTS, _CALIBRATION_TOKENS = 300, 128


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
        ModelError: It is no transformer with plain pooling, or a package is missing.
    """
    if tower.tokenizer is None or not FastTower(tower, torch.float32).supported:
        raise ModelError("only a transformer with pooling can be exported; this tower encodes by its own means")
    packages = ["onnx", "onnxscript", "onnxruntime" if graph_format == "onnx" else "openvino"]
    for package in [*packages, "nncf"] if int8 and graph_format == "openvino" else packages:
        require(package, graph_format)


def write_graph(
    tower: SentenceTransformer, folder: Path, graph_format: GraphFormat, *, int8: bool, texts: Sequence[str]
) -> Path:
    """Write the graph of a tower's backbone, for any batch size and text length.

    ONNX in int8 quantises weights per channel when exporting, and activations while running (dynamic). OpenVINO in
    int8 quantises both when exporting (static), with the ranges that activations have on `texts`: slower to
    export, faster to run.

    Args:
        tower: A transformer with pooling.
        folder: Where `graph/` is made.
        graph_format: Which runtime the graph is for.
        int8: Whether to quantise it.
        texts: Texts as they will be encoded; OpenVINO in int8 looks at the first 300.

    Returns:
        The file of the graph.

    Raises:
        ModelError: The backbone cannot be traced, or a package is missing.
    """
    file = folder / GRAPH_FILES[graph_format]
    file.parent.mkdir(parents=True)
    with _quiet(), tempfile.TemporaryDirectory() as scratch:
        if graph_format == "onnx" and not int8:
            _trace(tower[0], file)
            return file
        traced = Path(scratch) / "traced.onnx"
        _trace(tower[0], traced)
        if graph_format == "onnx":
            _quantise_onnx(traced, file)
        else:
            _write_openvino(traced, file, _calibration(tower, texts) if int8 else None)
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


def _write_openvino(traced: Path, file: Path, calibration: list[dict[str, np.ndarray]] | None) -> None:
    openvino = require("openvino", "openvino")
    model = openvino.Core().read_model(traced)
    if calibration is not None:
        nncf = require("nncf", "openvino")
        nncf.set_log_level(logging.ERROR)
        model = nncf.quantize(
            model,
            nncf.Dataset(calibration),
            subset_size=len(calibration),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
        )
    openvino.save_model(model, file, compress_to_fp16=False)


def _calibration(tower: SentenceTransformer, texts: Sequence[str]) -> list[dict[str, np.ndarray]]:
    tokens = tokenise(tower, texts[:_CALIBRATION_TEXTS])
    chunks = chunk_by_tokens(tokens.lengths, _CALIBRATION_TOKENS)
    return [{name: tensor.numpy() for name, tensor in tokens.collate(rows).items()} for rows in chunks]


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
