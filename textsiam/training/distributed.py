"""One process or many: the accelerator, and batches gathered so that every process sees the same loss."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import DistributedType, parse_flag_from_env
from accelerate.utils import broadcast as spread
from torch import Tensor

from textsiam.inference.fast.fast_tower import fast_dtype
from textsiam.models.asymmetric import shared_layers
from textsiam.models.twin import Twin
from textsiam.saving import SaveError
from textsiam.training.batches.collation import Batch
from textsiam.training.losses.objective import Embedded
from textsiam.training.settings import Settings


def process_state() -> PartialState:
    """Return which process this is, and of how many."""
    # Accelerate joins processes on CPUs only when it is told that the CPU is meant; else each believes to be alone.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


def launch_notes() -> list[str]:
    """Return in what a launched run is less than it was launched as: on CPUs Accelerate says nothing of it."""
    state, notes = process_state(), list[str]()
    asked = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ  # what it sets for several
    if asked and "WORLD_SIZE" not in os.environ:
        notes.append(
            "accelerate was to launch several processes, and has started one: on CPUs it starts several with "
            "--config_file configs/accelerate/ddp_cpu.yaml"
        )
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and state.device is not None and state.device.type == "cpu":
        notes.append("nothing is sharded: FSDP shards weights over GPUs, and this run is on a CPU")
    return notes


def tracker_of(settings: Settings) -> str:
    """Return the tracker of a run, or "none".

    Raises:
        ValueError: It is none that Accelerate knows, or it is not installed.
    """
    installed = [*map(str, get_available_trackers())]
    name = settings.tracker
    if name == "auto":
        return "tensorboard" if "tensorboard" in installed else "none"
    if name not in ("none", "all", *LOGGER_TYPE_TO_CLASS):
        raise ValueError(f"tracker is {name!r}, expected auto, none, or one of {', '.join(LOGGER_TYPE_TO_CLASS)}")
    if name not in ("none", "all", *installed):
        package = "'textsiam[tracking]'" if name == "tensorboard" else name
        raise ValueError(f"tracker is {name!r}, which is not installed: pip install {package}")
    return name


def make_accelerator(settings: Settings, output: Path) -> Accelerator:
    """Return the accelerator of a run; its number format is the settings', unless the launcher chose one."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"cannot write {output}: {error.strerror or error}") from error
    state, tracker = process_state(), tracker_of(settings)
    mixed = {"fp32": "no"}.get(settings.precision, settings.precision)
    if mixed == "auto":
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        native = fast_dtype(state.device or torch.device("cpu")) == torch.bfloat16
        mixed = launched if launched != "no" else "bf16" if native else "no"
    AcceleratorState._reset_state()  # a run before this one may have used another number format
    return Accelerator(
        mixed_precision=mixed,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        log_with=None if tracker == "none" else tracker,
        project_dir=str(output),
        step_scheduler_with_optimizer=False,
    )


def check_shardable(accelerator: Accelerator, settings: Settings, twin: Twin) -> bool:
    """Return whether a run shards its weights (FSDP).

    Raises:
        ValueError: It does, and asks for what shards cannot do.
    """
    if accelerator.distributed_type != DistributedType.FSDP:
        return False
    if settings.ema_decay is not None:
        raise ValueError("average keeps a mean of whole weights: it cannot be used with FSDP")
    if settings.gradient_cache:  # every call of a shard is a meeting of all processes
        raise ValueError("gradient_cache encodes as many chunks as a process has: it cannot be used with FSDP")
    if twin.lora is not None:
        raise ValueError("adapters are not merged from shards: lora cannot be used with FSDP: use DDP")
    if twin.head is not None:
        raise ValueError("a head is not gathered from shards: it cannot be trained with FSDP")
    if shared_layers(twin.left, twin.right) is not None:  # a shard has one owner
        raise ValueError("the sides of this asymmetric twin share layers, which FSDP cannot shard: use DDP")
    return True


def gather_batch(accelerator: Accelerator, batch: Batch, left: Tensor, right: Tensor) -> Embedded:
    """Return the pairs of all processes, in order of rank; gradients flow into this process's own rows.

    Every process computes the loss of the whole batch, but differentiates the towers for its own rows only, and the
    gradients are averaged: a factor on them turns that mean back into the sum. (Weights of a loss get the whole
    gradient on every process, and their mean is right as it is.)
    """
    world = accelerator.num_processes

    def everywhere(own: Tensor) -> Tensor:
        if world == 1:
            return own
        if own.requires_grad:
            own.register_hook(lambda gradient: gradient * world)
        parts = list(accelerator.gather(own.detach()[None]))  # pyright: ignore[reportArgumentType]
        parts[accelerator.process_index] = own
        return torch.cat(parts)

    return Embedded(
        u=everywhere(left[batch.left_rows]),
        v=everywhere(right[batch.right_rows]),
        negative=None if batch.negative_rows is None else everywhere(right[batch.negative_rows]),
        labels=everywhere(batch.labels),
        left_clusters=everywhere(batch.left_clusters),
        right_clusters=everywhere(batch.right_clusters),
        shared=batch.right is None,
        negative_clusters=None if batch.negative_clusters is None else everywhere(batch.negative_clusters),
        again=None if batch.again_rows is None else everywhere(left[batch.again_rows]),
        taught=None if batch.taught is None else (everywhere(batch.taught[0]), everywhere(batch.taught[1])),
        part=batch.part,
    )


def broadcast(accelerator: Accelerator, value: Tensor) -> Tensor:
    """Return the main process's value on every process."""
    return value if accelerator.num_processes == 1 else spread(value.to(accelerator.device))  # pyright: ignore
