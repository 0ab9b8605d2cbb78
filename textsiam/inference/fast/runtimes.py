"""Exported graphs of a twin's towers: opened by a runtime, and run in place of the torch backbone."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from textsiam.inference.cache import weights_digest
from textsiam.inference.encoders import ModelError, inputs_of
from textsiam.inference.fast.activation_ranges import read_ranges
from textsiam.inference.fast.fast_tower import FastTower, Weights, fast_dtype
from textsiam.inference.fast.int8 import Int8Bert, check_int8

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

GraphFormat = Literal["onnx", "openvino", "torch"]
Run = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From `input_ids` and `attention_mask`, `(batch, length)` int64, to token embeddings, `(batch, length, dim)`."""

GRAPH_FILES: dict[str, str] = {
    "onnx": "graph/model.onnx",
    "openvino": "graph/model.xml",
    "torch": "graph/ranges.safetensors",
}
"""Where a graph lies in the folder of its tower; what else is in `graph/` belongs to it. For torch the
ranges of activations are enough: the rest is in the weights."""


def require(module: str, extra: GraphFormat) -> Any:
    """Import a module of an optional extra, without what it would tell others about it.

    Raises:
        ModelError: It is not installed; the message says how to install it.
    """
    # openvino and nncf report their use to a server from their first import on, unless they believe to be in CI.
    before = {name: os.environ.get(name) for name in ("CI", "NNCF_CI")}
    os.environ.update(CI="true", NNCF_CI="1")
    try:
        return import_module(module)
    except ImportError as error:
        raise ModelError(f"{module.split('.')[0]} is not installed: pip install 'textsiam[{extra}]'") from error
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class RuntimeTower(FastTower):
    """A tower whose backbone is an exported graph; pooling and normalisation stay in torch.

    Every worker of `encode` runs its batches on one thread: the cores never wait for one another inside a layer.

    Args:
        tower: The tower that the graph was exported from.
        file: The graph.
        graph_format: Which runtime opens it.
        dtype: Number format of what is not int8. None lets the hardware decide; ONNX Runtime knows float32 only.

    Raises:
        ModelError: The runtime is not installed, or it cannot open the graph.
    """

    def __init__(
        self, tower: SentenceTransformer, file: Path, graph_format: GraphFormat, *, dtype: torch.dtype | None = None
    ) -> None:
        # Not FastTower's: that one copies the torch weights, which are not needed here.
        self.tower = self.source = tower
        self.inputs = inputs_of(tower)
        self.replicas: list[FastTower] = []
        self.file = file.resolve()  # also once the working directory is another
        self.graph_format = graph_format
        self.backbone: nn.Module = tower[0]
        self.dtype = dtype or fast_dtype(torch.device("cpu"))
        self._weights = Weights(tower)
        opened = {"onnx": _open_onnx, "openvino": _open_openvino, "torch": _open_torch}[graph_format]
        try:
            self._run = opened(tower, file, self.dtype)
        except ModelError:
            raise
        except Exception as error:  # of every type, as the runtimes have their own
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[-1] if lines else type(error).__name__
            raise ModelError(f"{file}: cannot open the graph ({reason}): export the twin again") from error

    @property
    def number_format(self) -> str:
        """What vectors of the same weights differ by: the graph itself, since quantised ones differ in their ranges."""
        return f"{self.graph_format} {self._graph_digest[:16]} {self.dtype}"

    @cached_property
    def _graph_digest(self) -> str:
        digest = hashlib.sha256()
        for file in sorted(self.file.parent.iterdir()):
            digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()

    @property
    def stale(self) -> bool:
        """Whether the torch weights have changed since the graph was opened."""
        return self._weights.changed

    def __call__(self, features: dict[str, Tensor]) -> Tensor:
        """Return the embeddings of one padded batch, `(batch, dim)` float32."""
        ids, mask = (features[name].cpu().numpy() for name in ("input_ids", "attention_mask"))
        state: dict[str, Tensor] = dict(features)
        state["token_embeddings"] = torch.from_numpy(self._run(ids, mask))
        for module in list(self.tower)[1:]:
            state = module(state)
        return state["sentence_embedding"]


@dataclass(frozen=True, eq=False)
class Backend:
    """The exported graphs of a twin.

    Attributes:
        graph_format: Which runtime they are for.
        int8: Whether they are quantised.
        fingerprints: What each graph was exported from, in the order of the twin's towers.
        towers: The opened graphs, in the same order.
    """

    graph_format: GraphFormat
    int8: bool
    fingerprints: tuple[str, ...]
    towers: tuple[RuntimeTower, ...]

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Make None of a copy: the copy of a twin has weights of its own, which go on in torch."""
        return type(None), ()

    @property
    def stale(self) -> bool:
        """Whether the torch weights have changed: the graphs then show an older twin."""
        return any(tower.stale for tower in self.towers)

    def save(self, folder: Path, places: Sequence[str]) -> dict[str, Any]:
        """Copy the graphs into the folders of their towers; returns what `open_backend` needs to know."""
        for place, tower in zip(places, self.towers, strict=True):
            shutil.copytree(tower.file.parent, folder / place / tower.file.parent.name)
        return {
            "format": self.graph_format,
            "int8": self.int8,
            "file": GRAPH_FILES[self.graph_format],
            "weights_sha256": list(self.fingerprints),
        }


def open_graphs(
    folder: Path, graph_format: GraphFormat, *, int8: bool, places: Sequence[str], towers: Sequence[SentenceTransformer]
) -> Backend:
    """Open the graphs of towers, whatever weights they were made of.

    Args:
        folder: The folder of the twin.
        graph_format: Which runtime the graphs are for.
        int8: Whether they are quantised.
        places: The folder of each tower, inside `folder`.
        towers: The towers.

    Raises:
        ModelError: The runtime is not installed, or cannot open a graph.
    """
    # What int8 graphs of other runtimes do not multiply as integers stays in float32.
    dtype = torch.float32 if int8 and graph_format != "torch" else None
    return Backend(
        graph_format,
        int8,
        tuple(weights_digest(tower[0]) for tower in towers),
        tuple(
            RuntimeTower(tower, folder / place / GRAPH_FILES[graph_format], graph_format, dtype=dtype)
            for place, tower in zip(places, towers, strict=True)
        ),
    )


def open_backend(
    folder: Path, facts: Mapping[str, Any], places: Sequence[str], towers: Sequence[SentenceTransformer]
) -> Backend:
    """Open the graphs of a saved twin, as `Backend.save` described them.

    Raises:
        ModelError: They are not those of the weights, or cannot be opened; the message says what to do.
    """
    if {"format", "int8", "weights_sha256"} - set(facts) or facts["format"] not in GRAPH_FILES:
        raise ModelError(f"{folder}: 'backend' in textsiam.json is damaged: export the twin again")
    backend = open_graphs(folder, facts["format"], int8=bool(facts["int8"]), places=places, towers=towers)
    if list(backend.fingerprints) != facts["weights_sha256"]:
        raise ModelError(
            f"{folder}: the weights have changed since the {facts['format']} graph was exported: export the twin "
            "again, or take 'backend' out of textsiam.json to use the weights as they are"
        )
    return backend


def _open_onnx(tower: SentenceTransformer, file: Path, dtype: torch.dtype) -> Run:
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # each caller brings its own thread
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


def _open_openvino(tower: SentenceTransformer, file: Path, dtype: torch.dtype) -> Run:
    openvino, threads = require("openvino", "openvino"), torch.get_num_threads()
    knobs = {
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
        "NUM_STREAMS": str(threads),
        "INFERENCE_NUM_THREADS": threads,
    }
    # In a thread of its own: OpenVINO gives the thread that compiles a stack for signals, and takes stacks back in the
    # wrong order where several graphs are open: the next Ctrl-C would end in freed memory.
    with ThreadPoolExecutor(1) as apart:
        compiled = apart.submit(openvino.Core().compile_model, str(file), "CPU", knobs).result()
    own = threading.local()

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        own.request.infer({"input_ids": ids, "attention_mask": mask}, share_inputs=True)
        return own.request.get_output_tensor(0).data.copy()

    return run


def _open_torch(tower: SentenceTransformer, file: Path, dtype: torch.dtype) -> Run:
    if tower.device.type != "cpu":
        return _not_here  # the twin encodes with its weights there
    check_int8()
    backbone: Any = tower[0]
    bert = Int8Bert(backbone, read_ranges(file), dtype)

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        with torch.inference_mode():
            return bert(features)["token_embeddings"].numpy()

    return run


def _not_here(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    raise ModelError("int8 in torch runs on a CPU only")
